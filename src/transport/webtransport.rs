//! The server side of WebTransport over HTTP/3 (draft-ietf-webtrans-http3): one session a connection, one
//! bidirectional stream that the client opens, and datagrams.
//!
//! HTTP/3 is by h3 on top of quinn. A [`Session`] is used from one thread like a socket: it is read and
//! written without waiting, and its [driver](Request::accept) is a future that its owner runs beside.

use std::time::Duration;

use tokio::time::error::Elapsed;

mod backend;
mod capsule;
#[cfg(test)]
pub(crate) mod client;
mod driver;
pub mod frames;
mod request;
mod session;
mod settings;
#[cfg(test)]
mod tests;
mod varint;

pub use capsule::{CapsuleDecoder, CapsuleError, CloseSession, close_session};
pub use request::{Request, accept};
pub use session::{Datagram, Session};

/// The longest pause between [pings](Session::ping), in milliseconds: browsers end a connection after 30 s
/// of silence.
pub const PING_MAX_MS: u64 = 20_000;

/// The datagram that is a heartbeat: a line feed, which no frame is. It is not empty, because pages in
/// Chromium 156 get no datagram any more after an empty one.
pub const HEARTBEAT: u8 = b'\n';

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// The client's code; 0 where it ended the session without saying one; `None` where the connection was
    /// lost.
    pub code: Option<u32>,
    /// What the client said of it, at most 1,024 bytes, or why the connection was lost.
    pub reason: String,
}

/// Why an incoming connection became no session.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// QUIC or TLS failed: another protocol than `h3`, a certificate that the client does not trust, a
    /// client that went away.
    #[error("the handshake failed: {0}")]
    Handshake(quinn::ConnectionError),
    /// The client was too slow to say what it wants.
    #[error("no session was asked for in time")]
    TimedOut,
    /// The client broke HTTP/3.
    #[error("the client broke HTTP/3: {0}")]
    Protocol(String),
    /// The client asked for other things than a session, and too often.
    #[error("the client asked for {0} things and never for a WebTransport session")]
    NoSession(usize),
    /// The connection was lost before there was a session.
    #[error("the connection was lost before there was a session: {0}")]
    Lost(String),
    /// This node is closing its endpoint, or cannot number another connection.
    #[error("this node takes no more connections: {0}")]
    Closing(quinn::ConnectionError),
}

impl AcceptError {
    /// Whether this node is at fault; else it is the client or the network.
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Closing(_))
    }
}

impl From<quinn::ConnectionError> for AcceptError {
    fn from(error: quinn::ConnectionError) -> Self {
        match error {
            quinn::ConnectionError::LocallyClosed | quinn::ConnectionError::CidsExhausted => {
                Self::Closing(error)
            }
            quinn::ConnectionError::TimedOut => Self::TimedOut,
            _ => Self::Handshake(error),
        }
    }
}

impl From<Elapsed> for AcceptError {
    fn from(_: Elapsed) -> Self {
        Self::TimedOut
    }
}

impl From<h3::error::ConnectionError> for AcceptError {
    fn from(error: h3::error::ConnectionError) -> Self {
        match error {
            h3::error::ConnectionError::Local { .. } => Self::Protocol(error.to_string()),
            _ => Self::Lost(error.to_string()),
        }
    }
}

/// How long a client is given to hang up after it was refused or said goodbye.
const HANG_UP: Duration = Duration::from_secs(1);

/// Error codes of HTTP/3 (RFC 9114 section 8.1) and of WebTransport (draft-ietf-webtrans-http3 section 8.5).
mod code {
    pub(super) const NO_ERROR: u32 = 0x100;
    pub(super) const REQUEST_REJECTED: u32 = 0x10b;
    /// `WT_BUFFERED_STREAM_REJECTED`: a stream beyond the one that is taken, or of no session here.
    pub(super) const STREAM_REJECTED: u32 = 0x3994_bd84;
}
