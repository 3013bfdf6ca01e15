//! What breaks, breaks without losing anything in silence. Each test runs the checker through a fault.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tidegate_support::checker::{Account, Checker, Delivery, Report, Settings, Signing};
use tidegate_support::client::{Client, Event};
use tidegate_support::config::{API_KEY, KID, NodeConfig, SECRET};
use tidegate_support::redis::RedisServer;
use tidegate_support::redis_faults::Backend;
use tidegate_support::{eventually, proven};
use tokio::time::Instant;

use crate::harness::{Cluster, client, offsets, one_of, texts, user};

/// How long the checker waits for what is owed after publishing has stopped. The sweep over all channels
/// every 15 seconds is the stated worst case of a lost wake-up.
const SETTLE: Duration = Duration::from_secs(60);

pub(crate) fn settings(cluster: &Cluster) -> Settings {
    Settings {
        urls: cluster.urls(),
        redis: cluster.redis.url(),
        signing: Some(Signing { kid: Some(KID.into()), secret: SECRET.into() }),
        api_key: Some(API_KEY.into()),
        ..Settings::default()
    }
}

/// Ends a run: the fault has passed, everybody has had time to come back.
pub(crate) async fn verdict(checker: Checker) -> Result<Report> {
    checker.received_more(200).await.context("deliveries go on after the fault")?;
    let report = checker.finish(SETTLE).await?;
    println!("{report}");
    report.assert_promises();
    Ok(report)
}

