//! QUIC as h3 wants it, by quinn. Beside carrying streams it bounds what h3 reads: h3 keeps a frame in
//! memory until it is whole, whatever length it announces. A stream that has used up its budget is not
//! read any further, and flow control holds its sender.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h3::error::Code;
use h3::quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf};
use quinn::{ConnectionError, ReadError, VarInt, WriteError};

use super::settings;

/// Bytes of one stream that h3 may read: the head of a request, SETTINGS, what else comes on the control
/// stream for as long as the connection lives.
const BUDGET: usize = 64 * 1024;

type Boxed<T> = Pin<Box<dyn Future<Output = Result<T, ConnectionError>> + Send>>;

/// A connection.
pub(super) struct Connection {
    quinn: quinn::Connection,
    accepting_bi: Option<Boxed<(quinn::SendStream, quinn::RecvStream)>>,
    accepting_uni: Option<Boxed<quinn::RecvStream>>,
    opener: Opener,
}

impl Connection {
    pub(super) fn new(quinn: quinn::Connection) -> Self {
        let opener = Opener { quinn: quinn.clone(), bi: None, uni: None, is_first: true };
        Self { quinn, accepting_bi: None, accepting_uni: None, opener }
    }
}

/// Opens streams.
pub(super) struct Opener {
    quinn: quinn::Connection,
    bi: Option<Boxed<(quinn::SendStream, quinn::RecvStream)>>,
    uni: Option<Boxed<quinn::SendStream>>,
    /// The first unidirectional stream that h3 opens is the one for control.
    is_first: bool,
}

impl<B: Buf> quic::Connection<B> for Connection {
    type RecvStream = RecvStream;
    type OpenStreams = Opener;

    fn poll_accept_recv(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<RecvStream, ConnectionErrorIncoming>> {
        let quinn = &self.quinn;
        let accepted = poll_boxed(&mut self.accepting_uni, cx, || {
            let quinn = quinn.clone();
            Box::pin(async move { quinn.accept_uni().await })
        });
        accepted.map(|stream| stream.map(RecvStream::new).map_err(connection_error))
    }

    fn poll_accept_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<BidiStream, ConnectionErrorIncoming>> {
        let quinn = &self.quinn;
        let accepted = poll_boxed(&mut self.accepting_bi, cx, || {
            let quinn = quinn.clone();
            Box::pin(async move { quinn.accept_bi().await })
        });
        accepted.map(|streams| streams.map(BidiStream::new).map_err(connection_error))
    }

    fn opener(&self) -> Opener {
        Opener { quinn: self.quinn.clone(), bi: None, uni: None, is_first: false }
    }
}

impl<B: Buf> quic::OpenStreams<B> for Connection {
    type BidiStream = BidiStream;
    type SendStream = SendStream;

    fn poll_open_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<BidiStream, StreamErrorIncoming>> {
        quic::OpenStreams::<B>::poll_open_bidi(&mut self.opener, cx)
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<SendStream, StreamErrorIncoming>> {
        quic::OpenStreams::<B>::poll_open_send(&mut self.opener, cx)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        quic::OpenStreams::<B>::close(&mut self.opener, code, reason);
    }
}

impl<B: Buf> quic::OpenStreams<B> for Opener {
    type BidiStream = BidiStream;
    type SendStream = SendStream;

    fn poll_open_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<BidiStream, StreamErrorIncoming>> {
        let quinn = &self.quinn;
        let opened = poll_boxed(&mut self.bi, cx, || {
            let quinn = quinn.clone();
            Box::pin(async move { quinn.open_bi().await })
        });
        opened.map(|streams| streams.map(BidiStream::new).map_err(stream_lost))
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<SendStream, StreamErrorIncoming>> {
        let quinn = &self.quinn;
        let opened = ready!(poll_boxed(&mut self.uni, cx, || {
            let quinn = quinn.clone();
            Box::pin(async move { quinn.open_uni().await })
        }));
        let is_control = std::mem::take(&mut self.is_first);
        let stream = |quinn| SendStream { quinn, writing: Bytes::new(), is_control };
        Poll::Ready(opened.map(stream).map_err(stream_lost))
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.quinn.close(varint(code.value()), reason);
    }
}

impl Clone for Opener {
    fn clone(&self) -> Self {
        Self { quinn: self.quinn.clone(), bi: None, uni: None, is_first: false }
    }
}

/// Polls what is under way, or begins it.
fn poll_boxed<T>(
    slot: &mut Option<Boxed<T>>,
    cx: &mut Context<'_>,
    begin: impl FnOnce() -> Boxed<T>,
) -> Poll<Result<T, ConnectionError>> {
    let result = ready!(slot.get_or_insert_with(begin).as_mut().poll(cx));
    *slot = None;
    Poll::Ready(result)
}

/// Both directions of a stream.
pub(super) struct BidiStream {
    send: SendStream,
    recv: RecvStream,
}

impl BidiStream {
    fn new((send, recv): (quinn::SendStream, quinn::RecvStream)) -> Self {
        let send = SendStream { quinn: send, writing: Bytes::new(), is_control: false };
        Self { send, recv: RecvStream::new(recv) }
    }

