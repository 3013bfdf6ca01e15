use http::Response;
use http_body_util::Full;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::api::fake::Fake;
use crate::config::{ApiKeyHash, Config};
use crate::telemetry::{PublishOutcome, Via};
use crate::tenants::Tenants;

pub(super) const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A tenant `acme` with the key `good`, on a backbone that records.
pub(super) struct Setup {
    pub(super) backbone: Arc<Fake>,
    pub(super) tenant: Arc<Tenant>,
    pub(super) publishing: Publishing,
    metrics: Metrics,
}

impl Setup {
    pub(super) fn new() -> Self {
        Self::limited("")
    }

    /// With these lines in `[tenants.acme.limits]`.
    pub(super) fn limited(limits: &str) -> Self {
        let hash: String = ApiKeyHash::of("good").0.iter().map(|byte| format!("{byte:02x}")).collect();
        let toml = format!(
            "[tenants.acme]\napi_key_hashes = ['{hash}']\n[tenants.acme.limits]\n{limits}\n\
             [tenants.acme.namespaces.room]\n[tenants.acme.namespaces.queue]\nkind = 'queue'"
        );
        let config = Config::from_toml(&toml, &|_| None).unwrap();
        let tenant = Tenants::from_config(&config).get("acme").unwrap();
        let (backbone, metrics) = (Arc::new(Fake::default()), Metrics::default());
        let node = NodeId::parse("one").unwrap();
        let (told, stop) = (metrics.clone(), CancellationToken::new());
        let (upstream, _) = Upstream::spawn(backbone.clone(), node.clone(), Arc::default(), told, stop);
        let publishing = Publishing::new(node, backbone.clone(), metrics.clone(), upstream);
        Self { backbone, tenant, publishing, metrics }
    }

    pub(super) async fn post(&self, body: &str) -> (u16, Value) {
        let answer = self.post_with("", body, &[("authorization", "Bearer good")]).await;
        (answer.status().as_u16(), serde_json::from_slice(answer.body()).unwrap())
    }

