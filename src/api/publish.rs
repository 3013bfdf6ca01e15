//! HTTP publish: `POST /v1/<tenant>/publish`, apart from any HTTP server.
//!
//! [`handle`] is the whole endpoint; [`PublishRequest::parse`] and [`publish`] are its two halves.
//! A request is refused as a whole when its body is not understood, and nothing is published then.
//! Once understood, each target channel has a result of its own.
//!
//! Invariants: messages to one channel are added in the order of the request, one after another; no
//! more than [`PublishLimits::concurrency`] commands are in flight for one request.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use indexmap::IndexMap;
use serde::Serialize;
use serde_json::json;
use tracing::Instrument as _;

use super::admin::bearer;
use crate::backbone::{Backbone, BackboneError};
use crate::domain::{ChannelName, Offset, Publication, StreamKey, TenantId};
use crate::telemetry::{PublishOutcome, TenantMetrics, Traceparent, Via, events, publish_span};

mod parse;

pub use parse::{PublishError, PublishLimits, PublishRequest};

/// Seconds after which a client tries again when the backbone is away.
const RETRY_AFTER_S: u16 = 2;

/// What a request is judged and carried out by.
pub struct PublishContext<'a> {
    /// Where messages go.
    pub backbone: &'a dyn Backbone,
    /// Whose channels they are.
    pub tenant: &'a TenantId,
    /// The same tenant's.
    pub metrics: &'a TenantMetrics,
    /// Bounds on one request.
    pub limits: &'a PublishLimits,
    /// Whether this is a key of the tenant that may publish.
    pub key_is_valid: &'a (dyn Fn(&str) -> bool + Sync),
    /// Whether the channel exists for publishers, else why not: unknown namespaces are refused here.
    pub allow: &'a (dyn Fn(&ChannelName) -> Result<(), String> + Sync),
    /// Told of every message that is in a channel's log.
    pub added: &'a (dyn Fn(&ChannelName, Offset) + Sync),
}

/// What became of one target, as the response says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TargetResult {
    /// The channel as the request named it.
    pub channel: String,
    /// The rest.
    #[serde(flatten)]
    pub outcome: TargetOutcome,
}

/// `{"offset"}` or `{"error"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetOutcome {
    /// The message is in the log, there.
    Offset(Offset),
    /// It is not, and why.
    Error(TargetError),
}

/// Why a message is not in a channel's log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// The name is no channel's.
    #[error("{0}")]
    Invalid(String),
    /// The tenant's rules do not allow it.
    #[error("{0}")]
    Refused(String),
    /// The backbone did not take it.
    #[error("{0}")]
    Backbone(#[from] BackboneError),
    /// A message before it, to the same channel, failed in a way that may pass. Adding this one would
    /// put them out of order when the other is tried again.
    #[error("not tried, because a message before it to the same channel failed: {0}")]
    NotTried(BackboneError),
}

impl Serialize for TargetError {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl TargetError {
    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Backbone(error) | Self::NotTried(error) => error.is_retryable(),
            Self::Invalid(_) | Self::Refused(_) => false,
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::Refused(_) => StatusCode::FORBIDDEN,
            Self::Backbone(_) | Self::NotTried(_) if self.is_retryable() => StatusCode::SERVICE_UNAVAILABLE,
            Self::Backbone(_) | Self::NotTried(_) => StatusCode::BAD_GATEWAY,
        }
    }

    fn counted_as(&self) -> PublishOutcome {
        match self {
            Self::Invalid(_) => PublishOutcome::Invalid,
            Self::Refused(_) => PublishOutcome::Refused,
            Self::Backbone(_) | Self::NotTried(_) if self.is_retryable() => PublishOutcome::Unavailable,
            Self::Backbone(_) | Self::NotTried(_) => PublishOutcome::Failed,
        }
    }
}

/// The endpoint: `headers` are the request's, of which `Authorization` and `traceparent` are read;
/// the method and the path were looked at before. The body may be cut off one byte above
/// [`PublishLimits::body_bytes`].
///
/// The status is 200 when at least one target took its message, else that of what was wrong: 400,
/// 401, 403, 413, 502, or 503 with `Retry-After` while the backbone is away. Dropping the future
/// leaves some messages added and others not.
pub async fn handle(context: &PublishContext<'_>, headers: &HeaderMap, body: &[u8]) -> Response<Bytes> {
    let key = headers.get(AUTHORIZATION).and_then(bearer);
    if !key.is_some_and(|key| (context.key_is_valid)(key)) {
        return unauthorized();
    }
    let request = match PublishRequest::parse(body, context.limits) {
        Ok(request) => request,
        Err(error) => {
            context.metrics.publishes.of(Via::Http).of(PublishOutcome::Invalid).inc();
            return json_response(error.status(), &json!({ "error": error.to_string() }));
        }
    };
    // A context that is not valid is as good as none (W3C Trace Context, section 4.3).
    let caller = headers.get("traceparent").and_then(|value| value.to_str().ok()?.parse().ok());
    let results = publish(context, request, caller).await;
    let status = overall(&results);
    let mut response = json_response(status, &json!({ "results": results }));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
    }
    response
}

