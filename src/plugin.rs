//! Tenants' plugins: WebAssembly components behind the contract in `wit/`.
//!
//! From bytes to a verdict: [`inspect`] reads what was uploaded and says what is wrong with it, [`compile`]
//! has a child process make machine code of it and keeps that, [`prepare`] links and tries it, [`host`]
//! takes calls for it, and `workers` run them, fair between tenants, on `instance`s that live on one
//! worker each. What came of a call says [`outcome`].
//!
//! *Invariants*: guest code runs on worker threads and nowhere else, within a deadline and a memory limit. An
//! instance serves one tenant's one plugin, and none after a trap. What a guest answers is checked before it
//! leaves here. Machine code is loaded only if this node made it. `unsafe` stands in two places: what the
//! derives of [`contract`] write, and the load in `compile::load`.

pub mod answers;
pub mod breaker;
pub mod compile;
pub mod contract;
pub mod engine;
pub mod facts;
pub mod hooks;
pub mod host;
mod imports;
pub mod inspect;
mod instance;
pub mod log;
pub mod outcome;
pub mod prepare;
pub mod tables;
mod workers;

#[cfg(test)]
mod tests;

pub use answers::{Admission, DeliverVerdict, PublishVerdict, RouteVerdict, SubscribeVerdict};
pub use facts::{Facts, HeaderSource};
pub use hooks::{Hook, Hooks, Scope};
pub use host::{Delivery, HostConfig, Plugin, PluginHost, Services, Settings};
pub use inspect::Rejection;
pub use outcome::Failure;
pub use prepare::Prepared;
pub use tables::{Table, Tables, TablesKeeper};
