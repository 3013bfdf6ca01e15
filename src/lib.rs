//! Tidegate: an edge push proxy. See `docs/ARCHITECTURE.md` for the floors and who may import whom.

pub mod api;
pub mod backbone;
pub mod domain;
pub mod protocol;
