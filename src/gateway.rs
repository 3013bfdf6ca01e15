//! The gateway: assembles every stage of a node, owns its tasks and its end.
//!
//! *Invariant*: the one place that sees all stages. Nothing below imports it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle as ThreadHandle;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::api::admin::{self, Admin, AdminToken, Hosts};
use crate::api::drain::{self, Drain};
use crate::api::health::{Health, Lifecycle};
use crate::api::publish::Publishing;
use crate::api::publish::sends::Sends;
use crate::api::tickets::Tickets;
use crate::api::{resp, sessions};
use crate::backbone::embedded::Embedded;
use crate::backbone::redis::{RedisBackbone, RedisConfig};
use crate::backbone::wake::DirtySet;
use crate::backbone::{Backbone, BackboneError};
use crate::config::{BackboneConfig, Config, RetentionConfig, Wake, places, raise_file_limit};
use crate::delivery::queues::{QueueLinks, QueueOptions, Queues, QueuesHandle};
use crate::delivery::{
    Delivery, Feed, FeedHandle, FeedOptions, Ingress, IngressOptions, Janitor, JanitorOptions, Links, Shaper,
    ShardId, Trims, Upstream,
};
use crate::directory::{Directory, Order};
use crate::domain::NodeId;
use crate::domain::keys::SECRET_KEY;
use crate::plugin::Plugins;
use crate::plugin::host::HostError;
use crate::router::secret::ShortSecret;
use crate::router::{AffinityKey, ClusterSecret, Members, NodeRecord, ResumeTokens, membership};
use crate::session::Session;
use crate::shard::gate::Gate;
use crate::shard::waiting::Detached;
use crate::shard::{self, Env, Inlets, Page};
use crate::telemetry::{Metrics, events};
use crate::tenants::Tenants;
use crate::transport::quic::Endpoint;
use crate::transport::tls::TlsError;

mod edge;
mod plugins;

