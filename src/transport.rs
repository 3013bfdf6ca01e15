//! Transports: bytes of a socket to frames of the protocol and back. No session, no router, no backbone.

pub mod listener;
pub mod outbox;
pub mod websocket;
