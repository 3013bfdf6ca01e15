//! Windows, acknowledgements, redelivery, dead letters.

use anyhow::{bail, ensure};
use serde_json::json;
use tidegate_support::client::Event;
use tidegate_support::config::NodeConfig;
use tidegate_support::proven;

use crate::harness::{
    WIRES, client, embedded, messages, offsets, one_of, proven_over, silent, subscriber, texts, user,
};

/// Redelivery soon enough for a test, and heartbeats more often than that: an attempt counts only once a
/// heartbeat after it was answered.
fn impatient(attempts: u64) -> NodeConfig {
    NodeConfig::demo()
        .limit("ack_timeout_ms", 1500)
        .limit("attempts", attempts)
        .limit("ping_ms", 1000)
        .limit("ping_min_ms", 1000)
}

#[tokio::test]
async fn the_window_fills_and_reopens() {
    proven_over(&WIRES, || async {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let sub = json!({"channel": "room:1", "ack": true, "window": 4});
        let mut client = client(&node, &user("alice").sub_with(sub)).await?;
        client.subscribed("room:1").await?;
        let pushed = backend.push_all("demo", "room:1", &texts(10)).await?;
        ensure!(offsets(&messages(&mut client, 4).await?) == pushed[..4], "the first four");
        silent(&mut client).await?;
        // Cumulative: the second covers the first.
        client.ack("room:1", pushed[1]).await?;
        ensure!(offsets(&messages(&mut client, 2).await?) == pushed[4..6], "two places, two messages");
        silent(&mut client).await?;
        client.ack("room:1", pushed[5]).await?;
        ensure!(offsets(&messages(&mut client, 4).await?) == pushed[6..], "the rest");
        ensure!(node.metric(r#"tidegate_acks_total{tenant="demo"}"#).await? == 2.0, "both were counted");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn an_unacknowledged_message_comes_again_and_says_so() {
    proven_over(&WIRES, || async {
        let (node, mut backend) = embedded(impatient(2)).await?;
        let mut client = subscriber(&node, "alice", "room:1", true).await?;
        let offset = backend.push("demo", "room:1", "again").await?;
        let (first, second) = (client.message().await?, client.message().await?);
        ensure!((first.offset, first.attempt) == (offset, 1), "{first:?}");
        ensure!(second.offset == offset && second.attempt > 1, "{second:?}");
        client.ack("room:1", offset).await?;
        client.settle().await?;
        let next = backend.push("demo", "room:1", "next").await?;
        // One repetition may have been under way when the ack came.
        let mut message = client.message().await?;
        while message.offset == offset {
            message = client.message().await?;
        }
        ensure!((message.offset, message.attempt) == (next, 1), "{message:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_nack_brings_one_message_back_while_others_flow() {
    proven_over(&WIRES, || async {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let mut client = subscriber(&node, "alice", "room:1", true).await?;
        let pushed = backend.push_all("demo", "room:1", &texts(2)).await?;
        messages(&mut client, 2).await?;
        client.nack("room:1", pushed[0], 200).await?;
        client.settle().await?;
        let later = backend.push("demo", "room:1", "flows").await?;
        let got = messages(&mut client, 2).await?;
        let mut seen = got.iter().map(|message| (message.offset, message.attempt)).collect::<Vec<_>>();
        seen.sort_unstable();
        ensure!(seen == [(pushed[0], 2), (later, 1)], "a repetition and a first delivery: {seen:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn an_ack_covers_a_nack_before_it() {
    proven_over(&WIRES, || async {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let mut client = subscriber(&node, "alice", "room:1", true).await?;
        let pushed = backend.push_all("demo", "room:1", &texts(2)).await?;
        messages(&mut client, 2).await?;
        client.nack("room:1", pushed[0], 60_000).await?;
        client.ack("room:1", pushed[1]).await?;
        client.settle().await?;
        client.reset()?;
        // What is acknowledged does not come back: the cursor stands behind both.
        let mut again = subscriber(&node, "alice", "room:1", true).await?;
        silent(&mut again).await
    })
    .await;
}

#[tokio::test]
async fn exhausted_attempts_become_a_dead_letter_where_asked() {
    proven(async {
        let (node, mut backend) = embedded(impatient(2)).await?;
        let options = user("alice").device("phone").ack("work:1");
        let mut client = client(&node, &options).await?;
        client.subscribed("work:1").await?;
        let offset = backend.push("demo", "work:1", "unwanted").await?;
        // Reading goes on meanwhile, so that heartbeats are answered and attempts count.
        let reading = async { while let Ok(Event::Frame(_)) = client.next().await {} };
        let letter = backend.await_entry("tg:demo:dlq", |entry| entry.text("channel") == "work:1");
        let letter = tokio::select! {
            letter = letter => letter?,
            () = reading => bail!("the connection ended"),
        };
        ensure!(letter.text("offset") == offset.to_string(), "{letter:?}");
        ensure!(letter.text("user") == "alice" && letter.text("device") == "phone", "{letter:?}");
        ensure!(letter.text("data") == "unwanted" && letter.text("attempts") == "2", "{letter:?}");
        ensure!(!letter.text("reason").is_empty(), "{letter:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn elsewhere_exhausted_attempts_are_a_gap() {
    proven_over(&WIRES, || async {
        let (node, mut backend) = embedded(impatient(2)).await?;
        let mut client = subscriber(&node, "alice", "room:1", true).await?;
        let offset = backend.push("demo", "room:1", "unwanted").await?;
        let mut attempts = 0;
        let gap = loop {
            let frame = one_of(&mut client, &["message", "gap"]).await?;
            if frame.kind() == "gap" {
                break frame;
            }
            attempts += 1;
            ensure!(attempts <= 4, "it does not end: {}", frame.0);
        };
        ensure!(attempts >= 2 && gap.text("reason") == "attempts", "{attempts} attempts, {}", gap.0);
        ensure!(gap.offset("until")? == offset && gap.offset("after")? < offset, "{}", gap.0);
        let next = backend.push("demo", "room:1", "next").await?;
        ensure!(client.message().await?.offset == next, "the window moves on");
        ensure!(backend.stream("tg:demo:dlq").await?.is_empty(), "nobody asked for dead letters");
        Ok(())
    })
    .await;
}

/// A client that takes everything and acknowledges nothing is sent each message as often as allowed, and
/// then is told: it costs a bounded number of deliveries and never stops the channel.
#[tokio::test]
async fn a_client_that_never_acks_neither_loops_nor_floods() {
    proven(async {
        let (node, mut backend) = embedded(impatient(2)).await?;
        let sub = json!({"channel": "room:1", "ack": true, "window": 2});
        let mut client = client(&node, &user("alice").sub_with(sub)).await?;
        client.subscribed("room:1").await?;
        let pushed = backend.push_all("demo", "room:1", &texts(4)).await?;
        let (mut deliveries, mut told) = (0, tidegate_support::offset::Offset::ZERO);
        while told < pushed[3] {
            let frame = one_of(&mut client, &["message", "gap"]).await?;
            match frame.kind() {
                "message" => deliveries += 1,
                _ => told = frame.offset("until")?,
            }
        }
        ensure!((4..=12).contains(&deliveries), "{deliveries} deliveries of 4 messages, 2 attempts each");
        silent(&mut client).await
    })
    .await;
}
