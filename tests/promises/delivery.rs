//! What a backend adds reaches the right sockets, as the protocol says.

use anyhow::{Result, ensure};
use serde_json::json;
use tidegate_support::client::{Client, Codec};
use tidegate_support::config::NodeConfig;
use tidegate_support::proven;
use tidegate_support::redis_faults::Backend;

use crate::harness::{
    Cluster, WIRES, client, embedded, messages, offsets, proven_over, silent, subscriber, texts, user, wire,
};

/// One message in every shape of payload, and what its frame holds: `data` and `enc`.
fn payloads() -> Vec<(&'static [u8], serde_json::Value, Option<&'static str>)> {
    vec![
        (br#"{"b": [1, 2],  "a": "x"}"#, json!({"b": [1, 2], "a": "x"}), None),
        (b"[1,2]", json!([1, 2]), None),
        (b"hello", json!("hello"), Some("text")),
        ("grüße 🌊".as_bytes(), json!("grüße 🌊"), Some("text")),
        (b"42", json!("42"), Some("text")),
        (b"{not json", json!("{not json"), Some("text")),
        (b"", json!(""), Some("text")),
        (&[0, 255, 1], json!("AP8B"), Some("base64")),
    ]
}

async fn every_payload_arrives(backend: &mut Backend, client: &mut Client) -> Result<()> {
    for (bytes, data, enc) in payloads() {
        let offset = backend.push("demo", "room:1", bytes).await?;
        let frame = client.expect("message").await?;
        if wire().codec == Codec::Json {
            let is_shown = frame.get("data") == &data && frame.get("enc").as_str() == enc;
            ensure!(is_shown, "{bytes:?} came as {}", frame.0);
        } else {
            ensure!(frame.message()?.data == bytes, "{bytes:?} came as {}", frame.0);
        }
        ensure!(frame.text("channel") == "room:1" && frame.offset("offset")? == offset, "{}", frame.0);
        ensure!(frame.number("attempt") == Some(1), "{}", frame.0);
    }
    Ok(())
}

#[tokio::test]
async fn xadd_reaches_a_subscriber_over_the_embedded_backbone() {
    proven_over(&WIRES, || async {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let mut client = subscriber(&node, "alice", "room:1", false).await?;
        every_payload_arrives(&mut backend, &mut client).await
    })
    .await;
}

#[tokio::test]
async fn xadd_to_redis_reaches_subscribers_on_both_nodes() {
    proven(async {
        let mut cluster = Cluster::start(&NodeConfig::demo(), &[]).await?;
        for number in 0..2 {
            let mut client = subscriber(&cluster.nodes[number], "alice", "room:1", false).await?;
            every_payload_arrives(&mut cluster.backend, &mut client).await?;
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn without_keyspace_events_polling_delivers() {
    proven(async {
        let redis = tidegate_support::redis::RedisServer::start(&[]).await?;
        let config = NodeConfig::demo().redis(&redis.url()).polling();
        let node = tidegate_support::node::Node::start(crate::harness::TIDEGATE, &config).await?;
        let mut backend = Backend::connect(&redis.url()).await?;
        let mut client = subscriber(&node, "alice", "room:1", false).await?;
        every_payload_arrives(&mut backend, &mut client).await
    })
    .await;
}

#[tokio::test]
async fn order_is_the_logs_order_for_everybody() {
    proven_over(&WIRES, || async {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let mut clients = Vec::new();
        for name in ["alice", "bob", "carol"] {
            clients.push(subscriber(&node, name, "room:1", false).await?);
        }
        let pushed = backend.push_all("demo", "room:1", &texts(500)).await?;
        for client in &mut clients {
            ensure!(offsets(&messages(client, 500).await?) == pushed, "not the log's order");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn headers_keys_and_ids_travel() {
    proven_over(&WIRES, || async {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let mut client = subscriber(&node, "alice", "room:1", false).await?;
        let fields: &[(&str, &[u8])] = &[
            ("data", b"42"),
            ("headers", br#"{"content-type":"application/json","ce-type":"tick"}"#),
            ("id", b"i-1"),
            ("key", b"k-1"),
        ];
        backend.push_fields("demo", "room:1", fields).await?;
        let frame = client.expect("message").await?;
        ensure!(frame.message()?.data == b"42", "{}", frame.0);
        // The header says JSON, so in JSON the number stands as one.
        ensure!(wire().codec == Codec::Cbor || frame.get("data") == &json!(42), "{}", frame.0);
        ensure!(frame.get("headers")["ce-type"] == "tick", "{}", frame.0);
        ensure!(frame.text("msg_id") == "i-1" && frame.text("key") == "k-1", "{}", frame.0);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_no_client_can_see_is_skipped_and_the_position_told() {
    proven_over(&WIRES, || async {
        let config = NodeConfig::demo().limit("payload_bytes", 100);
        let (node, mut backend) = embedded(config).await?;
        let mut client = subscriber(&node, "alice", "room:1", true).await?;
        backend.push_fields("demo", "room:1", &[("text", b"no data")]).await?;
        backend.push_fields("demo", "room:1", &[("data", b"x"), ("ttl_ms", b"soon")]).await?;
        let last_skipped = backend.push("demo", "room:1", [b'x'; 101]).await?;
        let position = client.expect("position").await?;
        ensure!(position.text("channel") == "room:1", "{}", position.0);
        let mut at = position.offset("offset")?;
        while at < last_skipped {
            at = client.expect("position").await?.offset("offset")?;
        }
        ensure!(at == last_skipped, "told {at}, skipped up to {last_skipped}");
        backend.push("demo", "room:1", "fine").await?;
        let message = client.message().await?;
        ensure!(message.text() == "fine", "{message:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn an_expired_message_is_not_delivered() {
    proven(async {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let first = backend.push("demo", "room:1", "start").await?;
        backend.push_fields("demo", "room:1", &[("data", b"late"), ("ttl_ms", b"0")]).await?;
        // The clock is the backbone's and ticks in milliseconds: an entry of a later one proves that it
        // has moved past the expiry.
        let mut later = backend.push("demo", "room:1", "later").await?;
        while later.ms <= first.ms + 5 {
            later = backend.push("demo", "room:1", "later").await?;
        }
        let sub = json!({"channel": "room:1", "offset": first.to_string(), "ack": true});
        let mut client = client(&node, &user("alice").sub_with(sub)).await?;
        let message = client.message().await?;
        ensure!(message.text() == "later", "an expired message came: {message:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_personal_channel_is_its_owners_alone_and_keeps_what_came_before() {
    proven_over(&WIRES, || async {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let before = backend.push("demo", "user:alice", "before she came").await?;
        let mut alice = client(&node, &user("alice")).await?;
        ensure!(alice.message().await?.offset == before, "it starts at the oldest retained");
        let during = backend.push("demo", "user:alice", "while she is here").await?;
        ensure!(alice.message().await?.offset == during, "and goes on");
        let mut bob = client(&node, &user("bob")).await?;
        let refused = bob.request(json!({"type": "subscribe", "channel": "user:alice"})).await?;
        ensure!(refused.kind() == "error" && refused.text("code") == "forbidden", "{}", refused.0);
        silent(&mut bob).await
    })
    .await;
}

#[tokio::test]
async fn a_live_namespace_starts_now_and_replays_nothing() {
    proven_over(&WIRES, || async {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let old = backend.push("demo", "live:score", "old").await?;
        let sub = json!({"channel": "live:score", "offset": "0-0"});
        let mut client = client(&node, &user("alice").sub_with(sub)).await?;
        let subscribed = client.subscribed("live:score").await?;
        ensure!(subscribed.offset("offset")? >= old, "{}", subscribed.0);
        backend.push("demo", "live:score", "new").await?;
        let message = client.expect("message").await?.message()?;
        ensure!(message.text() == "new", "{message:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_subscription_starts_where_it_says() {
    proven(async {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let pushed = backend.push_all("demo", "room:1", &texts(3)).await?;
        let mut client = subscriber(&node, "alice", "room:1", false).await?;
        silent(&mut client).await?;
        let wish = json!({"type": "subscribe", "channel": "room:2", "offset": "0-0"});
        let empty = client.request(wish).await?;
        ensure!(empty.offset("offset")?.to_string() == "0-0", "{}", empty.0);
        let mut second = crate::harness::client(
            &node,
            &user("bob").sub_with(json!({"channel": "room:1", "offset": pushed[0].to_string()})),
        )
        .await?;
        ensure!(offsets(&messages(&mut second, 2).await?) == pushed[1..], "after the offset, not with it");
        Ok(())
    })
    .await;
}
