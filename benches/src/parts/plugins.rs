//! What plugins cost: a call, a new instance, the memory of one. In this process, with the plugin of
//! `plugins/probe`, in Rust.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use tidegate::backbone::embedded::Embedded;
use tidegate::backbone::wake::DirtySet;
use tidegate::config::{PluginsConfig, TenantPlugins};
use tidegate::domain::{Offset, TenantId};
use tidegate::plugin::answers::AnswerLimits;
use tidegate::plugin::compile::{CompileCommand, NodeKey};
use tidegate::plugin::contract::Incoming;
use tidegate::plugin::{
    DeliverVerdict, Delivery, Facts, HostConfig, Plugin, PluginHost, Prepared, Services, Settings,
};
use tidegate::telemetry::Metrics;

use crate::args::RunArgs;
use crate::host::resident;
use crate::redis::PAYLOAD;
use crate::report::{Budget, Report};

const PROBE: &[u8] = include_bytes!("../../../plugins/probe/probe.wasm");
/// Messages of one batch: what the feed hands over under load.
const BATCH: usize = 100;

pub fn run(args: &RunArgs, report: &mut Report) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(measure(args, report))
}

async fn measure(args: &RunArgs, report: &mut Report) -> Result<()> {
    let host = host(args)?;
    let began = Instant::now();
    let prepared = host.prepare(Bytes::from_static(PROBE), &settings(u32::MAX)?).await?;
    report.note("plugin in Rust: compile, link, start", began.elapsed().as_secs_f64() * 1e3, "ms");

    let rounds = args.size(1_000, 100);
    let reused = host.bind(Arc::clone(&prepared), settings(u32::MAX)?);
    let plain = best_of(&host, &reused, rounds, "plain").await?;
    let what = format!("plugin in Rust: on-deliver of {PAYLOAD} bytes, accepted");
    report.hold(what, plain, "ns", Budget::Most(1_000.0));
    let upper = best_of(&host, &reused, rounds, "upper").await?;
    report.note(format!("plugin in Rust: on-deliver of {PAYLOAD} bytes, replaced"), upper, "ns");

    let anew = host.bind(Arc::clone(&prepared), settings(1)?);
    let fresh = best_of(&host, &anew, rounds / 20, "plain").await?;
    report.hold(
        "plugin in Rust: new instance and its first call",
        (fresh - plain) / 1e3,
        "µs",
        Budget::Most(20.0),
    );

    let one = publish(&host, &reused, rounds * 10).await?;
    report.note("plugin in Rust: on-publish through a worker and back, one at a time", one / 1e3, "µs");
    memory(&host, &prepared, report).await
}

fn host(args: &RunArgs) -> Result<PluginHost> {
    let plugins = PluginsConfig {
        workers: NonZeroUsize::MIN,
        instances: 1_000,
        folder: None,
        compile_timeout: Duration::from_secs(120),
        compile_memory: 2 << 30,
    };
    let compiler = CompileCommand { program: args.node.clone(), arguments: vec!["compile-plugin".into()] };
    let services = Services {
        backbone: Embedded::new(Arc::new(DirtySet::default())),
        metrics: Metrics::default(),
        cut_offs: None,
    };
    Ok(PluginHost::start(HostConfig { plugins, compiler, key: NodeKey::random() }, services)?)
}

fn settings(instance_calls: u32) -> Result<Settings> {
    let second = Duration::from_secs(1);
    let limits = TenantPlugins { instance_calls, deadline: second, ..TenantPlugins::default() };
    let answers = AnswerLimits { payload_bytes: 64 << 10, targets: 100 };
    Ok(Settings {
        tenant: TenantId::parse("demo")?,
        name: "probe".into(),
        settings: Vec::new(),
        limits,
        answers,
    })
}

/// Nanoseconds a message, in batches.
async fn best_of(host: &PluginHost, plugin: &Arc<Plugin>, rounds: usize, word: &str) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        best = best.min(deliver(host, plugin, rounds, word).await?);
    }
    Ok(best)
}

async fn deliver(host: &PluginHost, plugin: &Arc<Plugin>, rounds: usize, word: &str) -> Result<f64> {
    let channel: Arc<str> = "room:1".into();
    let data = Bytes::from(format!("{word:PAYLOAD$}"));
    let message = |n: usize| Delivery {
        offset: Offset { ms: n as u64, seq: 0 },
        channel: Arc::clone(&channel),
        data: data.clone(),
        facts: Facts::default(),
        class: None,
        recipient: None,
    };
    let began = Instant::now();
    for _ in 0..rounds {
        let answers = host.deliver(plugin, (0..BATCH).map(message).collect()).await;
        ensure!(
            answers.iter().all(|answer| matches!(answer, Ok(verdict) if *verdict != DeliverVerdict::Drop))
        );
    }
    Ok(began.elapsed().as_nanos() as f64 / (rounds * BATCH) as f64)
}

/// Nanoseconds a call.
async fn publish(host: &PluginHost, plugin: &Arc<Plugin>, calls: usize) -> Result<f64> {
    let data = Bytes::from(format!("{:PAYLOAD$}", "plain"));
    let began = Instant::now();
    for _ in 0..calls {
        let message = Incoming { user: "ada".into(), channel: "room:1".into(), data: data.clone() };
        host.on_publish(plugin, message, Facts::default()).await?;
    }
    Ok(began.elapsed().as_nanos() as f64 / calls as f64)
}

/// Many plugins, each with one instance that has been called.
async fn memory(host: &PluginHost, prepared: &Arc<Prepared>, report: &mut Report) -> Result<()> {
    const INSTANCES: usize = 500;
    let before = resident(std::process::id())?;
    let mut plugins = Vec::with_capacity(INSTANCES);
    for _ in 0..INSTANCES {
        let plugin = host.bind(Arc::clone(prepared), settings(u32::MAX)?);
        deliver(host, &plugin, 1, "upper").await?;
        plugins.push(plugin);
    }
    let more = resident(std::process::id())?.saturating_sub(before);
    report.note(
        "plugin in Rust: memory of an instance that was called",
        more as f64 / 1024.0 / INSTANCES as f64,
        "KiB",
    );
    Ok(())
}
