//! What a node serves beside its clients.

pub mod resp;
