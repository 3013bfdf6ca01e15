//! CloudEvents over HTTP reach clients in all three modes, once.

use anyhow::ensure;
use serde_json::json;
use tidegate_support::config::{API_KEY, NodeConfig};
use tidegate_support::{http, proven};

use crate::harness::{embedded, messages, subscriber};

const PATH: &str = "/v1/demo/publish";

#[tokio::test]
async fn an_event_comes_with_its_attributes_in_every_mode() {
    proven(async {
        let (node, _) = embedded(NodeConfig::demo()).await?;
        let mut alice = subscriber(&node, "alice", "room:1", false).await?;
        let event = |id: &str| {
            json!({"specversion": "1.0", "id": id, "source": "/orders", "type": "order.shipped",
                   "channel": "room:1", "data": {"order": 17}})
        };
        let structured = [("content-type", "application/cloudevents+json")];
        let batch = [("content-type", "application/cloudevents-batch+json")];
        let binary = [
            ("content-type", "application/json"),
            ("ce-specversion", "1.0"),
            ("ce-id", "3"),
            ("ce-source", "/orders"),
            ("ce-type", "order.shipped"),
        ];
        let elsewhere = format!("{PATH}?channel=room%3A1");
        for (path, headers, body) in [
            (PATH, &structured[..], event("1").to_string()),
            (PATH, &batch, json!([event("2")]).to_string()),
            (elsewhere.as_str(), &binary, r#"{"order": 17}"#.to_owned()),
        ] {
            let answer =
                http::send(&node.http, "POST", path, Some(API_KEY), headers, body.as_bytes()).await?;
            ensure!(answer.status == 200, "{headers:?}: {} {}", answer.status, answer.text());
        }
        for (message, id) in messages(&mut alice, 3).await?.iter().zip(["1", "2", "3"]) {
            ensure!(message.text() == r#"{"order":17}"#, "{message:?}");
            let wanted = json!({"ce-specversion": "1.0", "ce-id": id, "ce-source": "/orders",
                                "ce-type": "order.shipped", "content-type": "application/json"});
            ensure!(json!(message.headers) == wanted, "{message:?}");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn an_event_that_is_sent_again_is_one_message() {
    proven(async {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let headers = [("content-type", "application/cloudevents+json")];
        let mut offsets = Vec::new();
        for source in ["/a", "/a", "/b"] {
            let event =
                json!({"specversion": "1.0", "id": "1", "source": source, "type": "t", "channel": "room:1"});
            let event = event.to_string();
            let answer =
                http::send(&node.http, "POST", PATH, Some(API_KEY), &headers, event.as_bytes()).await?;
            offsets.push(answer.json()?["results"][0]["offset"].clone());
        }
        ensure!(offsets[0].is_string() && offsets[0] == offsets[1], "{offsets:?}");
        ensure!(offsets[2].is_string() && offsets[2] != offsets[1], "an id is its source's own: {offsets:?}");
        ensure!(backend.log("demo", "room:1").await?.len() == 2, "two entries");
        Ok(())
    })
    .await;
}
