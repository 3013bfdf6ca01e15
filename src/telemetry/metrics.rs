//! What is counted. Names and help texts stand in `families`.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use super::labels::{
    BackboneFault, CursorWriteOutcome, DeadLetterOutcome, Gap, PluginHook, PluginHttpOutcome, PluginLogLine,
    PluginOutcome, PublishOutcome, Refusal, Resume, Skip, Transport, Via,
};
use super::values::{Counter, Gauge, Histogram, Labelled};
use super::{exposition, families};
use crate::domain::{CloseReason, EventKind, TenantId};

/// Tenants that have values of their own, at most; the ones that come later share one set under the
/// tenant label `_other`. A tenant's values take under 2 KB.
const TENANTS: usize = 10_000;

/// Upper bounds of [`NodeMetrics::feed_pipeline_duration`] in seconds.
const PIPELINE_BOUNDS: &[f64] = &[0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5];

/// Upper bounds of [`TenantMetrics::delivery_delay`] in seconds. The offset's time has milliseconds.
const DELAY_BOUNDS: &[f64] =
    &[0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0];

/// Upper bounds of [`NodeMetrics::janitor_pass_duration`] in seconds.
const PASS_BOUNDS: &[f64] = &[0.1, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3_600.0];

/// All metrics of the node. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Arc<Shared>);

#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) node: NodeMetrics,
    tenants: RwLock<BTreeMap<TenantId, Arc<TenantMetrics>>>,
    overflow: Arc<TenantMetrics>,
}

impl Metrics {
    /// The values of a tenant. A lock is taken: ask once and keep the answer. Ask only for tenants
    /// that exist, because each stays until the node stops.
    pub fn tenant(&self, tenant: &TenantId) -> Arc<TenantMetrics> {
        let known = self.0.tenants.read().expect("no holder of this lock panics").get(tenant).cloned();
        if let Some(known) = known {
            return known;
        }
        let mut tenants = self.0.tenants.write().expect("no holder of this lock panics");
        if tenants.len() >= TENANTS && !tenants.contains_key(tenant) {
            return self.0.overflow.clone();
        }
        tenants.entry(tenant.clone()).or_default().clone()
    }

    /// The values that no tenant owns.
    pub fn node(&self) -> &NodeMetrics {
        &self.0.node
    }

    /// Everything in the text format that Prometheus reads (OpenMetrics 1.0), of media type
    /// [`Metrics::CONTENT_TYPE`].
    pub fn to_openmetrics(&self) -> String {
        exposition::encode(self)
    }

    /// The media type of [`Metrics::to_openmetrics`].
    pub const CONTENT_TYPE: &'static str = exposition::CONTENT_TYPE;

    /// The points of a family now.
    pub(super) fn read(&self, family: &families::Family) -> Vec<families::Point> {
        let mut points = families::Points::default();
        (family.read)(&self.0, &mut points);
        points.into_inner()
    }
}

impl Shared {
    /// Visits tenants by name, then those that share one set if there are any.
    pub(super) fn each_tenant(&self, mut visit: impl FnMut(&str, &TenantMetrics)) {
        // Copied out, so that nothing formats text under the lock.
        let tenants: Vec<_> = {
            let tenants = self.tenants.read().expect("no holder of this lock panics");
            tenants.iter().map(|(name, values)| (name.clone(), values.clone())).collect()
        };
        for (name, values) in &tenants {
            visit(name.as_str(), values);
        }
        if tenants.len() >= TENANTS {
            visit("_other", &self.overflow);
        }
    }
}

