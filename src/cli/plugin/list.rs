//! `tidegate plugin list`.

use anyhow::Result;
use http::Method;
use serde_json::Value;

use super::node::ask;
use super::{ListArgs, short};

/// Lists plugins and their versions.
pub(super) async fn list(args: ListArgs) -> Result<()> {
    let mut answer = ask(&args.node, Method::GET, "", None).await?;
    if let (Some(name), Some(plugins)) = (&args.name, answer["plugins"].as_array_mut()) {
        plugins.retain(|plugin| plugin["name"] == name.as_str());
    }
    if args.node.json {
        println!("{answer}");
        return Ok(());
    }
    for plugin in answer["plugins"].as_array().into_iter().flatten() {
        for version in plugin["versions"].as_array().into_iter().flatten() {
            println!("{}", line(plugin["name"].as_str().unwrap_or_default(), version));
        }
    }
    Ok(())
}

/// A version for people: one line.
fn line(name: &str, version: &Value) -> String {
    let state = match (&version["active"], version["canary_percent"].as_u64()) {
        (_, Some(percent)) => format!("canary {percent}%"),
        (Value::Bool(true), None) => "active".to_owned(),
        _ if version["latest"] == true => "latest".to_owned(),
        _ => "-".to_owned(),
    };
    let hooks: Vec<_> = version["hooks"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let kib = version["bytes"].as_u64().unwrap_or_default().div_ceil(1_024);
    let mut line = format!("{name}  {}  {state}  {kib} KiB  {}", short(&version["version"]), hooks.join(","));
    for (node, said) in version["nodes"].as_object().into_iter().flatten() {
        let state = said["state"].as_str().unwrap_or("?");
        line += &format!("  {node}={state}");
        if let Some(why) = said["why"].as_str() {
            line += &format!(" ({why})");
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_version_is_one_line() {
        let version = json!({
            "version": "c".repeat(64), "active": false, "canary_percent": 5, "bytes": 2_000,
            "hooks": ["route", "on-deliver"],
            "nodes": {"one": {"state": "ready"}, "two": {"state": "failed", "why": "no room"}},
        });
        let wanted =
            "filter  cccccccccccc  canary 5%  2 KiB  route,on-deliver  one=ready  two=failed (no room)";
        assert_eq!(line("filter", &version), wanted);
    }
}
