//! What is on, from when, for which entries.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::harness::client;
use crate::hooks::known;
use tidegate_support::client::{Client, Options};

/// The greetings by which the entries of a channel are answered now, and on every node alike.
async fn greetings(nodes: &[Node], control: &str, channel: &str) -> Result<BTreeMap<String, String>> {
    let mut first = None;
    for node in nodes {
        // The version `control` says something else than all others, so that each entry differs.
        let seen: BTreeMap<_, _> = differences(node, control, channel)
            .await?
            .into_iter()
            .map(|(offset, now)| {
                let verdict = now["data"].as_str().or(now["verdict"].as_str());
                (offset, verdict.unwrap_or_default().to_owned())
            })
            .collect();
        ensure!(*first.get_or_insert_with(|| seen.clone()) == seen, "the nodes do not agree");
    }
    Ok(first.unwrap_or_default())
}

async fn life(nodes: &[Node], backend: &mut Backend) -> Result<()> {
    let (first, last) = (&nodes[0], &nodes[nodes.len() - 1]);
    let control = push(first, "control").await?;
    let (one, two) = (push(last, "one").await?, push(first, "two").await?);
    let mut offsets = Vec::new();
    let mut add = async |backend: &mut Backend| -> Result<String> {
        let offset = backend.push("demo", "room:1", "setting").await?.to_string();
        offsets.push(offset.clone());
        Ok(offset)
    };
    let mut expected = BTreeMap::new();
    expected.insert(add(backend).await?, "accept");
    // An answer comes when the version is on: what is added after it meets it.
    activate(first, &one).await?;
    expected.insert(add(backend).await?, "one");
    activate(last, &two[..8]).await?;
    expected.insert(add(backend).await?, "two");
    act(first, "rollback", &json!({})).await?;
    expected.insert(add(backend).await?, "one");
    act(last, "deactivate", &json!({})).await?;
    expected.insert(add(backend).await?, "accept");
    act(last, "rollback", &json!({})).await?;
    expected.insert(add(backend).await?, "one");
    let seen = greetings(nodes, &control, "room:1").await?;
    let expected: BTreeMap<_, _> = expected.into_iter().map(|(at, text)| (at, text.to_owned())).collect();
    ensure!(seen == expected, "{seen:?} is not {expected:?}");
    // What is on cannot be removed; what is not can, by whatever node.
    let path = |version: &str| format!("/v1/demo/plugins/probe/{version}");
    let refused = http::request(&first.admin, "DELETE", &path(&one), Some(API_KEY), None).await?;
    ensure!(refused.status == 409 && refused.text().contains("is on"), "{}", refused.text());
    let removed = http::request(&last.admin, "DELETE", &path(&two[..6]), Some(API_KEY), None).await?;
    ensure!(removed.status == 200 && removed.json()?["removed"] == two, "{}", removed.text());
    let gone = http::get(&first.admin, &path(&two), Some(API_KEY)).await?;
    ensure!(gone.status == 404, "{}", gone.text());
    let list = get(first, "").await?;
    let versions = list["plugins"][0]["versions"].as_array().cloned().unwrap_or_default();
    let active: Vec<_> = versions.iter().filter(|version| version["active"] == true).collect();
    ensure!(versions.len() == 2 && active.len() == 1 && active[0]["version"] == one, "{list}");
    ensure!(active[0]["nodes"].as_object().is_some_and(|said| said.len() == nodes.len()), "{list}");
    Ok(())
}

#[tokio::test]
async fn versions_are_switched_with_the_embedded_backbone() {
    proven(async {
        let (node, mut backend) = embedded(config()).await?;
        life(&[node], &mut backend).await
    })
    .await;
}

#[tokio::test]
async fn versions_are_switched_on_two_nodes_at_one_moment() {
    proven(async {
        let mut cluster = Cluster::start(&config(), &[]).await?;
        life(&cluster.nodes, &mut cluster.backend).await
    })
    .await;
}

#[tokio::test]
async fn a_candidate_gets_its_part_by_offset_and_the_same_on_every_node() {
    proven(async {
        let mut cluster = Cluster::start(&config(), &[]).await?;
        let (one, two) = (&cluster.nodes[0], &cluster.nodes[1]);
        let (old, new) = (push(one, "old").await?, push(two, "new").await?);
        let control = push(one, "control").await?;
        activate(one, &old).await?;
        for (percent, says) in [(0, "1 to 99"), (100, "activate it")] {
            let refused = post(one, "probe/canary", &json!({ "percent": percent, "version": new })).await?;
            ensure!(refused.status == 400 && refused.text().contains(says), "{}", refused.text());
        }
        act(two, "canary", &json!({ "percent": 30, "version": new })).await?;
        let texts = vec!["setting".to_owned(); 400];
        cluster.backend.push_all("demo", "room:1", &texts).await?;
        let seen = greetings(&cluster.nodes, &control, "room:1").await?;
        let part = seen.values().filter(|greeting| *greeting == "new").count();
        ensure!(seen.len() == 400 && (60..200).contains(&part), "{part} of {}", seen.len());
        let kinds: BTreeSet<_> = seen.values().map(String::as_str).collect();
        ensure!(kinds == BTreeSet::from(["new", "old"]), "{kinds:?}");
        // Going back to one version leaves what entries met.
        act(one, "rollback", &json!({})).await?;
        ensure!(greetings(&cluster.nodes, &control, "room:1").await? == seen, "what was is not changed");
        let at = cluster.backend.push("demo", "room:1", "setting").await?.to_string();
        ensure!(greetings(&cluster.nodes, &control, "room:1").await?[&at] == "old", "the candidate is off");
        Ok(())
    })
    .await;
}

