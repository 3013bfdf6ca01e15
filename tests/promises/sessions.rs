//! What survives connections.

use anyhow::ensure;
use serde_json::json;
use tidegate_support::client::{Client, Options};
use tidegate_support::config::{NodeConfig, TenantConfig};
use tidegate_support::offset::Offset;
use tidegate_support::proven;

use crate::harness::{
    Cluster, WIRES, client, embedded, messages, offsets, proven_over, silent, subscriber, texts, user, wire,
};

#[tokio::test]
async fn resuming_at_home_keeps_everything() {
    proven_over(&WIRES, || async {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let mut first = subscriber(&node, "alice", "room:1", true).await?;
        ensure!(first.resumed() == "new", "{:?}", first.connected);
        let pushed = backend.push_all("demo", "room:1", &texts(3)).await?;
        messages(&mut first, 3).await?;
        first.ack("room:1", pushed[0]).await?;
        first.settle().await?;
        let resume = first.resume_token().to_owned();
        let session = first.connected.text("session").to_owned();
        first.reset()?;
        let missed = backend.push("demo", "room:1", "missed").await?;
        // No subscriptions are named: the session still has them.
        let mut back = client(&node, &user("alice").resume(&resume)).await?;
        ensure!(
            back.resumed() == "home" && back.connected.text("session") == session,
            "{:?}",
            back.connected
        );
        let mut got = offsets(&messages(&mut back, 3).await?);
        got.sort_unstable();
        ensure!(got == [pushed[1], pushed[2], missed], "what was open and what was missed: {got:?}");
        Ok(())
    })
    .await;
}

