//! Starts logs and export, and ends them.

use std::io::IsTerminal as _;
use std::thread;
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Dispatch;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{EnvFilter, FilterExt as _, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::Metrics;
use super::otlp;
use super::trace::SPANS;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What to log and where to send traces and metrics.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// How log lines look; they go to standard error.
    pub format: LogFormat,
    /// Which log lines are written: directives as in `info,tidegate::backbone=debug`.
    pub filter: String,
    /// This node's id, sent with everything exported.
    pub node: String,
    /// Where traces and metrics go; nothing is exported without it.
    pub otlp: Option<OtlpOptions>,
}

/// Export by OTLP over HTTP with protobuf bodies.
#[derive(Debug, Clone, PartialEq)]
pub struct OtlpOptions {
    /// The collector's base address, as `http://localhost:4318`; `/v1/traces` and `/v1/metrics` are
    /// added.
    pub endpoint: String,
    /// Headers of each export, as an API key.
    pub headers: Vec<(String, String)>,
    /// Which share of traces begun here is recorded, 0 to 1. A caller's decision is followed.
    pub sample_ratio: f64,
    /// Time between two exports of metrics.
    pub metrics_interval: Duration,
    /// How long one export may take.
    pub timeout: Duration,
}

/// Why telemetry does not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TelemetryError {
    /// The log filter does not parse.
    #[error("the log filter {filter:?} is not valid: {why}")]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        why: String,
    },
    /// The address of the collector is not one.
    #[error("the OTLP endpoint {0:?} must begin with http:// or https://")]
    Endpoint(String),
    /// The share of sampled traces is not between 0 and 1.
    #[error("the OTLP sample ratio must be between 0 and 1")]
    SampleRatio,
    /// The exporter does not start. For `https` the system's CA certificates must be installed.
    #[error("the OTLP exporter does not start: {0}")]
    Otlp(String),
    /// Logs are set up already in this process.
    #[error("logging is set up already in this process")]
    AlreadyStarted,
}

/// Keeps the export going; dropping it sends what is left and ends it, which blocks for up to
/// [`FLUSH`] when the collector does not answer. Drop it last, outside the async runtime.
#[must_use = "dropping the guard ends the export"]
#[derive(Debug)]
pub struct Guard {
    tracers: Option<SdkTracerProvider>,
    meters: Option<SdkMeterProvider>,
}

/// How long the last export may take at shutdown. For metrics the SDK waits so long whatever it is
/// told.
pub const FLUSH: Duration = Duration::from_secs(5);

impl Drop for Guard {
    fn drop(&mut self) {
        let (tracers, meters) = (self.tracers.take(), self.meters.take());
        if tracers.is_none() && meters.is_none() {
            return;
        }
        // Side by side, so that a collector that does not answer is waited for once.
        let (traces, metrics) = thread::scope(|scope| {
            let metrics = scope.spawn(move || meters.map(|meters| meters.shutdown_with_timeout(FLUSH)));
            let traces = tracers.map(|tracers| tracers.shutdown_with_timeout(FLUSH));
            (traces, metrics.join().ok().flatten())
        });
        for error in [traces, metrics].into_iter().flatten().filter_map(Result::err) {
            tracing::warn!(%error, "the last telemetry was not delivered");
        }
    }
}

/// Starts logs on standard error and, where configured, the export of traces and metrics. Once a
/// process.
pub fn init(options: &Options, metrics: &Metrics) -> Result<Guard, TelemetryError> {
    let (dispatch, guard) = build(options, metrics)?;
    dispatch.try_init().map_err(|_| TelemetryError::AlreadyStarted)?;
    Ok(guard)
}

fn build(options: &Options, metrics: &Metrics) -> Result<(Dispatch, Guard), TelemetryError> {
    let logs = logs(options)?;
    let Some(otlp) = &options.otlp else {
        let guard = Guard { tracers: None, meters: None };
        return Ok((tracing_subscriber::registry().with(logs).into(), guard));
    };
    otlp.check()?;
    // The exporter's TLS takes the process's provider; `main` installs the same one.
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Losing a race against another installation is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let resource = otlp::resource(&options.node);
    let tracers = otlp::tracer_provider(otlp, resource.clone())?;
    let meters = otlp::meter_provider(otlp, resource, metrics)?;
    let spans_only =
        filter_fn(|meta| meta.is_span() && meta.target() == SPANS).with_max_level_hint(LevelFilter::INFO);
    let spans = tracing_opentelemetry::layer()
        .with_tracer(tracers.tracer("tidegate"))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(spans_only);
    let dispatch = tracing_subscriber::registry().with(logs).with(spans).into();
    Ok((dispatch, Guard { tracers: Some(tracers), meters: Some(meters) }))
}

fn logs(options: &Options) -> Result<Box<dyn Layer<Registry> + Send + Sync>, TelemetryError> {
    let wrong = |why: String| TelemetryError::Filter { filter: options.filter.clone(), why };
    let chosen = EnvFilter::builder().parse(&options.filter).map_err(|error| wrong(error.to_string()))?;
    // Spans are for the export; a line of the log says everything itself.
    let filter = chosen.and(filter_fn(|meta| meta.target() != SPANS));
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    Ok(match options.format {
        LogFormat::Text => layer.with_ansi(std::io::stderr().is_terminal()).with_filter(filter).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_filter(filter).boxed(),
    })
}

