//! The RESP listener: the embedded backbone's streams for backends, with any Redis client.
//!
//! It is a default, not a Redis: stream commands, transactions and what clients send to make a
//! connection; everything else gets Redis's own error for an unknown command. Its walls: it listens on
//! loopback only unless it has a password, takes no inline commands (so a browser's `GET` or `POST`
//! ends the connection), and bounds strings, arguments, transactions and connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backbone::embedded::Embedded;
use session::{Session, Shared};

mod args;
mod claims;
mod commands;
mod connection;
mod groups;
mod keys;
mod reading;
mod server;
mod session;
mod streams;
#[cfg(test)]
mod tests;
mod xinfo;

/// After a failed accept, as when file descriptors run out, the next is not tried at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A peer that vanished without a word is noticed after about this long.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// How the listener serves.
#[derive(Debug, Clone)]
pub struct Options {
    /// What `AUTH` and `HELLO … AUTH` must bring, as the user `default`. Without one only loopback is
    /// served, and an empty one is none.
    pub password: Option<String>,
    /// Connections at a time; further ones are told so and closed. Each costs 20 KB, up to some
    /// 5 MiB while it sends its largest request and 20 MiB in its largest transaction.
    pub max_connections: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { password: None, max_connections: 256 }
    }
}

/// Why the listener does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Anybody who can reach it could read and write every stream.
    #[error(
        "the RESP listener on {0} is reachable from other machines: set a password or listen on 127.0.0.1"
    )]
    Exposed(SocketAddr),
    /// The listener is not usable.
    #[error("the RESP listener has no address: {0}")]
    Listener(#[from] std::io::Error),
}

/// Serves the streams until `cancel`, then ends every connection and returns when all have ended.
///
/// Dropping the future stops accepting; connections then end with `cancel`.
pub async fn serve(
    listener: TcpListener,
    embedded: Arc<Embedded>,
    options: Options,
    cancel: CancellationToken,
) -> Result<(), ServeError> {
    let address = listener.local_addr()?;
    // An empty password is none.
    let password = options.password.as_deref().filter(|password| !password.is_empty());
    if password.is_none() && !address.ip().to_canonical().is_loopback() {
        return Err(ServeError::Exposed(address));
    }
    let shared = Arc::new(Shared::new(embedded, password, address.port()));
    let connections = TaskTracker::new();
    while let Some(accepted) = cancel.run_until_cancelled(listener.accept()).await {
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::warn!(%error, "the RESP listener could not accept a connection");
                let _ = cancel.run_until_cancelled(tokio::time::sleep(ACCEPT_PAUSE)).await;
                continue;
            }
        };
        if connections.len() >= options.max_connections {
            refuse(socket).await;
            continue;
        }
        let (session, cancel) = (Session::new(shared.clone()), cancel.clone());
        connections.spawn(async move {
            // How a backend's connection ends is its own affair.
            let _ = cancel.run_until_cancelled(connect(socket, session)).await;
        });
    }
    connections.close();
    connections.wait().await;
    Ok(())
}

async fn connect(socket: TcpStream, session: Session) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    SockRef::from(&socket).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    connection::run(socket, session).await
}

/// Tells one client too many. The few bytes fit any fresh socket's buffer, so this does not wait.
async fn refuse(mut socket: TcpStream) {
    let _ = socket.write_all(b"-ERR max number of clients reached\r\n").await;
}
