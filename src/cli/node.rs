//! `tidegate serve` and `tidegate dev`: a node, from its configuration to the end of its drain.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use super::{CliError, NodeArgs, TokenArgs, load};
use crate::config::{Config, DEMO_API_KEY, DEMO_TENANT, LogFormat};
use crate::domain::UserId;
use crate::gateway::{Addresses, Node};
use crate::shard::Page;
use crate::telemetry::{self, Metrics};

/// Runs a node for development, with the demo tenant and the page, and says what to try.
pub fn dev(args: NodeArgs) -> Result<(), CliError> {
    run(&NodeArgs { demo: true, ..args }, Some(banner))
}

/// Runs a node.
pub fn serve(args: &NodeArgs) -> Result<(), CliError> {
    run(args, None)
}

fn run(args: &NodeArgs, banner: Option<fn(&Addresses) -> String>) -> Result<(), CliError> {
    let config = load(args)?;
    let metrics = Metrics::default();
    let telemetry =
        telemetry::init(&options(&config), &metrics).map_err(|error| CliError::Usage(error.to_string()))?;
    if args.demo {
        tracing::warn!("the tenant `demo` has public keys: anybody who reaches this node can use it");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    let served = runtime.block_on(serve_until_signal(&config, metrics, args.demo, banner));
    runtime.shutdown_timeout(Duration::from_secs(1));
    drop(telemetry);
    Ok(served?)
}

async fn serve_until_signal(
    config: &Config,
    metrics: Metrics,
    demo: bool,
    banner: Option<fn(&Addresses) -> String>,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let page = demo.then_some(page as fn(&Addresses) -> Page);
    // It may take minutes where plugins have to be compiled.
    let node = tokio::select! {
        started = Node::start(config, metrics, page) => started?,
        _ = terminate.recv() => anyhow::bail!("ended by a signal before it was ready"),
        _ = interrupt.recv() => anyhow::bail!("ended by a signal before it was ready"),
    };
    let addresses = node.addresses();
    if let Some(banner) = banner {
        eprintln!("{}", banner(&addresses));
    }
    announce(&addresses)?;
    let signalled = tokio::select! {
        _ = terminate.recv() => true,
        _ = interrupt.recv() => true,
        () = node.drain_asked() => false,
    };
    // An operator's request and the signal that follows it ask for one and the same drain.
    let mut patience = if signalled { 1 } else { 2 };
    let draining = node.drain();
    tokio::pin!(draining);
    while patience > 0 {
        tokio::select! {
            () = &mut draining => return Ok(()),
            _ = terminate.recv() => patience -= 1,
            _ = interrupt.recv() => patience -= 1,
        }
    }
    tracing::warn!("a second signal: the drain is cut short, and with it the sessions that are left");
    anyhow::bail!("ended at once by a second signal")
}

/// The one line on standard output that says the node takes traffic.
fn announce(addresses: &Addresses) -> anyhow::Result<()> {
    let mut line = format!("ready http={} admin={}", addresses.http, addresses.admin);
    if let Some(resp) = addresses.resp {
        write!(line, " resp={resp}")?;
    }
    if let Some(quic) = addresses.quic {
        write!(line, " quic={quic}")?;
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush().context("standard output is closed")
}

fn options(config: &Config) -> telemetry::Options {
    let settings = &config.telemetry;
    let otlp = settings.otlp_endpoint.as_ref().map(|endpoint| telemetry::OtlpOptions {
        endpoint: endpoint.as_str().to_owned(),
        headers: Vec::new(),
        sample_ratio: settings.trace_sample_ratio,
        metrics_interval: Duration::from_secs(30),
        timeout: Duration::from_secs(10),
    });
    telemetry::Options {
        format: match settings.log_format {
            LogFormat::Text => telemetry::LogFormat::Text,
            LogFormat::Json => telemetry::LogFormat::Json,
        },
        filter: settings.log_level.clone(),
        node: config.node.id.to_string(),
        otlp,
    }
}

/// What to try on a node with the demo tenant, ready to paste.
struct Lines {
    xadd: String,
    python: String,
    curl: String,
}

fn lines(addresses: &Addresses) -> Lines {
    // A node on Redis takes no XADD itself: the lines then name the usual port.
    let port = addresses.resp.map_or(6379, |resp| resp.port());
    let http = addresses.http;
    let key = format!("tg:{DEMO_TENANT}:ch:room:1");
    Lines {
        xadd: format!("redis-cli -p {port} XADD {key} '*' data 'hello from redis-cli'"),
        python: format!(
            "import redis\nr = redis.Redis(port={port})\nr.xadd(\"{key}\", {{\"data\": \"hello from Python\"}})"
        ),
        curl: format!(
            "curl -H 'Authorization: Bearer {DEMO_API_KEY}' -d '{{\"channel\":\"room:1\",\"data\":\"hello from curl\"}}' \
             http://{http}/v1/{DEMO_TENANT}/publish"
        ),
    }
}

fn banner(addresses: &Addresses) -> String {
    let Lines { xadd, python, curl } = lines(addresses);
    let python = python.replace('\n', "\n    ");
    let token = demo_token().unwrap_or_else(|error| format!("(none: {error})"));
    let page = addresses.http;
    format!(
        "\nTidegate is running. Open the page, then publish to it:\n\n  page    http://{page}/\n\n  redis   \
         {xadd}\n\n  python\n    {python}\n\n  curl    {curl}\n\n  a token for user alice, valid for an hour:\n    {token}\n"
    )
}

fn demo_token() -> Result<String, CliError> {
    let user = UserId::parse("alice").expect("a literal name is valid");
    super::token::sign(&TokenArgs::demo(user))
}

/// The page with its placeholders filled in.
fn page(addresses: &Addresses) -> Page {
    let Lines { xadd, python, curl } = lines(addresses);
    let html = include_str!("../../examples/live-room/index.html")
        .replace("{{TENANT}}", DEMO_TENANT)
        .replace("{{XADD}}", &escaped(&xadd))
        .replace("{{PYTHON}}", &escaped(&python))
        .replace("{{CURL}}", &escaped(&curl));
    Page { html: html.into(), script: include_str!("../../sdk/js/dist/tidegate.min.js") }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
