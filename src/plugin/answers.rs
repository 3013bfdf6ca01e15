//! What guests answer, once it is checked: whoever holds one of these holds valid names.

use bytes::Bytes;

use super::contract::{
    RawDeliverVerdict, RawIdentity, RawPublishVerdict, RawRefusal, RawReplacement, RawRouteVerdict,
    RawSubscribeVerdict, RawTargets,
};
use super::outcome::BadAnswer;
use crate::domain::{ChannelName, Headers, UserId};

/// Bytes of the longest reason that reaches a client; what is longer is cut.
const REASON_BYTES: usize = 256;
/// Bytes of the longest class.
const CLASS_BYTES: usize = 128;
/// Most patterns of channels.
const PATTERNS: usize = 256;
/// Bytes of the longest pattern.
const PATTERN_BYTES: usize = 256;
/// Bytes of the longest claims.
const CLAIMS_BYTES: usize = 4 * 1024;
/// Most channels that a client's message is redirected to.
const REDIRECTS: usize = 16;
/// Most headers of a message.
const HEADERS: usize = 64;
/// Bytes of all headers together.
const HEADER_BYTES: usize = 16 * 1024;

/// What an answer may have, beside what is fixed.
#[derive(Debug, Clone, Copy)]
pub struct AnswerLimits {
    /// Bytes of a payload.
    pub payload_bytes: usize,
    /// Targets of an ingress entry.
    pub targets: usize,
}

/// What goes out in place of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replacement {
    /// The payload.
    pub data: Bytes,
    /// Headers in place of the message's; `None`: they stay.
    pub headers: Option<Headers>,
}

/// Why a client is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For the client's developer, at most 256 bytes without control characters.
    pub reason: Box<str>,
    /// When to ask again, in milliseconds.
    pub retry_after_ms: Option<u32>,
}

/// Who a client is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// The user.
    pub user: UserId,
    /// Its class.
    pub class: Option<Box<str>>,
    /// Patterns of the only channels it may reach, not parsed.
    pub channels: Option<Vec<Box<str>>>,
    /// A JSON object as text.
    pub claims: Option<Box<str>>,
    /// When this ends, in milliseconds since 1970.
    pub expires_ms: Option<u64>,
}

/// What `authenticate` answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// Somebody.
    Admitted(Admitted),
    /// Not let in.
    Refused(Refusal),
}

/// What `on-subscribe` answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubscribeVerdict {
    /// Yes.
    Allow,
    /// No.
    Deny(Refusal),
    /// To this channel instead.
    Rewrite(ChannelName),
}

/// What `on-publish` answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublishVerdict {
    /// As it is.
    Accept,
    /// Nowhere, in silence.
    Drop,
    /// Nowhere, and the client learns why.
    Refuse(Refusal),
    /// This instead.
    Replace(Replacement),
    /// To these channels instead, at least one.
    Redirect(Vec<ChannelName>, Option<Replacement>),
}

/// What `route` answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteVerdict {
    /// As the backend says.
    Accept,
    /// Nowhere.
    Drop,
    /// To these channels, perhaps changed.
    To(Vec<ChannelName>, Option<Replacement>),
}

/// What an `on-deliver` hook answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliverVerdict {
    /// As it is.
    Accept,
    /// Not at all.
    Drop,
    /// This instead.
    Replace(Replacement),
}

impl Admission {
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

impl SubscribeVerdict {
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Deny(_))
    }
}

impl PublishVerdict {
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Refuse(_))
    }
}

pub(super) fn admission(
    raw: Result<RawIdentity, RawRefusal>,
    _: &AnswerLimits,
) -> Result<Admission, BadAnswer> {
    let raw = match raw {
        Ok(raw) => raw,
        Err(raw) => return Ok(Admission::Refused(refusal(raw))),
    };
    let user = UserId::parse(&raw.user).map_err(|_| BadAnswer::User)?;
    if raw.class.as_ref().is_some_and(|class| class.is_empty() || class.len() > CLASS_BYTES) {
        return Err(BadAnswer::Class);
    }
    if let Some(patterns) = &raw.channels
        && (patterns.len() > PATTERNS || patterns.iter().any(|pattern| pattern.len() > PATTERN_BYTES))
    {
        return Err(BadAnswer::Patterns);
    }
    if raw.claims.as_ref().is_some_and(|claims| claims.len() > CLAIMS_BYTES || !is_object(claims)) {
        return Err(BadAnswer::Claims);
    }
    let expires_ms = raw.expires.map(|seconds| seconds.saturating_mul(1000));
    let RawIdentity { class, channels, claims, .. } = raw;
    Ok(Admission::Admitted(Admitted { user, class, channels, claims, expires_ms }))
}

pub(super) fn subscribe(raw: RawSubscribeVerdict, _: &AnswerLimits) -> Result<SubscribeVerdict, BadAnswer> {
    Ok(match raw {
        RawSubscribeVerdict::Allow => SubscribeVerdict::Allow,
        RawSubscribeVerdict::Deny(raw) => SubscribeVerdict::Deny(refusal(raw)),
        RawSubscribeVerdict::Rewrite(name) => SubscribeVerdict::Rewrite(channel(&name)?),
    })
}

