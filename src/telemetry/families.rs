//! The one table of metric names: what each is called, what it means, and where its values are.

use super::labels::Label;
use super::metrics::{Shared, TenantMetrics};
use super::process;
use super::values::{Counter, Distribution, Gauge, Histogram, Labelled};

/// Stands before every name.
pub(super) const PREFIX: &str = "tidegate";

/// What values of a family mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    /// A counter that is no whole number.
    FloatCounter,
    Gauge,
    Histogram,
}

/// A metric name with all its label values.
pub(super) struct Family {
    /// Without prefix and without the `_total` of counters; ends in the unit if there is one.
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: Kind,
    pub(super) read: fn(&Shared, &mut Points),
}

/// One value with its labels.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Point {
    pub(super) labels: Vec<(&'static str, String)>,
    pub(super) value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Counter(u64),
    FloatCounter(f64),
    Gauge(i64),
    Histogram(Distribution),
}

/// Something that a family reads.
trait Readable {
    fn value(&self) -> Value;
}

impl Readable for Counter {
    fn value(&self) -> Value {
        Value::Counter(self.get())
    }
}

impl Readable for Gauge {
    fn value(&self) -> Value {
        Value::Gauge(self.get())
    }
}

impl Readable for Histogram {
    fn value(&self) -> Value {
        Value::Histogram(self.read())
    }
}

/// Gathers the points of one family.
#[derive(Default)]
pub(super) struct Points {
    points: Vec<Point>,
}

impl Points {
    pub(super) fn into_inner(self) -> Vec<Point> {
        self.points
    }

