//! Publishing over HTTP: shapes, idempotency, limits, and what is said when something is wrong.

use anyhow::{Context as _, ensure};
use serde_json::json;
use tidegate_support::config::{API_KEY, NodeConfig};
use tidegate_support::{http, proven};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{client, embedded, messages, user};

const PATH: &str = "/v1/demo/publish";

#[tokio::test]
async fn http_publishes_one_several_and_a_batch() {
    proven(async {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let mut client = client(&node, &user("alice").listen("room:1").listen("room:2")).await?;
        client.subscribed("room:1").await?;
        client.subscribed("room:2").await?;
        let bodies = [
            json!({"channel": "room:1", "data": {"n": 1}, "headers": {"ce-type": "tick"}, "ttl_ms": 60000}),
            json!({"channels": ["room:1", "room:2"], "data": "both"}),
            json!({"messages": [{"channel": "room:1", "data": "a"}, {"channel": "room:2", "data": "b"}]}),
        ];
        let mut count = 0;
        for body in &bodies {
            let answer = http::post(&node.http, PATH, Some(API_KEY), body).await?;
            ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
            let results = answer.json()?["results"].as_array().cloned().unwrap_or_default();
            for result in &results {
                let offset = result["offset"].as_str().unwrap_or_default();
                let log = backend.log("demo", result["channel"].as_str().unwrap_or_default()).await?;
                ensure!(log.iter().any(|entry| entry.offset.to_string() == offset), "{result} is in no log");
            }
            count += results.len();
        }
        ensure!(count == 5, "one, two and two results");
        let got = messages(&mut client, 5).await?;
        ensure!(got.iter().any(|message| message.headers["ce-type"] == "tick"), "{got:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn http_deduplicates_by_id() {
    proven(async {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let body = json!({"channel": "room:1", "data": "once", "id": "i-1"});
        let first = http::post(&node.http, PATH, Some(API_KEY), &body).await?.json()?;
        let second = http::post(&node.http, PATH, Some(API_KEY), &body).await?.json()?;
        ensure!(first["results"][0]["offset"].is_string() && first == second, "{first} {second}");
        ensure!(backend.log("demo", "room:1").await?.len() == 1, "one entry");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn http_says_what_is_wrong() {
    proven(async {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let body = json!({"channel": "room:1", "data": "x"});
        for key in [None, Some("wrong")] {
            let answer = http::post(&node.http, PATH, key, &body).await?;
            ensure!(answer.status == 401, "{key:?}: {} {}", answer.status, answer.text());
        }
        let elsewhere = http::post(&node.http, "/v1/nobody/publish", Some(API_KEY), &body).await?;
        ensure!(elsewhere.status == 404 && elsewhere.json()?["error"].is_string(), "{}", elsewhere.text());
        let nowhere = http::get(&node.http, "/v1/demo/nothing", Some(API_KEY)).await?;
        ensure!(nowhere.status == 404 && nowhere.json()?["error"].is_string(), "{}", nowhere.text());
        for bad in ["", "[]", "{", "{\"data\": 1}", "{\"channel\": \"room:1\"}"] {
            let bytes = bad.as_bytes().to_vec();
            let answer = http::request(&node.http, "POST", PATH, Some(API_KEY), Some(bytes)).await?;
            ensure!(answer.status == 400, "{bad:?}: {} {}", answer.status, answer.text());
        }
        let get = http::get(&node.http, PATH, Some(API_KEY)).await?;
        ensure!(get.status == 405 && get.head.contains("allow: post"), "{}", get.head);
        let mixed =
            json!({"messages": [{"channel": "no channel", "data": "x"}, {"channel": "room:1", "data": "y"}]});
        let answer = http::post(&node.http, PATH, Some(API_KEY), &mixed).await?.json()?;
        ensure!(answer["results"][0]["error"].is_string(), "the wrong one is named: {answer}");
        ensure!(answer["results"][1]["offset"].is_string(), "the right one is published: {answer}");
        ensure!(backend.log("demo", "room:1").await?.len() == 1, "nothing else was added");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_curl_sends_unasked_is_read_and_other_media_types_are_not() {
    proven(async {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let body = br#"{"channel": "room:1", "data": "x"}"#;
        for (name, value, status) in [
            ("content-type", "application/x-www-form-urlencoded", 200),
            ("content-type", "application/json; charset=utf-8", 200),
            ("content-type", "text/plain", 415),
            ("content-encoding", "gzip", 415),
        ] {
            let answer = http::send(&node.http, "POST", PATH, Some(API_KEY), &[(name, value)], body).await?;
            ensure!(answer.status == status, "{name}: {value}: {} {}", answer.status, answer.text());
        }
        let answer = http::send(&node.http, "POST", &format!("{PATH}?x=1"), Some(API_KEY), &[], body).await?;
        ensure!(answer.status == 400 && answer.text().contains("no parameter"), "{}", answer.text());
        ensure!(backend.log("demo", "room:1").await?.len() == 2, "what is refused is not published");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_large_body_waits_for_the_node_to_ask_for_it() {
    proven(async {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let messages: Vec<_> =
            (0..20).map(|_| json!({"channel": "room:1", "data": "x".repeat(50_000)})).collect();
        let body = json!({ "messages": messages }).to_string();
        let head = |key: &str, length: usize| {
            format!(
                "POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nExpect: 100-continue\r\n\
                 Content-Length: {length}\r\nConnection: close\r\n\r\n"
            )
        };
        let mut socket = TcpStream::connect(&node.http).await?;
        socket.write_all(head(API_KEY, body.len()).as_bytes()).await?;
        let mut asked = [0; 25];
        socket.read_exact(&mut asked).await?;
        ensure!(asked.starts_with(b"HTTP/1.1 100 Continue\r\n"), "{}", String::from_utf8_lossy(&asked));
        socket.write_all(body.as_bytes()).await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        ensure!(backend.log("demo", "room:1").await?.len() == 20, "all are there");
        // What is refused anyway is refused before the body is sent.
        for (key, length, status) in [("wrong", 100, "401"), (API_KEY, 9 << 20, "413")] {
            let mut socket = TcpStream::connect(&node.http).await?;
            socket.write_all(head(key, length).as_bytes()).await?;
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await?;
            ensure!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn over_the_rate_a_request_is_refused_whole_on_every_shard() {
    proven(async {
        let config = NodeConfig::demo().limit("publish_per_s", 2).node("shards", "2");
        let (node, mut backend) = embedded(config).await?;
        let body = json!({"channels": ["room:1", "room:2"], "data": "x"});
        let mut published = 0;
        let mut refused = None;
        // Each request has a connection of its own, so both shards see some of them. One is refused
        // unless they come a second apart.
        for _ in 0..20 {
            let answer = http::post(&node.http, PATH, Some(API_KEY), &body).await?;
            match answer.status {
                200 => published += 1,
                _ => refused = Some(answer),
            }
        }
        let refused = refused.context("none was refused")?;
        ensure!(refused.status == 429 && refused.head.contains("\r\nretry-after: 1"), "{}", refused.head);
        let why = refused.json()?["error"].to_string();
        ensure!(why.contains("2 messages a second"), "it names the limit: {why}");
        for room in ["room:1", "room:2"] {
            let got = backend.log("demo", room).await?.len();
            ensure!(got == published, "{room} has {got} messages, {published} requests were taken");
        }
        ensure!(node.metric("tidegate_publishes_total").await? >= 40.0, "what was refused is counted");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn an_idempotency_key_in_the_header_is_an_id() {
    proven(async {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let body = br#"{"channel": "room:1", "data": "once"}"#;
        let mut answers = Vec::new();
        for _ in 0..2 {
            let key = [("idempotency-key", "k-1"), ("content-type", "application/json")];
            answers.push(http::send(&node.http, "POST", PATH, Some(API_KEY), &key, body).await?.json()?);
        }
        ensure!(answers[0]["results"][0]["offset"].is_string() && answers[0] == answers[1], "{answers:?}");
        ensure!(backend.log("demo", "room:1").await?.len() == 1, "one entry");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn the_api_describes_itself() {
    proven(async {
        let (node, _) = embedded(NodeConfig::demo()).await?;
        let document = http::get(&node.http, "/v1/openapi.json", None).await?.json()?;
        ensure!(
            document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")),
            "OpenAPI 3.1"
        );
        let paths = document["paths"].as_object().context("paths")?;
        for path in paths.keys() {
            let path = path.replace("{tenant}", "demo");
            let answer = http::request(&node.http, "PATCH", &path, Some(API_KEY), None).await?;
            ensure!(answer.status == 405, "{path} is described, and answers {}", answer.status);
        }
        Ok(())
    })
    .await;
}
