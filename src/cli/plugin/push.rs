//! `tidegate plugin push`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use http::{HeaderMap, HeaderValue, Method};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::node::{ask, ask_patiently};
use super::workshop::parse_setting;
use super::{PluginNodeArgs, short};
use crate::cli::call::content;
use crate::domain::PluginName;

/// How often the node is asked how far it is.
const LOOK: Duration = Duration::from_millis(500);

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
    while about["state"] == "preparing" {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_names_what_is_waited_for() {
        let compiling = json!({"state": "preparing", "seconds": 3});
        assert_eq!(progress(&compiling).trim_end(), "compiling, 3 s");
        let nodes = json!({"one": {"state": "ready"}, "two": {"state": "preparing"}});
        assert_eq!(progress(&json!({"nodes": nodes})).trim_end(), "ready on 1 of 2 nodes, 0 s");
    }
}
