//! From the body of a publish request to publications.

use std::collections::BTreeMap;

use base64::Engine as _;
use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::domain::{Headers, Publication};

/// Bytes of `id` and `key`, at most: what the log's reader accepts.
const TEXT_BYTES: usize = 256;

/// Bounds on one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishLimits {
    /// Bytes of the body. The body is held in memory while it is worked on.
    pub body_bytes: usize,
    /// Bytes of one message's payload.
    pub payload_bytes: usize,
    /// Messages in one request.
    pub messages: usize,
    /// Channels of one message.
    pub channels: usize,
    /// Targets of a request: each channel of each message is one. Each costs a command to the
    /// backbone and about 300 bytes while the request is worked on.
    pub targets: usize,
    /// Headers of one message.
    pub headers: usize,
    /// Bytes of all names and values of one message's headers.
    pub header_bytes: usize,
    /// Depth of nested JSON in `data`.
    pub depth: usize,
    /// Commands in flight for one request.
    pub concurrency: usize,
}

impl Default for PublishLimits {
    fn default() -> Self {
        Self {
            body_bytes: 1024 * 1024,
            payload_bytes: 64 * 1024,
            messages: 1_000,
            channels: 1_000,
            targets: 5_000,
            headers: 32,
            header_bytes: 8 * 1024,
            depth: 64,
            concurrency: 64,
        }
    }
}

/// A request that is understood: every message has a payload and at least one channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishRequest {
    pub(super) messages: Vec<Message>,
}

/// One message and where it goes. Names of channels are not looked at yet: a wrong one is its own
/// target's error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) channels: Vec<String>,
    pub(super) publication: Publication,
}

/// Why a request is refused as a whole. The text is for whoever wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The body, or a message in it, is not as it has to be.
    #[error("{0}")]
    Invalid(String),
    /// Something is larger than allowed.
    #[error("{what} has {got} bytes, the limit is {limit}")]
    TooLarge {
        /// The body, or which message's payload or headers.
        what: String,
        /// Bytes in the request, or at least so many.
        got: usize,
        /// Bytes allowed.
        limit: usize,
    },
}

impl PublishError {
    /// 400 or 413.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        }
    }

    /// Says which message of a batch it is about.
    fn at(self, place: usize) -> Self {
        match self {
            Self::Invalid(why) => Self::Invalid(format!("messages[{place}]: {why}")),
            Self::TooLarge { what, got, limit } => {
                Self::TooLarge { what: format!("messages[{place}]: {what}"), got, limit }
            }
        }
    }
}

#[derive(Deserialize)]
struct Probe {
    messages: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBatch<'a> {
    #[serde(borrow)]
    messages: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMessage<'a> {
    channel: Option<String>,
    channels: Option<Vec<String>>,
    #[serde(borrow)]
    data: &'a RawValue,
    enc: Option<Encoding>,
    id: Option<String>,
    key: Option<String>,
    ttl_ms: Option<u64>,
    spread_ms: Option<u64>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    Text,
    Base64,
}

impl PublishRequest {
    /// Understands a body: `{"channel", "data", …}`, `{"channels": […], "data", …}`, or
    /// `{"messages": [{…}, …]}`.
    pub fn parse(body: &[u8], limits: &PublishLimits) -> Result<Self, PublishError> {
        within("the body", body.len(), limits.body_bytes)?;
        let body = std::str::from_utf8(body)
            .or_else(|_| invalid("the body is not valid: it is not UTF-8"))?
            .trim_ascii();
        // One look first, because what is missing can be named only once the shape is known.
        let probe: Probe = object("the body", body)?;
        if probe.messages.is_none() {
            return Ok(Self { messages: vec![message(body, limits)?] });
        }
        let raw = object::<RawBatch>("the body", body)?.messages;
        if raw.is_empty() || raw.len() > limits.messages {
            return invalid(format!(
                "`messages` has {}, a request takes 1 to {}",
                raw.len(),
                limits.messages
            ));
        }
        let mut targets = 0;
        let mut messages = Vec::with_capacity(raw.len());
        for (place, raw) in raw.into_iter().enumerate() {
            let message = message(raw.get(), limits).map_err(|error| error.at(place))?;
            targets += message.channels.len();
            if targets > limits.targets {
                return invalid(format!("the request has more than {} targets; split it", limits.targets));
            }
            messages.push(message);
        }
        Ok(Self { messages })
    }
}

/// Reads a JSON object. Serde would take an array of the fields' values for a struct as well.
fn object<'a, T: Deserialize<'a>>(what: &str, json: &'a str) -> Result<T, PublishError> {
    if !json.starts_with('{') {
        return invalid(format!("{what} is not valid: it must be a JSON object"));
    }
    serde_json::from_str(json).map_err(|error| PublishError::Invalid(format!("{what} is not valid: {error}")))
}

