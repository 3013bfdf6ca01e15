//! The host with real components: one in Rust that has every hook, and some written by hand that misbehave.
//! Nothing here depends on how long anything takes.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::answers::AnswerLimits;
use super::compile::child::{self, Order};
use super::compile::{CompileCommand, NodeKey};
use super::*;
use crate::backbone::embedded::Embedded;
use crate::backbone::wake::DirtySet;
use crate::config::{OnFailure, PluginsConfig, TenantPlugins};
use crate::domain::{Offset, TenantId};
use crate::telemetry::{Metrics, PluginOutcome};

mod calls;
mod compiling;
mod failures;
mod guests;
mod http;
mod uploads;

/// The plugin of `plugins/probe`.
pub(super) const PROBE: &[u8] = include_bytes!("../../plugins/probe/probe.wasm");

/// A host with a backbone in memory.
pub(crate) struct Rig {
    pub(crate) host: Arc<PluginHost>,
    pub(crate) backbone: Arc<Embedded>,
    metrics: Metrics,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(config(), NodeKey::random())
    }

    fn with(plugins: PluginsConfig, key: NodeKey) -> Self {
        let metrics = Metrics::default();
        let backbone = Embedded::new(Arc::new(DirtySet::default()));
        let services = Services { backbone: backbone.clone(), metrics: metrics.clone() };
        let host = PluginHost::start(HostConfig { plugins, compiler: compiler(), key }, services).unwrap();
        Self { host: Arc::new(host), backbone, metrics }
    }

    async fn plugin(&self, bytes: &[u8], settings: Settings) -> Arc<Plugin> {
        let prepared = self.host.prepare(Bytes::copy_from_slice(bytes), &settings).await.unwrap();
        self.host.bind(prepared, settings)
    }

    pub(crate) async fn probe(&self) -> Arc<Plugin> {
        self.plugin(PROBE, settings("acme")).await
    }

    /// The probe for a tenant that wants this where it does not answer.
    pub(crate) async fn probe_that_fails(&self, on_deliver: OnFailure) -> Arc<Plugin> {
        let mut settings = settings("acme");
        settings.limits.on_failure.on_deliver = on_deliver;
        self.plugin(PROBE, settings).await
    }

    async fn refused(&self, bytes: &[u8]) -> Rejection {
        self.host.prepare(Bytes::copy_from_slice(bytes), &settings("acme")).await.unwrap_err()
    }

    /// What plugins of the tenant `acme` have written to their standard output.
    fn output(&self) -> Vec<String> {
        let acme = TenantId::parse("acme").unwrap();
        let (lines, _) = self.host.log(&acme, &settings("acme").limits).read(0);
        lines.iter().filter(|line| &*line.context == "stdout").map(|line| line.message.to_string()).collect()
    }

    fn count(&self, hook: Hook, outcome: PluginOutcome) -> u64 {
        let acme = TenantId::parse("acme").unwrap();
        self.metrics.tenant(&acme).plugin_calls.of(hook).of(outcome).get()
    }
}

pub(super) fn config() -> PluginsConfig {
    PluginsConfig {
        workers: NonZeroUsize::new(2).unwrap(),
        instances: 16,
        folder: None,
        folder_bytes: 1 << 30,
        compile_timeout: Duration::from_secs(600),
        compile_memory: 2 << 30,
    }
}

/// Generous deadlines: other programs may need the processor too.
pub(super) fn settings(tenant: &str) -> Settings {
    let second = Duration::from_secs(1);
    Settings {
        tenant: TenantId::parse(tenant).unwrap(),
        name: "probe".into(),
        settings: vec![("greeting".into(), "hello".into())],
        limits: TenantPlugins {
            deadline: 20 * second,
            authenticate_deadline: 20 * second,
            ..TenantPlugins::default()
        },
        answers: AnswerLimits { payload_bytes: 64 << 10, targets: 100 },
    }
}

fn impatient() -> Settings {
    let limits = TenantPlugins { deadline: Duration::from_millis(10), ..settings("acme").limits };
    Settings { limits, ..settings("acme") }
}

pub(super) fn message(data: &str) -> Delivery {
    Delivery {
        offset: Offset { ms: 1_700_000_000_123, seq: 4 },
        channel: "room:1".into(),
        data: Bytes::copy_from_slice(data.as_bytes()),
        facts: Facts::default(),
        class: None,
        recipient: None,
    }
}

/// What a message became, as text.
fn text(verdict: &Result<DeliverVerdict, Failure>) -> &str {
    match verdict {
        Ok(DeliverVerdict::Replace(replacement)) => std::str::from_utf8(&replacement.data).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// This test program compiles when it is called with the name of [`compiling_process`].
pub(super) fn compiler() -> CompileCommand {
    let arguments = ["--ignored", "--exact", "--nocapture", "plugin::tests::compiling_process", "--"];
    CompileCommand {
        program: std::env::current_exe().unwrap(),
        arguments: arguments.into_iter().map(Into::into).collect(),
    }
}

#[test]
#[ignore = "the process that compiles in the other tests"]
#[expect(clippy::disallowed_methods, reason = "the exit code is what it is about")]
fn compiling_process() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    // Somebody asked for all ignored tests.
    let (Some(input), Some(output)) = (value("--input"), value("--output")) else { return };
    let order = Order {
        input: input.into(),
        output: output.into(),
        memory_bytes: value("--memory-bytes").unwrap().parse().unwrap(),
        seconds: value("--seconds").unwrap().parse().unwrap(),
    };
    std::process::exit(child::run(&order).into());
}
