//! From a component to machine code: by a process of its own, kept in a private folder, loaded only if it is ours.
//!
//! The compiler is large and its input is a stranger's: it runs with the lowest priority, a limit on time and one on
//! memory, and whatever becomes of it, this process goes on. Files begin with an HMAC over engine, component and
//! machine code. They are read whole and checked before anything of them is loaded. What has not been started is not
//! kept, and what is kept has a bound: whoever may upload must not fill a disk.

use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use ring::hmac;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::inspect::Rejection;
use super::prepare::{ContentHash, brief};
use crate::config::PluginsConfig;
use crate::telemetry::events;
use folder::{CODE, Folder};

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
    /// Held by who compiles. What was made last is there for as long as it is tried.
    last: Mutex<Option<(ContentHash, Weak<[u8]>)>>,
}

/// A component in machine code.
pub(super) struct Compiled {
    pub(super) component: Component,
    /// What is not kept yet.
    fresh: Option<Arc<[u8]>>,
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
            folder: Folder::open(config.folder.as_deref(), config.folder_bytes)?,
            timeout: config.compile_timeout,
            memory: config.compile_memory,
            last: Mutex::default(),
        })
    }

    /// The component, compiled. Cancelling ends the process that compiles.
    pub(super) async fn component(&self, bytes: Bytes, hash: ContentHash) -> Result<Compiled, Rejection> {
        if let Some(component) = self.load(hash).await? {
            return Ok(Compiled { component, fresh: None });
        }
        let mut last = self.last.lock().await;
        // Whoever was before may have made it: it is kept by now, or still tried.
        if let Some(component) = self.load(hash).await? {
            return Ok(Compiled { component, fresh: None });
        }
        let made = last.as_ref().filter(|(of, _)| *of == hash).and_then(|(_, code)| code.upgrade());
        let code = match made {
            Some(code) => code,
            None => self.compile(&bytes).await?,
        };
        *last = Some((hash, Arc::downgrade(&code)));
        let component = load_component(&self.engine, Arc::clone(&code)).await?;
        Ok(Compiled { component, fresh: Some(code) })
    }

    /// Keeps what has proved to start. What cannot be kept is compiled again. Cancelled, it may not be kept.
    pub(super) async fn keep(&self, hash: ContentHash, compiled: Compiled) {
        let Some(code) = compiled.fresh else { return };
        let (file, tag) = (self.file(hash), self.tag(hash, &code));
        if let Err(error) = self.folder.keep(&file, [tag.as_ref(), &code[..]].concat()).await {
            events::plugin_code_not_kept(&self.folder.path(&file), &error);
        }
    }

    fn file(&self, hash: ContentHash) -> String {
        format!("{hash}-{:016x}.{CODE}", self.engine_hash)
    }

    /// What is kept, if it is there and ours.
    async fn load(&self, hash: ContentHash) -> Result<Option<Component>, Rejection> {
        let file = self.file(hash);
        let Ok(kept) = self.folder.read(&file).await else { return Ok(None) };
        let Some((tag, code)) = kept.split_at_checked(TAG_BYTES) else { return Ok(None) };
        if hmac::verify(&self.key.0, &self.signed(hash, code), tag).is_err() {
            events::plugin_code_foreign(&self.folder.path(&file));
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
