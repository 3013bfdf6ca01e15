//! CloudEvents 1.0 as publications (the core specification, its JSON format, its HTTP binding, 1.0.2).
//!
//! An event's attributes become headers `ce-<name>`, `datacontenttype` becomes `content-type`, its data
//! the payload. `source` and `id` together name an event, so together they are the idempotency key.
//! Of the extensions, `channel` says where the event goes and stays out of the headers; `partitionkey` is
//! the conflation key as well; `traceparent` is the message's own.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use bytes::Bytes;
use http::HeaderMap;
use percent_encoding::percent_decode;
use serde_json::value::RawValue;

use super::error::{PublishError, invalid, within};
use super::parse::{Message, PublishLimits, compact, headers, list, object, text, utf8};
use crate::config::sha256;
use crate::domain::Publication;
use crate::telemetry::Traceparent;

/// Stands before the names of attributes in the headers of requests and of messages.
const PREFIX: &str = "ce-";
/// Bytes of an idempotency key, at most.
const KEY_BYTES: usize = 256;

/// Whether the request is an event in binary mode.
pub(super) fn is_binary(headers: &HeaderMap) -> bool {
    headers.contains_key("ce-specversion")
}

/// Whether a media type says that the content is JSON.
fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
    matches!(essence.as_str(), "application/json" | "text/json") || essence.ends_with("+json")
}

/// Structured mode: the body is the event. `channels` is where events go that do not say so themselves.
pub(super) fn structured(
    body: &[u8],
    channels: &[String],
    limits: &PublishLimits,
) -> Result<Message, PublishError> {
    Event::from_json(utf8(body)?, limits)?.into_message(channels, limits)
}

/// Batched mode: the body is a list of events, which may be empty.
pub(super) fn batch(
    body: &[u8],
    channels: &[String],
    limits: &PublishLimits,
) -> Result<Vec<Message>, PublishError> {
    let body = utf8(body)?;
    let events = list::<&RawValue>("the batch", body, limits.messages)?;
    let message = |(place, event): (usize, &RawValue)| {
        let event = Event::from_json(event.get(), limits);
        let message = event.and_then(|event| event.into_message(channels, limits));
        message.map_err(|error| error.at(&format!("events[{place}]")))
    };
    events.into_iter().enumerate().map(message).collect()
}

/// Binary mode: attributes are headers of the request, the data is its body.
pub(super) fn binary(
    request: &HeaderMap,
    content_type: Option<&str>,
    body: Bytes,
    channels: &[String],
    limits: &PublishLimits,
) -> Result<Message, PublishError> {
    let mut attributes = BTreeMap::new();
    for (name, value) in request {
        let Some(name) = name.as_str().strip_prefix(PREFIX) else { continue };
        if name == "datacontenttype" {
            return invalid("in binary mode the header `Content-Type` says what the data is");
        }
        let value = decode(value.as_bytes())
            .map_err(|()| PublishError::Invalid(format!("the header ce-{name} is not UTF-8")))?;
        if attributes.insert(name.to_owned(), value).is_some() {
            return invalid(format!("the header ce-{name} is there twice"));
        }
    }
    let data = match content_type {
        Some(content_type) if is_json(content_type) && !body.is_empty() => {
            let json = utf8(&body)?;
            let read: Result<&RawValue, _> = serde_json::from_str(json);
            read.map_err(|error| {
                PublishError::Invalid(format!("the body is not the JSON it says: {error}"))
            })?;
            compact(json, limits.depth)?
        }
        _ => body,
    };
    attributes.extend(content_type.map(|value| ("datacontenttype".to_owned(), value.to_owned())));
    Event { attributes, data }.into_message(channels, limits)
}

/// The value of an attribute in a header: quotes are of older senders, the rest is percent-encoded
/// (HTTP binding, section 3.1.3.2).
fn decode(value: &[u8]) -> Result<String, ()> {
    let inner = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
    let value: Cow<'_, [u8]> = match inner {
        None => value.into(),
        Some(inner) => {
            let mut escaped = false;
            let plain = inner.iter().filter(|byte| {
                escaped = !escaped && **byte == b'\\';
                !escaped
            });
            plain.copied().collect::<Vec<_>>().into()
        }
    };
    percent_decode(&value).decode_utf8().map(Cow::into_owned).map_err(drop)
}

/// An event of which only the form is known to be right.
struct Event {
    attributes: BTreeMap<String, String>,
    data: Bytes,
}

