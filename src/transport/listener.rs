//! Listening: a socket a shard on one address, and accept failures by whose fault they are.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;

/// Connections that the kernel completes ahead of `accept`. Each costs kernel memory only; the system
/// caps it by `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Binds `shards` listening sockets, at least one, to one address; the kernel spreads new connections
/// over them (`SO_REUSEPORT`). They are non-blocking. With port 0 the kernel picks one port for all.
/// The answer begins with the address that was bound.
///
/// # Errors
/// An error names the address, not the flag that gave it, which only the caller knows. An address in
/// use is an error even where its user also set `SO_REUSEPORT`: two nodes never share a port by mistake.
pub fn bind_shards(address: SocketAddr, shards: usize) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"));
    let first = bind(address, false).map_err(named)?;
    // Set only after the bind, so that the bind itself refuses an address that somebody else holds.
    first.set_reuse_port(shards > 1).map_err(named)?;
    let bound = first.local_addr().map_err(named)?.as_socket().unwrap_or(address);
    let mut sockets = vec![first];
    for _ in 1..shards {
        sockets.push(bind(bound, true).map_err(named)?);
    }
    // None listens before all are bound: a connection is not given to a node that then fails to start.
    for socket in &sockets {
        socket.listen(BACKLOG).map_err(named)?;
    }
    Ok((bound, sockets.into_iter().map(TcpListener::from).collect()))
}

fn bind(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a node that just ended linger in TIME_WAIT and do not keep the next from starting.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Why no connection was accepted, by whose fault it is.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// That one connection failed before it was accepted. Accept the next.
    #[error("a connection failed before it was accepted: {0}")]
    Connection(io::Error),
    /// This machine has no file descriptors or memory left. Wait a little, then accept again: the
    /// connection stays in the backlog.
    #[error("no resources are left to accept a connection: {0}")]
    Exhausted(io::Error),
    /// The listening socket itself is broken; it will not accept again.
    #[error("the listening socket is broken: {0}")]
    Listener(io::Error),
}

impl AcceptError {
    /// How long to wait before accepting again; `None` where there is no use in it.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Connection(_) => Some(Duration::ZERO),
            Self::Exhausted(_) => Some(Duration::from_millis(100)),
            Self::Listener(_) => None,
        }
    }
}

impl From<io::Error> for AcceptError {
    /// Sorts what `accept(2)` can say. On Linux it also reports errors that a pending connection met on
    /// the network, to be treated like no connection (`man 2 accept`, "Error handling").
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => Self::Exhausted(error),
            Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EFAULT) | None => Self::Listener(error),
            Some(_) => Self::Connection(error),
        }
    }
}

/// Accepts one connection and sets `TCP_NODELAY`: what is written is a whole frame and not to be held
/// back.
///
/// Cancel-safe: dropped before it resolves, it has taken no connection.
///
/// # Errors
/// [`AcceptError`] says whether to go on.
pub async fn accept(listener: &tokio::net::TcpListener) -> Result<(TcpStream, SocketAddr), AcceptError> {
    let (stream, peer) = listener.accept().await?;
    // It fails only for a connection that is gone already.
    stream.set_nodelay(true).map_err(AcceptError::Connection)?;
    Ok((stream, peer))
}

/// Closes a listening socket, and returns the connections that the kernel had completed for it by then:
/// those that nobody accepts would be reset. Only what is completed between the last look and the close
/// still is.
pub fn accept_rest(listener: tokio::net::TcpListener) -> Vec<(TcpStream, SocketAddr)> {
    let mut rest = Vec::new();
    let Ok(listener) = listener.into_std() else { return rest };
    // Any failure counts as the end: there is nobody left to try again.
    while let Ok((stream, peer)) = listener.accept() {
        let ready = stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true));
        if let Ok(stream) = ready.and_then(|()| TcpStream::from_std(stream)) {
            rest.push((stream, peer));
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY_PORT: &str = "127.0.0.1:0";

    #[test]
    fn all_shards_share_the_port_that_the_first_got() {
        let (address, listeners) = bind_shards(ANY_PORT.parse().unwrap(), 4).unwrap();
        assert_ne!(address.port(), 0);
        assert_eq!(listeners.len(), 4);
        assert!(listeners.iter().all(|listener| listener.local_addr().unwrap() == address));
        let would_block = listeners[3].accept().unwrap_err();
        assert_eq!(would_block.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn an_address_in_use_is_named_and_never_shared() {
        let (address, _listeners) = bind_shards(ANY_PORT.parse().unwrap(), 2).unwrap();
        for shards in [1, 2] {
            let error = bind_shards(address, shards).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
            assert!(error.to_string().contains(&address.to_string()), "{error}");
        }
    }

    #[test]
    fn the_port_is_free_again_at_once() {
        let (address, listeners) = bind_shards(ANY_PORT.parse().unwrap(), 2).unwrap();
        let client = std::net::TcpStream::connect(address).unwrap();
        drop(listeners);
        drop(client);
        bind_shards(address, 2).unwrap();
    }

    #[tokio::test]
    async fn every_connection_reaches_one_of_the_shards() {
        let (address, listeners) = bind_shards(ANY_PORT.parse().unwrap(), 2).unwrap();
        let listeners: Vec<_> =
            listeners.into_iter().map(|socket| tokio::net::TcpListener::from_std(socket).unwrap()).collect();
        for _ in 0..8 {
            let client = TcpStream::connect(address).await.unwrap();
            let (stream, peer) = tokio::select! {
                accepted = accept(&listeners[0]) => accepted.unwrap(),
                accepted = accept(&listeners[1]) => accepted.unwrap(),
            };
            assert_eq!(peer, client.local_addr().unwrap());
            assert!(stream.nodelay().unwrap());
        }
    }

    #[test]
    fn failures_are_sorted_by_fault() {
        let sorted = |code| AcceptError::from(io::Error::from_raw_os_error(code));
        assert!(matches!(sorted(libc::ECONNABORTED), AcceptError::Connection(_)));
        assert!(matches!(sorted(libc::EHOSTUNREACH), AcceptError::Connection(_)));
        assert!(matches!(sorted(libc::EMFILE), AcceptError::Exhausted(_)));
        assert!(sorted(libc::ENFILE).retry_after().unwrap() > Duration::ZERO);
        assert!(matches!(sorted(libc::EBADF), AcceptError::Listener(_)));
        assert_eq!(sorted(libc::EINVAL).retry_after(), None);
    }

    #[tokio::test]
    async fn connections_in_the_queue_are_not_reset_by_the_close() {
        let (address, mut listeners) = bind_shards(ANY_PORT.parse().unwrap(), 1).unwrap();
        let listener = tokio::net::TcpListener::from_std(listeners.remove(0)).unwrap();
        let clients: Vec<_> = (0..5).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        let rest = accept_rest(listener);
        let mut peers: Vec<_> = rest.iter().map(|(_, peer)| *peer).collect();
        let mut expected: Vec<_> = clients.iter().map(|client| client.local_addr().unwrap()).collect();
        peers.sort_unstable();
        expected.sort_unstable();
        assert_eq!(peers, expected);
        std::net::TcpStream::connect(address).unwrap_err();
    }
}
