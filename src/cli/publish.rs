//! `tidegate publish`: publishes one message over HTTP and prints its offset.

use std::io::Read as _;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::args::PublishArgs;

/// Publishes. Dropping the future may leave the message published.
pub async fn run(args: PublishArgs) -> Result<()> {
    let data = match &args.data {
        Some(data) => data.clone(),
        None => standard_input()?,
    };
    let (status, answer) = post(&args, &body(&args, &data)).await?;
    let result = &answer["results"][0];
    if let Some(error) = result["error"].as_str() {
        bail!("the node refused: {error}");
    }
    match status {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            bail!("the node refused the key ({status}): check --key or TIDEGATE_KEY, and --tenant")
        }
        _ => bail!("the node answered {status}: {answer}"),
    }
    let offset = result["offset"].as_str().with_context(|| format!("no offset in the answer: {answer}"))?;
    if args.json {
        println!("{answer}");
    } else {
        println!("{offset}");
    }
    Ok(())
}

fn standard_input() -> Result<String> {
    let mut data = String::new();
    std::io::stdin().read_to_string(&mut data).context("reading the payload from standard input")?;
    // The line's end belongs to `echo`, not to the message.
    Ok(data.strip_suffix('\n').map_or_else(|| data.clone(), str::to_owned))
}

fn body(args: &PublishArgs, data: &str) -> Value {
    // An object or array is JSON; anything else is text, also `42` and `null`.
    let data = match serde_json::from_str::<Value>(data) {
        Ok(json) if json.is_object() || json.is_array() => json,
        _ => data.into(),
    };
    let mut body = json!({"channel": args.channel.as_str(), "data": data});
    if let Some(id) = &args.id {
        body["id"] = id.as_str().into();
    }
    if let Some(key) = &args.message_key {
        body["key"] = key.as_str().into();
    }
    if let Some(ttl_ms) = args.ttl_ms {
        body["ttl_ms"] = ttl_ms.into();
    }
    body
}

async fn post(args: &PublishArgs, body: &Value) -> Result<(StatusCode, Value)> {
    let base = args.url.trim_end_matches('/');
    let url: Uri =
        format!("{base}/v1/{}/publish", args.tenant).parse().with_context(|| format!("--url {base}"))?;
    ensure!(
        url.scheme_str() == Some("http"),
        "--url {base}: this command speaks plain HTTP only; use http://, or curl for https://"
    );
    let authority = url.authority().with_context(|| format!("--url {base} names no host"))?;
    let host = authority.host().trim_matches(['[', ']']);
    let port = authority.port_u16().unwrap_or(80);
    let socket = TcpStream::connect((host, port))
        .await
        .with_context(|| format!("cannot connect to {authority}: is the node running there?"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::HOST, authority.as_str())
        .header(header::AUTHORIZATION, format!("Bearer {}", args.key))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body.to_string())))
        .context("--key has characters that no header can hold")?;
    let exchange = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let bytes = answer.into_body().collect().await?.to_bytes();
        anyhow::Ok((status, bytes))
    };
    // The connection makes progress only while it is polled; it ends with the exchange.
    tokio::pin!(exchange);
    let (status, bytes) = tokio::select! {
        done = &mut exchange => done?,
        ended = connection => { ended?; exchange.await? }
    };
    let answer = serde_json::from_slice(&bytes)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).trim().to_owned()));
    Ok((status, answer))
}
