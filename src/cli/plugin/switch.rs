//! `tidegate plugin activate`, `canary`, `rollback`, `deactivate`, `remove`.

use anyhow::Result;
use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::node::{ask, ask_patiently};
use super::{PluginNodeArgs, short};
use crate::domain::PluginName;

/// What to activate.
#[derive(Debug, Clone, Args)]
pub struct ActivateArgs {
    /// The node.
    #[command(flatten)]
    pub node: PluginNodeArgs,
    /// The plugin.
    pub name: PluginName,
    /// The version, by at least 4 of its first digits [default: the one that was uploaded last].
    pub version: Option<String>,
}

/// What to try.
#[derive(Debug, Clone, Args)]
pub struct CanaryArgs {
    /// The node.
    #[command(flatten)]
    pub node: PluginNodeArgs,
    /// The plugin.
    pub name: PluginName,
    /// Its part: 1% to 99%.
    #[arg(value_parser = percent)]
    pub part: u64,
    /// The version, by at least 4 of its first digits [default: the one that was uploaded last].
    pub version: Option<String>,
}

/// Which plugin.
#[derive(Debug, Clone, Args)]
pub struct PlainArgs {
    /// The node.
    #[command(flatten)]
    pub node: PluginNodeArgs,
    /// The plugin.
    pub name: PluginName,
}

/// What to remove.
#[derive(Debug, Clone, Args)]
pub struct RemoveArgs {
    /// The node.
    #[command(flatten)]
    pub node: PluginNodeArgs,
    /// The plugin.
    pub name: PluginName,
    /// The version, by at least 4 of its first digits.
    pub version: String,
}

fn percent(text: &str) -> Result<u64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse().ok();
    number.filter(|part| (1..=99).contains(part)).ok_or_else(|| "must be 1% to 99%".into())
}

/// Activates a version, once all nodes have it ready.
pub(super) async fn activate(args: ActivateArgs) -> Result<()> {
    let mut body = json!({});
    if let Some(version) = args.version {
        body["version"] = version.into();
    }
    let path = format!("/{}/activate", args.name);
    show(&args.node, &args.name, &ask_patiently(&args.node, &path, &body).await?);
    Ok(())
}

/// Gives a part to a version, once all nodes have it ready.
pub(super) async fn canary(args: CanaryArgs) -> Result<()> {
    let mut body = json!({ "percent": args.part });
    if let Some(version) = args.version {
        body["version"] = version.into();
    }
    let path = format!("/{}/canary", args.name);
    show(&args.node, &args.name, &ask_patiently(&args.node, &path, &body).await?);
    Ok(())
}

/// Rolls back or deactivates.
pub(super) async fn plain(action: &str, args: PlainArgs) -> Result<()> {
    let path = format!("/{}/{action}", args.name);
    show(&args.node, &args.name, &ask_patiently(&args.node, &path, &json!({})).await?);
    Ok(())
}

/// Removes a version.
pub(super) async fn remove(args: RemoveArgs) -> Result<()> {
    let path = format!("/{}/{}", args.name, args.version);
    let answer = ask(&args.node, Method::DELETE, &path, None).await?;
    if args.node.json {
        println!("{answer}");
    } else {
        println!("{} {} is removed", args.name, short(&answer["removed"]));
    }
    Ok(())
}

fn show(node: &PluginNodeArgs, name: &PluginName, answer: &Value) {
    if node.json {
        println!("{answer}");
    } else {
        println!("{}", line(name, answer));
    }
}

fn line(name: &PluginName, answer: &Value) -> String {
    let canary = &answer["canary"];
    let active = match &answer["active"] {
        Value::Null if canary.is_null() => return format!("{name} is off"),
        Value::Null => "nothing".to_owned(),
        version => short(version).to_owned(),
    };
    if canary.is_null() {
        return format!("{name} {active} is active");
    }
    format!("{name} {active} is active, and {} % get {}", canary["percent"], short(&canary["version"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_percents() {
        assert_eq!((percent("10%"), percent("99")), (Ok(10), Ok(99)));
        assert!(["0%", "100%", "-1", "ten", "%"].into_iter().all(|text| percent(text).is_err()));
    }

    #[test]
    fn what_is_on_is_one_line() {
        let name = PluginName::parse("filter").unwrap();
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        assert_eq!(line(&name, &json!({"active": a})), "filter aaaaaaaaaaaa is active");
        assert_eq!(line(&name, &json!({})), "filter is off");
        let canary = json!({"active": a, "canary": {"version": b, "percent": 10}});
        assert_eq!(line(&name, &canary), "filter aaaaaaaaaaaa is active, and 10 % get bbbbbbbbbbbb");
        let alone = json!({"canary": {"version": b, "percent": 1}});
        assert_eq!(line(&name, &alone), "filter nothing is active, and 1 % get bbbbbbbbbbbb");
    }
}
