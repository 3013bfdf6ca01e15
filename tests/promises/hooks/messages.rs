//! `on-deliver`, on every way that a message takes to a client.

use anyhow::{Result, ensure};
use serde_json::json;
use tidegate_support::plugins::{put_off, put_on};
use tidegate_support::redis_faults::Backend;
use tidegate_support::{eventually, proven};

use super::{PROBE, config, data, next, patient, user};
use crate::harness::{Cluster, client, embedded, messages, offsets, silent};
use tidegate_support::node::Node;

/// What holds on both backbones.
async fn every_way_passes_the_plugin(nodes: &[&Node], backend: &mut Backend) -> Result<()> {
    let elsewhere = nodes[nodes.len() - 1];
    let options = user("alice").device("phone").ack("room:1");
    let mut live = client(elsewhere, &options).await?;
    live.subscribed("room:1").await?;
    let mut late = client(nodes[0], &user("bob")).await?;
    let mut worker = client(nodes[0], &user("carol").ack("queue:jobs")).await?;
    worker.subscribed("queue:jobs").await?;
    // Who is connected stays so.
    put_on(nodes[0], "filter", PROBE, &[("greeting", "ahoy")]).await?;
    let texts: Vec<String> = ["upper one", "drop two", "setting", "upper four"].map(str::to_owned).into();
    let pushed = backend.push_all("demo", "room:1", &texts).await?;
    // Live. What the plugin drops is no gap: `message` fails on one.
    let got = messages(&mut live, 3).await?;
    ensure!(offsets(&got) == [pushed[0], pushed[2], pushed[3]], "{got:?}");
    let seen: Vec<_> = got.iter().map(data).collect();
    let expected = [json!("UPPER ONE"), json!("ahoy"), json!("UPPER FOUR")];
    ensure!(seen == expected, "live: {seen:?}");
    ensure!(got[0].headers["x-by"] == "probe", "{:?}", got[0]);
    // Sent again.
    live.nack("room:1", pushed[0], 0).await?;
    let again = live.message().await?;
    ensure!((again.offset, again.attempt) == (pushed[0], 2), "{again:?}");
    ensure!(data(&again) == "UPPER ONE", "redelivered: {again:?}");
    // The cursor passes what was dropped.
    live.ack("room:1", pushed[3]).await?;
    live.settle().await?;
    live.close().await?;
    // Recovered, from before all of it, on the first node.
    late.request(json!({"type": "subscribe", "channel": "room:1", "offset": "0-0"})).await?;
    let recovered = messages(&mut late, 3).await?;
    ensure!(recovered.iter().map(data).eq(expected.clone()), "recovered: {recovered:?}");
    // History.
    let history = late.history("room:1", 10).await?;
    ensure!(history.iter().map(data).eq(expected.clone()), "history: {history:?}");
    // A queue: what is dropped is done.
    let jobs = backend.push_all("demo", "queue:jobs", &texts).await?;
    for (offset, expected) in [(jobs[0], &expected[0]), (jobs[2], &expected[1]), (jobs[3], &expected[2])] {
        let job = worker.message().await?;
        ensure!(job.offset == offset && data(&job) == *expected, "{job:?}");
        worker.ack("queue:jobs", offset).await?;
    }
    silent(&mut worker).await?;
    put_off(nodes[0], "filter").await?;
    let mut back = client(elsewhere, &options).await?;
    let from = back.subscribed("room:1").await?.offset("offset")?;
    ensure!(from == pushed[3], "the cursor stands at {from}");
    eventually("an empty queue", || {
        let mut backend = backend.clone();
        async move { (backend.length("tg:demo:ch:queue:jobs").await.ok()? == 0).then_some(()) }
    })
    .await
}

#[tokio::test]
async fn messages_pass_the_plugin_on_every_way_over_the_embedded_backbone() {
    proven(async {
        let (node, mut backend) = embedded(config(patient())).await?;
        every_way_passes_the_plugin(&[&node], &mut backend).await
    })
    .await;
}

#[tokio::test]
async fn messages_pass_the_plugin_on_every_way_on_two_nodes() {
    proven(async {
        let cluster = Cluster::start(&config(patient()), &[]).await?;
        let nodes: Vec<_> = cluster.nodes.iter().collect();
        every_way_passes_the_plugin(&nodes, &mut cluster.backend.clone()).await
    })
    .await;
}

#[tokio::test]
async fn a_plugin_that_fails_takes_nothing_but_its_message() {
    proven(async {
        for (policy, shown, letters) in [("open", true, 0), ("drop", false, 0), ("dead_letter", false, 3)] {
            let tenant = patient().plugins(&format!("on_failure.on_deliver = \"{policy}\""));
            let cluster = Cluster::start(&config(tenant.plugins("memory_bytes = 8388608")), &[]).await?;
            let mut readers = Vec::new();
            for (node, name) in cluster.nodes.iter().zip(["alice", "bob"]) {
                let mut reader = client(node, &user(name).listen("room:1")).await?;
                reader.subscribed("room:1").await?;
                readers.push(reader);
            }
            put_on(&cluster.nodes[0], "filter", PROBE, &[]).await?;
            let mut backend = cluster.backend.clone();
            let texts = ["trap one", "bloat two", "spin three", "upper four"].map(str::to_owned);
            backend.push_all("demo", "room:1", &texts).await?;
            for reader in &mut readers {
                for text in texts.iter().take(3).filter(|_| shown) {
                    ensure!(next(reader).await? == text.as_str(), "{policy}: {text}");
                }
                ensure!(next(reader).await? == "UPPER FOUR", "{policy}");
            }
            // Both nodes' plugins failed; there is one letter of each message all the same.
            let written = backend.stream("tg:demo:dlq").await?;
            ensure!(written.len() == letters, "{policy}: {written:?}");
            ensure!(written.iter().all(|letter| letter.text("reason") == "plugin"), "{written:?}");
            for (outcome, least) in [("trap", 1), ("out_of_memory", 1), ("timeout", 1)] {
                let counted = super::calls(&cluster.nodes[0], "on_deliver", outcome).await?;
                ensure!(counted >= least, "{policy}: {counted} of {outcome}");
            }
        }
        Ok(())
    })
    .await;
}