/// Adds each message to each of its channels; one result a target, in the order of the request.
pub async fn publish(
    context: &PublishContext<'_>,
    request: PublishRequest,
    caller: Option<Traceparent>,
) -> Vec<TargetResult> {
    let span = publish_span(context.tenant, request.messages.len(), caller);
    let (mut results, lanes) = plan(context, request, span.traceparent);
    let work = lanes.into_iter().map(|(channel, lane)| append_in_order(context, channel, lane));
    let mut work = stream::iter(work).buffer_unordered(context.limits.concurrency.max(1));
    let append_all = async {
        while let Some(appended) = work.next().await {
            for (place, outcome) in appended {
                results[place].1 = Some(outcome);
            }
        }
    };
    append_all.instrument(span.span).await;
    results.into_iter().map(|(channel, outcome)| conclude(context, channel, outcome)).collect()
}

/// A target as the request named it, and its result once there is one.
type Target = (String, Option<Result<Offset, TargetError>>);

/// Messages to one channel: each with its place among the targets. A message for many channels is
/// shared, and copied only while it is added.
type Lane = Vec<(usize, Arc<Publication>)>;

/// Sorts targets by channel; what is refused has its result already.
fn plan(
    context: &PublishContext<'_>,
    request: PublishRequest,
    traceparent: Option<Traceparent>,
) -> (Vec<Target>, IndexMap<ChannelName, Lane>) {
    let traceparent: Option<Box<str>> = traceparent.map(|own| own.to_string().into());
    let mut results = Vec::new();
    let mut lanes: IndexMap<ChannelName, Lane> = IndexMap::new();
    for message in request.messages {
        let publication = Arc::new(Publication { traceparent: traceparent.clone(), ..message.publication });
        for name in message.channels {
            let checked = ChannelName::parse(&name)
                .map_err(|error| TargetError::Invalid(error.to_string()))
                .and_then(|channel| match (context.allow)(&channel) {
                    Ok(()) => Ok(channel),
                    Err(why) => Err(TargetError::Refused(why)),
                });
            match checked {
                Ok(channel) => {
                    lanes.entry(channel).or_default().push((results.len(), publication.clone()));
                    results.push((name, None));
                }
                Err(error) => results.push((name, Some(Err(error)))),
            }
        }
    }
    (results, lanes)
}

/// Adds one channel's messages, each after the one before is in the log. After an error that may pass
/// the rest is left for the next try.
async fn append_in_order(
    context: &PublishContext<'_>,
    channel: ChannelName,
    lane: Lane,
) -> Vec<(usize, Result<Offset, TargetError>)> {
    let stream = StreamKey::channel(context.tenant, &channel);
    let mut outcomes = Vec::with_capacity(lane.len());
    let mut stopped: Option<BackboneError> = None;
    for (place, publication) in lane {
        if let Some(error) = &stopped {
            outcomes.push((place, Err(TargetError::NotTried(error.clone()))));
            continue;
        }
        let fields = Publication::clone(&publication).into_fields();
        let added = context.backbone.append(&stream, fields, publication.id.as_deref()).await;
        if let Ok(offset) = &added {
            (context.added)(&channel, *offset);
        }
        stopped = added.as_ref().err().filter(|error| error.is_retryable()).cloned();
        outcomes.push((place, added.map_err(TargetError::from)));
    }
    outcomes
}

fn conclude(
    context: &PublishContext<'_>,
    channel: String,
    outcome: Option<Result<Offset, TargetError>>,
) -> TargetResult {
    let outcome =
        outcome.expect("a target without a result of its own is in a lane, and lanes run to their end");
    let counted = outcome.as_ref().map_or_else(TargetError::counted_as, |_| PublishOutcome::Accepted);
    events::published(context.metrics, context.tenant, &channel.escape_debug(), Via::Http, counted);
    let outcome = match outcome {
        Ok(offset) => TargetOutcome::Offset(offset),
        Err(error) => TargetOutcome::Error(error),
    };
    // A name that is no channel's may be long; its start is enough to recognise it.
    let channel = if channel.len() > 256 { channel.chars().take(80).collect() } else { channel };
    TargetResult { channel, outcome }
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

fn unauthorized() -> Response<Bytes> {
    let why = "send `Authorization: Bearer <key>` with an API key of this tenant";
    let mut response = json_response(StatusCode::UNAUTHORIZED, &json!({ "error": why }));
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

fn json_response(status: StatusCode, body: &serde_json::Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests;
