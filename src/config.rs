//! Configuration: one TOML file, flags and a few variables over it, parsed into values that are valid.
//!
//! `docs/tidegate.toml` documents every setting; a test holds it against the defaults. Parsing reports
//! everything that is wrong at once. Nothing here looks at the machine except for the defaults of
//! `node.id` and `node.shards`, and for the files and variables that settings name.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::{Table, Value};

use crate::domain::{Limits, NodeId, TenantId};

mod connections;
mod demo;
mod http_host;
mod namespace;
mod network;
mod plugins;
mod reader;
mod sections;
mod tenant;
mod values;

pub use connections::{Places, TooFewFiles, places, raise_file_limit};
pub use demo::{DEMO_API_KEY, DEMO_JWT_SECRET, DEMO_TENANT};
pub use http_host::{HttpHost, InvalidHttpHost};
pub use network::Network;
pub use plugins::{FailurePolicies, MAX_PLUGIN_MEMORY, OnFailure, PluginsConfig, TenantPlugins};
pub use reader::{ConfigErrors, Env, Problem};
pub use tenant::{JwtConfig, JwtKey, KeyMaterial, TenantConfig};
pub use values::{ApiKeyHash, HttpUrl, Origin, Origins, Secret, sha256};

use reader::{Context, Section};

/// A node's whole configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// This process.
    pub node: NodeConfig,
    /// Its certificate.
    pub tls: TlsConfig,
    /// Where the logs are.
    pub backbone: BackboneConfig,
    /// What the nodes of a cluster share.
    pub cluster: ClusterConfig,
    /// Budgets of memory.
    pub memory: MemoryConfig,
    /// How streams are looked after that nobody watches.
    pub retention: RetentionConfig,
    /// How plugins run.
    pub plugins: PluginsConfig,
    /// The operator's access.
    pub admin: AdminConfig,
    /// Logs, metrics and traces.
    pub telemetry: TelemetryConfig,
    /// Limits of tenants that set none of their own.
    pub limits: Limits,
    /// The tenants.
    pub tenants: BTreeMap<TenantId, TenantConfig>,
}

/// This process.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeConfig {
    /// Its name in the cluster.
    pub id: NodeId,
    /// Where clients and publishers connect. Port 0: the system chooses.
    pub listen: SocketAddr,
    /// Where operators connect.
    pub admin_listen: SocketAddr,
    /// Where clients connect over QUIC (UDP); `None`: at the address of `listen`. Port 0: the system chooses.
    pub quic_listen: Option<SocketAddr>,
    /// Under which URL clients reach this node, where it differs from `listen`.
    pub public_url: Option<HttpUrl>,
    /// Threads that serve connections.
    pub shards: NonZeroUsize,
    /// Connections served at once; `None`: as many as the limit of open files leaves room for. See
    /// [`places`].
    pub max_connections: Option<NonZeroUsize>,
    /// Connections without a session at once; `None`: a quarter of all.
    pub max_handshakes: Option<NonZeroUsize>,
    /// Sessions without a connection that are kept for their clients.
    pub max_detached_sessions: usize,
    /// How long the head of an HTTP request may take, and a connection may rest between two.
    pub header_timeout: Duration,
    /// How fast connections may come.
    pub accept: AcceptConfig,
    /// How long a node that goes away lets its clients move.
    pub drain_timeout: Duration,
}

/// The node's certificate, and what it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsConfig {
    /// There is none: the public port is plain, and WebTransport, which needs one, is not spoken.
    Off,
    /// From files, which may be exchanged while the node runs.
    Files {
        /// The certificate and its chain, in PEM.
        certificate: PathBuf,
        /// Its private key, in PEM.
        key: PathBuf,
        /// Whether the public port speaks TLS; else only QUIC does.
        tcp: bool,
        /// Whether WebTransport is spoken.
        quic: bool,
    },
    /// Made at the start, for WebTransport alone: pages have to be told its hash.
    Development,
}

/// How fast connections may come. A second's worth may come at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptConfig {
    /// Connections a second from everywhere; 0: no limit.
    pub per_s: u32,
    /// Connections a second from one address (IPv6: one /64); 0: no limit.
    pub per_s_per_address: u32,
    /// Networks whose addresses have no limit of their own: load balancers, this machine.
    pub exempt: Vec<Network>,
}

/// Where the logs are.
#[derive(Debug, Clone, PartialEq)]
pub enum BackboneConfig {
    /// In this process, gone when it ends.
    Embedded {
        /// Where backends connect with a Redis client.
        resp_listen: SocketAddr,
        /// What they authenticate with. Always there if `resp_listen` is beyond loopback.
        resp_password: Option<Secret>,
    },
    /// In Redis or Valkey.
    Redis {
        /// The server. Secret: it may contain a password.
        url: Secret,
        /// How the node learns of new entries.
        wake: Wake,
        /// How long between two polls, where the node polls.
        poll: Duration,
    },
}

/// How a node learns of new entries in Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// By keyspace events where they can be had, by polling else.
    Auto,
    /// By polling.
    Poll,
}

/// What the nodes of a cluster share.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterConfig {
    /// Signs resume tokens; `None`: the secret that the backbone keeps.
    pub secret: Option<Secret>,
    /// How long the others wait for a node that is silent until they take the work of queues that it
    /// holds. Longer: work of a dead node waits longer. Shorter: a node that hangs for a moment has its
    /// work done twice.
    pub queue_lease: Duration,
}

