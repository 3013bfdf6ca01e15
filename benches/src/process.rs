//! The processes of a measurement: nodes and herds of clients. Each ends when its owner is dropped.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use tidegate::config::DEMO_JWT_SECRET;

use crate::args::RunArgs;
use crate::certificate::Certificate;
use crate::herd::{Answer, Order, Transport};
use crate::host::pause;

/// A child that is killed when dropped, with its pid on file as long as it runs.
struct Owned {
    child: Child,
    file: PathBuf,
}

impl Owned {
    fn start(command: &mut Command, args: &RunArgs) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let file = args.pids.join(child.id().to_string());
        std::fs::write(&file, "")?;
        Ok(Self { child, file })
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // Both fail only for a process that has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The file only matters to whoever cleans up after a benchmark that was killed.
        let _ = std::fs::remove_file(&self.file);
    }
}

/// A herd connects as fast as it can, which is not what is measured. The tenant is as tenants are by
/// default: unlike the built-in demo it tells its backends of no sessions.
const CONFIG: &str = r#"
[node]
accept_per_s = 0
[tenants.demo]
anonymous = true
api_key_hashes = ["c48a01f49fd0f2cc404bc3cbbc80e91457a3d41bb429a695243de4c61794155c"]
[[tenants.demo.jwt.keys]]
algorithm = "HS256"
secret = "SECRET"
[tenants.demo.namespaces.room]
[tenants.demo.namespaces.live]
kind = "live"
[tenants.noisy]
anonymous = true
api_key_hashes = ["c48a01f49fd0f2cc404bc3cbbc80e91457a3d41bb429a695243de4c61794155c"]
[tenants.noisy.namespaces.room]
"#;
/// The key of both tenants.
const API_KEY: &str = "demo-key";

/// How long a plugin may take to be ready.
const READY: Duration = Duration::from_secs(60);

/// A running node with a tenant `demo`.
pub struct Node {
    process: Owned,
    /// Where clients connect.
    pub http: SocketAddr,
    /// Where operators and developers connect.
    pub admin: SocketAddr,
    /// Where backends connect, where the backbone is embedded.
    pub resp: Option<SocketAddr>,
    /// Where clients connect over WebTransport, where the node has a certificate.
    pub quic: Option<SocketAddr>,
    _stdout: BufReader<ChildStdout>,
}

impl Node {
    /// Starts a node on its embedded backbone.
    pub fn embedded(args: &RunArgs, shards: Option<u16>) -> Result<Self> {
        Self::start(args, &["--resp-listen", "127.0.0.1:0"], shards, "")
    }

    /// The same with a certificate, for clients that come over this transport.
    pub fn reached_over(args: &RunArgs, transport: Transport, shards: Option<u16>) -> Result<Self> {
        let Certificate { pem, key, .. } = Certificate::of(args).ensure()?;
        let (tcp, quic) = (transport == Transport::Tls, transport == Transport::WebTransport);
        let tls = format!("[tls]\ncertificate = {pem:?}\nkey = {key:?}\ntcp = {tcp}\nquic = {quic}\n");
        Self::start(args, &["--resp-listen", "127.0.0.1:0"], shards, if tcp || quic { &tls } else { "" })
    }

    /// Starts a node on the Redis of the run.
    pub fn over_redis(args: &RunArgs, shards: Option<u16>) -> Result<Self> {
        let url = format!("redis://127.0.0.1:{}", args.redis_port);
        Self::start(args, &["--redis", &url], shards, "")
    }

