//! `GET /healthz` and `GET /readyz`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use tokio::sync::watch;

use crate::backbone::Backbone;

/// Where a node stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Lifecycle {
    /// Listeners, backbone or shards are not up yet.
    Starting,
    /// It takes traffic.
    Ready,
    /// It is going away and sends its clients elsewhere.
    Draining,
}

/// What health is judged by.
#[derive(Clone)]
pub struct Health {
    /// The gateway sends, the probes read.
    pub lifecycle: watch::Receiver<Lifecycle>,
    /// Asked whether it answers.
    pub backbone: Arc<dyn Backbone>,
}

/// The body of `/readyz`.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Readiness {
    status: Lifecycle,
    /// What is away while sockets are still served.
    degraded: Vec<&'static str>,
}

/// `/healthz`: 200 while the process answers at all. `/readyz`: 200 while it takes traffic, also
/// without the backbone, because its sockets live on; else 503.
pub fn router(health: Health) -> Router {
    Router::new().route("/healthz", get(|| async { "ok\n" })).route("/readyz", get(readyz)).with_state(health)
}

async fn readyz(State(health): State<Health>) -> (StatusCode, Json<Readiness>) {
    let status = *health.lifecycle.borrow();
    let code = match status {
        Lifecycle::Ready => StatusCode::OK,
        Lifecycle::Starting | Lifecycle::Draining => StatusCode::SERVICE_UNAVAILABLE,
    };
    let degraded = if health.backbone.is_connected() { vec![] } else { vec!["backbone"] };
    (code, Json(Readiness { status, degraded }))
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt as _;

    use super::*;
    use crate::api::fake::Fake;

    async fn ask(router: &Router, path: &str) -> (u16, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let code = response.status().as_u16();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (code, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readiness_follows_the_lifecycle_and_names_what_is_away() {
        let (set, lifecycle) = watch::channel(Lifecycle::Starting);
        let backbone = Arc::new(Fake::default());
        let router = router(Health { lifecycle, backbone: backbone.clone() });
        let body =
            |status: &str, degraded: &str| format!(r#"{{"status":"{status}","degraded":[{degraded}]}}"#);
        assert_eq!(ask(&router, "/readyz").await, (503, body("starting", "")));
        set.send(Lifecycle::Ready).unwrap();
        assert_eq!(ask(&router, "/readyz").await, (200, body("ready", "")));
        backbone.leave();
        assert_eq!(ask(&router, "/readyz").await, (200, body("ready", r#""backbone""#)));
        set.send(Lifecycle::Draining).unwrap();
        assert_eq!(ask(&router, "/readyz").await, (503, body("draining", r#""backbone""#)));
        assert_eq!(ask(&router, "/healthz").await, (200, "ok\n".to_owned()));
    }
}
