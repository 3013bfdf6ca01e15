//! From a connection that begins to a session.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h3::error::StreamError;
use h3::ext::Protocol;
use h3::frame::FrameStream;
use h3::server::RequestStream;
use h3::stream::BufRecvStream;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::backend::{BidiStream, Budget, Connection};
use super::driver::{self, Http};
use super::session::Session;
use super::{AcceptError, HANG_UP};
use crate::transport::quic::Incoming;

/// Requests that are answered on a connection before its session, at most.
const REQUESTS: usize = 4;

/// Bytes of a request's head, decoded as RFC 9114 section 4.2.2 counts them.
const HEAD: u64 = 16 * 1024;

/// Chromium names the draft it speaks in the request, and is told the same.
const DRAFT_ASKED: HeaderName = HeaderName::from_static("sec-webtransport-http3-draft02");
const DRAFT_SPOKEN: HeaderName = HeaderName::from_static("sec-webtransport-http3-draft");

/// A client asks for a session. Dropped unanswered, the connection is closed.
pub struct Request {
    quinn: quinn::Connection,
    http: Http,
    asked: Asked,
    /// Held until the client has its answer.
    permit: OwnedSemaphorePermit,
}

/// Makes the handshakes of QUIC and HTTP/3 and waits for a request for a session, all together for
/// `patience` at most. Other requests that come before it are answered with an error.
///
/// It is called on the runtime where the session will live. Dropped, it closes the connection.
///
/// # Errors
/// [`AcceptError`] tells whose fault it is. The connection is closed then.
pub async fn accept(incoming: Incoming, patience: Duration) -> Result<Request, AcceptError> {
    let accepting = async {
        let (connecting, permit) = incoming.accept()?;
        let quinn = connecting.await?;
        let mut http = h3::server::builder()
            .enable_webtransport(true)
            .enable_extended_connect(true)
            .enable_datagram(true)
            .max_webtransport_sessions(1)
            .max_field_section_size(HEAD)
            .send_grease(false)
            .build(Connection::new(quinn.clone()))
            .await?;
        let asked = session_asked(&mut http).await?;
        if quinn.max_datagram_size().is_none() {
            // draft-ietf-webtrans-http3 section 3.1 asks for it; heartbeats need it.
            return Err(AcceptError::Protocol("it takes no QUIC datagrams".into()));
        }
        Ok(Request { quinn, http, asked, permit })
    };
    timeout(patience, accepting).await?
}

/// A request for a session.
struct Asked {
    head: Parts,
    /// The id of its stream.
    id: u64,
    stream: RequestStream<BidiStream, Bytes>,
    budget: Budget,
}

/// The first request for a session.
async fn session_asked(http: &mut Http) -> Result<Asked, AcceptError> {
    for _ in 0..REQUESTS {
        let next = std::future::poll_fn(|cx| http.poll_accept_request_stream(cx)).await?;
        let Some(stream) = next else { return Err(AcceptError::Lost("it says that it goes away".into())) };
        let (id, budget) = stream.id_and_budget();
        let resolver = http.create_resolver(FrameStream::new(BufRecvStream::new(stream)));
        let (request, mut stream) = match resolver.resolve_request().await {
            Ok(request) => request,
            Err(StreamError::ConnectionError(error)) => {
                driver::tell_errors(http).await;
                return Err(error.into());
            }
            // h3 has answered it.
            Err(_) => continue,
        };
        let Some((status, text)) = no_session(&request) else {
            return Ok(Asked { head: request.into_parts().0, id, stream, budget });
        };
        // A client that does not want the answer has other wishes.
        let _ = answer(&mut stream, status, text).await;
    }
    Err(AcceptError::NoSession(REQUESTS))
}

/// What a request is answered with that is none for a session.
fn no_session<B>(request: &http::Request<B>) -> Option<(StatusCode, &'static str)> {
    let protocol = request.extensions().get::<Protocol>();
    match *request.method() {
        Method::CONNECT if protocol == Some(&Protocol::WEB_TRANSPORT) => None,
        Method::CONNECT => {
            Some((StatusCode::BAD_REQUEST, "CONNECT is for :protocol webtransport only (RFC 9220)\n"))
        }
        Method::GET | Method::HEAD => {
            Some((StatusCode::NOT_FOUND, "only WebTransport is here; all else is served over TCP\n"))
        }
        _ => Some((StatusCode::METHOD_NOT_ALLOWED, "a WebTransport session opens with CONNECT\n")),
    }
}

async fn answer(
    stream: &mut RequestStream<BidiStream, Bytes>,
    status: StatusCode,
    text: &'static str,
) -> Result<(), StreamError> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    stream.send_response(response).await?;
    if !text.is_empty() {
        stream.send_data(Bytes::from_static(text.as_bytes())).await?;
    }
    stream.finish().await
}

impl Request {
    /// Path and query, authority, origin and the other headers.
    pub fn head(&self) -> &Parts {
        &self.asked.head
    }

    /// Where the client is now.
    pub fn peer_addr(&self) -> SocketAddr {
        self.quinn.remote_address()
    }

    /// Refuses the session with an HTTP status, which pages do not see, and gives the client a second to
    /// hang up. Dropped, it closes the connection.
    pub async fn refuse(mut self, status: StatusCode) {
        if answer(&mut self.asked.stream, status, "").await.is_ok() {
            let _ = timeout(HANG_UP, self.quinn.closed()).await;
        }
    }

    /// Accepts the session. The future beside it drives the session and has to be run until it ends; then,
    /// or when it is dropped, the connection is closed and everything ends.
    ///
    /// # Errors
    /// When the connection is lost meanwhile.
    pub async fn accept(self) -> Result<(Session, impl Future<Output = ()> + 'static), AcceptError> {
        let Asked { head, id, mut stream, budget } = self.asked;
        let mut response = Response::new(());
        if head.headers.contains_key(DRAFT_ASKED) {
            response.headers_mut().insert(DRAFT_SPOKEN, HeaderValue::from_static("draft02"));
        }
        let sent = stream.send_response(response).await;
        sent.map_err(|error| AcceptError::Lost(error.to_string()))?;
        drop(self.permit);
        let (send, recv) = stream.split();
        let session = Session::new(self.quinn, id, send);
        let driver = driver::drive(session.share(), self.http, recv, budget);
        Ok((session, driver))
    }
}
