//! Real `redis-server` processes on free ports, killed when dropped.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use redis::aio::MultiplexedConnection;

/// How long a server may take to answer its first `PING`. Generous: machines are shared.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// Ports tried: another process may take one between our look and the server's bind.
const PORTS_TRIED: usize = 5;

/// One `redis-server` with a folder of its own.
pub struct RedisServer {
    child: Option<Child>,
    port: u16,
    settings: Vec<String>,
    dir: tempfile::TempDir,
}

impl RedisServer {
    /// Starts a server without persistence; `settings` are command-line arguments
    /// (`["--appendonly", "yes"]`) and override that.
    pub async fn start(settings: &[&str]) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let settings: Vec<String> = settings.iter().map(|text| (*text).to_owned()).collect();
        let mut server = Self { child: None, port: 0, settings, dir };
        for _ in 0..PORTS_TRIED {
            server.port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            server.spawn()?;
            if server.wait_ready().await.is_ok() {
                return Ok(server);
            }
            server.kill();
        }
        bail!("redis-server did not start: see {}", server.dir.path().display())
    }

    /// `redis://127.0.0.1:<port>`, without credentials.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The same with a user and a password.
    pub fn url_as(&self, user: &str, password: &str) -> String {
        format!("redis://{user}:{password}@127.0.0.1:{}", self.port)
    }

    /// Where it listens.
    pub fn address(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// A connection as a backend would open it.
    pub async fn connection(&self) -> Result<MultiplexedConnection> {
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(START_DEADLINE))
            .set_response_timeout(Some(START_DEADLINE));
        Ok(redis::Client::open(self.url())?.get_multiplexed_async_connection_with_config(&config).await?)
    }

    /// Kills the server as a crash would. What it persisted stays.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only for a process that has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again on the same port with what it persisted.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill();
        self.spawn()?;
        self.wait_ready().await
    }

    /// Stops the process without ending its connections, like a machine that hangs.
    pub fn pause(&self) -> Result<()> {
        self.signal("-STOP")
    }

    /// Ends [`RedisServer::pause`].
    pub fn resume(&self) -> Result<()> {
        self.signal("-CONT")
    }

    fn signal(&self, signal: &str) -> Result<()> {
        let pid = self.pid().context("the server is not running")?;
        let status = Command::new("kill").args([signal, &pid.to_string()]).status()?;
        if status.success() { Ok(()) } else { bail!("kill {signal} {pid}: {status}") }
    }

    fn spawn(&mut self) -> Result<()> {
        let log = std::fs::File::options().create(true).append(true).open(self.dir.path().join("log"))?;
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
            .arg(self.dir.path())
            .args(&self.settings)
            .stdin(Stdio::null())
            .stderr(log.try_clone()?)
            .stdout(log)
            .spawn()
            .context("redis-server is not installed: run `sudo apt-get install -y redis-server`")?;
        self.child = Some(child);
        Ok(())
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_DEADLINE;
        while Instant::now() < deadline {
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                bail!("redis-server ended: {status}");
            }
            if let Ok(mut connection) = self.connection().await
                && redis::cmd("PING").query_async::<String>(&mut connection).await.is_ok()
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bail!("redis-server does not answer")
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // A stopped process takes SIGKILL as well.
        self.kill();
    }
}
