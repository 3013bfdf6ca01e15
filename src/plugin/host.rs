//! The door to plugins: prepares them, binds them to a tenant, and takes calls for them from any thread.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::sleep;

use super::answers::{
    Admission, AnswerLimits, DeliverVerdict, PublishVerdict, RouteVerdict, SubscribeVerdict,
};
use super::breaker::Breaker;
use super::compile::{CompileCommand, Compiler, NodeKey};
use super::contract::{
    Credentials, Incoming, IngressEntry, Message, Recipient, SessionNews, SubscribeRequest,
};
use super::engine::{self, Ticker};
use super::facts::Facts;
use super::hooks::{self, Hook, HookCall, Hooks};
use super::http::{HttpAccess, HttpClient, InFlight};
use super::imports::Environment;
use super::inspect::{Rejection, inspect};
use super::log::TenantLog;
use super::outcome::Failure;
use super::prepare::{ContentHash, Prepared, Tried};
use super::workers::{Audience, Batch, Call, Item, Job, Trial, Workers};
use crate::backbone::Backbone;
use crate::backbone::backoff::Backoff;
use crate::backbone::kv::KvStore;
use crate::config::{FailurePolicies, PluginsConfig, TenantPlugins};
use crate::domain::{ChannelName, Offset, TenantId, kv_key};
use crate::telemetry::{Metrics, PluginOutcome, TenantMetrics};

mod rehearsal;

pub use rehearsal::Rehearsal;

/// How long a start may take at least: what a runtime of a language does once, a hook does not do each time.
const START: Duration = Duration::from_millis(500);
/// How long a component waits for its first start where the node is busy with calls.
const TRIAL: Duration = Duration::from_secs(30);
/// Where the clock of the breakers begins.
static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
/// Plugins are numbered, so that an instance is never taken for another's.
static NEXT_KEY: AtomicU64 = AtomicU64::new(1);

/// How a node runs plugins.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// What the configuration says.
    pub plugins: PluginsConfig,
    /// What runs the compiler: [`CompileCommand::this_program`] in a node.
    pub compiler: CompileCommand,
    /// What proves that machine code is this node's own.
    pub key: NodeKey,
}

/// What the host needs of the node.
pub struct Services {
    /// Where the key-value stores are.
    pub backbone: Arc<dyn Backbone>,
    /// Where calls are counted.
    pub metrics: Metrics,
}

/// Why plugins cannot be run here.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The engine does not start: the address space is limited, or the processor lacks something.
    #[error("the engine for plugins does not start: {0:#}")]
    Engine(wasmtime::Error),
    /// It was not started on a runtime.
    #[error("plugins cannot be run outside of a runtime, which makes their requests")]
    Runtime,
    /// Threads or the folder for machine code.
    #[error("plugins cannot be run: {0}")]
    Io(#[from] std::io::Error),
}

/// A component bound to a tenant: what calls are for. Cheap to share; a new version is a new one.
pub struct Plugin {
    pub(super) key: u64,
    pub(super) prepared: Arc<Prepared>,
    pub(super) environment: Arc<Environment>,
    pub(super) limits: TenantPlugins,
    pub(super) answers: AnswerLimits,
    pub(super) metrics: Arc<TenantMetrics>,
    breaker: Breaker,
    cut_offs: AtomicU32,
    retired: AtomicBool,
    /// Bytes of memory of the instance that was last put by after a call.
    memory_bytes: AtomicUsize,
}

/// What a plugin is bound with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whose it is.
    pub tenant: TenantId,
    /// Its name, for logs.
    pub name: Arc<str>,
    /// What it reads by `wasi:config`.
    pub settings: Vec<(String, String)>,
    /// What it may take.
    pub limits: TenantPlugins,
    /// What its answers may have.
    pub answers: AnswerLimits,
}

/// A message on its way out, for `on-deliver`.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Its offset.
    pub offset: Offset,
    /// Its channel; shared by all messages of a batch.
    pub channel: Arc<str>,
    /// Its payload.
    pub data: Bytes,
    /// Its headers, `key`, `id` and `user`.
    pub facts: Facts,
    /// For which class ([`super::Scope::Class`]).
    pub class: Option<Arc<str>>,
    /// For which session ([`super::Scope::Session`]).
    pub recipient: Option<Recipient>,
}

/// Plugins of one node. Dropping it stops the workers and waits for them: a few milliseconds.
pub struct PluginHost {
    workers: Workers,
    compiler: Compiler,
    services: Services,
    logs: Mutex<HashMap<TenantId, Arc<TenantLog>>>,
    http: HttpClient,
    requests: Mutex<HashMap<TenantId, InFlight>>,
}

