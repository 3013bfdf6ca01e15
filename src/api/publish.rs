//! HTTP publish: `POST /v1/<tenant>/publish`, and the sends that wide requests become.
//!
//! [`Publishing::handle`] is the whole endpoint. A request is refused as a whole when it is not understood
//! or comes too fast, and nothing is published then. Once taken, each target channel has a result of its
//! own. Many targets, or a pace, make a request a [send](sends): it is carried out in the background.
//!
//! Invariants: messages to one channel are added in the order of the request; what one tenant has in
//! flight, in bytes, requests and sends, is bounded.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderValue, LOCATION};
use http::{HeaderMap, Method, Request, StatusCode};
use hyper::body::Body;
use serde_json::json;
use tracing::Instrument as _;

use super::answer::{self, Answer};
use crate::backbone::Backbone;
use crate::delivery::Upstream;
use crate::domain::{NodeId, TenantId};
use crate::quota::Quotas;
use crate::telemetry::{Metrics, TenantMetrics, Traceparent, events, publish_span};
use crate::tenants::Tenant;

mod append;
mod cloudevents;
mod error;
mod intake;
mod parse;
pub mod sends;

pub use append::{TargetError, TargetOutcome, TargetResult};
pub use error::PublishError;
pub use parse::{PublishLimits, PublishRequest};

use append::{Ready, append, count, shown};
use intake::{Intake, read_body};
use sends::Sends;

/// When a client tries again while the backbone is away.
const AWAY: Duration = Duration::from_secs(2);
/// Targets of a request that is answered when all are in their logs; more make it a send.
const AT_ONCE: usize = 1_000;

/// HTTP publish of one node, for all tenants. Cheap to clone.
#[derive(Clone)]
pub struct Publishing {
    backbone: Arc<dyn Backbone>,
    metrics: Metrics,
    upstream: Upstream,
    quotas: Quotas,
    /// The wide ones.
    pub sends: Sends,
}

impl Publishing {
    /// Made on the runtime that sends are to run on.
    pub fn new(node: NodeId, backbone: Arc<dyn Backbone>, metrics: Metrics, upstream: Upstream) -> Self {
        let quotas = Quotas::default();
        let sends = Sends::new(node, backbone.clone(), metrics.clone(), upstream.clone(), quotas.clone());
        Self { backbone, metrics, upstream, quotas, sends }
    }

    /// The endpoint.
    ///
    /// The status is 200 when at least one target took its message, 202 for a send, else that of what was
    /// wrong: 400, 401, 403, 405, 408, 413, 415, 429 with `Retry-After`, 502, or 503 with `Retry-After`
    /// while the backbone is away. Dropping the future leaves some messages added and others not.
    pub async fn handle<B>(&self, tenant: &Arc<Tenant>, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes> + Unpin,
    {
        if request.method() != Method::POST {
            return answer::method_not_allowed("POST");
        }
        if !answer::has_key(tenant, request.headers()) {
            return answer::unauthorized();
        }
        let metrics = self.metrics.tenant(&tenant.id);
        self.take(tenant, request, &metrics).await.unwrap_or_else(|refused| {
            let (outcome, targets) = refused.counted_as();
            events::publish_refused(&metrics, &tenant.id, outcome, targets, &refused);
            refused.into_answer()
        })
    }

    async fn take<B>(
        &self,
        tenant: &Arc<Tenant>,
        request: Request<B>,
        metrics: &TenantMetrics,
    ) -> Result<Answer, PublishError>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let (quota, limits) = (self.quotas.of(&tenant.id), &tenant.limits);
        let mut permit = quota.enter(limits.publish_in_flight).ok_or_else(|| PublishError::Limited {
            why: format!(
                "{} requests of this tenant are in flight on this node, the most there may be: send fewer at a time",
                limits.publish_in_flight
            ),
            targets: 1,
            wait: Duration::from_secs(1),
        })?;
        let intake = Intake::of(&request)?;
        let caller = traceparent(request.headers());
        let body = read_body(request, limits, &mut permit).await?;
        let request = intake.read(body, PublishLimits::of(limits)).await?;
        let targets = request.targets();
        if targets > AT_ONCE || request.pace_per_s.is_some() {
            let send = self.sends.start(tenant, request, caller)?;
            return Ok(accepted(&tenant.id, &send));
        }
        let rate = limits.publish_per_s;
        quota.publishes.take(self.quotas.now(), targets, rate).map_err(|wait| PublishError::Limited {
            why: format!("this tenant may publish {rate} messages a second on each node: try again later"),
            targets,
            wait,
        })?;
        let results = self.publish(tenant, request, caller, metrics).await;
        let status = overall(&results);
        let answer = answer::json(status, &json!({ "results": results }));
        let away = status == StatusCode::SERVICE_UNAVAILABLE;
        Ok(if away { answer::retry_after(answer, AWAY) } else { answer })
    }

    /// Adds each message to each of its channels; one result a target, in the order of the request.
    async fn publish(
        &self,
        tenant: &Tenant,
        request: PublishRequest,
        caller: Option<Traceparent>,
        metrics: &TenantMetrics,
    ) -> Vec<TargetResult> {
        let span = publish_span(&tenant.id, request.messages.len(), caller);
        let traceparent = span.traceparent.map(|own| own.to_string());
        let (mut channels, mut additions) = (Vec::new(), Vec::new());
        for message in request.messages {
            let mut ready = Ready::new(message, traceparent.as_deref());
            let named = std::mem::take(&mut ready.channels);
            additions.extend(named.iter().map(|channel| ready.addition(tenant, channel)));
            channels.extend(named);
        }
        let outcomes = append(&*self.backbone, additions).instrument(span.span).await;
        let conclude = |(channel, outcome): (String, _)| {
            count(metrics, &self.upstream, tenant, &channel, &outcome);
            let outcome = outcome.map_or_else(TargetOutcome::Error, TargetOutcome::Offset);
            TargetResult { channel: shown(channel), outcome }
        };
        channels.into_iter().zip(outcomes).map(conclude).collect()
    }
}

/// A context that is not valid is as good as none (W3C Trace Context, section 4.3).
fn traceparent(headers: &HeaderMap) -> Option<Traceparent> {
    headers.get("traceparent")?.to_str().ok()?.parse().ok()
}

/// 202, with where to look.
fn accepted(tenant: &TenantId, send: &sends::Accepted) -> Answer {
    let url = format!("/v1/{tenant}/sends/{}", send.id);
    let body = json!({ "send": send.id, "targets": send.targets, "pace_per_s": send.pace_per_s, "url": url });
    let mut answer = answer::json(StatusCode::ACCEPTED, &body);
    if let Ok(url) = HeaderValue::from_str(&url) {
        answer.headers_mut().insert(LOCATION, url);
    }
    answer
}

/// One status for all targets: success if there is any, else what a retry may mend, else the first
/// error's.
fn overall(results: &[TargetResult]) -> StatusCode {
    let mut status = None;
    for result in results {
        match &result.outcome {
            TargetOutcome::Offset(_) => return StatusCode::OK,
            TargetOutcome::Error(error) if error.is_retryable() => status = Some(error.status()),
            TargetOutcome::Error(error) => status = status.or_else(|| Some(error.status())),
        }
    }
    status.unwrap_or(StatusCode::OK)
}

#[cfg(test)]
mod tests;
