//! The public port over TLS: WebSockets, streams over HTTP/2, and a certificate that changes while the node runs.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ring::digest::{SHA256, digest};
use serde_json::Value;
use tidegate_support::client::{Client, Codec, Options, Transport, Wire};
use tidegate_support::config::{NodeConfig, token};
use tidegate_support::node::Node;
use tidegate_support::{proven, tls};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{TIDEGATE, embedded};

/// Writes a new certificate and its key into the folder. Its SHA-256.
fn certificate(folder: &Path) -> Result<Vec<u8>> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    let pem = |kind: &str, der: &[u8]| {
        format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", STANDARD.encode(der))
    };
    std::fs::write(folder.join("key.pem"), pem("PRIVATE KEY", &made.signing_key.serialize_der()))?;
    std::fs::write(folder.join("certificate.pem"), pem("CERTIFICATE", made.cert.der()))?;
    Ok(digest(&SHA256, made.cert.der()).as_ref().to_vec())
}

fn with_certificate(folder: &Path) -> NodeConfig {
    let file = |name: &str| folder.join(name).display().to_string();
    let lines = format!("certificate = {:?}\nkey = {:?}", file("certificate.pem"), file("key.pem"));
    NodeConfig::demo().tls(&lines)
}

/// A connection that trusts the certificate with this hash alone.
async fn connect(node: &Node, hash: &[u8], protocol: &[u8]) -> Result<TlsStream<TcpStream>> {
    let mut config = tls::pinned(vec![hash.to_vec()])?;
    config.alpn_protocols = vec![protocol.to_vec()];
    let tcp = TcpStream::connect(&node.http).await?;
    let stream = TlsConnector::from(Arc::new(config)).connect("localhost".try_into()?, tcp).await?;
    ensure!(stream.get_ref().1.alpn_protocol() == Some(protocol), "{protocol:?} is not spoken");
    Ok(stream)
}

