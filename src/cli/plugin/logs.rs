//! `tidegate plugin logs`.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use clap::Args;
use http::Method;
use serde_json::Value;

use super::PluginNodeArgs;
use super::node::ask;

/// How long one request waits for the next line, in milliseconds.
const WAIT_MS: u64 = 20_000;

/// Which log.
#[derive(Debug, Clone, Args)]
pub struct LogsArgs {
    /// The node. Each keeps what plugins said on it.
    #[command(flatten)]
    pub node: PluginNodeArgs,
    /// Go on with what comes.
    #[arg(short, long)]
    pub follow: bool,
}

/// Prints lines, and goes on if asked to.
pub(super) async fn logs(args: LogsArgs) -> Result<()> {
    let mut place = Place::default();
    let mut wait_ms = 0;
    loop {
        let answer = ask(&args.node, Method::GET, &place.query(wait_ms), None).await?;
        let more = place.go_on(&answer);
        let mut out = std::io::stdout().lock();
        for said in answer["lines"].as_array().into_iter().flatten() {
            let line = if args.node.json { said.to_string() } else { line(said) };
            writeln!(out, "{line}").context("writing to standard output")?;
        }
        out.flush().context("writing to standard output")?;
        if !more && !args.follow {
            return Ok(());
        }
        wait_ms = if more { 0 } else { WAIT_MS };
    }
}

/// Where the log was read up to.
#[derive(Debug, Default)]
struct Place {
    next: u64,
}

impl Place {
    fn query(&self, wait_ms: u64) -> String {
        let after = self.next.checked_sub(1).map_or_else(String::new, |after| format!("after={after}&"));
        format!("/logs?{after}wait_ms={wait_ms}")
    }

    /// Whether there were lines, so that more may be there.
    fn go_on(&mut self, answer: &Value) -> bool {
        let next = answer["next"].as_u64().unwrap_or_default();
        // A node that was started again begins again, below what was read.
        self.next = if next < self.next { 0 } else { next };
        answer["lines"].as_array().is_some_and(|lines| !lines.is_empty())
    }
}

/// A line for people; control characters must not reach the terminal.
fn line(said: &Value) -> String {
    let text = |name: &str| said[name].as_str().unwrap_or_default().escape_debug().to_string();
    let ms = said["time_ms"].as_u64().unwrap_or_default();
    let (seconds, ms) = (ms / 1_000, ms % 1_000);
    let (hours, minutes, seconds) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    let context = text("context");
    let context = if context.is_empty() { context } else { format!("[{context}] ") };
    format!(
        "{hours:02}:{minutes:02}:{seconds:02}.{ms:03}Z {} {}: {context}{}",
        text("level"),
        text("plugin"),
        text("message"),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_is_one_line() {
        let said = json!({
            "time_ms": 1_800_000_000_007_u64, "plugin": "filter", "level": "warn", "context": "x",
            "message": "a\u{1b}b\nc",
        });
        assert_eq!(line(&said), "08:00:00.007Z warn filter: [x] a\\u{1b}b\\nc");
    }

    #[test]
    fn a_node_that_was_started_again_is_read_from_its_beginning() {
        let mut place = Place::default();
        assert_eq!(place.query(0), "/logs?wait_ms=0");
        assert!(place.go_on(&json!({"lines": [{}], "next": 8})));
        assert_eq!(place.query(5), "/logs?after=7&wait_ms=5");
        assert!(!place.go_on(&json!({"lines": [], "next": 3})));
        assert_eq!(place.query(5), "/logs?wait_ms=5");
    }
}
