//! `tidegate plugin logs`.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use http::{Method, StatusCode};
use serde_json::Value;
use tokio::time::timeout;

use super::PluginNodeArgs;
use super::node::send;
use crate::backbone::backoff::Backoff;
use crate::cli::call::admin_answer;

/// How long one request waits for the next line, in milliseconds.
const WAIT_MS: u64 = 20_000;
/// How long an answer may take: more than a request waits there.
const ANSWER: Duration = Duration::from_secs(60);
/// How long a follower waits for a node that is away: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

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
    let mut reader = Reader::new(&args);
    loop {
        let answer = reader.next().await?;
        let mut out = std::io::stdout().lock();
        for said in answer["lines"].as_array().into_iter().flatten() {
            let line = if args.node.json { said.to_string() } else { line(said) };
            writeln!(out, "{line}").context("writing to standard output")?;
        }
        out.flush().context("writing to standard output")?;
        if reader.wait_ms > 0 && !args.follow {
            return Ok(());
        }
    }
}

/// Reads the log piece by piece.
struct Reader<'a> {
    args: &'a LogsArgs,
    place: Place,
    /// How long the next request may wait for lines, in milliseconds: not while there are more.
    wait_ms: u64,
    /// Whether the node has ever answered.
    was_reached: bool,
    backoff: Backoff,
}

impl<'a> Reader<'a> {
    fn new(args: &'a LogsArgs) -> Self {
        let backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        Self { args, place: Place::default(), wait_ms: 0, was_reached: false, backoff }
    }

    /// The next answer. Whoever follows waits for a node that is away, or has no place for it, and says so once.
    async fn next(&mut self) -> Result<Value> {
        let mut told = false;
        loop {
            let path = self.place.query(self.wait_ms);
            let asked = timeout(ANSWER, send(&self.args.node, Method::GET, &path, None)).await;
            let asked = asked.unwrap_or_else(|_| bail!("the node did not answer in {} s", ANSWER.as_secs()));
            self.was_reached |= asked.is_ok();
            if let Some(why) = hindrance(&asked)
                && self.args.follow
                && self.was_reached
            {
                if !told {
                    eprintln!("{why}; trying again");
                    told = true;
                }
                // Another node may be there then, which has what is to be read.
                self.wait_ms = 0;
                tokio::time::sleep(self.backoff.delay()).await;
                continue;
            }
            self.backoff.reset();
            let (status, answer) = asked?;
            let answer = admin_answer(status, answer)?;
            self.wait_ms = if self.place.go_on(&answer) { 0 } else { WAIT_MS };
            return Ok(answer);
        }
    }
}

/// Why there is no answer, if there may be one later.
fn hindrance(asked: &Result<(StatusCode, Value)>) -> Option<String> {
    match asked {
        Err(error) => Some(format!("{error:#}")),
        Ok((status, answer)) if status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS => {
            Some(format!("the node answered {status}: {}", answer["error"].as_str().unwrap_or_default()))
        }
        Ok(_) => None,
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
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::config::Secret;
    use crate::domain::TenantId;

    #[test]
    fn a_line_is_one_line() {
        let said = json!({
            "time_ms": 1_800_000_000_007_u64, "plugin": "filter", "level": "warn", "context": "x",
            "message": "a\u{1b}b\nc",
        });
        assert_eq!(line(&said), "08:00:00.007Z warn filter: [x] a\\u{1b}b\\nc");
    }

    /// Answers requests one after the other, each on a connection of its own; an empty answer is a closed connection.
    async fn served(answers: &[(u16, &str)]) -> (String, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answers: Vec<_> = answers.iter().map(|(status, body)| (*status, (*body).to_owned())).collect();
        let serving = tokio::spawn(async move {
            for (status, body) in answers {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(socket.read_u8().await.unwrap());
                }
                if status > 0 {
                    let length = body.len();
                    let head =
                        format!("HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: {length}");
                    socket.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await.unwrap();
                }
            }
        });
        (url, serving)
    }

    fn args(url: String, follow: bool) -> LogsArgs {
        // `main` sets one; another test may have.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let tenant = TenantId::parse("demo").unwrap();
        LogsArgs { node: PluginNodeArgs { url, key: Secret::new("key"), tenant, json: false }, follow }
    }

    #[tokio::test]
    async fn a_follower_waits_for_what_heals_and_for_nothing_else() {
        let lines = |next| format!(r#"{{"lines": [{{}}], "next": {next}}}"#);
        let (first, again) = (lines(1), lines(2));
        let (url, serving) = served(&[
            (503, "{}"),
            (200, &first),
            (0, ""),
            (503, "{}"),
            (429, "{}"),
            (200, &again),
            (401, ""),
        ])
        .await;
        let args = args(url, true);
        let mut reader =
            Reader { backoff: Backoff::new(Duration::ZERO, Duration::ZERO), ..Reader::new(&args) };
        assert_eq!(reader.next().await.unwrap()["next"], 1);
        assert_eq!(reader.next().await.unwrap()["next"], 2);
        let error = reader.next().await.unwrap_err().to_string();
        assert!(error.contains("refused the key"), "{error}");
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn who_reads_once_or_was_never_answered_is_told_at_once() {
        let (url, serving) = served(&[(503, r#"{"error": "busy"}"#)]).await;
        let once = args(url.clone(), false);
        let error = Reader::new(&once).next().await.unwrap_err().to_string();
        assert!(error.contains("busy"), "{error}");
        // Nobody listens there any more.
        serving.await.unwrap();
        let following = args(url, true);
        let error = Reader::new(&following).next().await.unwrap_err().to_string();
        assert!(error.contains("cannot reach"), "{error}");
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
