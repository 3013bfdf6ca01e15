//! The janitor: one node of the cluster goes through all streams, again and again, and keeps them as
//! their rules say: trims what is too much, and removes channels that are over.
//!
//! It finds what no node watches: channels that backends fill and nobody reads, and what tenants'
//! streams beside the channels hold. *Invariants*: it works only while it has the lease; one small
//! pipeline at a time, and never more than a tenth of the time, so that delivery does not notice it; it
//! touches no queue and no ingress, whose entries leave when they are done, and no stream that it does
//! not know.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::backbone::{Backbone, BackboneError, TRIMMED_AT_ONCE, Trim};
use crate::domain::keys::{JANITOR_LEASE_KEY, STREAM_PREFIX, StreamRole};
use crate::domain::{Kind, NodeId, Offset, Retention, StreamKey};
use crate::telemetry::events::{self, JanitorPass};
use crate::telemetry::{Metrics, NodeMetrics};
use crate::tenants::Tenants;

/// Keys looked at in one step.
const STEP: usize = 100;
/// After a step the janitor rests for so many times of what the step took: a loaded backbone slows it.
const REST: u32 = 9;
/// How long a node has the lease without renewing it.
const LEASE: Duration = Duration::from_secs(15);
/// How often it is renewed, or asked for.
const RENEWAL: Duration = Duration::from_secs(5);
/// How long the lease may take to be given up at the end.
const PATIENCE: Duration = Duration::from_secs(2);

/// How the janitor works.
#[derive(Debug, Clone, Copy)]
pub struct JanitorOptions {
    /// How long from the begin of one pass over all streams to the next, at least.
    pub pass: Duration,
    /// Keys looked at in a second, at most.
    pub keys_per_s: u32,
}

/// The task that keeps the streams.
pub struct Janitor {
    backbone: Arc<dyn Backbone>,
    tenants: Arc<Tenants>,
    metrics: Metrics,
    node: NodeId,
    options: JanitorOptions,
    /// Until when this node surely has the lease.
    leased: Option<Instant>,
    /// When it is to be renewed.
    renewal: Instant,
}

/// Streams of one step, sorted by what is to be done.
#[derive(Default)]
struct Step {
    trims: Vec<Trim>,
    /// Channels that may be over, and before when their last entry must have come.
    channels: Vec<(StreamKey, Offset)>,
    foreign: u64,
}

impl Janitor {
    /// Starts the janitor. It ends when `stop` fires, at the latest after the call in flight, and gives
    /// its lease up; the handle joins it.
    pub fn spawn(
        backbone: Arc<dyn Backbone>,
        tenants: Arc<Tenants>,
        metrics: Metrics,
        node: NodeId,
        options: JanitorOptions,
        stop: CancellationToken,
    ) -> JoinHandle<()> {
        let renewal = Instant::now();
        let mut janitor = Self { backbone, tenants, metrics, node, options, leased: None, renewal };
        tokio::spawn(async move {
            // Every step can be cut off: what it did stands, the rest waits for the next pass.
            stop.run_until_cancelled(janitor.run()).await;
            if janitor.leased.is_some() {
                let release = janitor.backbone.release(JANITOR_LEASE_KEY, janitor.node.as_str());
                // Without an answer the lease ends by itself.
                let _ = timeout(PATIENCE, release).await;
            }
        })
    }

    async fn run(&mut self) {
        loop {
            let began = Instant::now();
            let mut pass = JanitorPass::default();
            match self.pass(&mut pass).await {
                Ok(true) => events::janitor_passed(self.node_metrics(), &pass, began.elapsed()),
                Ok(false) => {}
                Err(error) => events::backbone_error(
                    self.node_metrics(),
                    (&error).into(),
                    "look after the streams",
                    &error,
                ),
            }
            // The lease is kept meanwhile, so that the passes of several nodes do not add up.
            let next = began + self.options.pass;
            while !self.has_lease().await || Instant::now() < next {
                sleep(RENEWAL.min(self.options.pass)).await;
            }
        }
    }

    /// Goes through all streams once; false where the lease is another node's.
    async fn pass(&mut self, pass: &mut JanitorPass) -> Result<bool, BackboneError> {
        let pace = Duration::from_secs(STEP as u64) / self.options.keys_per_s.max(1);
        let mut unfinished: Vec<Trim> = Vec::new();
        let (mut cursor, mut at_end) = (0, false);
        while !at_end || !unfinished.is_empty() {
            if !self.has_lease().await {
                return Ok(false);
            }
            let began = Instant::now();
            let mut step = Step::default();
            // What is far too long is trimmed in several steps, and not pushed aside by what is found.
            if unfinished.len() < STEP && !at_end {
                let (next, streams) = self.backbone.scan(STREAM_PREFIX, cursor, STEP).await?;
                (cursor, at_end) = (next, next == 0);
                pass.streams += streams.len() as u64;
                let now_ms = self.backbone.clock().now_ms();
                streams.into_iter().for_each(|stream| self.sort(stream, now_ms, &mut step));
            }
            step.trims.append(&mut unfinished);
            pass.foreign += step.foreign;
            unfinished = self.trim(step.trims, pass).await;
            self.remove(step.channels, pass).await;
            sleep(pace.max(began.elapsed() * REST)).await;
        }
        Ok(true)
    }

