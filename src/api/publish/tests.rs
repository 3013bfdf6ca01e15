use std::sync::atomic::Ordering;

use super::*;
use crate::api::fake::Fake;

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

struct Setup {
    backbone: Fake,
    metrics: TenantMetrics,
    limits: PublishLimits,
}

impl Setup {
    fn new() -> Self {
        Self {
            backbone: Fake::default(),
            metrics: TenantMetrics::default(),
            limits: PublishLimits::default(),
        }
    }

    async fn post(&self, body: &str) -> (u16, serde_json::Value) {
        let response = self.post_with(body, &[("authorization", "Bearer good")]).await;
        (response.status().as_u16(), serde_json::from_slice(response.body()).unwrap())
    }

    async fn post_with(&self, body: &str, headers: &[(&'static str, &'static str)]) -> Response<Bytes> {
        let context = PublishContext {
            backbone: &self.backbone,
            tenant: &TenantId::parse("acme").unwrap(),
            metrics: &self.metrics,
            limits: &self.limits,
            key_is_valid: &|key| key == "good",
            allow: &|channel| match channel.namespace() {
                "room" => Ok(()),
                other => Err(format!("there is no namespace `{other}`")),
            },
        };
        let headers = headers
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)));
        handle(&context, &headers.collect(), body.as_bytes()).await
    }

    fn counted(&self, outcome: PublishOutcome) -> u64 {
        self.metrics.publishes.of(Via::Http).of(outcome).get()
    }
}

#[tokio::test]
async fn a_message_is_in_the_log_where_the_answer_says() {
    let setup = Setup::new();
    let (status, body) = setup.post(r#"{"channel": "room:1", "data": {"a": 1}, "key": "k"}"#).await;
    let log = setup.backbone.log("room:1");
    let offset = log[0].offset.to_string();
    assert_eq!((status, body), (200, json!({ "results": [{ "channel": "room:1", "offset": offset }] })));
    assert_eq!((log[0].data.as_ref(), log[0].key.as_deref()), (&br#"{"a":1}"#[..], Some("k")));
    assert_eq!(setup.counted(PublishOutcome::Accepted), 1);
}

#[tokio::test]
async fn each_target_has_its_own_result_in_order() {
    let setup = Setup::new();
    let channels = r#"["room:1", "nope", "secret:1", "room:list", "room:2"]"#;
    let (status, body) = setup.post(&format!(r#"{{"channels": {channels}, "data": 1}}"#)).await;
    assert_eq!(status, 200);
    let results = body["results"].as_array().unwrap();
    let named: Vec<_> = results.iter().map(|result| result["channel"].as_str().unwrap()).collect();
    assert_eq!(named, ["room:1", "nope", "secret:1", "room:list", "room:2"]);
    assert!(results[0]["offset"].is_string() && results[4]["offset"].is_string());
    for (place, words) in [(1, "namespace"), (2, "no namespace `secret`"), (3, "holds no stream")] {
        let error = results[place]["error"].as_str().unwrap();
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(setup.counted(PublishOutcome::Accepted), 2);
    assert_eq!(setup.counted(PublishOutcome::Invalid), 1);
    assert_eq!(setup.counted(PublishOutcome::Refused), 1);
    assert_eq!(setup.counted(PublishOutcome::Failed), 1);
}

#[tokio::test]
async fn order_within_a_channel_is_the_request_s_and_concurrency_is_bounded() {
    let mut setup = Setup::new();
    setup.limits.concurrency = 4;
    let message = |n: usize| json!({ "channel": format!("room:{}", n % 10), "data": n });
    let messages: Vec<_> = (0..100).map(message).collect();
    let (status, body) = setup.post(&json!({ "messages": messages }).to_string()).await;
    assert_eq!(status, 200);
    assert_eq!(body["results"].as_array().unwrap().len(), 100);
    for room in 0..10 {
        let log = setup.backbone.log(&format!("room:{room}"));
        let data: Vec<_> =
            log.iter().map(|message| String::from_utf8_lossy(&message.data).into_owned()).collect();
        let expected: Vec<_> = (0..10).map(|n| (n * 10 + room).to_string()).collect();
        assert_eq!(data, expected);
    }
    assert_eq!(setup.backbone.most_in_flight.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn an_id_is_added_once() {
    let setup = Setup::new();
    let body = r#"{"channel": "room:1", "data": 1, "id": "once"}"#;
    assert_eq!(setup.post(body).await, setup.post(body).await);
    assert_eq!(setup.backbone.log("room:1").len(), 1);
}

#[tokio::test]
async fn without_the_backbone_the_client_learns_when_to_come_back() {
    let setup = Setup::new();
    setup.backbone.leave();
    let body = r#"{"messages": [{"channel": "nope", "data": 1}, {"channel": "room:1", "data": 1},
                                {"channel": "room:1", "data": 2}]}"#;
    let response = setup.post_with(body, &[("authorization", "Bearer good")]).await;
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()[RETRY_AFTER], "2");
    let text = String::from_utf8_lossy(response.body());
    assert!(text.contains("the backbone is away") && text.contains("not tried"), "{text}");
    assert_eq!(setup.counted(PublishOutcome::Unavailable), 2);
}

#[tokio::test]
async fn the_status_says_what_was_wrong_when_nothing_was_published() {
    let setup = Setup::new();
    for (body, status) in [
        (r#"{"channel": "nope", "data": 1}"#, 400),
        (r#"{"channel": "secret:1", "data": 1}"#, 403),
        (r#"{"channel": "room:list", "data": 1}"#, 502),
        ("{", 400),
    ] {
        assert_eq!(setup.post(body).await.0, status, "{body}");
    }
    let large = format!(r#"{{"channel": "room:1", "data": "{}"}}"#, "x".repeat(64 * 1024 + 1));
    assert_eq!(setup.post(&large).await.0, 413);
    for headers in [&[][..], &[("authorization", "Bearer bad")], &[("authorization", "good")]] {
        let response = setup.post_with(r#"{"channel": "room:1", "data": 1}"#, headers).await;
        assert_eq!(response.status(), 401);
        assert_eq!(response.headers()[WWW_AUTHENTICATE], "Bearer");
    }
}

#[tokio::test]
async fn the_caller_s_trace_goes_with_the_message() {
    let setup = Setup::new();
    let body = r#"{"channel": "room:1", "data": 1}"#;
    let key = ("authorization", "Bearer good");
    setup.post_with(body, &[key, ("traceparent", TRACEPARENT)]).await;
    setup.post_with(body, &[key, ("traceparent", "junk")]).await;
    let log = setup.backbone.log("room:1");
    assert_eq!(log[0].traceparent.as_deref(), Some(TRACEPARENT));
    assert_eq!(log[1].traceparent, None);
}
