//! What each command takes. The help texts are the first documentation that people see.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

use crate::client::{CertificateHash, Transport};
use crate::config::Secret;
use crate::domain::{ChannelName, DeviceId, Offset, SessionId, TenantId, UserId};
use crate::protocol::Codec;

use super::lifetime::Lifetime;
use super::plugin::{PLUGIN_EXAMPLES, PluginArgs};

/// Push messages to WebSocket clients from Redis Streams.
///
/// Without a command this is `tidegate dev`: a node with everything in one process, to try things out.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    dev: NodeArgs,
}

const EXAMPLES: &str = "\
Try it, in three terminals:
  tidegate
  tidegate client --channel room:1
  tidegate publish --key demo-key --channel room:1 '{\"hello\": \"world\"}'

Exit codes: 0 done, 1 failed while running, 2 wrong usage or configuration.";

impl Cli {
    /// The command; `dev` without one.
    pub fn into_command(self) -> Command {
        match self.command.unwrap_or(Command::Dev(self.dev)) {
            Command::Dev(args) => Command::Dev(NodeArgs { demo: true, ..args }),
            other => other,
        }
    }
}

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a node for development: embedded backbone, demo tenant, live page.
    ///
    /// No configuration is needed. The demo tenant's keys are public: do not put this on the internet.
    #[command(after_help = DEV_EXAMPLES)]
    Dev(NodeArgs),
    /// Run a node.
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(NodeArgs),
    /// Check a configuration file and say everything that is wrong with it.
    #[command(after_help = CHECK_CONFIG_EXAMPLES)]
    CheckConfig(CheckConfigArgs),
    /// Make a token for a client.
    #[command(after_help = TOKEN_EXAMPLES)]
    Token(TokenArgs),
    /// Connect as a client and print the messages.
    #[command(after_help = CLIENT_EXAMPLES)]
    Client(ClientArgs),
    /// Publish a message over HTTP, to one channel or to many.
    #[command(after_help = PUBLISH_EXAMPLES)]
    Publish(PublishArgs),
    /// Look at dead letters, send them again, or remove them.
    #[command(after_help = DLQ_EXAMPLES)]
    Dlq(DlqArgs),
    /// Write, build and try plugins, upload them, switch their versions, and see what they do.
    #[command(after_help = PLUGIN_EXAMPLES)]
    Plugin(PluginArgs),
    /// End sessions on a node; their clients are told not to come back with them.
    ///
    /// Sessions of the one node that is asked are found, not those of other nodes.
    #[command(after_help = KICK_EXAMPLES)]
    Kick(KickArgs),
    /// Send a node's clients elsewhere and end it, as SIGTERM does.
    #[command(after_help = DRAIN_EXAMPLES)]
    Drain(DrainArgs),
    /// Compile a plugin, as a node has a process of its own do.
    #[command(hide = true)]
    CompilePlugin(CompilePluginArgs),
}

/// `tidegate compile-plugin`: for nodes to call, not for people.
#[derive(Debug, Clone, Args)]
pub struct CompilePluginArgs {
    /// The component.
    #[arg(long)]
    pub input: PathBuf,
    /// Where machine code goes.
    #[arg(long)]
    pub output: PathBuf,
    /// Memory that it may take.
    #[arg(long)]
    pub memory_bytes: u64,
    /// Seconds of a processor that it may take.
    #[arg(long)]
    pub seconds: u64,
}

const DEV_EXAMPLES: &str = "\
Examples:
  tidegate dev
  tidegate dev --listen 127.0.0.1:9000 --log-level debug
  redis-cli -p 6380 XADD tg:demo:ch:room:1 '*' data hello";

const SERVE_EXAMPLES: &str = "\
Examples:
  tidegate serve --config /etc/tidegate.toml
  TIDEGATE_REDIS_URL=redis://:password@redis:6379 tidegate serve --config /etc/tidegate.toml
  tidegate serve --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --resp-listen 127.0.0.1:0 --demo

Flags go before the environment, and the environment before the file. Secrets may come from
TIDEGATE_REDIS_URL, TIDEGATE_ADMIN_TOKEN, TIDEGATE_CLUSTER_SECRET. When the node can take traffic it
prints one line `ready http=… admin=…` on standard output; logs go to standard error.";

