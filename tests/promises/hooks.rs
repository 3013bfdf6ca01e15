//! Promise: a tenant's plugins are asked about everything that their hooks are for, and what they do not answer goes
//! by the tenant's policy. Real nodes, real components.

use anyhow::Result;
use serde_json::Value;
use tidegate_support::client::{Client, Message, Options};
use tidegate_support::config::{NodeConfig, TenantConfig, classy_token};
use tidegate_support::node::Node;

use crate::harness;

mod classes;
mod clients;
mod messages;
mod outside;
mod replays;
mod routing;
mod versions;

/// Does what messages say: `plugins/probe`.
const PROBE: &[u8] = include_bytes!("../../plugins/probe/probe.wasm");
/// Asks a server who clients are: `plugins/http-authenticator`.
const ASKS: &[u8] = include_bytes!("../../plugins/http-authenticator/http-authenticator.wasm");
/// Signed tokens with roles: `plugins/authenticator`.
const AUTHENTICATOR: &[u8] = include_bytes!("../../plugins/authenticator/authenticator.wasm");
/// Whispers: `plugins/personal-view`.
pub(crate) const PERSONAL: &[u8] = include_bytes!("../../plugins/personal-view/personal-view.wasm");
/// Prices by class: `plugins/price-by-class`.
const PRICES: &[u8] = include_bytes!("../../plugins/price-by-class/price-by-class.wasm");

/// The tenant `demo`, with patience for plugins on a machine that does other things too.
fn patient() -> TenantConfig {
    TenantConfig::default().plugins("deadline_ms = 1000").plugins("authenticate_deadline_ms = 20000")
}

fn config(tenant: TenantConfig) -> NodeConfig {
    NodeConfig::default().tenant("demo", tenant)
}

/// Heartbeats so far apart that a client may be left unread while a version is compiled.
fn unhurried(options: Options) -> Options {
    Options { ping_ms: Some(300_000), ..options }
}

/// A user as nodes take tokens by themselves.
pub(crate) fn user(name: &str) -> Options {
    unhurried(harness::user(name))
}

/// A user of a class.
fn classy(user: &str, class: &str) -> Options {
    unhurried(Options::token(classy_token(user, class)))
}

/// A user as the probe takes tokens: `<user>` or `<user>/<class>`, for rooms alone.
pub(crate) fn known(token: &str) -> Options {
    unhurried(Options::token(token))
}

/// A payload: an object, or text.
fn data(message: &Message) -> Value {
    let text = message.text();
    if text.starts_with('{') { serde_json::from_str(&text).unwrap_or(Value::Null) } else { text.into() }
}

/// The payload of the next message.
async fn next(client: &mut Client) -> Result<Value> {
    Ok(data(&client.message().await?))
}

/// Calls of a hook that came to this, on one node.
pub(crate) async fn calls(node: &Node, hook: &str, outcome: &str) -> Result<u64> {
    let text = node.admin_get("/metrics").await?.text();
    let (hook, outcome) = (format!("hook=\"{hook}\""), format!("outcome=\"{outcome}\""));
    let of_hook = |line: &&str| {
        line.starts_with("tidegate_plugin_calls_total{") && line.contains(&hook) && line.contains(&outcome)
    };
    let values = text.lines().filter(of_hook).filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    Ok(values.sum::<f64>() as u64)
}
