//! HTTP: the admin listener, and publishing.

pub mod admin;
#[cfg(test)]
mod fake;
pub mod health;
pub mod metrics;
pub mod publish;
//! What a node serves beside its clients.

pub mod resp;