/// One tenant's values. Shards and feed hold it in an `Arc` and touch nothing but atomics.
#[derive(Debug)]
pub struct TenantMetrics {
    /// Open connections.
    pub connections: Labelled<Transport, Gauge>,
    /// Sessions, connected or waiting for their client.
    pub sessions: Gauge,
    /// Subscriptions of sessions here.
    pub subscriptions: Gauge,
    /// Connections that were opened.
    pub connections_opened: Counter,
    /// Connections that ended, by reason.
    pub connections_closed: Labelled<CloseReason, Counter>,
    /// What clients got back when they connected.
    pub resumes: Labelled<Resume, Counter>,
    /// Messages handed to sockets, redeliveries included. Counted once a batch.
    pub messages_delivered: Counter,
    /// Payload bytes of these messages.
    pub message_bytes_delivered: Counter,
    /// Messages sent again.
    pub redeliveries: Counter,
    /// `ack` frames taken.
    pub acks: Counter,
    /// `nack` frames taken.
    pub nacks: Counter,
    /// Gaps told to subscribers.
    pub gaps: Labelled<Gap, Counter>,
    /// Dead letters, by what became of them.
    pub dead_letters: Labelled<DeadLetterOutcome, Counter>,
    /// Entries that are no messages.
    pub entries_skipped: Labelled<Skip, Counter>,
    /// Publications, once a target channel.
    pub publishes: Labelled<Via, Labelled<PublishOutcome, Counter>>,
    /// Sends over HTTP that run.
    pub sends_running: Gauge,
    /// Session events written for the backends.
    pub session_events: Labelled<EventKind, Counter>,
    /// Session events that were not.
    pub session_events_dropped: Counter,
    /// Entries of queues that this node holds.
    pub work_held: Gauge,
    /// Entries of queues that were finished through this node.
    pub work_finished: Counter,
    /// Entries of queues that this node gave back.
    pub work_returned: Counter,
    /// From an entry's offset to its fan-out, once a batch.
    pub delivery_delay: Histogram,
    /// 1 while this node reads the tenant's ingress.
    pub ingress_held: Gauge,
    /// Ingress entries that are in all their targets.
    pub ingress_entries: Counter,
    /// From the oldest ingress entry's offset until all targets have it, once a batch.
    pub ingress_delay: Histogram,
    /// Seconds that the ingress entry has waited whose targets do not take it; 0 when none waits.
    pub ingress_lag: Gauge,
    /// Calls of plugins, by what came of them.
    pub plugin_calls: Labelled<PluginHook, Labelled<PluginOutcome, Counter>>,
    /// Nanoseconds that worker threads spent on the tenant's plugins.
    pub plugin_busy_nanos: Counter,
    /// Calls of plugins that wait for a worker.
    pub plugin_waiting: Gauge,
    /// Times a plugin was cut off because it failed too often.
    pub plugin_cut_offs: Counter,
    /// Requests that the tenant's plugins made by `wasi:http`.
    pub plugin_http_requests: Labelled<PluginHttpOutcome, Counter>,
    /// Lines for the log of the tenant's plugins.
    pub plugin_log_lines: Labelled<PluginLogLine, Counter>,
}

impl Default for TenantMetrics {
    fn default() -> Self {
        Self {
            connections: Labelled::default(),
            sessions: Gauge::default(),
            subscriptions: Gauge::default(),
            connections_opened: Counter::default(),
            connections_closed: Labelled::default(),
            resumes: Labelled::default(),
            messages_delivered: Counter::default(),
            message_bytes_delivered: Counter::default(),
            redeliveries: Counter::default(),
            acks: Counter::default(),
            nacks: Counter::default(),
            gaps: Labelled::default(),
            dead_letters: Labelled::default(),
            entries_skipped: Labelled::default(),
            publishes: Labelled::default(),
            sends_running: Gauge::default(),
            session_events: Labelled::default(),
            session_events_dropped: Counter::default(),
            work_held: Gauge::default(),
            work_finished: Counter::default(),
            work_returned: Counter::default(),
            delivery_delay: Histogram::new(DELAY_BOUNDS),
            ingress_held: Gauge::default(),
            ingress_entries: Counter::default(),
            ingress_delay: Histogram::new(DELAY_BOUNDS),
            ingress_lag: Gauge::default(),
            plugin_calls: Labelled::default(),
            plugin_busy_nanos: Counter::default(),
            plugin_waiting: Gauge::default(),
            plugin_cut_offs: Counter::default(),
            plugin_http_requests: Labelled::default(),
            plugin_log_lines: Labelled::default(),
        }
    }
}

