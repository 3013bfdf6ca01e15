//! Transports: bytes of a socket to frames of the protocol and back. No session, no router, no backbone.

pub mod body;
pub mod framing;
pub mod input;
pub mod lines;
pub mod listener;
pub mod outbox;
pub mod quic;
pub mod socket;
pub mod sse;
pub mod tls;
pub mod websocket;
pub mod webtransport;
pub mod wire;