/// How to run a node: what is not given here comes from the environment or the file.
#[derive(Debug, Clone, Default, Args)]
pub struct NodeArgs {
    /// The configuration file (docs/tidegate.toml shows every setting).
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where clients and publishers connect [default: 127.0.0.1:8080]; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// Where operators connect [default: 127.0.0.1:8081].
    #[arg(long, value_name = "ADDRESS")]
    pub admin_listen: Option<SocketAddr>,
    /// Keep the logs in this Redis or Valkey. A password is better kept in TIDEGATE_REDIS_URL: other
    /// users of the machine can see flags.
    #[arg(long, value_name = "URL", conflicts_with = "resp_listen")]
    pub redis: Option<Secret>,
    /// Keep the logs in this process; where backends connect with a Redis client
    /// [default: 127.0.0.1:6380].
    #[arg(long, value_name = "ADDRESS")]
    pub resp_listen: Option<SocketAddr>,
    /// The certificate of this node, in PEM, with its chain: clients then connect with TLS, and over
    /// WebTransport. The file may be exchanged while the node runs.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_certificate: Option<PathBuf>,
    /// The certificate's private key, in PEM.
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    pub tls_key: Option<PathBuf>,
    /// Where clients connect over WebTransport, which is UDP [default: the address of --listen]. It needs
    /// a certificate; with --demo one for development is made.
    #[arg(long, value_name = "ADDRESS")]
    pub quic_listen: Option<SocketAddr>,
    /// The URL under which clients reach this node, where it is not the address it listens on.
    #[arg(long, value_name = "URL")]
    pub public_url: Option<String>,
    /// The node's name in the cluster [default: the host's name and something random].
    #[arg(long, value_name = "ID")]
    pub node_id: Option<String>,
    /// Threads that serve connections [default: one for each core].
    #[arg(long, value_name = "N")]
    pub shards: Option<u16>,
    /// Add the tenant `demo`, whose keys everybody knows. `dev` always has it.
    #[arg(long)]
    pub demo: bool,
    /// off, error, warn, info, debug, trace, or a filter such as info,tidegate=debug [default: info].
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// How log lines look [default: text].
    #[arg(long, value_name = "FORMAT", value_parser = ["text", "json"])]
    pub log_format: Option<String>,
}

const CHECK_CONFIG_EXAMPLES: &str = "\
Example:
  tidegate check-config /etc/tidegate.toml

Variables that the file names must be set, as they are for the node. The machine (ports, limits, Redis)
is not looked at.";

/// Which file to check.
#[derive(Debug, Clone, Args)]
pub struct CheckConfigArgs {
    /// The configuration file.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

const TOKEN_EXAMPLES: &str = "\
Examples:
  tidegate token --demo --user alice
  tidegate token --demo --user alice --ttl 15m --claim 'channels=[\"room:1\", \"team:7-*\"]'
  tidegate token --config tidegate.toml --tenant acme --user alice --claim class=staff
  tidegate token --config tidegate.toml --tenant acme --user alice --private-key ed25519.pem

The token is the last line of standard output. Whoever has it is that user until it expires.";

/// What stands in the token, and who signs it.
#[derive(Debug, Clone, Args)]
#[group(skip)]
#[command(group = ArgGroup::new("signer").args(["demo", "config"]).required(true))]
pub struct TokenArgs {
    /// The tenant; `demo` with --demo.
    #[arg(long, required_unless_present = "demo")]
    pub tenant: Option<TenantId>,
    /// The user that the token names.
    #[arg(long)]
    pub user: UserId,
    /// How long it is good: 90s, 15m, 1h, 7d.
    #[arg(long, default_value = "1h", value_name = "TIME")]
    pub ttl: Lifetime,
    /// A further claim; the value is JSON where it can be, else text. May be repeated.
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = parse_claim)]
    pub claims: Vec<(String, serde_json::Value)>,
    /// Sign with the demo tenant's key, which everybody knows.
    #[arg(long)]
    pub demo: bool,
    /// Sign with the tenant's key from this configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The `kid` of the key to use, where the tenant has several [default: the first that can sign].
    #[arg(long)]
    pub kid: Option<String>,
    /// The Ed25519 private key (PKCS #8, PEM) of an EdDSA key: the file has only its public half.
    #[arg(long, value_name = "FILE", requires = "config")]
    pub private_key: Option<PathBuf>,
}

impl TokenArgs {
    /// A token of the demo tenant for a user, good for an hour.
    pub fn demo(user: UserId) -> Self {
        let ttl = Lifetime::HOUR;
        let (tenant, config, kid, private_key) = (None, None, None, None);
        Self { tenant, user, ttl, claims: Vec::new(), demo: true, config, kid, private_key }
    }
}