use edge::Edge;
use plugins::PluginStage;

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("{error}; choose another address with {flag}")]
    Listen {
        /// What went wrong, with the address.
        error: io::Error,
        /// The flag that changes it.
        flag: &'static str,
    },
    /// The backbone cannot be used.
    #[error("the backbone cannot be used; is the server of --redis running?")]
    Backbone(#[from] BackboneError),
    /// The cluster's secret is too weak.
    #[error("the cluster's secret cannot be used")]
    Secret(#[from] ShortSecret),
    /// Tenants' plugins cannot be run on this machine.
    #[error("tenants' plugins cannot be run here")]
    Plugins(#[from] HostError),
    /// The certificate cannot be used.
    #[error("the node has no certificate to show")]
    Tls(#[from] TlsError),
    /// Too few files may be open for the connections that are wanted.
    #[error(transparent)]
    Files(#[from] crate::config::TooFewFiles),
    /// The system refused something else.
    #[error("the node cannot start")]
    System(#[from] io::Error),
}

/// Where a node can be reached.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// Clients and publishing.
    pub http: SocketAddr,
    /// Operators.
    pub admin: SocketAddr,
    /// Backends, where the backbone is embedded.
    pub resp: Option<SocketAddr>,
    /// Clients over QUIC, where the node has a certificate.
    pub quic: Option<SocketAddr>,
}

/// A running node. Call [`Node::drain`] to end it without losing anything.
pub struct Node {
    addresses: Addresses,
    node: NodeId,
    backbone: Started,
    lifecycle: watch::Sender<Lifecycle>,
    record: watch::Sender<NodeRecord>,
    drain: Drain,
    /// What this node does for others it stops at the start of the drain.
    leaving: CancellationToken,
    stop: CancellationToken,
    shards: Vec<ThreadHandle<io::Result<()>>>,
    quic: Option<Endpoint>,
    sends: Sends,
    tasks: JoinSet<()>,
}

/// A backbone, with what is special about each kind.
enum Started {
    Embedded(Arc<Embedded>),
    Redis(Arc<RedisBackbone>),
}

impl Started {
    fn contract(&self) -> Arc<dyn Backbone> {
        match self {
            Self::Embedded(embedded) => embedded.clone(),
            Self::Redis(redis) => redis.clone(),
        }
    }
}

/// Batches that wait for one shard.
const SHARD_QUEUE: usize = 1024;
/// How long the node's own tasks have to end once the shards have, even where the deadline is over.
const TASKS_END: Duration = Duration::from_millis(250);
/// Orders of the directory that wait for one shard.
const ORDER_QUEUE: usize = 256;

impl Node {
    /// Starts a node; when this returns it takes traffic. `page` makes what is served at `/` once the
    /// addresses are known.
    ///
    /// # Errors
    /// [`StartError`] says what to change. Cancelling leaves nothing behind but what dropping a
    /// runtime ends.
    pub async fn start(
        config: &Config,
        metrics: Metrics,
        page: Option<fn(&Addresses) -> Page>,
    ) -> Result<Self, StartError> {
        let places = places(&config.node, raise_file_limit()?)?;
        let count = config.node.shards.get();
        let edge = Edge::bind(config)?;
        let (admin_listener, admin) = listen(config.node.admin_listen, "--admin-listen").await?;
        let (backbone, resp, mut stages) = Stages::begin(config, metrics).await?;
        let addresses = Addresses { http: edge.http, admin, resp, quic: edge.quic_address() };
        let drain = Drain::new(count, config.node.drain_timeout);
        let leaving = CancellationToken::new();
        let secret = cluster_secret(config, &*stages.backbone).await?;

        let (to_shards, deliveries) = channels::<Delivery>(count, SHARD_QUEUE);
        let (to_orders, orders) = channels::<Order<Session>>(count, ORDER_QUEUE);
        let (record, members) = stages.membership();
        let plugins = stages.plugins(&secret, record.subscribe()).await?;
        let directory = stages.directory(to_orders);
        let lifecycle = stages.admin(admin_listener, admin, directory.clone(), drain.clone(), &plugins);
        // What is on is ready before anything is shown to it.
        plugins.rollout.joined().await;
        let upstream = stages.upstream();
        let (plugins, news) = (plugins.hooks, stages.news());
        let shaper = Arc::new(Shaper::new(plugins.clone(), stages.backbone.clone()));
        let queues = stages.queues(to_shards.clone(), shaper.clone());
        let feed = stages.feed(to_shards, upstream.clone(), members, shaper.clone());
        stages.ingress(upstream.clone(), plugins.clone(), leaving.clone());
        stages.janitor();

        let Stages { backbone: contract, tenants, metrics, stop, mut tasks, .. } = stages;
        let node = config.node.id.clone();
        let publishing = Publishing::new(node.clone(), contract.clone(), metrics.clone(), upstream.clone());
        let env = Env {
            id: ShardId(0),
            node: node.clone(),
            tickets: Tickets::new(&secret, contract.clone()),
            backbone: contract,
            feed,
            queues,
            directory,
            upstream,
            plugins,
            news,
            shaper,
            tenants,
            resume: ResumeTokens::new(&secret),
            route: edge.route(config),
            tls: edge.tls(),
            publishing,
            metrics,
            gate: Gate::new(places, &config.node.accept),
            header_timeout: config.node.header_timeout,
            detached: Detached::new(config.node.max_detached_sessions),
            drain: drain.clone(),
            page: page.map(|page| page(&addresses)),
        };
        let (inlets, quic) = edge.open(deliveries, orders, stop.clone(), &mut tasks)?;
        let shards = spawn_shards(&env, inlets)?;
        lifecycle.send_replace(Lifecycle::Ready);
        events::node_ready(&node);
        Ok(Self {
            addresses,
            node,
            backbone,
            lifecycle,
            record,
            drain,
            leaving,
            stop,
            shards,
            quic,
            sends: env.publishing.sends,
            tasks,
        })
    }

    /// Where it can be reached.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Resolves once an operator asks for the drain (`POST /admin/drain`). Cancel-safe.
    pub async fn drain_asked(&self) {
        self.drain.asked().await;
    }

    /// Ends the node: clients are told to go elsewhere, cursors are stored, every thread and task is
    /// joined, all by one deadline, `node.drain_timeout_ms` from now. Not to be cancelled: what is cut off
    /// then is delivered again elsewhere.
    pub async fn drain(mut self) {
        let plan = self.drain.begin();
        self.leaving.cancel();
        let timeout = plan.deadline - plan.began;
        self.lifecycle.send_replace(Lifecycle::Draining);
        self.record.send_modify(|record| record.draining = true);
        events::drain_started(&self.node, plan.sessions, timeout);
        let shards = std::mem::take(&mut self.shards);
        let joined = tokio::task::spawn_blocking(move || shards.into_iter().for_each(join_shard));
        // Shards keep the deadline by themselves. Past it the process ends with whatever one still holds.
        if tokio::time::timeout_at(plan.deadline.into(), joined).await.is_err() {
            tracing::error!("the deadline came before every shard had ended");
            self.drain.force(self.drain.sessions());
        }
        let left = plan.deadline.saturating_duration_since(Instant::now());
        if let Some(quic) = self.quic.take() {
            quic.close(left).await;
        }
        self.sends.finish(left).await;
        self.stop.cancel();
        let end = async {
            while self.tasks.join_next().await.is_some() {}
            if let Started::Redis(redis) = &self.backbone {
                redis.shutdown().await;
            }
        };
        let latest = plan.deadline.max(Instant::now() + TASKS_END);
        if tokio::time::timeout_at(latest.into(), end).await.is_err() {
            tracing::error!("tasks of the node are cut: they did not end in time");
        }
        events::drain_ended(&self.node, self.drain.forced(), plan.began.elapsed());
    }
}

/// A bounded queue for each shard.
fn channels<T>(shards: usize, size: usize) -> (Vec<mpsc::Sender<T>>, Vec<mpsc::Receiver<T>>) {
    (0..shards).map(|_| mpsc::channel(size)).unzip()
}

/// Starts a shard for each set of inlets.
fn spawn_shards(env: &Env, inlets: Vec<Inlets>) -> io::Result<Vec<ThreadHandle<io::Result<()>>>> {
    // Configuration allows `ShardId::MOST` at most.
    let numbered = inlets.into_iter().enumerate().map(|(id, inlets)| (ShardId(id as u8), inlets));
    numbered.map(|(id, inlets)| shard::spawn(Env { id, ..env.clone() }, inlets)).collect()
}

fn join_shard(shard: ThreadHandle<io::Result<()>>) {
    match shard.join() {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "a shard failed"),
        Err(_) => tracing::error!("a shard panicked"),
    }
}

/// The stages of a node while it is put together, and what all of them share.
struct Stages<'a> {
    config: &'a Config,
    backbone: Arc<dyn Backbone>,
    dirty: Arc<DirtySet>,
    tenants: Arc<Tenants>,
    metrics: Metrics,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl<'a> Stages<'a> {
    /// Begins with the backbone, and where backends reach it if it is embedded.
    async fn begin(
        config: &'a Config,
        metrics: Metrics,
    ) -> Result<(Started, Option<SocketAddr>, Self), StartError> {
        let dirty = Arc::new(DirtySet::default());
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let (started, resp) = start_backbone(config, &dirty, &stop, &mut tasks).await?;
        let (backbone, tenants) = (started.contract(), Arc::new(Tenants::from_config(config)));
        Ok((started, resp, Self { config, backbone, dirty, tenants, metrics, stop, tasks }))
    }

    /// Takes a task that a stage started into the node's set, which joins it.
    fn own(&mut self, task: JoinHandle<()>) {
        self.tasks.spawn(async move {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task of the node failed");
            }
        });
    }

    fn node(&self) -> NodeId {
        self.config.node.id.clone()
    }

    fn membership(&mut self) -> (watch::Sender<NodeRecord>, watch::Receiver<Arc<Members>>) {
        let url = self.config.node.public_url.as_ref().map(ToString::to_string);
        let tenants = Some(self.config.tenants.keys().cloned().collect());
        let (record, records) = watch::channel(NodeRecord { tenants, ..NodeRecord::new(url) });
        let (members, task) =
            membership::start(self.backbone.clone(), self.node(), records, self.stop.clone());
        self.own(task);
        (record, members)
    }

    fn upstream(&mut self) -> Upstream {
        let (backbone, tenants, metrics) =
            (self.backbone.clone(), self.tenants.clone(), self.metrics.clone());
        let (upstream, task) = Upstream::spawn(backbone, self.node(), tenants, metrics, self.stop.clone());
        self.own(task);
        upstream
    }

    fn queues(&mut self, shards: Vec<mpsc::Sender<Delivery>>, shaper: Arc<Shaper>) -> QueuesHandle {
        let options = QueueOptions { lease: self.config.cluster.queue_lease, ..QueueOptions::default() };
        let (backbone, dirty, metrics) = (self.backbone.clone(), self.dirty.clone(), self.metrics.clone());
        let links = QueueLinks { backbone, dirty, metrics, shaper, shards };
        let (queues, task) = Queues::spawn(links, self.node(), options, self.stop.clone());
        self.own(task);
        queues
    }

    fn feed(
        &mut self,
        shards: Vec<mpsc::Sender<Delivery>>,
        upstream: Upstream,
        members: watch::Receiver<Arc<Members>>,
        shaper: Arc<Shaper>,
    ) -> FeedHandle {
        let options = FeedOptions {
            ring_bytes: self.config.memory.ring_bytes,
            page_cache_bytes: self.config.memory.page_cache_bytes,
            ..FeedOptions::default()
        };
        let links = Links {
            backbone: self.backbone.clone(),
            dirty: self.dirty.clone(),
            metrics: self.metrics.clone(),
            shards,
            upstream,
            trims: trims(members, self.node()),
            shaper,
        };
        let (feed, task) = Feed::spawn(links, options, self.stop.clone());
        self.own(task);
        feed
    }

    fn ingress(&mut self, upstream: Upstream, plugins: Plugins, leaving: CancellationToken) {
        let ingress = Ingress {
            backbone: self.backbone.clone(),
            dirty: self.dirty.clone(),
            tenants: self.tenants.clone(),
            metrics: self.metrics.clone(),
            plugins,
            upstream,
            node: self.node(),
            options: IngressOptions::default(),
        };
        self.own(ingress.spawn(leaving));
    }

    /// What looks after the streams that no node watches.
    fn janitor(&mut self) {
        let RetentionConfig { pass, keys_per_s } = self.config.retention;
        let options = JanitorOptions { pass, keys_per_s };
        let (backbone, tenants, metrics) =
            (self.backbone.clone(), self.tenants.clone(), self.metrics.clone());
        self.own(Janitor::spawn(backbone, tenants, metrics, self.node(), options, self.stop.clone()));
    }

    fn directory(&mut self, shards: Vec<mpsc::Sender<Order<Session>>>) -> Directory<Session> {
        let (directory, task) = Directory::spawn(shards, self.stop.clone());
        self.own(task);
        directory
    }

    /// What operators and the tenants' developers use. It says that the node starts until it is told otherwise.
    fn admin(
        &mut self,
        listener: TcpListener,
        address: SocketAddr,
        directory: Directory<Session>,
        drain: Drain,
        plugins: &PluginStage,
    ) -> watch::Sender<Lifecycle> {
        let (lifecycle, seen) = watch::channel(Lifecycle::Starting);
        let token = self.config.admin.token.as_ref().map(|token| Arc::new(AdminToken::new(token.expose())));
        let admin = Admin {
            health: Health { lifecycle: seen, backbone: self.backbone.clone() },
            metrics: self.metrics.clone(),
            token: token.clone(),
            hosts: Hosts::new(address, []),
        };
        let routes = sessions::router(directory, self.tenants.clone()).merge(drain::router(drain));
        let tenants = plugins.routes(&self.tenants, token, self.stop.clone());
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            if let Err(error) = admin::serve(listener, admin, routes, tenants, stop).await {
                tracing::error!(%error, "the admin listener failed");
            }
        });
        lifecycle
    }
}

