//! Entries of a log, raw and understood.

use bytes::Bytes;

use super::position::Offset;

/// An entry as the backbone holds it: what log and ring keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawEntry {
    /// Its place in the stream.
    pub offset: Offset,
    /// Field names and values in the order they were written.
    pub fields: Vec<(Bytes, Bytes)>,
    /// How many bytes an entry has that is too large to be read. Its fields are then empty.
    pub oversize: Option<usize>,
}

impl RawEntry {
    /// An entry that was read whole.
    pub fn new(offset: Offset, fields: Vec<(Bytes, Bytes)>) -> Self {
        Self { offset, fields, oversize: None }
    }
}

/// Longest time over which a delivery is spread, in milliseconds; what asks for more gets this.
pub const MAX_SPREAD_MS: u64 = 10 * 60 * 1000;

/// An entry that makes sense as a message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Publication {
    /// Its place in the channel's log.
    pub offset: Offset,
    /// The payload.
    pub data: Bytes,
    /// A JSON object of string values, validated; `None` when the entry has none.
    pub headers: Option<Headers>,
    /// Idempotency key.
    pub id: Option<Box<str>>,
    /// Conflation key.
    pub key: Option<Box<str>>,
    /// How long after its offset the message is worth delivering, in milliseconds.
    pub ttl_ms: Option<u64>,
    /// Over how many milliseconds its delivery is spread, at most [`MAX_SPREAD_MS`].
    pub spread_ms: Option<u64>,
    /// The user who published it through a node.
    pub user: Option<Box<str>>,
    /// The session that published it through a node.
    pub session: Option<Box<str>>,
    /// W3C trace context of the publisher.
    pub traceparent: Option<Box<str>>,
}

/// Headers of a publication, names and string values.
pub type Headers = Vec<(Box<str>, Box<str>)>;

/// Why an entry is no message. It is skipped, counted, and moves cursors like any skipped entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The one field that every entry needs is missing.
    #[error("the entry has no field `data`")]
    NoData,
    /// The payload is larger than the tenant allows.
    #[error("`data` has {got} bytes, the limit is {limit}")]
    TooLarge {
        /// Bytes of payload in the entry; of the entry where it was too large to be read.
        got: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A field's value does not parse.
    #[error("`{field}` is not valid: {why}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl Publication {
    /// [`Publication::take_entry`] of an entry that is needed further.
    pub fn from_entry(entry: &RawEntry, max_payload: usize) -> Result<Self, Malformed> {
        Self::take_entry(entry.clone(), max_payload)
    }

    /// Understands an entry; its payload is moved. Fields this version does not know are left alone.
    pub fn take_entry(entry: RawEntry, max_payload: usize) -> Result<Self, Malformed> {
        if let Some(got) = entry.oversize {
            return Err(Malformed::TooLarge { got, limit: max_payload });
        }
        let mut message = Self { offset: entry.offset, ..Self::default() };
        let mut data = None;
        for (name, value) in entry.fields {
            match name.as_ref() {
                b"data" => data = Some(value),
                b"headers" => message.headers = Some(headers(&value)?),
                b"id" => message.id = Some(text("id", &value)?),
                b"key" => message.key = Some(text("key", &value)?),
                b"ttl_ms" => message.ttl_ms = Some(millis("ttl_ms", &value)?),
                b"spread_ms" => message.spread_ms = Some(millis("spread_ms", &value)?.min(MAX_SPREAD_MS)),
                b"user" => message.user = Some(text("user", &value)?),
                b"session" => message.session = Some(text("session", &value)?),
                b"traceparent" => message.traceparent = Some(text("traceparent", &value)?),
                _ => {}
            }
        }
        message.data = data.ok_or(Malformed::NoData)?;
        if message.data.len() > max_payload {
            return Err(Malformed::TooLarge { got: message.data.len(), limit: max_payload });
        }
        Ok(message)
    }

    /// Bytes of payload and headers: what of it can be large.
    pub fn bytes(&self) -> usize {
        let headers = self.headers.iter().flatten().map(|(name, value)| name.len() + value.len());
        self.data.len() + headers.sum::<usize>()
    }

    /// The fields to `XADD`, in a fixed order, `data` first.
    pub fn into_fields(self) -> Vec<(Bytes, Bytes)> {
        fn field(name: &'static str, value: impl Into<Bytes>) -> (Bytes, Bytes) {
            (Bytes::from_static(name.as_bytes()), value.into())
        }
        let mut fields = vec![field("data", self.data)];
        if let Some(headers) = self.headers {
            let object: serde_json::Map<_, _> =
                headers.into_iter().map(|(name, value)| (name.into(), String::from(value).into())).collect();
            fields.push(field("headers", serde_json::Value::Object(object).to_string()));
        }
        for (name, value) in [
            ("id", self.id),
            ("key", self.key),
            ("user", self.user),
            ("session", self.session),
            ("traceparent", self.traceparent),
        ] {
            fields.extend(value.map(|value| field(name, String::from(value))));
        }
        for (name, value) in [("ttl_ms", self.ttl_ms), ("spread_ms", self.spread_ms)] {
            fields.extend(value.map(|value| field(name, value.to_string())));
        }
        fields
    }

    /// Whether its time to live is over at `now_ms` of the backbone's clock.
    pub fn is_expired(&self, now_ms: u64) -> bool {
        self.ttl_ms.is_some_and(|ttl| self.offset.ms.saturating_add(ttl) < now_ms)
    }

    /// The value of a header, by exact name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let headers = self.headers.as_ref()?;
        headers.iter().find(|(key, _)| &**key == name).map(|(_, value)| &**value)
    }
}