/// The values that no tenant owns.
#[derive(Debug)]
pub struct NodeMetrics {
    /// Handshakes refused before there was a session.
    pub handshakes_refused: Labelled<Refusal, Counter>,
    /// Sessions without a connection that ended early because there were too many.
    pub sessions_forgotten: Counter,
    /// Entries that the feed read.
    pub feed_read_entries: Counter,
    /// Streams that the feed read.
    pub feed_reads: Counter,
    /// How long a pipeline of reads takes.
    pub feed_pipeline_duration: Histogram,
    /// Streams marked dirty by the backbone.
    pub wakeups: Counter,
    /// Times a shard's inbox was full, so that a channel was left dirty for it.
    pub shard_inbox_full: Counter,
    /// Bytes in all rings.
    pub ring_bytes: Gauge,
    /// Reads of the log that the page cache answered.
    pub page_cache_hits: Counter,
    /// Reads that went to the backbone.
    pub page_cache_misses: Counter,
    /// Reads that waited for an equal one in flight.
    pub page_cache_joined: Counter,
    /// Cursor writes.
    pub cursor_writes: Labelled<CursorWriteOutcome, Counter>,
    /// 1 while the backbone answers.
    pub backbone_connected: Gauge,
    /// Errors of the backbone.
    pub backbone_errors: Labelled<BackboneFault, Counter>,
    /// Times a lost connection to the backbone was made again.
    pub backbone_reconnects: Counter,
    /// Streams whose wake-ups are subscribed to.
    pub watched_streams: Gauge,
    /// Streams that the janitor looked at.
    pub janitor_streams: Counter,
    /// Streams of no known tenant or namespace in its last pass.
    pub janitor_foreign_streams: Gauge,
    /// Times it trimmed a stream.
    pub janitor_trims: Counter,
    /// Entries that it trimmed away.
    pub janitor_trimmed_entries: Counter,
    /// Streams that it removed.
    pub janitor_removed_streams: Counter,
    /// How long a pass over all streams takes.
    pub janitor_pass_duration: Histogram,
    /// Instances of plugins, idle ones included.
    pub plugin_instances: Gauge,
    /// Instances of plugins that were made.
    pub plugin_instances_made: Counter,
}

impl Default for NodeMetrics {
    fn default() -> Self {
        Self {
            handshakes_refused: Labelled::default(),
            sessions_forgotten: Counter::default(),
            feed_read_entries: Counter::default(),
            feed_reads: Counter::default(),
            feed_pipeline_duration: Histogram::new(PIPELINE_BOUNDS),
            wakeups: Counter::default(),
            shard_inbox_full: Counter::default(),
            ring_bytes: Gauge::default(),
            page_cache_hits: Counter::default(),
            page_cache_misses: Counter::default(),
            page_cache_joined: Counter::default(),
            cursor_writes: Labelled::default(),
            backbone_connected: Gauge::default(),
            backbone_errors: Labelled::default(),
            backbone_reconnects: Counter::default(),
            watched_streams: Gauge::default(),
            janitor_streams: Counter::default(),
            janitor_foreign_streams: Gauge::default(),
            janitor_trims: Counter::default(),
            janitor_trimmed_entries: Counter::default(),
            janitor_removed_streams: Counter::default(),
            janitor_pass_duration: Histogram::new(PASS_BOUNDS),
            plugin_instances: Gauge::default(),
            plugin_instances_made: Counter::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tenant_is_one_set_of_values_in_all_clones() {
        let metrics = Metrics::default();
        let acme = TenantId::parse("acme").unwrap();
        metrics.tenant(&acme).acks.inc_by(2);
        assert_eq!(metrics.clone().tenant(&acme).acks.get(), 2);
    }

    #[test]
    fn tenants_are_bounded() {
        let metrics = Metrics::default();
        for n in 0..=TENANTS {
            metrics.tenant(&TenantId::parse(&format!("t{n}")).unwrap()).acks.inc();
        }
        let mut last = (String::new(), 0);
        let mut sets = 0;
        metrics.0.each_tenant(|name, values| {
            sets += 1;
            last = (name.to_owned(), values.acks.get());
        });
        assert_eq!((sets, last), (TENANTS + 1, ("_other".to_owned(), 1)));
    }
}