async fn listen(address: SocketAddr, flag: &'static str) -> Result<(TcpListener, SocketAddr), StartError> {
    let named = |error: io::Error| {
        let error = io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"));
        StartError::Listen { error, flag }
    };
    let listener = TcpListener::bind(address).await.map_err(named)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Connects to Redis, or starts the embedded backbone with its listener for backends.
async fn start_backbone(
    config: &Config,
    dirty: &Arc<DirtySet>,
    stop: &CancellationToken,
    tasks: &mut JoinSet<()>,
) -> Result<(Started, Option<SocketAddr>), StartError> {
    match &config.backbone {
        BackboneConfig::Redis { url, wake, poll } => {
            let redis = RedisConfig {
                poll_interval: *poll,
                force_polling: *wake == Wake::Poll,
                ..RedisConfig::new(url.expose(), config.node.id.clone())
            };
            Ok((Started::Redis(RedisBackbone::connect(redis, dirty.clone()).await?), None))
        }
        BackboneConfig::Embedded { resp_listen, resp_password } => {
            let embedded = Embedded::new(dirty.clone());
            let (listener, address) = listen(*resp_listen, "--resp-listen").await?;
            let password = resp_password.as_ref().map(|password| password.expose().to_owned());
            let options = resp::Options { password, ..resp::Options::default() };
            let (store, stop) = (embedded.clone(), stop.clone());
            tasks.spawn(async move {
                if let Err(error) = resp::serve(listener, store, options, stop).await {
                    tracing::error!(%error, "backends cannot connect");
                }
            });
            Ok((Started::Embedded(embedded), Some(address)))
        }
    }
}

/// Of all nodes one trims a channel: where rendezvous hashing puts it.
fn trims(members: watch::Receiver<Arc<Members>>, node: NodeId) -> Trims {
    Arc::new(move |channel| {
        let key = AffinityKey::new(&channel.tenant, channel.name.as_str().as_bytes());
        members.borrow().home(key).is_none_or(|home| *home == node)
    })
}

/// The secret that signs resume tokens: the configured one, or else one that the backbone keeps.
async fn cluster_secret(config: &Config, backbone: &dyn Backbone) -> Result<ClusterSecret, StartError> {
    let secret = match &config.cluster.secret {
        Some(secret) => ClusterSecret::new(secret.expose())?,
        None => ClusterSecret::new(&backbone.get_or_set(SECRET_KEY, &ClusterSecret::generate()).await?)?,
    };
    Ok(secret)
}
