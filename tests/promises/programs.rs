//! The client for programs: the same over every transport, back after a break, and clear about what is wrong.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::try_join_all;
use ring::digest::{SHA256, digest};
use serde_json::json;
use tidegate::client::{
    CertificateHash, Client, ClientError, Event, Message, Options, Subscription, Transport,
};
use tidegate::protocol::Codec;
use tidegate_support::config::{NodeConfig, token};
use tidegate_support::node::Node;
use tidegate_support::proxy::{Fault, Proxy};
use tidegate_support::{DEADLINE, http, proven};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};

use crate::harness::{TIDEGATE, embedded};

fn alice(url: &str, transport: Option<Transport>) -> Options {
    Options::new(url, "demo").token(Some(token("alice"))).transport(transport)
}

/// The next event that `wanted` knows; others are passed over. An error and an end fail.
async fn until<T>(client: &mut Client, what: &str, mut wanted: impl FnMut(&Event) -> Option<T>) -> Result<T> {
    loop {
        let next = tokio::time::timeout(DEADLINE, client.next()).await;
        let event = next.with_context(|| format!("waited in vain for {what}"))??;
        if let Some(found) = wanted(&event) {
            return Ok(found);
        }
        ensure!(!matches!(event, Event::Closed { .. }), "{event:?} while waiting for {what}");
    }
}

async fn subscribed(client: &mut Client, to: &str) -> Result<()> {
    let what = format!("`subscribed` to {to}");
    until(client, &what, |event| {
        matches!(event, Event::Subscribed { channel, .. } if channel == to).then_some(())
    })
    .await
}

async fn message(client: &mut Client) -> Result<Message> {
    until(client, "a message", |event| match event {
        Event::Message(message) => Some(message.clone()),
        _ => None,
    })
    .await
}

async fn done(client: &mut Client, wanted: u64) -> Result<Vec<Message>> {
    until(client, "a reply", |event| match event {
        Event::Done { id, messages, .. } if *id == wanted => Some(messages.clone()),
        _ => None,
    })
    .await
}

/// Everything a program can ask for, over one transport.
async fn asks_for_everything(transport: Transport, codec: Codec) -> Result<()> {
    let (node, mut backend) = embedded(NodeConfig::demo()).await?;
    let options = alice(&format!("http://{}", node.http), Some(transport)).codec(codec);
    let mut client = Client::new(options.subscribe(Subscription::acking("room:1")));
    subscribed(&mut client, "room:1").await?;
    ensure!(client.transport() == Some(transport), "{:?}", client.transport());
    for bytes in [&b"{\"a\":1}"[..], b"text", &[0, 255]] {
        let offset = backend.push("demo", "room:1", bytes).await?;
        let got = message(&mut client).await?;
        ensure!(got.offset.to_string() == offset.to_string() && got.data == bytes, "{got:?}");
        client.ack("room:1", got.offset).await?;
    }
    let id = client.history("room:1", 2).await?;
    ensure!(done(&mut client, id).await?.len() == 2, "the newest two");
    client.subscribe(Subscription::listening("room:2")).await?;
    subscribed(&mut client, "room:2").await?;
    client.publish("room:2", json!({"said": "hi"})).await?;
    let got = message(&mut client).await?;
    ensure!(got.channel == "room:2" && got.data == b"{\"said\":\"hi\"}", "{got:?}");
    let id = client.unsubscribe("room:2").await?;
    done(&mut client, id).await?;
    let id = client.send("orders", json!("one")).await?;
    done(&mut client, id).await?;
    let id = client.refresh(&token("alice")).await?;
    done(&mut client, id).await?;
    let asked = client.presence("room:1").await?;
    until(&mut client, "the refusal", |event| match event {
        Event::Error { id: Some(id), code, .. } if *id == asked => Some(code == "unsupported"),
        _ => None,
    })
    .await?;
    client.ping().await?;
    until(&mut client, "`pong`", |event| matches!(event, Event::Pong).then_some(())).await?;
    let sent = backend.push("demo", "room:1", "again").await?;
    let got = message(&mut client).await?;
    client.nack("room:1", got.offset, Duration::from_millis(10)).await?;
    let again = message(&mut client).await?;
    ensure!(again.offset.to_string() == sent.to_string() && again.attempt == 2, "{again:?}");
    client.close().await;
    Ok(())
}

#[tokio::test]
async fn a_program_asks_for_everything_over_every_transport() {
    let all = [
        (Transport::WebSocket, Codec::Json),
        (Transport::WebSocket, Codec::Cbor),
        (Transport::WebTransport, Codec::Json),
        (Transport::WebTransport, Codec::Cbor),
        (Transport::Sse, Codec::Json),
        (Transport::Ndjson, Codec::Json),
    ];
    let over = |(transport, codec)| async move {
        asks_for_everything(transport, codec).await.with_context(|| format!("over {transport} in {codec:?}"))
    };
    proven(async { try_join_all(all.map(over)).await.map(drop) }).await;
}

