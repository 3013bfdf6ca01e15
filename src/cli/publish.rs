//! `tidegate publish`: publishes one message over HTTP and prints its offset.

use std::io::Read as _;

use anyhow::{Context as _, Result, bail};
use http::{StatusCode, header};
use serde_json::{Value, json};

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
    let client = reqwest::Client::builder().no_proxy().build().context("no HTTP client")?;
    let answer = client
        .post(format!("{base}/v1/{}/publish", args.tenant))
        .bearer_auth(args.key.expose())
        .header(header::CONTENT_TYPE, "application/json")
        .body(body.to_string())
        .send()
        .await
        .with_context(|| format!("cannot publish to {base}: is the node running there?"))?;
    let status = answer.status();
    let bytes = answer.bytes().await?;
    let answer = serde_json::from_slice(&bytes)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).trim().to_owned()));
    Ok((status, answer))
}