impl Event {
    /// The JSON format, section 3.
    fn from_json(json: &str, limits: &PublishLimits) -> Result<Self, PublishError> {
        within("the event", json.len(), 8 * (limits.payload_bytes + limits.header_bytes))?;
        let mut members: BTreeMap<String, &RawValue> = object("the event", json)?;
        members.retain(|_, value| value.get() != "null");
        let (data, base64) = (members.remove("data"), members.remove("data_base64"));
        let mut attributes = BTreeMap::new();
        for (name, value) in members {
            let value = value.get();
            let value = match value.as_bytes()[0] {
                b'"' => serde_json::from_str(value)
                    .map_err(|error| PublishError::Invalid(format!("`{name}` is not valid: {error}")))?,
                b'{' | b'[' => {
                    return invalid(format!("`{name}` must be a text, a number, true or false"));
                }
                _ => value.to_owned(),
            };
            attributes.insert(name, value);
        }
        let content_type = attributes.get("datacontenttype").map(String::as_str);
        let data = match (data, base64) {
            (Some(_), Some(_)) => return invalid("say either `data` or `data_base64`, not both"),
            (Some(data), None) if content_type.is_none_or(is_json) => {
                let json = compact(data.get(), limits.depth)?;
                attributes.entry("datacontenttype".to_owned()).or_insert("application/json".to_owned());
                json
            }
            (Some(data), None) if data.get().starts_with('"') => {
                let text: String = serde_json::from_str(data.get())
                    .map_err(|error| PublishError::Invalid(format!("`data` is not valid: {error}")))?;
                text.into()
            }
            (Some(data), None) => compact(data.get(), limits.depth)?,
            (None, Some(base64)) => {
                let text: String = serde_json::from_str(base64.get())
                    .map_err(|_| PublishError::Invalid("`data_base64` must be a text".to_owned()))?;
                base64::engine::general_purpose::STANDARD
                    .decode(text)
                    .map_err(|error| PublishError::Invalid(format!("`data_base64` is not base64: {error}")))?
                    .into()
            }
            (None, None) => Bytes::new(),
        };
        Ok(Self { attributes, data })
    }

    fn into_message(self, channels: &[String], limits: &PublishLimits) -> Result<Message, PublishError> {
        let Self { mut attributes, data } = self;
        within("the data", data.len(), limits.payload_bytes)?;
        if let Some(name) = attributes.keys().find(|name| !is_name(name)) {
            return invalid(format!("{name:?} is no name of an attribute: CloudEvents takes a-z and 0-9"));
        }
        for required in ["specversion", "id", "source", "type"] {
            if attributes.get(required).is_none_or(String::is_empty) {
                return invalid(format!("`{required}` is missing: every CloudEvent has one"));
            }
        }
        if attributes["specversion"] != "1.0" {
            return invalid(format!(
                "`specversion` is {:?}: this node takes CloudEvents 1.0",
                attributes["specversion"]
            ));
        }
        let channels = match attributes.remove("channel") {
            // No name of a channel holds a comma.
            Some(own) => own.split(',').map(|name| name.trim_ascii().to_owned()).collect(),
            None if channels.is_empty() => {
                return invalid(
                    "say where the event goes: give it the extension attribute `channel`, or add \
                     ?channel=<channel> to the URL",
                );
            }
            None => channels.to_vec(),
        };
        let id = idempotency_key(&attributes["source"], &attributes["id"]);
        let key = text("partitionkey", attributes.get("partitionkey").cloned())?;
        let traceparent = attributes.remove("traceparent");
        // A context that is not valid is as good as none (W3C Trace Context, section 4.3).
        let traceparent = traceparent.filter(|text| text.parse::<Traceparent>().is_ok()).map(Into::into);
        let content_type = attributes.remove("datacontenttype");
        let named = attributes.into_iter().map(|(name, value)| (format!("{PREFIX}{name}"), value));
        let named = content_type.map(|value| ("content-type".to_owned(), value)).into_iter().chain(named);
        let headers = Some(headers(named.collect(), limits)?);
        let publication =
            Publication { data, headers, id: Some(id), key, traceparent, ..Publication::default() };
        Ok(Message { channels, publication })
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// `<source> <id>`; its SHA-256 where that is too long, or could be read in two ways.
fn idempotency_key(source: &str, id: &str) -> Box<str> {
    let key = format!("{source} {id}");
    if key.len() <= KEY_BYTES && !source.contains(' ') {
        return key.into();
    }
    let unambiguous = format!("{}:{key}", source.len());
    let mut hashed = String::from("sha256:");
    for byte in sha256(unambiguous.as_bytes()) {
        let _ = write!(hashed, "{byte:02x}");
    }
    hashed.into()
}

#[cfg(test)]
mod tests;