/// Budgets of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryConfig {
    /// Bytes of recent entries that all channels together keep at hand.
    pub ring_bytes: usize,
    /// Bytes of older entries, read for clients that catch up.
    pub page_cache_bytes: usize,
}

/// How streams are looked after that nobody watches: one node of the cluster goes through them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionConfig {
    /// How long from the begin of one pass over all streams to the next, at least.
    pub pass: Duration,
    /// Keys of the backbone looked at in a second, at most.
    pub keys_per_s: u32,
}

/// The operator's access.
#[derive(Debug, Clone, PartialEq)]
pub struct AdminConfig {
    /// The bearer token. Always there if `node.admin_listen` is beyond loopback.
    pub token: Option<Secret>,
}

/// Logs, metrics and traces.
#[derive(Debug, Clone, PartialEq)]
pub struct TelemetryConfig {
    /// How a log line looks.
    pub log_format: LogFormat,
    /// Which log lines there are: a level, or a filter of `tracing_subscriber` that is known to parse.
    pub log_level: String,
    /// Where metrics and traces are sent; `None`: nowhere.
    pub otlp_endpoint: Option<HttpUrl>,
    /// The share of traces that is sent, from 0 to 1.
    pub trace_sample_ratio: f64,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A TOML document over which flags and variables are laid before it is parsed into a [`Config`].
///
/// It has no `Debug`: its secrets are not told apart yet.
#[derive(Clone, Default)]
pub struct RawConfig {
    table: Table,
    origins: BTreeMap<String, &'static str>,
}

impl RawConfig {
    /// Reads TOML.
    pub fn from_toml(text: &str, file: Option<&Path>) -> Result<Self, ConfigErrors> {
        let table = text.parse::<Table>().map_err(|error| {
            // The error's own text shows the line, in which a secret may stand.
            let start = error.span().map_or(0, |span| span.start);
            let line = text.bytes().take(start).filter(|byte| *byte == b'\n').count() + 1;
            ConfigErrors::one(file, &format!("line {line}"), format!("is not TOML: {}", error.message()))
        })?;
        Ok(Self { table, origins: BTreeMap::new() })
    }

    /// Sets what `path` names, in place of what the document says. Problems with the value name
    /// `origin`, a flag or a variable, and not the path.
    pub fn set(&mut self, path: &str, value: impl Into<Value>, origin: &'static str) {
        let (parents, key) = path.rsplit_once('.').unwrap_or(("", path));
        let mut table = &mut self.table;
        for parent in parents.split('.').filter(|parent| !parent.is_empty()) {
            let below = table.entry(parent).or_insert_with(|| Value::Table(Table::new()));
            // Something else than a table stays as it is: parsing says that it is wrong.
            let Value::Table(below) = below else { return };
            table = below;
        }
        table.remove(&format!("{key}_env"));
        table.insert(key.to_owned(), value.into());
        self.origins.insert(path.to_owned(), origin);
    }

    /// Takes a table of the top level's table `parent` away.
    pub fn remove(&mut self, parent: &str, key: &str) {
        if let Some(Value::Table(table)) = self.table.get_mut(parent) {
            table.remove(key);
        }
    }

    /// Lays the secrets of the environment over the document.
    pub fn set_from_env(&mut self, env: Env<'_>) {
        for (variable, path) in [
            ("TIDEGATE_REDIS_URL", "backbone.redis.url"),
            ("TIDEGATE_ADMIN_TOKEN", "admin.token"),
            ("TIDEGATE_CLUSTER_SECRET", "cluster.secret"),
        ] {
            // An empty variable is what compose files and unit files make of an unset one.
            if let Some(value) = env(variable).filter(|value| !value.is_empty()) {
                self.set(path, value, variable);
            }
        }
    }

    /// Parses the document. `file` is named in errors; relative file names start from its folder.
    pub fn parse(self, file: Option<&Path>, env: Env<'_>) -> Result<Config, ConfigErrors> {
        let folder = file.and_then(Path::parent).map(Path::to_owned).unwrap_or_default();
        let context = Context { env, folder, origins: self.origins, problems: Vec::new().into() };
        let config = read(Section::root(&context, self.table));
        let problems = context.problems.into_inner();
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(ConfigErrors { file: file.map(Into::into), problems }),
        }
    }
}

impl Config {
    /// Parses TOML alone, without flags; secrets come from `env` where settings name a variable.
    pub fn from_toml(text: &str, env: Env<'_>) -> Result<Self, ConfigErrors> {
        RawConfig::from_toml(text, None)?.parse(None, env)
    }
}

/// Reads the whole document; `None` only with a problem noted.
fn read(mut root: Section<'_>) -> Option<Config> {
    let admin = sections::admin(root.section("admin"));
    let tls = sections::tls(root.section("tls"));
    let node = sections::node(root.section("node"), admin.token.is_some(), &tls);
    let backbone = sections::backbone(root.section("backbone"));
    let cluster = sections::cluster(root.section("cluster"));
    let memory = sections::memory(root.section("memory"));
    let retention = sections::retention(root.section("retention"));
    let plugins = plugins::plugins(root.section("plugins"));
    let telemetry = sections::telemetry(root.section("telemetry"));
    let limits = sections::limits(root.section("limits"), &Limits::default());
    let tenants = tenant::tenants(&mut root, &limits);
    let (node, backbone) = (node?, backbone?);
    Some(Config {
        node,
        tls,
        backbone,
        cluster,
        memory,
        retention,
        plugins,
        admin,
        telemetry,
        limits,
        tenants,
    })
}

#[cfg(test)]
mod tests;
