//! Export by OTLP over HTTP with protobuf bodies.
//!
//! Traces are sent by a batch processor, metrics by a periodic reader; each has a thread of its own,
//! so nothing here runs on a shard or on the runtime.

use std::collections::HashMap;
use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Meter, MeterProvider as _};
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};

use super::families::{FAMILIES, Family, Kind, Point, Value};
use super::setup::{OtlpOptions, TelemetryError};
use super::{Metrics, values::Distribution};

/// Who sends: OpenTelemetry's `service.*` attributes.
pub(super) fn resource(node: &str) -> Resource {
    Resource::builder()
        .with_service_name("tidegate")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("service.instance.id", node.to_owned()))
        .build()
}

/// Traces: a caller's decision is followed, of the rest a share is taken.
pub(super) fn tracer_provider(
    options: &OtlpOptions,
    resource: Resource,
) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client(options)?)
        .with_endpoint(address(options, "v1/traces"))
        .with_timeout(options.timeout)
        .with_headers(headers(options))
        .build()
        .map_err(failed)?;
    let share = Sampler::TraceIdRatioBased(options.sample_ratio);
    Ok(SdkTracerProvider::builder()
        .with_sampler(Sampler::ParentBased(Box::new(share)))
        .with_resource(resource)
        .with_batch_exporter(exporter)
        .build())
}

/// Metrics: the same atomics as `/metrics`, read once an interval.
pub(super) fn meter_provider(
    options: &OtlpOptions,
    resource: Resource,
    metrics: &Metrics,
) -> Result<SdkMeterProvider, TelemetryError> {
    let exporter = MetricExporter::builder()
        .with_http()
        .with_http_client(client(options)?)
        .with_endpoint(address(options, "v1/metrics"))
        .with_timeout(options.timeout)
        .with_headers(headers(options))
        .build()
        .map_err(failed)?;
    let reader = PeriodicReader::builder(exporter).with_interval(options.metrics_interval).build();
    let provider = SdkMeterProvider::builder().with_resource(resource).with_reader(reader).build();
    let meter = provider.meter("tidegate");
    for family in FAMILIES {
        observe(&meter, family, metrics.clone());
    }
    Ok(provider)
}

/// The HTTP client. The SDK's own choice would load the system's certificates even for a plain
/// address, and fail in an image that has none.
fn client(options: &OtlpOptions) -> Result<reqwest::blocking::Client, TelemetryError> {
    let builder = reqwest::blocking::Client::builder().timeout(options.timeout);
    let builder = if options.endpoint.starts_with("https://") {
        builder
    } else {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        builder.tls_backend_preconfigured(tls)
    };
    // A blocking client must not be made on a thread of the async runtime.
    let made = std::thread::spawn(move || builder.build()).join();
    made.map_err(|_| TelemetryError::Otlp("the thread that makes the HTTP client panicked".to_owned()))?
        .map_err(failed)
}

/// With all causes: the outermost says as little as "builder error".
fn failed(error: impl std::error::Error) -> TelemetryError {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    TelemetryError::Otlp(text)
}

fn address(options: &OtlpOptions, path: &str) -> String {
    format!("{}/{path}", options.endpoint.trim_end_matches('/'))
}

fn headers(options: &OtlpOptions) -> HashMap<String, String> {
    options.headers.iter().cloned().collect()
}

/// Registers a family as observable instruments under its name in `/metrics`.
fn observe(meter: &Meter, family: &'static Family, metrics: Metrics) {
    let name = family.full_name();
    let (help, unit) = (family.help, family.unit());
    match family.kind {
        Kind::Counter => {
            let builder = meter.u64_observable_counter(name).with_description(help).with_unit(unit);
            builder
                .with_callback(move |to| {
                    each(&metrics, family, |point, labels| {
                        if let Value::Counter(value) = point.value {
                            to.observe(value, labels);
                        }
                    })
                })
                .build();
        }
        Kind::FloatCounter => {
            let builder = meter.f64_observable_counter(name).with_description(help).with_unit(unit);
            builder
                .with_callback(move |to| {
                    each(&metrics, family, |point, labels| {
                        if let Value::FloatCounter(value) = point.value {
                            to.observe(value, labels);
                        }
                    })
                })
                .build();
        }
        Kind::Gauge => {
            let builder = meter.i64_observable_gauge(name).with_description(help).with_unit(unit);
            builder
                .with_callback(move |to| {
                    each(&metrics, family, |point, labels| {
                        if let Value::Gauge(value) = point.value {
                            to.observe(value, labels);
                        }
                    })
                })
                .build();
        }
        Kind::Histogram => observe_histogram(meter, family, metrics),
    }
}

/// OpenTelemetry has no observable histogram. A histogram goes out as what Prometheus stores of it:
/// cumulative counters `_bucket` with the bound in `le`, `_sum` and `_count`.
fn observe_histogram(meter: &Meter, family: &'static Family, metrics: Metrics) {
    let name = family.full_name();
    let source = metrics.clone();
    meter
        .u64_observable_counter(format!("{name}_bucket"))
        .with_description(family.help)
        .with_callback(move |to| {
            each_distribution(&source, family, |read, labels| {
                let mut below = 0;
                for (bound, count) in &read.buckets {
                    below += count;
                    let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".to_owned() };
                    let labels = [labels, &[KeyValue::new("le", bound)]].concat();
                    to.observe(below, &labels);
                }
            });
        })
        .build();
    let source = metrics.clone();
    meter
        .u64_observable_counter(format!("{name}_count"))
        .with_description(family.help)
        .with_callback(move |to| {
            each_distribution(&source, family, |read, labels| to.observe(read.count, labels))
        })
        .build();
    meter
        .f64_observable_counter(format!("{name}_sum"))
        .with_description(family.help)
        .with_unit(family.unit())
        .with_callback(move |to| {
            each_distribution(&metrics, family, |read, labels| to.observe(read.sum, labels))
        })
        .build();
}

fn each_distribution(metrics: &Metrics, family: &Family, mut visit: impl FnMut(&Distribution, &[KeyValue])) {
    each(metrics, family, |point, labels| {
        if let Value::Histogram(read) = &point.value {
            visit(read, labels);
        }
    });
}

fn each(metrics: &Metrics, family: &Family, mut visit: impl FnMut(&Point, &[KeyValue])) {
    for point in metrics.read(family) {
        let labels: Vec<_> =
            point.labels.iter().map(|(name, value)| KeyValue::new(*name, value.clone())).collect();
        visit(&point, &labels);
    }
}