fn message(json: &str, limits: &PublishLimits) -> Result<Message, PublishError> {
    let raw: RawMessage = object("the message", json)?;
    let channels = match (raw.channel, raw.channels) {
        (Some(channel), None) => vec![channel],
        (None, Some(channels)) if (1..=limits.channels).contains(&channels.len()) => channels,
        (None, Some(channels)) => {
            return invalid(format!(
                "`channels` has {}, a message takes 1 to {}",
                channels.len(),
                limits.channels
            ));
        }
        (None, None) => return invalid("say where it goes: `channel` or `channels` is missing"),
        (Some(_), Some(_)) => return invalid("say either `channel` or `channels`, not both"),
    };
    let mut headers = headers(raw.headers, limits)?;
    let data = data(raw.data.get(), raw.enc, &mut headers, limits)?;
    within("`data`", data.len(), limits.payload_bytes)?;
    let publication = Publication {
        data,
        headers: (!headers.is_empty()).then_some(headers),
        id: text("id", raw.id)?,
        key: text("key", raw.key)?,
        ttl_ms: raw.ttl_ms,
        spread_ms: raw.spread_ms,
        ..Publication::default()
    };
    Ok(Message { channels, publication })
}

/// The payload's bytes. What would read as plain text otherwise, a number say, gets a header that
/// tells what it is, unless the request has one.
fn data(
    json: &str,
    enc: Option<Encoding>,
    headers: &mut Headers,
    limits: &PublishLimits,
) -> Result<Bytes, PublishError> {
    if json.starts_with('"') {
        let text: String = serde_json::from_str(json)
            .map_err(|error| PublishError::Invalid(format!("`data` is not valid: {error}")))?;
        if enc != Some(Encoding::Base64) {
            return Ok(text.into());
        }
        let decoded = base64::engine::general_purpose::STANDARD.decode(&text);
        return decoded
            .map(Bytes::from)
            .map_err(|error| PublishError::Invalid(format!("`data` is not base64 as `enc` says: {error}")));
    }
    if enc.is_some() {
        return invalid("`enc` goes with a string in `data`; leave it out for other JSON");
    }
    if json.starts_with(['{', '[']) {
        return compact(json, limits.depth);
    }
    if headers.iter().all(|(name, _)| !name.eq_ignore_ascii_case("content-type")) {
        headers.push(("content-type".into(), "application/json".into()));
    }
    Ok(Bytes::copy_from_slice(json.as_bytes()))
}

/// Leaves out the space between tokens and nothing else: order of keys, digits of numbers and escapes
/// stay as the publisher wrote them. The input is valid JSON.
fn compact(json: &str, most: usize) -> Result<Bytes, PublishError> {
    let mut bytes = Vec::with_capacity(json.len());
    let (mut in_string, mut escaped, mut depth) = (false, false, 0_usize);
    for byte in json.bytes() {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else {
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' => continue,
                b'"' => in_string = true,
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            if depth > most {
                return invalid(format!("`data` is nested deeper than {most}"));
            }
        }
        bytes.push(byte);
    }
    Ok(bytes.into())
}

