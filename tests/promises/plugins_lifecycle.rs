//! Promise: versions of plugins are uploaded while traffic flows, switched on all nodes at one moment of the
//! backbone's clock, and rolled back; a node that cannot or does not live stops nobody.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tidegate_support::config::{API_KEY, NodeConfig, TenantConfig};
use tidegate_support::http::{self, Answer};
use tidegate_support::node::Node;
use tidegate_support::plugins::{self, READY, upload};
use tidegate_support::redis_faults::Backend;
use tidegate_support::{eventually, proven, within};

use crate::harness::{Cluster, TIDEGATE, embedded};

mod command;
mod cutover;
mod failing;
mod nodes;
mod replaying;
mod switching;
mod uploads;

/// The plugin of `plugins/probe`: it has every hook, and does what a message says.
const PROBE: &[u8] = include_bytes!("../../plugins/probe/probe.wasm");

/// A node's configuration for tests with plugins: busy machines are forgiven.
fn config() -> NodeConfig {
    let tenant = || TenantConfig::default().plugins("deadline_ms = 1000").plugins("log_lines_per_s = 1000");
    // Another tenant with a key of its own: that of no one.
    let other = tenant().setting("origins = []");
    NodeConfig::demo().admin().tenant("demo", tenant()).tenant("other", other)
}

/// Uploads a version of the plugin `probe`; the greeting makes it another one than those before.
async fn push(node: &Node, greeting: &str) -> Result<String> {
    plugins::push(node, "probe", PROBE, &[("greeting", greeting)]).await
}

async fn get(node: &Node, path: &str) -> Result<Value> {
    let answer = http::get(&node.admin, &format!("/v1/demo/plugins{path}"), Some(API_KEY)).await?;
    ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.text());
    answer.json()
}

async fn post(node: &Node, path: &str, body: &Value) -> Result<Answer> {
    http::post(&node.admin, &format!("/v1/demo/plugins/{path}"), Some(API_KEY), body).await
}

/// Does something with the plugin `probe`, once all nodes are ready for it.
async fn act(node: &Node, what: &str, body: &Value) -> Result<Value> {
    let answer = within(READY, what, || async {
        let answer = post(node, &format!("probe/{what}"), body).await;
        let is_later = answer.as_ref().is_ok_and(|answer| answer.head.contains("retry-after:"));
        (!is_later).then_some(answer)
    });
    let answer = answer.await??;
    ensure!(answer.status == 200, "{what}: {} {}", answer.status, answer.text());
    answer.json()
}

async fn activate(node: &Node, version: &str) -> Result<Value> {
    act(node, "activate", &json!({ "version": version })).await
}

/// What a node shows of a version of `probe`.
async fn about(node: &Node, version: &str) -> Result<Value> {
    get(node, &format!("/probe/{version}")).await
}

/// Waits until a node shows a version in a state.
async fn until_state(node: &Node, version: &str, state: &str) -> Result<Value> {
    within(READY, &format!("version {version} is {state}"), || async {
        about(node, version).await.ok().filter(|about| about["state"] == state)
    })
    .await
}

/// What becomes of each of a channel's entries now, by what a replay of `version` shows: only entries of which
/// that version makes something else.
async fn differences(node: &Node, version: &str, channel: &str) -> Result<Vec<(String, Value)>> {
    let body = json!({ "version": version, "channel": channel, "count": 1000 });
    let found = act(node, "replay", &body).await?;
    let differences = found["differences"].as_array().cloned().unwrap_or_default();
    ensure!(found["differ"] == differences.len() && found["more"] == false, "{found}");
    let pair = |one: &Value| (one["offset"].as_str().unwrap_or_default().to_owned(), one["now"].clone());
    Ok(differences.iter().map(pair).collect())
}