impl PluginHost {
    /// Starts engine and workers. The runtime that this is called on makes the requests of plugins.
    pub fn start(config: HostConfig, services: Services) -> Result<Self, HostError> {
        let HostConfig { plugins, compiler, key } = config;
        let http = HttpClient::here(Handle::try_current().map_err(|_| HostError::Runtime)?);
        let engine = engine::runner(plugins.instances).map_err(HostError::Engine)?;
        let ticker = Ticker::start(&engine)?;
        let workers =
            Workers::start(plugins.workers.get(), plugins.instances, ticker, services.metrics.clone())?;
        let compiler = Compiler::new(engine, &plugins, compiler, key)?;
        let (logs, requests) = Default::default();
        Ok(Self { workers, compiler, services, logs, http, requests })
    }

    /// Makes a component ready: looks at it, compiles it or finds that done, links it and starts it once. The tenant
    /// is the one whose limits hold, and whose log has what starting says. Cancelling stops the compiler.
    pub async fn prepare(&self, bytes: Bytes, settings: &Settings) -> Result<Arc<Prepared>, Rejection> {
        let (whole, most) = (bytes.clone(), settings.limits.code_bytes);
        // A pass over up to 64 MiB is no work for a thread that serves others.
        let looked = tokio::task::spawn_blocking(move || {
            inspect(&whole, most).map(|inspected| (inspected, ContentHash::of(&whole)))
        });
        let (inspected, hash) = looked.await.map_err(|error| Rejection::Node(error.to_string().into()))??;
        inspected.permitted(&settings.limits)?;
        let code_bytes = bytes.len();
        let compiled = self.compiler.component(bytes, hash).await?;
        let mut prepared = Prepared::link(&compiled.component, inspected, hash, code_bytes)?;
        let tried = self.try_out(Arc::new(prepared.clone()), settings).await?;
        if let Some(hook) = tried.misfit {
            return Err(Rejection::WrongTypes { hook: hook.interface() });
        }
        self.compiler.keep(hash, compiled).await;
        prepared.tried(&tried);
        Ok(Arc::new(prepared))
    }

    async fn try_out(&self, prepared: Arc<Prepared>, settings: &Settings) -> Result<Tried, Rejection> {
        let plugin = self.bind(prepared, settings.clone());
        let (until, mut backoff) = (Instant::now() + TRIAL, Backoff::new(TRIAL / 1_000, TRIAL / 30));
        loop {
            let (reply, answer) = oneshot::channel();
            self.workers.submit(Job::Trial(Trial { plugin: Arc::clone(&plugin), reply }));
            match answer.await.unwrap_or(Err(Failure::Unavailable)) {
                Ok(tried) => return Ok(tried),
                Err(failure) if failure.is_plugins() => {
                    return Err(Rejection::DoesNotStart(failure.to_string().into()));
                }
                // Calls go first where there is much to do.
                Err(failure) if failure.is_retryable() && Instant::now() < until => {
                    sleep(backoff.delay()).await;
                }
                Err(failure) => return Err(Rejection::Node(failure.to_string().into())),
            }
        }
    }

    /// Binds a component to a tenant.
    pub fn bind(&self, prepared: Arc<Prepared>, settings: Settings) -> Arc<Plugin> {
        let Settings { tenant, name, settings, limits, answers } = settings;
        let metrics = self.services.metrics.tenant(&tenant);
        let requests = self.requests(&tenant, &limits);
        let http = HttpAccess::new(self.http.clone(), &limits, requests, Arc::clone(&metrics));
        let environment = Environment {
            kv: KvStore { key: kv_key(&tenant).into(), max_keys: limits.kv_keys, max_bytes: limits.kv_bytes },
            log: self.log(&tenant, &limits),
            tenant,
            name,
            version: prepared.hash.to_string().into(),
            settings,
            backbone: Arc::clone(&self.services.backbone),
            kv_value_bytes: limits.kv_value_bytes,
            memory_bytes: limits.memory_bytes,
            http,
        };
        Arc::new(Plugin {
            key: NEXT_KEY.fetch_add(1, Ordering::Relaxed),
            prepared,
            environment: Arc::new(environment),
            limits,
            answers,
            metrics,
            breaker: Breaker::default(),
            retired: AtomicBool::new(false),
            memory_bytes: AtomicUsize::new(0),
            cut_offs: AtomicU32::new(0),
        })
    }

