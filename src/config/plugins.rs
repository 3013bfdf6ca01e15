//! `[plugins]` and `[tenants.<id>.plugins]`: where tenants' code runs, what it may take, and what happens
//! when it fails.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use super::http_host::HttpHost;
use super::reader::Section;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// The most memory that an instance can be allowed; pooled slots are made for it.
pub const MAX_PLUGIN_MEMORY: usize = 256 * MIB;

/// How a node runs plugins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginsConfig {
    /// Threads that run guest code.
    pub workers: NonZeroUsize,
    /// Instances that the node has at a time, idle ones included.
    pub instances: usize,
    /// Where machine code is kept between starts; `None`: in a folder that goes with the process.
    pub folder: Option<PathBuf>,
    /// Bytes of machine code that the folder may have. What was not used for the longest time makes room.
    pub folder_bytes: u64,
    /// How much of a processor the compilation of one plugin may take.
    pub compile_timeout: Duration,
    /// Memory that it may take.
    pub compile_memory: usize,
}

/// What a tenant's plugins may take, and what happens when they fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantPlugins {
    /// Bytes of one component.
    pub code_bytes: usize,
    /// Bytes of all components that are kept in the backbone.
    pub stored_bytes: u64,
    /// Bytes of memory of one instance.
    pub memory_bytes: usize,
    /// How long a hook may take, except `authenticate`.
    pub deadline: Duration,
    /// How long `authenticate` may take.
    pub authenticate_deadline: Duration,
    /// Calls at the same time.
    pub concurrency: usize,
    /// Calls that wait.
    pub queue: usize,
    /// Calls that one instance serves before it is made anew.
    pub instance_calls: u32,
    /// Keys in the key-value store.
    pub kv_keys: u64,
    /// Bytes in the key-value store, keys included.
    pub kv_bytes: u64,
    /// Bytes of one value.
    pub kv_value_bytes: usize,
    /// Bytes of the log that a node keeps.
    pub log_bytes: usize,
    /// Lines a second that it takes.
    pub log_lines_per_s: u32,
    /// Hosts that they may ask by `wasi:http`; without one no component that imports it is taken.
    pub http_hosts: Vec<HttpHost>,
    /// Whether a name in that list may lead to a loopback or link-local address, or to one where a cloud hands out
    /// credentials. An address in the list is meant as it stands.
    pub http_local_addresses: bool,
    /// Their requests in flight, on each node.
    pub http_requests: usize,
    /// Bytes of one response's body.
    pub http_response_bytes: u64,
    /// What happens where there is no answer.
    pub on_failure: FailurePolicies,
}

/// What happens where a hook has no answer: trap, deadline, memory, overload, cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailurePolicies {
    /// For `on-subscribe`.
    pub on_subscribe: OnFailure,
    /// For `on-publish`.
    pub on_publish: OnFailure,
    /// For `route`.
    pub route: OnFailure,
    /// For the `on-deliver` hooks.
    pub on_deliver: OnFailure,
}

/// What happens to a request or a message for which a hook has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// It goes on as if there were no plugin.
    Open,
    /// It is refused, and the client is told.
    Refuse,
    /// It is dropped in silence.
    Drop,
    /// It is dropped and kept as a dead letter.
    DeadLetter,
}

impl Default for FailurePolicies {
    fn default() -> Self {
        Self {
            on_subscribe: OnFailure::Refuse,
            on_publish: OnFailure::Refuse,
            route: OnFailure::DeadLetter,
            on_deliver: OnFailure::Drop,
        }
    }
}

impl Default for TenantPlugins {
    fn default() -> Self {
        Self {
            code_bytes: 64 * MIB,
            stored_bytes: 512 << 20,
            memory_bytes: 64 * MIB,
            deadline: Duration::from_millis(10),
            authenticate_deadline: Duration::from_millis(500),
            concurrency: 8,
            queue: 1_024,
            instance_calls: 10_000,
            kv_keys: 10_000,
            kv_bytes: 16 << 20,
            kv_value_bytes: 64 * KIB,
            log_bytes: 256 * KIB,
            log_lines_per_s: 100,
            http_hosts: Vec::new(),
            http_local_addresses: false,
            http_requests: 64,
            http_response_bytes: 1 << 20,
            on_failure: FailurePolicies::default(),
        }
    }
}

