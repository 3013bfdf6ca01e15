//! A version that fails on what really comes: it is cut off, and rolled back where there is one before it.

use anyhow::Context as _;
use tidegate_support::offset::Offset;
use tokio::time::{sleep, timeout};

use super::*;
use crate::harness::{client, messages, silent};
use crate::hooks::{PERSONAL, calls, known, user};

/// What this node's log of plugins says.
async fn said(node: &Node) -> Result<String> {
    Ok(get(node, "/logs").await?.to_string())
}

#[tokio::test]
async fn a_version_that_keeps_failing_is_rolled_back_while_clients_stay() {
    proven(async {
        let mut cluster = Cluster::start(&config(), &[]).await?;
        let (one, two) = (&cluster.nodes[0], &cluster.nodes[1]);
        // It lets pass what the other one fails on.
        let good = plugins::push(one, "probe", PERSONAL, &[]).await?;
        let bad = push(two, "one").await?;
        let mut readers = Vec::new();
        for (node, name) in [(one, "alice"), (two, "bob")] {
            let mut reader = client(node, &user(name).listen("room:1")).await?;
            reader.subscribed("room:1").await?;
            readers.push(reader);
        }
        activate(one, &good).await?;
        let mut log = vec![cluster.backend.push("demo", "room:1", "trap before").await?];
        let from_ms = activate(two, &bad).await?["from_ms"].as_u64().context("when it begins")?;
        let until_ms = timeout(tidegate_support::DEADLINE, async {
            loop {
                log.push(cluster.backend.push("demo", "room:1", "trap now").await?);
                let last = get(one, "").await?["stages"].as_array().and_then(|all| all.last().cloned());
                let last = last.context("a stage")?;
                if last["slots"][0]["active"] == good {
                    return last["from_ms"].as_u64().context("when it begins");
                }
                sleep(tidegate_support::POLL).await;
            }
        })
        .await
        .context("it is not rolled back")??;
        while log.last().is_none_or(|offset| offset.ms < until_ms) {
            log.push(cluster.backend.push("demo", "room:1", "trap now").await?);
            sleep(tidegate_support::POLL).await;
        }
        // What the failing version met is dropped, as the tenant's policy says, and nothing else is, on either node.
        let (dropped, shown): (Vec<Offset>, Vec<Offset>) =
            log.iter().partition(|offset| (from_ms..until_ms).contains(&offset.ms));
        ensure!(dropped.len() >= 20, "{} were met by the failing version", dropped.len());
        for reader in &mut readers {
            let seen = messages(reader, shown.len()).await?;
            ensure!(crate::harness::offsets(&seen) == shown, "{seen:?}");
            silent(reader).await?;
        }
        for node in [one, two] {
            let (good, bad) = (about(node, &good).await?, about(node, &bad).await?);
            ensure!(good["active"] == true && bad["active"] == false, "{good} {bad}");
        }
        let why = format!("version {bad} failed too often and is rolled back");
        eventually("it is said why", || async {
            Some(said(one).await.ok()? + &said(two).await.ok()?).filter(|lines| lines.contains(&why))
        })
        .await?;
        let cut_offs = one.metric("tidegate_plugin_cut_offs_total").await?
            + two.metric("tidegate_plugin_cut_offs_total").await?;
        ensure!(cut_offs >= 1.0, "{cut_offs} cut-offs are counted");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_version_with_none_before_it_is_cut_off_and_tried_until_it_works() {
    const FAILURES: u64 = 40;
    proven(async {
        let (node, _backend) = embedded(config()).await?;
        let version = push(&node, "one").await?;
        activate(&node, &version).await?;
        let mut ada = client(&node, &known("ada").listen("room:1")).await?;
        ada.subscribed("room:1").await?;
        let publication = |data: &str| json!({"type": "publish", "channel": "room:1", "data": data});
        // Twenty failures cut it off. What follows at once is not tried, but for one call a second.
        for n in 1..=FAILURES {
            let mut frame = publication("trap");
            frame["id"] = (1_000 + n).into();
            ada.send_frame(&frame).await?;
        }
        for n in 1..=FAILURES {
            let answer = ada.expect("error").await?;
            ensure!(answer.number("id") == Some(1_000 + n), "{}", answer.0);
            ensure!(answer.text("code") == "unavailable", "{}", answer.0);
        }
        let trapped = calls(&node, "on_publish", "trap").await?;
        ensure!((20..FAILURES).contains(&trapped), "{trapped} of {FAILURES} calls were made");
        ensure!(calls(&node, "on_publish", "cut_off").await? == FAILURES - trapped, "the others were not");
        ensure!(node.metric("tidegate_plugin_cut_offs_total").await? == 1.0, "it is cut off once");
        eventually("it is said what comes next", || async {
            said(&node).await.ok().filter(|lines| lines.contains("stays cut off, with a trial now and then"))
        })
        .await?;
        let tried = timeout(tidegate_support::DEADLINE, async {
            while ada.request(publication("plain")).await?.kind() != "ok" {
                sleep(tidegate_support::POLL).await;
            }
            anyhow::Ok(())
        });
        tried.await.context("it is not tried again")??;
        // It has a new life: fewer failures than before do not cut it off.
        for _ in 0..19 {
            ensure!(ada.request(publication("trap")).await?.text("code") == "unavailable", "it fails");
        }
        ensure!(ada.request(publication("plain")).await?.kind() == "ok", "it is asked");
        ensure!(node.metric("tidegate_plugin_cut_offs_total").await? == 1.0, "it is cut off once");
        ensure!(about(&node, &version).await?["active"] == true, "it is on still");
        Ok(())
    })
    .await;
}