/// A client that is subscribed.
async fn joined(node: &Node, options: &Options, channel: &str) -> Result<Client> {
    let mut client = client(node, options).await?;
    client.subscribed(channel).await?;
    Ok(client)
}

/// The greeting of the version that a session meets when it publishes.
async fn greeted(client: &mut Client, channel: &str) -> Result<String> {
    let published = client.publish(channel, json!("setting")).await?;
    loop {
        let message = client.message().await?;
        client.ack(channel, message.offset).await?;
        if message.offset == published {
            client.settle().await?;
            return Ok(message.text());
        }
    }
}

#[tokio::test]
async fn a_candidate_gets_its_part_of_sessions_and_each_session_meets_one_version() {
    proven(async {
        let cluster = Cluster::start(&config(), &[]).await?;
        let (one, two) = (&cluster.nodes[0], &cluster.nodes[1]);
        let (old, new) = (push(one, "old").await?, push(two, "new").await?);
        activate(one, &old).await?;
        act(two, "canary", &json!({ "percent": 50, "version": new })).await?;
        let (mut kinds, mut clients) = (BTreeSet::new(), Vec::new());
        for n in 0..24 {
            let (here, there) = (&cluster.nodes[n % 2], &cluster.nodes[(n + 1) % 2]);
            let channel = format!("room:{n}");
            let options = known(&format!("user{n}")).device("phone").ack(&channel);
            let mut first = joined(here, &options, &channel).await?;
            let greeting = greeted(&mut first, &channel).await?;
            // At home, and on the other node.
            let options = options.resume(first.resume_token());
            first.reset()?;
            let mut home = joined(here, &options, &channel).await?;
            ensure!(home.resumed() == "home", "{:?}", home.connected);
            ensure!(greeted(&mut home, &channel).await? == greeting, "session {n} at home");
            let options = options.resume(home.resume_token());
            home.reset()?;
            let mut moved = joined(there, &options, &channel).await?;
            ensure!(moved.resumed() == "moved", "{:?}", moved.connected);
            ensure!(greeted(&mut moved, &channel).await? == greeting, "session {n} on the other node");
            kinds.insert(greeting);
            clients.push((channel, moved));
        }
        ensure!(kinds.iter().eq(["new", "old"]), "{kinds:?}");
        act(one, "rollback", &json!({})).await?;
        for (channel, client) in &mut clients {
            ensure!(greeted(client, channel).await? == "old", "the candidate is off for {channel}");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn changes_at_the_same_time_come_one_after_the_other() {
    proven(async {
        let cluster = Cluster::start(&config(), &[]).await?;
        let (one, two) = (&cluster.nodes[0], &cluster.nodes[1]);
        let (a, b) = (push(one, "a").await?, push(two, "b").await?);
        activate(one, &a).await?;
        activate(two, &b).await?;
        for _ in 0..3 {
            let both = tokio::join!(activate(one, &a), activate(two, &b));
            let (first, second) = (both.0?, both.1?);
            ensure!(
                first["from_ms"] != second["from_ms"],
                "each begins at a moment of its own: {first} {second}"
            );
        }
        let (seen, other) = (get(one, "").await?, get(two, "").await?);
        ensure!(seen["stages"] == other["stages"], "{seen} {other}");
        let from: Vec<_> =
            seen["stages"].as_array().into_iter().flatten().map(|stage| stage["from_ms"].as_u64()).collect();
        ensure!(from.is_sorted_by(|a, b| a < b) && (5..=8).contains(&from.len()), "{from:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_switched_says_why() {
    proven(async {
        let (node, _backend) = embedded(config()).await?;
        push(&node, "one").await?;
        plugins::push(&node, "other", PROBE, &[("greeting", "x")]).await?;
        act(&node, "activate", &json!({})).await?;
        let refused = |path: &'static str, body: Value| {
            let node = &node;
            async move {
                let answer = post(node, path, &body).await?;
                anyhow::Ok((answer.status, answer.text()))
            }
        };
        for (path, body, status, says) in [
            ("nobody/activate", json!({}), 404, "no plugin `nobody`"),
            ("probe/activate", json!({"version": "0000"}), 404, "no version that begins with 0000"),
            ("probe/activate", json!({"version": "abc"}), 400, "at least 4"),
            ("probe/activate", json!({"percent": 5}), 400, "percent"),
            ("probe/activate", json!({"verison": "x"}), 400, "unknown field"),
            ("probe/canary", json!({}), 400, "say `percent`"),
            ("probe/explode", json!({}), 404, "canary, rollback"),
            ("Probe/activate", json!({}), 400, "1 to 32 of a-z"),
            ("probe/replay", json!({"channel": "room:1", "count": 1001}), 400, "1 to 1000"),
            ("probe/replay", json!({"channel": "no channel"}), 400, "channel"),
        ] {
            let (got, why) = refused(path, body.clone()).await?;
            ensure!(got == status && why.contains(says), "{path} {body}: {got} {why}");
        }
        within(READY, "both would have the same hooks", || async {
            let (status, why) = refused("other/activate", json!({})).await.ok()?;
            (status == 409 && why.contains("would both have the hook authenticate")).then_some(())
        })
        .await?;
        act(&node, "rollback", &json!({})).await?;
        let (status, why) = refused("probe/rollback", json!({})).await?;
        ensure!(status == 409 && why.contains("nothing to roll"), "{status} {why}");
        Ok(())
    })
    .await;
}
