//! Ingress: entries of `tg:<tenant>:in`, each written to the logs of all channels it names.
//!
//! One node at a time reads a tenant's ingress, under a lease, through the consumer group [`GROUP`]. It
//! takes the lowest entries that are left, given out before or not, writes each to its targets, and
//! only then finishes it, which removes it. So what is in the stream is what is left to do.
//!
//! *Invariants*: to one channel a node writes one entry after another, in the order of the ingress; the
//! next one only once the one before is in the log or among the dead letters. No write is done twice:
//! a target's log is looked through for the entry's offset, its field `in`.
//!
//! Two nodes may for a moment believe that they have the lease: one of them was stopped and goes on.
//! That is harmless. Whoever writes entry n to a channel has found, when it took n, each entry before
//! n either still there, and has written it first, or finished, and so it is in the log. Hence the
//! *first* writes to a channel are in order whoever makes them, and all others find what they would
//! write. It rests on [`Take::idle`] being zero: a take that left out what another holder was given
//! would write later entries before earlier ones.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::{Instant, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Upstream;
use crate::backbone::backoff::Backoff;
use crate::backbone::wake::DirtySet;
use crate::backbone::{Backbone, BackboneError, Group, Take, Work};
use crate::domain::{NodeId, Offset, StreamKey, TenantId, keys};
use crate::plugin::Plugins;
use crate::telemetry::{Metrics, TenantMetrics, events};
use crate::tenants::Tenants;

mod entry;
mod fan_out;
mod lease;
mod routing;

use fan_out::FanOut;
use lease::{Lease, Lost};

/// The consumer group of every tenant's ingress.
pub const GROUP: &str = "tidegate";

/// Knobs of the ingress.
#[derive(Debug, Clone, Copy)]
pub struct IngressOptions {
    /// How long a lease lasts: about as long nobody reads when a node dies.
    pub lease: Duration,
    /// How long an idle ingress is not looked at without a wake-up: the worst case of a lost one.
    pub sweep: Duration,
    /// How long the whole ingress of a tenant waits for a queue that is full, before messages to it go
    /// to the dead letters.
    pub patience: Duration,
}

impl Default for IngressOptions {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(10),
            sweep: Duration::from_secs(5),
            patience: Duration::from_secs(5),
        }
    }
}

/// Entries of one batch, at first and at most. A batch grows while entries are small.
const FIRST_BATCH: usize = 16;
const MOST_BATCH: usize = 500;
/// Bytes that a batch should not exceed by far. Entries with thousands of targets are large.
const BATCH_BYTES: usize = 8 << 20;
/// How often the supervisor looks for tenants that came or went.
const TENANTS_PERIOD: Duration = Duration::from_secs(5);
/// How long a lease that is given up may take to be gone.
const RELEASE_PATIENCE: Duration = Duration::from_secs(2);

/// What the readers of all tenants share.
#[derive(Clone)]
pub struct Ingress {
    /// Where it is read from and written to.
    pub backbone: Arc<dyn Backbone>,
    /// Where the backbone marks streams.
    pub dirty: Arc<DirtySet>,
    /// Whose ingress is read.
    pub tenants: Arc<Tenants>,
    /// What is counted.
    pub metrics: Metrics,
    /// Who is asked where entries go.
    pub plugins: Plugins,
    /// Who is told of messages that find nobody.
    pub upstream: Upstream,
    /// Who holds the leases.
    pub node: NodeId,
    /// Knobs.
    pub options: IngressOptions,
}

impl Ingress {
    /// Starts reading. After `drain` the entries under way are finished and the leases released; then
    /// the task ends, which the caller joins.
    pub fn spawn(self, drain: CancellationToken) -> JoinHandle<()> {
        tokio::spawn(self.supervise(drain))
    }

    /// Has one reader for each tenant.
    async fn supervise(self, drain: CancellationToken) {
        let mut readers = JoinSet::new();
        let mut known: HashMap<TenantId, (CancellationToken, AbortHandle)> = HashMap::new();
        let mut tick = interval(TENANTS_PERIOD);
        loop {
            tokio::select! {
                () = drain.cancelled() => break,
                Some(Err(error)) = readers.join_next() => {
                    // The other tenants go on, and this one's ingress has a new reader soon.
                    tracing::error!(%error, "the reader of an ingress failed");
                }
                _ = tick.tick() => {
                    known.retain(|id, (stop, reader)| {
                        let stays = self.tenants.get(id.as_str()).is_some();
                        if !stays {
                            stop.cancel();
                        }
                        stays && !reader.is_finished()
                    });
                    for tenant in self.tenants.all() {
                        known.entry(tenant.id.clone()).or_insert_with(|| {
                            let stop = drain.child_token();
                            let reader = Reader::new(self.clone(), tenant.id.clone(), stop.clone());
                            (stop, readers.spawn(reader.run()))
                        });
                    }
                }
            }
        }
        while readers.join_next().await.is_some() {}
    }
}

/// Reads one tenant's ingress whenever this node has the lease.
struct Reader {
    ingress: Ingress,
    tenant: TenantId,
    metrics: Arc<TenantMetrics>,
    group: Group,
    /// Marked when the ingress has something new.
    woken: Arc<DirtySet>,
    stop: CancellationToken,
    /// Typical bytes of an entry, which bound the next batch.
    entry_bytes: usize,
    batch: usize,
    /// Queues that are full, and since when.
    full: HashMap<StreamKey, Instant>,
}

impl Reader {
    fn new(ingress: Ingress, tenant: TenantId, stop: CancellationToken) -> Self {
        let metrics = ingress.metrics.tenant(&tenant);
        let group = Group { stream: StreamKey::ingress(&tenant), name: GROUP };
        let (woken, full) = (Arc::default(), HashMap::new());
        Self { ingress, tenant, metrics, group, woken, stop, entry_bytes: 256, batch: FIRST_BATCH, full }
    }