#[tokio::test]
async fn a_websocket_goes_over_tls() {
    proven(async {
        let folder = tempfile::tempdir()?;
        let hash = certificate(folder.path())?;
        let (node, mut backend) = embedded(with_certificate(folder.path())).await?;
        let stream = connect(&node, &hash, b"http/1.1").await?;
        let url = format!("wss://{}/v1/demo/ws", node.http);
        let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await?;
        let hello = r#"{"type":"connect","subs":[{"channel":"room:1"}]}"#;
        socket.send(Message::text(hello)).await?;
        let mut next = async |kind: &str| -> Result<Value> {
            loop {
                let message = socket.next().await.context("it ended")??;
                let Message::Text(text) = message else { continue };
                let frame: Value = serde_json::from_str(&text)?;
                if frame["type"] == kind && frame["channel"] != Value::Null {
                    return Ok(frame);
                }
            }
        };
        while next("subscribed").await?["channel"] != "room:1" {}
        // More than a record, than a socket's buffer and than an outbox, and all of it in order.
        let large: Vec<String> = (0..200).map(|n| format!("{n:04}{}", "x".repeat(30_000))).collect();
        let sent = backend.push_all("demo", "room:1", &large).await?;
        for (offset, text) in sent.iter().zip(&large) {
            let got = next("message").await?;
            ensure!(got["offset"] == offset.to_string() && got["data"] == text.as_str(), "not {offset}");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn streams_and_requests_share_one_http2_connection() {
    proven(async {
        let folder = tempfile::tempdir()?;
        let hash = certificate(folder.path())?;
        let (node, mut backend) = embedded(with_certificate(folder.path())).await?;
        let stream = connect(&node, &hash, b"h2").await?;
        let (mut ask, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let base = format!("https://{}", node.http);
        let request = |method: &str, path: &str, bearer: Option<&str>, body: &str| {
            let mut request = http::Request::builder().method(method).uri(format!("{base}{path}"));
            if let Some(bearer) = bearer {
                request = request.header("authorization", format!("Bearer {bearer}"));
            }
            request.body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
        };
        let mut bodies = Vec::new();
        // More than the six that a browser opens over HTTP/1.1.
        for n in 0..8 {
            let answer = ask
                .send_request(request("GET", &format!("/v1/demo/sse?channel=room:{n}"), None, "")?)
                .await?;
            ensure!(answer.status() == 200, "{}", answer.status());
            bodies.push(answer.into_body());
        }
        let mut text = vec![String::new(); bodies.len()];
        for (n, body) in bodies.iter_mut().enumerate() {
            while !text[n].contains(&format!("\"channel\":\"room:{n}\"")) {
                let frame = body.frame().await.context("a stream ended")??;
                text[n] += std::str::from_utf8(frame.data_ref().context("trailers")?)?;
            }
        }
        let resume = text[3].split("\"resume\":\"").nth(1).and_then(|rest| rest.split('"').next());
        let resume = resume.context("no resume")?.to_owned();
        let said = ask
            .send_request(request("POST", "/v1/demo/frames", Some(&resume), r#"{"type":"ping"}"#)?)
            .await?;
        ensure!(said.status() == 202, "{}", said.status());
        backend.push("demo", "room:3", "for one of them").await?;
        while !(text[3].contains("event: pong") && text[3].contains("for one of them")) {
            let frame = bodies[3].frame().await.context("the stream ended")??;
            text[3] += std::str::from_utf8(frame.data_ref().context("trailers")?)?;
        }
        drop((bodies, ask));
        connection.await??;
        Ok(())
    })
    .await;
}

/// An HTTP/2 connection that asks for nothing keeps no place; one with a stream goes on.
#[tokio::test]
async fn an_idle_http2_connection_is_closed() {
    proven(async {
        let folder = tempfile::tempdir()?;
        let hash = certificate(folder.path())?;
        let config = with_certificate(folder.path()).node("header_timeout_ms", "300");
        let (node, mut backend) = embedded(config).await?;
        let open = async || -> Result<_> {
            let stream = connect(&node, &hash, b"h2").await?;
            Ok(hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?)
        };
        let (mut ask, streaming) = open().await?;
        let streaming = tokio::spawn(streaming);
        let request = http::Request::get(format!("https://{}/v1/demo/sse?channel=room:1", node.http));
        let answer = ask.send_request(request.body(Full::new(Bytes::new()))?).await?;
        let mut body = answer.into_body();
        let (idle, connection) = open().await?;
        connection.await.context("it ended with an error")?;
        drop(idle);
        backend.push("demo", "room:1", "still here").await?;
        let mut text = String::new();
        while !text.contains("still here") {
            let frame = body.frame().await.context("the stream ended")??;
            text += std::str::from_utf8(frame.data_ref().context("trailers")?)?;
        }
        drop((body, ask));
        streaming.await??;
        Ok(())
    })
    .await;
}

/// New connections get the new certificate, also over QUIC; those that stand go on.
#[tokio::test]
async fn a_certificate_is_exchanged_while_the_node_runs() {
    proven(async {
        let folder = tempfile::tempdir()?;
        let old = certificate(folder.path())?;
        // The files are looked at every few seconds, and connections are not to rest so long.
        let config = with_certificate(folder.path()).node("header_timeout_ms", "60000");
        let (node, _) = embedded(config).await?;
        let mut standing = connect(&node, &old, b"http/1.1").await?;
        std::fs::write(folder.path().join("certificate.pem"), "no certificate")?;
        let new = certificate(folder.path())?;
        while connect(&node, &new, b"http/1.1").await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        ensure!(connect(&node, &old, b"http/1.1").await.is_err(), "the old one is still shown");
        standing
            .write_all(b"GET /v1/demo/route HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await?;
        let mut answer = String::new();
        standing.read_to_string(&mut answer).await?;
        ensure!(
            answer.starts_with("HTTP/1.1 200") && answer.contains("wss://localhost/v1/demo/ws"),
            "{answer}"
        );
        Ok(())
    })
    .await;
}

/// What speaks no TLS to a port that does is hung up on, and nobody else feels it.
#[tokio::test]
async fn plain_text_gets_nowhere() {
    proven(async {
        let folder = tempfile::tempdir()?;
        let hash = certificate(folder.path())?;
        let (node, _) = embedded(with_certificate(folder.path())).await?;
        let mut plain = TcpStream::connect(&node.http).await?;
        plain.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
        let mut answer = Vec::new();
        let _ = plain.read_to_end(&mut answer).await;
        ensure!(!answer.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&answer));
        connect(&node, &hash, b"http/1.1").await?;
        Ok(())
    })
    .await;
}

/// The public port stays plain where the certificate is for WebTransport alone.
#[tokio::test]
async fn a_certificate_for_development_is_for_webtransport_alone() {
    proven(async {
        let (node, _) = embedded(NodeConfig::demo()).await?;
        for transport in [Transport::WebSocket, Transport::WebTransport] {
            let wire = Wire { transport, codec: Codec::Json };
            Client::connect(&node.ws("demo"), &Options::token(token("alice")).over(wire)).await?;
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_node_without_a_usable_certificate_does_not_start() {
    proven(async {
        let folder = tempfile::tempdir()?;
        certificate(folder.path())?;
        let other = tempfile::tempdir()?;
        certificate(other.path())?;
        let file = |folder: &Path, name: &str| folder.join(name).display().to_string();
        let (certificate, key) = (file(folder.path(), "certificate.pem"), file(other.path(), "key.pem"));
        for (flags, status, why) in [
            (vec!["--tls-certificate", &*certificate], 2, "--tls-key"),
            (vec!["--tls-certificate", &*certificate, "--tls-key", &*key], 1, "does not belong"),
            (vec!["--tls-certificate", "/nowhere.pem", "--tls-key", &*key], 1, "/nowhere.pem"),
        ] {
            let ports = ["--listen", "--admin-listen", "--resp-listen"].map(|flag| [flag, "127.0.0.1:0"]);
            let mut command = std::process::Command::new(TIDEGATE);
            let ended = command.arg("serve").args(ports.as_flattened()).args(&flags).output()?;
            let said = String::from_utf8_lossy(&ended.stderr);
            ensure!(ended.status.code() == Some(status), "{flags:?}: {} {said}", ended.status);
            ensure!(said.contains(why), "{flags:?}: {said}");
        }
        Ok(())
    })
    .await;
}
