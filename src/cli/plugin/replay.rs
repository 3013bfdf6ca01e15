//! `tidegate plugin replay`.

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::node::ask_patiently;
use super::{PluginNodeArgs, short};
use crate::domain::{ChannelName, PluginName};

/// What to replay.
#[derive(Debug, Clone, Args)]
pub struct ReplayArgs {
    /// The node.
    #[command(flatten)]
    pub node: PluginNodeArgs,
    /// The plugin.
    pub name: PluginName,
    /// The version, by at least 4 of its first digits [default: the one that was uploaded last].
    pub version: Option<String>,
    /// The channel whose last messages are shown to it.
    #[arg(long)]
    pub channel: ChannelName,
    /// How many, 1 to 1000.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub count: u64,
    /// For which class, where the plugin is asked once a class.
    #[arg(long)]
    pub class: Option<String>,
    /// For which user, where the plugin is asked once a session.
    #[arg(long)]
    pub user: Option<String>,
}

/// Shows the differences.
pub(super) async fn replay(args: ReplayArgs) -> Result<()> {
    let ReplayArgs { node, name, version, channel, count, class, user } = args;
    let mut body = json!({ "channel": channel, "count": count });
    for (key, value) in [("version", version), ("class", class), ("user", user)] {
        if let Some(value) = value {
            body[key] = value.into();
        }
    }
    let answer = ask_patiently(&node, &format!("/{name}/replay"), &body).await?;
    if node.json {
        println!("{answer}");
        return Ok(());
    }
    for difference in answer["differences"].as_array().into_iter().flatten() {
        println!("{}", line(difference));
    }
    println!(
        "{name} {}: {} entries, {} the same, {} differ",
        short(&answer["version"]),
        answer["entries"],
        answer["same"],
        answer["differ"]
    );
    Ok(())
}

fn line(difference: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().escape_debug().to_string();
    let verdict = |verdict: &Value| match verdict["verdict"].as_str() {
        Some("replace") => format!("replace {}", text(&verdict["data"])),
        Some("failed") => format!("failed: {}", text(&verdict["why"])),
        Some(other) => other.to_owned(),
        None => String::new(),
    };
    let (now, then) = (verdict(&difference["now"]), verdict(&difference["then"]));
    format!("{}  {}\n  now   {now}\n  then  {then}", text(&difference["offset"]), text(&difference["data"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_shows_both_sides() {
        let difference = json!({
            "offset": "7-0", "data": "hello", "now": {"verdict": "accept"},
            "then": {"verdict": "replace", "data": "HELLO"},
        });
        assert_eq!(line(&difference), "7-0  hello\n  now   accept\n  then  replace HELLO");
    }
}
