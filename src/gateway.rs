//! The gateway: assembles every stage of a node, owns its tasks and its end.
//!
//! *Invariant*: the one place that sees all stages. Nothing below imports it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle as ThreadHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::api::admin::{self, Admin, AdminToken, Hosts, Routes};
use crate::api::health::{Health, Lifecycle};
use crate::api::publish::Publishing;
use crate::api::publish::sends::Sends;
use crate::api::{resp, sessions};
use crate::backbone::embedded::Embedded;
use crate::backbone::redis::{RedisBackbone, RedisConfig};
use crate::backbone::wake::DirtySet;
use crate::backbone::{Backbone, BackboneError};
use crate::config::{BackboneConfig, Config, Wake, connection_limit, raise_file_limit};
use crate::delivery::{Delivery, Feed, FeedOptions, Ingress, IngressOptions, ShardId, Upstream};
use crate::directory::{Directory, Order};
use crate::domain::NodeId;
use crate::domain::keys::SECRET_KEY;
use crate::router::secret::ShortSecret;
use crate::router::{ClusterSecret, NodeRecord, ResumeTokens, membership};
use crate::session::Session;
use crate::shard::gate::Gate;
use crate::shard::{self, Env, Inlets};
use crate::telemetry::{Metrics, events};
use crate::tenants::Tenants;
use crate::transport::listener::bind_shards;

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
}

