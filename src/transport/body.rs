//! The body of an answer that goes on for as long as its client listens: what server-sent events and NDJSON
//! are written into.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::outbox::{Flush, Outbox};

/// Most bytes that are handed to the HTTP connection at a time.
const CHUNK: usize = 64 * 1024;

/// How long bytes may stay unacknowledged by the other end of the TCP connection until the kernel ends it
/// (`TCP_USER_TIMEOUT`, RFC 5482). It stands for the answer to a heartbeat, which such a client cannot give.
const USER_TIMEOUT: Duration = Duration::from_secs(9);

/// Shortest pause between heartbeats of such a connection, in milliseconds: below it the kernel has not
/// decided yet whether the last one arrived.
pub const PING_MIN_MS: u64 = 10_000;

/// The end that is written to.
pub struct BodySender {
    tcp: Arc<TcpStream>,
    shared: Rc<Shared>,
}

/// The end that the HTTP connection reads.
pub struct StreamedBody(Rc<Shared>);

#[derive(Default)]
struct Shared {
    chunks: RefCell<VecDeque<Bytes>>,
    /// When the chunk that waits was handed on; all before it had been taken by then.
    handed: Cell<Option<Instant>>,
    /// The HTTP connection, where it waits for more.
    reader: RefCell<Option<Waker>>,
    taken: Notify,
    ended: Cell<bool>,
    gone: Cell<bool>,
    left: Notify,
}

/// Both ends of a body that goes out over this connection.
pub fn body(tcp: Arc<TcpStream>) -> (BodySender, StreamedBody) {
    // Where that cannot be set, a client that vanished is found when the kernel gives up on its own.
    if let Err(error) = SockRef::from(&*tcp).set_tcp_user_timeout(Some(USER_TIMEOUT)) {
        tracing::debug!(%error, "TCP_USER_TIMEOUT cannot be set");
    }
    let shared = Rc::new(Shared::default());
    (BodySender { tcp, shared: shared.clone() }, StreamedBody(shared))
}

impl BodySender {
    /// The connection below.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Hands on what waits, unless what was handed on last still does: then the client is slow.
    pub fn flush(&self, outbox: &mut Outbox) -> Flush {
        if self.is_gone() {
            return Flush::Broken(io::ErrorKind::BrokenPipe.into());
        }
        while !outbox.is_empty() {
            let mut chunks = self.shared.chunks.borrow_mut();
            if !chunks.is_empty() {
                return Flush::Blocked;
            }
            let mut chunk = Vec::with_capacity(outbox.bytes().min(CHUNK));
            // Taking a part of what is offered ends the flush; what is left goes with the next chunk.
            let _ = outbox.flush_with(|slices| {
                let before = chunk.len();
                for slice in slices {
                    let room = CHUNK - chunk.len();
                    chunk.extend_from_slice(&slice[..slice.len().min(room)]);
                }
                match chunk.len() - before {
                    0 => Err(io::ErrorKind::WouldBlock.into()),
                    taken => Ok(taken),
                }
            });
            chunks.push_back(chunk.into());
            drop(chunks);
            self.shared.handed.set(Some(Instant::now()));
            self.shared.wake();
        }
        Flush::Empty
    }

    /// Waits until the HTTP connection has taken what it was handed. Cancel-safe.
    ///
    /// # Errors
    /// When it is gone.
    pub async fn writable(&self) -> io::Result<()> {
        loop {
            let taken = self.shared.taken.notified();
            if self.is_gone() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if self.shared.chunks.borrow().is_empty() {
                return Ok(());
            }
            taken.await;
        }
    }

    /// Waits until the client is gone. Cancel-safe.
    pub async fn gone(&self) {
        while !self.is_gone() {
            self.shared.left.notified().await;
        }
    }

    /// Whether the client is gone.
    pub fn is_gone(&self) -> bool {
        self.shared.gone.get()
    }

    /// Up to when all that was sent has surely reached the other end of the TCP connection: a proxy, it may be.
    pub fn heard(&self, now: Instant) -> Option<Instant> {
        if self.is_gone() {
            return None;
        }
        let taken = if self.shared.chunks.borrow().is_empty() { None } else { self.shared.handed.get() };
        taken.map_or(now, |handed| handed.min(now)).checked_sub(USER_TIMEOUT)
    }