/// The same unexpired token with the resume token asks nobody again: a tenant that lets nobody in without
/// a token proves that it is needed, and the resume token alone does not do.
#[tokio::test]
async fn a_resume_token_alone_opens_nothing() {
    proven_over(&WIRES, || async {
        let tenant = TenantConfig::default().closed();
        let (node, _) = embedded(NodeConfig::default().tenant("demo", tenant)).await?;
        let first = client(&node, &user("alice")).await?;
        let resume = first.resume_token().to_owned();
        first.reset()?;
        let anonymous = Options::default().over(wire()).resume(&resume);
        let refused = Client::try_connect(&node.ws("demo"), &anonymous).await?;
        ensure!(refused.is_err(), "a resume token opened a session: {refused:?}");
        let thief = client(&node, &user("mallory").resume(&resume)).await?;
        ensure!(thief.resumed() != "home" && thief.user() == "mallory", "{:?}", thief.connected);
        let owner = client(&node, &user("alice").resume(&resume)).await?;
        ensure!(owner.resumed() == "home", "{:?}", owner.connected);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn only_the_latest_resume_token_attaches() {
    proven_over(&WIRES, || async {
        let (node, _) = embedded(NodeConfig::demo()).await?;
        let first = client(&node, &user("alice")).await?;
        let old = first.resume_token().to_owned();
        first.reset()?;
        let mut second = client(&node, &user("alice").resume(&old)).await?;
        ensure!(second.resumed() == "home" && second.resume_token() != old, "{:?}", second.connected);
        let third = client(&node, &user("alice").resume(&old)).await?;
        ensure!(third.resumed() != "home", "an old token attached: {:?}", third.connected);
        // Nor does it take the session away from whoever has the latest.
        let latest = second.resume_token().to_owned();
        second.settle().await?;
        second.reset()?;
        let fourth = client(&node, &user("alice").resume(&latest)).await?;
        ensure!(fourth.resumed() == "home", "{:?}", fourth.connected);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_newer_connection_of_the_device_takes_over() {
    proven_over(&WIRES, || async {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let options = user("alice").device("phone").ack("room:1");
        let mut old = client(&node, &options).await?;
        old.subscribed("room:1").await?;
        let first = backend.push("demo", "room:1", "one").await?;
        messages(&mut old, 1).await?;
        old.ack("room:1", first).await?;
        old.settle().await?;
        let mut new = client(&node, &options).await?;
        let (code, reason) = old.closed().await?;
        ensure!((code, reason.as_str()) == (4005, "replaced"), "{code} {reason}");
        let subscribed = new.subscribed("room:1").await?;
        ensure!(subscribed.offset("offset")? == first, "the cursor was handed over: {}", subscribed.0);
        let second = backend.push("demo", "room:1", "two").await?;
        ensure!(new.message().await?.offset == second, "the new one goes on");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn devices_of_one_user_do_not_disturb_each_other() {
    proven(async {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let mut phone = client(&node, &user("alice").device("phone").ack("room:1")).await?;
        let mut laptop = client(&node, &user("alice").device("laptop").ack("room:1")).await?;
        phone.subscribed("room:1").await?;
        laptop.subscribed("room:1").await?;
        let offset = backend.push("demo", "room:1", "both").await?;
        ensure!(phone.message().await?.offset == offset, "phone");
        ensure!(laptop.message().await?.offset == offset, "laptop");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn one_session_too_many_closes_the_oldest() {
    proven_over(&WIRES, || async {
        let (node, _) = embedded(NodeConfig::demo().limit("sessions_per_user", 2)).await?;
        let mut oldest = client(&node, &user("alice")).await?;
        let mut middle = client(&node, &user("alice")).await?;
        let mut bob = client(&node, &user("bob")).await?;
        let mut newest = client(&node, &user("alice")).await?;
        let (code, reason) = oldest.closed().await?;
        ensure!((code, reason.as_str()) == (4004, "too_many_sessions"), "{code} {reason}");
        for client in [&mut middle, &mut newest, &mut bob] {
            client.settle().await?;
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_session_moves_to_another_node_with_its_cursors() {
    proven(async {
        let mut cluster = Cluster::start(&NodeConfig::demo(), &[]).await?;
        let options = user("alice").device("phone").ack("room:1");
        let mut first = client(&cluster.nodes[0], &options).await?;
        first.subscribed("room:1").await?;
        let pushed = cluster.backend.push_all("demo", "room:1", &texts(3)).await?;
        messages(&mut first, 3).await?;
        first.ack("room:1", pushed[0]).await?;
        cluster.backend.await_cursor("tg:demo:cur:alice/phone", "room:1", pushed[0]).await?;
        let resume = first.resume_token().to_owned();
        first.close().await?;
        let mut moved = client(&cluster.nodes[1], &options.resume(&resume)).await?;
        ensure!(moved.resumed() == "moved", "{:?}", moved.connected);
        ensure!(moved.connected.text("node") == "two", "{:?}", moved.connected);
        let got = offsets(&messages(&mut moved, 2).await?);
        ensure!(got == pushed[1..], "from the cursor on: {got:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn taking_over_on_another_node_closes_the_old_connection() {
    proven(async {
        let cluster = Cluster::start(&NodeConfig::demo(), &[]).await?;
        let options = user("alice").device("phone").ack("room:1");
        let mut old = client(&cluster.nodes[0], &options).await?;
        let old_at = old.subscribed("room:1").await?.offset("offset")?;
        let mut backend = cluster.backend.clone();
        let mut new = client(&cluster.nodes[1], &options).await?;
        new.subscribed("room:1").await?;
        // The old node learns of it at the latest when it stores a cursor of the older generation.
        let offset = backend.push("demo", "room:1", "one").await?;
        ensure!(new.message().await?.offset == offset && offset > old_at, "the new one receives");
        new.ack("room:1", offset).await?;
        new.settle().await?;
        ensure!(old.message().await?.offset == offset, "nobody told the old node yet");
        old.ack("room:1", offset).await?;
        let (code, _) = old.closed().await?;
        ensure!(code == 4005, "{code}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_session_that_nobody_knows_any_more_says_lost() {
    proven(async {
        let config = NodeConfig::demo().limit("resume_window_ms", 0);
        let (mut node, _) = embedded(config).await?;
        let first = subscriber(&node, "alice", "room:1", true).await?;
        let resume = first.resume_token().to_owned();
        first.reset()?;
        // The embedded backbone ends with its process: nothing is left of the session.
        node.kill9().await?;
        node.restart().await?;
        let back = client(&node, &user("alice").resume(&resume)).await?;
        ensure!(["lost", "new"].contains(&back.resumed()), "{:?}", back.connected);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn cursors_survive_kill_9_of_the_node() {
    proven(async {
        let mut cluster = Cluster::start(&NodeConfig::demo(), &[]).await?;
        let options = user("alice").device("phone").ack("room:1");
        let mut first = client(&cluster.nodes[0], &options).await?;
        first.subscribed("room:1").await?;
        let pushed = cluster.backend.push_all("demo", "room:1", &texts(4)).await?;
        messages(&mut first, 4).await?;
        first.ack("room:1", pushed[1]).await?;
        cluster.backend.await_cursor("tg:demo:cur:alice/phone", "room:1", pushed[1]).await?;
        let mut reader = cluster.backend.clone();
        cluster.nodes[0].kill9().await?;
        let mut again = client(&cluster.nodes[1], &options).await?;
        let subscribed = again.subscribed("room:1").await?;
        ensure!(subscribed.offset("offset")? == pushed[1], "{}", subscribed.0);
        let got = offsets(&messages(&mut again, 2).await?);
        ensure!(got == pushed[2..], "not acknowledged, so delivered again: {got:?}");
        ensure!(!reader.log("demo", "room:1").await?.is_empty(), "the log is untouched");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_stored_cursor_survives_a_clean_stop() {
    proven(async {
        let mut cluster = Cluster::start(&NodeConfig::demo(), &[]).await?;
        let options = user("alice").device("phone").ack("room:1");
        let mut first = client(&cluster.nodes[0], &options).await?;
        first.subscribed("room:1").await?;
        let pushed = cluster.backend.push_all("demo", "room:1", &texts(2)).await?;
        messages(&mut first, 2).await?;
        first.ack("room:1", pushed[1]).await?;
        first.settle().await?;
        let reading = async {
            while let Ok(tidegate_support::client::Event::Frame(_)) = first.next().await {}
            std::future::pending::<()>().await;
        };
        let status =
            tokio::select! { status = cluster.nodes[0].sigterm() => status?, () = reading => unreachable!() };
        ensure!(status.success(), "a clean stop ends with 0, not {status}");
        let mut again = client(&cluster.nodes[1], &options).await?;
        let subscribed = again.subscribed("room:1").await?;
        ensure!(subscribed.offset("offset")? == pushed[1], "{}", subscribed.0);
        silent(&mut again).await
    })
    .await;
}

#[tokio::test]
async fn without_a_device_a_new_session_starts_now() {
    proven(async {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let mut first = subscriber(&node, "alice", "room:1", true).await?;
        backend.push("demo", "room:1", "unacknowledged").await?;
        messages(&mut first, 1).await?;
        first.close().await?;
        let mut second = subscriber(&node, "alice", "room:1", true).await?;
        silent(&mut second).await
    })
    .await;
}

#[tokio::test]
async fn recovered_says_whether_anything_is_missing() {
    proven_over(&WIRES, || async {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let mut watcher = subscriber(&node, "bob", "room:1", false).await?;
        let pushed = backend.push_all("demo", "room:1", &texts(5)).await?;
        messages(&mut watcher, 5).await?;
        let epoch = watcher.request(json!({"type": "history", "channel": "room:1", "limit": 1})).await?;
        let epoch = epoch.text("epoch").to_owned();
        let wish = |offset: Offset, epoch: &str| {
            user("alice").sub_with(json!({"channel": "room:1", "offset": offset.to_string(), "epoch": epoch}))
        };
        let mut whole = client(&node, &wish(pushed[1], &epoch)).await?;
        let subscribed = whole.subscribed("room:1").await?;
        ensure!(subscribed.get("recovered") == true, "{}", subscribed.0);
        ensure!(offsets(&messages(&mut whole, 3).await?) == pushed[2..], "everything after it");
        let mut other_life = client(&node, &wish(pushed[1], "00000000000000aa")).await?;
        let subscribed = other_life.subscribed("room:1").await?;
        ensure!(subscribed.get("recovered") == false, "another epoch proves nothing: {}", subscribed.0);
        Ok(())
    })
    .await;
}
