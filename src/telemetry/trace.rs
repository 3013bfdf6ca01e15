//! Spans, and the W3C trace context that travels with publications.
//!
//! <https://www.w3.org/TR/trace-context/>, `traceparent` only: vendors' `tracestate` is not carried.

use std::fmt;
use std::str::FromStr;

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState};
use tracing::{Level, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::domain::TenantId;

/// The target of all spans. The log's filter leaves it out, so that without an OTLP endpoint nobody
/// listens and a span is one load of its callsite's state.
pub(super) const SPANS: &str = "tidegate::span";

/// Links of one `deliver` span, at most: as many as the SDK keeps.
const LINKS: usize = 128;

/// A valid W3C `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traceparent {
    trace: [u8; 16],
    parent: [u8; 8],
    flags: u8,
}

/// The text is no `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a W3C traceparent: write it as 00-<32 hex digits>-<16 hex digits>-<2 hex digits>, in lower case"
)]
pub struct InvalidTraceparent;

impl Traceparent {
    /// Whether the caller records this trace.
    pub fn is_sampled(&self) -> bool {
        self.flags & 1 == 1
    }

    fn from_context(context: &SpanContext) -> Option<Self> {
        context.is_valid().then(|| Self {
            trace: context.trace_id().to_bytes(),
            parent: context.span_id().to_bytes(),
            flags: context.trace_flags().to_u8() & 1,
        })
    }

    fn to_context(self) -> SpanContext {
        SpanContext::new(
            TraceId::from_bytes(self.trace),
            SpanId::from_bytes(self.parent),
            TraceFlags::new(self.flags & 1),
            true,
            TraceState::default(),
        )
    }
}

impl FromStr for Traceparent {
    type Err = InvalidTraceparent;

    /// Section 3.2 of the recommendation. A later version may carry more after the flags; what it
    /// adds is left out.
    fn from_str(text: &str) -> Result<Self, InvalidTraceparent> {
        let mut parts = text.split('-');
        let mut part = || parts.next().ok_or(InvalidTraceparent);
        let [version] = hex(part()?)?;
        let (trace, parent) = (hex(part()?)?, hex(part()?)?);
        let [flags] = hex(part()?)?;
        let more = parts.next().is_some();
        if version == 0xff || (version == 0 && more) || trace == [0; 16] || parent == [0; 8] {
            return Err(InvalidTraceparent);
        }
        Ok(Self { trace, parent, flags })
    }
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace, parent) = (u128::from_be_bytes(self.trace), u64::from_be_bytes(self.parent));
        write!(f, "00-{trace:032x}-{parent:016x}-{:02x}", self.flags)
    }
}

fn hex<const N: usize>(digits: &str) -> Result<[u8; N], InvalidTraceparent> {
    fn digit(byte: u8) -> Result<u8, InvalidTraceparent> {
        match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(InvalidTraceparent),
        }
    }
    let digits = digits.as_bytes();
    if digits.len() != 2 * N {
        return Err(InvalidTraceparent);
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Ok(bytes)
}

/// The span of one publish request and what is stored with its publications.
#[derive(Debug)]
pub struct PublishSpan {
    /// Instrument the work with it. Disabled while nothing is exported.
    pub span: Span,
    /// Goes into the field `traceparent` of each publication.
    pub traceparent: Option<Traceparent>,
}

/// Begins the span of a publish request of `messages` messages, as a child of the caller's.
///
/// While nothing is exported the caller's context is handed on unchanged, so a trace that passes
/// through this node stays whole.
pub fn publish_span(tenant: &TenantId, messages: usize, caller: Option<Traceparent>) -> PublishSpan {
    let span = tracing::info_span!(
        target: SPANS, parent: None, "publish",
        otel.kind = "producer",
        messaging.operation.type = "send",
        messaging.batch.message_count = messages,
        tidegate.tenant = %tenant,
    );
    if span.is_disabled() {
        return PublishSpan { span, traceparent: caller };
    }
    if let Some(caller) = caller {
        continue_from(&span, caller);
    }
    let own = Traceparent::from_context(span.context().span().span_context());
    // A trace that nobody records is not worth its bytes in every message.
    let recorded = own.filter(Traceparent::is_sampled);
    PublishSpan { span, traceparent: recorded.or(caller) }
}

/// Begins the span of one batch's fan-out, never of one subscriber's share.
///
/// Only messages whose publisher records the trace count: without any there is no span. The first of
/// them is the parent, so that the sampler follows the publisher; all of them are linked.
pub fn deliver_span<'a>(
    tenant: &TenantId,
    messages: usize,
    traceparents: impl IntoIterator<Item = &'a str>,
) -> Span {
    if !tracing::span_enabled!(target: SPANS, Level::INFO) {
        return Span::none();
    }
    let parsed = traceparents.into_iter().filter_map(|text| text.parse::<Traceparent>().ok());
    let mut sampled = parsed.filter(Traceparent::is_sampled).take(LINKS).peekable();
    let Some(&first) = sampled.peek() else {
        return Span::none();
    };
    let span = tracing::info_span!(
        target: SPANS, parent: None, "deliver",
        otel.kind = "consumer",
        messaging.operation.type = "process",
        messaging.batch.message_count = messages,
        tidegate.tenant = %tenant,
    );
    continue_from(&span, first);
    for traceparent in sampled {
        span.add_link(traceparent.to_context());
    }
    span
}

fn continue_from(span: &Span, parent: Traceparent) {
    let context = Context::new().with_remote_span_context(parent.to_context());
    if let Err(error) = span.set_parent(context) {
        // Another subscriber than ours is installed, as in tests: the span then has no parent.
        tracing::debug!(%error, "a span keeps no parent");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_reads_and_writes() {
        let parsed: Traceparent = GOOD.parse().unwrap();
        assert_eq!(parsed.to_string(), GOOD);
        assert!(parsed.is_sampled());
        assert_eq!(Traceparent::from_context(&parsed.to_context()), Some(parsed));
        let later = format!("01{}-more", &GOOD[2..]);
        assert_eq!(later.parse(), Ok(parsed), "a later version may say more");
        assert!(!GOOD.replace("-01", "-00").parse::<Traceparent>().unwrap().is_sampled());
    }

    #[test]
    fn what_is_no_traceparent_is_refused() {
        for bad in [
            "",
            "00",
            "00-1-2-01",
            &GOOD.to_uppercase(),
            &GOOD.replace("00-4", "ff-4"),
            &format!("{GOOD}-more"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            &GOOD.replace('f', "é"),
            &GOOD.replace("-01", "-+1"),
        ] {
            assert_eq!(bad.parse::<Traceparent>(), Err(InvalidTraceparent), "{bad}");
        }
    }

    #[test]
    fn without_export_the_callers_context_goes_on_and_nothing_is_begun() {
        let tenant = TenantId::parse("acme").unwrap();
        let caller = GOOD.parse().ok();
        let publish = publish_span(&tenant, 1, caller);
        assert!(publish.span.is_disabled());
        assert_eq!(publish.traceparent, caller);
        assert!(deliver_span(&tenant, 1, [GOOD]).is_disabled());
    }
}
