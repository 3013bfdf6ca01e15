//! A client that reads nothing costs nobody anything, and finds what its namespace promises when it reads
//! again.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use serde_json::json;
use tidegate_support::client::{Client, Event, Frame, Message};
use tidegate_support::config::{NodeConfig, TenantConfig};
use tidegate_support::node::Node;
use tidegate_support::offset::Offset;
use tidegate_support::redis::RedisServer;
use tidegate_support::redis_faults::Backend;
use tidegate_support::{eventually, proven};

use crate::harness::{
    TIDEGATE, WIRES, client, embedded, messages, offsets, proven_over, silent, texts, user,
};

/// One room for each rule.
const ROOMS: [&str; 4] = ["room:hall", "drop:hall", "state:hall", "strict:hall"];
/// Fills the connections of those who do not read, and nobody else's.
const NOISE: &str = "noise:1";
/// Messages in each room: more than what is left of them where the oldest are dropped.
const MESSAGES: usize = 60;
const KEYS: usize = 3;

fn config() -> NodeConfig {
    let tenant = TenantConfig::default()
        .namespace("drop", &["on_slow = \"drop_oldest\""])
        .namespace("strict", &["on_slow = \"disconnect\""])
        .namespace("noise", &["on_slow = \"drop_oldest\"", "retention_max_len = 10000"]);
    // What the node may hold back by itself is small beside what the test leaves unread.
    NodeConfig::demo()
        .tenant("demo", tenant)
        .limit("outbox_bytes", 4096)
        .limit("ping_ms", 300_000)
        .memory("ring_bytes", 1 << 20)
        .memory("page_cache_bytes", 1 << 20)
}

/// Adds noise and waits until the node has given out of it what it can.
async fn fill(node: &Node, backend: &mut Backend, witness: &mut Client, megabytes: usize) -> Result<()> {
    let noise = vec!["x".repeat(64 * 1024 - 1); 16];
    let mut last = None;
    for _ in 0..megabytes {
        last = backend.push_all("demo", NOISE, &noise).await?.pop();
    }
    until_last(witness, NOISE, last.context("some noise")?).await?;
    // Who reads nothing is filled up still.
    let mut before = None;
    loop {
        let delivered = node.metric("tidegate_messages_delivered_total").await?;
        if before.replace(delivered) == Some(delivered) {
            return Ok(());
        }
        witness.settle().await?;
    }
}

async fn resident(node: &Node) -> Result<f64> {
    node.metric("process_resident_memory_bytes").await
}

#[tokio::test]
async fn one_stalled_client_among_a_thousand_changes_nothing_for_the_others() {
    proven(async {
        let redis = RedisServer::start(&[]).await?;
        let node = Node::start(TIDEGATE, &config().redis(&redis.url())).await?;
        let mut backend = Backend::connect(&redis.url()).await?;
        let mut others = Vec::new();
        for n in 0..1_000 {
            let options = ROOMS.iter().fold(user(&format!("u{n}")), |options, room| options.listen(room));
            others.push(client(&node, &options).await?);
        }
        let mut witness = client(&node, &user("witness").listen(NOISE)).await?;
        witness.subscribed(NOISE).await?;
        let mut stalled = Vec::new();
        for (n, room) in ROOMS.iter().enumerate() {
            let mut client = client(&node, &user(&format!("s{n}")).listen(room).listen(NOISE)).await?;
            client.subscribed(room).await?;
            client.subscribed(NOISE).await?;
            stalled.push(client);
        }
        for client in &mut others {
            for room in ROOMS {
                client.subscribed(room).await?;
            }
        }
        fill(&node, &mut backend, &mut witness, 16).await?;

        let mut pushed: Vec<Vec<Offset>> = vec![Vec::new(); ROOMS.len()];
        for n in 0..MESSAGES {
            for (room, pushed) in ROOMS.iter().zip(&mut pushed) {
                let (data, key) = (format!("{n:0>200}"), format!("k{}", n % KEYS));
                let fields = [("data", data.as_bytes()), ("key", key.as_bytes())];
                pushed.push(backend.push_fields("demo", room, &fields).await?);
            }
        }
        try_join_all(others.iter_mut().map(|client| gets_all_in_order(client, &pushed))).await?;

        let before = resident(&node).await?;
        fill(&node, &mut backend, &mut witness, 32).await?;
        let grown = resident(&node).await? - before;
        let lag = 4.0 * 32.0 * 1024.0 * 1024.0;
        ensure!(grown < lag / 8.0, "memory grew by {grown} bytes with a lag of {lag} more");

        let strict = stalled.pop().context("four stalled clients")?;
        let mut rest = stalled.into_iter();
        let mut next = || rest.next().context("four stalled clients");
        pause_has_everything(&mut next()?, &pushed[0]).await?;
        drop_has_the_newest(&mut next()?, &pushed[1]).await?;
        conflate_has_the_newest_of_each_key(&mut next()?, &pushed[2]).await?;
        disconnected_recovers(&node, strict, &pushed[3]).await
    })
    .await;
}