    /// What is to be done with a stream.
    fn sort(&self, stream: StreamKey, now_ms: u64, step: &mut Step) {
        let Some((tenant, role)) = stream.parse() else { return step.foreign += 1 };
        let Some(tenant) = self.tenants.get(tenant.as_str()) else { return step.foreign += 1 };
        let keep = match role {
            StreamRole::Upstream => tenant.streams.up,
            StreamRole::DeadLetters => tenant.streams.dead_letters,
            StreamRole::Ingress => return,
            StreamRole::Channel(channel) => match tenant.rules(channel.namespace()) {
                None => return step.foreign += 1,
                Some(rules) if rules.kind == Kind::Queue => return,
                Some(rules) => {
                    step.channels.push((stream.clone(), oldest(rules.retention, now_ms)));
                    rules.retention
                }
            },
        };
        let (min_offset, Retention { max_len, max_bytes, .. }) = (oldest(keep, now_ms), keep);
        step.trims.push(Trim { stream, max_len, min_offset, max_bytes });
    }

    /// Trims; returns what has still more to trim.
    async fn trim(&self, trims: Vec<Trim>, pass: &mut JanitorPass) -> Vec<Trim> {
        let trimmed = self.backbone.trim(&trims).await;
        let mut unfinished = Vec::new();
        for (trim, went) in trims.into_iter().zip(trimmed) {
            match went {
                Ok(0) => {}
                Ok(went) => {
                    pass.trimmed += 1;
                    pass.entries += went;
                    if went >= TRIMMED_AT_ONCE {
                        unfinished.push(trim);
                    }
                }
                Err(error) => self.failed(pass, "trim", &trim.stream, &error),
            }
        }
        unfinished
    }

    /// Removes channels that are over: empty for as long as their entries would be kept. Not one that a
    /// node watches, for whoever has a position in it would take its end for a loss; nor where nobody can
    /// tell. A node that begins to watch in this very moment tells of a gap where nothing was for so long.
    async fn remove(&self, channels: Vec<(StreamKey, Offset)>, pass: &mut JanitorPass) {
        let streams: Vec<StreamKey> = channels.iter().map(|(stream, _)| stream.clone()).collect();
        let watchers = self.backbone.watchers(&streams).await;
        let mut unwatched = Vec::with_capacity(channels.len());
        for (channel, watchers) in channels.into_iter().zip(watchers) {
            match watchers {
                Ok(Some(0)) => unwatched.push(channel),
                Ok(_) => {}
                Err(error) => self.failed(pass, "count the watchers of", &channel.0, &error),
            }
        }
        let removed = self.backbone.remove_empty(&unwatched).await;
        for ((stream, _), removed) in unwatched.iter().zip(removed) {
            match removed {
                Ok(removed) => pass.removed += u64::from(removed),
                Err(error) => self.failed(pass, "remove", stream, &error),
            }
        }
    }

    /// The first failure of a pass is told; what is withheld from the node fails for every stream.
    fn failed(&self, pass: &mut JanitorPass, doing: &'static str, stream: &StreamKey, error: &BackboneError) {
        pass.failed += 1;
        if pass.failed == 1 {
            let why = format_args!("{doing} {stream}: {error}");
            events::backbone_error(self.node_metrics(), error.into(), "look after a stream", &why);
        }
    }

    /// Whether this node has the lease, which is renewed in time or asked for.
    async fn has_lease(&mut self) -> bool {
        let now = Instant::now();
        if now >= self.renewal {
            self.renewal = now + RENEWAL;
            match self.backbone.lease(JANITOR_LEASE_KEY, self.node.as_str(), LEASE).await {
                Ok(true) => self.leased = Some(now + LEASE),
                Ok(false) => self.leased = None,
                // Without an answer it is this node's until it ends.
                Err(error) => tracing::debug!(%error, "the janitor's lease is not renewed"),
            }
        }
        self.leased.is_some_and(|until| Instant::now() < until)
    }

    fn node_metrics(&self) -> &NodeMetrics {
        self.metrics.node()
    }
}

/// The smallest offset that is kept.
fn oldest(keep: Retention, now_ms: u64) -> Offset {
    Offset { ms: now_ms.saturating_sub(keep.max_age_ms), seq: 0 }
}
