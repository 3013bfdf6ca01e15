//! `on-deliver-class` and `on-deliver-session`: who is shown what, and how often a plugin is asked.

use anyhow::{Result, ensure};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};
use tidegate_support::client::{Client, Message};
use tidegate_support::config::API_KEY;
use tidegate_support::plugins::{activate, push, put_off, put_on};
use tidegate_support::{eventually, http, proven};

use super::{PERSONAL, PRICES, PROBE, calls, classy, config, data, next, patient, user};
use crate::harness::{Cluster, client, embedded, messages, silent};

/// A message with a price for each class.
const LAMP: &str = r#"{"item":"lamp","prices":{"gold":900,"standard":1000}}"#;

/// A message for one user. The plugin that looks at classes would drop it.
const WHISPER: &str = r#"{"text":"psst","to":"bob","prices":{}}"#;

#[tokio::test]
async fn ten_thousand_subscribers_of_a_class_cost_one_call() {
    const SUBSCRIBERS: usize = 10_000;
    proven(async {
        let config =
            config(patient()).node("accept_per_s", "100000").node("accept_exempt", "[\"127.0.0.1\"]");
        let (node, mut backend) = embedded(config).await?;
        put_on(&node, "prices", PRICES, &[]).await?;
        let subscribe = async |n: usize| -> Result<Client> {
            let class = if n == 0 { "standard" } else { "gold" };
            let mut client = client(&node, &classy(&format!("user{n}"), class).listen("room:1")).await?;
            client.subscribed("room:1").await?;
            Ok(client)
        };
        let clients = stream::iter((0..=SUBSCRIBERS).map(subscribe)).buffered(64);
        let mut clients: Vec<Client> = clients.try_collect().await?;
        let before = calls(&node, "on_deliver_class", "answered").await?;
        backend.push("demo", "room:1", LAMP).await?;
        for (n, client) in clients.iter_mut().enumerate() {
            let price = if n == 0 { 1000 } else { 900 };
            ensure!(next(client).await? == json!({"item": "lamp", "price": price}), "subscriber {n}");
        }
        let asked = calls(&node, "on_deliver_class", "answered").await? - before;
        ensure!(asked == 2, "{asked} calls for two classes");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_class_sees_its_own_on_every_way() {
    proven(async {
        let cluster = Cluster::start(&config(patient()), &[]).await?;
        put_on(&cluster.nodes[0], "prices", PRICES, &[]).await?;
        let mut backend = cluster.backend.clone();
        let first = backend.push("demo", "room:1", LAMP).await?;
        for (class, price) in [("gold", 900), ("standard", 1000), ("silver", 1000)] {
            for node in &cluster.nodes {
                // Recovered, from history, live, sent again.
                let sub = json!({"channel": "room:1", "offset": "0-0", "ack": true});
                let shopper = classy(&format!("shopper-{class}"), class).sub_with(sub);
                let mut shopper = client(node, &shopper).await?;
                let priced = json!({"item": "lamp", "price": price});
                ensure!(next(&mut shopper).await? == priced, "recovered by {class}");
                let history = shopper.history("room:1", 1).await?;
                ensure!(data(&history[0]) == priced, "history of {class}: {history:?}");
                shopper.nack("room:1", first, 0).await?;
                let again = shopper.message().await?;
                ensure!(again.attempt == 2 && data(&again) == priced, "again for {class}: {again:?}");
            }
        }
        let mut worker = client(&cluster.nodes[1], &classy("worker", "gold").ack("queue:prices")).await?;
        worker.subscribed("queue:prices").await?;
        backend.push("demo", "queue:prices", LAMP).await?;
        ensure!(next(&mut worker).await? == json!({"item": "lamp", "price": 900}), "a queue's task");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn each_session_can_be_shown_something_else() {
    proven(async {
        let (node, mut backend) = embedded(config(patient())).await?;
        put_on(&node, "whispers", PERSONAL, &[]).await?;
        let mut readers = Vec::new();
        for name in ["alice", "bob", "carol"] {
            let mut reader = client(&node, &user(name).listen("room:1")).await?;
            reader.subscribed("room:1").await?;
            readers.push(reader);
        }
        readers[0].publish("room:1", json!({"text": "psst", "to": "bob"})).await?;
        let last = backend.push("demo", "room:1", r#"{"text":"for all"}"#).await?;
        ensure!(next(&mut readers[0]).await?["mine"] == true, "the author");
        ensure!(next(&mut readers[1]).await?["text"] == "psst", "whom it is for");
        // Carol gets nothing of it, and no gap.
        for reader in &mut readers {
            let message = reader.message().await?;
            ensure!(message.offset == last && data(&message)["text"] == "for all", "{message:?}");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn every_way_is_by_the_scope_of_the_version_that_a_message_met() {
    proven(async {
        let cluster = Cluster::start(&config(patient()), &[]).await?;
        let node = &cluster.nodes[0];
        let mut backend = cluster.backend.clone();
        // A price for each class, and then the same for each session: whispered.
        put_on(node, "views", PRICES, &[]).await?;
        let priced = backend.push("demo", "room:1", LAMP).await?;
        put_on(node, "views", PERSONAL, &[]).await?;
        let whispered = backend.push("demo", "room:1", WHISPER).await?;
        let last = backend.push("demo", "room:1", LAMP).await?;
        let (lamp, raw) = (json!({"item": "lamp", "price": 900}), serde_json::from_str::<Value>(LAMP)?);
        let whisper = serde_json::from_str::<Value>(WHISPER)?;
        for node in &cluster.nodes {
            for (name, hears) in [("bob", true), ("carol", false)] {
                let sub = json!({"channel": "room:1", "offset": "0-0", "ack": true});
                let mut reader = client(node, &classy(name, "gold").sub_with(sub)).await?;
                let mut expected =
                    vec![(priced, lamp.clone()), (whispered, whisper.clone()), (last, raw.clone())];
                expected.retain(|(offset, _)| hears || *offset != whispered);
                let seen = |messages: &[Message]| -> Vec<_> {
                    messages.iter().map(|message| (message.offset, data(message))).collect()
                };
                let recovered = messages(&mut reader, expected.len()).await?;
                ensure!(seen(&recovered) == expected, "recovered by {name}: {recovered:?}");
                let history = reader.history("room:1", 10).await?;
                ensure!(seen(&history) == expected, "history of {name}: {history:?}");
                for (offset, expected) in &expected {
                    reader.nack("room:1", *offset, 0).await?;
                    let again = reader.message().await?;
                    ensure!((again.offset, again.attempt) == (*offset, 2), "{again:?}");
                    ensure!(data(&again) == *expected, "again for {name}: {again:?}");
                }
            }
        }
        // A task that is whispered to somebody else is done.
        for (name, hears) in [("carol", false), ("bob", true)] {
            let mut worker = client(&cluster.nodes[1], &user(name).ack("queue:whispers")).await?;
            worker.subscribed("queue:whispers").await?;
            let mut tasks = vec![backend.push("demo", "queue:whispers", WHISPER).await?];
            tasks.push(backend.push("demo", "queue:whispers", LAMP).await?);
            for offset in tasks.into_iter().skip(usize::from(!hears)) {
                ensure!(worker.message().await?.offset == offset, "a task of {name}");
                worker.ack("queue:whispers", offset).await?;
            }
            silent(&mut worker).await?;
            worker.close().await?;
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn connected_clients_follow_when_a_plugin_looks_closer_or_goes() {
    proven(async {
        let cluster = Cluster::start(&config(patient()), &[]).await?;
        let (node, mut backend) = (&cluster.nodes[0], cluster.backend.clone());
        let mut gold = client(&cluster.nodes[1], &classy("ada", "gold").ack("room:1")).await?;
        let mut other = client(&cluster.nodes[1], &user("bob").listen("room:1")).await?;
        let mut worker = client(&cluster.nodes[1], &classy("carl", "gold").ack("queue:prices")).await?;
        for (client, channel) in
            [(&mut gold, "room:1"), (&mut other, "room:1"), (&mut worker, "queue:prices")]
        {
            client.subscribed(channel).await?;
        }
        let plain = serde_json::from_str::<Value>(LAMP)?;
        let priced = |price: u64| json!({"item": "lamp", "price": price});
        for round in 0..2 {
            for (plugin, bytes, for_gold, for_other) in [
                (None, &[][..], plain.clone(), plain.clone()),
                (Some("filter"), PROBE, plain.clone(), plain.clone()),
                (Some("prices"), PRICES, priced(900), priced(1000)),
                (Some("whispers"), PERSONAL, plain.clone(), plain.clone()),
            ] {
                if let Some(name) = plugin {
                    put_on(node, name, bytes, &[]).await?;
                }
                for channel in ["room:1", "queue:prices"] {
                    backend.push("demo", channel, LAMP).await?;
                }
                let message = gold.message().await?;
                gold.ack("room:1", message.offset).await?;
                ensure!(data(&message) == for_gold, "round {round}, {plugin:?}: {message:?}");
                ensure!(next(&mut other).await? == for_other, "round {round}, {plugin:?}");
                let task = worker.message().await?;
                worker.ack("queue:prices", task.offset).await?;
                ensure!(data(&task) == for_gold, "round {round}, {plugin:?}: {task:?}");
                if let Some(name) = plugin {
                    put_off(node, name).await?;
                }
            }
        }
        silent(&mut gold).await
    })
    .await;
}

#[tokio::test]
async fn who_comes_while_no_plugin_is_on_follows_when_it_comes_back() {
    proven(async {
        // One shard: the next client sits where the one before has sat, whose session ends with its connection.
        let config = config(patient()).node("shards", "1").limit("resume_window_ms", 0);
        let (node, mut backend) = embedded(config).await?;
        let priced = json!({"item": "lamp", "price": 900});
        let mut ada = client(&node, &classy("ada", "gold").listen("room:1")).await?;
        ada.subscribed("room:1").await?;
        let version = put_on(&node, "prices", PRICES, &[]).await?;
        backend.push("demo", "room:1", LAMP).await?;
        ensure!(next(&mut ada).await? == priced, "who was there before");
        ada.close().await?;
        put_off(&node, "prices").await?;
        eventually("the plugin's removal", || async {
            let path = format!("/v1/demo/plugins/prices/{version}");
            let removed = http::request(&node.admin, "DELETE", &path, Some(API_KEY), None).await.ok()?;
            (removed.status == 200).then_some(())
        })
        .await?;
        // Once another one was on, the node knows that this one is gone.
        put_on(&node, "filter", PROBE, &[]).await?;
        put_off(&node, "filter").await?;
        // Ready before he comes: then nothing changes for him until it is on.
        let version = push(&node, "prices", PRICES, &[]).await?;
        eventually("a version that is ready", || async {
            let path = format!("/v1/demo/plugins/prices/{version}");
            let about = http::get(&node.admin, &path, Some(API_KEY)).await.ok()?.json().ok()?;
            (about["state"] == "ready").then_some(())
        })
        .await?;
        let mut bob = client(&node, &classy("bob", "gold").listen("room:1")).await?;
        bob.subscribed("room:1").await?;
        activate(&node, "prices", &version).await?;
        backend.push("demo", "room:1", LAMP).await?;
        ensure!(next(&mut bob).await? == priced, "who came in between");
        Ok(())
    })
    .await;
}
