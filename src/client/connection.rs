//! One connection, whatever carries it.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;

use serde_json::Value;

use super::http::Stream;
use super::websocket::WebSocket;
use super::webtransport::Session;
use super::{ClientError, Transport};

/// What comes over a connection.
#[derive(Debug)]
pub(super) enum Heard {
    /// A frame.
    Frame(Value),
    /// The other end is there.
    Heartbeat,
    /// It ended with this code; 1006 without one.
    Closed { code: u16, reason: String },
}

impl Heard {
    /// An end that nobody announced: nothing speaks against coming back.
    pub(super) fn broken(why: &dyn Display) -> Self {
        Self::Closed { code: 1006, reason: format!("the connection broke: {why}") }
    }
}

/// One connection.
pub(super) enum Connection {
    WebSocket(Box<WebSocket>),
    WebTransport(Box<Session>),
    Sse(Box<Stream>),
    Ndjson(Box<Stream>),
}

impl Connection {
    pub(super) fn transport(&self) -> Transport {
        match self {
            Self::WebSocket(_) => Transport::WebSocket,
            Self::WebTransport(_) => Transport::WebTransport,
            Self::Sse(_) => Transport::Sse,
            Self::Ndjson(_) => Transport::Ndjson,
        }
    }

    /// What comes next. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Heard, ClientError> {
        match self {
            Self::WebSocket(socket) => socket.next().await,
            Self::WebTransport(session) => session.next().await,
            Self::Sse(stream) | Self::Ndjson(stream) => stream.next().await,
        }
    }

    /// Sends a frame. Dropping the future may leave it sent or not; it is never sent by half.
    pub(super) async fn send(&mut self, frame: &Value) -> Result<(), ClientError> {
        match self {
            Self::WebSocket(socket) => socket.send(frame).await,
            Self::WebTransport(session) => session.send(frame).await,
            Self::Sse(stream) | Self::Ndjson(stream) => stream.send(frame).await,
        }
    }

    /// Says goodbye where the transport has one.
    pub(super) async fn close(self) {
        match self {
            Self::WebSocket(socket) => socket.close().await,
            Self::WebTransport(session) => session.close().await,
            Self::Sse(_) | Self::Ndjson(_) => {}
        }
    }

    /// Goes on from another UDP port; `None` where there is no such thing.
    pub(super) fn rebind(&self) -> Option<io::Result<SocketAddr>> {
        match self {
            Self::WebTransport(session) => Some(session.rebind()),
            _ => None,
        }
    }
}