fn headers(raw: BTreeMap<String, String>, limits: &PublishLimits) -> Result<Headers, PublishError> {
    if raw.len() > limits.headers {
        return invalid(format!("`headers` has {}, the limit is {}", raw.len(), limits.headers));
    }
    let bytes = raw.iter().map(|(name, value)| name.len() + value.len()).sum();
    within("`headers`", bytes, limits.header_bytes)?;
    Ok(raw.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
}

fn text(field: &str, value: Option<String>) -> Result<Option<Box<str>>, PublishError> {
    match value {
        Some(text) if text.is_empty() || text.len() > TEXT_BYTES => {
            invalid(format!("`{field}` has {} bytes, it takes 1 to {TEXT_BYTES}", text.len()))
        }
        other => Ok(other.map(Into::into)),
    }
}

fn within(what: &str, got: usize, limit: usize) -> Result<(), PublishError> {
    if got > limit {
        return Err(PublishError::TooLarge { what: what.to_owned(), got, limit });
    }
    Ok(())
}

fn invalid<T>(why: impl Into<String>) -> Result<T, PublishError> {
    Err(PublishError::Invalid(why.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Result<PublishRequest, PublishError> {
        PublishRequest::parse(body.as_bytes(), &PublishLimits::default())
    }

    fn one(body: &str) -> Publication {
        parse(body).unwrap().messages.remove(0).publication
    }

    #[test]
    fn data_keeps_its_meaning() {
        let json = "application/json";
        for (data, bytes, content_type) in [
            (r#"{ "b" : [1, 2.50], "a": "x \" \\" }"#, r#"{"b":[1,2.50],"a":"x \" \\"}"#, None),
            (r#""hi \u00e9 there""#, "hi é there", None),
            (r#""aGk=", "enc": "base64""#, "hi", None),
            (r#""aGk=", "enc": "text""#, "aGk=", None),
            ("12.50", "12.50", Some(json)),
            ("null", "null", Some(json)),
            ("true", "true", Some(json)),
            (r#"1, "headers": {"Content-Type": "text/plain"}"#, "1", None),
        ] {
            let message = one(&format!(r#"{{"channel": "room:1", "data": {data}}}"#));
            assert_eq!(message.data, bytes, "{data}");
            assert_eq!(message.header("content-type"), content_type, "{data}");
        }
    }

    #[test]
    fn all_three_shapes_are_understood() {
        let fields = r#""data": "x", "id": "i", "key": "k", "ttl_ms": 5, "spread_ms": 6, "headers": {"b": "1", "a": "2"}"#;
        let message = one(&format!(r#"{{"channel": "room:1", {fields}}}"#));
        assert_eq!((message.id.as_deref(), message.key.as_deref()), (Some("i"), Some("k")));
        assert_eq!((message.ttl_ms, message.spread_ms), (Some(5), Some(6)));
        assert_eq!((message.header("a"), message.header("b")), (Some("2"), Some("1")));
        let many = parse(r#"{"channels": ["room:1", "room:2"], "data": 1}"#).unwrap();
        assert_eq!(many.messages[0].channels, ["room:1", "room:2"]);
        let batch = r#"{"messages": [{"channel": "a:1", "data": 1}, {"channels": ["b:1"], "data": 2}]}"#;
        assert_eq!(parse(batch).unwrap().messages.len(), 2);
    }

    #[test]
    fn what_is_wrong_is_said_in_plain_words() {
        for (body, words) in [
            ("", "the body is not valid"),
            ("[]", "must be a JSON object"),
            (r#"["a:1", null, 1, null, null, null, null, null, {}]"#, "must be a JSON object"),
            (
                r#"{"messages": [["a:1", null, 1, null, null, null, null, null, {}]]}"#,
                "messages[0]: the message",
            ),
            (r#"{"messages": {}}"#, "expected a sequence"),
            (r#"{"channel": "room:1"}"#, "missing field `data`"),
            (r#"{"data": 1}"#, "`channel` or `channels` is missing"),
            (r#"{"channel": "a:1", "channels": ["b:1"], "data": 1}"#, "not both"),
            (r#"{"channels": [], "data": 1}"#, "takes 1 to 1000"),
            (r#"{"messages": []}"#, "takes 1 to 1000"),
            (r#"{"messages": [{"channel": "a:1", "data": 1}], "data": 1}"#, "unknown field `data`"),
            (r#"{"messages": [{"channel": "a:1", "data": 1}, {"data": 1}]}"#, "messages[1]: say where"),
            (r#"{"channel": "a:1", "dta": 1}"#, "unknown field `dta`"),
            (r#"{"channel": "a:1", "data": "%", "enc": "base64"}"#, "not base64"),
            (r#"{"channel": "a:1", "data": {}, "enc": "base64"}"#, "goes with a string"),
            (r#"{"channel": "a:1", "data": "", "enc": "hex"}"#, "unknown variant `hex`"),
            (r#"{"channel": "a:1", "data": 1, "id": ""}"#, "`id` has 0 bytes"),
            (r#"{"channel": "a:1", "data": 1, "ttl_ms": -5}"#, "-5"),
            (r#"{"channel": "a:1", "data": 1, "headers": {"a": 1}}"#, "expected a string"),
        ] {
            let error = parse(body).unwrap_err();
            assert_eq!(error.status(), 400, "{body}");
            assert!(error.to_string().contains(words), "{body}: {error}");
        }
    }

    #[test]
    fn every_bound_holds() {
        let limits = PublishLimits {
            body_bytes: 200,
            payload_bytes: 4,
            messages: 2,
            channels: 2,
            targets: 3,
            headers: 1,
            header_bytes: 6,
            depth: 2,
            concurrency: 1,
        };
        let two = r#"{"channels": ["a:1", "a:2"], "data": 1}"#;
        let one = r#"{"channel": "a:1", "data": 1}"#;
        for (body, status) in [
            (r#"{"channel": "a:1", "data": "1234"}"#.to_owned(), None),
            (r#"{"channel": "a:1", "data": "12345"}"#.to_owned(), Some(413)),
            (format!("{}{one}", " ".repeat(200)), Some(413)),
            (r#"{"channel": "a:1", "data": [[]]}"#.to_owned(), None),
            (r#"{"channel": "a:1", "data": [[[]]]}"#.to_owned(), Some(400)),
            (r#"{"channel": "a:1", "data": 1, "headers": {"a": "1", "b": "2"}}"#.to_owned(), Some(400)),
            (r#"{"channel": "a:1", "data": 1, "headers": {"a": "123456"}}"#.to_owned(), Some(413)),
            (r#"{"channels": ["a:1", "a:2", "a:3"], "data": 1}"#.to_owned(), Some(400)),
            (format!(r#"{{"messages": [{two}, {one}]}}"#), None),
            (format!(r#"{{"messages": [{two}, {two}]}}"#), Some(400)),
            (format!(r#"{{"messages": [{one}, {one}, {one}]}}"#), Some(400)),
        ] {
            let answer = PublishRequest::parse(body.as_bytes(), &limits);
            assert_eq!(
                answer.as_ref().err().map(|error| error.status().as_u16()),
                status,
                "{body} {answer:?}"
            );
        }
        let deep = format!(r#"{{"channel": "a:1", "data": {}"#, "[".repeat(300_000));
        assert!(parse(&deep).is_err(), "depth in the input never exhausts the stack");
    }
}