    fn start(args: &RunArgs, backbone: &[&str], shards: Option<u16>, tls: &str) -> Result<Self> {
        let config = args.pids.with_file_name("node.toml");
        std::fs::write(&config, CONFIG.replace("SECRET", DEMO_JWT_SECRET) + tls)?;
        let mut command = Command::new(&args.node);
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        command.args(["--log-level", "error"]).args(backbone).arg("--config").arg(config);
        if let Some(shards) = shards {
            command.args(["--shards", &shards.to_string()]);
        }
        let mut process = Owned::start(command.stdin(Stdio::null()).stdout(Stdio::piped()), args)?;
        let mut stdout = BufReader::new(process.child.stdout.take().context("the node's output is piped")?);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let address = |name: &str| -> Option<SocketAddr> {
            line.split_whitespace().find_map(|word| word.strip_prefix(name))?.parse().ok()
        };
        let (Some(http), Some(admin)) = (address("http="), address("admin=")) else {
            bail!("the node did not get ready: {line:?}");
        };
        let (resp, quic) = (address("resp="), address("quic="));
        Ok(Self { process, http, admin, resp, quic, _stdout: stdout })
    }

    /// Switches a plugin on for a tenant.
    pub fn put_on(&self, tenant: &str, component: &[u8]) -> Result<()> {
        let path = format!("/v1/{tenant}/plugins/plugin");
        self.post(&path, component)?;
        let until = Instant::now() + READY;
        loop {
            match self.post(&format!("{path}/activate"), b"") {
                Err(error) if Instant::now() > until => return Err(error),
                Err(_) => pause(Duration::from_millis(100)),
                Ok(()) => return Ok(()),
            }
        }
    }

    fn post(&self, path: &str, body: &[u8]) -> Result<()> {
        let mut socket = TcpStream::connect(self.admin)?;
        let (host, length) = (self.admin, body.len());
        write!(
            socket,
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {API_KEY}\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n"
        )?;
        socket.write_all(body)?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        if !answer.starts_with("HTTP/1.1 2") {
            bail!("{path}: {answer}");
        }
        Ok(())
    }

    /// A client of an anonymous user of a tenant in one channel, as a process that prints what it gets to nobody.
    pub fn listener(&self, args: &RunArgs, tenant: &str, channel: &str) -> Result<Listener> {
        let url = format!("http://{}", self.http);
        let mut command = Command::new(&args.node);
        command.args(["client", "--url", &url, "--tenant", tenant, "--channel", channel]);
        let silent = || Stdio::null();
        command.stdin(silent()).stdout(silent()).stderr(silent());
        Ok(Listener { _process: Owned::start(&mut command, args)? })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }
}

/// A client that only listens.
pub struct Listener {
    _process: Owned,
}

/// A process full of clients.
pub struct Herd {
    process: Owned,
    transport: Transport,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Herd {
    /// Starts one without clients, for WebSocket.
    pub fn start(args: &RunArgs) -> Result<Self> {
        Self::over(args, Transport::WebSocket)
    }

    /// The same for any transport.
    pub fn over(args: &RunArgs, transport: Transport) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["herd", "--transport", transport.name(), "--certificate"]);
        command.arg(Certificate::of(args).der).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Owned::start(&mut command, args)?;
        let orders = process.child.stdin.take().context("the herd's input is piped")?;
        let answers = BufReader::new(process.child.stdout.take().context("the herd's output is piped")?);
        Ok(Self { process, transport, orders, answers })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// What its clients speak.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Gives an order and waits for the answer.
    pub fn order(&mut self, order: &Order) -> Result<Answer> {
        self.begin(order)?;
        self.answer()
    }

    /// Gives an order whose answer is taken later.
    pub fn begin(&mut self, order: &Order) -> Result<()> {
        let mut line = serde_json::to_string(order)?;
        line.push('\n');
        self.orders.write_all(line.as_bytes()).context("the herd is gone")
    }

    /// Takes the answer to the order that was given last.
    pub fn answer(&mut self) -> Result<Answer> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let answer: Answer = serde_json::from_str(&line).with_context(|| format!("a herd said {line:?}"))?;
        match answer.error {
            Some(error) => bail!("clients over {:?} failed: {error}", self.transport),
            None => Ok(answer),
        }
    }
}
