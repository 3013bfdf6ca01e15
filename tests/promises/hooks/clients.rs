//! `authenticate`, `on-subscribe`, `on-publish` and `on-session`: what clients are asked, and told.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use ring::hmac;
use serde_json::{Value, json};
use tidegate_support::client::{Client, Options, Refusal};
use tidegate_support::config::{ADMIN_TOKEN, API_KEY, NodeConfig, TenantConfig};
use tidegate_support::node::Node;
use tidegate_support::plugins::{act_once_ready, push, put_off, put_on};
use tidegate_support::redis_faults::Backend;
use tidegate_support::{eventually, http, proven};

use super::{AUTHENTICATOR, PROBE, calls, config, data, known, next, patient, user};
use crate::harness::{Cluster, client, embedded, messages, one_of, silent};

/// Signs tokens of `plugins/authenticator`.
const SECRET: &str = "a secret of the tests";

/// Runs a test on a node with a backbone of its own, and on two nodes at a Redis.
async fn on_both(config: NodeConfig, test: impl AsyncFn(&[Node], Backend) -> Result<()>) {
    proven(async {
        let (node, backend) = embedded(config.clone()).await?;
        test(&[node], backend).await.context("with the embedded backbone")?;
        let cluster = Cluster::start(&config, &[]).await?;
        test(&cluster.nodes, cluster.backend.clone()).await.context("with Redis")
    })
    .await;
}

/// Switches a plugin on, and waits until every node knows. Entries wait for a node that is late; clients do not.
async fn put_on_all(nodes: &[Node], name: &str, component: &[u8], settings: &[(&str, &str)]) -> Result<()> {
    let version = put_on(&nodes[0], name, component, settings).await?;
    told_of(nodes, &format!("version {version} is active")).await
}

/// Waits until the log of plugins says something on every node.
async fn told_of(nodes: &[Node], what: &str) -> Result<()> {
    for node in nodes {
        eventually(what, || async {
            let logs = http::get(&node.admin, "/v1/demo/plugins/logs", Some(API_KEY)).await.ok()?;
            logs.text().contains(what).then_some(())
        })
        .await?;
    }
    Ok(())
}

/// The close of a client that was not let in, and what it was told.
async fn refused(node: &Node, options: &Options) -> Result<(u16, String)> {
    match Client::try_connect(&node.ws("demo"), options).await? {
        Err(Refusal::Closed(code, _, frames)) => {
            let told = frames.iter().find(|frame| frame.kind() == "disconnect");
            Ok((code, told.context("it was told nothing")?.text("message").to_owned()))
        }
        other => bail!("it was not refused: {:?}", other.map(|client| client.connected.0)),
    }
}

/// Ends a user's sessions.
async fn kick(node: &Node, user: &str) -> Result<()> {
    let path = "/admin/tenants/demo/kick";
    let kicked = http::post(&node.admin, path, Some(ADMIN_TOKEN), &json!({ "user": user })).await?;
    ensure!(kicked.status == 200, "{}", kicked.text());
    Ok(())
}

#[tokio::test]
async fn a_plugin_says_who_clients_are() {
    on_both(config(patient()), async |nodes, _| {
        let (first, last) = (&nodes[0], &nodes[nodes.len() - 1]);
        put_on_all(nodes, "door", PROBE, &[]).await?;
        for node in nodes {
            let mut ada = client(node, &known("ada/gold").listen("room:1")).await?;
            ensure!(ada.user() == "ada", "{:?}", ada.connected);
            ada.subscribed("room:1").await?;
            // It may reach rooms alone, and its own channel.
            let elsewhere = ada.request(json!({"type": "subscribe", "channel": "live:1"})).await?;
            ensure!(elsewhere.text("code") == "forbidden", "{}", elsewhere.0);
            let (code, why) = refused(node, &known("nobody")).await?;
            ensure!(code == 4002 && why.contains("not from 127.0.0.1"), "{code} {why}");
            let (code, why) = refused(node, &Options::default()).await?;
            ensure!(code == 4002 && why.contains("a token is needed"), "{code} {why}");
        }
        // Without it tokens are what they were.
        put_off(first, "door").await?;
        told_of(nodes, "nothing is active").await?;
        ensure!(refused(last, &known("ada")).await?.0 == 4002, "no JWT");
        client(last, &user("ada")).await.map(drop)
    })
    .await;
}

