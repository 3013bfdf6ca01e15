//! Plugins of the tenant `demo`, as its developers put them on.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::config::API_KEY;
use crate::http::{self, Answer};
use crate::node::Node;
use crate::within;

/// How long nodes may take to have a version ready: their compilers stand behind whatever else a machine does.
pub const READY: Duration = Duration::from_secs(240);

/// Uploads to `/v1/demo/plugins/<path>`, once no other upload of the tenant is under way: a node that still compiles
/// one takes no second.
pub async fn upload(node: &Node, path: &str, component: &[u8]) -> Result<Answer> {
    upload_with(node, path, &[], component).await
}

/// The same with settings.
pub async fn upload_with(
    node: &Node,
    path: &str,
    settings: &[(&str, &str)],
    component: &[u8],
) -> Result<Answer> {
    within(READY, "leave to upload", || async {
        let answer = send(node, path, settings, component).await;
        answer.as_ref().map_or(true, |answer| answer.status != 429).then_some(answer)
    })
    .await?
}

/// Uploads at once, or is told to come again.
pub async fn upload_once(node: &Node, path: &str, component: &[u8]) -> Result<Answer> {
    send(node, path, &[], component).await
}

async fn send(node: &Node, path: &str, settings: &[(&str, &str)], component: &[u8]) -> Result<Answer> {
    let path = format!("/v1/demo/plugins/{path}");
    let pairs: Vec<_> =
        settings.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
    let mut headers = vec![("Content-Type", "application/wasm")];
    headers.extend(pairs.iter().map(|pair| ("Tidegate-Setting", pair.as_str())));
    http::send(&node.admin, "POST", &path, Some(API_KEY), &headers, component).await
}

/// Uploads a component, and waits until it is stored; the version. Other nodes may not be ready yet.
pub async fn push(node: &Node, name: &str, component: &[u8], settings: &[(&str, &str)]) -> Result<String> {
    let answer = upload_with(node, name, settings, component).await?;
    ensure!((200..300).contains(&answer.status), "{}: {}", answer.status, answer.text());
    let mut about = answer.json()?;
    if about["stored"] == false {
        about = compiled(node, name, &about).await?;
    }
    ensure!(about["stored"] == true, "{about}");
    Ok(about["version"].as_str().with_context(|| about.to_string())?.to_owned())
}

/// Waits until a version that was uploaded is stored, or not taken; what its node says of it.
pub async fn compiled(node: &Node, name: &str, uploaded: &Value) -> Result<Value> {
    let path = format!("/v1/demo/plugins/{name}/{}", uploaded["version"].as_str().unwrap_or_default());
    within(READY, "a version is compiled and tried", || async {
        let about = http::get(&node.admin, &path, Some(API_KEY)).await.ok()?.json().ok()?;
        (about["stored"] == true || about["state"] == "failed").then_some(about)
    })
    .await
}

/// Percent-encoded, all but letters and digits.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte.is_ascii_alphanumeric() {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// Does something with a plugin: `activate`, `canary`, `rollback`, `deactivate`.
pub async fn act(node: &Node, name: &str, what: &str, body: &Value) -> Result<Answer> {
    http::post(&node.admin, &format!("/v1/demo/plugins/{name}/{what}"), Some(API_KEY), body).await
}

/// Switches a version on, once all nodes have it ready.
pub async fn activate(node: &Node, name: &str, version: &str) -> Result<()> {
    act_once_ready(node, name, "activate", &json!({ "version": version })).await
}

/// Does something with a plugin, once all nodes have ready what it takes.
pub async fn act_once_ready(node: &Node, name: &str, what: &str, body: &Value) -> Result<()> {
    within(READY, "a version that is ready everywhere", || async {
        let answer = act(node, name, what, body).await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await
}

/// Uploads a component and switches it on; the version.
pub async fn put_on(node: &Node, name: &str, component: &[u8], settings: &[(&str, &str)]) -> Result<String> {
    let version = push(node, name, component, settings).await?;
    activate(node, name, &version).await?;
    Ok(version)
}

/// Switches a plugin off.
pub async fn put_off(node: &Node, name: &str) -> Result<()> {
    let answer = act(node, name, "deactivate", &json!({})).await?;
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
    Ok(())
}
