//! What an entry of `up` looks like (`docs/redis.md`): plain fields, or CloudEvents 1.0. Pure.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::domain::{
    ChannelName, CloseReason, DeviceId, EventFormat, EventKind, NodeId, Offset, Publication, SessionId,
    TenantId, UserId,
};
use crate::protocol::Resumed;
use crate::telemetry::{Label as _, Transport};

/// Whom an entry is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// The user.
    pub user: UserId,
    /// The session; `None` where it is about the user as a whole.
    pub session: Option<SessionId>,
    /// The session's device, where it has one.
    pub device: Option<DeviceId>,
}

/// What happened to a session, or to a user's messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEvent {
    /// A connection has a session.
    Connected {
        /// What it got back.
        resumed: Resumed,
        /// What carries it.
        transport: Transport,
        /// From where, where the tenant wants to know.
        address: Option<IpAddr>,
    },
    /// A connection is over, or a session that waited for its client is.
    Disconnected {
        /// Why.
        reason: CloseReason,
        /// How long the connection was open; `None` where it had ended before.
        lived: Option<Duration>,
        /// The session ended with it.
        last: bool,
    },
    /// A session takes part in a channel.
    Subscribed(ChannelName),
    /// A session has left a channel.
    Unsubscribed(ChannelName),
    /// Messages of a user's own channel found nobody.
    Undelivered {
        /// The channel.
        channel: ChannelName,
        /// They come after this offset.
        after: Offset,
        /// The last of them.
        until: Offset,
        /// How many, where it is known.
        count: Option<u64>,
    },
}

impl SessionEvent {
    /// Its kind.
    pub fn kind(&self) -> EventKind {
        match self {
            Self::Connected { .. } => EventKind::Connected,
            Self::Disconnected { .. } => EventKind::Disconnected,
            Self::Subscribed(_) => EventKind::Subscribed,
            Self::Unsubscribed(_) => EventKind::Unsubscribed,
            Self::Undelivered { .. } => EventKind::Undelivered,
        }
    }

    /// What this kind tells beside whom it is about.
    fn details(&self) -> Vec<(&'static str, Value)> {
        match self {
            Self::Connected { resumed, transport, address } => {
                let mut details =
                    vec![("resumed", resumed.label().into()), ("transport", transport.word().into())];
                details.extend(address.map(|address| ("address", address.to_string().into())));
                details
            }
            Self::Disconnected { reason, lived, last } => {
                let mut details = vec![("reason", reason.label().into()), ("code", reason.code().into())];
                details.extend(lived.map(|lived| ("lived_ms", json!(lived.as_millis() as u64))));
                details.push(("final", (*last).into()));
                details
            }
            Self::Subscribed(channel) | Self::Unsubscribed(channel) => {
                vec![("channel", channel.as_str().into())]
            }
            Self::Undelivered { channel, after, until, count } => {
                let mut details = vec![("channel", channel.as_str().into())];
                details.extend(count.map(|count| ("count", count.into())));
                details.push(("after", after.to_string().into()));
                details.push(("until", until.to_string().into()));
                details
            }
        }
    }
}

/// Where and when an entry comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin<'a> {
    pub(super) tenant: &'a TenantId,
    pub(super) node: &'a NodeId,
    /// Tells this entry from all others, also where it is written twice.
    pub(super) id: &'a str,
    /// The backbone's time.
    pub(super) ms: u64,
}