impl OtlpOptions {
    fn check(&self) -> Result<(), TelemetryError> {
        if !["http://", "https://"].iter().any(|scheme| self.endpoint.starts_with(scheme)) {
            return Err(TelemetryError::Endpoint(self.endpoint.clone()));
        }
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            return Err(TelemetryError::SampleRatio);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc;

    use super::super::trace::{Traceparent, deliver_span, publish_span};
    use super::*;
    use crate::domain::TenantId;

    const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    /// One request: its path, headers in lower case, and body.
    type Received = (String, String, Vec<u8>);

    /// Takes one HTTP/1.1 request after another on a connection and answers 200.
    fn serve(mut stream: TcpStream, to: &mpsc::SyncSender<Received>) -> Option<()> {
        let mut bytes = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                    break end + 4;
                }
                read_some(&mut stream, &mut bytes)?;
            };
            let head = String::from_utf8(bytes[..end].to_vec()).ok()?.to_lowercase();
            let length: usize =
                head.lines().find_map(|line| line.strip_prefix("content-length:"))?.trim().parse().ok()?;
            while bytes.len() < end + length {
                read_some(&mut stream, &mut bytes)?;
            }
            let body = bytes[end..end + length].to_vec();
            bytes.drain(..end + length);
            let path = head.split(' ').nth(1)?.to_owned();
            // Told before it is answered: whoever waits for the answer finds it here.
            to.send((path, head, body)).ok()?;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").ok()?;
        }
    }

    fn read_some(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<()> {
        let mut some = [0; 4096];
        let n = stream.read(&mut some).ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&some[..n]);
        Some(())
    }

    /// A collector on a free port.
    fn collector() -> (String, mpsc::Receiver<Received>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/", listener.local_addr().unwrap());
        let (to, received) = mpsc::sync_channel(64);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let to = to.clone();
                thread::spawn(move || serve(stream, &to));
            }
        });
        (address, received)
    }

    fn options(endpoint: &str, sample_ratio: f64) -> Options {
        let otlp = OtlpOptions {
            endpoint: endpoint.to_owned(),
            headers: vec![("x-api-key".to_owned(), "k".to_owned())],
            sample_ratio,
            metrics_interval: Duration::from_secs(3600),
            timeout: Duration::from_secs(5),
        };
        Options { format: LogFormat::Json, filter: "off".to_owned(), node: "n1".to_owned(), otlp: Some(otlp) }
    }

    fn contains(body: &[u8], part: &[u8]) -> bool {
        body.windows(part.len()).any(|window| window == part)
    }

    #[test]
    fn traces_and_metrics_reach_a_collector() {
        let (endpoint, received) = collector();
        let metrics = Metrics::default();
        let tenant = TenantId::parse("acme").unwrap();
        metrics.tenant(&tenant).messages_delivered.inc_by(7);
        let (dispatch, guard) = build(&options(&endpoint, 1.0), &metrics).unwrap();
        let caller: Traceparent = CALLER.parse().unwrap();
        tracing::dispatcher::with_default(&dispatch, || {
            let publish = publish_span(&tenant, 1, Some(caller));
            let own = publish.traceparent.unwrap();
            assert_eq!(own.to_string()[..36], CALLER[..36], "the caller's trace goes on");
            assert_ne!(own, caller, "in a span of our own");
            drop(publish.span);
            let unsampled = CALLER.replace("-01", "-00");
            assert!(deliver_span(&tenant, 1, [unsampled.as_str(), "junk"]).is_disabled());
            assert!(!deliver_span(&tenant, 2, [unsampled.as_str(), &own.to_string()]).is_disabled());
        });
        drop(guard);
        let all: Vec<Received> = received.try_iter().collect();
        let body = |path: &str| {
            let found = all.iter().find(|(to, ..)| to == path);
            let (_, head, body) = found.unwrap_or_else(|| panic!("nothing came to {path}"));
            assert!(head.contains("content-type: application/x-protobuf"), "{head}");
            assert!(head.contains("x-api-key: k"), "{head}");
            body
        };
        let traces = body("/v1/traces");
        let trace_id = [0x4b, 0xf9, 0x2f, 0x35, 0x77, 0xb3, 0x4d, 0xa6];
        for part in [&b"publish"[..], b"deliver", b"acme", b"service.name", b"n1", &trace_id] {
            assert!(contains(traces, part), "{}", String::from_utf8_lossy(part));
        }
        let exported = body("/v1/metrics");
        for part in [
            "tidegate_messages_delivered_total",
            "tidegate_delivery_delay_seconds_bucket",
            "tidegate_build_info",
            "acme",
        ] {
            assert!(contains(exported, part.as_bytes()), "{part}");
        }
    }

    #[test]
    fn what_is_not_sampled_is_not_exported_but_handed_on() {
        let (endpoint, received) = collector();
        let (dispatch, guard) = build(&options(&endpoint, 0.0), &Metrics::default()).unwrap();
        tracing::dispatcher::with_default(&dispatch, || {
            let tenant = TenantId::parse("acme").unwrap();
            assert_eq!(publish_span(&tenant, 1, None).traceparent, None);
            let caller = CALLER.replace("-01", "-00").parse().ok();
            assert_eq!(publish_span(&tenant, 1, caller).traceparent, caller);
        });
        drop(guard);
        assert!(received.try_iter().all(|(path, ..)| path == "/v1/metrics"));
    }

    #[test]
    fn wrong_options_are_named() {
        let metrics = Metrics::default();
        let mut wrong = options("localhost:4318", 1.0);
        assert_eq!(
            build(&wrong, &metrics).unwrap_err(),
            TelemetryError::Endpoint("localhost:4318".to_owned())
        );
        wrong = options("http://localhost:4318", 1.5);
        assert_eq!(build(&wrong, &metrics).unwrap_err(), TelemetryError::SampleRatio);
        wrong.filter = "tidegate=loud".to_owned();
        assert!(matches!(build(&wrong, &metrics).unwrap_err(), TelemetryError::Filter { .. }));
    }
}
