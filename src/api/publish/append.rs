//! From messages to entries of logs, and what became of each.

use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;

use super::parse::Message;
use crate::backbone::{Addition, Backbone, BackboneError, Once};
use crate::delivery::Upstream;
use crate::domain::{ChannelName, Kind, Offset, Publication, StreamKey};
use crate::telemetry::{PublishOutcome, TenantMetrics, Via, events};
use crate::tenants::Tenant;

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
            Self::Backbone(error) => error.is_retryable(),
            Self::Invalid(_) | Self::Refused(_) => false,
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::Refused(_) => StatusCode::FORBIDDEN,
            Self::Backbone(_) if self.is_retryable() => StatusCode::SERVICE_UNAVAILABLE,
            Self::Backbone(_) => StatusCode::BAD_GATEWAY,
        }
    }

    fn counted_as(&self) -> PublishOutcome {
        match self {
            Self::Invalid(_) => PublishOutcome::Invalid,
            Self::Refused(_) => PublishOutcome::Refused,
            Self::Backbone(_) if self.is_retryable() => PublishOutcome::Unavailable,
            Self::Backbone(_) => PublishOutcome::Failed,
        }
    }
}

/// A message ready for all of its channels: its fields are made once, and copied as pointers.
pub(super) struct Ready {
    pub(super) channels: Vec<String>,
    fields: Vec<(Bytes, Bytes)>,
    once: Option<Once>,
}

impl Ready {
    /// `traceparent` is for messages that bring none of their own.
    pub(super) fn new(message: Message, traceparent: Option<&str>) -> Self {
        let Message { channels, mut publication } = message;
        publication.traceparent = publication.traceparent.or_else(|| traceparent.map(Into::into));
        let once = publication.id.clone().map(Once::Id);
        Self { channels, fields: Publication::into_fields(publication), once }
    }

    /// The entry for one channel, where the tenant has such a channel.
    pub(super) fn addition(&self, tenant: &Tenant, channel: &str) -> Result<Addition, TargetError> {
        let channel = ChannelName::parse(channel).map_err(|error| TargetError::Invalid(error.to_string()))?;
        let Some(rules) = tenant.rules(channel.namespace()) else {
            let why = format!("the tenant has no namespace {:?}", channel.namespace());
            return Err(TargetError::Refused(why));
        };
        Ok(Addition {
            stream: StreamKey::channel(&tenant.id, &channel),
            fields: self.fields.clone(),
            once: self.once.clone(),
            // A queue is never trimmed past work that waits, so it is full at some time.
            refuse_at: (rules.kind == Kind::Queue).then_some(rules.retention.max_len),
        })
    }
}

/// Adds what may be added; an answer for each, in order.
pub(super) async fn append(
    backbone: &dyn Backbone,
    additions: Vec<Result<Addition, TargetError>>,
) -> Vec<Result<Offset, TargetError>> {
    let mut answers = Vec::with_capacity(additions.len());
    let mut allowed = Vec::with_capacity(additions.len());
    for addition in additions {
        answers.push(addition.map(|addition| allowed.push(addition)));
    }
    let mut added = backbone.append_all(&allowed).await.into_iter();
    let mut next = || {
        let missing = || Err(BackboneError::Refused("the backbone gave no answer".to_owned()));
        added.next().unwrap_or_else(missing).map_err(TargetError::from)
    };
    answers.into_iter().map(|answer| answer.and_then(|()| next())).collect()
}

/// Counts what became of a target, and tells the tenant's backends where nobody is there for it.
pub(super) fn count(
    metrics: &TenantMetrics,
    upstream: &Upstream,
    tenant: &Tenant,
    channel: &str,
    outcome: &Result<Offset, TargetError>,
) {
    if let (Ok(offset), Ok(channel)) = (outcome, ChannelName::parse(channel)) {
        upstream.note_unwatched(&tenant.id, &channel, *offset);
    }
    let counted = outcome.as_ref().map_or_else(TargetError::counted_as, |_| PublishOutcome::Accepted);
    events::published(metrics, &tenant.id, &channel.escape_debug(), Via::Http, counted);
}

/// The name of a channel to answer with: one that is no channel's may be long, and its start is enough to
/// recognise it.
pub(super) fn shown(channel: String) -> String {
    if channel.len() > 256 { channel.chars().take(80).collect() } else { channel }
}