    async fn run(mut self) {
        let lease = Lease {
            backbone: self.ingress.backbone.clone(),
            key: keys::ingress_lease(&self.tenant),
            holder: self.ingress.node.to_string(),
            ttl: self.ingress.options.lease,
        };
        let stop = self.stop.clone();
        while !stop.is_cancelled() {
            let taken = tokio::select! {
                () = stop.cancelled() => None,
                taken = lease.take() => taken,
            };
            if let Some(until) = taken {
                self.hold(&lease, until).await;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(lease.pause()) => {}
            }
        }
    }

    /// Reads until the lease is lost or the node stops.
    async fn hold(&mut self, lease: &Lease, until: Instant) {
        let stream = self.group.stream.clone();
        let ingress = self.ingress.clone();
        ingress.dirty.divert(stream.clone(), self.woken.clone());
        self.metrics.ingress_held.set(1);
        events::ingress_won(&self.tenant);
        let lost = tokio::select! {
            // The lease's end comes first: a node that was stopped and goes on must do nothing more.
            biased;
            lost = lease.keep(until) => Some(lost),
            () = self.read() => None,
        };
        self.metrics.ingress_held.set(0);
        self.metrics.ingress_lag.set(0);
        events::ingress_lost(&self.tenant, lost.map_or("released", Lost::word));
        if lost.is_none() {
            // If that fails the lease ends by itself.
            let _ = tokio::time::timeout(RELEASE_PATIENCE, lease.release()).await;
        }
        ingress.backbone.unwatch(std::slice::from_ref(&stream)).await;
        ingress.dirty.restore(&stream);
    }

    /// Takes batches and works them off, until the node stops. Cancel-safe: what was taken is taken
    /// again, what was written is found.
    async fn read(&mut self) {
        let mut backoff = backoff();
        let mut watched = false;
        // The consumers of holders before this one: by then their last takes are long enough ago.
        let mut tidy_at = Some(Instant::now() + self.ingress.options.lease);
        while !self.stop.is_cancelled() {
            if !watched {
                let watch = self.ingress.backbone.watch(std::slice::from_ref(&self.group.stream)).await;
                watched = watch.map_err(|error| self.failed("watch an ingress", &error)).is_ok();
            }
            if tidy_at.is_some_and(|at| at <= Instant::now()) {
                let tidied = self.ingress.backbone.tidy(&self.group, self.ingress.options.lease).await;
                if tidied.is_ok() {
                    tidy_at = None;
                }
            }
            let wake_up = Instant::now() + self.ingress.options.sweep;
            match self.take().await {
                Ok(work) if work.is_empty() => {
                    backoff.reset();
                    self.metrics.ingress_lag.set(0);
                    self.wait(tidy_at.map_or(wake_up, |at| at.min(wake_up))).await;
                }
                Ok(work) => match self.work_off(work).await {
                    Ok(()) => backoff.reset(),
                    // What was not finished is taken again.
                    Err(error) => {
                        self.failed("finish entries of an ingress", &error);
                        self.pause(backoff.delay()).await;
                    }
                },
                Err(error) => {
                    self.failed("read an ingress", &error);
                    self.pause(backoff.delay()).await;
                }
            }
        }
    }

    async fn take(&mut self) -> Result<Vec<Work>, BackboneError> {
        // Marks up to here are answered by this take.
        self.woken.take(usize::MAX);
        let fitting = (BATCH_BYTES / self.entry_bytes.max(1)).clamp(1, MOST_BATCH);
        let count = self.batch.min(fitting);
        let consumer = self.ingress.node.as_str().into();
        let take = Take { group: self.group.clone(), consumer, count, idle: Duration::ZERO };
        let work = self.ingress.backbone.take(&take).await?;
        if work.len() == count {
            self.batch = (self.batch * 2).min(MOST_BATCH);
        }
        if !work.is_empty() {
            let bytes: usize = work.iter().map(|work| entry::bytes(&work.entry)).sum();
            self.entry_bytes = bytes / work.len();
        }
        Ok(work)
    }

    /// Writes a batch to its targets and finishes it.
    async fn work_off(&mut self, work: Vec<Work>) -> Result<(), BackboneError> {
        let Some(tenant) = self.ingress.tenants.get(self.tenant.as_str()) else {
            return Err(BackboneError::Refused("the tenant is gone".into()));
        };
        let oldest = work[0].entry.offset;
        let entries = self.route(&tenant, work.into_iter().map(|work| work.entry).collect()).await;
        let done = FanOut::new(self, &tenant, entries).run().await;
        if !done.is_empty() {
            self.ingress.backbone.finish(&self.group, &done).await?;
        }
        self.metrics.ingress_entries.inc_by(done.len() as u64);
        self.metrics.ingress_delay.observe(self.age(oldest));
        Ok(())
    }

    /// How long ago an entry was added, by the backbone's clock.
    fn age(&self, offset: Offset) -> Duration {
        Duration::from_millis(self.ingress.backbone.clock().now_ms().saturating_sub(offset.ms))
    }

    /// Waits for something new, or until it is time to look without a wake-up.
    async fn wait(&self, until: Instant) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.woken.marked() => {}
            () = sleep_until(until) => {}
        }
    }

    async fn pause(&self, delay: Duration) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = sleep(delay) => {}
        }
    }

    fn failed(&self, doing: &'static str, error: &BackboneError) {
        let why = format_args!("{}: {error}", self.tenant);
        events::backbone_error(self.ingress.metrics.node(), error.into(), doing, &why);
    }
}

fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(100), Duration::from_secs(2))
}

#[cfg(test)]
mod tests;