    pub(super) async fn post_with(
        &self,
        query: &str,
        body: &str,
        headers: &[(&str, &str)],
    ) -> Response<Bytes> {
        let mut request = Request::post(format!("/v1/acme/publish{query}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = Full::new(Bytes::from(body.to_owned()));
        self.publishing.handle(&self.tenant, request.body(body).unwrap()).await
    }

    fn counted(&self, outcome: PublishOutcome) -> u64 {
        self.metrics.tenant(&self.tenant.id).publishes.of(Via::Http).of(outcome).get()
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
    for (place, words) in [(1, "namespace"), (2, "no namespace \"secret\""), (3, "holds no stream")] {
        let error = results[place]["error"].as_str().unwrap();
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(setup.counted(PublishOutcome::Accepted), 2);
    assert_eq!(setup.counted(PublishOutcome::Invalid), 1);
    assert_eq!(setup.counted(PublishOutcome::Refused), 1);
    assert_eq!(setup.counted(PublishOutcome::Failed), 1);
}

#[tokio::test]
async fn messages_to_one_channel_keep_their_order() {
    let setup = Setup::new();
    let messages: Vec<_> =
        (0..100).map(|n| json!({ "channel": format!("room:{}", n % 10), "data": n.to_string() })).collect();
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
}

#[tokio::test]
async fn an_id_is_added_once_wherever_it_stands() {
    let setup = Setup::new();
    let body = r#"{"channel": "room:1", "data": 1, "id": "once"}"#;
    let first = setup.post(body).await;
    assert_eq!(first, setup.post(body).await);
    let key = ("authorization", "Bearer good");
    let unnamed = r#"{"channel": "room:1", "data": 1}"#;
    for (body, header) in [(body, "once"), (unnamed, "once"), (unnamed, "\"once\"")] {
        let answer = setup.post_with("", body, &[key, ("idempotency-key", header)]).await;
        assert_eq!(serde_json::from_slice::<Value>(answer.body()).unwrap(), first.1, "{header}");
    }
    assert_eq!(setup.backbone.log("room:1").len(), 1);
    let long = "x".repeat(257);
    for (body, header, words) in [
        (body, "twice", "differ"),
        (unnamed, "", "has 0 bytes"),
        (unnamed, long.as_str(), "has 257 bytes"),
        (
            r#"{"messages": [{"channel": "room:1", "data": 1}, {"channel": "room:1", "data": 2}]}"#,
            "k",
            "an `id`",
        ),
    ] {
        let answer = setup.post_with("", body, &[key, ("idempotency-key", header)]).await;
        let text = String::from_utf8_lossy(answer.body());
        assert!(answer.status() == 400 && text.contains(words), "{text}");
    }
}

#[tokio::test]
async fn without_the_backbone_the_client_learns_when_to_come_back() {
    let setup = Setup::new();
    setup.backbone.leave();
    let body = r#"{"messages": [{"channel": "nope", "data": 1}, {"channel": "room:1", "data": 1}]}"#;
    let answer = setup.post_with("", body, &[("authorization", "Bearer good")]).await;
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.headers()["retry-after"], "2");
    let text = String::from_utf8_lossy(answer.body());
    assert!(text.contains("the backbone is away"), "{text}");
    assert_eq!(setup.counted(PublishOutcome::Unavailable), 1);
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
        let answer = setup.post_with("", r#"{"channel": "room:1", "data": 1}"#, headers).await;
        assert_eq!(answer.status(), 401);
        assert_eq!(answer.headers()["www-authenticate"], "Bearer");
    }
}

#[tokio::test]
async fn what_is_not_read_is_said_before_the_body_is() {
    let setup = Setup::new();
    let body = r#"{"channel": "room:1", "data": 1}"#;
    for (query, headers, status, words) in [
        ("", [("content-type", "application/json; charset=UTF-8")], 200, "offset"),
        ("", [("content-type", "Application/JSON")], 200, "offset"),
        ("", [("content-encoding", "identity")], 200, "offset"),
        ("", [("content-type", "application/x-www-form-urlencoded")], 200, "offset"),
        ("", [("content-type", "application/json; charset=latin1")], 415, "JSON is UTF-8"),
        ("", [("content-type", "text/plain")], 415, "application/cloudevents-batch+json"),
        ("", [("content-type", "application/cloudevents+avro")], 415, "application/json"),
        ("", [("content-encoding", "gzip")], 415, "send it as it is"),
        ("?chanel=room:1", [("x", "y")], 400, "there is: channel"),
        ("?channel=room:1", [("x", "y")], 400, "in the body"),
    ] {
        let headers = [&[("authorization", "Bearer good")], &headers[..]].concat();
        let answer = setup.post_with(query, body, &headers).await;
        let text = String::from_utf8_lossy(answer.body());
        assert!(answer.status() == status && text.contains(words), "{query} {headers:?}: {text}");
        assert_eq!(answer.headers().contains_key("accept-encoding"), status == 415);
    }
    let get = Request::get("/v1/acme/publish").body(Full::new(Bytes::new())).unwrap();
    let answer = setup.publishing.handle(&setup.tenant, get).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["allow"]),
        (405, &HeaderValue::from_static("POST"))
    );
}

#[tokio::test]
async fn a_body_too_large_is_refused_however_it_comes() {
    let setup = Setup::limited("publish_body_bytes = 1024");
    let body = format!(r#"{{"channel": "room:1", "data": "{}"}}"#, "x".repeat(1024));
    let (status, answer) = setup.post(&body).await;
    assert_eq!(status, 413);
    assert!(answer["error"].as_str().unwrap().contains("the limit is 1024"), "{answer}");
    let key = ("authorization", "Bearer good");
    let answer = setup.post_with("", "{}", &[key, ("content-length", "99999")]).await;
    assert_eq!(answer.status(), 413, "what is announced is not read");
}

#[tokio::test]
async fn over_the_rate_nothing_of_a_request_is_published() {
    let setup = Setup::limited("publish_per_s = 3");
    let two = r#"{"channels": ["room:1", "room:2"], "data": 1}"#;
    assert_eq!(setup.post(two).await.0, 200);
    let answer = setup.post_with("", two, &[("authorization", "Bearer good")]).await;
    assert_eq!(answer.status(), 429);
    assert_eq!(answer.headers()["retry-after"], "1");
    assert!(String::from_utf8_lossy(answer.body()).contains("3 messages a second"));
    assert_eq!((setup.backbone.log("room:1").len(), setup.backbone.log("room:2").len()), (1, 1));
    assert_eq!(setup.counted(PublishOutcome::Limited), 2);
}

#[tokio::test]
async fn no_more_requests_are_in_flight_than_may_be() {
    let setup = Setup::limited("publish_in_flight = 1");
    let body = r#"{"channel": "room:1", "data": 1}"#;
    let (first, second) = tokio::join!(setup.post(body), setup.post(body));
    assert_eq!((first.0, second.0), (200, 429), "{second:?}");
    assert_eq!(setup.post(body).await.0, 200, "what has ended does not count");
}

#[tokio::test]
async fn the_caller_s_trace_goes_with_the_message() {
    let setup = Setup::new();
    let body = r#"{"channel": "room:1", "data": 1}"#;
    let key = ("authorization", "Bearer good");
    setup.post_with("", body, &[key, ("traceparent", TRACEPARENT)]).await;
    setup.post_with("", body, &[key, ("traceparent", "junk")]).await;
    let log = setup.backbone.log("room:1");
    assert_eq!(log[0].traceparent.as_deref(), Some(TRACEPARENT));
    assert_eq!(log[1].traceparent, None);
}

#[tokio::test]
async fn cloudevents_come_in_all_three_modes() {
    let setup = Setup::new();
    let key = ("authorization", "Bearer good");
    let event =
        r#"{"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "channel": "room:1", "data": 1}"#;
    let structured = [key, ("content-type", "application/cloudevents+json; charset=utf-8")];
    assert_eq!(setup.post_with("", event, &structured).await.status(), 200);
    let batch = [key, ("content-type", "application/cloudevents-batch+json")];
    let events = r#"[{"specversion": "1.0", "id": "2", "source": "/s", "type": "t"}]"#;
    assert_eq!(setup.post_with("?channel=room%3A2&channel=room:3", events, &batch).await.status(), 200);
    assert_eq!(setup.post_with("", "[]", &batch).await.body(), r#"{"results":[]}"#, "an empty batch is one");
    let attributes = [("ce-specversion", "1.0"), ("ce-id", "3"), ("ce-source", "/s"), ("ce-type", "t")];
    let binary = [&[key, ("content-type", "text/plain")], &attributes[..]].concat();
    assert_eq!(setup.post_with("?channel=room:4", "hello", &binary).await.status(), 200);
    let id = |room: &str| setup.backbone.log(room)[0].id.clone().unwrap();
    assert_eq!(
        [id("room:1"), id("room:2"), id("room:3"), id("room:4")],
        ["/s 1", "/s 2", "/s 2", "/s 3"].map(Box::<str>::from)
    );
    let message = &setup.backbone.log("room:4")[0];
    assert_eq!((message.data.as_ref(), message.header("content-type")), (&b"hello"[..], Some("text/plain")));
    let named = [&structured[..], &[("idempotency-key", "k")]].concat();
    assert_eq!(setup.post_with("", event, &named).await.status(), 400);
}
