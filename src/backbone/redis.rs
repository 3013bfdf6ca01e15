//! The backbone over a Redis or Valkey server: one master, Redis 6.2 or newer.
//!
//! Connections: for commands by the client library (`connection`), for the feed's reads without it
//! (`reader`), and one that hears keyspace events (`wakeups`). Every command and every script touches one key. *Invariants*: the `redis` crate is used nowhere
//! else; no await here is unbounded; the password of the URL reaches no log and no error.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::clock::Clock;
use super::kv::{KvAnswer, KvOp, KvStore};
use super::wake::DirtySet;
use super::{
    Addition, Backbone, BackboneError, CursorWrite, Group, Held, Page, Range, Read, Stored, Tail, Take, Trim,
    Work,
};
use crate::domain::{
    ChannelName, Cursor, CursorKey, Epoch, Generation, NodeId, Offset, RawEntry, SessionId, StreamKey,
};

mod connection;
mod continuity;
mod cursors;
mod epoch;
mod errors;
mod groups;
mod kv;
mod notify;
mod reader;
mod reads;
mod scripts;
mod start;
mod upkeep;
mod values;
mod wakeups;
mod watched;
mod writes;

use connection::{Dial, Link};
use cursors::Cursors;
use groups::Sweeps;
use reader::Way;
use wakeups::Wakeups;
use watched::Watched;

/// Where the server is and how long to wait for it.
#[derive(Clone)]
pub struct RedisConfig {
    /// `redis://[user:password@]host[:port][/db]`, or `rediss://` for TLS, which needs the process's
    /// TLS provider installed before.
    pub url: String,
    /// This node, which names its probe stream.
    pub node: NodeId,
    /// How long opening a connection may take, name resolution and handshakes included. 2 s; longer
    /// delays noticing that a server is away.
    pub connect_timeout: Duration,
    /// How long one answer may take; then the connection counts as dead. 3 s; shorter than the
    /// server's slowest pipeline (10 ms for 10,000 cursors) makes it reconnect under load.
    pub response_timeout: Duration,
    /// How long a call waits for a connection that is being opened before it answers `Away`. 500 ms.
    pub patience: Duration,
    /// How often watched streams are marked where events cannot be had. 100 ms; each poll costs the
    /// server one read a watched stream, at most 2,000 a poll.
    pub poll_interval: Duration,
    /// Polls even where events could be had: for servers behind proxies that swallow them, and tests.
    pub force_polling: bool,
}

impl RedisConfig {
    /// The defaults.
    pub fn new(url: impl Into<String>, node: NodeId) -> Self {
        Self {
            url: url.into(),
            node,
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(3),
            patience: Duration::from_millis(500),
            poll_interval: Duration::from_millis(100),
            force_polling: false,
        }
    }
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the URL: it may hold a password.
        f.debug_struct("RedisConfig").field("node", &self.node).finish_non_exhaustive()
    }
}

