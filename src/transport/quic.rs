//! QUIC: one endpoint a node, on a thread of its own, that hands connections to shards.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use quinn::{EndpointConfig, TokioRuntime};
use socket2::SockRef;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::tls::Certificates;

mod config;
#[cfg(test)]
mod tests;

pub(super) use config::SEND_WINDOW;

/// Handshakes that may be under way at once on this node. Each costs some 50 KB until it is done.
const HANDSHAKES: usize = 2_048;

/// From so many handshakes under way on, a client has to prove first that its address is its own (RFC
/// 9000 section 8.1.2): it costs clients a round trip, and this node nothing.
const RETRY_FROM: usize = 256;

/// Bytes of packets that the kernel may keep each way. It gives at most `net.core.rmem_max` and
/// `net.core.wmem_max`.
const KERNEL_BUFFER: usize = 4 << 20;

/// How long peers are given to hear that their connections are closed.
const LAST_WORD: Duration = Duration::from_secs(1);

/// A connection that begins. Dropping it refuses it.
#[derive(Debug)]
pub struct Incoming {
    quinn: quinn::Incoming,
    permit: OwnedSemaphorePermit,
}

impl Incoming {
    /// The client's address, as it says; it may not be proven yet.
    pub fn remote_address(&self) -> SocketAddr {
        self.quinn.remote_address()
    }

    /// Refuses it. The client learns no reason: QUIC has `CONNECTION_REFUSED` (RFC 9000 section 20.1).
    pub fn refuse(self) {
        self.quinn.refuse();
    }

    /// Begins the handshake on the runtime of the caller, where the connection stays. The permit is to be
    /// held until the client has said what it wants.
    pub(super) fn accept(self) -> Result<(quinn::Connecting, OwnedSemaphorePermit), quinn::ConnectionError> {
        Ok((self.quinn.accept()?, self.permit))
    }
}

/// What became of connections that began, since the start.
#[derive(Debug, Default)]
pub struct Counts {
    handed: AtomicU64,
    retried: AtomicU64,
    refused: AtomicU64,
}

impl Counts {
    /// Handed to a shard.
    pub fn handed(&self) -> u64 {
        self.handed.load(Ordering::Relaxed)
    }

    /// Asked to prove their address first.
    pub fn retried(&self) -> u64 {
        self.retried.load(Ordering::Relaxed)
    }