fn parse_claim(text: &str) -> Result<(String, serde_json::Value), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => {
            let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
            Ok((name.to_owned(), value))
        }
        _ => Err("must be NAME=VALUE".into()),
    }
}

const CLIENT_EXAMPLES: &str = "\
Examples:
  tidegate client --channel room:1
  tidegate client --channel room:1 --channel live:scores --json
  tidegate client --token \"$(tidegate token --demo --user alice)\" --channel user:alice --device phone --ack
  tidegate client --channel room:1 --since 0-0 --count 10
  tidegate client --url https://push.example.com --transport webtransport --channel room:1
  tidegate client --url https://127.0.0.1:8443 --ca ca.pem --channel room:1

Without --transport it asks the node what it offers: WebTransport is tried first, then a WebSocket, then
server-sent events. With --json every message is one line of JSON on standard output.";

/// Where to connect, and to what.
#[derive(Debug, Clone, Args)]
pub struct ClientArgs {
    /// The node: http:// or https://, its host and its port.
    #[arg(long, env = "TIDEGATE_URL", default_value = DEFAULT_URL)]
    pub url: String,
    /// What carries the frames.
    #[arg(long, value_enum, default_value_t = TransportArg::Auto)]
    pub transport: TransportArg,
    /// Trust the authorities in this file (PEM) too, besides those that the system trusts.
    #[arg(long, value_name = "FILE", conflicts_with = "certificate_hash")]
    pub ca: Option<PathBuf>,
    /// Trust the certificate with this SHA-256 hash and no other; for development. May be repeated.
    #[arg(long, value_name = "HEX")]
    pub certificate_hash: Vec<CertificateHash>,
    /// The tenant.
    #[arg(long, default_value = DEFAULT_TENANT)]
    pub tenant: TenantId,
    /// The token; without one the tenant must let anonymous clients in.
    #[arg(long, env = "TIDEGATE_TOKEN", hide_env_values = true)]
    pub token: Option<Secret>,
    /// A channel to subscribe to. May be repeated.
    #[arg(long = "channel", value_name = "CHANNEL")]
    pub channels: Vec<ChannelName>,
    /// Acknowledge each message once it is printed.
    #[arg(long)]
    pub ack: bool,
    /// Subscribe with acknowledgements and never send any, to see redelivery.
    #[arg(long, conflicts_with = "ack")]
    pub withhold: bool,
    /// The device: its cursors outlive the connection.
    #[arg(long)]
    pub device: Option<DeviceId>,
    /// The encoding of frames; sse and ndjson carry JSON only.
    #[arg(long, value_enum, default_value_t = CodecArg::Json)]
    pub codec: CodecArg,
    /// Stop after so many messages.
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// Print JSON, one message a line.
    #[arg(long)]
    pub json: bool,
    /// Start after this offset; 0-0 is the beginning.
    #[arg(long, value_name = "OFFSET")]
    pub since: Option<Offset>,
}

/// A transport, as the command line names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TransportArg {
    /// Whichever works.
    Auto,
    /// A WebSocket, over TLS with https://.
    #[value(name = "websocket")]
    WebSocket,
    /// WebTransport: HTTP/3, over UDP.
    #[value(name = "webtransport")]
    WebTransport,
    /// Server-sent events.
    Sse,
    /// Lines of JSON.
    Ndjson,
}

impl From<TransportArg> for Option<Transport> {
    fn from(transport: TransportArg) -> Self {
        match transport {
            TransportArg::Auto => None,
            TransportArg::WebSocket => Some(Transport::WebSocket),
            TransportArg::WebTransport => Some(Transport::WebTransport),
            TransportArg::Sse => Some(Transport::Sse),
            TransportArg::Ndjson => Some(Transport::Ndjson),
        }
    }
}

/// An encoding, as the command line names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CodecArg {
    /// JSON in text frames.
    Json,
    /// CBOR in binary frames.
    Cbor,
}

impl From<CodecArg> for Codec {
    fn from(codec: CodecArg) -> Self {
        match codec {
            CodecArg::Json => Self::Json,
            CodecArg::Cbor => Self::Cbor,
        }
    }
}