/// The backbone over one Redis master.
pub struct RedisBackbone {
    link: Arc<Link>,
    wakeups: Wakeups,
    cursors: Cursors,
    sweeps: Sweeps,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl RedisBackbone {
    /// Connects and checks the server. [`BackboneError::Away`] means that it cannot be reached now and
    /// may be tried again; `Refused` says what about the URL, the server or its data is not supported.
    ///
    /// Streams watched later are marked in `dirty`. Cancelling leaves nothing behind.
    pub async fn connect(config: RedisConfig, dirty: Arc<DirtySet>) -> Result<Arc<Self>, BackboneError> {
        let dial = Dial::new(&config)?;
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let link = Arc::new(Link::connect(dial.clone(), config.patience, tasks.clone()).await?);
        start::check(&link).await?;
        let watched = Watched::new(dirty, dial.database(), config.node.as_str());
        let (wakeups, keeper) = Wakeups::new(&config, dial, Arc::clone(&link), watched);
        tasks.spawn(Arc::clone(&link).supervise(stop.clone()));
        tasks.spawn(keeper.run(stop.clone()));
        tasks.close();
        let (cursors, sweeps) = Default::default();
        let backbone = Arc::new(Self { link, wakeups, cursors, sweeps, tasks, stop });
        backbone.wakeups.ready(config.connect_timeout + config.response_timeout).await;
        Ok(backbone)
    }

    /// Closes the connections and waits for the tasks to end. Every call after it answers `Away`.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

impl Drop for RedisBackbone {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[async_trait]
impl Backbone for RedisBackbone {
    async fn watch(&self, streams: &[StreamKey]) -> Result<(), BackboneError> {
        self.wakeups.watch(streams).await
    }

    async fn unwatch(&self, streams: &[StreamKey]) {
        self.wakeups.unwatch(streams).await;
    }

    async fn tails(&self, streams: &[StreamKey]) -> Vec<Result<Tail, BackboneError>> {
        reads::tails(&self.link, streams).await
    }

    async fn read(&self, reads: &[Read]) -> Vec<Result<Page, BackboneError>> {
        reads::read(&self.link, Way::Pages, reads).await
    }

    async fn read_live(&self, reads: &[Read]) -> Vec<Result<Page, BackboneError>> {
        reads::read(&self.link, Way::Live, reads).await
    }

    async fn history(&self, stream: &StreamKey, range: Range) -> Result<Vec<RawEntry>, BackboneError> {
        reads::history(&self.link, stream, range).await
    }

    async fn append_all(&self, additions: &[Addition]) -> Vec<Result<Offset, BackboneError>> {
        writes::append_all(&self.link, additions).await
    }

    async fn trim(&self, trims: &[Trim]) -> Vec<Result<u64, BackboneError>> {
        upkeep::trim(&self.link, trims).await
    }

    async fn remove(&self, stream: &StreamKey, offsets: &[Offset]) -> Result<u64, BackboneError> {
        upkeep::remove(&self.link, stream, offsets).await
    }

    async fn remove_empty(&self, streams: &[(StreamKey, Offset)]) -> Vec<Result<bool, BackboneError>> {
        upkeep::remove_empty(&self.link, streams).await
    }

    async fn scan(
        &self,
        prefix: &str,
        cursor: u64,
        effort: usize,
    ) -> Result<(u64, Vec<StreamKey>), BackboneError> {
        upkeep::scan(&self.link, prefix, cursor, effort).await
    }

    async fn watchers(&self, streams: &[StreamKey]) -> Vec<Result<Option<u64>, BackboneError>> {
        self.wakeups.watchers(streams).await
    }

    async fn take(&self, take: &Take) -> Result<Vec<Work>, BackboneError> {
        groups::take(&self.link, &self.sweeps, take).await
    }

    async fn keep(&self, group: &Group, consumer: &str, held: &[Held]) -> Result<Vec<Offset>, BackboneError> {
        groups::keep(&self.link, group, consumer, held).await
    }

    async fn give_back(&self, group: &Group, consumer: &str, held: &[Held]) -> Result<(), BackboneError> {
        groups::give_back(&self.link, group, consumer, held).await
    }

    async fn finish(&self, group: &Group, offsets: &[Offset]) -> Result<(), BackboneError> {
        groups::finish(&self.link, group, offsets).await
    }

    async fn tidy(&self, group: &Group, idle: Duration) -> Result<u64, BackboneError> {
        groups::tidy(&self.link, group, idle).await
    }

    async fn lease(&self, key: &str, holder: &str, ttl: Duration) -> Result<bool, BackboneError> {
        writes::lease(&self.link, key, holder, ttl).await
    }

    async fn release(&self, key: &str, holder: &str) -> Result<(), BackboneError> {
        writes::release(&self.link, key, holder).await
    }

    async fn claim_cursors(
        &self,
        device: &CursorKey,
        ttl: Duration,
    ) -> Result<(Generation, Vec<(ChannelName, Cursor)>), BackboneError> {
        self.cursors.claim(&self.link, device, ttl).await
    }

    async fn begin_session(
        &self,
        device: &CursorKey,
        generation: Generation,
        session: SessionId,
    ) -> Result<Option<SessionId>, BackboneError> {
        cursors::begin(&self.link, device, generation, session).await
    }

    async fn end_session(
        &self,
        device: &CursorKey,
        generation: Generation,
        session: SessionId,
    ) -> Result<bool, BackboneError> {
        cursors::end(&self.link, device, generation, session).await
    }

    async fn store_cursors(&self, writes: &[CursorWrite]) -> Vec<Result<Stored, BackboneError>> {
        self.cursors.store(&self.link, writes).await
    }

    async fn heartbeat(
        &self,
        node: &NodeId,
        record: &str,
        lease: Duration,
    ) -> Result<Vec<(NodeId, String)>, BackboneError> {
        writes::heartbeat(&self.link, node, record, lease).await
    }

    async fn forget_node(&self, node: &NodeId) -> Result<(), BackboneError> {
        writes::forget_node(&self.link, node).await
    }

    async fn get_or_set(&self, key: &str, value: &str) -> Result<String, BackboneError> {
        writes::get_or_set(&self.link, key, value).await
    }

    async fn kv(&self, store: &KvStore, op: KvOp) -> Result<KvAnswer, BackboneError> {
        kv::apply(&self.link, store, op).await
    }

    fn clock(&self) -> Clock {
        self.link.clock()
    }

    fn epoch(&self) -> Epoch {
        self.link.epoch()
    }

    fn is_connected(&self) -> bool {
        self.link.is_connected() && self.wakeups.is_connected()
    }
}
