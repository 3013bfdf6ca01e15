//! Publishing by clients, sending to the backends; publishing over HTTP stands in the modules below.

use anyhow::ensure;
use serde_json::json;
use tidegate_support::client::{Codec, Options};
use tidegate_support::config::NodeConfig;
use tidegate_support::proven;

use crate::harness::{Cluster, client, embedded, subscriber, user};

mod cloudevents;
mod over_http;
mod sends;

#[tokio::test]
async fn the_answer_comes_when_it_is_in_the_log() {
    proven(async {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let mut alice = subscriber(&node, "alice", "room:1", false).await?;
        let mut bob = subscriber(&node, "bob", "room:1", false).await?;
        let offset = alice.publish("room:1", json!({"n": 1})).await?;
        let log = backend.log("demo", "room:1").await?;
        ensure!(log.len() == 1 && log[0].offset == offset, "{log:?}");
        ensure!(log[0].text("data") == r#"{"n":1}"# && log[0].text("user") == "alice", "{log:?}");
        for client in [&mut alice, &mut bob] {
            let message = client.message().await?;
            ensure!(message.offset == offset && message.text() == r#"{"n":1}"#, "{message:?}");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_one_node_publishes_the_others_clients_get() {
    proven(async {
        let cluster = Cluster::start(&NodeConfig::demo(), &[]).await?;
        let mut alice = subscriber(&cluster.nodes[0], "alice", "room:1", false).await?;
        let mut bob = subscriber(&cluster.nodes[1], "bob", "room:1", false).await?;
        let offset = alice.publish("room:1", json!("across")).await?;
        let message = bob.message().await?;
        ensure!(message.offset == offset && message.text() == "across", "{message:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn every_shape_of_data_comes_back_as_it_was_sent() {
    proven(async {
        let (node, _) = embedded(NodeConfig::demo()).await?;
        let mut alice = subscriber(&node, "alice", "room:1", false).await?;
        for data in
            [json!({"a": [1, {"b": null}]}), json!([]), json!("text"), json!(7), json!(true), json!(null)]
        {
            alice.publish("room:1", data.clone()).await?;
            let frame = alice.expect("message").await?;
            ensure!(frame.get("data") == &data, "{data} came as {}", frame.0);
        }
        let bytes = json!({"type": "publish", "channel": "room:1", "data": "AP8B", "enc": "base64"});
        ensure!(alice.request(bytes).await?.kind() == "ok", "bytes in base64");
        ensure!(alice.message().await?.data == [0, 255, 1], "bytes come back");
        let mut cbor = client(&node, &user("bob").codec(Codec::Cbor).listen("room:1")).await?;
        cbor.subscribed("room:1").await?;
        cbor.publish("room:1", json!("from cbor")).await?;
        ensure!(alice.message().await?.text() == "from cbor", "codecs meet");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn the_same_msg_id_is_one_message() {
    proven(async {
        let cluster = Cluster::start(&NodeConfig::demo(), &[]).await?;
        let mut backend = cluster.backend.clone();
        let publish = json!({"type": "publish", "channel": "room:1", "data": "once", "msg_id": "m-1"});
        let mut answers = Vec::new();
        // Over both nodes: a client that was cut off repeats itself elsewhere.
        for node in [0, 1, 0] {
            let mut alice = subscriber(&cluster.nodes[node], "alice", "room:1", false).await?;
            let reply = alice.request(publish.clone()).await?;
            ensure!(reply.kind() == "ok", "{}", reply.0);
            answers.push(reply.offset("offset")?);
        }
        ensure!(answers[0] == answers[1] && answers[1] == answers[2], "{answers:?}");
        ensure!(backend.log("demo", "room:1").await?.len() == 1, "one entry");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn who_may_not_publish_is_told() {
    proven(async {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let mut alice = client(&node, &user("alice")).await?;
        for (channel, code) in
            [("room:1", "forbidden"), ("user:alice", "forbidden"), ("nowhere:1", "not_found")]
        {
            let reply = alice.request(json!({"type": "publish", "channel": channel, "data": "x"})).await?;
            ensure!(reply.kind() == "error" && reply.text("code") == code, "{channel}: {}", reply.0);
        }
        ensure!(backend.log("demo", "room:1").await?.is_empty(), "nothing was added");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn send_reaches_the_backends_stream() {
    proven(async {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let mut alice = client(&node, &user("alice").device("phone")).await?;
        alice.send("orders", json!({"n": 1})).await?;
        let entry = backend.await_entry("tg:demo:up", |entry| entry.text("topic") == "orders").await?;
        ensure!(entry.text("data") == r#"{"n":1}"# && entry.text("user") == "alice", "{entry:?}");
        ensure!(entry.text("device") == "phone", "{entry:?}");
        ensure!(entry.text("session") == alice.connected.text("session"), "{entry:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn history_is_the_log() {
    proven(async {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let pushed = backend.push_all("demo", "room:1", &crate::harness::texts(5)).await?;
        let mut alice = subscriber(&node, "alice", "room:1", false).await?;
        let newest = alice.history("room:1", 2).await?;
        ensure!(crate::harness::offsets(&newest) == pushed[3..], "{newest:?}");
        let ask = |bound: &str, at: usize| {
            json!({"type": "history", "channel": "room:1", "limit": 2, bound: pushed[at].to_string()})
        };
        let before = alice.request(ask("before", 3)).await?.messages()?;
        ensure!(crate::harness::offsets(&before) == pushed[1..3], "{before:?}");
        let after = alice.request(ask("after", 0)).await?.messages()?;
        ensure!(crate::harness::offsets(&after) == pushed[1..3], "{after:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn anonymous_clients_may_publish_where_subscribers_may() {
    proven(async {
        let (node, _) = embedded(NodeConfig::demo()).await?;
        let mut someone = client(&node, &Options::default().listen("room:1")).await?;
        someone.subscribed("room:1").await?;
        let offset = someone.publish("room:1", json!("hi")).await?;
        ensure!(someone.message().await?.offset == offset, "it comes back");
        Ok(())
    })
    .await;
}
