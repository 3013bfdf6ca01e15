use std::time::Duration;

use http::Request;
use serde_json::Value;

use crate::api::publish::tests::Setup;

impl Setup {
    fn ask(&self, method: &str, url: &str) -> (u16, Value) {
        let request = Request::builder().method(method).uri(url).header("authorization", "Bearer good");
        let id = url.strip_prefix("/v1/acme/sends").unwrap().strip_prefix('/');
        let answer = self.publishing.sends.handle(&self.tenant, id, &request.body(()).unwrap());
        (answer.status().as_u16(), serde_json::from_slice(answer.body()).unwrap())
    }

    /// Posts a send and says where it is.
    async fn send(&self, body: &str) -> String {
        let (status, answer) = self.post(body).await;
        assert_eq!(status, 202, "{answer}");
        answer["url"].as_str().unwrap().to_owned()
    }

    /// How it stands once `check` holds. Time is paused: it goes on as soon as everything waits.
    async fn until(&self, url: &str, check: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..10_000 {
            let (status, answer) = self.ask("GET", url);
            assert_eq!(status, 200, "{answer}");
            if check(&answer) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{url} did not get there: {}", self.ask("GET", url).1)
    }
}

fn ended(answer: &Value) -> bool {
    answer["state"] != "running"
}

/// Channels `room:0`, `room:1` and so on.
fn rooms(count: usize) -> String {
    let rooms: Vec<_> = (0..count).map(|n| format!("\"room:{n}\"")).collect();
    format!("[{}]", rooms.join(","))
}

#[tokio::test(start_paused = true)]
async fn a_wide_request_is_a_send_that_ends() {
    let setup = Setup::new();
    let channels = rooms(1_500).replacen("room:7\"", "nope\"", 1).replacen("room:8\"", "secret:8\"", 1);
    let url = setup.send(&format!(r#"{{"channels": {channels}, "data": "hi", "id": "wide"}}"#)).await;
    let answer = setup.until(&url, ended).await;
    assert_eq!((answer["state"].as_str(), answer["targets"].as_u64()), (Some("done"), Some(1_500)));
    assert_eq!((answer["added"].as_u64(), answer["failed"].as_u64()), (Some(1_498), Some(2)));
    assert_eq!(answer["errors"][0]["channel"], "nope");
    assert_eq!(answer["errors"][1]["channel"], "secret:8");
    assert!(answer["ended_ms"].is_u64() && answer.get("eta_s").is_none(), "{answer}");
    assert_eq!(setup.backbone.log("room:1499")[0].id.as_deref(), Some("wide"));
    let again = setup.send(&format!(r#"{{"channels": {channels}, "data": "hi", "id": "wide"}}"#)).await;
    assert_eq!(setup.until(&again, ended).await["added"], 1_498);
    assert_eq!(setup.backbone.log("room:1499").len(), 1, "posted again, it is there once");
    let (_, list) = setup.ask("GET", "/v1/acme/sends");
    assert_eq!(list["sends"].as_array().unwrap().len(), 2);
    assert!(list["sends"][0].get("errors").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_pace_is_kept_and_a_send_can_be_cancelled() {
    let setup = Setup::new();
    let url = setup.send(r#"{"channels": ["room:1", "room:2", "room:3"], "data": 1, "pace_per_s": 1}"#).await;
    assert_eq!(setup.ask("GET", &url).1["eta_s"], 3);
    setup.until(&url, |answer| answer["added"] == 1).await;
    let (status, cancelled) = setup.ask("DELETE", &url);
    assert_eq!((status, cancelled["state"].as_str()), (200, Some("cancelled")));
    let answer = setup.until(&url, |answer| answer["ended_ms"].is_u64()).await;
    assert_eq!((answer["state"].as_str(), answer["added"].as_u64()), (Some("cancelled"), Some(1)));
    assert!(setup.backbone.log("room:3").is_empty());
    assert_eq!(setup.ask("DELETE", &url).1["state"], "cancelled", "what has ended stays as it is");
}

#[tokio::test(start_paused = true)]
async fn a_send_waits_for_the_backbone_and_adds_nothing_twice() {
    let setup = Setup::new();
    setup.backbone.leave();
    let body = r#"{"messages": [{"channel": "room:1", "data": "a"}, {"channel": "room:1", "data": "b"}], "pace_per_s": 100}"#;
    let url = setup.send(body).await;
    let waiting = setup.until(&url, |answer| answer["waiting"].is_string()).await;
    assert_eq!((waiting["state"].as_str(), waiting["added"].as_u64()), (Some("running"), Some(0)));
    setup.backbone.come_back();
    let answer = setup.until(&url, ended).await;
    assert_eq!((answer["state"].as_str(), answer["added"].as_u64()), (Some("done"), Some(2)));
    assert!(answer.get("waiting").is_none());
    let log = setup.backbone.log("room:1");
    let data: Vec<_> = log.iter().map(|message| message.data.as_ref()).collect();
    assert_eq!(data, [b"a", b"b"]);
    assert!(log[0].id.is_some() && log[0].id != log[1].id, "each has an id of the send's own");
}

#[tokio::test(start_paused = true)]
async fn sends_are_bounded_and_none_is_lost_in_silence_at_the_end() {
    let setup = Setup::limited("sends = 1");
    setup.backbone.leave();
    let body = r#"{"channel": "room:1", "data": 1, "pace_per_s": 1}"#;
    let url = setup.send(body).await;
    let answer = setup.post_with("", body, &[("authorization", "Bearer good")]).await;
    assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].to_str().unwrap()), (429, "5"));
    setup.publishing.sends.finish(Duration::from_secs(3)).await;
    let answer = setup.ask("GET", &url).1;
    assert_eq!((answer["state"].as_str(), answer["added"].as_u64()), (Some("failed"), Some(0)));
    assert_eq!(setup.post(body).await.0, 503, "a node that goes away takes no sends");
}

#[tokio::test(start_paused = true)]
async fn a_send_is_found_at_its_node_for_a_while() {
    let setup = Setup::new();
    let url = setup.send(r#"{"channel": "nope:1", "data": 1, "pace_per_s": 1}"#).await;
    assert!(url.ends_with("~one"), "{url}");
    assert_eq!(setup.until(&url, ended).await["state"], "failed", "no target has it");
    assert_eq!(setup.ask("GET", &url.replace('~', "%7E")).0, 200);
    let (status, answer) = setup.ask("GET", "/v1/acme/sends/0123456789abcdef~two");
    assert!(status == 404 && answer["error"].as_str().unwrap().contains("at the node two"), "{answer}");
    tokio::time::advance(Duration::from_secs(601)).await;
    let (status, answer) = setup.ask("GET", &url);
    assert!(status == 404 && answer["error"].as_str().unwrap().contains("10 minutes"), "{answer}");
    for (method, url, status) in [
        ("PUT", url.as_str(), 405),
        ("DELETE", "/v1/acme/sends", 405),
        ("HEAD", "/v1/acme/sends", 200),
        ("GET", "/v1/acme/sends?limit=1", 400),
    ] {
        let (got, answer) = setup.ask(method, url);
        assert_eq!(got, status, "{method} {url}: {answer}");
    }
}
