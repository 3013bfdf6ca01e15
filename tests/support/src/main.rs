//! `tidegate-checker`: checks a running node, or several, for lost and disordered messages.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use tidegate_support::checker::{Checker, Settings, Signing, Via};

/// Publishes to a running Tidegate, receives as many kinds of clients, and accounts for every offset.
///
/// Ends with 0 if nothing was lost in silence, disordered or changed, with 1 if something was, and with 2
/// if it could not be tried.
///
/// Example: tidegate-checker --url ws://127.0.0.1:8080/v1/demo/ws --redis redis://127.0.0.1:6380
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// WebSocket URL of a node; give several to spread clients over nodes.
    #[arg(long, required = true)]
    url: Vec<String>,
    /// The Redis the nodes use, or a node's RESP listener.
    #[arg(long, default_value = "redis://127.0.0.1:6380")]
    redis: String,
    /// The tenant.
    #[arg(long, default_value = "demo")]
    tenant: String,
    /// Signs clients' tokens (HS256), so that devices and personal channels are checked too.
    #[arg(long)]
    secret: Option<String>,
    /// The id of that key, where the tenant's keys have one.
    #[arg(long, requires = "secret")]
    kid: Option<String>,
    /// The tenant's API key: a quarter of the publishers then use HTTP.
    #[arg(long)]
    key: Option<String>,
    /// How long to publish.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// How long to wait afterwards for what is still owed.
    #[arg(long, default_value_t = 30)]
    settle: u64,
    /// How many clients: a quarter each of devices, of clients with positions and acks, of listeners
    /// with positions, and of listeners that start anew.
    #[arg(long, default_value_t = 100)]
    clients: usize,
    /// How many publishers.
    #[arg(long, default_value_t = 4)]
    publishers: usize,
    /// How many channels.
    #[arg(long, default_value_t = 20)]
    channels: usize,
    /// How many channels each client subscribes to.
    #[arg(long, default_value_t = 2)]
    channels_per_client: usize,
    /// The channels' namespace, which must be a log.
    #[arg(long, default_value = "room")]
    namespace: String,
    /// Messages a second and publisher.
    #[arg(long, default_value_t = 50)]
    rate: u32,
    /// Drop each connection (TCP reset) after about so many milliseconds; 0: never.
    #[arg(long, default_value_t = 3000)]
    drop_every_ms: u64,
    /// By which ways to publish.
    #[arg(long, value_enum, default_value_t = Via::Mix)]
    via: Via,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("tidegate-checker: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn run(args: &Args) -> Result<bool> {
    let settings = Settings {
        urls: args.url.clone(),
        redis: args.redis.clone(),
        tenant: args.tenant.clone(),
        signing: args.secret.clone().map(|secret| Signing { kid: args.kid.clone(), secret }),
        api_key: args.key.clone(),
        clients: args.clients,
        publishers: args.publishers,
        channels: args.channels,
        channels_per_client: args.channels_per_client,
        namespace: args.namespace.clone(),
        rate: args.rate,
        drop_every: (args.drop_every_ms > 0).then(|| Duration::from_millis(args.drop_every_ms)),
        via: args.via,
    };
    let checker = Checker::start(settings).await?;
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    let report = checker.finish(Duration::from_secs(args.settle)).await?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{report}");
    }
    Ok(report.kept_promises())
}
