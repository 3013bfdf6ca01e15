//! A session, used from one thread.

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use h3::server::RequestStream;
use quinn::VarInt;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::{Closed, HEARTBEAT, backend, capsule, code, varint};
use crate::transport::quic::SEND_WINDOW;

/// Bytes that are taken off the stream ahead of a read.
const AHEAD: usize = 16 * 1024;

/// How long a client may take to acknowledge the last data before the session is closed all the same.
const DELIVERY: Duration = Duration::from_secs(1);

/// How long a browser's network process may take to pass on what it acknowledged: a close that comes
/// sooner overtakes the data.
const OVERTAKING: Duration = Duration::from_millis(50);

/// How long a client may take to answer a close.
const GOODBYE: Duration = Duration::from_secs(2);

/// A WebTransport session with its one stream, in the manner of [`tokio::net::TcpStream`].
///
/// Reading, writing and waiting for either are for one task each; the others may be called by any task of
/// the thread.
pub struct Session(Rc<Shared>);

/// What a session and its driver have in common.
pub(super) struct Shared {
    pub(super) quinn: quinn::Connection,
    /// The id of the session: of the stream of its CONNECT request.
    pub(super) id: u64,
    /// What stands before each datagram (draft-ietf-webtrans-http3 section 4.5).
    prefix: varint::Encoded,
    connect: RefCell<Option<RequestStream<backend::SendStream, Bytes>>>,
    stream: RefCell<Option<Stream>>,
    ended: RefCell<Option<Closed>>,
    /// The stream is there, or the session has ended.
    changed: Notify,
    /// Who waits to read and to write. quinn keeps one waker a stream, the last one it was polled with: so
    /// also what does not wait polls with these, else it would take a waiter's place.
    reader: RefCell<Waker>,
    writer: RefCell<Waker>,
    heartbeat: Cell<Heartbeat>,
}

/// The one stream. Its sending half is gone once the session is being closed.
struct Stream {
    send: Option<quinn::SendStream>,
    recv: quinn::RecvStream,
    /// What came before anybody read it.
    ahead: Bytes,
    finished: bool,
}

/// What is known of the last pings.
#[derive(Debug, Default, Clone, Copy)]
struct Heartbeat {
    /// When the last one was sent, and how many acknowledgements had come by then.
    sent: Option<(Instant, u64)>,
    /// When the last one was sent that an acknowledgement came after.
    answered: Option<Instant>,
}

/// A datagram with one frame, encoded once for all sessions. A clone counts up.
#[derive(Debug, Clone)]
pub struct Datagram(Bytes);

impl Datagram {
    /// A datagram with this frame.
    pub fn new(frame: &[u8]) -> Self {
        // The prefix of the session whose CONNECT is its connection's first request, which nearly all are.
        let mut bytes = Vec::with_capacity(1 + frame.len());
        bytes.push(0);
        bytes.extend_from_slice(frame);
        Self(bytes.into())
    }

    /// The frame.
    pub fn frame(&self) -> &[u8] {
        &self.0[1..]
    }
}

impl Session {
    pub(super) fn new(
        quinn: quinn::Connection,
        id: u64,
        connect: RequestStream<backend::SendStream, Bytes>,
    ) -> Self {
        Self(Rc::new(Shared {
            quinn,
            id,
            prefix: varint::Encoded::new(id / 4),
            connect: RefCell::new(Some(connect)),
            stream: RefCell::default(),
            ended: RefCell::default(),
            changed: Notify::new(),
            reader: RefCell::new(Waker::noop().clone()),
            writer: RefCell::new(Waker::noop().clone()),
            heartbeat: Cell::default(),
        }))
    }

    pub(super) fn share(&self) -> Rc<Shared> {
        self.0.clone()
    }

    /// Where the client is now: it may change its address (RFC 9000 section 9).
    pub fn peer_addr(&self) -> SocketAddr {
        self.0.quinn.remote_address()
    }

    /// Waits until the client has opened its stream. Cancel-safe.
    ///
    /// # Errors
    /// `ConnectionAborted` when the session ends before.
    pub async fn stream(&self) -> io::Result<()> {
        loop {
            let changed = self.0.changed.notified();
            if self.0.stream.borrow().is_some() {
                return Ok(());
            }
            if self.0.ended.borrow().is_some() {
                return Err(ErrorKind::ConnectionAborted.into());
            }
            changed.await;
        }
    }

