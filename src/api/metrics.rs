//! `GET /metrics`.

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;

use crate::telemetry::Metrics;

/// `/metrics`, in the text format that Prometheus reads. It holds tenants' names and numbers but no
/// payload, session or user, and asks for no token, because scrapers are given none.
pub fn router(metrics: Metrics) -> Router {
    let page = move || async move { ([(CONTENT_TYPE, Metrics::CONTENT_TYPE)], metrics.to_openmetrics()) };
    Router::new().route("/metrics", get(page))
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn the_page_says_its_type() {
        let metrics = Metrics::default();
        metrics.node().wakeups.inc_by(3);
        let request = Request::get("/metrics").body(Body::empty()).unwrap();
        let response = router(metrics).oneshot(request).await.unwrap();
        assert_eq!(response.headers()[CONTENT_TYPE], Metrics::CONTENT_TYPE);
        let page = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        assert!(String::from_utf8_lossy(&page).contains("tidegate_wakeups_total 3"));
    }
}
