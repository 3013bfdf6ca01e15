//! The admin listener: health, metrics, and everything under `/admin` behind a bearer token.
//!
//! No cookie authenticates and no CORS header is ever sent. A page in an operator's browser can still
//! reach a loopback listener under a name of its own (DNS rebinding), so `Host` must be one of ours.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, HeaderMap, WWW_AUTHENTICATE};
use axum::http::uri::Authority;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use ring::hmac;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::health::{self, Health};
use super::metrics;
use crate::telemetry::Metrics;

/// What the admin listener needs.
pub struct Admin {
    /// For the probes.
    pub health: Health,
    /// For `/metrics`.
    pub metrics: Metrics,
    /// Opens `/admin`; without one nothing does.
    pub token: Option<Arc<AdminToken>>,
    /// By which names the listener may be called.
    pub hosts: Hosts,
}

/// Routes for the admin listener, made by the modules that answer them.
pub type Routes = Router;

/// The whole admin listener. `routes` are put under `/admin`, behind the token; those of `tenants` stand as they
/// are, and ask for keys themselves.
pub fn router(admin: Admin, routes: Routes, tenants: Routes) -> Router {
    let token = admin.token;
    let guarded = Router::new()
        .route("/", get(root))
        .merge(routes)
        .fallback(|| async { error(StatusCode::NOT_FOUND, "there is no such admin route") })
        .layer(from_fn_with_state(token, require_token));
    Router::new()
        .nest("/admin", guarded)
        .merge(tenants)
        .merge(metrics::router(admin.metrics))
        .layer(from_fn_with_state(Arc::new(admin.hosts), require_host))
        // Probes come under whatever address the orchestrator uses, and tell nothing worth reading.
        .merge(health::router(admin.health))
}

/// Serves the admin listener, as [`router`] makes it, until `stop`; requests under way are answered first.
pub async fn serve(
    listener: TcpListener,
    admin: Admin,
    routes: Routes,
    tenants: Routes,
    stop: CancellationToken,
) -> io::Result<()> {
    axum::serve(listener, router(admin, routes, tenants)).with_graceful_shutdown(stop.cancelled_owned()).await
}

/// Answers whoever wants to know whether its token is right.
async fn root() -> Response {
    Json(json!({ "name": "tidegate", "version": env!("CARGO_PKG_VERSION") })).into_response()
}

/// A bearer token to compare with. The token itself is not kept.
pub struct AdminToken {
    key: hmac::Key,
    tag: hmac::Tag,
}

impl AdminToken {
    /// Takes the configured token. It should hold at least 128 random bits.
    pub fn new(token: &str) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &rand::random::<[u8; 32]>());
        let tag = hmac::sign(&key, token.as_bytes());
        Self { key, tag }
    }

    /// Whether this is the token, in a time that says nothing about it: what is compared are tags
    /// under a key nobody knows, and those in constant time.
    pub fn matches(&self, given: &str) -> bool {
        hmac::verify(&self.key, given.as_bytes(), self.tag.as_ref()).is_ok()
    }
}