pub(super) fn publish(raw: RawPublishVerdict, limits: &AnswerLimits) -> Result<PublishVerdict, BadAnswer> {
    Ok(match raw {
        RawPublishVerdict::Accept => PublishVerdict::Accept,
        RawPublishVerdict::Drop => PublishVerdict::Drop,
        RawPublishVerdict::Refuse(raw) => PublishVerdict::Refuse(refusal(raw)),
        RawPublishVerdict::Replace(raw) => PublishVerdict::Replace(replacement(raw, limits)?),
        RawPublishVerdict::Redirect(RawTargets { channels: names, replacement: raw }) => {
            if names.is_empty() {
                return Err(BadAnswer::Targets);
            }
            let changed = raw.map(|raw| replacement(raw, limits)).transpose()?;
            PublishVerdict::Redirect(channels(&names, REDIRECTS)?, changed)
        }
    })
}

pub(super) fn route(raw: RawRouteVerdict, limits: &AnswerLimits) -> Result<RouteVerdict, BadAnswer> {
    Ok(match raw {
        RawRouteVerdict::Accept => RouteVerdict::Accept,
        RawRouteVerdict::Drop => RouteVerdict::Drop,
        RawRouteVerdict::Channels(names) => RouteVerdict::To(channels(&names, limits.targets)?, None),
        RawRouteVerdict::Replace(RawTargets { channels: names, replacement: raw }) => {
            let changed = raw.map(|raw| replacement(raw, limits)).transpose()?;
            RouteVerdict::To(channels(&names, limits.targets)?, changed)
        }
    })
}

pub(super) fn deliver(raw: RawDeliverVerdict, limits: &AnswerLimits) -> Result<DeliverVerdict, BadAnswer> {
    Ok(match raw {
        RawDeliverVerdict::Accept => DeliverVerdict::Accept,
        RawDeliverVerdict::Drop => DeliverVerdict::Drop,
        RawDeliverVerdict::Replace(raw) => DeliverVerdict::Replace(replacement(raw, limits)?),
    })
}

fn channel(name: &str) -> Result<ChannelName, BadAnswer> {
    ChannelName::parse(name).map_err(|_| BadAnswer::Channel)
}

fn channels(names: &[Box<str>], most: usize) -> Result<Vec<ChannelName>, BadAnswer> {
    if names.len() > most {
        return Err(BadAnswer::Targets);
    }
    names.iter().map(|name| channel(name)).collect()
}

fn replacement(raw: RawReplacement, limits: &AnswerLimits) -> Result<Replacement, BadAnswer> {
    let RawReplacement { data, headers } = raw;
    if data.len() > limits.payload_bytes {
        return Err(BadAnswer::Payload);
    }
    if let Some(headers) = &headers {
        let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        if headers.len() > HEADERS || bytes > HEADER_BYTES {
            return Err(BadAnswer::Headers);
        }
    }
    Ok(Replacement { data, headers })
}

/// A refusal is never wrong: what does not fit is cut, because the client waits for some answer.
fn refusal(raw: RawRefusal) -> Refusal {
    let plain = |reason: &str| !reason.chars().any(char::is_control);
    let reason = if raw.reason.len() <= REASON_BYTES && plain(&raw.reason) {
        raw.reason
    } else {
        let cut = &raw.reason[..raw.reason.floor_char_boundary(REASON_BYTES)];
        cut.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    };
    Refusal { reason, retry_after_ms: raw.retry_after_ms }
}

fn is_object(claims: &str) -> bool {
    // A map of what is not looked at: depth is limited by the parser.
    serde_json::from_str::<std::collections::HashMap<Box<str>, serde::de::IgnoredAny>>(claims).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: AnswerLimits = AnswerLimits { payload_bytes: 10, targets: 2 };

    fn identity() -> RawIdentity {
        RawIdentity { user: "ada".into(), class: None, channels: None, claims: None, expires: Some(u64::MAX) }
    }

    #[test]
    fn an_identity_is_parsed_like_a_tokens() {
        assert!(matches!(admission(Ok(identity()), &LIMITS), Ok(Admission::Admitted(_))));
        let wrong = [
            (RawIdentity { user: "".into(), ..identity() }, BadAnswer::User),
            (RawIdentity { class: Some("".into()), ..identity() }, BadAnswer::Class),
            (RawIdentity { channels: Some(vec!["a:*".into(); 257]), ..identity() }, BadAnswer::Patterns),
            (RawIdentity { claims: Some("[]".into()), ..identity() }, BadAnswer::Claims),
        ];
        for (raw, what) in wrong {
            assert_eq!(admission(Ok(raw), &LIMITS), Err(what));
        }
    }

    #[test]
    fn names_and_sizes_are_checked() {
        let rewrite = RawSubscribeVerdict::Rewrite("no channel".into());
        assert_eq!(subscribe(rewrite, &LIMITS), Err(BadAnswer::Channel));
        let large = RawReplacement { data: Bytes::from_static(b"12345678901"), headers: None };
        assert_eq!(deliver(RawDeliverVerdict::Replace(large), &LIMITS), Err(BadAnswer::Payload));
        let nowhere = RawPublishVerdict::Redirect(RawTargets { channels: vec![], replacement: None });
        assert_eq!(publish(nowhere, &LIMITS), Err(BadAnswer::Targets));
        let many = RawRouteVerdict::Channels(vec!["room:1".into(); 3]);
        assert_eq!(route(many, &LIMITS), Err(BadAnswer::Targets));
    }

    #[test]
    fn a_reason_is_cut_rather_than_lost() {
        let raw = RawRefusal { reason: "é\n".repeat(200).into(), retry_after_ms: Some(7) };
        let cut = refusal(raw);
        assert!(cut.reason.len() <= REASON_BYTES && cut.reason.starts_with("é é"));
    }
}