const PUBLISH_EXAMPLES: &str = "\
Examples:
  tidegate publish --key demo-key --channel room:1 hello
  echo '{\"n\": 1}' | TIDEGATE_KEY=demo-key tidegate publish --channel room:1
  tidegate publish --key demo-key --channel room:1 --id order-17 --ttl-ms 60000 '{\"order\": 17}'
  tidegate publish --key demo-key --channels users.txt --id tide-1 --pace 500 --file notice.json
  tidegate publish --key demo-key --cloudevent --channel room:1 --file event.json

Data that is a JSON object or array reaches clients as that, anything else as text. More than 1,000
channels, or --pace, make it a send: its progress goes to standard error until it is done. With an --id
it can be repeated, and no channel gets it twice.";

/// What to publish, and where.
#[derive(Debug, Clone, Args)]
#[group(skip)]
#[command(group = ArgGroup::new("where").args(["channel", "channels", "cloudevent"]).required(true).multiple(true))]
pub struct PublishArgs {
    /// The node.
    #[arg(long, env = "TIDEGATE_URL", default_value = DEFAULT_URL)]
    pub url: String,
    /// The tenant's API key.
    #[arg(long, env = "TIDEGATE_KEY", hide_env_values = true)]
    pub key: Secret,
    /// The tenant.
    #[arg(long, default_value = DEFAULT_TENANT)]
    pub tenant: TenantId,
    /// A channel. May be repeated.
    #[arg(long = "channel", value_name = "CHANNEL")]
    pub channel: Vec<ChannelName>,
    /// A file with more channels, one a line; - is standard input.
    #[arg(long, value_name = "FILE")]
    pub channels: Option<PathBuf>,
    /// The payload [default: standard input].
    pub data: Option<String>,
    /// A file with the payload; - is standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    pub file: Option<PathBuf>,
    /// The payload is a CloudEvent in JSON. Without --channel it goes where its `channel` says.
    #[arg(long, conflicts_with_all = ["id", "message_key", "ttl_ms", "spread_ms", "pace", "channels"])]
    pub cloudevent: bool,
    /// Idempotency key: a second message with the same one, soon after, is not added.
    #[arg(long)]
    pub id: Option<String>,
    /// Conflation key: where a subscriber is slow, only the newest message of each key is kept.
    #[arg(long, value_name = "KEY")]
    pub message_key: Option<String>,
    /// For how many milliseconds the message is worth delivering.
    #[arg(long, value_name = "MS")]
    pub ttl_ms: Option<u64>,
    /// Over how many milliseconds the message's delivery is spread.
    #[arg(long, value_name = "MS")]
    pub spread_ms: Option<u64>,
    /// Channels a second: it is carried out in the background of the node, at this pace.
    #[arg(long, value_name = "N")]
    pub pace: Option<u32>,
    /// Print the node's last answer as JSON.
    #[arg(long)]
    pub json: bool,
}

const DLQ_EXAMPLES: &str = "\
Examples:
  tidegate dlq list --key demo-key
  tidegate dlq list --key demo-key --channel user:alice --json
  tidegate dlq retry --key demo-key --offset 1763769600000-0
  tidegate dlq retry --key demo-key --all --reason wrong_type
  tidegate dlq purge --key demo-key --all --before 1763769600000-0 --yes

A retry adds the message to its channel again, for everybody there, and then removes the letter.";

/// What to do with dead letters.
#[derive(Debug, Clone, Args)]
pub struct DlqArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: DlqCommand,
}

/// What to do with dead letters.
#[derive(Debug, Clone, Subcommand)]
pub enum DlqCommand {
    /// List them: the newest, in the order they were written.
    List(DlqListArgs),
    /// Send their messages again and remove them.
    ///
    /// Those that cannot be sent again stay, and the exit code is 1.
    Retry(DlqSelectArgs),
    /// Remove them.
    Purge(DlqPurgeArgs),
}

