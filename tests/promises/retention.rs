//! Streams are kept within their rules, whether somebody watches them or not.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use redis::{Value, from_redis_value};
use tidegate_support::config::{NodeConfig, TenantConfig};
use tidegate_support::node::Node;
use tidegate_support::proven;
use tidegate_support::redis::RedisServer;
use tidegate_support::redis_faults::Backend;

use crate::harness::{Cluster, TIDEGATE, embedded, subscriber};

/// Nothing here takes nearly so long on a healthy machine.
const DEADLINE: Duration = Duration::from_secs(60);
/// Channels of each kind.
const CHANNELS: usize = 200;
/// Entries of a channel that is too long.
const ENTRIES: usize = 60;
/// Entries that its namespace keeps.
const KEPT: usize = 10;
/// Redis trims whole nodes of a stream, which hold so many of these entries at most.
const SLACK: usize = 30;

fn config() -> NodeConfig {
    let kept = format!("retention_max_len = {KEPT}");
    let tenant = TenantConfig::default()
        .namespace("short", &[&kept, "retention_max_age_ms = 3600000"])
        .namespace("small", &["retention_max_bytes = 8192"])
        .namespace("jobs", &["kind = \"queue\"", &kept])
        .streams(&format!("up_max_len = {KEPT}"))
        .streams("dlq_max_age_ms = 3600000");
    let config = NodeConfig::demo().tenant("demo", tenant);
    config.retention("pass_ms", 1_000).retention("keys_per_s", 100_000)
}

/// Asks again and again until it is so.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + DEADLINE;
    while Instant::now() < deadline {
        if is_so().await? {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bail!("it did not happen: {what}")
}

async fn number(backend: &mut Backend, line: &str) -> Result<usize> {
    Ok(from_redis_value(backend.command(line).await?)?)
}

async fn length(backend: &mut Backend, key: &str) -> Result<usize> {
    number(backend, &format!("XLEN {key}")).await
}

/// Adds entries as any backend does, which nobody hears of.
async fn fill(backend: &mut Backend, key: &str, count: usize) -> Result<()> {
    let text = "x".repeat(200);
    for _ in 0..count {
        let added = backend.command(&format!("XADD {key} * data {text}")).await?;
        ensure!(matches!(added, Value::BulkString(_)), "{added:?}");
    }
    Ok(())
}

fn channel(name: &str, n: usize) -> String {
    format!("tg:demo:ch:short:{name}-{n}")
}

async fn nobody_watches_and_all_is_kept_within_its_rules(node: &Node, backend: &mut Backend) -> Result<()> {
    let mut client = subscriber(node, "alice", "room:1", false).await?;
    let mut watcher = subscriber(node, "bob", "short:watched", false).await?;
    for n in 0..CHANNELS {
        fill(backend, &channel("long", n), ENTRIES).await?;
        backend.command(&format!("XADD {} 1000-1 data old", channel("over", n))).await?;
    }
    let foreign =
        ["tg:other:ch:room:1", "tg:demo:ch:unknown:1", "tg:demo:else", "tg:demo:ch:jobs:1", "tg:other:in"];
    for key in foreign {
        fill(backend, key, ENTRIES).await?;
    }
    for key in ["tg:demo:up", "tg:demo:ch:small:1"] {
        fill(backend, key, ENTRIES).await?;
    }
    backend.command("XADD tg:demo:dlq 1000-1 data old").await?;
    backend.command("XADD tg:demo:ch:short:watched 1000-1 data old").await?;
    watcher.message().await?;

    let over: Vec<String> = (0..CHANNELS).map(|n| channel("over", n)).collect();
    let over = format!("EXISTS {}", over.join(" "));
    until("everything is within its rules", async || {
        // Delivery goes on meanwhile.
        let offset = backend.push("demo", "room:1", "m").await?;
        let message = client.message().await?;
        ensure!(message.offset == offset, "{message:?} is not {offset}");
        let mut longest = length(backend, "tg:demo:up").await?;
        for n in 0..CHANNELS {
            longest = longest.max(length(backend, &channel("long", n)).await?);
        }
        let done = longest <= KEPT + SLACK
            && number(backend, &over).await? == 0
            && length(backend, "tg:demo:dlq").await? == 0
            && length(backend, "tg:demo:ch:short:watched").await? == 0
            && length(backend, "tg:demo:ch:small:1").await? < ENTRIES;
        Ok(done)
    })
    .await?;
    // Removed are channels only, and none that somebody watches.
    ensure!(number(backend, "EXISTS tg:demo:ch:short:watched tg:demo:dlq").await? == 2);
    for key in foreign {
        ensure!(length(backend, key).await? == ENTRIES, "{key} was trimmed");
    }
    for n in 0..CHANNELS {
        ensure!(length(backend, &channel("long", n)).await? >= KEPT, "too much was trimmed");
    }
    // What it did is counted when its pass is over.
    until("the pass is over", async || {
        Ok(node.metric("tidegate_janitor_removed_streams_total").await? >= CHANNELS as f64)
    })
    .await?;
    ensure!(node.metric("tidegate_janitor_foreign_streams").await? >= 3.0);
    let offset = backend.push("demo", "short:watched", "new").await?;
    ensure!(watcher.message().await?.offset == offset, "the watcher lost its place");
    Ok(())
}

#[tokio::test]
async fn streams_in_redis_that_nobody_watches_are_kept_within_their_rules() {
    proven(async {
        let redis = RedisServer::start(&[]).await?;
        let node = Node::start(TIDEGATE, &config().redis(&redis.url())).await?;
        let mut backend = Backend::connect(&redis.url()).await?;
        nobody_watches_and_all_is_kept_within_its_rules(&node, &mut backend).await
    })
    .await;
}

#[tokio::test]
async fn streams_of_the_embedded_backbone_are_kept_within_their_rules() {
    proven(async {
        let (node, mut backend) = embedded(config()).await?;
        nobody_watches_and_all_is_kept_within_its_rules(&node, &mut backend).await
    })
    .await;
}

#[tokio::test]
async fn one_node_looks_after_the_streams_and_another_follows_it() {
    proven(async {
        let mut cluster = Cluster::start(&config(), &[]).await?;
        let passes = "tidegate_janitor_pass_duration_seconds_count";
        until("three passes", async || {
            ensure!(cluster.nodes[1].metric(passes).await? == 0.0, "two nodes at once");
            Ok(cluster.nodes[0].metric(passes).await? >= 3.0)
        })
        .await?;
        let mut first = cluster.nodes.remove(0);
        first.sigterm().await?;
        until("the other goes on", async || Ok(cluster.nodes[0].metric(passes).await? > 0.0)).await?;
        fill(&mut cluster.backend, &channel("long", 0), ENTRIES).await?;
        until("it trims", async || {
            Ok(length(&mut cluster.backend, &channel("long", 0)).await? <= KEPT + SLACK)
        })
        .await
    })
    .await;
}
