//! Logs, metrics and traces: the one module for their names.
//!
//! Whoever has something to tell calls a function of [`events`] (a log line and its metric come from
//! one place) or bumps an atomic of [`Metrics`]. `/metrics` and the OTLP export read the same atomics.
//! The `opentelemetry` crates are used here and nowhere else.
//!
//! Invariants: labels are bounded (tenant yes; session, channel, user never); the message path does
//! nothing but relaxed atomic additions, once a batch; spans cost one atomic load while no OTLP
//! endpoint is configured.

pub mod events;
mod exposition;
mod families;
mod labels;
mod metrics;
mod otlp;
mod process;
mod setup;
mod trace;
mod values;

pub use labels::{
    BackboneFault, CursorWriteOutcome, DeadLetterOutcome, Gap, Label, PluginHook, PluginHttpOutcome,
    PluginLogLine, PluginOutcome, PublishOutcome, Refusal, Resume, Skip, Transport, Via,
};
pub use metrics::{Metrics, NodeMetrics, TenantMetrics};
pub use setup::{FLUSH, Guard, LogFormat, Options, OtlpOptions, TelemetryError, init};
pub use trace::{InvalidTraceparent, PublishSpan, Traceparent, deliver_span, publish_span};
pub use values::{Counter, Gauge, Histogram, Labelled};
