//! Tenants' plugins: WebAssembly components behind the contract in `wit/`.
//!
//! From bytes to a verdict: [`inspect`] reads what was uploaded and says what is wrong with it, [`compile`]
//! has a child process make machine code of it and keeps that, [`prepare`] links and tries it, [`host`]
//! takes calls for it, and `workers` run them, fair between tenants, on `instance`s that live on one
//! worker each. What came of a call says [`outcome`]. Servers that plugins ask are asked by `http`, on the node's
//! runtime.
//!
//! Which version is on says a tenant's [`catalog`], a value that is changed as a whole. The [`store`] keeps it and
//! the bytes in the backbone; the [`rollout`] of each node reads it, has ready what it names, and keeps the
//! [`tables`] that callers look at.
//!
//! *Invariants*: guest code runs on worker threads and nowhere else, within a deadline and a memory limit. An
//! instance serves one tenant's one plugin, and none after a trap. What a guest answers is checked before it
//! leaves here. Machine code is loaded only if this node made it. `unsafe` stands in two places: what the
//! derives of [`contract`] write, and the load in `compile::load`.

pub mod answers;
pub mod breaker;
pub mod catalog;
pub mod compile;
pub mod contract;
pub mod engine;
pub mod facts;
pub mod hooks;
pub mod host;
mod http;
mod imports;
pub mod inspect;
mod instance;
pub mod log;
pub mod news;
pub mod outcome;
pub mod prepare;
pub mod rollout;
pub mod store;
pub mod tables;
mod turns;
mod workers;

#[cfg(test)]
pub(crate) mod tests;

pub use answers::{Admission, DeliverVerdict, PublishVerdict, RouteVerdict, SubscribeVerdict};
pub use facts::{About, Facts};
pub use hooks::{Hook, Hooks, Scope};
pub use host::{Delivery, HostConfig, Plugin, PluginHost, Rehearsal, Services, Settings};
pub use inspect::Rejection;
pub use news::NewsDesk;
pub use outcome::Failure;
pub use prepare::{ContentHash, Prepared};
pub use tables::{Table, Tables, TablesKeeper};

/// How long a client waits at most for a node that does not know what is on.
const CATCH_UP: std::time::Duration = std::time::Duration::from_secs(2);

/// The plugins of all tenants for whoever calls hooks: which is on, and what calls it.
#[derive(Clone)]
pub struct Plugins {
    /// Which version of what is on.
    pub tables: Tables,
    /// What runs them; `None` where nothing is ever on.
    pub host: Option<std::sync::Arc<PluginHost>>,
}

impl Plugins {
    /// Waits until this node knows what is on at a moment of the backbone's clock: at once, but for one that could not
    /// look for a while. It waits two seconds at most, so that a backbone that is away turns no client away.
    /// Cancel-safe.
    pub async fn catch_up(&self, at_ms: u64) {
        if self.tables.known_until_ms() < at_ms {
            let _ = tokio::time::timeout(CATCH_UP, self.tables.known(at_ms)).await;
        }
    }

    /// Who is called for a client, if anybody: see [`Table::for_client`].
    pub fn for_client(
        &self,
        tenant: &crate::domain::TenantId,
        hook: Hook,
        now_ms: u64,
        who: &[u8],
    ) -> Option<(std::sync::Arc<PluginHost>, std::sync::Arc<Plugin>)> {
        let host = self.host.as_ref()?;
        let plugin = self.tables.of(tenant)?.for_client(hook, now_ms, who)?.clone();
        Some((host.clone(), plugin))
    }

    /// None at all, for ever.
    pub fn none() -> Self {
        Self { tables: Tables::none(), host: None }
    }
}
