//! What only WebTransport has: datagrams, a change of address, refusals of its own. Everything else is proven with
//! the other transports.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tidegate_support::client::{Client, Codec, Options, Transport, Wire};
use tidegate_support::config::{NodeConfig, TenantConfig, token};
use tidegate_support::node::Node;
use tidegate_support::proven;
use tidegate_support::redis_faults::Backend;

use crate::harness::{embedded, messages, texts};

fn over(codec: Codec) -> Options {
    Options::token(token("alice")).over(Wire { transport: Transport::WebTransport, codec })
}

/// Live messages until so many datagrams with frames came.
async fn live(client: &mut Client, backend: &mut Backend, datagrams: u64) -> Result<()> {
    while client.datagrams()?.frames < datagrams {
        let sent = backend.push("demo", "live:1", "now").await?;
        let got = client.message().await?;
        ensure!(got.offset == sent && got.data == b"now", "{got:?}");
    }
    Ok(())
}

#[tokio::test]
async fn what_may_get_lost_comes_as_datagrams_and_nothing_else_does() {
    proven(async {
        for codec in [Codec::Json, Codec::Cbor] {
            let (node, mut backend) = embedded(NodeConfig::demo()).await?;
            let options = over(codec).listen("live:1").listen("room:1");
            let mut client = Client::connect(&node.ws("demo"), &options).await?;
            client.subscribed("live:1").await?;
            client.subscribed("room:1").await?;
            backend.push_all("demo", "room:1", &texts(5)).await?;
            messages(&mut client, 5).await?;
            ensure!(client.datagrams()?.frames == 0, "a log came by datagrams: {:?}", client.datagrams());
            live(&mut client, &mut backend, 5).await?;
            // What fits into no datagram comes on the stream.
            let before = client.datagrams()?.frames;
            let large = "x".repeat(20_000);
            backend.push("demo", "live:1", &large).await?;
            ensure!(client.message().await?.data == large.as_bytes());
            ensure!(client.datagrams()?.frames == before, "{:?}", client.datagrams());
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_client_changes_its_address_and_its_session_goes_on() {
    proven(async {
        let (node, mut backend) = embedded(NodeConfig::demo().admin()).await?;
        let options = over(Codec::Json).ack("room:1").listen("live:1");
        let mut client = Client::connect(&node.ws("demo"), &options).await?;
        client.subscribed("room:1").await?;
        client.subscribed("live:1").await?;
        for round in 0..3_u32 {
            let moved = client.rebind()?;
            let published = client.publish("room:1", json!({"from": moved.port()})).await?;
            let got = client.message().await?;
            ensure!(got.offset == published, "round {round}: {got:?}");
            client.ack("room:1", published).await?;
            client.settle().await?;
            let so_far = client.datagrams()?.frames;
            live(&mut client, &mut backend, so_far + 1).await?;
        }
        let opened =
            node.metric(r#"tidegate_connections_opened_total{tenant="demo",transport="webtransport"}"#).await;
        let open = node.metric(r#"tidegate_connections{tenant="demo",transport="webtransport"}"#).await;
        ensure!(open.as_ref().is_ok_and(|open| *open == 1.0), "{open:?} {opened:?}");
        Ok(())
    })
    .await;
}

/// The server's heartbeats show a client that the path lives, and the client's acknowledgements of them show the
/// server that the client does: a quiet connection lives on through many of them.
#[tokio::test]
async fn heartbeats_are_datagrams_of_their_own() {
    proven(async {
        let tenant = TenantConfig::default().limit("ping_min_ms", 1_000).limit("ping_ms", 1_000);
        let (node, _) = embedded(NodeConfig::default().tenant("demo", tenant)).await?;
        let mut client = Client::connect(&node.ws("demo"), &over(Codec::Json)).await?;
        while client.datagrams()?.heartbeats < 4 {
            client.send_frame(&json!({"type": "ping"})).await?;
            client.expect("pong").await?;
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        Ok(())
    })
    .await;
}

async fn refused(node: &Node, options: &Options) -> Result<String> {
    let answer = Client::try_connect(&node.ws("demo"), options).await?;
    Ok(format!("{:?}", answer.err().context("it was let in")?))
}

#[tokio::test]
async fn handshakes_that_are_no_good_are_refused() {
    proven(async {
        let tenant = TenantConfig::default().setting("origins = [\"https://app.example.com\"]");
        let (node, _) = embedded(NodeConfig::default().tenant("demo", tenant).admin()).await?;
        let from = |origin: &str| Options { origin: Some(origin.into()), ..over(Codec::Json) };
        let evil = refused(&node, &from("https://evil.example")).await?;
        ensure!(evil.contains("403"), "{evil}");
        Client::connect(&node.ws("demo"), &from("https://app.example.com")).await?;
        Ok(())
    })
    .await;
}

/// A browser shows a page nothing of a refused handshake: whatever has a reason is let in first, and told.
#[tokio::test]
async fn a_client_that_is_not_let_in_is_told_the_code_twice() {
    proven(async {
        let (node, _) =
            embedded(NodeConfig::default().tenant("demo", TenantConfig::default().closed())).await?;
        let options = Options { token: None, ..over(Codec::Json) };
        let mut client = match Client::open(&node.ws("demo"), &options).await? {
            Ok(client) => client,
            Err(refusal) => anyhow::bail!("{refusal:?}"),
        };
        client.send_frame(&json!({"type": "connect"})).await?;
        let disconnect: Value = client.expect("disconnect").await?.0;
        ensure!(disconnect["code"] == 4002, "{disconnect}");
        ensure!(client.closed().await? == (4002, "unauthorized".into()));
        Ok(())
    })
    .await;
}