#[tokio::test]
async fn clients_that_come_and_go_lose_nothing() {
    proven(async {
        let cluster = Cluster::start(&NodeConfig::demo(), &[]).await?;
        let drop_every = Some(Duration::from_millis(1500));
        let checker = Checker::start(Settings { drop_every, clients: 40, ..settings(&cluster) }).await?;
        checker.published_more(800).await?;
        let report = verdict(checker).await?;
        ensure!(report.reconnects > 0, "nobody came back: the run shows nothing");
        ensure!(report.gaps_told == 0, "nothing was trimmed, so nothing can be missing\n{report}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn kill_9_of_a_node_with_a_thousand_sessions_loses_nothing() {
    proven(async {
        let mut cluster = Cluster::start(&NodeConfig::demo(), &[]).await?;
        // Few publications, many deliveries: 1,000 sessions on two cores.
        let checker = Checker::start(Settings {
            clients: 1000,
            channels: 40,
            channels_per_client: 1,
            rate: 20,
            ..settings(&cluster)
        })
        .await?;
        checker.received_more(2000).await?;
        let before = checker.report().reconnects;
        cluster.nodes[0].kill9().await?;
        // Not before half of the sessions have come back is the fault over.
        eventually("the killed node's clients come back", || async {
            (checker.report().reconnects >= before + 500).then_some(())
        })
        .await?;
        verdict(checker).await.map(drop)
    })
    .await;
}

#[tokio::test]
async fn a_killed_pubsub_connection_loses_nothing() {
    proven(async {
        let mut cluster = Cluster::start(&NodeConfig::demo(), &[]).await?;
        let checker = Checker::start(settings(&cluster)).await?;
        for _ in 0..3 {
            checker.published_more(100).await?;
            // Both nodes listen; while one makes a new connection there is none to kill.
            let mut backend = cluster.backend.clone();
            eventually("there is a wake-up connection to kill", || {
                let mut backend = backend.clone();
                async move { (backend.kill_pubsub().await.ok()? > 0).then_some(()) }
            })
            .await?;
            backend.command("PING").await?;
        }
        checker.published_more(100).await?;
        let report = verdict(checker).await?;
        ensure!(report.gaps_told == 0, "the log was whole all the time\n{report}");
        cluster.nodes[0].sigterm().await.map(drop)
    })
    .await;
}

#[tokio::test]
async fn redis_restarted_under_load_loses_nothing() {
    proven(async {
        // `always`: what Redis has answered is on disk, so that all of it must arrive.
        let aof = ["--appendonly", "yes", "--appendfsync", "always"];
        let mut cluster = Cluster::start(&NodeConfig::demo(), &aof).await?;
        let checker = Checker::start(settings(&cluster)).await?;
        checker.published_more(300).await?;
        cluster.redis.kill();
        let before = checker.report().publish_errors;
        eventually("publishers notice", || async {
            (checker.report().publish_errors > before).then_some(())
        })
        .await?;
        cluster.redis.restart().await?;
        checker.published_more(300).await?;
        verdict(checker).await.map(drop)
    })
    .await;
}

#[tokio::test]
async fn a_node_stopped_past_its_lease_and_woken_under_load_loses_nothing() {
    proven(async {
        let cluster = Cluster::start(&NodeConfig::demo(), &[]).await?;
        let checker = Checker::start(settings(&cluster)).await?;
        checker.published_more(200).await?;
        cluster.nodes[0].sigstop()?;
        // The stop is a length of time; those who publish past the stopped node go on.
        tokio::time::sleep(STOP).await;
        checker.published_more(200).await?;
        cluster.nodes[0].sigcont()?;
        checker.published_more(300).await?;
        verdict(checker).await.map(drop)
    })
    .await;
}

#[tokio::test]
async fn flushall_is_told_and_life_goes_on() {
    proven(async {
        let mut cluster = Cluster::start(&NodeConfig::demo(), &[]).await?;
        let checker = Checker::start(settings(&cluster)).await?;
        checker.published_more(200).await?;
        cluster.backend.flush_all().await?;
        checker.published_more(300).await?;
        let report = verdict(checker).await?;
        ensure!(report.gaps_told > 0, "all data ended and nobody was told\n{report}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_went_with_all_data_before_it_was_read_is_told() {
    proven(async {
        let mut cluster = Cluster::start(&NodeConfig::demo(), &[]).await?;
        let mut reader = client(&cluster.nodes[0], &user("alice").listen("room:1")).await?;
        reader.subscribed("room:1").await?;
        let seen = cluster.backend.push("demo", "room:1", "seen").await?;
        ensure!(reader.message().await?.offset == seen, "where the reader stands");
        // The node is woken for a message that is gone when it looks.
        cluster.nodes[0].sigstop()?;
        cluster.backend.push("demo", "room:1", "never seen").await?;
        cluster.backend.flush_all().await?;
        cluster.nodes[0].sigcont()?;
        // Nobody can name the offsets of what was lost: the end of all data covers them.
        let gap = reader.expect("gap").await?;
        ensure!(gap.text("reason") == "epoch" && gap.offset("after")? == seen, "{}", gap.0);
        let next = cluster.backend.push("demo", "room:1", "next").await?;
        ensure!(reader.message().await?.offset == next, "and life goes on");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn trimming_past_a_stalled_reader_is_a_gap_never_silence() {
    proven(async {
        // A small ring and large entries: what Redis has trimmed the node does not have either.
        let config = NodeConfig::demo().memory("ring_bytes", 1 << 20).memory("page_cache_bytes", 1 << 20);
        let mut cluster = Cluster::start(&config, &[]).await?;
        let sub = serde_json::json!({"channel": "room:1", "ack": true, "window": 2});
        let mut reader = client(&cluster.nodes[0], &user("alice").sub_with(sub)).await?;
        let mut account = Account::default();
        let start = reader.subscribed("room:1").await?.offset("offset")?;
        account.subscribed(0, "room:1", start, false, None);
        let mut last = start;
        for n in 0..2000 {
            let data = format!("{n} {}", "x".repeat(2000));
            last = push_trimming(&mut cluster.backend, &data).await?;
            account.published("room:1", last, &data);
        }
        while account.missing() > 0 {
            let frame = one_of(&mut reader, &["message", "gap", "position"]).await?;
            match frame.kind() {
                "message" => {
                    let message = frame.message()?;
                    let data = message.text();
                    let delivery = Delivery { offset: message.offset, attempt: message.attempt, data: &data };
                    account.received(0, "room:1", &delivery);
                    reader.ack("room:1", message.offset).await?;
                    // The last one received and something missing before it is what must not be.
                    ensure!(message.offset < last || account.missing() == 0, "{}", account.report());
                }
                "gap" => {
                    let (after, until) = (frame.offset("after")?, frame.offset("until")?);
                    account.gap(0, "room:1", after, until, frame.text("reason"), 0);
                }
                _ => {}
            }
        }
        let report = account.report();
        report.assert_promises();
        ensure!(report.gaps_told > 0, "1,900 of 2,000 entries were trimmed and nobody was told\n{report}");
        ensure!(report.received < 2000, "{report}");
        Ok(())
    })
    .await;
}

async fn push_trimming(backend: &mut Backend, data: &str) -> Result<tidegate_support::offset::Offset> {
    let words: [&[u8]; 7] =
        [b"XADD", b"tg:demo:ch:room:1", b"MAXLEN", b"100", b"*", b"data", data.as_bytes()];
    let answer = backend.run(&words).await?;
    redis::from_redis_value::<String>(answer)?.parse()
}

#[tokio::test]
async fn a_key_of_the_wrong_type_hurts_only_its_channel() {
    proven(async {
        let mut cluster = Cluster::start(&NodeConfig::demo(), &[]).await?;
        cluster.backend.command("SET tg:demo:ch:room:broken string").await?;
        let mut reader = client(&cluster.nodes[0], &user("alice").listen("room:good")).await?;
        reader.subscribed("room:good").await?;
        let refused =
            reader.request(serde_json::json!({"type": "subscribe", "channel": "room:broken"})).await?;
        ensure!(refused.kind() == "error", "a string is no log: {}", refused.0);
        // A log that turns into something else while it is watched, beside one that does not.
        let mut second =
            client(&cluster.nodes[0], &user("bob").listen("room:turns").listen("room:good")).await?;
        second.subscribed("room:turns").await?;
        second.subscribed("room:good").await?;
        cluster.backend.push("demo", "room:turns", "fine").await?;
        ensure!(second.message().await?.text() == "fine", "as yet");
        cluster.backend.command("DEL tg:demo:ch:room:turns").await?;
        cluster.backend.command("LPUSH tg:demo:ch:room:turns wrong").await?;
        let pushed = cluster.backend.push_all("demo", "room:good", &texts(200)).await?;
        for reader in [&mut reader, &mut second] {
            let mut got = Vec::new();
            while got.len() < pushed.len() {
                let frame = one_of(reader, &["message"]).await?.message()?;
                if frame.channel == "room:good" {
                    got.push(frame);
                }
            }
            ensure!(offsets(&got) == pushed, "the healthy channel is whole");
        }
        Ok(())
    })
    .await;
}

/// How long a node is stopped: well past the lease after which others hold it for dead.
const STOP: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_node_stopped_past_its_lease_wakes_and_harms_nothing() {
    proven(async {
        let config = NodeConfig::demo().limit("ack_timeout_ms", 1000).limit("attempts", 2);
        let mut cluster = Cluster::start(&config, &[]).await?;
        let options = user("alice").device("phone").ack("work:1");
        let mut old = client(&cluster.nodes[0], &options).await?;
        old.subscribed("work:1").await?;
        let first = cluster.backend.push("demo", "work:1", "seen twice, acknowledged once").await?;
        ensure!(old.message().await?.offset == first, "in the old node's window");
        cluster.nodes[0].sigstop()?;
        // The acknowledgement of an older generation waits in the stopped node's socket.
        old.ack("work:1", first).await?;
        let mut new = client(&cluster.nodes[1], &options).await?;
        new.subscribed("work:1").await?;
        let stopped = Instant::now();
        let mut acknowledged = first;
        // The stop is a length of time and not a wait: the new connection works through all of it.
        while stopped.elapsed() < STOP {
            let offset = cluster.backend.push("demo", "work:1", "on the other node").await?;
            acknowledged = receive_until(&mut new, offset).await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        cluster.nodes[0].sigcont()?;
        let ended = ended(&mut old).await?;
        ensure!(
            ended.is_none_or(|code| code == 4005 || code >= 4100),
            "the old connection ended with {ended:?}"
        );
        // The woken node serves others, and the device's cursor stands where the new one put it.
        let mut bob = client(&cluster.nodes[0], &user("bob").listen("work:1")).await?;
        bob.subscribed("work:1").await?;
        let last = cluster.backend.push("demo", "work:1", "both nodes").await?;
        // It may have stood a little behind when it took him, and then he gets what came meanwhile.
        while bob.message().await?.offset < last {}
        acknowledged = acknowledged.max(receive_until(&mut new, last).await?);
        cluster.backend.await_cursor("tg:demo:cur:alice/phone", "work:1", acknowledged).await?;
        new.close().await?;
        let mut again = client(&cluster.nodes[0], &options).await?;
        let subscribed = again.subscribed("work:1").await?;
        ensure!(subscribed.offset("offset")? == acknowledged, "the cursor went elsewhere: {}", subscribed.0);
        let letters = cluster.backend.stream("tg:demo:dlq").await?;
        ensure!(letters.is_empty(), "all was acknowledged, and yet: {letters:?}");
        Ok(())
    })
    .await;
}

/// Receives and acknowledges until `offset` has come.
async fn receive_until(
    client: &mut Client,
    offset: tidegate_support::offset::Offset,
) -> Result<tidegate_support::offset::Offset> {
    loop {
        let message = client.message().await?;
        client.ack("work:1", message.offset).await?;
        if message.offset >= offset {
            client.settle().await?;
            return Ok(message.offset);
        }
    }
}

/// Reads until the connection ends; the close code, where there was one.
async fn ended(client: &mut Client) -> Result<Option<u16>> {
    loop {
        match client.next().await? {
            Event::Frame(_) => {}
            Event::Closed { code, .. } => return Ok(Some(code)),
            Event::Lost(_) => return Ok(None),
        }
    }
}

#[tokio::test]
async fn with_redis_away_sockets_stay_and_readiness_says_so() {
    proven(async {
        let mut redis = RedisServer::start(&["--appendonly", "yes"]).await?;
        let config = NodeConfig::demo().redis(&redis.url());
        let node = tidegate_support::node::Node::start(crate::harness::TIDEGATE, &config).await?;
        let mut reader = client(&node, &user("alice").listen("room:1")).await?;
        reader.subscribed("room:1").await?;
        redis.kill();
        eventually("readiness tells of it", || async {
            let ready = node.admin_get("/readyz").await.ok()?;
            (ready.status == 200 && ready.text().contains("backbone")).then_some(())
        })
        .await?;
        reader.settle().await?;
        redis.restart().await?;
        eventually("readiness recovers", || async {
            let ready = node.admin_get("/readyz").await.ok()?;
            (ready.status == 200 && !ready.text().contains("backbone")).then_some(())
        })
        .await?;
        let offset = Backend::connect(&redis.url()).await?.push("demo", "room:1", "after").await?;
        ensure!(
            one_of(&mut reader, &["message"]).await?.offset("offset")? == offset,
            "the same socket delivers"
        );
        Ok(())
    })
    .await;
}
