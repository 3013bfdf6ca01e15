//! Storms: many connections at once, connections that want nothing, and clients that ask too much.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tidegate_support::client::{Client, Event, Options, Refusal};
use tidegate_support::config::{API_KEY, NodeConfig};
use tidegate_support::http::Answer;
use tidegate_support::node::Node;
use tidegate_support::redis::RedisServer;
use tidegate_support::redis_faults::Backend;
use tidegate_support::{DEADLINE, eventually, http, proven};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{TIDEGATE, client, embedded, user};

/// Asks until the node refuses; machines are slow, and a refused connection was one too many in a second.
async fn refused(node: &Node) -> Result<Answer> {
    eventually("a connection is refused", || async {
        http::get(&node.http, "/", None).await.ok().filter(|answer| answer.status != 404)
    })
    .await
}

fn retry_after(answer: &Answer) -> Result<u64> {
    let value = answer.head.lines().find_map(|line| line.strip_prefix("retry-after:"));
    Ok(value.context("no Retry-After")?.trim().parse()?)
}

/// Asserts that connections beyond the rate are answered with `status`, whoever asks, and count as
/// `reason`; and that those that are there, and probes, notice nothing.
async fn held_to_its_rate(config: NodeConfig, status: u16, reason: &str) -> Result<()> {
    let (node, _) = embedded(config).await?;
    let mut early = client(&node, &user("alice")).await?;
    let answer = refused(&node).await?;
    ensure!(answer.status == status, "{answer:?}");
    let seconds = retry_after(&answer)?;
    ensure!((1..=65).contains(&seconds), "{answer:?}");
    ensure!(answer.json()?["retry_after_s"] == seconds && answer.head.contains("connection: close"));
    // A WebSocket client and one that sends a body see the answer too, and not a reset.
    eventually("a WebSocket is refused", || async {
        let tried = Client::try_connect(&node.ws("demo"), &user("bob")).await.ok()?;
        matches!(tried, Err(Refusal::Handshake(got)) if got == status).then_some(())
    })
    .await?;
    let body = json!({"channel": "room:1", "data": "x".repeat(50_000)});
    eventually("publishing is refused", || async {
        let answer = http::post(&node.http, "/v1/demo/publish", Some(API_KEY), &body).await.ok()?;
        (answer.status == status).then_some(())
    })
    .await?;
    early.settle().await?;
    ensure!(node.admin_get("/readyz").await?.status == 200, "the node is well");
    let metrics = node.admin_get("/metrics").await?.text();
    let counted = format!("tidegate_handshakes_refused_total{{reason=\"{reason}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&counted)).context(counted.clone())?;
    ensure!(line.parse::<f64>()? >= 3.0, "{line}");
    eventually("there is room again", || async { client(&node, &user("carol")).await.ok() }).await?;
    Ok(())
}

#[tokio::test]
async fn an_address_that_connects_too_fast_is_told_when_to_come_again() {
    proven(async {
        let config = NodeConfig::demo().node("accept_per_s_per_address", "2").node("accept_exempt", "[]");
        held_to_its_rate(config, 429, "rate_address").await
    })
    .await;
}

#[tokio::test]
async fn a_storm_is_told_when_to_come_again() {
    proven(async { held_to_its_rate(NodeConfig::demo().node("accept_per_s", "2"), 503, "rate_node").await })
        .await;
}

#[tokio::test]
async fn this_machine_has_no_limit_of_its_own() {
    proven(async {
        let (node, _) = embedded(NodeConfig::demo().node("accept_per_s_per_address", "1")).await?;
        for _ in 0..50 {
            let answer = http::get(&node.http, "/", None).await?;
            ensure!(answer.status == 404, "{answer:?}");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_full_node_says_so() {
    proven(async {
        let (node, _) = embedded(NodeConfig::demo().node("max_connections", "2")).await?;
        let first = client(&node, &user("alice")).await?;
        let mut second = client(&node, &user("bob")).await?;
        let answer = http::get(&node.http, "/", None).await?;
        ensure!(answer.status == 503 && (1..=5).contains(&retry_after(&answer)?), "{answer:?}");
        let third = Client::try_connect(&node.ws("demo"), &user("carol")).await?;
        ensure!(matches!(third, Err(Refusal::Handshake(503))), "{third:?}");
        second.settle().await?;
        first.close().await?;
        eventually("the place is given back", || async { client(&node, &user("carol")).await.ok() }).await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn connections_that_say_nothing_do_not_take_all_places() {
    proven(async {
        // Their patience outlasts the test: nothing but the bound on them keeps places free.
        let config = NodeConfig::demo().node("max_handshakes", "2").node("header_timeout_ms", "60000");
        let (node, _) = embedded(config).await?;
        let mut clients = Vec::new();
        for n in 0..4 {
            // The one before may still be about to give its place back.
            let options = user(&format!("user{n}"));
            let connected = eventually("a place", || async { client(&node, &options).await.ok() }).await?;
            clients.push(connected);
        }
        // The first of them may be turned away, while a client's place is not given back yet.
        let mut silent = Vec::new();
        while http::get(&node.http, "/", None).await?.status != 503 {
            silent.push(TcpStream::connect(&node.http).await?);
        }
        for client in &mut clients {
            client.settle().await?;
        }
        drop(silent);
        eventually("there is room again", || async { client(&node, &user("late")).await.ok() }).await?;
        Ok(())
    })
    .await;
}

/// Reads until the node ends the connection.
async fn cut(socket: &mut TcpStream) -> Result<String> {
    let mut said = Vec::new();
    // A reset is an end as well.
    let _ = tokio::time::timeout(DEADLINE, socket.read_to_end(&mut said)).await.context("it is not cut")?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// Writes a byte at a time, for as long as the node listens.
async fn trickle(mut socket: TcpStream, bytes: &[u8]) -> Result<String> {
    let mut said = Vec::new();
    let mut bytes = bytes.iter().cycle();
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while tokio::time::Instant::now() < deadline {
        let mut buffer = [0; 512];
        match tokio::time::timeout(Duration::from_millis(50), socket.read(&mut buffer)).await {
            Ok(Ok(got @ 1..)) => said.extend_from_slice(&buffer[..got]),
            Ok(_) => return Ok(String::from_utf8_lossy(&said).into_owned()),
            // The pace of a slow client, and no wait for anything.
            Err(_) => {
                let _ = socket.write_all(&[*bytes.next().context("no bytes")?]).await;
            }
        }
    }
    anyhow::bail!("it is not cut")
}

/// One place, and short patience: whatever keeps the place keeps the next client out.
async fn one_place() -> Result<Node> {
    let config = NodeConfig::demo()
        .node("max_connections", "1")
        .node("header_timeout_ms", "300")
        .limit("connect_timeout_ms", 300);
    Ok(embedded(config).await?.0)
}

async fn place_is_free(node: &Node) -> Result<()> {
    eventually("the place is given back", || async { client(node, &user("next")).await.ok() })
        .await?
        .close()
        .await
}

#[tokio::test]
async fn half_open_connections_are_cut_and_their_places_given_back() {
    proven(async {
        let node = one_place().await?;
        let connect = || TcpStream::connect(&node.http);

        cut(&mut connect().await?).await.context("silence")?;
        place_is_free(&node).await?;

        trickle(connect().await?, b"x").await.context("a head that never ends")?;
        place_is_free(&node).await?;

        let mut idle = connect().await?;
        idle.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
        let said = cut(&mut idle).await.context("no second request")?;
        ensure!(said.starts_with("HTTP/1.1 404"), "the first one was answered: {said}");
        place_is_free(&node).await?;

        let mut gone = connect().await?;
        gone.write_all(b"GET / HT").await?;
        gone.shutdown().await?;
        cut(&mut gone).await.context("half closed before the request")?;
        place_is_free(&node).await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn half_open_websockets_are_cut_and_their_places_given_back() {
    proven(async {
        let node = one_place().await?;
        let open = || async {
            let opened = Client::open(&node.ws("demo"), &Options::default()).await?;
            opened.map_err(|refusal| anyhow::anyhow!("{refusal:?}"))
        };
        let mut silent = open().await?;
        ensure!(silent.closed().await?.0 == 4101, "no `connect`");
        drop(silent);
        place_is_free(&node).await?;

        // It keeps its socket: the place is free all the same.
        let kept = open().await?;
        let mut kept = kept.into_stalled();
        cut(&mut kept).await.context("no `connect`, and no close")?;
        place_is_free(&node).await?;

        // A masked text frame of 100 bytes that never gets there.
        let slow = open().await?.into_stalled();
        let mut frame = vec![0x81, 0x80 | 100];
        frame.resize(90, 0);
        trickle(slow, &frame).await.context("a slow `connect`")?;
        place_is_free(&node).await?;

        let session = client(&node, &user("alice")).await?;
        let mut half = session.into_stalled();
        half.shutdown().await?;
        cut(&mut half).await.context("half closed with a session")?;
        place_is_free(&node).await
    })
    .await;
}

#[tokio::test]
async fn one_session_cannot_take_all_requests() {
    proven(async {
        let redis = RedisServer::start(&[]).await?;
        let config = NodeConfig::demo().redis(&redis.url()).limit("requests_per_session", 4);
        let node = Node::start(TIDEGATE, &config).await?;
        let mut backend = Backend::connect(&redis.url()).await?;
        let mut greedy = client(&node, &user("alice").listen("room:1")).await?;
        greedy.subscribed("room:1").await?;
        backend.command("CLIENT PAUSE 60000 WRITE").await?;
        for id in 1..=6 {
            let frame = json!({"type": "publish", "id": id, "channel": "room:1", "data": "x"});
            greedy.send_frame(&frame).await?;
        }
        for id in [5, 6] {
            let refused = greedy.expect("error").await?;
            ensure!(refused.number("id") == Some(id), "{}", refused.0);
            ensure!(refused.text("code") == "limit_exceeded", "{}", refused.0);
        }
        backend.command("CLIENT UNPAUSE").await?;
        let mut answered = Vec::new();
        while answered.len() < 4 {
            match greedy.next().await? {
                Event::Frame(frame) if frame.kind() == "ok" => answered.extend(frame.number("id")),
                Event::Frame(frame) => ensure!(frame.kind() != "error", "{}", frame.0),
                ended => anyhow::bail!("{ended:?}"),
            }
        }
        answered.sort_unstable();
        ensure!(answered == [1, 2, 3, 4], "{answered:?}");
        greedy.publish("room:1", json!("there is room again")).await.map(drop)
    })
    .await;
}

#[tokio::test]
async fn sessions_that_wait_are_bounded_and_the_oldest_goes_first() {
    proven(async {
        let config = NodeConfig::demo().node("max_detached_sessions", "1").node("shards", "1");
        let (node, _) = embedded(config).await?;
        let mut tokens = Vec::new();
        for name in ["alice", "bob"] {
            let client = client(&node, &user(name)).await?;
            tokens.push(client.resume_token().to_owned());
            client.reset()?;
            eventually("the node notices", || async {
                (node.metric("tidegate_connections").await.ok()? == 0.0).then_some(())
            })
            .await?;
        }
        ensure!(node.metric("tidegate_sessions_forgotten_total").await? == 1.0, "one was too many");
        let bob = client(&node, &user("bob").resume(&tokens[1])).await?;
        ensure!(bob.resumed() == "home", "{:?}", bob.connected);
        let alice = client(&node, &user("alice").resume(&tokens[0])).await?;
        ensure!(alice.resumed() == "lost", "{:?}", alice.connected);
        Ok(())
    })
    .await;
}
