//! From a component to machine code: by a process of its own, kept in a private folder, loaded only if it is ours.
//!
//! The compiler is large and its input is a stranger's: it runs with the lowest priority, a limit on time and one on
//! memory, and whatever becomes of it, this process goes on. Files begin with an HMAC over engine, component and
//! machine code. They are read whole and checked before anything of them is loaded.

use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ring::hmac;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::inspect::Rejection;
use super::prepare::{ContentHash, brief};
use crate::config::PluginsConfig;
use crate::telemetry::events;
use folder::Folder;

pub mod child;
mod folder;
mod load;

/// The compiling process has the lowest priority, so it may take so many times the processor's time that it is
/// given, by the clock.
const PATIENCE: u32 = 10;
/// How often the compiling process is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// Bytes of the HMAC that a file begins with.
const TAG_BYTES: usize = 32;

/// What proves that machine code was made by this node, or by one that it trusts as itself.
#[derive(Clone)]
pub struct NodeKey(hmac::Key);

impl NodeKey {
    /// A key of these bytes, which should be secret and random.
    pub fn new(bytes: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// A key that is forgotten with the process: nothing that is kept is good after the next start.
    pub fn random() -> Self {
        Self::new(&rand::random::<[u8; 32]>())
    }
}

impl From<hmac::Key> for NodeKey {
    fn from(key: hmac::Key) -> Self {
        Self(key)
    }
}

impl std::fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeKey(…)")
    }
}

/// The program that compiles. It is called with `--input`, `--output`, `--memory-bytes` and `--seconds` after the
/// arguments here, and hands them to [`child::run`].
#[derive(Debug, Clone)]
pub struct CompileCommand {
    /// Which program.
    pub program: PathBuf,
    /// Arguments that come first.
    pub arguments: Vec<OsString>,
}

impl CompileCommand {
    /// This program's hidden command `compile-plugin`.
    pub fn this_program() -> std::io::Result<Self> {
        Ok(Self { program: std::env::current_exe()?, arguments: vec!["compile-plugin".into()] })
    }
}

/// Compiles components, one at a time, and remembers.
pub(super) struct Compiler {
    engine: Engine,
    /// Machine code of another engine is not looked at.
    engine_hash: u64,
    command: CompileCommand,
    key: NodeKey,
    folder: Folder,
    timeout: Duration,
    memory: usize,
    one: Semaphore,
}

impl Compiler {
    pub(super) fn new(
        engine: Engine,
        config: &PluginsConfig,
        command: CompileCommand,
        key: NodeKey,
    ) -> std::io::Result<Self> {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        env!("CARGO_PKG_VERSION").hash(&mut hasher);
        Ok(Self {
            engine,
            engine_hash: hasher.finish(),
            command,
            key,
            folder: Folder::open(config.folder.as_deref())?,
            timeout: config.compile_timeout,
            memory: config.compile_memory,
            one: Semaphore::new(1),
        })
    }

    /// The component, compiled. Cancelling ends the process that compiles.
    pub(super) async fn component(&self, bytes: Bytes, hash: ContentHash) -> Result<Component, Rejection> {
        let kept = self.folder.path(&format!("{hash}-{:016x}.code", self.engine_hash));
        if let Some(component) = self.load(&kept, hash).await? {
            return Ok(component);
        }
        let _turn = self.one.acquire().await.map_err(|_| node("the compiler is closed"))?;
        // Whoever was before may have made it.
        if let Some(component) = self.load(&kept, hash).await? {
            return Ok(component);
        }
        let code = self.compile(&bytes).await?;
        let component = load_component(&self.engine, Arc::clone(&code)).await?;
        let tag = self.tag(hash, &code);
        // What cannot be kept is compiled again.
        if let Err(error) = self.folder.keep(&kept, &[tag.as_ref(), &code[..]]).await {
            events::plugin_code_not_kept(&kept, &error);
        }
        Ok(component)
    }

    /// What is kept, if it is there and ours.
    async fn load(&self, kept: &Path, hash: ContentHash) -> Result<Option<Component>, Rejection> {
        let Ok(file) = tokio::fs::read(kept).await else { return Ok(None) };
        let Some((tag, code)) = file.split_at_checked(TAG_BYTES) else { return Ok(None) };
        if hmac::verify(&self.key.0, &self.signed(hash, code), tag).is_err() {
            events::plugin_code_foreign(kept);
            return Ok(None);
        }
        load_component(&self.engine, code.into()).await.map(Some)
    }

