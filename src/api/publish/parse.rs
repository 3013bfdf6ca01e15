//! From the body of a publish request to publications.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use base64::Engine as _;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer as _, Error as _, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::error::{PublishError, invalid, within};
use crate::domain::{Headers, Limits, Publication};

/// Bytes of `id` and `key`, at most: what the log's reader accepts.
const TEXT_BYTES: usize = 256;
/// Milliseconds that delivery may be spread over, at most.
const SPREAD_MS: u64 = 600_000;
/// Characters that JSON needs for one byte of a text, at most, with something to spare.
const ESCAPED: usize = 8;

/// Bounds on the content of one request; the tenant's limits bound its body and its rate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishLimits {
    /// Bytes of one message's payload.
    pub payload_bytes: usize,
    /// Messages in one request.
    pub messages: usize,
    /// Targets of a request: each channel of each message is one.
    pub targets: usize,
    /// The fastest that a request may ask its targets to be taken, in a second.
    pub pace_per_s: u32,
    /// Headers of one message.
    pub headers: usize,
    /// Bytes of all names and values of one message's headers.
    pub header_bytes: usize,
    /// Depth of nested JSON in `data`.
    pub depth: usize,
}

impl PublishLimits {
    /// The bounds on a tenant's requests.
    pub fn of(tenant: &Limits) -> Self {
        Self {
            payload_bytes: tenant.payload_bytes,
            messages: 1_000,
            targets: tenant.publish_targets,
            pace_per_s: tenant.send_per_s,
            headers: 32,
            header_bytes: 8 * 1024,
            depth: 64,
        }
    }
}

/// A request that is understood: every message has a payload and at least one channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishRequest {
    pub(super) messages: Vec<Message>,
    /// Targets a second, where the request says so: it is taken as a send then.
    pub(super) pace_per_s: Option<u32>,
}

/// One message and where it goes. Names of channels are not looked at yet: a wrong one is its own
/// target's error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) channels: Vec<String>,
    pub(super) publication: Publication,
}

#[derive(Deserialize)]
struct Probe {
    messages: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBatch<'a> {
    #[serde(borrow)]
    messages: &'a RawValue,
    pace_per_s: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMessage<'a> {
    channel: Option<String>,
    #[serde(borrow)]
    channels: Option<&'a RawValue>,
    #[serde(borrow)]
    data: &'a RawValue,
    enc: Option<Encoding>,
    id: Option<String>,
    key: Option<String>,
    ttl_ms: Option<u64>,
    spread_ms: Option<u64>,
    #[serde(borrow)]
    headers: Option<&'a RawValue>,
    pace_per_s: Option<u32>,
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
        let body = utf8(body)?;
        // One look first, because what is missing can be named only once the shape is known.
        let probe: Probe = object("the body", body)?;
        if probe.messages.is_none() {
            let (message, pace_per_s) = message(body, limits)?;
            return Self::new(vec![message], pace_per_s, limits);
        }
        let raw: RawBatch = object("the body", body)?;
        let listed = list::<&RawValue>("`messages`", raw.messages.get(), limits.messages)?;
        if listed.is_empty() {
            return invalid(format!("`messages` is empty, a request takes 1 to {}", limits.messages));
        }
        let messages = listed.into_iter().enumerate().map(|(place, raw)| {
            let at = format!("messages[{place}]");
            let (message, pace) = message(raw.get(), limits).map_err(|error| error.at(&at))?;
            match pace {
                None => Ok(message),
                Some(_) => invalid(format!("{at}: say `pace_per_s` once, beside `messages`")),
            }
        });
        Self::new(messages.collect::<Result<_, _>>()?, raw.pace_per_s, limits)
    }

    /// Puts messages together, within the bounds on all of them.
    pub(super) fn new(
        messages: Vec<Message>,
        pace_per_s: Option<u32>,
        limits: &PublishLimits,
    ) -> Result<Self, PublishError> {
        let request = Self { messages, pace_per_s };
        if request.targets() > limits.targets {
            return invalid(format!(
                "the request has {} targets, the limit is {}; split it",
                request.targets(),
                limits.targets
            ));
        }
        if pace_per_s.is_some_and(|pace| !(1..=limits.pace_per_s).contains(&pace)) {
            return invalid(format!("`pace_per_s` takes 1 to {}", limits.pace_per_s));
        }
        Ok(request)
    }

    /// How many there are: each channel of each message is one.
    pub fn targets(&self) -> usize {
        self.messages.iter().map(|message| message.channels.len()).sum()
    }
}

/// The body as text.
pub(super) fn utf8(body: &[u8]) -> Result<&str, PublishError> {
    let text = std::str::from_utf8(body).or_else(|_| invalid("the body is not valid: it is not UTF-8"))?;
    Ok(text.trim_ascii())
}

/// Reads a JSON object. Serde would take an array of the fields' values for a struct as well.
pub(super) fn object<'a, T: Deserialize<'a>>(what: &str, json: &'a str) -> Result<T, PublishError> {
    if !json.starts_with('{') {
        return invalid(format!("{what} is not valid: it must be a JSON object"));
    }
    serde_json::from_str(json).map_err(|error| PublishError::Invalid(format!("{what} is not valid: {error}")))
}

