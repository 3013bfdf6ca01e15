//! Wide sends: paced, looked at, cancelled, and safe to post again.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tidegate_support::config::{API_KEY, NodeConfig};
use tidegate_support::node::Node;
use tidegate_support::redis_faults::Backend;
use tidegate_support::{eventually, http, proven};

use crate::harness::{Cluster, embedded, subscriber};

const PATH: &str = "/v1/demo/publish";

/// Posts a request that becomes a send; where it can be looked at.
async fn send(node: &Node, body: &Value) -> Result<String> {
    let answer = http::post(&node.http, PATH, Some(API_KEY), body).await?;
    ensure!(answer.status == 202, "{} {}", answer.status, answer.text());
    let url = answer.json()?["url"].as_str().unwrap_or_default().to_owned();
    ensure!(answer.head.contains(&format!("location: {}", url.to_lowercase())), "{}", answer.head);
    Ok(url)
}

/// How a send is once `check` holds.
async fn until(node: &Node, url: &str, what: &str, check: impl Fn(&Value) -> bool) -> Result<Value> {
    let check = &check;
    eventually(what, || async move {
        let answer = http::get(&node.http, url, Some(API_KEY)).await.ok()?.json().ok()?;
        check(&answer).then_some(answer)
    })
    .await
}

fn rooms(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("room:{n}")).collect()
}

/// How many of these channels have exactly one entry; an error if one has more.
async fn once(backend: &mut Backend, rooms: &[String]) -> Result<usize> {
    let mut found = 0;
    for room in rooms {
        let length = backend.log("demo", room).await?.len();
        ensure!(length <= 1, "{room} has the message {length} times");
        found += length;
    }
    Ok(found)
}

#[tokio::test]
async fn a_wide_send_reaches_every_channel_and_says_how_far_it_is() {
    proven(async {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let mut alice = subscriber(&node, "alice", "room:1999", false).await?;
        let mut channels = rooms(2_000);
        channels.push("nowhere:1".to_owned());
        let url = send(&node, &json!({"channels": channels, "data": "all"})).await?;
        ensure!(alice.message().await?.text() == "all", "it is delivered");
        let answer = until(&node, &url, "the send is done", |answer| answer["state"] == "done").await?;
        ensure!(answer["targets"] == 2_001 && answer["added"] == 2_000 && answer["failed"] == 1, "{answer}");
        ensure!(answer["errors"][0]["channel"] == "nowhere:1", "{answer}");
        ensure!(once(&mut backend, &channels[..2_000]).await? == 2_000, "every channel has it");
        let list = http::get(&node.http, "/v1/demo/sends", Some(API_KEY)).await?.json()?;
        ensure!(list["sends"].as_array().is_some_and(|sends| sends.len() == 1), "{list}");
        for key in [None, Some("wrong")] {
            ensure!(http::get(&node.http, &url, key).await?.status == 401, "a send is its tenant's");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_cancelled_send_stops_where_it_is() {
    proven(async {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let channels = rooms(50);
        let url = send(&node, &json!({"channels": channels, "data": "x", "pace_per_s": 1})).await?;
        until(&node, &url, "the first is added", |answer| answer["added"] == 1).await?;
        let answer = http::request(&node.http, "DELETE", &url, Some(API_KEY), None).await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        let answer = until(&node, &url, "it has ended", |answer| answer["ended_ms"].is_u64()).await?;
        ensure!(answer["state"] == "cancelled", "{answer}");
        ensure!(
            once(&mut backend, &channels).await? as u64 == answer["added"].as_u64().unwrap_or(0),
            "{answer}"
        );
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_send_whose_node_died_is_posted_again_and_nobody_gets_it_twice() {
    proven(async {
        let mut cluster = Cluster::start(&NodeConfig::demo(), &[]).await?;
        let channels = rooms(400);
        let mut body = json!({"channels": channels, "data": "x", "id": "once", "pace_per_s": 40});
        let url = send(&cluster.nodes[0], &body).await?;
        let elsewhere = http::get(&cluster.nodes[1].http, &url, Some(API_KEY)).await?;
        let why = elsewhere.text();
        ensure!(elsewhere.status == 404 && why.contains("at the node one"), "the other node names it: {why}");
        until(&cluster.nodes[0], &url, "some are added", |answer| answer["added"].as_u64() > Some(5)).await?;
        cluster.nodes[0].kill9().await?;
        ensure!(once(&mut cluster.backend, &channels).await? < 400, "it died on the way");
        body["pace_per_s"] = json!(5_000);
        let url = send(&cluster.nodes[1], &body).await?;
        let answer = until(&cluster.nodes[1], &url, "it is done", |answer| answer["state"] == "done").await?;
        ensure!(answer["added"] == 400, "{answer}");
        ensure!(once(&mut cluster.backend, &channels).await? == 400, "each has it once");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_node_that_goes_away_sees_its_sends_through() {
    proven(async {
        let mut cluster = Cluster::start(&NodeConfig::demo(), &[]).await?;
        let channels = rooms(300);
        let url =
            send(&cluster.nodes[0], &json!({"channels": channels, "data": "x", "pace_per_s": 150})).await?;
        until(&cluster.nodes[0], &url, "it has begun", |answer| answer["added"].as_u64() > Some(0)).await?;
        let status = cluster.nodes[0].sigterm().await?;
        ensure!(status.success(), "{status}");
        ensure!(once(&mut cluster.backend, &channels).await? == 300, "all were added before it went");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_send_waits_while_redis_is_away() {
    proven(async {
        let mut cluster = Cluster::start(&NodeConfig::demo(), &["--appendonly", "yes"]).await?;
        let channels = rooms(100);
        let url =
            send(&cluster.nodes[0], &json!({"channels": channels, "data": "x", "pace_per_s": 50})).await?;
        cluster.redis.kill();
        let waiting =
            until(&cluster.nodes[0], &url, "it waits", |answer| answer["waiting"].is_string()).await?;
        ensure!(waiting["state"] == "running", "{waiting}");
        cluster.redis.restart().await?;
        let answer = until(&cluster.nodes[0], &url, "it is done", |answer| answer["state"] == "done").await?;
        ensure!(answer["added"] == 100 && answer["failed"] == 0, "{answer}");
        let mut backend = Backend::connect(&cluster.redis.url()).await?;
        ensure!(once(&mut backend, &channels).await? == 100, "each has it once");
        Ok(())
    })
    .await;
}
