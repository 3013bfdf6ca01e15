//! The public port: hyper serves requests, and gives the socket back where it becomes a WebSocket.

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, ORIGIN,
    RETRY_AFTER,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Shard;
use super::asking::Asked;
use super::connect::Arrival;
use super::gate::Permit;
use crate::api::admin::bearer;
use crate::api::dead_letters::{self, DeadLetters};
use crate::api::{answer, openapi};
use crate::telemetry::Refusal;
use crate::tenants::Tenant;
use crate::transport::websocket::{self, handshake};

type Answer = Response<Full<Bytes>>;

/// Bytes of request headers that are taken.
const HEADER_BYTES: usize = 16 * 1024;
/// What there is below `/v1/<tenant>/`: nothing else is served, and each stands in the API's description
/// by this name.
const ROUTES: &[&str] =
    &["ws", "publish", "sends", "sends/{send}", "dead-letters", "dead-letters/retry", "dead-letters/purge"];
/// How long one connection is used for requests; then it is closed between two of them. So that nothing
/// a client does, or does not, keeps a place for ever.
const LIFE: Duration = Duration::from_secs(600);
/// How long the body of a request about dead letters may take.
const BODY: Duration = Duration::from_secs(60);
/// How long the last request of a connection may take.
const LAST_ANSWER: Duration = Duration::from_secs(60);
/// How long a connection without a request may still send one after the last goodbye of a drain.
const LAST_REQUEST: Duration = Duration::from_millis(250);

