//! The public port: hyper serves requests, and gives the socket back where it becomes a WebSocket.

use std::cell::Cell;
use std::convert::Infallible;
use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST};
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Either, Full, Limited};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::Shard;
use super::gate::Permit;
use crate::api::dead_letters::{self, DeadLetters};
use crate::api::{answer, cors, openapi};
use crate::telemetry::{Refusal, events};
use crate::tenants::Tenant;
use crate::transport::body::StreamedBody;
use crate::transport::wire::Wire;

mod frames;
pub(super) mod handshake;
mod streams;

/// What a request is answered with: something whole, or a stream of frames.
type Answer = Response<Either<Full<Bytes>, StreamedBody>>;

/// Bytes of request headers that are taken.
const HEADER_BYTES: usize = 16 * 1024;
/// What there is below `/v1/<tenant>/`: nothing else is served, and each stands in the API's description
/// by this name.
const ROUTES: &[&str] = &[
    "ws",
    "sse",
    "stream",
    "frames",
    "ticket",
    "route",
    "publish",
    "sends",
    "sends/{send}",
    "dead-letters",
    "dead-letters/retry",
    "dead-letters/purge",
];
/// Those of them that a page of another origin may use. The others take keys of tenants, which belong into
/// backends and never into browsers.
const FOR_PAGES: &[&str] = &["sse", "stream", "frames", "ticket", "route"];
/// How long one connection is used for requests; then it is closed between two of them. So that nothing
/// a client does, or does not, keeps a place for ever.
const LIFE: Duration = Duration::from_secs(600);
/// How long the body of a request may take.
const BODY: Duration = Duration::from_secs(60);
/// How long the last request of a connection may take.
const LAST_ANSWER: Duration = Duration::from_secs(60);
/// How long a connection without a request may still send one after the last goodbye of a drain.
const LAST_REQUEST: Duration = Duration::from_millis(250);
/// Requests and streams that one HTTP/2 connection may have open.
const HTTP2_STREAMS: u32 = 32;

/// A connection that is served, as its requests see it.
pub(super) struct Served {
    tcp: Arc<TcpStream>,
    /// Counts the connection for as long as it lives.
    permit: Rc<Permit>,
    has_asked: Cell<bool>,
    /// Requests that are not answered, and streams that go on.
    busy: Cell<usize>,
    stirred: Notify,
    quiet: Notify,
}

/// A request or a stream of a connection; while it lives the connection does.
pub(super) struct Busy(Rc<Served>);

impl Served {
    /// Counts one more request or stream.
    fn busy(self: &Rc<Self>) -> Busy {
        self.busy.set(self.busy.get() + 1);
        self.stirred.notify_one();
        Busy(self.clone())
    }

    /// Waits until no request is open and no stream goes on.
    async fn until_quiet(&self) {
        while self.busy.get() > 0 {
            self.quiet.notified().await;
        }
    }

    /// Waits until nothing was asked for so long.
    async fn until_idle(&self, patience: Duration) {
        loop {
            self.until_quiet().await;
            if timeout(patience, self.stirred.notified()).await.is_err() && self.busy.get() == 0 {
                return;
            }
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get() - 1);
        self.0.quiet.notify_one();
    }
}

/// Runs what belongs to one HTTP/2 connection on the shard's own thread.
#[derive(Clone)]
struct OnThisThread(Rc<Shard>);

impl<F: Future + 'static> Executor<F> for OnThisThread {
    fn execute(&self, task: F) {
        self.0.spawn(async move {
            task.await;
        });
    }
}

impl Shard {
    /// Serves one accepted connection to its end, or as many requests as come until it is a WebSocket.
    pub(super) async fn serve_http(self: Rc<Self>, tcp: TcpStream, permit: Permit) {
        let peer = tcp.peer_addr();
        let tcp = Arc::new(tcp);
        let accepting = timeout(self.env.header_timeout, Wire::accept(tcp.clone(), self.env.tls.as_ref()));
        let wire = match accepting.await {
            Ok(Ok(wire)) => wire,
            Ok(Err(error)) => return self.no_handshake(Refusal::Tls, peer, &error),
            Err(late) => return self.no_handshake(Refusal::Timeout, peer, &late),
        };
        let served = Rc::new(Served {
            tcp,
            permit: Rc::new(permit),
            has_asked: Cell::new(false),
            busy: Cell::new(0),
            stirred: Notify::new(),
            quiet: Notify::new(),
        });
        // Boxed: a WebSocket's task must not hold room for it.
        let ended = if wire.is_http2() {
            Box::pin(self.serve_http2(wire, served)).await
        } else {
            Box::pin(self.serve_http1(wire, served)).await
        };
        if let Err(error) = ended {
            tracing::trace!(%error, "an HTTP connection ended early");
        }
    }

    fn no_handshake(&self, why: Refusal, peer: io::Result<SocketAddr>, error: &dyn Display) {
        // Who is gone has no address any more.
        if let Ok(peer) = peer {
            events::handshake_refused(self.env.metrics.node(), why, peer.ip(), &error);
        }
    }