#[tokio::test]
async fn who_comes_home_is_not_asked_again() {
    on_both(config(patient()).admin(), async |nodes, mut backend| {
        let node = &nodes[nodes.len() - 1];
        put_on_all(nodes, "door", PROBE, &[]).await?;
        let asked = async || calls(node, "authenticate", "answered").await;
        let options = known("ada").listen("room:1");
        let mut first = client(node, &options).await?;
        first.subscribed("room:1").await?;
        let (begun, subscribed) = (asked().await?, calls(node, "on_subscribe", "answered").await?);
        let resume = first.resume_token().to_owned();
        first.reset()?;
        let missed = backend.push("demo", "room:1", "missed").await?;
        let mut home = client(node, &options.clone().resume(&resume)).await?;
        ensure!(home.resumed() == "home", "{:?}", home.connected);
        ensure!(home.message().await?.offset == missed, "what came meanwhile");
        ensure!(asked().await? == begun, "the same token, good for a minute: nobody was asked");
        ensure!(calls(node, "on_subscribe", "answered").await? == subscribed, "nor about the channel");
        // Another token of the same user: the plugin decides.
        let resume = home.resume_token().to_owned();
        home.reset()?;
        let other = client(node, &known("ada/gold").listen("room:1").resume(&resume)).await?;
        ensure!(other.resumed() == "home" && asked().await? == begun + 1, "{:?}", other.connected);
        // What was withdrawn is asked about again, whoever comes with what.
        let resume = other.resume_token().to_owned();
        kick(node, "ada").await?;
        let back = client(node, &known("ada/gold").listen("room:1").resume(&resume)).await?;
        ensure!(back.resumed() != "home" && asked().await? == begun + 2, "{:?}", back.connected);
        Ok(())
    })
    .await;
}

/// A token of `plugins/authenticator`, good for some seconds from now.
fn signed(user: &str, seconds: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    let text = format!("{user}.member.{}", now.as_secs() + seconds);
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), text.as_bytes());
    let tag: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{text}.{tag}")
}

/// A client whose token is good for some seconds: for no more than it takes to connect on this machine.
async fn briefly(node: &Node, user: &str) -> Result<(Client, Options)> {
    for seconds in [3, 6, 12] {
        let options = Options::token(signed(user, seconds)).listen("room:1");
        if let Ok(client) = Client::try_connect(&node.ws("demo"), &options).await? {
            return Ok((client, options));
        }
    }
    bail!("no token was good for long enough")
}