    /// Binds a plugin once more, as it is bound, to see what it would do: with a breaker of its own, that no rollback
    /// follows from.
    pub fn rehearse(self: &Arc<Self>, plugin: &Plugin) -> Rehearsal {
        let plugin = Arc::new(Plugin {
            key: NEXT_KEY.fetch_add(1, Ordering::Relaxed),
            prepared: Arc::clone(&plugin.prepared),
            environment: Arc::clone(&plugin.environment),
            limits: plugin.limits.clone(),
            answers: plugin.answers,
            // Nobody reads these.
            metrics: Arc::default(),
            breaker: Breaker::default(),
            memory_bytes: AtomicUsize::new(0),
            retired: AtomicBool::new(plugin.prepared.blueprint.is_none()),
            cut_offs: AtomicU32::new(0),
        });
        Rehearsal::new(Arc::clone(self), plugin)
    }

    /// Stands for a version that this node has not prepared: it has these hooks, and each call of one fails as
    /// [`Failure::Unavailable`], so that what happens then is what the tenant's policy says.
    pub fn absent(&self, hash: ContentHash, hooks: Hooks, settings: Settings) -> Arc<Plugin> {
        let plugin = self.bind(Arc::new(Prepared::absent(hash, hooks)), settings);
        plugin.retired.store(true, Ordering::SeqCst);
        plugin
    }

    /// The log of a tenant's plugins on this node.
    pub fn log(&self, tenant: &TenantId, limits: &TenantPlugins) -> Arc<TenantLog> {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let log = logs.entry(tenant.clone()).or_insert_with(|| {
            let metrics = self.services.metrics.tenant(tenant);
            Arc::new(TenantLog::new(limits.log_bytes, limits.log_lines_per_s, metrics))
        });
        Arc::clone(log)
    }

    /// A tenant's requests in flight.
    fn requests(&self, tenant: &TenantId, limits: &TenantPlugins) -> InFlight {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || InFlight::new(Semaphore::new(limits.http_requests));
        Arc::clone(requests.entry(tenant.clone()).or_insert_with(new))
    }

    /// Takes a plugin out of use: calls fail from now on, and its instances go.
    pub fn retire(&self, plugin: &Plugin) {
        plugin.retired.store(true, Ordering::SeqCst);
        self.workers.sweep();
    }

    /// Who is this client? Facts: `address`, `transport`, `origin`, `path`, and the request's headers.
    pub async fn authenticate(
        &self,
        plugin: &Arc<Plugin>,
        credentials: Credentials,
        facts: Facts,
    ) -> Result<Admission, Failure> {
        self.call::<hooks::Authenticate>(plugin, (credentials,), facts).await
    }

    /// May this client subscribe? Facts: `session`, `device`, `class`, `claims`.
    pub async fn on_subscribe(
        &self,
        plugin: &Arc<Plugin>,
        request: SubscribeRequest,
        facts: Facts,
    ) -> Result<SubscribeVerdict, Failure> {
        self.call::<hooks::OnSubscribe>(plugin, (request,), facts).await
    }

    /// May this client publish this? Facts: those of [`Self::on_subscribe`], `key`, `id`, the message's headers.
    pub async fn on_publish(
        &self,
        plugin: &Arc<Plugin>,
        message: Incoming,
        facts: Facts,
    ) -> Result<PublishVerdict, Failure> {
        self.call::<hooks::OnPublish>(plugin, (message,), facts).await
    }

    /// Where does this ingress entry go? Facts: `key`, `id`, the entry's headers.
    pub async fn route(
        &self,
        plugin: &Arc<Plugin>,
        offset: Offset,
        to: &[ChannelName],
        data: Bytes,
        facts: Facts,
    ) -> Result<RouteVerdict, Failure> {
        let to = to.iter().map(|channel| channel.as_str().into()).collect();
        let entry = IngressEntry { offset: offset.into(), to, data };
        self.call::<hooks::Route>(plugin, (entry,), facts).await
    }

    /// A session came or went. Facts: those of [`Self::on_subscribe`].
    pub async fn on_session(
        &self,
        plugin: &Arc<Plugin>,
        news: SessionNews,
        facts: Facts,
    ) -> Result<(), Failure> {
        self.call::<hooks::OnSession>(plugin, (news,), facts).await
    }