async fn gets_all_in_order(client: &mut Client, pushed: &[Vec<Offset>]) -> Result<()> {
    let mut got = vec![Vec::new(); ROOMS.len()];
    for message in messages(client, MESSAGES * ROOMS.len()).await? {
        let room = ROOMS.iter().position(|room| *room == message.channel).context("a room of ours")?;
        got[room].push(message.offset);
    }
    ensure!(got == pushed, "not everything, or not in order");
    Ok(())
}

/// What is told in a room until its last message, the noise left out.
async fn until_last(client: &mut Client, room: &str, last: Offset) -> Result<(Vec<Message>, Vec<Frame>)> {
    let (mut seen, mut gaps) = (Vec::new(), Vec::new());
    loop {
        match client.next().await.with_context(|| format!("{} messages of {room} so far", seen.len()))? {
            Event::Frame(frame) if frame.text("channel") != room => {}
            Event::Frame(frame) if frame.kind() == "gap" => gaps.push(frame),
            Event::Frame(frame) if frame.kind() == "message" => {
                seen.push(frame.message()?);
                if seen.last().is_some_and(|message| message.offset == last) {
                    return Ok((seen, gaps));
                }
            }
            Event::Frame(_) => {}
            ended => anyhow::bail!("{ended:?} before {last} of {room}"),
        }
    }
}

async fn pause_has_everything(client: &mut Client, pushed: &[Offset]) -> Result<()> {
    let (seen, gaps) = until_last(client, ROOMS[0], pushed[MESSAGES - 1]).await?;
    ensure!(gaps.is_empty() && offsets(&seen) == pushed, "{} messages, {gaps:?}", seen.len());
    Ok(())
}

async fn drop_has_the_newest(client: &mut Client, pushed: &[Offset]) -> Result<()> {
    let (seen, gaps) = until_last(client, ROOMS[1], pushed[MESSAGES - 1]).await?;
    let [gap] = &gaps[..] else { anyhow::bail!("one gap was expected: {gaps:?}") };
    ensure!(gap.text("reason") == "slow", "{}", gap.0);
    let (after, until) = (gap.offset("after")?, gap.offset("until")?);
    let kept: Vec<_> = pushed.iter().copied().filter(|offset| *offset <= after || *offset > until).collect();
    ensure!(offsets(&seen) == kept, "the gap tells exactly what is left out");
    ensure!(pushed.iter().filter(|offset| **offset > until).count() == 32, "the newest follow it");
    Ok(())
}

async fn conflate_has_the_newest_of_each_key(client: &mut Client, pushed: &[Offset]) -> Result<()> {
    let (seen, gaps) = until_last(client, ROOMS[2], pushed[MESSAGES - 1]).await?;
    ensure!(gaps.is_empty(), "{gaps:?}");
    let seen: BTreeSet<_> = offsets(&seen).into_iter().collect();
    ensure!(pushed[MESSAGES - KEYS..].iter().all(|newest| seen.contains(newest)), "{seen:?}");
    ensure!(seen.len() < MESSAGES / 2, "{} of {MESSAGES} came: most are superseded", seen.len());
    Ok(())
}