    /// Refused: too many handshakes are under way, no shard takes more, or the endpoint is closing.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// The endpoint of a node: one UDP socket, so that a connection survives its client's change of address
/// (RFC 9000 section 9).
///
/// It reads packets on a thread of its own and passes them to the shards' threads; those write by
/// themselves. Dropping it closes all connections at once.
#[derive(Debug)]
pub struct Endpoint {
    counts: Arc<Counts>,
    /// How long connections may take to end. Dropped: no time.
    close: Option<oneshot::Sender<Duration>>,
    closed: Option<oneshot::Receiver<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Endpoint {
    /// Begins to take connections on a bound socket, for HTTP/3, and hands them out to the shards behind
    /// `to` in turn. A shard whose queue is full is passed over; when all are full the client is refused.
    ///
    /// One address is enough, but names are not addresses: a page that connects to `https://localhost:…`
    /// may mean `::1`, where a socket on `127.0.0.1` does not listen. A socket on `[::]` takes both
    /// families where the system's `net.ipv6.bindv6only` is 0, its default.
    ///
    /// # Errors
    /// When the socket or the thread cannot be set up.
    pub fn spawn(
        socket: UdpSocket,
        certificates: &Certificates,
        to: Vec<mpsc::Sender<Incoming>>,
    ) -> io::Result<Self> {
        // The kernel grants what it may; a smaller buffer loses packets of bursts, which QUIC repeats.
        let _ = SockRef::from(&socket).set_recv_buffer_size(KERNEL_BUFFER);
        let _ = SockRef::from(&socket).set_send_buffer_size(KERNEL_BUFFER);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let server = config::server(certificates);
        let quinn = {
            let _entered = runtime.enter();
            quinn::Endpoint::new(EndpointConfig::default(), Some(server), socket, Arc::new(TokioRuntime))?
        };
        let counts = Arc::new(Counts::default());
        let distribution = Distribution {
            to,
            next: 0,
            handshakes: Arc::new(Semaphore::new(HANDSHAKES)),
            counts: counts.clone(),
        };
        let (close, to_close) = oneshot::channel();
        let (done, closed) = oneshot::channel();
        let thread = std::thread::Builder::new().name("quic".into()).spawn(move || {
            runtime.block_on(serve(&quinn, distribution, to_close));
            // Whoever waits may be gone.
            let _ = done.send(());
        })?;
        Ok(Self { counts, close: Some(close), closed: Some(closed), thread: Some(thread) })
    }

    /// What became of connections that began.
    pub fn counts(&self) -> Arc<Counts> {
        self.counts.clone()
    }

    /// Takes no more connections, waits up to `deadline` until those that stand have ended, and closes what
    /// is left.
    ///
    /// Cancelled, it closes all at once.
    pub async fn close(mut self, deadline: Duration) {
        if let Some(close) = self.close.take() {
            let _ = close.send(deadline);
        }
        if let Some(closed) = self.closed.take() {
            let _ = closed.await;
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        drop(self.close.take());
        if let Some(thread) = self.thread.take() {
            // It ends at once, or has ended; a panic there was told by the thread.
            let _ = thread.join();
        }
    }
}

async fn serve(quinn: &quinn::Endpoint, mut to: Distribution, to_close: oneshot::Receiver<Duration>) {
    tokio::pin!(to_close);
    let deadline = loop {
        tokio::select! {
            incoming = quinn.accept() => match incoming {
                Some(incoming) => to.hand_out(incoming),
                // The socket is broken: no connection lives.
                None => return,
            },
            deadline = &mut to_close => break deadline.unwrap_or_default(),
        }
    };
    let no_more = async {
        while let Some(incoming) = quinn.accept().await {
            to.refuse(incoming);
        }
    };
    tokio::select! {
        () = no_more => {}
        _ = timeout(deadline, quinn.wait_idle()) => {}
    }
    quinn.close(quinn::VarInt::from_u32(H3_NO_ERROR), b"the node ends");
    let _ = timeout(LAST_WORD, quinn.wait_idle()).await;
}

/// RFC 9114 section 8.1.
const H3_NO_ERROR: u32 = 0x100;

/// Who gets the next connection.
struct Distribution {
    to: Vec<mpsc::Sender<Incoming>>,
    next: usize,
    handshakes: Arc<Semaphore>,
    counts: Arc<Counts>,
}

impl Distribution {
    fn hand_out(&mut self, incoming: quinn::Incoming) {
        let under_way = HANDSHAKES - self.handshakes.available_permits();
        if under_way >= RETRY_FROM && incoming.may_retry() && !incoming.remote_address_validated() {
            self.counts.retried.fetch_add(1, Ordering::Relaxed);
            // It may be retried: it was just asked.
            let _ = incoming.retry();
            return;
        }
        let Ok(permit) = self.handshakes.clone().try_acquire_owned() else { return self.refuse(incoming) };
        let mut incoming = Incoming { quinn: incoming, permit };
        for _ in 0..self.to.len() {
            let at = self.next;
            self.next = (at + 1) % self.to.len();
            match self.to[at].try_send(incoming) {
                Ok(()) => {
                    self.counts.handed.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Err(mpsc::error::TrySendError::Full(back) | mpsc::error::TrySendError::Closed(back)) => {
                    incoming = back;
                }
            }
        }
        self.refuse(incoming.quinn);
    }

    fn refuse(&self, incoming: quinn::Incoming) {
        self.counts.refused.fetch_add(1, Ordering::Relaxed);
        incoming.refuse();
    }
}