/// The token in an `Authorization: Bearer …` header (RFC 6750, section 2.1).
pub fn bearer(header: &HeaderValue) -> Option<&str> {
    let (scheme, token) = header.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

async fn require_token(
    State(token): State<Option<Arc<AdminToken>>>,
    request: Request,
    next: Next,
) -> Response {
    let Some(token) = token else {
        return error(StatusCode::FORBIDDEN, "this node has no admin token configured, so /admin is closed");
    };
    let given = request.headers().get(AUTHORIZATION).and_then(bearer);
    match given {
        Some(given) if token.matches(given) => next.run(request).await,
        _ => {
            let why = "send `Authorization: Bearer <admin token>` with the token this node was started with";
            let mut response = error(StatusCode::UNAUTHORIZED, why);
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            response
        }
    }
}

/// The names under which the admin listener answers: loopback, the address it listens on, and those
/// that are configured. Ports are not looked at.
#[derive(Debug, Clone)]
pub struct Hosts {
    listen: IpAddr,
    names: Vec<String>,
}

impl Hosts {
    /// For a listener on `listen`, with further names (or addresses) as `tidegate.internal`.
    pub fn new(listen: SocketAddr, names: impl IntoIterator<Item = String>) -> Self {
        let names = names.into_iter().map(|name| name.trim_end_matches('.').to_ascii_lowercase()).collect();
        Self { listen: listen.ip(), names }
    }

    /// Whether a request with this `Host` was meant for us.
    fn allow(&self, authority: &str) -> bool {
        let Ok(authority) = authority.parse::<Authority>() else { return false };
        if authority.as_str().contains('@') {
            return false;
        }
        let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if self.names.iter().any(|name| name == &host || name == bare) || host == "localhost" {
            return true;
        }
        // A listener on all addresses may be called by any of them. Rebinding needs a name, so an
        // address in `Host` is never the work of a foreign page's.
        let address = bare.parse::<IpAddr>().map(|address| address.to_canonical());
        address.is_ok_and(|address| {
            address.is_loopback() || address == self.listen.to_canonical() || self.listen.is_unspecified()
        })
    }
}

async fn require_host(State(hosts): State<Arc<Hosts>>, request: Request, next: Next) -> Response {
    if one_host(request.headers()).is_some_and(|host| hosts.allow(host)) {
        next.run(request).await
    } else {
        let why = "the Host header names another host; call the admin listener by its address, or add the \
                   name to its configured host names";
        error(StatusCode::FORBIDDEN, why)
    }
}

/// The `Host` header, if there is exactly one.
fn one_host(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(HOST).iter();
    let host = all.next()?.to_str().ok()?;
    all.next().is_none().then_some(host)
}

fn error(status: StatusCode, why: &str) -> Response {
    (status, Json(json!({ "error": why }))).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use tokio::sync::watch;
    use tower::ServiceExt as _;

    use super::*;
    use crate::api::fake::Fake;
    use crate::api::health::Lifecycle;

    fn admin(token: Option<&str>) -> Router {
        let (_, lifecycle) = watch::channel(Lifecycle::Ready);
        let admin = Admin {
            health: Health { lifecycle, backbone: Arc::new(Fake::default()) },
            metrics: Metrics::default(),
            token: token.map(|token| Arc::new(AdminToken::new(token))),
            hosts: Hosts::new(([10, 0, 0, 7], 8081).into(), ["Tidegate.internal".to_owned()]),
        };
        let open = Router::new().route("/v1/{tenant}/plugins", get(|| async { "{}" }));
        router(admin, Router::new().route("/tenants", get(|| async { "[]" })), open)
    }

    async fn ask(router: &Router, path: &str, host: Option<&str>, authorization: Option<&str>) -> u16 {
        let mut request = Request::get(path);
        if let Some(host) = host {
            request = request.header(HOST, host);
        }
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(Body::empty()).unwrap();
        router.clone().oneshot(request).await.unwrap().status().as_u16()
    }

    #[tokio::test]
    async fn admin_routes_ask_for_the_token() {
        let open = admin(Some("s3cret"));
        let host = Some("localhost:8081");
        for path in ["/admin", "/admin/tenants"] {
            assert_eq!(ask(&open, path, host, Some("Bearer s3cret")).await, 200, "{path}");
            assert_eq!(ask(&open, path, host, Some("bearer s3cret")).await, 200, "{path}");
            for wrong in [None, Some("Bearer s3cre"), Some("Bearer "), Some("s3cret"), Some("Basic s3cret")] {
                assert_eq!(ask(&open, path, host, wrong).await, 401, "{path} {wrong:?}");
            }
        }
        assert_eq!(ask(&open, "/admin/nothing", host, None).await, 401, "nobody learns what exists");
        assert_eq!(ask(&open, "/admin/nothing", host, Some("Bearer s3cret")).await, 404);
        assert_eq!(ask(&admin(None), "/admin", host, Some("Bearer ")).await, 403);
    }

    #[tokio::test]
    async fn a_foreign_host_is_refused_but_for_probes() {
        let router = admin(Some("s3cret"));
        for path in ["/admin", "/metrics", "/v1/acme/plugins"] {
            for host in [None, Some("evil.example"), Some("localhost.evil.example:8081"), Some("")] {
                assert_eq!(ask(&router, path, host, Some("Bearer s3cret")).await, 403, "{path} {host:?}");
            }
        }
        assert_eq!(ask(&router, "/metrics", Some("127.0.0.1"), None).await, 200);
        for path in ["/healthz", "/readyz"] {
            assert_eq!(ask(&router, path, Some("10.1.2.3:8081"), None).await, 200, "{path}");
        }
        let twice = Request::get("/metrics").header(HOST, "localhost").header(HOST, "evil.example");
        let twice = twice.body(Body::empty()).unwrap();
        assert_eq!(router.oneshot(twice).await.unwrap().status(), StatusCode::FORBIDDEN);
    }

    #[test]
    fn the_listener_s_own_names_are_allowed() {
        let hosts = Hosts::new(([10, 0, 0, 7], 8081).into(), ["Tidegate.internal.".to_owned()]);
        for good in [
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1:8081",
            "127.9.9.9",
            "[::1]:8081",
            "10.0.0.7:8081",
            "[::ffff:10.0.0.7]:8081",
            "tidegate.internal:8081",
            "tidegate.internal.",
        ] {
            assert!(hosts.allow(good), "{good}");
        }
        for bad in
            ["10.0.0.8", "internal", "a@localhost", "localhost@evil.example", "evil.example#localhost", "["]
        {
            assert!(!hosts.allow(bad), "{bad}");
        }
        let everywhere = Hosts::new(([0, 0, 0, 0], 8081).into(), []);
        assert!(everywhere.allow("10.0.0.8:8081"));
        assert!(!everywhere.allow("evil.example"));
    }
}
