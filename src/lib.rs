//! Tidegate: an edge push proxy. See `docs/ARCHITECTURE.md` for the floors and who may import whom.

pub mod auth;
pub mod api;
pub mod backbone;
pub mod cli;
pub mod config;
pub mod domain;
pub mod protocol;
pub mod router;
pub mod transport;
pub mod tenants;
pub mod telemetry;