    fn push(&mut self, labels: &[(&'static str, &str)], value: Value) {
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.points.push(Point { labels, value });
    }

    fn one(&mut self, value: &impl Readable) {
        self.push(&[], value.value());
    }

    fn labelled<L: Label>(&mut self, label: &'static str, values: &Labelled<L, impl Readable>) {
        for (word, value) in values.iter() {
            self.push(&[(label, word)], value.value());
        }
    }

    fn tenants<R: Readable>(&mut self, shared: &Shared, of: fn(&TenantMetrics) -> &R) {
        shared.each_tenant(|tenant, values| self.push(&[("tenant", tenant)], of(values).value()));
    }

    fn tenants_labelled<L: Label, R: Readable>(
        &mut self,
        shared: &Shared,
        label: &'static str,
        of: fn(&TenantMetrics) -> &Labelled<L, R>,
    ) {
        shared.each_tenant(|tenant, values| {
            for (word, value) in of(values).iter() {
                self.push(&[("tenant", tenant), (label, word)], value.value());
            }
        });
    }

    fn publishes(&mut self, shared: &Shared) {
        shared.each_tenant(|tenant, values| {
            for (via, outcomes) in values.publishes.iter() {
                for (outcome, count) in outcomes.iter() {
                    self.push(&[("tenant", tenant), ("via", via), ("outcome", outcome)], count.value());
                }
            }
        });
    }

    fn plugin_calls(&mut self, shared: &Shared) {
        shared.each_tenant(|tenant, values| {
            for (hook, outcomes) in values.plugin_calls.iter() {
                for (outcome, count) in outcomes.iter() {
                    self.push(&[("tenant", tenant), ("hook", hook), ("outcome", outcome)], count.value());
                }
            }
        });
    }

    fn plugin_busy(&mut self, shared: &Shared) {
        shared.each_tenant(|tenant, values| {
            let seconds = values.plugin_busy_nanos.get() as f64 / 1e9;
            self.push(&[("tenant", tenant)], Value::FloatCounter(seconds));
        });
    }

    /// Nothing where the system does not tell.
    fn some(&mut self, value: Option<Value>) {
        if let Some(value) = value {
            self.push(&[], value);
        }
    }
}

/// Reads a number of the process as a gauge.
fn gauge(value: Option<u64>) -> Option<Value> {
    value.map(|value| Value::Gauge(i64::try_from(value).unwrap_or(i64::MAX)))
}

macro_rules! families {
    ($($kind:ident $name:literal $help:literal $read:expr;)*) => {
        /// Every metric.
        pub(super) static FAMILIES: &[Family] =
            &[$(Family { name: $name, help: $help, kind: Kind::$kind, read: $read }),*];
    };
}

families! {
    Gauge "connections" "Open connections"
        |m, out| out.tenants_labelled(m, "transport", |t| &t.connections);
    Gauge "sessions" "Sessions, connected or waiting for their client"
        |m, out| out.tenants(m, |t| &t.sessions);
    Gauge "subscriptions" "Subscriptions of sessions on this node"
        |m, out| out.tenants(m, |t| &t.subscriptions);
    Counter "connections_opened" "Connections opened"
        |m, out| out.tenants(m, |t| &t.connections_opened);
    Counter "connections_closed" "Connections ended, by reason"
        |m, out| out.tenants_labelled(m, "reason", |t| &t.connections_closed);
    Counter "handshakes_refused" "Handshakes refused before there was a session"
        |m, out| out.labelled("reason", &m.node.handshakes_refused);
    Counter "sessions_forgotten" "Sessions without a connection that ended early: there were too many"
        |m, out| out.one(&m.node.sessions_forgotten);
    Counter "resumes" "What clients got back when they connected"
        |m, out| out.tenants_labelled(m, "outcome", |t| &t.resumes);
    Counter "messages_delivered" "Messages handed to sockets, redeliveries included"
        |m, out| out.tenants(m, |t| &t.messages_delivered);
    Counter "message_bytes_delivered" "Payload bytes of messages handed to sockets"
        |m, out| out.tenants(m, |t| &t.message_bytes_delivered);
    Counter "redeliveries" "Messages sent again"
        |m, out| out.tenants(m, |t| &t.redeliveries);
    Counter "acks" "Acknowledgements taken"
        |m, out| out.tenants(m, |t| &t.acks);
    Counter "nacks" "Negative acknowledgements taken"
        |m, out| out.tenants(m, |t| &t.nacks);
    Counter "gaps" "Gaps told to subscribers"
        |m, out| out.tenants_labelled(m, "reason", |t| &t.gaps);
    Counter "dead_letters" "Messages given up, by what became of them"
        |m, out| out.tenants_labelled(m, "outcome", |t| &t.dead_letters);
    Counter "entries_skipped" "Entries of logs that are delivered to nobody"
        |m, out| out.tenants_labelled(m, "reason", |t| &t.entries_skipped);
    Counter "publishes" "Publications, once a target channel"
        |m, out| out.publishes(m);
    Gauge "sends_running" "Wide sends over HTTP that run"
        |m, out| out.tenants(m, |t| &t.sends_running);
    Counter "session_events" "Session events written for the tenant's backends"
        |m, out| out.tenants_labelled(m, "kind", |t| &t.session_events);
    Counter "session_events_dropped" "Session events lost because the backbone was away too long"
        |m, out| out.tenants(m, |t| &t.session_events_dropped);
    Gauge "work_held" "Entries of queues that this node holds for its sessions"
        |m, out| out.tenants(m, |t| &t.work_held);
    Counter "work_finished" "Entries of queues finished through this node"
        |m, out| out.tenants(m, |t| &t.work_finished);
    Counter "work_returned" "Entries of queues that this node gave back"
        |m, out| out.tenants(m, |t| &t.work_returned);
    Histogram "delivery_delay_seconds" "From an entry's offset to its fan-out, once a batch"
        |m, out| out.tenants(m, |t| &t.delivery_delay);
    Gauge "ingress_held" "1 while this node reads the tenant's ingress"
        |m, out| out.tenants(m, |t| &t.ingress_held);
    Counter "ingress_entries" "Ingress entries written to all their targets, or given up"
        |m, out| out.tenants(m, |t| &t.ingress_entries);
    Histogram "ingress_delay_seconds" "From an ingress entry's offset to the end of its batch, once a batch"
        |m, out| out.tenants(m, |t| &t.ingress_delay);
    Gauge "ingress_lag_seconds" "How long the ingress entry has waited whose targets do not take it"
        |m, out| out.tenants(m, |t| &t.ingress_lag);
    Counter "plugin_calls" "Calls of plugins, by hook and what came of them"
        |m, out| out.plugin_calls(m);
    FloatCounter "plugin_busy_seconds" "Time that worker threads spent on the tenant's plugins"
        |m, out| out.plugin_busy(m);
    Gauge "plugin_waiting" "Calls of plugins that wait for a worker"
        |m, out| out.tenants(m, |t| &t.plugin_waiting);
    Counter "plugin_cut_offs" "Times a plugin was cut off because it failed too often"
        |m, out| out.tenants(m, |t| &t.plugin_cut_offs);
    Counter "plugin_http_requests" "HTTP requests of the tenant's plugins, by what came of them"
        |m, out| out.tenants_labelled(m, "outcome", |t| &t.plugin_http_requests);
    Counter "plugin_log_lines" "Lines for the log of the tenant's plugins"
        |m, out| out.tenants_labelled(m, "outcome", |t| &t.plugin_log_lines);
    Gauge "plugin_instances" "Instances of plugins, idle ones included"
        |m, out| out.one(&m.node.plugin_instances);
    Counter "plugin_instances_made" "Instances of plugins made"
        |m, out| out.one(&m.node.plugin_instances_made);
    Counter "feed_read_entries" "Entries the feed read"
        |m, out| out.one(&m.node.feed_read_entries);
    Counter "feed_reads" "Streams the feed read"
        |m, out| out.one(&m.node.feed_reads);
    Histogram "feed_pipeline_duration_seconds" "How long a pipeline of reads takes"
        |m, out| out.one(&m.node.feed_pipeline_duration);
    Counter "wakeups" "Streams marked dirty by the backbone"
        |m, out| out.one(&m.node.wakeups);
    Counter "shard_inbox_full" "Batches that waited because a shard's inbox was full"
        |m, out| out.one(&m.node.shard_inbox_full);
    Gauge "ring_bytes" "Bytes in all rings"
        |m, out| out.one(&m.node.ring_bytes);
    Counter "page_cache_hits" "Reads the page cache answered"
        |m, out| out.one(&m.node.page_cache_hits);
    Counter "page_cache_misses" "Reads that went to the backbone"
        |m, out| out.one(&m.node.page_cache_misses);
    Counter "page_cache_joined" "Reads that waited for an equal one in flight"
        |m, out| out.one(&m.node.page_cache_joined);
    Counter "cursor_writes" "Cursor writes, by what became of them"
        |m, out| out.labelled("outcome", &m.node.cursor_writes);
    Gauge "backbone_connected" "1 while the backbone answers"
        |m, out| out.one(&m.node.backbone_connected);
    Counter "backbone_errors" "Errors of the backbone"
        |m, out| out.labelled("kind", &m.node.backbone_errors);
    Counter "backbone_reconnects" "Lost backbone connections made again"
        |m, out| out.one(&m.node.backbone_reconnects);
    Gauge "watched_streams" "Streams whose wake-ups are subscribed to"
        |m, out| out.one(&m.node.watched_streams);
    Counter "janitor_streams" "Streams the janitor looked at"
        |m, out| out.one(&m.node.janitor_streams);
    Gauge "janitor_foreign_streams" "Streams of no known tenant or namespace in the janitor's last pass"
        |m, out| out.one(&m.node.janitor_foreign_streams);
    Counter "janitor_trims" "Times the janitor trimmed a stream"
        |m, out| out.one(&m.node.janitor_trims);
    Counter "janitor_trimmed_entries" "Entries the janitor trimmed away"
        |m, out| out.one(&m.node.janitor_trimmed_entries);
    Counter "janitor_removed_streams" "Streams the janitor removed"
        |m, out| out.one(&m.node.janitor_removed_streams);
    Histogram "janitor_pass_duration_seconds" "How long a pass of the janitor over all streams takes"
        |m, out| out.one(&m.node.janitor_pass_duration);
    Gauge "process_resident_memory_bytes" "Resident memory of the process"
        |_, out| out.some(gauge(process::resident_bytes()));
    Gauge "process_open_fds" "Open file descriptors of the process"
        |_, out| out.some(gauge(process::open_fds()));
    FloatCounter "process_cpu_seconds" "User and system CPU time of the process"
        |_, out| out.some(process::cpu_seconds().map(Value::FloatCounter));
    Gauge "build_info" "Always 1; the version stands in the label"
        |_, out| out.push(&[("version", env!("CARGO_PKG_VERSION"))], Value::Gauge(1));
}

impl Family {
    /// The full name, as Prometheus and OTLP both see it.
    pub(super) fn full_name(&self) -> String {
        match self.kind {
            Kind::Counter | Kind::FloatCounter => format!("{PREFIX}_{}_total", self.name),
            Kind::Gauge | Kind::Histogram => format!("{PREFIX}_{}", self.name),
        }
    }

    /// The unit as UCUM writes it, which OTLP asks for; it is the end of the name.
    pub(super) fn unit(&self) -> &'static str {
        if self.name.ends_with("_seconds") {
            "s"
        } else if self.name.ends_with("_bytes") || self.name.contains("_bytes_") {
            "By"
        } else {
            ""
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::TenantId;
    use crate::telemetry::Metrics;

    #[test]
    fn names_are_used_once_and_kinds_agree_with_values() {
        let metrics = Metrics::default();
        metrics.tenant(&TenantId::parse("acme").unwrap());
        let mut names: Vec<_> = FAMILIES.iter().map(|family| family.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FAMILIES.len());
        for family in FAMILIES {
            let points = metrics.read(family);
            assert!(!points.is_empty(), "{}", family.name);
            for point in points {
                let kind = match point.value {
                    Value::Counter(_) => Kind::Counter,
                    Value::FloatCounter(_) => Kind::FloatCounter,
                    Value::Gauge(_) => Kind::Gauge,
                    Value::Histogram(_) => Kind::Histogram,
                };
                assert_eq!(kind, family.kind, "{}", family.name);
                assert!(kind != Kind::Histogram || family.unit() == "s", "{}", family.name);
            }
        }
    }

    #[test]
    fn no_label_is_unbounded() {
        let metrics = Metrics::default();
        metrics.tenant(&TenantId::parse("acme").unwrap());
        let allowed = ["tenant", "transport", "reason", "outcome", "via", "kind", "version", "hook"];
        for point in FAMILIES.iter().flat_map(|family| metrics.read(family)) {
            assert!(point.labels.iter().all(|(label, _)| allowed.contains(label)), "{point:?}");
        }
    }
}