fn text(field: &'static str, value: &Bytes) -> Result<Box<str>, Malformed> {
    match std::str::from_utf8(value) {
        Ok(text) if text.len() <= 256 => Ok(text.into()),
        Ok(_) => Err(Malformed::Field { field, why: "it is longer than 256 bytes" }),
        Err(_) => Err(Malformed::Field { field, why: "it is not UTF-8" }),
    }
}

fn millis(field: &'static str, value: &Bytes) -> Result<u64, Malformed> {
    std::str::from_utf8(value)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .ok_or(Malformed::Field { field, why: "it is not a whole number of milliseconds" })
}

fn headers(value: &Bytes) -> Result<Headers, Malformed> {
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(value)
        .map_err(|_| Malformed::Field { field: "headers", why: "it is not a JSON object" })?;
    object
        .into_iter()
        .map(|(name, value)| match value {
            serde_json::Value::String(value) => Ok((name.into(), value.into())),
            _ => Err(Malformed::Field { field: "headers", why: "every value must be a string" }),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(fields: &[(&'static str, &'static str)]) -> RawEntry {
        let fields = fields.iter().map(|(name, value)| (Bytes::from(*name), Bytes::from(*value))).collect();
        RawEntry::new(Offset { ms: 1_000, seq: 0 }, fields)
    }

    #[test]
    fn an_entry_survives_the_round_trip() {
        let fields = [
            ("data", "hi"),
            ("headers", r#"{"content-type":"text/plain"}"#),
            ("id", "a"),
            ("key", "k"),
            ("user", "u"),
            ("session", "s"),
            ("traceparent", "00-1-2-01"),
            ("ttl_ms", "50"),
            ("spread_ms", "7"),
        ];
        let message = Publication::from_entry(&entry(&fields), 10).unwrap();
        assert_eq!(message.header("content-type"), Some("text/plain"));
        assert_eq!(message.clone().into_fields(), entry(&fields).fields);
        assert!(!message.is_expired(1_050));
        assert!(message.is_expired(1_051));
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(Publication::from_entry(&entry(&[("x", "y")]), 10), Err(Malformed::NoData));
        let large = Publication::from_entry(&entry(&[("data", "12345678901")]), 10);
        assert_eq!(large, Err(Malformed::TooLarge { got: 11, limit: 10 }));
        let passed_over = RawEntry { oversize: Some(12), ..entry(&[]) };
        let large = Publication::from_entry(&passed_over, 10);
        assert_eq!(large, Err(Malformed::TooLarge { got: 12, limit: 10 }));
        for (field, value) in [("ttl_ms", "soon"), ("headers", "[]"), ("headers", r#"{"a":1}"#)] {
            let error = Publication::from_entry(&entry(&[("data", ""), (field, value)]), 10).unwrap_err();
            assert!(matches!(error, Malformed::Field { field: named, .. } if named == field));
        }
    }
}
