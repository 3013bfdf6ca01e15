//! `route`: where entries of the ingress go.

use anyhow::ensure;
use tidegate_support::plugins::put_on;
use tidegate_support::proven;

use super::{PROBE, calls, config, next, patient, user};
use crate::harness::{Cluster, client, silent};

#[tokio::test]
async fn entries_of_the_ingress_go_where_the_plugin_says() {
    proven(async {
        let cluster = Cluster::start(&config(patient()), &[]).await?;
        let mut readers = Vec::new();
        for room in ["room:1", "room:log"] {
            let mut reader = client(&cluster.nodes[1], &user("reader").listen(room)).await?;
            reader.subscribed(room).await?;
            readers.push(reader);
        }
        put_on(&cluster.nodes[0], "router", PROBE, &[]).await?;
        let mut backend = cluster.backend.clone();
        let entries = ["plain 1", "drop 2", "all 3", "trap 4", "plain 5"];
        let entries = entries.map(|data| ("room:1".to_owned(), data.to_owned()));
        backend.push_in_all("demo", &entries).await?;
        let changed = backend.push_in("demo", "room:1", "change 6").await?;
        for expected in ["plain 1", "all 3", "plain 5", &changed.to_string()] {
            ensure!(next(&mut readers[0]).await? == *expected, "{expected} in its order");
        }
        ensure!(next(&mut readers[1]).await? == "all 3", "a copy");
        // What had no answer is a dead letter, and nothing waits.
        let letter = backend.await_entry("tg:demo:dlq", |letter| letter.text("reason") == "plugin").await?;
        ensure!(letter.text("data") == "trap 4" && letter.text("to") == "room:1", "{letter:?}");
        for reader in &mut readers {
            silent(reader).await?;
        }
        ensure!(backend.length("tg:demo:in").await? == 0, "all entries are done");
        let asked = calls(&cluster.nodes[0], "route", "answered").await?
            + calls(&cluster.nodes[1], "route", "answered").await?;
        ensure!(asked == 5, "{asked} answers");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_router_that_fails_can_be_passed_by() {
    proven(async {
        for (policy, arrives) in [("open", true), ("drop", false)] {
            let tenant = patient().plugins(&format!("on_failure.route = \"{policy}\""));
            let cluster = Cluster::start(&config(tenant), &[]).await?;
            let mut reader = client(&cluster.nodes[0], &user("reader").listen("room:1")).await?;
            reader.subscribed("room:1").await?;
            put_on(&cluster.nodes[0], "router", PROBE, &[]).await?;
            let mut backend = cluster.backend.clone();
            for data in ["trap", "plain"] {
                backend.push_in("demo", "room:1", data).await?;
            }
            let log = tidegate_support::eventually("the last entry", || {
                let mut backend = backend.clone();
                async move {
                    let log = backend.log("demo", "room:1").await.ok()?;
                    log.iter().any(|entry| entry.text("data") == "plain").then_some(log)
                }
            })
            .await?;
            ensure!((log.len() == 2) == arrives, "{policy}: {log:?}");
            ensure!(backend.stream("tg:demo:dlq").await?.is_empty(), "{policy}");
        }
        Ok(())
    })
    .await;
}
