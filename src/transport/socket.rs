//! A connection's way to its client, whatever carries it: read and written without waiting, in the manner of
//! [`TcpStream`], by the one thread that owns it.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::body::BodySender;
use super::outbox::{Flush, Outbox};
use super::webtransport::{Datagram, Session};

pub mod tls;

use tls::TlsSocket;

/// How long a client may take to hang up after the last word.
const HANG_UP: Duration = Duration::from_secs(2);

/// A connection. A clone is the same connection.
#[derive(Clone)]
pub enum Socket {
    /// Plain TCP.
    Tcp(Arc<TcpStream>),
    /// TLS over TCP.
    Tls(Rc<TlsSocket>),
    /// A WebTransport session and its one stream.
    WebTransport(Rc<Session>),
    /// The body of an answer over HTTP: it brings nothing from the client.
    Body(Rc<BodySender>),
}

impl Socket {
    /// Whether both are the same connection.
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(one), Self::Tcp(other)) => Arc::ptr_eq(one, other),
            (Self::Tls(one), Self::Tls(other)) => Rc::ptr_eq(one, other),
            (Self::WebTransport(one), Self::WebTransport(other)) => Rc::ptr_eq(one, other),
            (Self::Body(one), Self::Body(other)) => Rc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// Where the client is now: a client of WebTransport may change its address.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.peer_addr().ok(),
            Self::Tls(tls) => tls.tcp().peer_addr().ok(),
            Self::WebTransport(session) => Some(session.peer_addr()),
            Self::Body(body) => body.tcp().peer_addr().ok(),
        }
    }

    /// Waits until there may be something to read, or the connection is over. Cancel-safe.
    ///
    /// # Errors
    /// When the connection is broken.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.readable().await,
            Self::Tls(tls) => tls.readable().await,
            Self::WebTransport(session) => session.readable().await,
            Self::Body(body) => {
                body.gone().await;
                Ok(())
            }
        }
    }

    /// Reads what there is. 0: the client sends no more.
    ///
    /// # Errors
    /// `WouldBlock` where there is nothing now; anything else is the end.
    pub fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(into),
            Self::Tls(tls) => tls.try_read(into),
            Self::WebTransport(session) => session.try_read(into),
            Self::Body(body) => {
                if body.is_gone() {
                    Ok(0)
                } else {
                    Err(io::ErrorKind::WouldBlock.into())
                }
            }
        }
    }

    /// Writes what waits until it is all written or the connection takes no more. It never waits.
    pub fn flush(&self, outbox: &mut Outbox) -> Flush {
        match self {
            Self::Tcp(stream) => outbox.flush(stream),
            Self::Tls(tls) => tls.flush(outbox),
            Self::WebTransport(session) => outbox.flush_with(|slices| session.try_write_vectored(slices)),
            Self::Body(body) => body.flush(outbox),
        }
    }

    /// Waits until the connection may take more. Cancel-safe.
    ///
    /// # Errors
    /// When the connection is broken.
    pub async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.writable().await,
            Self::Tls(tls) => tls.tcp().writable().await,
            Self::WebTransport(session) => session.writable().await,
            Self::Body(body) => body.writable().await,
        }
    }

    /// The code that the client closed the connection with, once nothing more can be read, where that does not
    /// stand among its frames.
    pub async fn close_code(&self) -> Option<u16> {
        match self {
            Self::WebTransport(session) => {
                let closed = timeout(HANG_UP, session.closed()).await.ok()?;
                closed.code?.try_into().ok()
            }
            Self::Tcp(_) | Self::Tls(_) | Self::Body(_) => None,
        }
    }

    /// Sends beside the stream what may get lost. `false`: this connection has no such way, or not for this
    /// much now.
    pub fn send_datagram(&self, make: impl FnOnce() -> Datagram) -> bool {
        match self {
            Self::WebTransport(session) => session.send_datagram(&make()),
            Self::Tcp(_) | Self::Tls(_) | Self::Body(_) => false,
        }
    }

    /// Sends what keeps a quiet connection alive, where that does not stand among the frames.
    pub fn ping(&self) {
        if let Self::WebTransport(session) = self {
            session.ping();
        }
    }

    /// A moment up to which the client, or the network's end at it, surely took what was sent; as of `now`.
    /// `None` where only what the client says itself tells.
    pub fn heard(&self, now: Instant) -> Option<Instant> {
        match self {
            Self::Tcp(_) | Self::Tls(_) => None,
            Self::WebTransport(session) => session.heard(now),
            Self::Body(body) => body.heard(now),
        }
    }

    /// Whether a client that is gone ends the connection by itself, so that none has to be ended for an answer that
    /// is late.
    pub fn ends_by_itself(&self) -> bool {
        matches!(self, Self::Body(_))
    }

    /// Ends the connection after all that was written: says why where the transport can, and waits a moment for
    /// the client to hang up.
    pub async fn end(&self, code: u16, reason: &str) {
        match self {
            Self::Tcp(stream) => self.hang_up(stream).await,
            Self::Tls(tls) => {
                tls.say_goodbye();
                self.hang_up(tls.tcp()).await;
            }
            Self::WebTransport(session) => session.close(code.into(), reason).await,
            Self::Body(body) => body.end(),
        }
    }

    async fn hang_up(&self, stream: &TcpStream) {
        let socket = socket2::SockRef::from(stream);
        if socket.shutdown(std::net::Shutdown::Write).is_ok() {
            let _ = timeout(HANG_UP, self.hung_up()).await;
            // The reader sees this as the end; a client that hung up already makes it fail, which is fine.
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Reads and drops what a client still sends, until it hangs up.
    pub async fn hung_up(&self) {
        let mut dropped = [0; 256];
        while self.readable().await.is_ok() {
            match self.try_read(&mut dropped) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => return,
            }
        }
    }
}