    async fn serve_http1(self: Rc<Self>, wire: Wire, served: Rc<Served>) -> hyper::Result<()> {
        let service = self.clone().service(served.clone());
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.env.header_timeout)
            .max_buf_size(HEADER_BYTES)
            .serve_connection(TokioIo::new(wire), service)
            .with_upgrades();
        // It looks after idle connections by itself.
        let idle = std::future::pending();
        self.see_through(connection, &served, idle, |connection| connection.graceful_shutdown()).await
    }

    async fn serve_http2(self: Rc<Self>, wire: Wire, served: Rc<Served>) -> hyper::Result<()> {
        let service = self.clone().service(served.clone());
        let connection = http2::Builder::new(OnThisThread(self.clone()))
            .timer(TokioTimer::new())
            .max_concurrent_streams(HTTP2_STREAMS)
            .max_header_list_size(HEADER_BYTES as u32)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20))
            .serve_connection(TokioIo::new(wire), service);
        let idle = served.until_idle(self.env.header_timeout);
        self.see_through(connection, &served, idle, |connection| connection.graceful_shutdown()).await
    }

    /// What answers the requests of a connection.
    fn service(
        self: Rc<Self>,
        served: Rc<Served>,
    ) -> impl Service<
        Request<Incoming>,
        Response = Answer,
        Error = Infallible,
        Future = impl Future<Output = Result<Answer, Infallible>> + 'static,
    > {
        service_fn(move |request| {
            let (shard, served) = (self.clone(), served.clone());
            async move { Ok(shard.answer_http(request, served).await) }
        })
    }

    /// Serves a connection until it ends, is idle, has lived long enough, or the node goes away.
    async fn see_through<C: Future<Output = hyper::Result<()>>>(
        &self,
        connection: C,
        served: &Served,
        idle: impl Future<Output = ()>,
        shut: impl Fn(Pin<&mut C>),
    ) -> hyper::Result<()> {
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            ended = &mut connection => return ended,
            () = tokio::time::sleep(LIFE) => {}
            () = idle => {}
            () = self.closing.cancelled() => {
                if !served.has_asked.get() && let Ok(ended) = timeout(LAST_REQUEST, &mut connection).await {
                    return ended;
                }
            }
        }
        // A request under way is answered, where it comes to its end at all; a stream goes on.
        shut(connection.as_mut());
        tokio::select! {
            ended = &mut connection => return ended,
            () = served.until_quiet() => {}
        }
        timeout(LAST_ANSWER, connection).await.unwrap_or(Ok(()))
    }

    /// Answers one request. While the node drains each answer is the connection's last.
    async fn answer_http(self: Rc<Self>, request: Request<Incoming>, served: Rc<Served>) -> Answer {
        served.has_asked.set(true);
        let _busy = served.busy();
        let (drain, version) = (self.env.drain.clone(), request.version());
        let mut answer = self.route(request, served).await;
        let is_last = drain.is_begun() && answer.status() != StatusCode::SWITCHING_PROTOCOLS;
        // HTTP/2 has no such header (RFC 9113 section 8.2.2): there the connection says it.
        if is_last && version < Version::HTTP_2 {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }

    async fn route(self: Rc<Self>, mut request: Request<Incoming>, served: Rc<Served>) -> Answer {
        name_host(&mut request);
        let path = request.uri().path().to_owned();
        let mut parts = path.trim_matches('/').split('/');
        let parts = [(); 5].map(|()| parts.next());
        match parts {
            [Some(""), None, ..] => self.page(),
            [Some("tidegate.js"), None, ..] => self.script(),
            [Some("v1"), Some("openapi.json"), None, ..] => whole(openapi::handle(request.method())),
            [Some("v1"), Some(tenant), Some(what), more, None] => match self.env.tenants.get(tenant) {
                Some(tenant) => self.answer_page(request, served, tenant, what, more).await,
                None => api_error(StatusCode::NOT_FOUND, "there is no such tenant"),
            },
            _ => not_found(),
        }
    }

    /// Answers below `/v1/<tenant>`; what is for clients so that pages of origins that the tenant allows can read
    /// it.
    async fn answer_page(
        self: Rc<Self>,
        request: Request<Incoming>,
        served: Rc<Served>,
        tenant: Arc<Tenant>,
        what: &str,
        more: Option<&str>,
    ) -> Answer {
        if !ROUTES.iter().any(|route| is_route(route, what, more)) {
            return not_found();
        }
        if !FOR_PAGES.contains(&what) {
            return self.answer_tenant(request, served, tenant, what, more).await;
        }
        let origin = cors::allowed_origin(&tenant, request.headers());
        let (head, body) = request.into_parts();
        let mut answer = if cors::is_preflight(&head) {
            let mut answer = Response::new(Either::Left(Full::default()));
            *answer.status_mut() = StatusCode::NO_CONTENT;
            cors::allow_requests(answer.headers_mut());
            answer
        } else {
            let request = Request::from_parts(head, body);
            self.answer_tenant(request, served, tenant, what, more).await
        };
        cors::allow(answer.headers_mut(), origin);
        answer
    }

    /// Routes below `/v1/<tenant>`.
    async fn answer_tenant(
        self: Rc<Self>,
        request: Request<Incoming>,
        served: Rc<Served>,
        tenant: Arc<Tenant>,
        what: &str,
        more: Option<&str>,
    ) -> Answer {
        let publishing = &self.env.publishing;
        match (what, more) {
            ("ws", None) => self.upgrade(request, tenant, &served),
            // Boxed: every connection would hold room for it otherwise.
            ("sse" | "stream", None) => Box::pin(self.open_stream(request, tenant, &served, what)).await,
            ("frames", None) => Box::pin(self.take_frames(request, &tenant)).await,
            ("ticket", None) => whole(self.env.tickets.handle(&tenant, request.method(), request.headers())),
            ("route", None) => whole(self.env.route.handle(&tenant, request.method(), request.headers())),
            ("publish", None) => whole(Box::pin(publishing.handle(&tenant, request)).await),
            ("sends", id) => whole(publishing.sends.handle(&tenant, id, &request)),
            ("dead-letters", action) => Box::pin(self.dead_letters(request, &tenant, action)).await,
            _ => not_found(),
        }
    }

    fn page(&self) -> Answer {
        let Some(page) = &self.env.page else {
            return text(StatusCode::NOT_FOUND, "Tidegate. Clients connect to /v1/<tenant>/ws\n");
        };
        let mut answer = Response::new(Either::Left(Full::new(page.html.clone())));
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
        answer
    }

    /// The client that the page uses.
    fn script(&self) -> Answer {
        let Some(page) = &self.env.page else { return not_found() };
        let mut answer = Response::new(Either::Left(Full::new(Bytes::from_static(page.script.as_bytes()))));
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/javascript; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        answer
    }

    /// The body of a request, of so many bytes at most.
    async fn body(body: Incoming, most: usize) -> Result<Bytes, Answer> {
        match timeout(BODY, Limited::new(body, most).collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(_)) => {
                let why = format!("the body is cut off or larger than {most} bytes");
                Err(api_error(StatusCode::PAYLOAD_TOO_LARGE, &why))
            }
            Err(_) => Err(api_error(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")),
        }
    }

    async fn dead_letters(
        &self,
        request: Request<Incoming>,
        tenant: &Tenant,
        action: Option<&str>,
    ) -> Answer {
        let (head, body) = request.into_parts();
        let body = match Self::body(body, dead_letters::BODY_BYTES).await {
            Ok(body) => body,
            Err(answer) => return answer,
        };
        let (backbone, upstream) = (&*self.env.backbone, &self.env.upstream);
        let letters = DeadLetters { backbone, tenant, upstream };
        let query = head.uri.query();
        whole(letters.handle(&head.method, action, query, &head.headers, &body).await)
    }
}

/// Whether a path below `/v1/<tenant>/` is this route's; a name in braces stands for any.
fn is_route(route: &str, what: &str, more: Option<&str>) -> bool {
    let (first, second) =
        route.split_once('/').map_or((route, None), |(first, second)| (first, Some(second)));
    let names = |second: &str, more: &str| second == more || second.starts_with('{');
    first == what && second.is_some() == more.is_some() && second.zip(more).is_none_or(|(a, b)| names(a, b))
}

/// The page is one file and one script, and talks to nodes alone.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'unsafe-inline'; \
    img-src data:; connect-src 'self' ws: wss: https:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

fn not_found() -> Answer {
    let why = "not found; clients connect to /v1/<tenant>/ws, and /v1/openapi.json describes the rest";
    api_error(StatusCode::NOT_FOUND, why)
}

fn api_error(status: StatusCode, why: &str) -> Answer {
    whole(answer::error(status, why))
}

fn whole(answer: answer::Answer) -> Answer {
    answer.map(|body| Either::Left(Full::new(body)))
}

/// HTTP/2 names the host in the request's target (RFC 9113 section 8.3.1), HTTP/1.1 in a header: whoever looks
/// finds it in the header.
fn name_host(request: &mut Request<Incoming>) {
    if request.headers().contains_key(HOST) {
        return;
    }
    let host = request.uri().authority().and_then(|name| HeaderValue::from_str(name.as_str()).ok());
    if let Some(host) = host {
        request.headers_mut().insert(HOST, host);
    }
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Either::Left(Full::new(text.into())));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_in_the_description() {
        let document: serde_json::Value = serde_json::from_str(openapi::OPENAPI).unwrap();
        let described: Vec<_> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        assert!(described.contains(&"/v1/openapi.json"));
        for route in ROUTES {
            let path = format!("/v1/{{tenant}}/{route}");
            assert!(described.contains(&&*path), "{path} is not in docs/openapi.json: {described:?}");
        }
        assert_eq!(described.len(), ROUTES.len() + 1, "{described:?}");
    }
}
