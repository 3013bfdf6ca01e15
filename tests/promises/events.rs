//! What backends are told of sessions, how they reply to one, and how they end one.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tidegate_support::client::{Client, Event};
use tidegate_support::config::{API_KEY, NodeConfig, TenantConfig};
use tidegate_support::node::Node;
use tidegate_support::redis::RedisServer;
use tidegate_support::redis_faults::{Backend, Entry};
use tidegate_support::{eventually, http, proven};

use crate::harness::{TIDEGATE, client, embedded, messages, one_of, silent, subscriber, user};

const UP: &str = "tg:demo:up";
const ALL: &str = r#"["connected", "disconnected", "subscribed", "unsubscribed", "undelivered"]"#;
const ADMIN_TOKEN: &str = "an admin token of the tests";

/// A tenant that wants these events, of sessions that wait for their clients for half a second.
fn telling(events: &str) -> TenantConfig {
    TenantConfig::default().setting(&format!("events = {{ {events} }}")).limit("resume_window_ms", 500)
}

fn with(events: &str) -> NodeConfig {
    NodeConfig::default().tenant("demo", telling(events)).node("id", "\"one\"")
}

/// A node on each backbone, with its backend. The Redis is kept until the test ends.
async fn both(config: &NodeConfig) -> Result<Vec<(Node, Backend, Option<RedisServer>)>> {
    let (node, backend) = embedded(config.clone()).await?;
    let redis = RedisServer::start(&[]).await?;
    let other = Node::start(TIDEGATE, &config.clone().redis(&redis.url())).await?;
    let other_backend = Backend::connect(&redis.url()).await?;
    Ok(vec![(node, backend, None), (other, other_backend, Some(redis))])
}

/// Waits for an event of a user.
async fn event(backend: &mut Backend, kind: &str, user: &str) -> Result<Entry> {
    backend.await_entry(UP, |entry| entry.text("event") == kind && entry.text("user") == user).await
}

/// Waits until a session has ended for good.
async fn ended(backend: &mut Backend, session: &str) -> Result<Entry> {
    let of_session = |entry: &Entry| entry.text("session") == session && entry.text("final") == "true";
    backend.await_entry(UP, of_session).await
}

fn session(client: &Client) -> String {
    client.connected.text("session").to_owned()
}

async fn publish(node: &Node, channel: &str, data: &str) -> Result<String> {
    let body = json!({"channel": channel, "data": data});
    let answer = http::post(&node.http, "/v1/demo/publish", Some(API_KEY), &body).await?;
    let answer = answer.json()?;
    Ok(answer["results"][0]["offset"].as_str().with_context(|| format!("{answer}"))?.to_owned())
}

