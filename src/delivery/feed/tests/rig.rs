//! A feed over a [`Probe`], with the tests as its shards.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::probe::Probe;
use crate::backbone::embedded::Embedded;
use crate::backbone::embedded::log::{Keep, NewId};
use crate::backbone::embedded::store::Addition;
use crate::backbone::wake::DirtySet;
use crate::backbone::{Backbone as _, BackboneError, Tail};
use crate::delivery::{
    Batch, Channel, Delivery, Feed, FeedHandle, FeedOptions, Links, Request, Shaper, ShardId, Upstream, View,
};
use crate::domain::{ChannelName, NamespaceRules, NodeId, Offset, Retention, StreamKey, TenantId};
use crate::plugin::Plugins;
use crate::telemetry::Metrics;

/// A running feed and all that it talks to.
pub(super) struct Rig {
    pub(super) probe: Arc<Probe>,
    pub(super) dirty: Arc<DirtySet>,
    pub(super) metrics: Metrics,
    feed: FeedHandle,
    shards: Vec<mpsc::Receiver<Delivery>>,
    retention: Retention,
    most: Option<u32>,
    _running: (DropGuard, JoinHandle<()>),
}

impl Rig {
    /// A feed with one shard for each capacity of an inbox.
    pub(super) fn new(inboxes: &[usize]) -> Self {
        let dirty = Arc::new(DirtySet::default());
        let probe = Arc::new(Probe::new(Embedded::new(dirty.clone())));
        let metrics = Metrics::default();
        let cancel = CancellationToken::new();
        let (senders, shards) = inboxes.iter().map(|capacity| mpsc::channel(*capacity)).unzip();
        let options = FeedOptions::default();
        let node = NodeId::parse("test").unwrap();
        let (upstream, _) =
            Upstream::spawn(probe.clone(), node, Arc::default(), metrics.clone(), cancel.clone());
        let links = Links {
            backbone: probe.clone(),
            dirty: dirty.clone(),
            metrics: metrics.clone(),
            shards: senders,
            upstream,
            trims: Arc::new(|_| true),
            shaper: Arc::new(Shaper::new(Plugins::none(), probe.clone())),
        };
        let running = Feed::spawn(links, options, cancel.clone());
        let retention = NamespaceRules::log("room").retention;
        let (feed, task) = running;
        let running = (cancel.drop_guard(), task);
        Self { probe, dirty, metrics, feed, shards, retention, most: None, _running: running }
    }

    /// Channels opened from now on keep so much.
    pub(super) fn retain(&mut self, max_len: u64, max_age: Duration) {
        self.retention = Retention { max_len, max_age_ms: max_age.as_millis() as u64, max_bytes: None };
    }

    /// Channels opened from now on deliver so many messages a second at most.
    pub(super) fn thin(&mut self, most: u32) {
        self.most = Some(most);
    }

    fn channel(&self, stream: &StreamKey) -> Arc<Channel> {
        let tenant = TenantId::parse("test").unwrap();
        let metrics = self.metrics.tenant(&tenant);
        let (retention, max_per_subscriber_per_s) = (self.retention, self.most);
        let rules = NamespaceRules { retention, max_per_subscriber_per_s, ..NamespaceRules::log("room") };
        let rules = Arc::new(rules);
        let (name, stream) = (ChannelName::parse("room:1").unwrap(), stream.clone());
        Arc::new(Channel { tenant, name, view: View::shared(stream), rules, max_payload: 1_000, metrics })
    }

    /// Asks for a channel without waiting for the answer.
    pub(super) async fn ask_open(&self, shard: u8, stream: &StreamKey) {
        let request = Request::Open { channel: self.channel(stream), shard: ShardId(shard) };
        self.feed.send(request).await.unwrap();
    }

    /// Opens a channel; nothing else may arrive before the answer.
    pub(super) async fn open(&mut self, shard: u8, stream: &StreamKey) -> Tail {
        self.ask_open(shard, stream).await;
        self.opened(shard, stream).await.unwrap()
    }