#[tokio::test]
async fn a_program_comes_back_to_its_session_and_misses_nothing() {
    let over = |transport: Transport| async move {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let proxy = Proxy::start(node.http.parse()?).await?;
        let options = alice(&format!("http://{}", proxy.address()), Some(transport));
        let mut client = Client::new(options.subscribe(Subscription::listening("room:1")));
        subscribed(&mut client, "room:1").await?;
        backend.push("demo", "room:1", "before").await?;
        ensure!(message(&mut client).await?.data == b"before");
        proxy.set(Fault::Reset);
        loop {
            if let Event::Closed { code, .. } = client.next().await? {
                ensure!(code == 1006, "{code}");
                break;
            }
        }
        proxy.set(Fault::None);
        backend.push("demo", "room:1", "meanwhile").await?;
        // Whoever has something else to do in between still arrives.
        let resumed = loop {
            match tokio::time::timeout(Duration::from_millis(5), client.next()).await {
                Ok(Ok(Event::Connected { resumed, .. })) => break resumed,
                Ok(Err(error)) => return Err(error.into()),
                _ => {}
            }
        };
        ensure!(resumed == "home", "{resumed}");
        ensure!(message(&mut client).await?.data == b"meanwhile");
        Ok(())
    };
    let named = |transport| async move { over(transport).await.with_context(|| format!("over {transport}")) };
    let all = [Transport::WebSocket, Transport::Sse, Transport::Ndjson];
    proven(async { try_join_all(all.map(named)).await.map(drop) }).await;
}

#[tokio::test]
async fn a_program_changes_its_address_and_keeps_its_session() {
    proven(async {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let options = alice(&format!("http://{}", node.http), None);
        let mut client = Client::new(options.subscribe(Subscription::listening("room:1")));
        subscribed(&mut client, "room:1").await?;
        ensure!(client.transport() == Some(Transport::WebTransport), "the best of what the node offers");
        for n in 0..3 {
            client.rebind()?;
            let text = format!("m{n}");
            backend.push("demo", "room:1", &text).await?;
            ensure!(message(&mut client).await?.data == text.as_bytes());
        }
        Ok(())
    })
    .await;
}

/// A place that says what `route` says there, and answers nothing over UDP.
async fn where_udp_is_stopped(node: &Node) -> Result<(TcpListener, UdpSocket, String)> {
    let (listener, udp) = (TcpListener::bind("127.0.0.1:0").await?, UdpSocket::bind("127.0.0.1:0").await?);
    let mut route = http::get(&node.http, "/v1/demo/route", None).await?.json()?;
    let place = format!("https://{}/v1/demo/wt", udp.local_addr()?);
    route["nodes"][0]["transports"]["webtransport"]["url"] = place.into();
    Ok((listener, udp, route.to_string()))
}

#[tokio::test]
async fn where_udp_is_stopped_a_websocket_does() {
    proven(async {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let (listener, _udp, route) = where_udp_is_stopped(&node).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let serving = tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let length = route.len();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{route}"
                );
                let _ = socket.read(&mut [0; 2048]).await;
                let _ = socket.write_all(answer.as_bytes()).await;
            }
        });
        let mut client = Client::new(alice(&url, None).subscribe(Subscription::listening("room:1")));
        subscribed(&mut client, "room:1").await?;
        ensure!(client.transport() == Some(Transport::WebSocket), "{:?}", client.transport());
        backend.push("demo", "room:1", "here").await?;
        ensure!(message(&mut client).await?.data == b"here");
        // Who wants WebTransport and nothing else is told what is the matter.
        let mut stubborn = Client::new(alice(&url, Some(Transport::WebTransport)).once());
        match stubborn.next().await {
            Err(error @ ClientError::Unanswered { .. }) => {
                ensure!(error.to_string().contains("UDP"), "{error}")
            }
            other => bail!("{other:?}"),
        }
        serving.abort();
        Ok(())
    })
    .await;
}

/// A certificate and its key in the folder; its hash.
fn certificate(folder: &Path) -> Result<CertificateHash> {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    let pem = |kind: &str, der: &[u8]| {
        format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", STANDARD.encode(der))
    };
    std::fs::write(folder.join("key.pem"), pem("PRIVATE KEY", &made.signing_key.serialize_der()))?;
    std::fs::write(folder.join("certificate.pem"), pem("CERTIFICATE", made.cert.der()))?;
    Ok(CertificateHash(digest(&SHA256, made.cert.der()).as_ref().try_into()?))
}

#[tokio::test]
async fn a_certificate_is_trusted_by_its_authority_or_its_hash_and_else_refused() {
    proven(async {
        let folder = tempfile::tempdir()?;
        let hash = certificate(folder.path())?;
        let file = |name: &str| folder.path().join(name);
        let lines = format!(
            "certificate = {:?}\nkey = {:?}",
            file("certificate.pem").display().to_string(),
            file("key.pem").display().to_string()
        );
        let config = NodeConfig::demo().tls(&lines);
        let node = Node::start(TIDEGATE, &config).await?;
        let url = format!("https://{}", node.http);
        let all = [
            None,
            Some(Transport::WebSocket),
            Some(Transport::WebTransport),
            Some(Transport::Sse),
            Some(Transport::Ndjson),
        ];
        for transport in all {
            let connect = |options: Options| async move {
                let mut client = Client::new(options.once());
                tokio::time::timeout(DEADLINE, client.next()).await.context("nothing happened")
            };
            let by_authority = alice(&url, transport).ca(Some(file("certificate.pem")));
            let by_hash = alice(&url, transport).certificate_hashes(vec![hash]);
            for options in [by_authority, by_hash] {
                let first = connect(options).await?;
                ensure!(matches!(first, Ok(Event::Connected { .. })), "{transport:?}: {first:?}");
            }
            let by_another = alice(&url, transport).certificate_hashes(vec![CertificateHash([0; 32])]);
            for options in [alice(&url, transport), by_another] {
                let refused = connect(options).await?;
                ensure!(
                    matches!(refused, Err(ClientError::Certificate { .. })),
                    "{transport:?}: {refused:?}"
                );
            }
        }
        Ok(())
    })
    .await;
}
