//! What a node serves beside its clients: publishing, the admin listener, and RESP for backends.

pub mod admin;
pub mod answer;
pub mod cors;
pub mod dead_letters;
pub mod drain;
#[cfg(test)]
mod fake;
pub mod health;
pub mod metrics;
pub mod openapi;
pub mod plugins;
pub mod publish;
pub mod resp;
pub mod route;
pub mod sessions;
pub mod tickets;