/// `[plugins]`.
pub(super) fn plugins(mut section: Section<'_>) -> PluginsConfig {
    let workers = section.number("workers", default_workers(), 1..=1_024);
    PluginsConfig {
        workers: NonZeroUsize::new(workers).unwrap_or(NonZeroUsize::MIN),
        instances: section.number("instances", 512, 8..=10_000),
        folder: section.path("folder"),
        folder_bytes: section.number("folder_bytes", 4 << 30, 1 << 20..=1 << 40),
        compile_timeout: Duration::from_millis(section.number(
            "compile_timeout_ms",
            120_000,
            1_000..=3_600_000,
        )),
        compile_memory: section.number("compile_memory_bytes", 2048 * MIB, 64 * MIB..=64 * 1024 * MIB),
    }
}

/// At least two, so that one plugin that loops does not hold up all others until its deadline.
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2))
}

/// `[tenants.<id>.plugins]`.
pub(super) fn tenant_plugins(mut section: Section<'_>) -> TenantPlugins {
    let base = TenantPlugins::default();
    let on_failure = on_failure(section.section("on_failure"));
    let millis = |section: &mut Section<'_>, key: &str, default: Duration, most| {
        Duration::from_millis(section.number(key, default.as_millis() as u64, 1..=most))
    };
    TenantPlugins {
        code_bytes: section.number("code_bytes", base.code_bytes, KIB..=256 * MIB),
        stored_bytes: section.number("stored_bytes", base.stored_bytes, 0..=64 << 30),
        memory_bytes: section.number("memory_bytes", base.memory_bytes, 64 * KIB..=MAX_PLUGIN_MEMORY),
        deadline: millis(&mut section, "deadline_ms", base.deadline, 1_000),
        authenticate_deadline: millis(
            &mut section,
            "authenticate_deadline_ms",
            base.authenticate_deadline,
            60_000,
        ),
        concurrency: section.number("concurrency", base.concurrency, 1..=1_000),
        queue: section.number("queue", base.queue, 1..=1_000_000),
        instance_calls: section.number("instance_calls", base.instance_calls, 1..=1_000_000_000),
        kv_keys: section.number("kv_keys", base.kv_keys, 0..=10_000_000),
        kv_bytes: section.number("kv_bytes", base.kv_bytes, 0..=16 << 30),
        kv_value_bytes: section.number("kv_value_bytes", base.kv_value_bytes, 0..=MIB),
        log_bytes: section.number("log_bytes", base.log_bytes, 4 * KIB..=64 * MIB),
        log_lines_per_s: section.number("log_lines_per_s", base.log_lines_per_s, 0..=100_000),
        http_hosts: section.list("http_hosts"),
        http_local_addresses: section.flag("http_local_addresses", base.http_local_addresses),
        http_requests: section.number("http_requests", base.http_requests, 1..=10_000),
        http_response_bytes: section.number("http_response_bytes", base.http_response_bytes, 1..=64 << 20),
        on_failure,
    }
}

fn on_failure(mut section: Section<'_>) -> FailurePolicies {
    const OPEN: (&str, OnFailure) = ("open", OnFailure::Open);
    const REFUSE: (&str, OnFailure) = ("refuse", OnFailure::Refuse);
    const DROP: (&str, OnFailure) = ("drop", OnFailure::Drop);
    const DEAD_LETTER: (&str, OnFailure) = ("dead_letter", OnFailure::DeadLetter);
    let base = FailurePolicies::default();
    FailurePolicies {
        on_subscribe: section.choice("on_subscribe", &[REFUSE, OPEN]).unwrap_or(base.on_subscribe),
        on_publish: section.choice("on_publish", &[REFUSE, OPEN]).unwrap_or(base.on_publish),
        route: section.choice("route", &[DEAD_LETTER, DROP, OPEN]).unwrap_or(base.route),
        on_deliver: section.choice("on_deliver", &[DROP, OPEN, DEAD_LETTER]).unwrap_or(base.on_deliver),
    }
}
