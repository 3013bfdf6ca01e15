//! Asks a node about plugins.

use std::time::Duration;

use anyhow::Result;
use http::{Method, StatusCode};
use serde_json::Value;

use super::PluginNodeArgs;
use crate::cli::call::{Content, admin_answer, call, json_content};

/// How long a command waits for nodes to be ready.
const PATIENCE: Duration = Duration::from_secs(900);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(500);

/// The answer, or in words why there is none. `path` follows `/v1/<tenant>/plugins`.
pub(super) async fn ask(
    node: &PluginNodeArgs,
    method: Method,
    path: &str,
    content: Option<Content>,
) -> Result<Value> {
    let (status, answer) = send(node, method, path, content).await?;
    admin_answer(status, answer)
}

/// The same, again and again while other nodes prepare the version that is meant; why it waits goes to
/// standard error.
pub(super) async fn ask_patiently(node: &PluginNodeArgs, path: &str, body: &Value) -> Result<Value> {
    let until = tokio::time::Instant::now() + PATIENCE;
    let mut told = None;
    loop {
        let (status, answer) = send(node, Method::POST, path, Some(json_content(body))).await?;
        let may_wait = status == StatusCode::CONFLICT && answer["retry_after_ms"].is_u64();
        if !may_wait || tokio::time::Instant::now() >= until {
            return admin_answer(status, answer);
        }
        if told.as_ref() != Some(&answer["error"]) {
            eprintln!("waiting: {}", answer["error"].as_str().unwrap_or_default());
            told = Some(answer["error"].clone());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The status and the body of an answer, whatever it is.
pub(super) async fn send(
    node: &PluginNodeArgs,
    method: Method,
    path: &str,
    content: Option<Content>,
) -> Result<(StatusCode, Value)> {
    let path = format!("/v1/{}/plugins{path}", node.tenant);
    call(method, &node.url, &path, &node.key, content).await
}
