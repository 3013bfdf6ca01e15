//! Asks a node about plugins.

use std::time::Duration;

use anyhow::{Result, bail};
use http::{Method, StatusCode};
use serde_json::Value;

use super::PluginNodeArgs;
use crate::cli::call::call_with;

/// How long a command waits for nodes to be ready.
const PATIENCE: Duration = Duration::from_secs(900);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(500);

/// What a request carries.
pub(super) type Body = Option<(&'static str, Vec<u8>)>;

/// A body in JSON.
pub(super) fn json(value: &Value) -> Body {
    Some(("application/json", value.to_string().into_bytes()))
}

/// The answer, or in words why there is none. `path` follows `/v1/<tenant>/plugins`.
pub(super) async fn ask(node: &PluginNodeArgs, method: Method, path: &str, body: Body) -> Result<Value> {
    let (status, answer) = send(node, method, path, body).await?;
    answered(status, answer)
}

/// The same, again and again while other nodes prepare the version that is meant; why it waits goes to
/// standard error.
pub(super) async fn ask_patiently(node: &PluginNodeArgs, path: &str, body: &Value) -> Result<Value> {
    let until = tokio::time::Instant::now() + PATIENCE;
    let mut told = None;
    loop {
        let (status, answer) = send(node, Method::POST, path, json(body)).await?;
        let may_wait = status == StatusCode::CONFLICT && answer["retry_after_ms"].is_u64();
        if !may_wait || tokio::time::Instant::now() >= until {
            return answered(status, answer);
        }
        if told.as_ref() != Some(&answer["error"]) {
            eprintln!("waiting: {}", answer["error"].as_str().unwrap_or_default());
            told = Some(answer["error"].clone());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn send(node: &PluginNodeArgs, method: Method, path: &str, body: Body) -> Result<(StatusCode, Value)> {
    let path = format!("/v1/{}/plugins{path}", node.tenant);
    call_with(method, &node.url, &path, &node.key, body).await
}

fn answered(status: StatusCode, answer: Value) -> Result<Value> {
    let why = answer["error"].as_str().map_or_else(|| answer.to_string(), str::to_owned);
    match status {
        StatusCode::OK | StatusCode::CREATED | StatusCode::ACCEPTED => Ok(answer),
        StatusCode::UNAUTHORIZED => {
            bail!("the node refused the key: check --key or TIDEGATE_KEY, and --tenant")
        }
        // The port of clients knows no such path.
        StatusCode::NOT_FOUND if why.starts_with("not found") => {
            bail!("there is no admin listener at --url (or TIDEGATE_URL): name the node's admin address")
        }
        _ => bail!("{why}"),
    }
}
