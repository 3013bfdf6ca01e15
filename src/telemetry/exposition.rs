//! The text that Prometheus reads.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::Metrics;
use super::families::{FAMILIES, Kind, PREFIX, Value};

pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) fn encode(metrics: &Metrics) -> String {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Snapshot(metrics.clone())));
    let mut page = String::new();
    text::encode(&mut page, &registry).expect("writing to a String does not fail");
    page
}

/// Reads the atomics at each scrape.
#[derive(Debug)]
struct Snapshot(Metrics);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for family in FAMILIES {
            let points = self.0.read(family);
            if points.is_empty() {
                continue;
            }
            let kind = match family.kind {
                Kind::Counter | Kind::FloatCounter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut lines = encoder.encode_descriptor(family.name, family.help, None, kind)?;
            for point in &points {
                if point.labels.is_empty() {
                    // A family without labels is written directly: an empty set would leave `{}`.
                    encode_value(&mut lines, &point.value)?;
                } else {
                    encode_value(&mut lines.encode_family(&point.labels)?, &point.value)?;
                }
            }
        }
        Ok(())
    }
}

fn encode_value(encoder: &mut MetricEncoder, value: &Value) -> fmt::Result {
    match value {
        Value::Counter(value) => encoder.encode_counter::<NoLabelSet, _, f64>(value, None),
        Value::FloatCounter(value) => encoder.encode_counter::<NoLabelSet, _, f64>(value, None),
        Value::Gauge(value) => encoder.encode_gauge(value),
        Value::Histogram(read) => {
            encoder.encode_histogram::<NoLabelSet>(read.sum, read.count, &read.buckets, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::{CloseReason, TenantId};
    use crate::telemetry::{PublishOutcome, Transport, Via};

    #[test]
    fn the_page_holds_what_was_counted() {
        let metrics = Metrics::default();
        let acme = metrics.tenant(&TenantId::parse("acme").unwrap());
        acme.connections.of(Transport::WebSocket).inc();
        acme.connections_closed.of(CloseReason::Drain).inc_by(2);
        acme.messages_delivered.inc_by(1_000);
        acme.publishes.of(Via::Http).of(PublishOutcome::Accepted).inc();
        acme.delivery_delay.observe(Duration::from_millis(3));
        metrics.node().ring_bytes.set(4_096);
        let page = metrics.to_openmetrics();
        for line in [
            "# TYPE tidegate_connections gauge",
            r#"tidegate_connections{tenant="acme",transport="websocket"} 1"#,
            r#"tidegate_connections_closed_total{tenant="acme",reason="drain"} 2"#,
            r#"tidegate_messages_delivered_total{tenant="acme"} 1000"#,
            r#"tidegate_publishes_total{tenant="acme",via="http",outcome="accepted"} 1"#,
            "# TYPE tidegate_delivery_delay_seconds histogram",
            r#"tidegate_delivery_delay_seconds_bucket{le="0.0025",tenant="acme"} 0"#,
            r#"tidegate_delivery_delay_seconds_bucket{le="0.005",tenant="acme"} 1"#,
            r#"tidegate_delivery_delay_seconds_bucket{le="+Inf",tenant="acme"} 1"#,
            r#"tidegate_delivery_delay_seconds_count{tenant="acme"} 1"#,
            "tidegate_ring_bytes 4096",
            "tidegate_feed_reads_total 0",
            r#"tidegate_handshakes_refused_total{reason="tls"} 0"#,
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\nis not in\n{page}");
        }
        assert!(page.ends_with("# EOF\n"), "{page}");
    }
}