async fn disconnected_recovers(node: &Node, mut stalled: Client, pushed: &[Offset]) -> Result<()> {
    eventually("the connection is closed", || async {
        node.metric("tidegate_connections_closed_total").await.ok().filter(|closed| *closed > 0.0)
    })
    .await?;
    let text = node.admin_get("/metrics").await?.text();
    ensure!(text.contains("reason=\"slow_consumer\"} 1"), "{text}");
    let (mut seen, mut at) = (Vec::new(), None);
    while let Ok(Event::Frame(frame)) = stalled.next().await {
        if frame.text("channel") == ROOMS[3] && frame.kind() == "message" {
            at = Some(frame.offset("offset")?);
            seen.push(frame.offset("offset")?);
        }
        if frame.kind() == "disconnect" {
            ensure!(frame.number("code") == Some(4103), "{}", frame.0);
        }
    }
    ensure!(seen[..] == pushed[..seen.len()] && seen.len() < MESSAGES, "what came before it was closed");
    let position = at.map_or_else(|| "0-0".to_owned(), |at| at.to_string());
    let sub = json!({"channel": ROOMS[3], "offset": position});
    let mut back = client(node, &user("s3").resume(stalled.resume_token()).sub_with(sub)).await?;
    ensure!(back.resumed() == "home", "the session waited: {}", back.connected.0);
    let (rest, gaps) = until_last(&mut back, ROOMS[3], pushed[MESSAGES - 1]).await?;
    ensure!(offsets(&rest) == pushed[seen.len()..] && gaps.is_empty(), "nothing is lost: {gaps:?}");
    Ok(())
}

#[tokio::test]
async fn a_subscriber_who_keeps_up_gets_every_message_of_a_key_and_who_comes_back_the_newest() {
    proven_over(&WIRES, || async {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let mut client = client(&node, &user("alice").listen("state:score")).await?;
        let start = client.subscribed("state:score").await?;
        let mut pushed = Vec::new();
        for n in 0..10 {
            let data = format!("{n}");
            let fields = [("data", data.as_bytes()), ("key", b"match-7".as_slice())];
            pushed.push(backend.push_fields("demo", "state:score", &fields).await?);
            // One at a time: a burst may well be a page.
            ensure!(client.message().await?.offset == pushed[n], "every message");
        }
        let plain = backend.push("demo", "state:score", "no key").await?;
        ensure!(client.message().await?.offset == plain);
        let sub = json!({"channel": "state:score", "offset": start.text("offset")});
        let mut late = crate::harness::client(&node, &user("bob").sub_with(sub)).await?;
        ensure!(
            offsets(&messages(&mut late, 2).await?) == [pushed[9], plain],
            "the newest, and what has no key"
        );
        silent(&mut late).await
    })
    .await;
}

#[tokio::test]
async fn a_spread_message_comes_at_a_moment_of_its_own_and_order_holds() {
    proven(async {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let mut clients = Vec::new();
        for n in 0..20 {
            let mut client = client(&node, &user(&format!("u{n}")).listen("room:1")).await?;
            client.subscribed("room:1").await?;
            clients.push(client);
        }
        let fields: [(&str, &[u8]); 2] = [("data", b"reload"), ("spread_ms", b"1500")];
        let mut pushed = vec![backend.push_fields("demo", "room:1", &fields).await?];
        pushed.extend(backend.push_all("demo", "room:1", &texts(3)).await?);
        let came = |client: Client| async {
            let mut client = client;
            let got = messages(&mut client, 4).await?;
            Ok::<_, anyhow::Error>((offsets(&got), tokio::time::Instant::now()))
        };
        let mut times = Vec::new();
        for (got, at) in try_join_all(clients.into_iter().map(came)).await? {
            ensure!(got == pushed, "in order: {got:?}");
            times.push(at);
        }
        times.sort();
        // Not a matter of speed: without being spread they would come in one burst of a few milliseconds.
        let moments =
            times.windows(2).filter(|pair| pair[1] - pair[0] > std::time::Duration::from_millis(10));
        ensure!(moments.count() >= 5, "they came together: {times:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_crowded_live_channel_is_thinned_and_nobody_is_told_of_a_gap() {
    proven(async {
        let tenant =
            TenantConfig::default().namespace("live", &["kind = \"live\"", "max_per_subscriber_per_s = 5"]);
        let (node, mut backend) = embedded(NodeConfig::demo().tenant("demo", tenant)).await?;
        let mut client = client(&node, &user("alice").listen("live:score")).await?;
        client.subscribed("live:score").await?;
        let pushed = backend.push_all("demo", "live:score", &texts(100)).await?;
        let skipped = || async {
            node.metric("tidegate_entries_skipped_total").await.ok().filter(|skipped| *skipped > 0.0)
        };
        eventually("messages are left out", skipped).await?;
        ensure!(offsets(&messages(&mut client, 5).await?) == pushed[..5], "a second's worth at once");
        Ok(())
    })
    .await;
}