#[tokio::test]
async fn what_a_plugin_allows_ends_when_it_says() {
    on_both(config(patient()), async |nodes, _| {
        let node = &nodes[nodes.len() - 1];
        let settings = [("secret", SECRET), ("roles", r#"{"member": {"channels": ["room:*"]}}"#)];
        put_on_all(nodes, "door", AUTHENTICATOR, &settings).await?;
        let (mut connected, _) = briefly(node, "ada").await?;
        let (away, bob) = briefly(node, "bob").await?;
        let resume = away.resume_token().to_owned();
        away.reset()?;
        // The node itself holds the client to it.
        let (code, reason) = connected.closed().await?;
        ensure!((code, reason.as_str()) == (4007, "token_expired"), "{code} {reason}");
        // Who comes home after that is asked who that is, and refused.
        eventually("the end of both", || async {
            let (code, why) = refused(node, &bob.clone().resume(&resume)).await.ok()?;
            (code == 4002 && why.contains("expired")).then_some(())
        })
        .await?;
        ensure!(calls(node, "authenticate", "refused").await? >= 1, "the plugin said so");
        // His session still waits for him, should he come with a token that is good.
        let again = Options::token(signed("bob", 60)).resume(&resume);
        let home = client(node, &again).await?;
        ensure!(home.resumed() == "home", "{:?}", home.connected);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_refreshed_token_is_the_plugins_too() {
    on_both(config(patient()), async |nodes, _| {
        let node = &nodes[nodes.len() - 1];
        put_on_all(nodes, "door", PROBE, &[]).await?;
        let mut ada = client(node, &known("ada").listen("room:1")).await?;
        ada.subscribed("room:1").await?;
        let answer = ada.refresh("ada/gold").await?;
        ensure!(answer.kind() == "ok", "{}", answer.0);
        // The class counts from now on.
        let closed = ada.request(json!({"type": "subscribe", "channel": "room:closed"})).await?;
        ensure!(closed.text("message").contains("closed to gold"), "{}", closed.0);
        for (token, says) in [("bob", "another user"), ("nobody", "not from")] {
            let answer = ada.refresh(token).await?;
            ensure!(answer.text("message").contains(says), "{}", answer.0);
        }
        silent(&mut ada).await
    })
    .await;
}

#[tokio::test]
async fn a_plugin_says_where_clients_subscribe() {
    on_both(config(patient()), async |nodes, mut backend| {
        let node = &nodes[nodes.len() - 1];
        put_on_all(nodes, "door", PROBE, &[]).await?;
        // By `connect` and by `subscribe`: one is another room now, one is closed.
        for by_connect in [true, false] {
            let options = known(&format!("ada{by_connect}/free"));
            let mut ada = if by_connect {
                let subs = ["room:old", "room:closed", "room:1"];
                client(node, &subs.iter().fold(options, |options, sub| options.listen(sub))).await?
            } else {
                let mut ada = client(node, &options).await?;
                for (channel, kind) in
                    [("room:old", "subscribed"), ("room:closed", "error"), ("room:1", "subscribed")]
                {
                    let answer = ada.request(json!({"type": "subscribe", "channel": channel})).await?;
                    ensure!(answer.kind() == kind, "{}", answer.0);
                    ensure!(kind != "error" || answer.text("code") == "forbidden", "{}", answer.0);
                    ada.forget_waiting();
                }
                ada
            };
            if by_connect {
                ada.subscribed("room:new").await?;
                ada.subscribed("room:1").await?;
                let error = ada.expect("error").await?;
                ensure!(error.text("message") == "closed to free", "{}", error.0);
            }
            for channel in ["room:old", "room:closed", "room:new"] {
                backend.push("demo", channel, channel).await?;
            }
            let message = ada.message().await?;
            ensure!(message.channel == "room:new" && data(&message) == "room:new", "{message:?}");
            silent(&mut ada).await?;
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_connect_asks_once_about_each_channel_and_a_few_at_a_time() {
    proven(async {
        // Fewer than it names may wait for the plugin.
        let tenant = patient().plugins("queue = 8");
        let (node, _) = embedded(config(tenant).limit("channels_per_session", 101)).await?;
        put_on(&node, "door", PROBE, &[]).await?;
        let rooms: Vec<String> = (1..=120).map(|n| format!("room:{n}")).collect();
        let named = rooms.iter().chain(&rooms[..50]).chain(&rooms[..50]);
        let mut ada = client(&node, &named.fold(known("ada"), |options, room| options.listen(room))).await?;
        let (mut subscribed, mut refused) = (BTreeSet::new(), 0);
        while subscribed.len() + refused < rooms.len() {
            let frame = one_of(&mut ada, &["subscribed", "error"]).await?;
            match frame.kind() {
                "error" => {
                    ensure!(frame.text("code") == "limit_exceeded", "{}", frame.0);
                    refused += 1;
                }
                _ if frame.text("channel").starts_with("user:") => {}
                _ => ensure!(subscribed.insert(frame.text("channel").to_owned()), "twice: {}", frame.0),
            }
        }
        ensure!(subscribed.len() == 100, "{} rooms and the user's own channel", subscribed.len());
        let asked = calls(&node, "on_subscribe", "answered").await?;
        ensure!(asked <= 101, "{asked} calls for 101 channels at most");
        silent(&mut ada).await
    })
    .await;
}

#[tokio::test]
async fn an_unsubscribe_comes_after_the_subscribe_before_it() {
    proven(async {
        let (node, mut backend) = embedded(config(patient())).await?;
        put_on(&node, "door", PROBE, &[]).await?;
        let mut ada = client(&node, &known("ada").listen("room:1")).await?;
        // What `connect` names, and what a `subscribe` does.
        let answer = ada.request(json!({"type": "unsubscribe", "channel": "room:1"})).await?;
        ensure!(answer.kind() == "ok", "{}", answer.0);
        ada.send_frame(&json!({"type": "subscribe", "id": 100, "channel": "room:2"})).await?;
        let answer = ada.request(json!({"type": "unsubscribe", "channel": "room:2"})).await?;
        ensure!(answer.kind() == "ok", "{}", answer.0);
        // Each request has one answer; this one may have begun before it was taken back.
        while one_of(&mut ada, &["error", "subscribed"]).await?.number("id") != Some(100) {}
        for room in ["room:1", "room:2"] {
            backend.push("demo", room, "nobody is there").await?;
        }
        // It may ask for it again.
        ada.subscribe("room:2", false).await?;
        let offset = backend.push("demo", "room:2", "back").await?;
        ensure!(ada.message().await?.offset == offset, "only what came since");
        silent(&mut ada).await
    })
    .await;
}

#[tokio::test]
async fn one_version_answers_all_that_is_asked_for_a_client() {
    proven(async {
        let (node, _) = embedded(config(patient())).await?;
        let version = push(&node, "door", PROBE, &[]).await?;
        let half = json!({"version": version, "percent": 50});
        act_once_ready(&node, "door", "canary", &half).await?;
        // Without a token each connection is another client: the plugin refuses half of them.
        let (mut let_in, mut turned_away) = (0, 0);
        while let_in == 0 || turned_away == 0 {
            ensure!(let_in + turned_away < 200, "{let_in} were let in, {turned_away} not");
            match Client::try_connect(&node.ws("demo"), &Options::default()).await? {
                Ok(_) => let_in += 1,
                Err(_) => turned_away += 1,
            }
        }
        // Tokens that the plugin alone knows: whom it lets in it also answers where he may subscribe.
        let mut clients = 0;
        for n in 0..40 {
            let Ok(mut ada) = Client::try_connect(&node.ws("demo"), &known(&format!("ada{n}/free"))).await?
            else {
                continue;
            };
            let answer = ada.request(json!({"type": "subscribe", "channel": "room:closed"})).await?;
            ensure!(answer.text("message") == "closed to free", "client {n}: {}", answer.0);
            clients += 1;
        }
        ensure!(clients > 0, "it let nobody in");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_plugin_says_what_clients_publish() {
    on_both(config(patient()), async |nodes, _| {
        let (first, last) = (&nodes[0], &nodes[nodes.len() - 1]);
        put_on_all(nodes, "filter", PROBE, &[]).await?;
        let mut rooms = Vec::new();
        for room in ["room:1", "room:a", "room:b"] {
            let mut reader = client(last, &known("reader").listen(room)).await?;
            reader.subscribed(room).await?;
            rooms.push(reader);
        }
        let mut ada = client(first, &known("ada").listen("room:1")).await?;
        ada.subscribed("room:1").await?;
        let mut publish = async |data: &str| -> Result<Value> {
            let answer = ada.request(json!({"type": "publish", "channel": "room:1", "data": data})).await?;
            Ok(answer.0.clone())
        };
        ensure!(publish("plain").await?["offset"].is_string(), "accepted");
        ensure!(publish("drop it").await?.get("offset").is_none(), "dropped, and not told");
        let refused = publish("refuse it").await?;
        ensure!(refused["code"] == "forbidden" && refused["message"] == "not today", "{refused}");
        ensure!(publish("elsewhere").await?.get("offset").is_none(), "it went to two channels");
        // Its store is one for both nodes, and its answers are in the order of what was published.
        for n in 1..=20 {
            ensure!(publish("count").await?["offset"].is_string(), "counted {n}");
        }
        let mut got = vec![next(&mut rooms[0]).await?];
        for message in messages(&mut rooms[0], 20).await? {
            got.push(data(&message));
        }
        let expected: Vec<Value> =
            std::iter::once(json!("plain")).chain((1..=20).map(|n| json!(n.to_string()))).collect();
        ensure!(got == expected, "{got:?}");
        for room in &mut rooms[1..] {
            ensure!(next(room).await? == "elsewhere", "where it was sent instead");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_is_published_at_once_stays_in_order() {
    on_both(config(patient()), async |nodes, _| {
        const COUNT: usize = 50;
        let node = &nodes[nodes.len() - 1];
        put_on_all(nodes, "filter", PROBE, &[]).await?;
        let mut ada = client(node, &known("ada").listen("room:1")).await?;
        ada.subscribed("room:1").await?;
        for n in 0..COUNT {
            let frame = json!({"type": "publish", "id": n, "channel": "room:1", "data": format!("m{n}")});
            ada.send_frame(&frame).await?;
        }
        for n in 0..COUNT {
            ensure!(next(&mut ada).await? == format!("m{n}").as_str(), "message {n}");
        }
        Ok(())
    })
    .await;
}

/// What a plugin must not do.
const HARMS: [&str; 3] = ["trap", "spin", "bloat"];

/// With limits that stop it soon, and no sooner than a busy machine answers.
fn strict() -> TenantConfig {
    ["deadline_ms = 1000", "authenticate_deadline_ms = 2000", "memory_bytes = 8388608"]
        .into_iter()
        .fold(TenantConfig::default(), TenantConfig::plugins)
}

#[tokio::test]
async fn a_plugin_that_fails_refuses_or_lets_through() {
    for (policy, passes) in [("refuse", false), ("open", true)] {
        let tenant = ["on_subscribe", "on_publish"]
            .iter()
            .fold(strict(), |tenant, hook| tenant.plugins(&format!("on_failure.{hook} = \"{policy}\"")));
        on_both(config(tenant), async |nodes, mut backend| {
            let node = &nodes[nodes.len() - 1];
            put_on_all(nodes, "filter", PROBE, &[]).await?;
            let mut ada = client(node, &known("ada").listen("room:1")).await?;
            ada.subscribed("room:1").await?;
            for harm in HARMS {
                let room = format!("room:{harm}");
                for (frame, done) in [
                    (json!({"type": "publish", "channel": "room:1", "data": harm}), "ok"),
                    (json!({"type": "subscribe", "channel": room}), "subscribed"),
                ] {
                    let answer = ada.request(frame).await?;
                    ensure!(answer.kind() == if passes { done } else { "error" }, "{policy}: {}", answer.0);
                    ensure!(passes || answer.text("code") == "unavailable", "{policy}: {}", answer.0);
                }
                backend.push("demo", &room, "plain").await?;
            }
            // She hears what she was let into, and others publish all the same.
            let mut heard = BTreeSet::new();
            for _ in HARMS.iter().filter(|_| passes) {
                heard.insert(ada.message().await?.channel);
            }
            ensure!(heard.len() == if passes { HARMS.len() } else { 0 }, "{policy}: {heard:?}");
            ada.publish("room:1", json!("plain")).await?;
            ensure!(ada.message().await?.text() == "plain", "{policy}");
            silent(&mut ada).await
        })
        .await;
    }
}

#[tokio::test]
async fn a_plugin_that_cannot_say_who_a_client_is_lets_nobody_in_for_now() {
    on_both(config(strict()), async |nodes, _| {
        let node = &nodes[nodes.len() - 1];
        put_on_all(nodes, "door", PROBE, &[]).await?;
        let mut ada = client(node, &known("ada").listen("room:1")).await?;
        ada.subscribed("room:1").await?;
        for (harm, outcome) in HARMS.into_iter().zip(["trap", "timeout", "out_of_memory"]) {
            let (code, why) = refused(node, &known(harm)).await?;
            ensure!(code == 4106 && why.contains("did not answer: try again shortly"), "{code} {why}");
            ensure!(calls(node, "authenticate", outcome).await? == 1, "{harm} is counted as {outcome}");
        }
        // Nor does it end a session that has begun.
        let answer = ada.refresh("trap").await?;
        ensure!(answer.text("message").contains("did not answer"), "{}", answer.0);
        client(node, &known("bob")).await?;
        ada.publish("room:1", json!("plain")).await?;
        ensure!(ada.message().await?.text() == "plain", "she is there still");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_plugin_is_told_of_sessions() {
    on_both(config(patient()).admin(), async |nodes, _| {
        let node = &nodes[nodes.len() - 1];
        put_on_all(nodes, "watcher", PROBE, &[]).await?;
        client(node, &known("bob")).await?.reset()?;
        let mut ada = client(node, &known("ada")).await?;
        kick(node, "ada").await?;
        ada.closed().await?;
        let lines = eventually("what the plugin said", || async {
            let logs = http::get(&node.admin, "/v1/demo/plugins/logs", Some(API_KEY)).await.ok()?;
            let text = logs.text();
            ["ada came", "ada went", "bob came"].iter().all(|line| text.contains(line)).then_some(text)
        })
        .await?;
        ensure!(lines.find("ada came") < lines.find("ada went"), "{lines}");
        ensure!(!lines.contains("bob went"), "his session waits for him");
        Ok(())
    })
    .await;
}

/// How often the plugin was told of this, by what it says on a node.
async fn told(node: &Node, line: &str) -> usize {
    let logs = http::get(&node.admin, "/v1/demo/plugins/logs", Some(API_KEY)).await;
    logs.map_or(0, |logs| logs.text().matches(line).count())
}

#[tokio::test]
async fn a_session_that_goes_on_elsewhere_has_not_ended() {
    proven(async {
        let cluster = Cluster::start(&config(patient()).admin(), &[]).await?;
        let (one, two, mut backend) = (&cluster.nodes[0], &cluster.nodes[1], cluster.backend.clone());
        put_on(one, "watcher", PROBE, &[]).await?;
        let options = known("ada").device("phone").ack("room:1");
        let mut ada = client(one, &options).await?;
        ada.subscribed("room:1").await?;
        let first = backend.push("demo", "room:1", "one").await?;
        ensure!(ada.message().await?.offset == first, "the first message");
        ada.ack("room:1", first).await?;
        backend.await_cursor("tg:demo:cur:ada/phone", "room:1", first).await?;
        let resume = ada.resume_token().to_owned();
        // A token that is not the latest any more: the session goes on all the same, with its device.
        let home = client(one, &options.clone().resume(&resume)).await?;
        ensure!(home.resumed() == "home", "{:?}", home.connected);
        let mut again = client(one, &options.clone().resume(&resume)).await?;
        ensure!(again.resumed() == "moved", "{:?}", again.connected);
        again.subscribed("room:1").await?;
        let resume = again.resume_token().to_owned();
        let mut moved = client(two, &options.clone().resume(&resume)).await?;
        ensure!(moved.resumed() == "moved", "{:?}", moved.connected);
        moved.subscribed("room:1").await?;
        // The first node learns of it when its client acknowledges.
        let second = backend.push("demo", "room:1", "two").await?;
        for client in [&mut moved, &mut again] {
            ensure!(client.message().await?.offset == second, "the second message");
            client.ack("room:1", second).await?;
            client.settle().await?;
        }
        ensure!(again.closed().await?.0 == 4005, "replaced");
        // Another session of the device: now that one is over.
        let other = client(two, &options).await?;
        ensure!(other.resumed() == "new", "{:?}", other.connected);
        eventually("the end", || async { (told(two, "ada went").await > 0).then_some(()) }).await?;
        let went = (told(one, "ada went").await, told(two, "ada went").await);
        ensure!(went == (0, 1), "ends on both nodes: {went:?}");
        eventually("the second session", || async { (told(two, "ada came").await > 0).then_some(()) })
            .await?;
        let came = (told(one, "ada came").await, told(two, "ada came").await);
        ensure!(came == (1, 1), "sessions on both nodes: {came:?}");
        Ok(())
    })
    .await;
}
