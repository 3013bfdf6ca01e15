//! What runs beside a session: control frames, capsules, and streams that the client opens.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use bytes::{Buf as _, Bytes};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use h3::error::StreamError;
use h3::quic::RecvStream as _;
use h3::server::RequestStream;
use quinn::VarInt;
use tokio::time::timeout;

use super::backend::{self, Budget};
use super::capsule::{CapsuleDecoder, CloseSession};
use super::session::Shared;
use super::{Closed, HANG_UP, code, varint};

/// HTTP/3 of one connection.
pub(super) type Http = h3::server::Connection<backend::Connection, Bytes>;

/// What a client's stream of a session begins with (draft-ietf-webtrans-http3 section 4.3).
const BIDIRECTIONAL: u64 = 0x41;

/// Runs until the session or the connection has ended, then closes the connection.
pub(super) async fn drive(
    shared: Rc<Shared>,
    mut http: Http,
    mut connect: RequestStream<backend::RecvStream, Bytes>,
    budget: Budget,
) {
    let closed = tokio::select! {
        closed = goodbye(&mut connect, &budget) => closed,
        closed = control(&mut http) => closed,
        closed = streams(&shared) => closed,
    };
    let is_lost = closed.code.is_none();
    shared.end(closed);
    if is_lost {
        tell_errors(&mut http).await;
    } else {
        // The client waits for the server's end of the request; it may hang up by itself.
        shared.finish_connect().await;
        let _ = timeout(HANG_UP, shared.quinn.closed()).await;
    }
    shared.hang_up();
}

/// Lets h3 close the connection with the code of an error that it met on a stream: it does so when it is
/// polled.
pub(super) async fn tell_errors(http: &mut Http) {
    poll_fn(|cx| {
        let _ = http.inner.poll_control(cx);
        Poll::Ready(())
    })
    .await;
}

fn lost(why: impl ToString) -> Closed {
    Closed { code: None, reason: why.to_string() }
}

/// Waits for what the client says at the end of the session.
async fn goodbye(connect: &mut RequestStream<backend::RecvStream, Bytes>, budget: &Budget) -> Closed {
    let mut capsules = CapsuleDecoder::default();
    loop {
        match connect.recv_data().await {
            Ok(Some(mut data)) => {
                budget.renew();
                while data.has_remaining() {
                    match capsules.feed(data.chunk()) {
                        Ok(Some(CloseSession { code, reason })) => {
                            return Closed { code: Some(code), reason };
                        }
                        Ok(None) => {}
                        Err(error) => return lost(error),
                    }
                    data.advance(data.chunk().len());
                }
            }
            // The end without a capsule is code 0 without a reason (section 6).
            Ok(None) => return Closed { code: Some(0), reason: String::new() },
            Err(StreamError::RemoteTerminate { code }) => {
                return lost(format!("the client reset its CONNECT request: {code}"));
            }
            Err(error) => return lost(error),
        }
    }
}

/// Serves what belongs to HTTP/3 itself, and stops unidirectional streams: a session here has none.
async fn control(http: &mut Http) -> Closed {
    poll_fn(|cx| {
        // Frames of the control stream need no answer: requests end with the session, pushes there are none.
        let served = loop {
            match http.inner.poll_control(cx) {
                Poll::Ready(Ok(_)) => {}
                served => break served,
            }
        };
        for (_, mut stream) in http.inner.accepted_streams_mut().wt_uni_streams.drain(..) {
            stream.stop_sending(code::STREAM_REJECTED.into());
        }
        served.map(|error| error.map_or_else(lost, |_| lost("")))
    })
    .await
}

/// Takes the streams that the client opens: the first one that belongs to the session becomes its stream,
/// all others are reset. One that does not say what it is holds up no other.
async fn streams(shared: &Shared) -> Closed {
    let mut arriving = FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = shared.quinn.accept_bi() => match accepted {
                Ok(stream) => arriving.push(header(stream)),
                Err(error) => return lost(error),
            },
            Some((header, (send, recv))) = arriving.next() => {
                let taken = match header {
                    Some(Header::Session(id)) if id == shared.id => shared.take_stream(send, recv),
                    _ => Err((send, recv)),
                };
                if let Err((mut send, mut recv)) = taken {
                    let code = match header {
                        Some(Header::Session(_)) => code::STREAM_REJECTED,
                        // A connection carries one session and no other request.
                        _ => code::REQUEST_REJECTED,
                    };
                    // What has ended already needs no end.
                    let _ = send.reset(VarInt::from_u32(code));
                    let _ = recv.stop(VarInt::from_u32(code));
                }
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Header {
    /// A stream of this session.
    Session(u64),
    /// Anything else.
    Other,
}

type Streams = (quinn::SendStream, quinn::RecvStream);

/// Reads what a stream is, not a byte more; `None` where it ended before.
async fn header((send, mut recv): Streams) -> (Option<Header>, Streams) {
    let header = match number(&mut recv).await {
        Some(BIDIRECTIONAL) => number(&mut recv).await.map(Header::Session),
        Some(_) => Some(Header::Other),
        None => None,
    };
    (header, (send, recv))
}

async fn number(recv: &mut quinn::RecvStream) -> Option<u64> {
    let mut bytes = [0; varint::MAX_BYTES];
    recv.read_exact(&mut bytes[..1]).await.ok()?;
    let length = 1 << (bytes[0] >> 6);
    recv.read_exact(&mut bytes[1..length]).await.ok()?;
    varint::read(&bytes[..length]).map(|(value, _)| value)
}
