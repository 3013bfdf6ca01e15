//! Versions change while everything goes on.

use anyhow::ensure;
use serde_json::json;
use tidegate_support::checker::Checker;
use tidegate_support::plugins::{act_once_ready, activate, push, put_off};
use tidegate_support::proven;

use super::{PERSONAL, PROBE, calls, config, patient};
use crate::faults::{settings, verdict};
use crate::harness::Cluster;

#[tokio::test]
async fn nothing_is_lost_while_versions_change() {
    proven(async {
        let cluster = Cluster::start(&config(patient()), &[]).await?;
        let (one, two) = (&cluster.nodes[0], &cluster.nodes[1]);
        // Both let pass what the checker publishes; they differ in how finely they look.
        let first = push(one, "whispers", PERSONAL, &[]).await?;
        let second = push(two, "whispers", PERSONAL, &[("any", "other")]).await?;
        ensure!(first != second, "settings make another version");
        let checker = Checker::start(settings(&cluster)).await?;
        checker.published_more(200).await?;
        for round in 0..3 {
            let node = if round % 2 == 0 { one } else { two };
            activate(node, "whispers", &first).await?;
            checker.published_more(100).await?;
            let canary = json!({"version": second, "percent": 50});
            act_once_ready(node, "whispers", "canary", &canary).await?;
            checker.published_more(100).await?;
            activate(node, "whispers", &second).await?;
            checker.published_more(100).await?;
            put_off(node, "whispers").await?;
            checker.published_more(100).await?;
        }
        let mut asked = 0;
        for node in [one, two] {
            asked += calls(node, "on_deliver_session", "answered").await?;
        }
        ensure!(asked > 0, "the plugin was not asked");
        verdict(checker).await.map(drop)
    })
    .await;
}

#[tokio::test]
async fn a_killed_node_comes_back_with_the_versions_that_are_on() {
    proven(async {
        let mut cluster = Cluster::start(&config(patient()), &[]).await?;
        let version = push(&cluster.nodes[0], "filter", PROBE, &[]).await?;
        activate(&cluster.nodes[0], "filter", &version).await?;
        cluster.nodes[1].kill9().await?;
        cluster.nodes[1].restart().await?;
        let options = super::known("ada").listen("room:1");
        let mut ada = crate::harness::client(&cluster.nodes[1], &options).await?;
        ada.subscribed("room:1").await?;
        cluster.backend.push("demo", "room:1", "upper").await?;
        ensure!(super::next(&mut ada).await? == "UPPER", "shaped from the first message on");
        Ok(())
    })
    .await;
}
