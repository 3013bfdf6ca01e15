//! What plugins cost: a call, a new instance, the memory of one, by the language they are written in. In this
//! process.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
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

/// A plugin in Rust with every hook.
pub(super) const PROBE: &[u8] = include_bytes!("../../../plugins/probe/probe.wasm");
/// Messages of one batch: what the feed hands over under load.
const BATCH: usize = 100;

pub fn run(args: &RunArgs, report: &mut Report) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(measure(args, report))
}

/// A plugin, and a message that it has something to do with.
struct Guest {
    language: &'static str,
    component: Bytes,
    data: String,
    /// How many of the calls that the one in Rust gets it is given: others are slower.
    part: usize,
}

async fn measure(args: &RunArgs, report: &mut Report) -> Result<()> {
    let host = host(args)?;
    let built = |name: &str| -> Result<Bytes> {
        let file = args.guests.join(name).with_extension("wasm");
        Ok(std::fs::read(&file).with_context(|| format!("{} was not built", file.display()))?.into())
    };
    let json = format!(r#"{{"text":"{}"}}"#, "x".repeat(PAYLOAD - 11));
    let guests = [
        Guest { language: "Rust", component: PROBE.into(), data: format!("{:PAYLOAD$}", "upper"), part: 1 },
        Guest { language: "JavaScript", component: built("transformer-js")?, data: json.clone(), part: 20 },
        Guest { language: "Python", component: built("transformer-py")?, data: json, part: 20 },
    ];
    for guest in guests {
        language(&host, args, report, guest).await?;
    }
    Ok(())
}

/// What a plugin in one language costs.
async fn language(host: &PluginHost, args: &RunArgs, report: &mut Report, guest: Guest) -> Result<()> {
    let Guest { language, component, data, part } = guest;
    let what = |text: &str| format!("plugin in {language}: {text}");
    let began = Instant::now();
    let prepared = host.prepare(component, &settings(u32::MAX)?).await?;
    report.note(what("compile, link, start"), began.elapsed().as_secs_f64() * 1e3, "ms");
    report.note(what("compiled size"), prepared.compiled_bytes as f64 / 1024.0, "KiB");

    let rounds = args.size(1_000, 100) / part;
    let reused = host.bind(Arc::clone(&prepared), settings(u32::MAX)?);
    // What only a plugin in Rust can hold.
    let is_rust = part == 1;
    let replaced = best_of(host, &reused, rounds, &data).await?;
    let mut call = replaced;
    if is_rust {
        call = best_of(host, &reused, rounds, &format!("{:PAYLOAD$}", "plain")).await?;
        let accepted = what(&format!("on-deliver of {PAYLOAD} bytes, accepted"));
        report.hold(accepted, call, "ns", Budget::Most(1_000.0));
    }
    report.note(what(&format!("on-deliver of {PAYLOAD} bytes, replaced")), replaced, "ns");

    let anew = host.bind(Arc::clone(&prepared), settings(1)?);
    let fresh = best_of(host, &anew, (rounds / 20).max(1), &data).await?;
    let (first, fresh) = (what("new instance and its first call"), (fresh - call) / 1e3);
    match is_rust {
        true => report.hold(first, fresh, "us", Budget::Most(20.0)),
        false => report.note(first, fresh, "us"),
    }
    if is_rust {
        let one = publish(host, &reused, rounds * 10).await?;
        report.note(what("on-publish through a worker and back, one at a time"), one / 1e3, "us");
    }
    memory(host, &prepared, report, &data, &what("memory of an instance that was called"), 500 / part).await
}

fn host(args: &RunArgs) -> Result<PluginHost> {
    let plugins = PluginsConfig {
        workers: NonZeroUsize::MIN,
        instances: 1_000,
        folder: None,
        folder_bytes: 1 << 30,
        compile_timeout: Duration::from_secs(120),
        compile_memory: 2 << 30,
    };
    let compiler = CompileCommand { program: args.node.clone(), arguments: vec!["compile-plugin".into()] };
    let services =
        Services { backbone: Embedded::new(Arc::new(DirtySet::default())), metrics: Metrics::default() };
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
async fn best_of(host: &PluginHost, plugin: &Arc<Plugin>, rounds: usize, data: &str) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        best = best.min(deliver(host, plugin, rounds, data).await?);
    }
    Ok(best)
}

async fn deliver(host: &PluginHost, plugin: &Arc<Plugin>, rounds: usize, data: &str) -> Result<f64> {
    let channel: Arc<str> = "room:1".into();
    let data = Bytes::copy_from_slice(data.as_bytes());
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
async fn memory(
    host: &PluginHost,
    prepared: &Arc<Prepared>,
    report: &mut Report,
    data: &str,
    what: &str,
    instances: usize,
) -> Result<()> {
    let before = resident(std::process::id())?;
    let mut plugins = Vec::with_capacity(instances);
    for _ in 0..instances {
        let plugin = host.bind(Arc::clone(prepared), settings(u32::MAX)?);
        deliver(host, &plugin, 1, data).await?;
        plugins.push(plugin);
    }
    let more = resident(std::process::id())?.saturating_sub(before);
    report.note(what, more as f64 / 1024.0 / instances as f64, "KiB");
    Ok(())
}