#[tokio::test]
async fn every_kind_is_told_in_order() {
    proven(async {
        let config = with(&format!("kinds = {ALL}, address = true"));
        for (node, mut backend, _redis) in both(&config).await? {
            let mut alice = client(&node, &user("alice").device("phone").listen("room:1")).await?;
            alice.subscribed("user:alice").await?;
            alice.subscribed("room:1").await?;
            let left = alice.request(json!({"type": "unsubscribe", "channel": "room:1"})).await?;
            ensure!(left.kind() == "ok", "{}", left.0);
            let session = session(&alice);
            alice.reset()?;
            ended(&mut backend, &session).await?;
            let entries = backend.stream(UP).await?;
            let told: Vec<_> = entries.iter().map(|entry| entry.text("event")).collect();
            let expected =
                ["connected", "subscribed", "subscribed", "unsubscribed", "disconnected", "disconnected"];
            ensure!(told == expected, "{entries:?}");
            for entry in &entries {
                let names = [("user", "alice"), ("device", "phone"), ("node", "one"), ("session", &session)];
                ensure!(names.iter().all(|(name, value)| entry.text(name) == *value), "{entry:?}");
                ensure!(entry.text("ms").parse::<u64>()? > 1_700_000_000_000, "{entry:?}");
                ensure!(!entry.text("id").is_empty(), "{entry:?}");
            }
            let [connected, .., unsubscribed, lost, gone] = &entries[..] else { unreachable!() };
            ensure!(connected.text("resumed") == "new" && connected.text("transport") == "websocket");
            ensure!(connected.text("address") == "127.0.0.1", "{connected:?}");
            ensure!(unsubscribed.text("channel") == "room:1", "{unsubscribed:?}");
            ensure!(lost.text("final") == "false" && lost.text("code") == "4010", "{lost:?}");
            ensure!(lost.text("reason") == "client_gone" && lost.text("lived_ms").parse::<u64>().is_ok());
            ensure!(gone.text("final") == "true" && gone.text("lived_ms").is_empty(), "{gone:?}");
            let counted = node.metric("tidegate_session_events_total").await?;
            ensure!(counted == 6.0, "{counted}");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_a_tenant_does_not_want_is_not_told() {
    proven(async {
        let config = with(r#"kinds = ["disconnected"]"#).tenant("quiet", TenantConfig::default());
        for (node, mut backend, _redis) in both(&config).await? {
            for tenant in ["quiet", "demo"] {
                let mut alice = Client::connect(&node.ws(tenant), &user("alice").listen("room:1")).await?;
                alice.subscribed("room:1").await?;
                publish(&node, "user:nobody", "found nobody").await?;
                alice.close().await?;
            }
            // One task writes for all tenants, in order: what comes first would be there by now.
            event(&mut backend, "disconnected", "alice").await?;
            ensure!(backend.stream("tg:quiet:up").await?.is_empty(), "it wants nothing");
            ensure!(backend.stream(UP).await?.len() == 1, "{:?}", backend.stream(UP).await?);
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn cloud_events_have_data_and_headers() {
    proven(async {
        let config = with(r#"kinds = ["connected", "undelivered"], format = "cloudevents""#);
        for (node, mut backend, _redis) in both(&config).await? {
            let mut alice = client(&node, &user("alice").device("phone")).await?;
            let session = session(&alice);
            alice.send("orders", json!({"n": 1})).await?;
            let offset = publish(&node, "user:nobody", "found nobody").await?;
            let mut kinds = Vec::new();
            for (kind, subject) in [
                ("dev.tidegate.session.connected", session.as_str()),
                ("dev.tidegate.client.message", &session),
                ("dev.tidegate.session.undelivered", "user:nobody"),
            ] {
                let entry = backend.await_entry(UP, |entry| entry.text("headers").contains(kind)).await?;
                let names: Vec<_> = entry.fields.iter().map(|(name, _)| name.as_str()).collect();
                ensure!(names == ["data", "headers"], "{names:?}");
                let headers: Value = serde_json::from_str(&entry.text("headers"))?;
                ensure!(headers["ce-subject"] == subject && headers["ce-specversion"] == "1.0", "{headers}");
                ensure!(headers["ce-source"] == "/tenants/demo/nodes/one", "{headers}");
                ensure!(headers["content-type"] == "application/json", "{headers}");
                ensure!(headers["ce-time"].as_str().is_some_and(|time| time.ends_with('Z')), "{headers}");
                let data: Value = serde_json::from_str(&entry.text("data"))?;
                kinds.push((headers, data));
            }
            let [(_, connected), (sent, payload), (_, undelivered)] = &kinds[..] else { unreachable!() };
            ensure!(connected["user"] == "alice" && connected["resumed"] == "new", "{connected}");
            ensure!(*payload == json!({"n": 1}) && sent["ce-topic"] == "orders", "{payload} {sent}");
            ensure!(sent["ce-user"] == "alice" && sent["ce-device"] == "phone", "{sent}");
            ensure!(undelivered["count"] == 1 && undelivered["until"] == *offset, "{undelivered}");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_backend_replies_to_one_session() {
    proven(async {
        for (node, mut backend, _redis) in both(&with("")).await? {
            let mut alice = client(&node, &user("alice")).await?;
            alice.send("question", json!("how high is the tide?")).await?;
            let asked = backend.await_entry(UP, |entry| entry.text("topic") == "question").await?;
            let channel = format!("session:{}", asked.text("session"));
            let reply = backend.push("demo", &channel, "two metres").await?;
            let subscribed = alice.subscribed(&channel).await?;
            ensure!(subscribed.get("id").is_null(), "nobody asked for it: {}", subscribed.0);
            let message = alice.message().await?;
            ensure!(message.offset == reply && message.text() == "two metres", "{message:?}");

            // Nobody else listens in, publishes there or reads what was said.
            let mut other = client(&node, &user("alice")).await?;
            for (kind, code) in
                [("subscribe", "forbidden"), ("publish", "forbidden"), ("history", "forbidden")]
            {
                let frame = json!({"type": kind, "channel": channel, "data": "x", "limit": 5});
                let reply = other.request(frame).await?;
                ensure!(reply.text("code") == code, "{kind}: {}", reply.0);
            }
            other.send("question", json!("mine")).await?;
            alice.send("question", json!("and now?")).await?;
            backend.push("demo", &channel, "one metre").await?;
            ensure!(alice.message().await?.text() == "one metre", "joined once");
            silent(&mut other).await?;
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn replies_wait_for_a_session_that_comes_back() {
    proven(async {
        let config = with("").tenant("demo", TenantConfig::default());
        for (node, mut backend, _redis) in both(&config).await? {
            let mut alice = client(&node, &user("alice")).await?;
            let channel = format!("session:{}", session(&alice));
            // Said before the session listens, as it may be if it asked over another way.
            backend.push("demo", &channel, "early").await?;
            alice.subscribe(&channel, true).await?;
            let early = alice.message().await?;
            ensure!(early.text() == "early", "{early:?}");
            alice.ack(&channel, early.offset).await?;
            alice.settle().await?;
            let options = user("alice").resume(alice.resume_token());
            alice.reset()?;
            let late = backend.push("demo", &channel, "late").await?;
            let mut back = client(&node, &options).await?;
            ensure!(back.resumed() == "home", "{:?}", back.connected);
            ensure!(back.message().await?.offset == late, "what came meanwhile");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_a_user_who_left_did_not_get_is_told() {
    proven(async {
        for (node, mut backend, _redis) in both(&with(r#"kinds = ["disconnected", "undelivered"]"#)).await? {
            // It was sent and not acknowledged.
            let mut bob = client(&node, &user("bob").ack("user:bob")).await?;
            bob.subscribed("user:bob").await?;
            let sent = backend.push_all("demo", "user:bob", &crate::harness::texts(3)).await?;
            messages(&mut bob, 3).await?;
            bob.ack("user:bob", sent[0]).await?;
            bob.settle().await?;
            bob.close().await?;
            let left = event(&mut backend, "undelivered", "bob").await?;
            ensure!(left.text("channel") == "user:bob" && left.text("count") == "2", "{left:?}");
            ensure!(left.text("after") == sent[0].to_string(), "{left:?}");
            ensure!(left.text("until") == sent[2].to_string(), "{left:?}");

            // It came while the session waited for its client. Another session of the user makes it none.
            let mut eve = client(&node, &user("eve")).await?;
            eve.subscribed("user:eve").await?;
            let eve_session = session(&eve);
            let carol = client(&node, &user("carol")).await?;
            let carol_session = session(&carol);
            let mut here = client(&node, &user("carol")).await?;
            for client in [&mut here] {
                client.subscribed("user:carol").await?;
            }
            eve.reset()?;
            carol.reset()?;
            let missed = backend.push("demo", "user:eve", "missed").await?;
            backend.push("demo", "user:carol", "seen elsewhere").await?;
            messages(&mut here, 1).await?;
            ended(&mut backend, &carol_session).await?;
            ended(&mut backend, &eve_session).await?;
            let left = event(&mut backend, "undelivered", "eve").await?;
            ensure!(left.text("count") == "1" && left.text("until") == missed.to_string(), "{left:?}");
            ensure!(left.text("session") == eve_session, "{left:?}");
            let entries = backend.stream(UP).await?;
            let of_carol =
                |entry: &&Entry| entry.text("event") == "undelivered" && entry.text("user") == "carol";
            ensure!(!entries.iter().any(|entry| of_carol(&entry)), "{entries:?}");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_is_published_to_an_absent_user_is_told() {
    proven(async {
        for (node, mut backend, _redis) in both(&with(r#"kinds = ["undelivered"]"#)).await? {
            let mut here = client(&node, &user("here")).await?;
            here.subscribed("user:here").await?;
            publish(&node, "user:here", "gets it").await?;
            messages(&mut here, 1).await?;
            publish(&node, "room:empty", "is nobody's").await?;
            let offset = publish(&node, "user:a%2Fb", "found nobody").await?;
            let told = event(&mut backend, "undelivered", "a/b").await?;
            ensure!(told.text("channel") == "user:a%2Fb" && told.text("count") == "1", "{told:?}");
            ensure!(told.text("until") == offset && told.text("session").is_empty(), "{told:?}");
            ensure!(backend.stream(UP).await?.len() == 1, "{:?}", backend.stream(UP).await?);
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn between_a_session_s_end_and_the_end_of_its_watch_is_no_hole() {
    proven(async {
        let kinds = r#"kinds = ["disconnected", "undelivered"]"#;
        let config = NodeConfig::default().tenant("demo", telling(kinds).limit("resume_window_ms", 0));
        for (node, mut backend, _redis) in both(&config).await? {
            for round in 0..5 {
                let name = format!("user{round}");
                let mut alice = client(&node, &user(&name)).await?;
                alice.subscribed(&format!("user:{name}")).await?;
                let session = session(&alice);
                alice.reset()?;
                ended(&mut backend, &session).await?;
                // The node may still watch the channel, for no reader.
                let offset = publish(&node, &format!("user:{name}"), "found nobody").await?;
                let told = event(&mut backend, "undelivered", &name).await?;
                ensure!(told.text("until") == offset, "{told:?} is not {offset}");
            }
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn events_wait_for_a_backbone_that_is_away() {
    proven(async {
        let redis = RedisServer::start(&[]).await?;
        let config = with(r#"kinds = ["connected", "disconnected"]"#).redis(&redis.url());
        let node = Node::start(TIDEGATE, &config).await?;
        redis.pause()?;
        client(&node, &user("a")).await?.close().await?;
        eventually("the node notices", || async {
            node.admin_get("/readyz").await.ok()?.text().contains("backbone").then_some(())
        })
        .await?;
        for name in ["b", "c"] {
            client(&node, &user(name)).await?.close().await?;
        }
        redis.resume()?;
        let mut backend = Backend::connect(&redis.url()).await?;
        event(&mut backend, "disconnected", "c").await?;
        let mut told: Vec<_> = Vec::new();
        for entry in &backend.stream(UP).await? {
            let this = (entry.text("id"), entry.text("event"), entry.text("user"));
            // What was under way when the backbone went may be there twice, with one id.
            if !told.contains(&this) {
                told.push(this);
            }
        }
        let told: Vec<_> = told.iter().map(|(_, event, user)| format!("{user} {event}")).collect();
        let expected: Vec<_> = ["a", "b", "c"]
            .iter()
            .flat_map(|user| ["connected", "disconnected"].map(|e| format!("{user} {e}")))
            .collect();
        ensure!(told == expected, "{told:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_drain_tells_who_was_disconnected() {
    proven(async {
        let redis = RedisServer::start(&[]).await?;
        let config = with(r#"kinds = ["disconnected"]"#).redis(&redis.url());
        let mut node = Node::start(TIDEGATE, &config).await?;
        let mut alice = client(&node, &user("alice")).await?;
        alice.settle().await?;
        let reading = async {
            while let Ok(Event::Frame(_)) = alice.next().await {}
            std::future::pending::<()>().await;
        };
        let status = tokio::select! { status = node.sigterm() => status?, () = reading => unreachable!() };
        ensure!(status.success(), "{status}");
        let mut backend = Backend::connect(&redis.url()).await?;
        let told = event(&mut backend, "disconnected", "alice").await?;
        ensure!(told.text("reason") == "drain" && told.text("final") == "true", "{told:?}");
        Ok(())
    })
    .await;
}

/// A node with an admin token.
async fn with_admin(config: &NodeConfig) -> Result<(Node, Backend)> {
    let toml = format!("{}[admin]\ntoken = \"{ADMIN_TOKEN}\"\n", config.to_toml());
    let node = Node::start_with(TIDEGATE, &toml, &[]).await?;
    let backend = Backend::connect(&node.redis_url()?).await?;
    Ok((node, backend))
}

#[tokio::test]
async fn a_kicked_session_ends_with_the_reason() {
    proven(async {
        let (node, mut backend) = with_admin(&with(r#"kinds = ["disconnected", "undelivered"]"#)).await?;
        let mut phone = client(&node, &user("alice").device("phone")).await?;
        let mut laptop = client(&node, &user("alice").device("laptop")).await?;
        let mut bob = subscriber(&node, "bob", "room:1", false).await?;
        let kick = async |token: &str, body: Value| {
            http::post(&node.admin, "/admin/tenants/demo/kick", Some(token), &body).await
        };
        ensure!(kick("a wrong token", json!({"user": "alice"})).await?.status == 401);
        ensure!(kick(ADMIN_TOKEN, json!({"device": "phone"})).await?.status == 400);
        let answer = kick(ADMIN_TOKEN, json!({"user": "alice", "device": "phone", "reason": "spam"})).await?;
        ensure!(answer.json()? == json!({"kicked": 1}), "{}", answer.text());
        let goodbye = one_of(&mut phone, &["disconnect"]).await?;
        ensure!(goodbye.text("message") == "spam" && goodbye.get("reconnect") == false, "{}", goodbye.0);
        ensure!(phone.closed().await? == (4006, "kicked".to_owned()));
        laptop.settle().await?;

        let run = |flags: &[&str]| {
            let mut command = tokio::process::Command::new(TIDEGATE);
            command.args(["kick", "--url", &format!("http://{}", node.admin)]).args(flags);
            command.env("TIDEGATE_KEY", ADMIN_TOKEN);
            command
        };
        let done = run(&["--session", &session(&laptop), "--json"]).output().await?;
        ensure!(done.status.success() && done.stdout == b"{\"kicked\":1}\n", "{done:?}");
        ensure!(laptop.closed().await?.0 == 4006);
        let done = run(&["--user", "alice"]).output().await?;
        ensure!(done.status.success() && done.stdout == b"0 kicked\n", "{done:?}");
        let wrong = run(&["--user", "alice", "--tenant", "nobody"]).output().await?;
        let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
        ensure!(wrong.status.code() == Some(1) && said.contains("no such tenant"), "{said}");
        bob.settle().await?;
        let told = event(&mut backend, "disconnected", "alice").await?;
        ensure!(told.text("reason") == "kicked" && told.text("final") == "true", "{told:?}");
        Ok(())
    })
    .await;
}
