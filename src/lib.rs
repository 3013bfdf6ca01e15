//! Tidegate: an edge push proxy. See `docs/ARCHITECTURE.md` for the floors and who may import whom.

pub mod api;
pub mod auth;
pub mod backbone;
pub mod cli;
pub mod client;
pub mod config;
pub mod delivery;
pub mod directory;
pub mod domain;
pub mod gateway;
pub mod plugin;
pub mod protocol;
pub mod quota;
pub mod router;
pub mod session;
pub mod shard;
pub mod telemetry;
pub mod tenants;
pub mod transport;