    /// Ends the body after all that was handed on.
    pub fn end(&self) {
        self.shared.ended.set(true);
        self.shared.wake();
    }
}

impl Drop for BodySender {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn wake(&self) {
        if let Some(reader) = self.reader.borrow_mut().take() {
            reader.wake();
        }
    }
}

impl Body for StreamedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let shared = &self.0;
        if let Some(chunk) = shared.chunks.borrow_mut().pop_front() {
            shared.taken.notify_waiters();
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        if shared.ended.get() {
            return Poll::Ready(None);
        }
        *shared.reader.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for StreamedBody {
    fn drop(&mut self) {
        self.0.gone.set(true);
        self.0.taken.notify_waiters();
        self.0.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use http_body_util::BodyExt as _;
    use tokio::net::TcpListener;

    use super::*;
    use crate::transport::outbox;

    async fn ends() -> (BodySender, StreamedBody) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        body(Arc::new(tcp))
    }

    fn outbox(frames: &[&[u8]]) -> Outbox {
        let mut outbox = Outbox::default();
        frames.iter().for_each(|bytes| outbox.push(outbox::Frame::new(bytes)));
        outbox
    }

    async fn chunk(body: &mut StreamedBody) -> Option<Bytes> {
        Some(body.frame().await?.unwrap().into_data().unwrap())
    }

    #[tokio::test]
    async fn what_gathered_goes_out_as_one_chunk_and_a_slow_client_holds_the_rest_up() {
        let (sender, mut body) = ends().await;
        let mut first = outbox(&[b"one", b"two"]);
        assert!(matches!(sender.flush(&mut first), Flush::Empty));
        let mut second = outbox(&[b"three"]);
        assert!(matches!(sender.flush(&mut second), Flush::Blocked));
        assert!(sender.writable().now_or_never().is_none());
        assert_eq!(chunk(&mut body).await.unwrap(), "onetwo");
        sender.writable().await.unwrap();
        assert!(matches!(sender.flush(&mut second), Flush::Empty));
        sender.end();
        assert_eq!(chunk(&mut body).await.unwrap(), "three", "what was written before the end comes");
        assert!(chunk(&mut body).await.is_none());
    }

    #[tokio::test]
    async fn a_chunk_has_a_size() {
        let (sender, mut body) = ends().await;
        let large = vec![7; CHUNK + 10];
        let mut outbox = outbox(&[&large, b"rest"]);
        let mut got = Vec::new();
        while !matches!(sender.flush(&mut outbox), Flush::Empty) {
            let chunk = chunk(&mut body).await.unwrap();
            assert!(chunk.len() <= CHUNK);
            got.extend_from_slice(&chunk);
        }
        got.extend_from_slice(&chunk(&mut body).await.unwrap());
        assert_eq!(got.len(), large.len() + 4);
        assert!(got.ends_with(b"rest"));
    }

    #[tokio::test]
    async fn a_chunk_that_was_just_handed_on_says_nothing_of_those_before() {
        let (sender, mut body) = ends().await;
        let sent = Instant::now();
        assert!(matches!(sender.flush(&mut outbox(&[b"a message"])), Flush::Empty));
        let handed = Instant::now();
        let heard = |sender: &BodySender, now: Instant| sender.heard(now).map(|heard| heard + USER_TIMEOUT);
        assert_eq!(heard(&sender, sent), Some(sent), "all before it arrived");
        let later = handed + USER_TIMEOUT;
        assert!(heard(&sender, later).unwrap() <= handed, "it waits all the time");
        chunk(&mut body).await.unwrap();
        assert_eq!(heard(&sender, later), Some(later));
    }

    #[tokio::test]
    async fn both_ends_learn_of_each_others_end() {
        let (sender, body) = ends().await;
        let now = Instant::now() + USER_TIMEOUT;
        assert!(sender.heard(now).is_some() && sender.gone().now_or_never().is_none());
        drop(body);
        sender.gone().await;
        assert!(sender.writable().await.is_err() && sender.heard(now).is_none());
        assert!(matches!(sender.flush(&mut outbox(&[b"lost"])), Flush::Broken(_)));
        let (sender, mut body) = ends().await;
        drop(sender);
        assert!(chunk(&mut body).await.is_none());
    }
}