    /// The stream's id, and what h3 may read of it.
    pub(super) fn id_and_budget(&self) -> (u64, Budget) {
        (VarInt::from(self.recv.quinn.id()).into(), self.recv.budget.clone())
    }
}

impl<B: Buf> quic::BidiStream<B> for BidiStream {
    type SendStream = SendStream;
    type RecvStream = RecvStream;

    fn split(self) -> (SendStream, RecvStream) {
        (self.send, self.recv)
    }
}

impl quic::RecvStream for BidiStream {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.recv.poll_data(cx)
    }

    fn stop_sending(&mut self, error_code: u64) {
        self.recv.stop_sending(error_code);
    }

    fn recv_id(&self) -> StreamId {
        self.recv.recv_id()
    }
}

impl<B: Buf> quic::SendStream<B> for BidiStream {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        quic::SendStream::<B>::poll_ready(&mut self.send, cx)
    }

    fn send_data<T: Into<WriteBuf<B>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.send.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        quic::SendStream::<B>::poll_finish(&mut self.send, cx)
    }

    fn reset(&mut self, reset_code: u64) {
        quic::SendStream::<B>::reset(&mut self.send, reset_code);
    }

    fn send_id(&self) -> StreamId {
        quic::SendStream::<B>::send_id(&self.send)
    }
}

/// What h3 may still read of one stream. A clone is the same budget.
#[derive(Debug, Clone)]
pub(super) struct Budget(Arc<AtomicUsize>);

impl Budget {
    /// Makes it whole again: h3 has passed on what it read.
    pub(super) fn renew(&self) {
        self.0.store(BUDGET, Ordering::Relaxed);
    }
}

/// The receiving direction of a stream.
pub(super) struct RecvStream {
    quinn: quinn::RecvStream,
    budget: Budget,
}

impl RecvStream {
    fn new(quinn: quinn::RecvStream) -> Self {
        Self { quinn, budget: Budget(Arc::new(AtomicUsize::new(BUDGET))) }
    }
}

impl quic::RecvStream for RecvStream {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        let left = self.budget.0.load(Ordering::Relaxed);
        if left == 0 {
            // Nobody wakes this reader, and the connection ends by a timeout or by its other streams.
            return Poll::Pending;
        }
        // It keeps nothing between polls: quinn's reads are cancel-safe.
        let chunk = ready!(pin!(self.quinn.read_chunk(left, true)).poll(cx)).map_err(read_error)?;
        Poll::Ready(Ok(chunk.map(|chunk| {
            self.budget.0.store(left - chunk.bytes.len(), Ordering::Relaxed);
            chunk.bytes
        })))
    }

    fn stop_sending(&mut self, error_code: u64) {
        // A stream that has ended cannot be stopped and need not be.
        let _ = self.quinn.stop(varint(error_code));
    }

    fn recv_id(&self) -> StreamId {
        stream_id(self.quinn.id())
    }
}

/// The sending direction of a stream.
pub(super) struct SendStream {
    quinn: quinn::SendStream,
    /// What is left of the data that h3 gave last.
    writing: Bytes,
    /// Nothing was written yet to the stream for control.
    is_control: bool,
}

impl<B: Buf> quic::SendStream<B> for SendStream {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        while !self.writing.is_empty() {
            let written = ready!(Pin::new(&mut self.quinn).poll_write(cx, &self.writing));
            self.writing.advance(written.map_err(write_error)?);
        }
        Poll::Ready(Ok(()))
    }

    fn send_data<T: Into<WriteBuf<B>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        let mut data = data.into();
        let bytes = data.copy_to_bytes(data.remaining());
        self.writing = if std::mem::take(&mut self.is_control) { settings::complete(bytes) } else { bytes };
        Ok(())
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        // A stream that has ended already has ended.
        let _ = self.quinn.finish();
        Poll::Ready(Ok(()))
    }

    fn reset(&mut self, reset_code: u64) {
        let _ = self.quinn.reset(varint(reset_code));
    }

    fn send_id(&self) -> StreamId {
        stream_id(self.quinn.id())
    }
}

/// A code of HTTP/3 or of an application; QUIC carries 62 bits.
fn varint(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}

fn stream_id(id: quinn::StreamId) -> StreamId {
    VarInt::from(id).into_inner().try_into().expect("both are integers of 62 bits")
}

fn stream_lost(error: ConnectionError) -> StreamErrorIncoming {
    StreamErrorIncoming::ConnectionErrorIncoming { connection_error: connection_error(error) }
}

fn connection_error(error: ConnectionError) -> ConnectionErrorIncoming {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            ConnectionErrorIncoming::ApplicationClose { error_code: close.error_code.into() }
        }
        ConnectionError::TimedOut => ConnectionErrorIncoming::Timeout,
        other => ConnectionErrorIncoming::Undefined(Arc::new(other)),
    }
}

fn read_error(error: ReadError) -> StreamErrorIncoming {
    match error {
        ReadError::Reset(code) => StreamErrorIncoming::StreamTerminated { error_code: code.into() },
        ReadError::ConnectionLost(lost) => stream_lost(lost),
        other => StreamErrorIncoming::Unknown(Box::new(other)),
    }
}

fn write_error(error: WriteError) -> StreamErrorIncoming {
    match error {
        WriteError::Stopped(code) => StreamErrorIncoming::StreamTerminated { error_code: code.into() },
        WriteError::ConnectionLost(lost) => stream_lost(lost),
        other => StreamErrorIncoming::Unknown(Box::new(other)),
    }
}
