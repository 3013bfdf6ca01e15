//! `tidegate drain`: asks a node to end, and waits until it has.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use http::StatusCode;
use reqwest::{Client, RequestBuilder};
use serde_json::Value;

use super::args::DrainArgs;

/// How often the node is asked how far it is.
const EVERY: Duration = Duration::from_millis(250);
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(10);
/// How much later than its deadline a node may be gone.
const LATE: Duration = Duration::from_secs(10);

/// Drains. Dropping the future leaves the node draining.
pub async fn run(args: DrainArgs) -> Result<()> {
    let client = Client::builder().no_proxy().timeout(ANSWER).build().context("no HTTP client")?;
    let url = format!("{}/admin/drain", args.node.url.trim_end_matches('/'));
    let ask = |request: RequestBuilder| request.bearer_auth(args.node.key.expose());
    let begun = answer(ask(client.post(&url))).await;
    let begun = begun.with_context(|| format!("cannot drain the node at {}", args.node.url))?;
    if args.node.json {
        println!("{begun}");
    }
    let patience = Duration::from_millis(begun["deadline_ms"].as_u64().unwrap_or_default()) + LATE;
    let mut told = None;
    tell(&mut told, &begun);
    if args.no_wait {
        return Ok(());
    }
    let gone = async {
        loop {
            tokio::time::sleep(EVERY).await;
            // Whatever fails once the node has agreed fails because it is gone.
            let Ok(progress) = answer(ask(client.get(&url))).await else { return };
            tell(&mut told, &progress);
        }
    };
    if tokio::time::timeout(patience, gone).await.is_err() {
        bail!("the node is still there {} s past its deadline", LATE.as_secs());
    }
    eprintln!("the node is gone");
    Ok(())
}

/// Says how many sessions are left, where that has changed.
fn tell(told: &mut Option<u64>, progress: &Value) {
    let left = progress["sessions"].as_u64();
    if *told != left {
        *told = left;
        eprintln!("sessions left: {}", left.unwrap_or_default());
    }
}

async fn answer(request: RequestBuilder) -> Result<Value> {
    let answer = request.send().await.context("no answer: does the node listen to operators there?")?;
    let status = answer.status();
    let body: Value = serde_json::from_slice(&answer.bytes().await?).unwrap_or_default();
    match status {
        StatusCode::OK | StatusCode::ACCEPTED => Ok(body),
        StatusCode::UNAUTHORIZED => bail!("the node refused the key: check --key or TIDEGATE_ADMIN_TOKEN"),
        _ => bail!("it answered {status}: {}", body["error"].as_str().unwrap_or("")),
    }
}
