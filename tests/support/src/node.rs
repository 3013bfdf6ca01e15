//! A real node process.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::DEADLINE;
use crate::config::NodeConfig;
use crate::http::{self, Answer};

/// A running node; killed when dropped. What it logged is printed if a test fails meanwhile.
pub struct Node {
    binary: PathBuf,
    arguments: Vec<OsString>,
    folder: tempfile::TempDir,
    child: Child,
    stdout: Option<tokio::task::JoinHandle<()>>,
    /// `host:port` of clients and publishers.
    pub http: String,
    /// `host:port` of operators.
    pub admin: String,
    /// `host:port` of backends, with the embedded backbone.
    pub resp: Option<String>,
}

impl Node {
    /// Starts `tidegate serve` with this configuration and waits until it is ready.
    pub async fn start(binary: impl AsRef<Path>, config: &NodeConfig) -> Result<Self> {
        Self::start_with(binary, &config.to_toml(), &[]).await
    }

    /// Starts `tidegate serve` with this configuration file and further flags.
    pub async fn start_with(binary: impl AsRef<Path>, toml: &str, flags: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("tidegate.toml");
        std::fs::write(&file, toml)?;
        let mut arguments: Vec<OsString> = vec!["serve".into(), "--config".into(), file.into()];
        arguments.extend(flags.iter().map(OsString::from));
        let binary = binary.as_ref().to_owned();
        let child = spawn(&binary, &arguments, &folder)?;
        let (http, admin) = (String::new(), String::new());
        let mut node = Self { binary, arguments, folder, child, stdout: None, http, admin, resp: None };
        node.await_ready().await?;
        Ok(node)
    }

    /// Where clients of a tenant connect.
    pub fn ws(&self, tenant: &str) -> String {
        format!("ws://{}/v1/{tenant}/ws", self.http)
    }

    /// The backends' URL, with the embedded backbone.
    pub fn redis_url(&self) -> Result<String> {
        Ok(format!("redis://{}", self.resp.as_ref().context("this node listens to no backends")?))
    }

    /// The process.
    pub fn pid(&self) -> Result<i32> {
        Ok(self.child.id().context("the node has ended")?.try_into()?)
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default()
    }

    /// `GET` on the operators' port.
    pub async fn admin_get(&self, path: &str) -> Result<Answer> {
        http::get(&self.admin, path, None).await
    }

    /// A metric's value, summed over its labels; 0 where it has none yet.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let text = self.admin_get("/metrics").await?.text();
        let of_metric =
            |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        Ok(text
            .lines()
            .filter(of_metric)
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum())
    }

    /// `kill -9`, and waits until it is gone.
    pub async fn kill9(&mut self) -> Result<()> {
        self.child.kill().await.context("kill -9")
    }

    /// Asks it to go, and waits for its exit status.
    pub async fn sigterm(&mut self) -> Result<ExitStatus> {
        self.signal(libc::SIGTERM)?;
        self.ended().await
    }

    /// Waits until it has ended, for its exit status.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        tokio::time::timeout(2 * DEADLINE, self.child.wait())
            .await
            .context("the node does not end")?
            .context("wait")
    }

    /// Stops it in its tracks.
    pub fn sigstop(&self) -> Result<()> {
        self.signal(libc::SIGSTOP)
    }

    /// Lets it go on.
    pub fn sigcont(&self) -> Result<()> {
        self.signal(libc::SIGCONT)
    }

    /// Starts it again after it has ended, with the same configuration; its ports change.
    pub async fn restart(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            self.kill9().await?;
        }
        self.child = spawn(&self.binary, &self.arguments, &self.folder)?;
        self.await_ready().await
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: libc::c_int) -> Result<()> {
        crate::redis_faults::signal(self.pid()?, signal)
    }

    async fn await_ready(&mut self) -> Result<()> {
        let stdout = self.child.stdout.take().context("stdout is piped")?;
        let mut lines = BufReader::new(stdout).lines();
        let ready = async {
            while let Some(line) = lines.next_line().await? {
                if let Some(addresses) = line.strip_prefix("ready ") {
                    return Ok(addresses.to_owned());
                }
            }
            bail!("it ended before it was ready")
        };
        let addresses = match tokio::time::timeout(DEADLINE, ready).await {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(error)) => bail!("{error}; it logged:\n{}", self.log()),
            Err(_) => bail!("it was not ready in time; it logged:\n{}", self.log()),
        };
        let address = |name: &str| {
            let mut words = addresses.split_whitespace();
            words.find_map(|word| word.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
        };
        self.http = address("http").with_context(|| format!("no http= in {addresses:?}"))?;
        self.admin = address("admin").with_context(|| format!("no admin= in {addresses:?}"))?;
        self.resp = address("resp");
        // Read on, so that the node never blocks on a full pipe.
        self.stdout = Some(tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} }));
        Ok(())
    }
}

fn spawn(binary: &Path, arguments: &[OsString], folder: &tempfile::TempDir) -> Result<Child> {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.path().join("stderr"))?;
    Command::new(binary)
        .args(arguments)
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {}", binary.display()))
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(stdout) = &self.stdout {
            stdout.abort();
        }
        // A stopped process takes no part in its own end, but SIGKILL ends it all the same.
        let _ = self.child.start_kill();
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(80)..].join("\n");
        crate::remember_log(format!("--- the node at {} logged (last 80 lines) ---\n{tail}", self.http));
    }
}