impl Shard {
    /// Serves one accepted connection to its end. The permit counts it for as long as it lives.
    pub(super) async fn serve_http(self: Rc<Self>, stream: TcpStream, permit: Permit) {
        let permit = Rc::new(permit);
        let asked = Rc::new(Cell::new(false));
        let (shard, held, has_asked) = (self.clone(), permit.clone(), asked.clone());
        let service = hyper::service::service_fn(move |request| {
            has_asked.set(true);
            let (shard, permit) = (shard.clone(), held.clone());
            async move { Ok::<_, Infallible>(shard.answer_http(request, permit).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.env.header_timeout)
            .max_buf_size(HEADER_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = Box::pin(connection);
        let served = async {
            tokio::select! {
                ended = &mut connection => return ended,
                () = tokio::time::sleep(LIFE) => {}
                () = self.closing.cancelled() => {
                    if !asked.get() && let Ok(ended) = timeout(LAST_REQUEST, &mut connection).await {
                        return ended;
                    }
                }
            }
            // A request under way is answered, where it comes to its end at all.
            connection.as_mut().graceful_shutdown();
            timeout(LAST_ANSWER, connection).await.unwrap_or(Ok(()))
        };
        if let Err(error) = served.await {
            tracing::trace!(%error, "an HTTP connection ended early");
        }
    }

    /// Answers one request. While the node drains each answer is the connection's last.
    async fn answer_http(self: Rc<Self>, request: Request<Incoming>, permit: Rc<Permit>) -> Answer {
        let drain = self.env.drain.clone();
        let mut answer = self.route(request, permit).await;
        if drain.is_begun() && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }

    async fn route(self: Rc<Self>, request: Request<Incoming>, permit: Rc<Permit>) -> Answer {
        let path = request.uri().path().to_owned();
        let mut parts = path.trim_matches('/').split('/');
        let parts = [(); 5].map(|()| parts.next());
        match parts {
            [Some(""), None, ..] => self.page(),
            [Some("v1"), Some("openapi.json"), None, ..] => openapi::handle(request.method()).map(Full::new),
            [Some("v1"), Some(tenant), Some(what), more, None] => match self.env.tenants.get(tenant) {
                Some(tenant) => self.answer_tenant(request, permit, tenant, what, more).await,
                None => api_error(StatusCode::NOT_FOUND, "there is no such tenant"),
            },
            _ => not_found(),
        }
    }

    /// Routes below `/v1/<tenant>`.
    async fn answer_tenant(
        self: Rc<Self>,
        request: Request<Incoming>,
        permit: Rc<Permit>,
        tenant: Arc<Tenant>,
        what: &str,
        more: Option<&str>,
    ) -> Answer {
        if !ROUTES.iter().any(|route| is_route(route, what, more)) {
            return not_found();
        }
        let publishing = &self.env.publishing;
        match (what, more) {
            ("ws", None) => self.upgrade(request, tenant, permit),
            // Boxed: every connection would hold room for it otherwise.
            ("publish", None) => Box::pin(publishing.handle(&tenant, request)).await.map(Full::new),
            ("sends", id) => publishing.sends.handle(&tenant, id, &request).map(Full::new),
            ("dead-letters", action) => self.dead_letters(request, &tenant, action).await,
            _ => not_found(),
        }
    }

    fn page(&self) -> Answer {
        let Some(page) = &self.env.page else {
            return text(StatusCode::NOT_FOUND, "Tidegate. Clients connect to /v1/<tenant>/ws\n");
        };
        let mut answer = Response::new(Full::new(page.clone()));
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
        answer
    }

    /// Answers a WebSocket handshake and takes the socket over once the answer is written.
    fn upgrade(
        self: Rc<Self>,
        mut request: Request<Incoming>,
        tenant: Arc<Tenant>,
        permit: Rc<Permit>,
    ) -> Answer {
        let refused = |label, status, why: &'static str| {
            self.env.metrics.node().handshakes_refused.of(label).inc();
            text(status, why)
        };
        if self.env.drain.is_begun() {
            let why = "this node is going away; connect again\n";
            let mut answer = refused(Refusal::Draining, StatusCode::SERVICE_UNAVAILABLE, why);
            let seconds = HeaderValue::from(rand::random_range(1..=3_u64));
            answer.headers_mut().insert(RETRY_AFTER, seconds);
            return answer;
        }
        let headers = request.headers();
        if !tenant.origin_allowed(header(headers, &ORIGIN), header(headers, &HOST)) {
            let why = "pages of this origin may not connect; add it to the tenant's `origins`\n";
            return refused(Refusal::Origin, StatusCode::FORBIDDEN, why);
        }
        let accepted = match websocket::accept(&request) {
            Ok(accepted) => accepted,
            Err(refusal) => {
                self.env.metrics.node().handshakes_refused.of(Refusal::BadRequest).inc();
                let mut answer =
                    refusal.into_response().map(|why| Full::new(Bytes::from_static(why.as_bytes())));
                answer
                    .headers_mut()
                    .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
                return answer;
            }
        };
        let query = request.uri().query().filter(|_| tenant.allow_query_token);
        let in_query = || query?.split('&').find_map(|pair| pair.strip_prefix("token="));
        let bearer = headers.get(AUTHORIZATION).and_then(bearer).or_else(in_query).map(Into::into);
        let upgrade = hyper::upgrade::on(&mut request);
        let handshake::Accepted { codec, response } = accepted;
        let asked = match self.env.plugins.tables.of(&tenant.id) {
            Some(_) => Asked::of(&request.into_parts().0),
            None => Asked::default(),
        };
        let shard = self.clone();
        self.spawn(async move {
            let Ok(upgraded) = upgrade.await else { return };
            let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else { return };
            let (socket, early) = (parts.io.into_inner(), BytesMut::from(parts.read_buf));
            shard.serve(Arrival { socket, early, codec, tenant, bearer, asked, permit }).await;
        });
        response.map(|()| Full::default())
    }

    async fn dead_letters(
        &self,
        request: Request<Incoming>,
        tenant: &Tenant,
        action: Option<&str>,
    ) -> Answer {
        let (head, body) = request.into_parts();
        let body = Limited::new(body, dead_letters::BODY_BYTES).collect();
        let body = match timeout(BODY, body).await {
            Ok(Ok(body)) => body,
            Ok(Err(_)) => {
                let why = format!("the body is cut off or larger than {} bytes", dead_letters::BODY_BYTES);
                return api_error(StatusCode::PAYLOAD_TOO_LARGE, &why);
            }
            Err(_) => return api_error(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"),
        };
        let (backbone, upstream) = (&*self.env.backbone, &self.env.upstream);
        let letters = DeadLetters { backbone, tenant, upstream };
        let query = head.uri.query();
        letters.handle(&head.method, action, query, &head.headers, &body.to_bytes()).await.map(Full::new)
    }
}

/// Whether a path below `/v1/<tenant>/` is this route's; a name in braces stands for any.
fn is_route(route: &str, what: &str, more: Option<&str>) -> bool {
    let (first, second) =
        route.split_once('/').map_or((route, None), |(first, second)| (first, Some(second)));
    let names = |second: &str, more: &str| second == more || second.starts_with('{');
    first == what && second.is_some() == more.is_some() && second.zip(more).is_none_or(|(a, b)| names(a, b))
}

/// The page is one file that talks to its own host alone.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
    img-src data:; connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

fn not_found() -> Answer {
    let why = "not found; clients connect to /v1/<tenant>/ws, and /v1/openapi.json describes the rest";
    api_error(StatusCode::NOT_FOUND, why)
}

fn api_error(status: StatusCode, why: &str) -> Answer {
    answer::error(status, why).map(Full::new)
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(text.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

fn header<'h>(headers: &'h HeaderMap, name: &http::HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
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
