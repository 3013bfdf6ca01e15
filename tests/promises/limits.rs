//! Limits hold, and say so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tidegate_support::client::{Client, Event, Options, Refusal, Transport};
use tidegate_support::config::NodeConfig;
use tidegate_support::node::Node;
use tidegate_support::redis::RedisServer;
use tidegate_support::redis_faults::Backend;
use tidegate_support::{DEADLINE, proven};
use tokio::io::AsyncReadExt as _;

use crate::harness::{
    TIDEGATE, WIRES, client, embedded, messages, offsets, one_of, proven_over, subscriber, user, wire,
};

#[tokio::test]
async fn a_frame_too_large_ends_the_connection() {
    proven_over(&WIRES, || async {
        let (node, _) = embedded(NodeConfig::demo().limit("frame_bytes", 4096)).await?;
        let mut client = client(&node, &user("alice")).await?;
        let sent = client.send_bytes(vec![b' '; 5000]).await;
        if wire().is_http() {
            // It was a request of its own.
            let why = sent.err().map(|error| format!("{error:#}")).unwrap_or_default();
            ensure!(why.contains("refused with 413"), "{why}");
            return client.settle().await;
        }
        let (code, reason) = client.closed().await?;
        ensure!((code, reason.as_str()) == (4001, "frame_too_large"), "{code} {reason}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_payload_too_large_is_refused_and_the_connection_stays() {
    proven_over(&WIRES, || async {
        let (node, _) = embedded(NodeConfig::demo().limit("payload_bytes", 100)).await?;
        let mut client = subscriber(&node, "alice", "room:1", false).await?;
        let reply =
            client.request(json!({"type": "publish", "channel": "room:1", "data": "x".repeat(101)})).await?;
        ensure!(reply.kind() == "error" && reply.text("code") == "too_large", "{}", reply.0);
        client.publish("room:1", json!("x".repeat(100))).await.map(drop)
    })
    .await;
}

#[tokio::test]
async fn a_bad_frame_is_answered_with_its_id() {
    proven_over(&WIRES, || async {
        let (node, _) = embedded(NodeConfig::demo()).await?;
        let mut client = client(&node, &user("alice")).await?;
        let frames = [
            json!({"type": "subscribe"}),
            json!({"type": "subscribe", "channel": "no channel"}),
            json!({"type": "publish", "channel": "room:1"}),
            json!({"type": "history", "channel": "room:1", "limit": "many"}),
            json!({"type": "no such type"}),
        ];
        for frame in frames {
            let reply = client.request(frame.clone()).await?;
            let is_refused = reply.kind() == "error" && reply.text("code") == "bad_request";
            ensure!(is_refused, "{frame}: {}", reply.0);
            ensure!(!reply.text("message").is_empty(), "it says what is wrong: {}", reply.0);
        }
        client.settle().await
    })
    .await;
}

#[tokio::test]
async fn what_is_no_frame_at_all_ends_in_an_error_or_a_close() {
    proven_over(&WIRES, || async {
        let (node, _) = embedded(NodeConfig::demo()).await?;
        for nonsense in [&b"{"[..], b"[1]", b"null", &[0xff, 0x00]] {
            let mut client = client(&node, &user("alice")).await?;
            client.send_bytes(nonsense.to_vec()).await?;
            match client.next().await? {
                Event::Frame(frame) => {
                    ensure!(
                        ["error", "subscribed", "disconnect"].contains(&frame.kind()),
                        "{nonsense:?}: {}",
                        frame.0
                    );
                }
                Event::Closed { code, .. } => ensure!(code == 4000, "{code}"),
                lost => anyhow::bail!("{nonsense:?}: {lost:?}"),
            }
        }
        // Whatever was sent, the node is well.
        client(&node, &user("bob")).await?.settle().await
    })
    .await;
}

#[tokio::test]
async fn the_first_frame_must_be_connect() {
    proven_over(&WIRES, || async {
        let (node, _) = embedded(NodeConfig::demo()).await?;
        let opened = Client::open(&node.ws("demo"), &Options::default().over(wire())).await?;
        let Ok(mut client) = opened else { anyhow::bail!("the handshake was refused") };
        let sent = client.send_frame(&json!({"type": "subscribe", "id": 1, "channel": "room:1"})).await;
        if wire().is_http() {
            let why = sent.err().map(|error| format!("{error:#}")).unwrap_or_default();
            ensure!(why.contains("refused with 400"), "{why}");
            return Ok(());
        }
        let (code, _) = client.closed().await?;
        ensure!(code == 4000, "{code}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn who_says_nothing_is_sent_away() {
    // Over SSE and NDJSON nothing is open before `connect` has come.
    let wires: Vec<_> = WIRES.into_iter().filter(|wire| !wire.is_http()).collect();
    proven_over(&wires, || async {
        let (node, _) = embedded(NodeConfig::demo().limit("connect_timeout_ms", 300)).await?;
        let opened = Client::open(&node.ws("demo"), &Options::default().over(wire())).await?;
        let Ok(mut client) = opened else { anyhow::bail!("the handshake was refused") };
        let (code, reason) = client.closed().await?;
        ensure!((code, reason.as_str()) == (4101, "connect_timeout"), "{code} {reason}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_answers_no_heartbeat_is_given_up() {
    proven(async {
        let config = NodeConfig::demo().limit("ping_ms", 1000).limit("ping_min_ms", 1000);
        let (node, _) = embedded(config).await?;
        let client = client(&node, &user("alice")).await?;
        // The bare socket answers no ping. What the node says last is read from it.
        let mut socket = client.into_stalled();
        let mut said = Vec::new();
        let _ = tokio::time::timeout(DEADLINE, socket.read_to_end(&mut said)).await?;
        let code = 4100_u16.to_be_bytes();
        ensure!(
            said.windows(2).any(|bytes| bytes == code),
            "no close 4100 in {:?}",
            String::from_utf8_lossy(&said)
        );
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn heartbeats_are_negotiated_within_bounds() {
    proven_over(&WIRES, || async {
        let (node, _) = embedded(NodeConfig::demo()).await?;
        // Nobody answers heartbeats of a streamed body, and these cost a little more.
        let least = if wire().is_http() { 10_000 } else { 5_000 };
        // Browsers end a QUIC connection that is silent for half a minute.
        let most = if wire().transport == Transport::WebTransport { 20_000 } else { 300_000 };
        for (wish, agreed) in [(12_000, 12_000), (1, least), (10_000_000, most)] {
            let options = Options { ping_ms: Some(wish), ..user("alice") };
            let client = client(&node, &options).await?;
            ensure!(client.connected.number("ping_ms") == Some(agreed), "{wish}: {:?}", client.connected);
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn one_channel_too_many_is_refused() {
    proven_over(&WIRES, || async {
        let (node, _) = embedded(NodeConfig::demo().limit("channels_per_session", 4)).await?;
        let mut client = client(&node, &user("alice")).await?;
        let mut refused = None;
        for n in 0..5 {
            let reply = client.request(json!({"type": "subscribe", "channel": format!("room:{n}")})).await?;
            if reply.kind() == "error" {
                refused = Some((n, reply));
                break;
            }
        }
        // Whether the personal channel counts is the node's choice; that there is an end is not.
        let Some((n, reply)) = refused else { anyhow::bail!("five of four channels") };
        ensure!(n >= 3 && reply.text("code") == "limit_exceeded", "{n}: {}", reply.0);
        let gone = client.request(json!({"type": "unsubscribe", "channel": "room:0"})).await?;
        ensure!(gone.kind() == "ok", "{}", gone.0);
        client.subscribe("room:9", false).await.map(drop)
    })
    .await;
}

#[tokio::test]
async fn a_namespace_nobody_made_is_not_found() {
    proven(async {
        let (node, _) = embedded(NodeConfig::demo()).await?;
        let mut client = client(&node, &user("alice")).await?;
        let reply = client.request(json!({"type": "subscribe", "channel": "nowhere:1"})).await?;
        ensure!(reply.kind() == "error" && reply.text("code") == "not_found", "{}", reply.0);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn an_unknown_subprotocol_is_refused() {
    proven(async {
        let (node, _) = embedded(NodeConfig::demo()).await?;
        let path = "/v1/demo/ws";
        let plain = tidegate_support::http::get(&node.http, path, None).await?;
        ensure!((400..500).contains(&plain.status), "no upgrade: {}", plain.status);
        let right = Client::try_connect(&node.ws("demo"), &user("alice")).await?;
        ensure!(!matches!(right, Err(Refusal::Handshake(_))), "{right:?}");
        Ok(())
    })
    .await;
}

/// A backend's mistake: far beyond anything that a node would deliver.
const HUGE: usize = 100 << 20;
/// What a node may grow by when it meets one.
const GROWTH: u64 = 50 << 20;

#[tokio::test]
async fn an_entry_of_100_megabytes_is_skipped_and_neither_fills_the_node_nor_holds_up_others() {
    proven(async {
        let redis = RedisServer::start(&[]).await?;
        let node = Node::start(TIDEGATE, &NodeConfig::demo().redis(&redis.url())).await?;
        let mut backend = Backend::connect(&redis.url()).await?;
        let mut alice = subscriber(&node, "alice", "room:huge", false).await?;
        let mut bob = subscriber(&node, "bob", "room:other", false).await?;
        let first = backend.push("demo", "room:huge", "before").await?;
        ensure!(alice.message().await?.offset == first, "the channel delivers");
        let resident = memory(&node, "VmRSS")?;

        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, mut publisher) = (stop.clone(), Backend::connect(&redis.url()).await?);
        let others = tokio::spawn(async move {
            let mut count = 0;
            while !stopped.load(Ordering::Relaxed) {
                publisher.push("demo", "room:other", "small").await?;
                count += 1;
                // The publisher's pace, not a wait for something.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            anyhow::Ok(count)
        });
        messages(&mut bob, 10).await?;
        backend.push("demo", "room:huge", vec![b'x'; HUGE]).await?;
        messages(&mut bob, 10).await.context("another channel goes on")?;
        let after = backend.push("demo", "room:huge", "after").await?;
        ensure!(alice.message().await?.offset == after, "the channel goes on behind the entry");
        messages(&mut bob, 10).await?;
        stop.store(true, Ordering::Relaxed);
        let sent: usize = others.await??;
        messages(&mut bob, sent - 30).await.context("everything of the other channel comes")?;

        let skipped = node.metric("tidegate_entries_skipped_total").await?;
        ensure!(skipped == 1.0, "skipped and counted once: {skipped}");
        let history = alice.request(json!({"type": "history", "channel": "room:huge", "limit": 10})).await?;
        let found = offsets(&history.messages()?);
        ensure!(found == [first, after], "a history passes over it: {found:?}");
        let (offset, epoch) = (first.to_string(), history.text("epoch"));
        let from = json!({"channel": "room:huge", "offset": offset, "epoch": epoch});
        let mut late = client(&node, &user("carol").sub_with(from)).await?;
        late.subscribed("room:huge").await?;
        let frame = one_of(&mut late, &["message", "gap"]).await?;
        ensure!(frame.kind() == "message" && frame.offset("offset")? == after, "no loss: {}", frame.0);
        ensure!(node.metric("tidegate_backbone_reconnects_total").await? == 0.0, "no connection was lost");
        let peak = memory(&node, "VmHWM")?;
        ensure!(peak < resident + GROWTH, "the node grew from {resident} to {peak} bytes");
        Ok(())
    })
    .await;
}

/// A figure of a node's memory, in bytes.
fn memory(node: &Node, figure: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix(figure)?.strip_prefix(':'));
    let kib = line.and_then(|rest| rest.split_whitespace().next()).context("no such figure")?;
    Ok(kib.parse::<u64>()? << 10)
}