/// Reads a JSON list of `most` items at most; what is longer is not read on.
pub(super) fn list<'a, T: Deserialize<'a>>(
    what: &str,
    json: &'a str,
    most: usize,
) -> Result<Vec<T>, PublishError> {
    struct AtMost<T>(usize, PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for AtMost<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
            let mut read = Vec::new();
            while let Some(item) = items.next_element()? {
                if read.len() == self.0 {
                    return Err(A::Error::custom(format_args!("it has more than {} items", self.0)));
                }
                read.push(item);
            }
            Ok(read)
        }
    }

    let mut reader = serde_json::Deserializer::from_str(json);
    let read = reader.deserialize_seq(AtMost(most, PhantomData));
    let whole = read.and_then(|read| reader.end().map(|()| read));
    whole.map_err(|error| PublishError::Invalid(format!("{what} is not valid: {error}")))
}

fn message(json: &str, limits: &PublishLimits) -> Result<(Message, Option<u32>), PublishError> {
    let raw: RawMessage = object("the message", json)?;
    let channels = match (raw.channel, raw.channels) {
        (Some(channel), None) => vec![channel],
        (None, Some(raw)) => list("`channels`", raw.get(), limits.targets)?,
        (None, None) => return invalid("say where it goes: `channel` or `channels` is missing"),
        (Some(_), Some(_)) => return invalid("say either `channel` or `channels`, not both"),
    };
    if channels.is_empty() {
        return invalid(format!("`channels` is empty, a message takes 1 to {}", limits.targets));
    }
    if raw.spread_ms.is_some_and(|spread| spread > SPREAD_MS) {
        return invalid(format!("`spread_ms` takes 0 to {SPREAD_MS}"));
    }
    let raw_headers = raw.headers.map_or("{}", RawValue::get);
    within("`headers`", raw_headers.len(), ESCAPED * limits.header_bytes)?;
    let mut headers = headers(object("`headers`", raw_headers)?, limits)?;
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
    Ok((Message { channels, publication }, raw.pace_per_s))
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
pub(super) fn compact(json: &str, most: usize) -> Result<Bytes, PublishError> {
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

pub(super) fn headers(
    raw: BTreeMap<String, String>,
    limits: &PublishLimits,
) -> Result<Headers, PublishError> {
    if raw.len() > limits.headers {
        return invalid(format!("`headers` has {}, the limit is {}", raw.len(), limits.headers));
    }
    let bytes = raw.iter().map(|(name, value)| name.len() + value.len()).sum();
    within("`headers`", bytes, limits.header_bytes)?;
    Ok(raw.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
}

pub(super) fn text(field: &str, value: Option<String>) -> Result<Option<Box<str>>, PublishError> {
    match value {
        Some(text) if text.is_empty() || text.len() > TEXT_BYTES => {
            invalid(format!("`{field}` has {} bytes, it takes 1 to {TEXT_BYTES}", text.len()))
        }
        other => Ok(other.map(Into::into)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Result<PublishRequest, PublishError> {
        PublishRequest::parse(body.as_bytes(), &PublishLimits::of(&Limits::default()))
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
            (r#"{"messages": {}}"#, "expected a list"),
            (r#"{"channel": "room:1"}"#, "missing field `data`"),
            (r#"{"data": 1}"#, "`channel` or `channels` is missing"),
            (r#"{"channel": "a:1", "channels": ["b:1"], "data": 1}"#, "not both"),
            (r#"{"channels": [], "data": 1}"#, "takes 1 to 100000"),
            (r#"{"channels": "room:1", "data": 1}"#, "expected a list"),
            (r#"{"messages": []}"#, "takes 1 to 1000"),
            (r#"{"channel": "a:1", "data": 1, "spread_ms": 600001}"#, "0 to 600000"),
            (r#"{"channel": "a:1", "data": 1, "pace_per_s": 0}"#, "1 to 5000"),
            (r#"{"channel": "a:1", "data": 1, "pace_per_s": 5001}"#, "1 to 5000"),
            (r#"{"messages": [{"channel": "a:1", "data": 1, "pace_per_s": 1}]}"#, "beside `messages`"),
            (r#"{"channel": "a:1", "data": 1, "headers": []}"#, "must be a JSON object"),
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
            payload_bytes: 4,
            messages: 2,
            targets: 3,
            pace_per_s: 1,
            headers: 1,
            header_bytes: 6,
            depth: 2,
        };
        let two = r#"{"channels": ["a:1", "a:2"], "data": 1}"#;
        let one = r#"{"channel": "a:1", "data": 1}"#;
        for (body, status) in [
            (r#"{"channel": "a:1", "data": "1234"}"#.to_owned(), None),
            (r#"{"channel": "a:1", "data": "12345"}"#.to_owned(), Some(413)),
            (r#"{"channel": "a:1", "data": [[]]}"#.to_owned(), None),
            (r#"{"channel": "a:1", "data": [[[]]]}"#.to_owned(), Some(400)),
            (r#"{"channel": "a:1", "data": 1, "headers": {"a": "1", "b": "2"}}"#.to_owned(), Some(400)),
            (r#"{"channel": "a:1", "data": 1, "headers": {"a": "123456"}}"#.to_owned(), Some(413)),
            (r#"{"channels": ["a:1", "a:2", "a:3", "a:4"], "data": 1}"#.to_owned(), Some(400)),
            (format!(r#"{{"channel": "a:1", "data": 1, "headers": {{{}}}}}"#, " ".repeat(50)), Some(413)),
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
