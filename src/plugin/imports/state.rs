//! What an instance's host functions know.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::ResourceLimiter;

use super::super::engine::{CORE_INSTANCES, MEMORIES, TABLE_ELEMENTS, TABLES};
use super::super::facts::Facts;
use super::super::http::HttpAccess;
use super::super::log::{Level, TenantLog};
use super::super::turns::Meter;
use super::output::{Stream, Unsaid};
use super::wasi::Wasi;
use crate::backbone::Backbone;
use crate::backbone::kv::KvStore;
use crate::domain::{Offset, TenantId};

/// What all instances of one tenant's plugin share.
pub(in crate::plugin) struct Environment {
    pub(in crate::plugin) tenant: TenantId,
    /// The plugin's name, for its log lines.
    pub(in crate::plugin) name: Arc<str>,
    /// The hash of its bytes.
    pub(in crate::plugin) version: Arc<str>,
    pub(in crate::plugin) settings: Vec<(String, String)>,
    pub(in crate::plugin) log: Arc<TenantLog>,
    pub(in crate::plugin) backbone: Arc<dyn Backbone>,
    pub(in crate::plugin) kv: KvStore,
    pub(in crate::plugin) kv_value_bytes: usize,
    pub(in crate::plugin) memory_bytes: usize,
    /// What it may ask for by `wasi:http`.
    pub(in crate::plugin) http: HttpAccess,
}

impl Environment {
    pub(super) fn log(&self, level: Level, context: &str, message: &str) {
        self.log.add(self.backbone.clock().now_ms(), &self.name, level, context, message);
    }
}

/// What is known of the call that is under way.
#[derive(Debug, Default)]
pub(in crate::plugin) struct CallContext {
    pub(in crate::plugin) facts: Facts,
    /// The message's offset, in a pure call.
    pub(in crate::plugin) at: Option<Offset>,
    /// Random numbers that a pure call has had.
    pub(in crate::plugin) drawn: u64,
}

/// An instance's side of the host.
pub(in crate::plugin) struct HostState {
    pub(in crate::plugin) environment: Arc<Environment>,
    pub(in crate::plugin) call: CallContext,
    pub(in crate::plugin) limiter: Limiter,
    /// What the guest has run in the call that is under way, where it may wait.
    pub(in crate::plugin) meter: Arc<Meter>,
    /// How long the call that is under way may take, where it may wait.
    pub(in crate::plugin) deadline: Duration,
    /// Only of a component that imports `wasi:http`, and only once it has called something of WASI.
    pub(super) wasi: Option<Box<Wasi>>,
    pub(super) stdout: Unsaid,
    pub(super) stderr: Unsaid,
}

impl HostState {
    pub(in crate::plugin) fn new(environment: Arc<Environment>) -> Self {
        let limiter = Limiter { most: environment.memory_bytes, ..Limiter::default() };
        let (call, meter, stdout, stderr) = Default::default();
        Self { environment, call, limiter, meter, deadline: Duration::ZERO, wasi: None, stdout, stderr }
    }

    pub(in crate::plugin) fn now_ms(&self) -> u64 {
        self.call.at.map_or_else(|| self.environment.backbone.clock().now_ms(), |at| at.ms)
    }

    pub(super) fn log(&self, level: Level, context: &str, message: &str) {
        self.environment.log(level, context, message);
    }
}

impl Drop for HostState {
    fn drop(&mut self) {
        self.stdout.end(&self.environment, Stream::Stdout);
        self.stderr.end(&self.environment, Stream::Stderr);
    }
}

/// Holds all memories of an instance together below its limit, and remembers that it refused.
#[derive(Debug, Default)]
pub(in crate::plugin) struct Limiter {
    most: usize,
    bytes: usize,
    /// More memory was refused since this was last looked at.
    pub(in crate::plugin) refused: bool,
}

impl Limiter {
    /// Bytes of all memories.
    pub(in crate::plugin) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let bytes = self.bytes.saturating_add(desired.saturating_sub(current));
        // Beyond its own maximum a guest knows to stop; that is no fault of the limit.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        if bytes > self.most {
            self.refused = true;
            return Ok(false);
        }
        self.bytes = bytes;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS)
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES
    }

    fn tables(&self) -> usize {
        TABLES
    }

    fn memories(&self) -> usize {
        MEMORIES
    }
}