/// A running node. Call [`Node::drain`] to end it without losing anything.
pub struct Node {
    addresses: Addresses,
    node: NodeId,
    backbone: Started,
    lifecycle: watch::Sender<Lifecycle>,
    record: watch::Sender<NodeRecord>,
    drain: CancellationToken,
    stop: CancellationToken,
    shards: Vec<ThreadHandle<io::Result<usize>>>,
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
/// How long the node's own tasks may take to end once the shards have.
const TASKS_END: Duration = Duration::from_secs(5);
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
        page: Option<fn(&Addresses) -> String>,
    ) -> Result<Self, StartError> {
        let limit = connection_limit(&config.node, raise_file_limit()?)?;
        let count = config.node.shards.get();
        let (http, listeners) = bind_shards(config.node.listen, count)
            .map_err(|error| StartError::Listen { error, flag: "--listen" })?;
        let (admin_listener, admin) = listen(config.node.admin_listen, "--admin-listen").await?;

        let dirty = Arc::new(DirtySet::default());
        let (stop, drain) = (CancellationToken::new(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        let (backbone, resp) = start_backbone(config, &dirty, &stop, &mut tasks).await?;
        let contract = backbone.contract();
        let resume = ResumeTokens::new(&cluster_secret(config, &*contract).await?);
        let record = NodeRecord::new(config.node.public_url.as_ref().map(ToString::to_string));
        let (record, records) = watch::channel(record);
        let (_members, keeper) =
            membership::start(contract.clone(), config.node.id.clone(), records, stop.clone());
        own(&mut tasks, keeper);

        let options = FeedOptions {
            ring_bytes: config.memory.ring_bytes,
            page_cache_bytes: config.memory.page_cache_bytes,
            ..FeedOptions::default()
        };
        let (to_shards, deliveries): (Vec<_>, Vec<_>) =
            (0..count).map(|_| mpsc::channel::<Delivery>(SHARD_QUEUE)).unzip();
        let (to_orders, orders): (Vec<_>, Vec<_>) =
            (0..count).map(|_| mpsc::channel::<Order<Session>>(ORDER_QUEUE)).unzip();
        let tenants = Arc::new(Tenants::from_config(config));
        let (upstream, task) = Upstream::spawn(
            contract.clone(),
            config.node.id.clone(),
            tenants.clone(),
            metrics.clone(),
            stop.clone(),
        );
        own(&mut tasks, task);
        let (feed, task) = Feed::spawn(
            contract.clone(),
            dirty.clone(),
            metrics.clone(),
            options,
            to_shards,
            upstream.clone(),
            stop.clone(),
        );
        own(&mut tasks, task);
        let (directory, task) = Directory::spawn(to_orders, stop.clone());
        own(&mut tasks, task);

        let addresses = Addresses { http, admin, resp };
        let (lifecycle, seen) = watch::channel(Lifecycle::Starting);
        let health = Health { lifecycle: seen, backbone: contract.clone() };
        let token = config.admin.token.as_ref().map(|token| AdminToken::new(token.expose()));
        let hosts = Hosts::new(admin, []);
        let admin_api = Admin { health, metrics: metrics.clone(), token, hosts };
        let routes = sessions::router(directory.clone(), tenants.clone());
        tasks.spawn(serve_admin(admin_listener, admin_api, routes, stop.clone()));

        let publishing =
            Publishing::new(config.node.id.clone(), contract.clone(), metrics.clone(), upstream.clone());
        let sends = publishing.sends.clone();
        let ingress = Ingress {
            backbone: contract.clone(),
            dirty,
            tenants: tenants.clone(),
            metrics: metrics.clone(),
            upstream: upstream.clone(),
            node: config.node.id.clone(),
            options: IngressOptions::default(),
        };
        own(&mut tasks, ingress.spawn(drain.clone()));

        let env = Env {
            id: ShardId(0),
            node: config.node.id.clone(),
            backbone: contract,
            feed,
            directory,
            upstream,
            tenants,
            resume,
            publishing,
            metrics,
            gate: Gate::new(limit.get()),
            page: page.map(|page| Bytes::from(page(&addresses))),
        };
        let inlets = listeners.into_iter().zip(deliveries).zip(orders);
        let mut shards = Vec::with_capacity(count);
        for (id, ((listener, deliveries), orders)) in inlets.enumerate() {
            // Configuration allows `ShardId::MOST` at most.
            let env = Env { id: ShardId(id as u8), ..env.clone() };
            shards.push(shard::spawn(env, Inlets { listener, deliveries, orders, drain: drain.clone() })?);
        }
        lifecycle.send_replace(Lifecycle::Ready);
        events::node_ready(&config.node.id);
        let node = config.node.id.clone();
        Ok(Self { addresses, node, backbone, lifecycle, record, drain, stop, shards, sends, tasks })
    }

    /// Where it can be reached.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Ends the node: clients are told to go elsewhere, cursors are stored, every thread and task is
    /// joined. Not to be cancelled: what is cut off then is delivered again elsewhere.
    pub async fn drain(mut self, deadline: Duration) {
        let began = Instant::now();
        self.lifecycle.send_replace(Lifecycle::Draining);
        self.record.send_modify(|record| record.draining = true);
        events::drain_started(&self.node, deadline);
        self.drain.cancel();
        let shards = std::mem::take(&mut self.shards);
        let joined = tokio::task::spawn_blocking(move || shards.into_iter().map(join_shard).sum());
        // Past the deadline the process ends with whatever a shard still holds.
        let forced = match tokio::time::timeout(deadline, joined).await {
            Ok(forced) => forced.unwrap_or(0),
            Err(_) => {
                tracing::error!("the deadline came before every shard had ended");
                0
            }
        };
        self.sends.finish(deadline.saturating_sub(began.elapsed())).await;
        self.stop.cancel();
        let tasks = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(TASKS_END, tasks).await.is_err() {
            tracing::error!("tasks of the node are cut: they did not end in time");
        }
        if let Started::Redis(redis) = &self.backbone {
            redis.shutdown().await;
        }
        events::drain_ended(&self.node, forced, began.elapsed());
    }
}

/// How many connections a shard had to cut.
fn join_shard(shard: ThreadHandle<io::Result<usize>>) -> usize {
    match shard.join() {
        Ok(Ok(forced)) => forced,
        Ok(Err(error)) => {
            tracing::error!(%error, "a shard failed");
            0
        }
        Err(_) => {
            tracing::error!("a shard panicked");
            0
        }
    }
}

/// Takes a task that a stage started into the node's set, which joins it.
fn own(tasks: &mut JoinSet<()>, task: JoinHandle<()>) {
    tasks.spawn(async move {
        if let Err(error) = task.await {
            tracing::error!(%error, "a task of the node failed");
        }
    });
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

/// The secret that signs resume tokens: the configured one, or else one that the backbone keeps.
async fn cluster_secret(config: &Config, backbone: &dyn Backbone) -> Result<ClusterSecret, StartError> {
    let secret = match &config.cluster.secret {
        Some(secret) => ClusterSecret::new(secret.expose())?,
        None => ClusterSecret::new(&backbone.get_or_set(SECRET_KEY, &ClusterSecret::generate()).await?)?,
    };
    Ok(secret)
}

async fn serve_admin(listener: TcpListener, admin: Admin, routes: Routes, stop: CancellationToken) {
    if let Err(error) = admin::serve(listener, admin, routes, stop).await {
        tracing::error!(%error, "the admin listener failed");
    }
}
