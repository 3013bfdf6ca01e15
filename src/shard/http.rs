//! The public port: hyper serves requests, and gives the socket back where it becomes a WebSocket.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, ORIGIN,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::Shard;
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
    &["ws", "publish", "sends", "sends/{id}", "dead-letters", "dead-letters/retry", "dead-letters/purge"];
/// How long the headers of a request may take.
const HEADER_PATIENCE: Duration = Duration::from_secs(5);

impl Shard {
    /// Serves one accepted connection to its end. The permit counts it for as long as it lives; a
    /// connection without one is told to come again.
    pub(super) async fn serve_http(self: Rc<Self>, stream: TcpStream, permit: Option<Permit>) {
        let permit = Rc::new(permit);
        let (shard, held) = (self.clone(), permit.clone());
        let service = hyper::service::service_fn(move |request| {
            let (shard, permit) = (shard.clone(), held.clone());
            async move { Ok::<_, Infallible>(shard.answer_http(request, permit).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_PATIENCE)
            .max_buf_size(HEADER_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        if let Err(error) = Box::pin(connection).await {
            tracing::trace!(%error, "an HTTP connection ended early");
        }
    }

    async fn answer_http(self: Rc<Self>, request: Request<Incoming>, permit: Rc<Option<Permit>>) -> Answer {
        if permit.is_none() {
            self.env.metrics.node().handshakes_refused.of(Refusal::Overloaded).inc();
            let mut answer =
                text(StatusCode::SERVICE_UNAVAILABLE, "this node holds as many connections as it may\n");
            answer.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from_static("5"));
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            return answer;
        }
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
        permit: Rc<Option<Permit>>,
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
            ("publish", None) => publishing.handle(&tenant, request).await.map(Full::new),
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
        permit: Rc<Option<Permit>>,
    ) -> Answer {
        let refused = |label, status, why: &'static str| {
            self.env.metrics.node().handshakes_refused.of(label).inc();
            text(status, why)
        };
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
        let shard = self.clone();
        self.spawn(async move {
            let Ok(upgraded) = upgrade.await else { return };
            let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else { return };
            let (socket, early) = (parts.io.into_inner(), BytesMut::from(parts.read_buf));
            shard.serve(Arrival { socket, early, codec, tenant, bearer }).await;
            drop(permit);
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
        let Ok(body) = Limited::new(body, dead_letters::BODY_BYTES).collect().await else {
            let why = format!("the body is cut off or larger than {} bytes\n", dead_letters::BODY_BYTES);
            return text(StatusCode::PAYLOAD_TOO_LARGE, why);
        };
        let letters = DeadLetters { backbone: &*self.env.backbone, tenant };
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
