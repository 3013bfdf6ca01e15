//! `tidegate plugin push`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use http::{HeaderMap, HeaderValue, Method};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::node::{ask, ask_patiently};
use super::workshop::parse_setting;
use super::{PluginNodeArgs, short};
use crate::cli::call::content;
use crate::domain::PluginName;

/// How often the node is asked how far it is.
const LOOK: Duration = Duration::from_millis(500);
/// How long nodes may take to prepare a version.
const TIMEOUT_S: u64 = 900;

/// What to upload.
#[derive(Debug, Clone, Args)]
pub struct PushArgs {
    /// The node.
    #[command(flatten)]
    pub node: PluginNodeArgs,
    /// The component: the .wasm file that the build made.
    pub file: PathBuf,
    /// The plugin's name.
    #[arg(long)]
    pub name: PluginName,
    /// A setting that it reads by `wasi:config`; @FILE takes the value from a file, @@ is an @. May be repeated.
    /// Other settings make another version.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = parse_setting)]
    pub settings: Vec<(String, String)>,
    /// Activate it once all nodes have it ready.
    #[arg(long)]
    pub activate: bool,
    /// How long nodes may take to have it ready. They go on with it after that.
    #[arg(long, value_name = "SECONDS", default_value_t = TIMEOUT_S)]
    pub timeout_s: u64,
}

/// Uploads, and waits until all nodes have it ready.
pub(super) async fn push(args: PushArgs) -> Result<()> {
    let bytes = tokio::fs::read(&args.file).await;
    let bytes = bytes.with_context(|| format!("cannot read {}", args.file.display()))?;
    let PushArgs { node, name, .. } = &args;
    let (mut headers, body) = content("application/wasm", bytes);
    add(&args.settings, &mut headers)?;
    let mut about = ask(node, Method::POST, &format!("/{name}"), Some((headers, body))).await?;
    let version = about["version"].as_str().context("the answer names no version")?.to_owned();
    let mut told = false;
    let until = Instant::now() + Duration::from_secs(args.timeout_s);
    while about["state"] == "preparing" {
        if Instant::now() >= until {
            eprintln!();
            bail!("{}", waited_for(&about, args.timeout_s));
        }
        told = true;
        eprint!("\r{}", progress(&about));
        tokio::time::sleep(LOOK).await;
        about = ask(node, Method::GET, &format!("/{name}/{version}"), None).await?;
    }
    if told {
        eprintln!();
    }
    if about["state"] == "failed" {
        bail!("{}", about["why"].as_str().unwrap_or("the version cannot be prepared"));
    }
    if about["state"] == "idle" && !args.activate {
        bail!(
            "another version of {name} was uploaded meanwhile: nodes prepare this one when it is activated"
        );
    }
    if args.activate {
        about["active"] = true.into();
        let on = ask_patiently(node, &format!("/{name}/activate"), &json!({ "version": version })).await?;
        about["from_ms"] = on["from_ms"].clone();
    }
    if node.json {
        println!("{about}");
    } else {
        let state = if args.activate { "is active" } else { "is ready" };
        println!("{name} {} {state}", short(&about["version"]));
    }
    Ok(())
}

/// Settings go in headers: addresses are in the logs of whatever is on the way.
fn add(settings: &[(String, String)], headers: &mut HeaderMap) -> Result<()> {
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    for (name, value) in settings {
        let mut pair = HeaderValue::try_from(format!("{}={}", encoded(name), encoded(value)))?;
        pair.set_sensitive(true);
        headers.append("tidegate-setting", pair);
    }
    Ok(())
}

/// One line, made anew in its place.
fn progress(about: &Value) -> String {
    let seconds = about["seconds"].as_u64().unwrap_or_default();
    let Some(nodes) = about["nodes"].as_object() else { return format!("compiling, {seconds} s  ") };
    let ready = nodes.values().filter(|node| node["state"] == "ready").count();
    format!("ready on {ready} of {} nodes, {seconds} s  ", nodes.len())
}

/// Why the end is not waited for.
fn waited_for(about: &Value, seconds: u64) -> String {
    let nodes = about["nodes"].as_object().into_iter().flatten();
    let open: Vec<_> =
        nodes.filter(|(_, node)| node["state"] == "preparing").map(|(name, _)| name.as_str()).collect();
    let what = match &open[..] {
        [] => "the node that took it still compiles it".to_owned(),
        open => format!("it is not ready on {}", open.join(", ")),
    };
    format!(
        "{what} after {seconds} s: see whether it lives and what its log says; `tidegate plugin list` shows how far \
         it is, and `tidegate plugin activate` switches it on when it is ready"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_that_are_late_are_named() {
        let nodes = json!({
            "one": {"state": "ready"}, "two": {"state": "preparing"}, "three": {"state": "preparing"},
        });
        let late = waited_for(&json!({ "nodes": nodes }), 900);
        assert!(late.starts_with("it is not ready on three, two after 900 s: "), "{late}");
        assert!(waited_for(&json!({"state": "preparing"}), 1).contains("still compiles"));
    }

    #[test]
    fn progress_names_what_is_waited_for() {
        let compiling = json!({"state": "preparing", "seconds": 3});
        assert_eq!(progress(&compiling).trim_end(), "compiling, 3 s");
        let nodes = json!({"one": {"state": "ready"}, "two": {"state": "preparing"}});
        assert_eq!(progress(&json!({"nodes": nodes})).trim_end(), "ready on 1 of 2 nodes, 0 s");
    }
}