/// Which node to ask, and as whom.
#[derive(Debug, Clone, Args)]
pub struct DlqNodeArgs {
    /// The node.
    #[arg(long, env = "TIDEGATE_URL", default_value = DEFAULT_URL)]
    pub url: String,
    /// The tenant's API key.
    #[arg(long, env = "TIDEGATE_KEY", hide_env_values = true)]
    pub key: Secret,
    /// The tenant.
    #[arg(long, default_value = DEFAULT_TENANT)]
    pub tenant: TenantId,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

const KICK_EXAMPLES: &str = "\
Examples:
  TIDEGATE_KEY=$ADMIN_TOKEN tidegate kick --tenant acme --user alice --reason 'your account was closed'
  tidegate kick --key $ADMIN_TOKEN --tenant acme --user alice --device phone
  tidegate kick --key $ADMIN_TOKEN --tenant acme --session 0gQyAqEYQXaTZJ7Tyqvv4w

Only the node at --url is asked: where there are several, ask each. A user who may connect can connect
again with a new session; withdraw the token to keep somebody out.";

/// Whose sessions to end.
#[derive(Debug, Clone, Args)]
#[group(skip)]
#[command(group = ArgGroup::new("whose").args(["session", "user"]).required(true))]
pub struct KickArgs {
    /// The node to ask.
    #[command(flatten)]
    pub node: AdminArgs,
    /// The tenant.
    #[arg(long, default_value = DEFAULT_TENANT)]
    pub tenant: TenantId,
    /// One session, by the id in `connected` and in what it sends.
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    pub session: Option<SessionId>,
    /// All sessions of a user.
    #[arg(long)]
    pub user: Option<UserId>,
    /// Of these, the one of a device.
    #[arg(long, requires = "user", conflicts_with = "session")]
    pub device: Option<DeviceId>,
    /// What the clients are told, for people.
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// How to reach a node's admin listener.
#[derive(Debug, Clone, Args)]
pub struct AdminArgs {
    /// The node's admin address.
    #[arg(long, env = "TIDEGATE_URL", default_value = DEFAULT_ADMIN_URL)]
    pub url: String,
    /// The node's admin token.
    #[arg(long, env = "TIDEGATE_KEY", hide_env_values = true)]
    pub key: Secret,
    /// Print the answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Which dead letters to list.
#[derive(Debug, Clone, Args)]
pub struct DlqListArgs {
    /// The node.
    #[command(flatten)]
    pub node: DlqNodeArgs,
    /// Only those of this channel.
    #[arg(long)]
    pub channel: Option<String>,
    /// Only those with this reason: attempts, bad_entry, bad_channel, unknown_namespace, wrong_type,
    /// full, refused.
    #[arg(long)]
    pub reason: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub limit: usize,
    /// The newest before this one.
    #[arg(long, value_name = "OFFSET", conflicts_with = "after")]
    pub before: Option<Offset>,
    /// The oldest after this one.
    #[arg(long, value_name = "OFFSET")]
    pub after: Option<Offset>,
}

/// Which dead letters are meant.
#[derive(Debug, Clone, Args)]
#[command(group = ArgGroup::new("which").args(["offsets", "all"]).required(true))]
pub struct DlqSelectArgs {
    /// The node.
    #[command(flatten)]
    pub node: DlqNodeArgs,
    /// This one, by its offset among the dead letters. May be repeated.
    #[arg(long = "offset", value_name = "OFFSET")]
    pub offsets: Vec<Offset>,
    /// All of them, or all that fit what else is said.
    #[arg(long)]
    pub all: bool,
    /// Only those of this channel.
    #[arg(long, requires = "all")]
    pub channel: Option<String>,
    /// Only those with this reason.
    #[arg(long, requires = "all")]
    pub reason: Option<String>,
    /// Only those before this one.
    #[arg(long, value_name = "OFFSET", requires = "all")]
    pub before: Option<Offset>,
}

/// Which dead letters to remove.
#[derive(Debug, Clone, Args)]
pub struct DlqPurgeArgs {
    /// Which.
    #[command(flatten)]
    pub select: DlqSelectArgs,
    /// Really: needed with --all, because what is removed is gone.
    #[arg(long)]
    pub yes: bool,
}

pub(super) const DEFAULT_ADMIN_URL: &str = "http://127.0.0.1:8081";
const DRAIN_EXAMPLES: &str = "\
Examples:
  TIDEGATE_KEY=$ADMIN_TOKEN tidegate drain
  tidegate drain --url http://10.0.0.7:8081 --key $ADMIN_TOKEN --no-wait

It waits until the node is gone, and says on standard error how many sessions are left.";

/// Which node to drain.
#[derive(Debug, Clone, Args)]
pub struct DrainArgs {
    /// The node.
    #[command(flatten)]
    pub node: AdminArgs,
    /// Do not wait until the node is gone.
    #[arg(long)]
    pub no_wait: bool,
}

const DEFAULT_URL: &str = "http://127.0.0.1:8080";
pub(super) const DEFAULT_TENANT: &str = crate::config::DEMO_TENANT;
