//! A node that goes away lets its clients finish, sends them elsewhere, and loses nothing.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tidegate_support::checker::{Checker, Settings, Signing};
use tidegate_support::client::{Client, Event, Frame, Refusal};
use tidegate_support::config::{ADMIN_TOKEN, API_KEY, KID, NodeConfig, SECRET};
use tidegate_support::node::Node;
use tidegate_support::offset::Offset;
use tidegate_support::proxy::{Fault, Proxy};
use tidegate_support::redis::RedisServer;
use tidegate_support::redis_faults::Backend;
use tidegate_support::{DEADLINE, eventually, http, proven};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::harness::{
    Cluster, TIDEGATE, WIRES, client, embedded, messages, offsets, proven_over, silent, subscriber, texts,
    user,
};

/// A drain that may take so long that no test meets its deadline, and gives a tenth of it to a client.
fn patient(config: NodeConfig) -> NodeConfig {
    config.node("drain_timeout_ms", "600000")
}

/// The goodbye of a node: `drain`, then `disconnect`, then the close with the same code.
async fn goodbye(client: &mut Client) -> Result<(Frame, Frame)> {
    let drain = client.expect("drain").await?;
    let disconnect = client.expect("disconnect").await?;
    ensure!(disconnect.number("code") == Some(4200), "{}", disconnect.0);
    ensure!(disconnect.get("reconnect") == true, "{}", disconnect.0);
    let closed = client.closed().await?;
    ensure!(closed == (4200, "drain".into()), "{closed:?}");
    Ok((drain, disconnect))
}