    /// Reads what there is on the stream. 0: the client sends no more.
    ///
    /// # Errors
    /// `WouldBlock` where there is nothing now, or no stream yet; anything else is the end.
    pub fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut slot = self.0.stream.borrow_mut();
        let Some(stream) = slot.as_mut() else { return Err(ErrorKind::WouldBlock.into()) };
        if stream.ahead.is_empty() && !stream.finished {
            let waker = self.0.reader.borrow();
            return match stream.recv.poll_read(&mut Context::from_waker(&waker), into) {
                Poll::Ready(read) => Ok(read?),
                Poll::Pending => Err(ErrorKind::WouldBlock.into()),
            };
        }
        let count = stream.ahead.len().min(into.len());
        stream.ahead.copy_to_slice(&mut into[..count]);
        Ok(count)
    }

    /// Waits until there may be something to read, or the client sends no more. Cancel-safe: what came
    /// stays for [`Self::try_read`].
    ///
    /// # Errors
    /// When the stream is broken, or there is none.
    pub async fn readable(&self) -> io::Result<()> {
        std::future::poll_fn(|cx| {
            let mut slot = self.0.stream.borrow_mut();
            let Some(stream) = slot.as_mut() else { return Poll::Ready(Err(ErrorKind::NotConnected.into())) };
            if !stream.ahead.is_empty() || stream.finished {
                return Poll::Ready(Ok(()));
            }
            self.0.reader.borrow_mut().clone_from(cx.waker());
            match pin!(stream.recv.read_chunk(AHEAD, true)).poll(cx) {
                Poll::Ready(Ok(Some(chunk))) => stream.ahead = chunk.bytes,
                Poll::Ready(Ok(None)) => stream.finished = true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => return Poll::Pending,
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Writes to the stream as much as it takes now. What is written is copied once and kept until the
    /// client has acknowledged it.
    ///
    /// # Errors
    /// `WouldBlock` where it takes nothing now, or there is no stream yet; anything else is the end.
    pub fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut slot = self.0.stream.borrow_mut();
        let Some(stream) = slot.as_mut() else { return Err(ErrorKind::WouldBlock.into()) };
        let Some(send) = &mut stream.send else { return Err(ErrorKind::BrokenPipe.into()) };
        let waker = self.0.writer.borrow();
        let mut cx = Context::from_waker(&waker);
        let written = match slices {
            [one] => Pin::new(send).poll_write(&mut cx, one),
            many => {
                // Nothing is gathered for a stream that takes nothing.
                if Pin::new(&mut *send).poll_write(&mut cx, &[]).is_pending() {
                    return Err(ErrorKind::WouldBlock.into());
                }
                let written = pin!(send.write_chunks(&mut [gathered(many)])).poll(&mut cx);
                written.map_ok(|written| written.bytes)
            }
        };
        match written {
            Poll::Ready(written) => Ok(written?),
            Poll::Pending => Err(ErrorKind::WouldBlock.into()),
        }
    }

    /// Waits until the stream may take more. Cancel-safe.
    ///
    /// # Errors
    /// When the stream is broken, or there is none.
    pub async fn writable(&self) -> io::Result<()> {
        std::future::poll_fn(|cx| {
            let mut slot = self.0.stream.borrow_mut();
            let send = slot.as_mut().and_then(|stream| stream.send.as_mut());
            let Some(send) = send else { return Poll::Ready(Err(ErrorKind::NotConnected.into())) };
            self.0.writer.borrow_mut().clone_from(cx.waker());
            // Writing nothing is possible exactly when writing something is.
            Pin::new(send).poll_write(cx, &[]).map(|written| Ok(written.map(|_| ())?))
        })
        .await
    }

    /// Sends a datagram beside the stream, which may get lost. While the network is slow 64 KiB wait; then
    /// the oldest are dropped. `false`: it is too long for the path, or the connection is over.
    pub fn send_datagram(&self, datagram: &Datagram) -> bool {
        let bytes = match self.0.prefix.as_bytes() {
            [0] => datagram.0.clone(),
            prefix => [prefix, datagram.frame()].concat().into(),
        };
        self.0.quinn.send_datagram(bytes).is_ok()
    }

    /// Bytes of a frame that a datagram has room for, on the path as it is now.
    pub fn max_datagram(&self) -> usize {
        let whole = self.0.quinn.max_datagram_size().unwrap_or(0);
        whole.saturating_sub(self.0.prefix.as_bytes().len())
    }

    /// Sends a datagram with [`HEARTBEAT`] alone: the client's end of QUIC acknowledges
    /// it, and the client learns that the path lives. To be sent at least every
    /// [`PING_MAX_MS`](super::PING_MAX_MS).
    pub fn ping(&self) {
        let mut heartbeat = self.heartbeat();
        heartbeat.sent = Some((Instant::now(), self.acknowledgements()));
        self.0.heartbeat.set(heartbeat);
        // Where it cannot be sent, nobody acknowledges it.
        let _ = self.0.quinn.send_datagram([self.0.prefix.as_bytes(), &[HEARTBEAT]].concat().into());
    }

    /// A moment up to which the client's end of QUIC took what was sent: that of the last
    /// [ping](Self::ping) that an acknowledgement came after, as of `now`.
    pub fn heard(&self, now: Instant) -> Option<Instant> {
        let heartbeat = self.heartbeat();
        self.0.heartbeat.set(heartbeat);
        heartbeat.answered.filter(|answered| *answered <= now)
    }

    fn heartbeat(&self) -> Heartbeat {
        let mut heartbeat = self.0.heartbeat.get();
        if let Some((sent, acknowledgements)) = heartbeat.sent
            && self.acknowledgements() > acknowledgements
        {
            heartbeat.answered = Some(sent);
        }
        heartbeat
    }

    /// How many acknowledgements have come.
    fn acknowledgements(&self) -> u64 {
        self.0.quinn.stats().frame_rx.acks
    }

    /// Closes the session after all that was written: finishes the stream, waits a moment for what is on
    /// its way, says code and reason, at most 1,024 bytes of it, and waits for the client to agree. It
    /// takes 3 s at most, while which the driver has to be run; at its end the connection is closed.
    ///
    /// Dropped, it leaves the connection open, without its stream.
    pub async fn close(&self, code: u32, reason: &str) {
        let shared = &self.0;
        let send = shared.stream.borrow_mut().as_mut().and_then(|stream| stream.send.take());
        if let Some(mut send) = send
            && send.finish().is_ok()
        {
            let _ = timeout(DELIVERY, send.stopped()).await;
            // What the network process of a browser has acknowledged its page has not got yet.
            sleep(OVERTAKING).await;
        }
        let goodbye = async {
            let connect = shared.connect.borrow_mut().take();
            if let Some(mut connect) = connect {
                let capsule = capsule::close_session(code, reason);
                if connect.send_data(capsule.into()).await.is_ok() && connect.finish().await.is_ok() {
                    self.closed().await;
                }
            }
        };
        let _ = timeout(GOODBYE, goodbye).await;
        shared.hang_up();
    }

    /// Waits until the session has ended, and tells what the client said. Cancel-safe.
    pub async fn closed(&self) -> Closed {
        loop {
            let changed = self.0.changed.notified();
            if let Some(closed) = &*self.0.ended.borrow() {
                return closed.clone();
            }
            changed.await;
        }
    }
}

impl Shared {
    /// Takes the client's stream; gives it back if it is not the first.
    pub(super) fn take_stream(
        &self,
        send: quinn::SendStream,
        recv: quinn::RecvStream,
    ) -> Result<(), (quinn::SendStream, quinn::RecvStream)> {
        let mut slot = self.stream.borrow_mut();
        if slot.is_some() {
            return Err((send, recv));
        }
        *slot = Some(Stream { send: Some(send), recv, ahead: Bytes::new(), finished: false });
        drop(slot);
        self.changed.notify_waiters();
        Ok(())
    }

    /// The session has ended. What was said first stands.
    pub(super) fn end(&self, closed: Closed) {
        self.ended.borrow_mut().get_or_insert(closed);
        self.changed.notify_waiters();
    }

    /// Finishes the server's direction of the CONNECT request, where that has not happened.
    pub(super) async fn finish_connect(&self) {
        let connect = self.connect.borrow_mut().take();
        if let Some(mut connect) = connect {
            // A client that has gone does not need it.
            let _ = connect.finish().await;
        }
    }

    pub(super) fn hang_up(&self) {
        self.quinn.close(VarInt::from_u32(code::NO_ERROR), b"");
    }
}

/// The bytes of many slices in one buffer, as much as a stream may ever take at once.
fn gathered(slices: &[IoSlice<'_>]) -> Bytes {
    let whole: usize = slices.iter().map(|slice| slice.len()).sum();
    let mut room = whole.min(SEND_WINDOW);
    let mut bytes = Vec::with_capacity(room);
    for slice in slices {
        let part = &slice[..slice.len().min(room)];
        bytes.extend_from_slice(part);
        room -= part.len();
    }
    bytes.into()
}