/// The fields of an event.
pub(super) fn of_event(
    format: EventFormat,
    origin: Origin<'_>,
    who: &Who,
    event: &SessionEvent,
) -> Vec<(Bytes, Bytes)> {
    let mut values: Vec<(&str, Value)> = vec![("user", who.user.as_str().into())];
    values.extend(who.session.map(|session| ("session", session.to_string().into())));
    values.extend(who.device.as_ref().map(|device| ("device", device.as_str().into())));
    values.extend([("node", origin.node.as_str().into()), ("ms", origin.ms.into())]);
    values.extend(event.details());
    match format {
        EventFormat::Plain => {
            let head = [("event", event.kind().label().into()), ("id", origin.id.into())];
            head.into_iter().chain(values).map(|(name, value)| field(name, text(value))).collect()
        }
        EventFormat::CloudEvents => {
            let kind = format!("dev.tidegate.session.{}", event.kind());
            let subject = match (who.session, event) {
                (Some(session), _) => session.to_string(),
                (None, SessionEvent::Undelivered { channel, .. }) => channel.to_string(),
                (None, _) => who.user.to_string(),
            };
            let data: Map<_, _> = values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            let headers = attributes(origin, who, &kind, &subject, "application/json");
            vec![field("data", Value::Object(data).to_string()), field("headers", json!(headers).to_string())]
        }
    }
}

/// The fields of what a client sends. `message` has the client's data, and a content type where the
/// client's frame gave it one.
pub(super) fn of_client(
    format: EventFormat,
    origin: Origin<'_>,
    who: &Who,
    message: Publication,
    topic: Option<&str>,
) -> Vec<(Bytes, Bytes)> {
    if format == EventFormat::CloudEvents {
        let subject = who.session.map_or_else(|| who.user.to_string(), |session| session.to_string());
        let content_type = message.header("content-type").unwrap_or_else(|| media_type(&message.data));
        let mut headers = attributes(origin, who, "dev.tidegate.client.message", &subject, content_type);
        headers.extend(topic.map(|topic| ("ce-topic".to_owned(), topic.into())));
        let data = (Bytes::from_static(b"data"), message.data);
        return vec![data, field("headers", json!(headers).to_string())];
    }
    let user = Some(who.user.as_str().into());
    let session = who.session.map(|session| session.to_string().into());
    let mut fields = Publication { user, session, ..message }.into_fields();
    fields.extend(topic.map(|topic| field("topic", topic.to_owned())));
    fields.extend(who.device.as_ref().map(|device| field("device", device.to_string())));
    fields
}

/// CloudEvents context attributes (CloudEvents 1.0.2, section 3.1), named as over HTTP.
fn attributes(
    origin: Origin<'_>,
    who: &Who,
    kind: &str,
    subject: &str,
    content_type: &str,
) -> Map<String, Value> {
    let mut headers = Map::new();
    let mut set = |name: &str, value: String| headers.insert(name.to_owned(), value.into());
    set("content-type", content_type.to_owned());
    set("ce-specversion", "1.0".to_owned());
    set("ce-id", origin.id.to_owned());
    set("ce-type", kind.to_owned());
    set("ce-source", format!("/tenants/{}/nodes/{}", origin.tenant, origin.node));
    set("ce-subject", subject.to_owned());
    set("ce-time", rfc3339(origin.ms));
    set("ce-user", who.user.to_string());
    if let Some(device) = &who.device {
        set("ce-device", device.to_string());
    }
    headers
}