    /// What becomes of these messages? One answer each, in order. Unlike other calls this one waits while too many
    /// calls of the tenant wait already. Cancelled, the messages that were not shown yet are not.
    pub async fn deliver(
        &self,
        plugin: &Arc<Plugin>,
        messages: Vec<Delivery>,
    ) -> Vec<Result<DeliverVerdict, Failure>> {
        let count = messages.len();
        let items: Vec<Item> = messages.into_iter().map(item).collect();
        let (reply, answer) = oneshot::channel();
        let answers = Vec::with_capacity(count);
        let batch =
            Batch { plugin: Arc::clone(plugin), items: items.into_iter(), answers, reply, admitted: false };
        self.workers.submit_patiently(Job::Batch(batch)).await;
        answer.await.unwrap_or_else(|_| vec![Err(Failure::Unavailable); count])
    }

    async fn call<H: HookCall>(
        &self,
        plugin: &Arc<Plugin>,
        args: H::Args,
        facts: Facts,
    ) -> Result<H::Answer, Failure> {
        if !plugin.hooks().has(H::HOOK) {
            return Err(Failure::Unavailable);
        }
        let (reply, answer) = oneshot::channel();
        let call = Call::<H> { args, facts, since: Instant::now(), reply };
        self.workers.submit(Job::Call(Arc::clone(plugin), Box::new(call)));
        answer.await.unwrap_or(Err(Failure::Unavailable))
    }
}

fn item(message: Delivery) -> Item {
    let Delivery { offset, channel, data, facts, class, recipient } = message;
    let audience = match (class, recipient) {
        (_, Some(recipient)) => Audience::Session(recipient),
        (Some(class), None) => Audience::Class(class),
        (None, None) => Audience::Everyone,
    };
    Item { message: Message { offset: offset.into(), channel, data }, facts, audience }
}

impl Plugin {
    /// The hooks that it has.
    pub fn hooks(&self) -> Hooks {
        self.prepared.hooks
    }

    /// Whose it is.
    pub fn tenant(&self) -> &TenantId {
        &self.environment.tenant
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.environment.name
    }

    /// What it was made of.
    pub fn prepared(&self) -> &Arc<Prepared> {
        &self.prepared
    }

    /// Tells it from all others that are bound in this process, one of the same bytes included.
    pub fn number(&self) -> u64 {
        self.key
    }

    /// Whether it is cut off because it failed too often.
    pub fn is_cut_off(&self) -> bool {
        self.breaker.is_open()
    }

    /// How many times it was cut off.
    pub fn cut_offs(&self) -> u32 {
        self.cut_offs.load(Ordering::Relaxed)
    }

    /// What happens where it has no answer.
    pub fn on_failure(&self) -> &FailurePolicies {
        &self.limits.on_failure
    }

    /// Bytes of memory of the instance that was last put by after a call; 0 before the first one was.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn put_by(&self, memory_bytes: usize) {
        self.memory_bytes.store(memory_bytes, Ordering::Relaxed);
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// How long a hook may take.
    pub(super) fn deadline(&self, hook: Hook) -> Duration {
        match hook {
            Hook::Authenticate => self.limits.authenticate_deadline,
            _ => self.limits.deadline,
        }
    }

    /// How long a start may take.
    pub(super) fn start_deadline(&self) -> Duration {
        self.limits.deadline.max(START)
    }

    /// Whether the breaker lets a call through.
    pub(super) fn lets_through(&self) -> bool {
        // The clock is asked only where it matters.
        !self.breaker.is_open() || self.breaker.lets_through(now_ms())
    }

    /// Counts what came of a call.
    pub(super) fn settle<T>(
        &self,
        hook: Hook,
        result: &Result<T, Failure>,
        is_refusal: impl FnOnce(&T) -> bool,
    ) {
        let outcome = match result {
            Ok(answer) if is_refusal(answer) => PluginOutcome::Refused,
            Ok(_) => PluginOutcome::Answered,
            Err(failure) => failure.label(),
        };
        self.metrics.plugin_calls.of(hook).of(outcome).inc();
        match result {
            Ok(_) => self.breaker.succeeded(),
            Err(failure) if failure.is_plugins() => {
                if self.breaker.failed(now_ms()) {
                    self.metrics.plugin_cut_offs.inc();
                    self.cut_offs.fetch_add(1, Ordering::Relaxed);
                }
            }
            Err(_) => {}
        }
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin")
            .field("tenant", self.tenant())
            .field("name", &self.name())
            .field("hash", &self.prepared.hash)
            .finish_non_exhaustive()
    }
}

fn now_ms() -> u64 {
    u64::try_from(BEGIN.elapsed().as_millis()).unwrap_or(u64::MAX)
}