#[tokio::test]
async fn every_client_is_told_when_to_come_back_and_not_all_at_once() {
    proven(async {
        for signal in [libc::SIGTERM, libc::SIGINT] {
            let (mut node, _) = embedded(NodeConfig::demo()).await?;
            let mut clients = Vec::new();
            for n in 0..20 {
                clients.push(subscriber(&node, &format!("user{n}"), "room:1", true).await?);
            }
            node.signal(signal)?;
            let mut pauses = HashSet::new();
            for client in &mut clients {
                let (drain, disconnect) = goodbye(client).await?;
                let pause = drain.number("retry_after_ms").context("`drain` says when")?;
                ensure!(disconnect.number("retry_after_ms") == Some(pause), "{}", disconnect.0);
                pauses.insert(pause);
            }
            ensure!(pauses.len() > 5, "they come back at one moment: {pauses:?}");
            ensure!(node.ended().await?.success(), "a drain ends with 0");
            let log = node.log();
            ensure!(log.contains("sessions=20") && !log.contains("were cut"), "nobody was cut");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_client_finishes_what_it_has_and_goes_on_elsewhere() {
    proven_over(&WIRES, || async {
        let mut cluster = Cluster::start(&patient(NodeConfig::demo()), &[]).await?;
        let options = user("alice").device("phone").ack("room:1");
        let mut old = client(&cluster.nodes[0], &options).await?;
        old.subscribed("room:1").await?;
        let pushed = cluster.backend.push_all("demo", "room:1", &texts(5)).await?;
        let got = messages(&mut old, 5).await?;
        cluster.nodes[0].signal(libc::SIGTERM)?;
        old.expect("drain").await?;
        let backend = cluster.backend.clone();
        eventually("the other nodes learn of it", || {
            let mut backend = backend.clone();
            async move {
                let record = backend.command("HGET tg:sys:nodes one").await.ok()?;
                let record: String = redis::from_redis_value(record).ok()?;
                // JSON within JSON: the node's own record beside when it was seen.
                record.contains(r#"draining\":true"#).then_some(())
            }
        })
        .await?;
        // New messages are for the next connection; what the client asks for is still done.
        let later = cluster.backend.push("demo", "room:1", "after the goodbye").await?;
        let published = old.publish("room:1", json!("the last word")).await?;
        let refused = old.request(json!({"type": "subscribe", "channel": "room:2"})).await?;
        ensure!(refused.text("code") == "unavailable", "{}", refused.0);
        old.ack("room:1", got[4].offset).await?;
        let mut rest = Vec::new();
        let code = loop {
            match old.next().await? {
                Event::Frame(frame) => rest.push(frame),
                Event::Closed { code, .. } => break code,
                Event::Lost(why) => anyhow::bail!("lost: {why}"),
            }
        };
        ensure!(code == 4200, "{code}");
        ensure!(rest.iter().all(|frame| frame.kind() != "message"), "{rest:?}");
        let mut new = client(&cluster.nodes[1], &options.resume(old.resume_token())).await?;
        let subscribed = new.subscribed("room:1").await?;
        ensure!(subscribed.offset("offset")? == pushed[4], "what was acknowledged: {}", subscribed.0);
        let got = messages(&mut new, 2).await?;
        ensure!(offsets(&got) == [later, published] && got.iter().all(|m| m.attempt == 1), "{got:?}");
        ensure!(cluster.nodes[0].ended().await?.success(), "the drain ends once its client is done");
        Ok(())
    })
    .await;
}

/// The leaving node is far from its Redis and the next one is near: what a client acknowledged is there all
/// the same, because its connection is closed only once it is stored.
#[tokio::test]
async fn cursors_are_stored_before_the_connection_is_closed() {
    proven(async {
        let redis = RedisServer::start(&[]).await?;
        let address = redis.url().strip_prefix("redis://").context("a URL")?.parse()?;
        let proxy = Proxy::start(address).await?;
        let config = patient(NodeConfig::demo());
        let far = format!("redis://{}", proxy.address());
        let mut leaving = Node::start(TIDEGATE, &config.clone().redis(&far)).await?;
        let next = Node::start(TIDEGATE, &config.redis(&redis.url())).await?;
        let options = user("alice").device("phone").ack("room:1");
        let mut old = client(&leaving, &options).await?;
        old.subscribed("room:1").await?;
        let mut backend = Backend::connect(&redis.url()).await?;
        let pushed = backend.push_all("demo", "room:1", &texts(3)).await?;
        messages(&mut old, 3).await?;
        leaving.signal(libc::SIGTERM)?;
        old.expect("drain").await?;
        proxy.set(Fault::Delay(Duration::from_millis(200)));
        old.ack("room:1", pushed[2]).await?;
        ensure!(old.closed().await?.0 == 4200, "the goodbye");
        let mut new = client(&next, &options).await?;
        let subscribed = new.subscribed("room:1").await?;
        ensure!(subscribed.offset("offset")? == pushed[2], "what was acknowledged: {}", subscribed.0);
        ensure!(leaving.ended().await?.success(), "a drain ends with 0");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_drain_under_load_loses_nothing() {
    proven(async {
        let mut cluster = Cluster::start(&NodeConfig::demo(), &[]).await?;
        let checker = Checker::start(Settings {
            urls: cluster.urls(),
            redis: cluster.redis.url(),
            signing: Some(Signing { kid: Some(KID.into()), secret: SECRET.into() }),
            api_key: Some(API_KEY.into()),
            clients: 200,
            rate: 20,
            ..Settings::default()
        })
        .await?;
        checker.published_more(200).await?;
        ensure!(cluster.nodes[0].sigterm().await?.success(), "a drain ends with 0");
        ensure!(!cluster.nodes[0].log().contains("were cut"), "every client had its goodbye");
        checker.received_more(200).await?;
        let report = checker.finish(2 * DEADLINE).await?;
        report.assert_promises();
        ensure!(report.reconnects > 0 && report.gaps_told == 0, "{report}");
        Ok(())
    })
    .await;
}

/// A client that acknowledges everything at once, and goes to the other node when it is told to.
async fn careful(urls: Vec<String>, n: usize, last: tokio::sync::watch::Receiver<Offset>) -> Result<u32> {
    let options = user(&format!("careful{n}")).device("phone").ack("room:1");
    let (mut acked, mut needless, mut moves) = (None, 0, 0);
    let mut link = Client::connect(&urls[0], &options).await?;
    loop {
        match link.next_within(Duration::from_millis(200)).await? {
            Some(Event::Frame(frame)) if frame.kind() == "message" => {
                let offset = frame.offset("offset")?;
                needless += u32::from(acked.is_some_and(|acked| offset <= acked));
                link.ack("room:1", offset).await?;
                acked = acked.max(Some(offset));
            }
            Some(Event::Frame(_)) => {}
            Some(Event::Closed { code: 4200, .. }) => {
                moves += 1;
                link = Client::connect(&urls[1], &options).await?;
            }
            Some(ended) => anyhow::bail!("{ended:?}"),
            None if moves > 0 && acked == Some(*last.borrow()) => return Ok(needless),
            None => {}
        }
    }
}

#[tokio::test]
async fn what_was_acknowledged_is_not_sent_again_by_the_next_node() {
    proven(async {
        let mut cluster = Cluster::start(&patient(NodeConfig::demo()), &[]).await?;
        let (last, seen) = tokio::sync::watch::channel(Offset::default());
        let mut clients = JoinSet::new();
        for n in 0..30 {
            clients.spawn(careful(cluster.urls(), n, seen.clone()));
        }
        eventually("all clients are connected", || async {
            (cluster.nodes[0].metric("tidegate_subscriptions").await.ok()? >= 60.0).then_some(())
        })
        .await?;
        let mut backend = cluster.backend.clone();
        let mut push = async |count: usize| -> Result<()> {
            for n in 0..count {
                last.send_replace(backend.push("demo", "room:1", &n.to_string()).await?);
            }
            Ok(())
        };
        push(100).await?;
        cluster.nodes[0].signal(libc::SIGTERM)?;
        push(300).await?;
        ensure!(cluster.nodes[0].ended().await?.success(), "a drain ends with 0");
        push(20).await?;
        while let Some(client) = clients.join_next().await {
            let needless = client??;
            ensure!(needless == 0, "{needless} messages came again although they were acknowledged");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn who_does_not_read_is_cut_and_counted() {
    proven(async {
        let config = NodeConfig::demo().node("drain_timeout_ms", "4000").node("shards", "1");
        let (mut node, mut backend) = embedded(config).await?;
        let stalled = subscriber(&node, "alice", "room:1", false).await?.into_stalled();
        let mut reader = subscriber(&node, "bob", "room:1", false).await?;
        // More than the buffers of a socket take. The reader gets it all, so the other was offered it all.
        let large = "x".repeat(60_000);
        for _ in 0..600 {
            backend.push("demo", "room:1", &large).await?;
            reader.message().await?;
        }
        node.signal(libc::SIGTERM)?;
        goodbye(&mut reader).await?;
        ensure!(node.ended().await?.success(), "a client that is cut is no failure of the node");
        ensure!(node.log().contains("forced=1"), "one session was cut");
        drop(stalled);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_request_under_way_is_answered() {
    proven(async {
        let (mut node, _) = embedded(patient(NodeConfig::demo())).await?;
        let body = json!({"channel": "room:1", "data": "x".repeat(1000)}).to_string();
        let mut socket = TcpStream::connect(&node.http).await?;
        let head = format!(
            "POST /v1/demo/publish HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {API_KEY}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            node.http,
            body.len()
        );
        // One connection waits between two requests: it does not hold the node up.
        let mut idle = TcpStream::connect(&node.http).await?;
        idle.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
        ensure!(idle.read(&mut [0; 2048]).await? > 0, "an answer");
        socket.write_all(head.as_bytes()).await?;
        let (first, rest) = body.as_bytes().split_at(500);
        socket.write_all(first).await?;
        node.signal(libc::SIGTERM)?;
        let ended = idle.read(&mut [0; 2048]).await;
        ensure!(matches!(ended, Ok(0) | Err(_)), "nothing more was asked there: {ended:?}");
        socket.write_all(rest).await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        ensure!(answer.starts_with("HTTP/1.1 200") && answer.contains("offset"), "{answer}");
        ensure!(node.ended().await?.success(), "a drain ends with 0");
        Ok(())
    })
    .await;
}

/// A client with a message that it does not acknowledge, which holds the drain up.
async fn holding(node: &Node, backend: &mut Backend) -> Result<(Client, Offset)> {
    let mut client = subscriber(node, "alice", "room:1", true).await?;
    let offset = backend.push("demo", "room:1", "in hand").await?;
    messages(&mut client, 1).await?;
    Ok((client, offset))
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    proven(async {
        let (mut node, mut backend) = embedded(patient(NodeConfig::demo())).await?;
        let (mut client, _) = holding(&node, &mut backend).await?;
        node.signal(libc::SIGTERM)?;
        client.expect("drain").await?;
        node.signal(libc::SIGINT)?;
        let status = node.ended().await?;
        ensure!(status.code() == Some(1), "cut short is 1, not {status}");
        ensure!(node.log().contains("a second signal"), "and it says why");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn an_operator_drains_a_node() {
    proven(async {
        let (mut node, mut backend) = embedded(patient(NodeConfig::demo().admin())).await?;
        let (mut client, offset) = holding(&node, &mut backend).await?;
        let closed = http::post(&node.admin, "/admin/drain", None, &Value::Null).await?;
        ensure!(closed.status == 401, "anybody can drain this node: {}", closed.status);
        let before = http::get(&node.admin, "/admin/drain", Some(ADMIN_TOKEN)).await?.json()?;
        ensure!(before["draining"] == false && before["sessions"] == 1, "{before}");

        let url = format!("http://{}", node.admin);
        let mut drain = Command::new(TIDEGATE);
        let drain = drain.args(["drain", "--url", &url, "--key", ADMIN_TOKEN, "--json"]).output();
        let drain = tokio::spawn(drain);
        client.expect("drain").await?;
        let ready = node.admin_get("/readyz").await?;
        ensure!(ready.status == 503 && ready.text().contains("draining"), "{}", ready.text());
        let asked = http::post(&node.admin, "/admin/drain", Some(ADMIN_TOKEN), &Value::Null).await?;
        let progress = asked.json()?;
        ensure!(asked.status == 202 && progress["sessions"] == 1, "{progress}");
        ensure!(progress["deadline_ms"].as_u64().is_some_and(|left| left > 0), "{progress}");

        // No new sessions; publishing is answered, and asked to come with another connection.
        let refused = Client::try_connect(&node.ws("demo"), &user("bob")).await?;
        ensure!(matches!(refused, Err(Refusal::Handshake(503))), "{refused:?}");
        let body = json!({"channel": "room:1", "data": "still taken"});
        let published = http::post(&node.http, "/v1/demo/publish", Some(API_KEY), &body).await?;
        ensure!(published.status == 200 && published.head.contains("connection: close"), "{published:?}");

        // What stops the process now sends its signal too: it is the same drain.
        node.signal(libc::SIGTERM)?;
        silent(&mut client).await?;
        client.ack("room:1", offset).await?;
        let (code, _) = client.closed().await?;
        ensure!(code == 4200, "{code}");
        ensure!(node.ended().await?.success(), "a drain ends with 0");
        let output = drain.await??;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{said}");
        ensure!(said.contains("sessions left: 1") && said.ends_with("the node is gone\n"), "{said}");
        let answer: Value = serde_json::from_slice(&output.stdout)?;
        ensure!(answer["draining"] == true && answer["sessions"] == 1, "{answer}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_wrong_key_drains_nothing() {
    proven(async {
        let (node, _) = embedded(NodeConfig::demo().admin()).await?;
        let url = format!("http://{}", node.admin);
        let output =
            Command::new(TIDEGATE).args(["drain", "--url", &url, "--key", "something else"]).output().await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1) && said.contains("TIDEGATE_KEY"), "{said}");
        client(&node, &user("alice")).await?.settle().await
    })
    .await;
}