/// What a payload without a content type is.
fn media_type(data: &[u8]) -> &'static str {
    let is_json = || serde_json::from_slice::<serde::de::IgnoredAny>(data).is_ok();
    match data.first() {
        Some(b'{' | b'[') if is_json() => "application/json",
        _ if std::str::from_utf8(data).is_ok() => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

fn field(name: &str, value: String) -> (Bytes, Bytes) {
    (Bytes::copy_from_slice(name.as_bytes()), value.into())
}

/// A value as a field of its own.
fn text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

/// Milliseconds since 1970 as RFC 3339 writes a time, in UTC. The date by the algorithm of
/// <https://howardhinnant.github.io/date_algorithms.html#civil_from_days>, for days since 1970.
fn rfc3339(ms: u64) -> String {
    const DAY_MS: u64 = 24 * 3600 * 1000;
    let (days, ms) = (ms / DAY_MS + 719_468, ms % DAY_MS);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin<'a>(tenant: &'a TenantId, node: &'a NodeId) -> Origin<'a> {
        Origin { tenant, node, id: "7-1", ms: 1_763_769_600_123 }
    }

    fn names() -> (TenantId, NodeId, Who) {
        let session = Some(SessionId::from_bytes([0; 16]));
        let device = Some(DeviceId::parse("phone").unwrap());
        let who = Who { user: UserId::parse("alice").unwrap(), session, device };
        (TenantId::parse("acme").unwrap(), NodeId::parse("edge-1").unwrap(), who)
    }

    fn shown(fields: &[(Bytes, Bytes)]) -> Vec<String> {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        fields.iter().map(|(name, value)| format!("{}={}", text(name), text(value))).collect()
    }

    fn lost() -> SessionEvent {
        let lived = Some(Duration::from_millis(1500));
        SessionEvent::Disconnected { reason: CloseReason::HeartbeatLost, lived, last: false }
    }

    #[test]
    fn a_plain_event_has_a_field_for_each_value() {
        let (tenant, node, who) = names();
        let fields = of_event(EventFormat::Plain, origin(&tenant, &node), &who, &lost());
        let expected = [
            "event=disconnected",
            "id=7-1",
            "user=alice",
            "session=AAAAAAAAAAAAAAAAAAAAAA",
            "device=phone",
            "node=edge-1",
            "ms=1763769600123",
            "reason=heartbeat_lost",
            "code=4100",
            "lived_ms=1500",
            "final=false",
        ];
        assert_eq!(shown(&fields), expected);
    }

    #[test]
    fn a_cloud_event_has_data_and_headers_alone() {
        let (tenant, node, who) = names();
        let fields = of_event(EventFormat::CloudEvents, origin(&tenant, &node), &who, &lost());
        let [(data_name, data), (headers_name, headers)] = &fields[..] else { panic!("{fields:?}") };
        assert_eq!((&data_name[..], &headers_name[..]), (&b"data"[..], &b"headers"[..]));
        let data: Value = serde_json::from_slice(data).unwrap();
        assert_eq!(
            (&data["user"], &data["code"], &data["final"]),
            (&"alice".into(), &4100.into(), &false.into())
        );
        let headers: Value = serde_json::from_slice(headers).unwrap();
        let expected = json!({
            "content-type": "application/json",
            "ce-specversion": "1.0",
            "ce-id": "7-1",
            "ce-type": "dev.tidegate.session.disconnected",
            "ce-source": "/tenants/acme/nodes/edge-1",
            "ce-subject": "AAAAAAAAAAAAAAAAAAAAAA",
            "ce-time": "2025-11-22T00:00:00.123Z",
            "ce-user": "alice",
            "ce-device": "phone",
        });
        assert_eq!(headers, expected);
    }

    #[test]
    fn what_a_client_sends_says_what_it_is() {
        let (tenant, node, who) = names();
        for (data, content_type) in [
            (&b"{\"a\":1}"[..], "application/json"),
            (b"[1", "text/plain; charset=utf-8"),
            (b"hi", "text/plain; charset=utf-8"),
            (b"\xff", "application/octet-stream"),
        ] {
            let message = Publication { data: Bytes::from_static(data), ..Publication::default() };
            let fields =
                of_client(EventFormat::CloudEvents, origin(&tenant, &node), &who, message, Some("orders"));
            assert_eq!(&fields[0].1[..], data, "as it is");
            let headers: Value = serde_json::from_slice(&fields[1].1).unwrap();
            assert_eq!(
                (&headers["content-type"], &headers["ce-topic"]),
                (&content_type.into(), &"orders".into())
            );
        }
        let message = Publication { data: Bytes::from_static(b"hi"), ..Publication::default() };
        let plain = of_client(EventFormat::Plain, origin(&tenant, &node), &who, message, Some("orders"));
        let expected =
            ["data=hi", "user=alice", "session=AAAAAAAAAAAAAAAAAAAAAA", "topic=orders", "device=phone"];
        assert_eq!(shown(&plain), expected);
    }

    #[test]
    fn times_are_written_as_people_read_them() {
        for (ms, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_000, "2024-02-29T23:59:59.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (1_767_225_599_001, "2025-12-31T23:59:59.001Z"),
        ] {
            assert_eq!(rfc3339(ms), expected);
        }
    }
}