    /// The answer to an `Open`, which has to be the next delivery.
    pub(super) async fn opened(&mut self, shard: u8, stream: &StreamKey) -> Result<Tail, BackboneError> {
        match self.next(shard).await {
            Delivery::Opened { view, tail } if view.stream == *stream => tail,
            other => panic!("not what opens {stream}: {other:?}"),
        }
    }

    /// Asserts that nothing is on its way to the shard: what is asked now is answered next.
    pub(super) async fn quiet(&mut self, shard: u8, stream: &StreamKey) {
        self.open(shard, stream).await;
    }

    pub(super) async fn close(&self, shard: u8, stream: &StreamKey) {
        self.feed
            .send(Request::Close { view: View::shared(stream.clone()), shard: ShardId(shard), offered: None })
            .await
            .unwrap();
    }

    pub(super) async fn ask_read(&self, shard: u8, stream: &StreamKey, after: Offset) {
        self.feed
            .send(Request::Read { view: View::shared(stream.clone()), after, shard: ShardId(shard) })
            .await
            .unwrap();
    }

    /// Reads a page; it has to be the next delivery.
    pub(super) async fn read(&mut self, shard: u8, stream: &StreamKey, from: Offset) -> Arc<Batch> {
        self.ask_read(shard, stream, from).await;
        self.page(shard, stream, from).await
    }

    /// The page that was asked for, which has to be the next delivery.
    pub(super) async fn page(&mut self, shard: u8, stream: &StreamKey, from: Offset) -> Arc<Batch> {
        match self.next(shard).await {
            Delivery::Page { view, after, batch } if view.stream == *stream && after == from => {
                batch.unwrap()
            }
            other => panic!("not the page of {stream} after {from}: {other:?}"),
        }
    }

    /// The next delivery, which has to be a live batch.
    pub(super) async fn live(&mut self, shard: u8) -> Arc<Batch> {
        match self.next(shard).await {
            Delivery::Live(batch) => batch,
            other => panic!("not live: {other:?}"),
        }
    }

    /// The next delivery. With the time paused, waiting ten minutes for nothing takes a moment.
    pub(super) async fn next(&mut self, shard: u8) -> Delivery {
        let next = self.shards[usize::from(shard)].recv();
        tokio::time::timeout(Duration::from_secs(600), next).await.expect("nothing comes").unwrap()
    }

    /// Adds an entry, and the wake-up is on its way.
    pub(super) async fn add(&self, stream: &StreamKey) -> Offset {
        let fields = vec![(Bytes::from("data"), Bytes::from("x"))];
        self.probe.embedded.append(stream, fields, None).await.unwrap()
    }

    /// Adds entries whose wake-ups are lost. Nothing else runs meanwhile.
    pub(super) async fn add_unheard(&self, stream: &StreamKey, count: usize) -> Vec<Offset> {
        let mut added = Vec::new();
        for _ in 0..count {
            added.push(self.add(stream).await);
        }
        self.dirty.take(usize::MAX);
        added
    }

    /// Adds an entry with an id of its own.
    pub(super) fn add_at(&self, stream: &StreamKey, offset: Offset) {
        let fields = [(Bytes::from("data"), Bytes::from("x"))];
        let addition = Addition { id: NewId::Exact(offset), fields: &fields, make: true, trim: None };
        let add = self.probe.embedded.with_store(|store| store.add(stream.as_str().as_bytes(), &addition, 0));
        assert_eq!(add, Ok(Some(offset)));
    }

    /// Trims a log as a backend would.
    pub(super) fn trim(&self, stream: &StreamKey, length: u64) {
        let trim = |log: &mut crate::backbone::embedded::log::Log| log.trim(Keep::Newest(length), usize::MAX);
        let key = stream.as_str().as_bytes();
        self.probe.embedded.with_store(|store| store.change(key, |stream| trim(&mut stream.log)));
    }

    /// How many entries a log holds.
    pub(super) fn len(&self, stream: &StreamKey) -> u64 {
        let key = stream.as_str().as_bytes();
        self.probe.embedded.with_store(|store| store.stream(key).map_or(0, |stream| stream.log.len()))
    }

    /// Lets the feed work until this holds. The time stands still meanwhile.
    pub(super) async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..10_000 {
            if holds(self) {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("it did not happen: {what}");
    }
}