    fn tag(&self, hash: ContentHash, code: &[u8]) -> hmac::Tag {
        hmac::sign(&self.key.0, &self.signed(hash, code))
    }

    /// What the tag is over: a hash of the code stands for it, so that it is not copied.
    fn signed(&self, hash: ContentHash, code: &[u8]) -> Vec<u8> {
        let code = ContentHash::of(code);
        [&self.engine_hash.to_be_bytes()[..], hash.as_bytes(), code.as_bytes()].concat()
    }

    async fn compile(&self, bytes: &Bytes) -> Result<Arc<[u8]>, Rejection> {
        let desk = self.folder.desk().map_err(|error| node(&error.to_string()))?;
        let (input, output, report) = (desk.file("in"), desk.file("out"), desk.file("report"));
        let written = tokio::fs::write(&input, bytes).await;
        written.map_err(|error| node(&format!("{}: {error}", input.display())))?;
        let mut child = self.spawn(&input, &output, &report).map_err(|error| {
            node(&format!("{} cannot be started: {error}", self.command.program.display()))
        })?;
        match child.wait(self.timeout * PATIENCE).await.map_err(|error| node(&error.to_string()))? {
            Some(status) if status.success() => {
                let code = tokio::fs::read(&output).await;
                code.map(Into::into).map_err(|error| node(&error.to_string()))
            }
            Some(status) => {
                let report = tokio::fs::read(&report).await.unwrap_or_default();
                Err(self.why(status, String::from_utf8_lossy(&report).trim()))
            }
            None => Err(Rejection::CompileTime(self.timeout.as_secs())),
        }
    }

    fn spawn(&self, input: &Path, output: &Path, report: &Path) -> std::io::Result<Compiling> {
        let mut command = Command::new(&self.command.program);
        command.args(&self.command.arguments);
        command.arg("--input").arg(input).arg("--output").arg(output);
        command.arg("--memory-bytes").arg(self.memory.to_string());
        command.arg("--seconds").arg(self.timeout.as_secs().max(1).to_string());
        // Nothing of this process is handed on: neither its secrets nor its sockets.
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(report)?);
        Ok(Compiling(command.spawn()?))
    }

    fn why(&self, status: ExitStatus, report: &str) -> Rejection {
        use std::os::unix::process::ExitStatusExt as _;
        let memory = Rejection::CompileMemory((self.memory >> 20) as u64);
        let short = ["memory allocation of", "allocate memory", "out of memory"];
        if short.iter().any(|words| report.contains(words)) {
            return memory;
        }
        if status.code() == Some(child::REFUSED.into()) {
            return Rejection::DoesNotCompile(brief(report));
        }
        match status.signal() {
            Some(libc::SIGXCPU) => Rejection::CompileTime(self.timeout.as_secs()),
            // The system ends the dearest process first where memory is short.
            Some(libc::SIGKILL) => memory,
            Some(_) => Rejection::DoesNotCompile("the compiler cannot cope with it".into()),
            None => node(&format!("the compiler ended with {status}: {}", brief(report))),
        }
    }
}

async fn load_component(engine: &Engine, code: Arc<[u8]>) -> Result<Component, Rejection> {
    let engine = engine.clone();
    let loaded = tokio::task::spawn_blocking(move || load::component(&engine, &code)).await;
    let loaded = loaded.map_err(|error| node(&error.to_string()))?;
    // The pool refuses here what is larger than its slots.
    loaded.map_err(|error| Rejection::DoesNotLink(brief(&format!("{error:#}"))))
}

fn node(what: &str) -> Rejection {
    Rejection::Node(what.into())
}

/// A process that compiles. Ended and waited for when dropped.
struct Compiling(Child);

impl Compiling {
    /// Its exit; `None` after the time is over.
    async fn wait(&mut self, timeout: Duration) -> std::io::Result<Option<ExitStatus>> {
        let until = Instant::now() + timeout;
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= until {
                return Ok(None);
            }
            sleep(LOOK).await;
        }
    }
}

impl Drop for Compiling {
    fn drop(&mut self) {
        // One that has ended is not there to be killed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
