//! From an HTTP request to what is to be published: its form, its body, its idempotency key.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use http::request::Parts;
use http_body_util::BodyExt as _;
use hyper::body::Body;
use percent_encoding::percent_decode_str;

use super::cloudevents;
use super::error::{PublishError, invalid, within};
use super::parse::{PublishLimits, PublishRequest, text};
use crate::domain::Limits;
use crate::quota::InFlight;

/// Bodies in flight may take as much memory as so many of the largest.
const BODIES: usize = 8;
/// How long a body may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the rest of a refused body may take.
const DISCARD_PATIENCE: Duration = Duration::from_secs(5);
/// Larger bodies are read where they hold up no sockets.
const SMALL_BODY: usize = 32 * 1024;
/// What is read, for those who sent something else.
const MEDIA_TYPES: &str = "application/json, application/cloudevents+json, \
    application/cloudevents-batch+json, or any other with the headers of a CloudEvent (ce-specversion, ce-id, …)";

/// Everything of a request but its body.
#[derive(Debug)]
pub(super) struct Intake {
    form: Form,
    /// From the query.
    channels: Vec<String>,
    idempotency_key: Option<String>,
    headers: HeaderMap,
}

/// How the body is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Structured,
    Batch,
    Binary,
}

impl PublishRequest {
    /// Understands a request, in whichever form it says that its body is.
    pub fn from_http(head: &Parts, body: Bytes, limits: &PublishLimits) -> Result<Self, PublishError> {
        Intake::of(head)?.understand(body, limits)
    }
}

impl Intake {
    /// Looks at a request whose body is not there yet.
    pub(super) fn of(head: &Parts) -> Result<Self, PublishError> {
        let headers = &head.headers;
        if let Some(encoding) = headers.get(CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
            return Err(PublishError::Unsupported(format!(
                "the body is encoded as {encoding:?}: send it as it is"
            )));
        }
        let form = form(headers)?;
        let channels = channels(head.uri.query().unwrap_or_default())?;
        if form == Form::Json && !channels.is_empty() {
            return invalid("`channel` in the URL is for CloudEvents: say `channel` in the body");
        }
        let idempotency_key = headers.get("idempotency-key").map(|value| {
            let value = value.to_str().map(str::trim).unwrap_or_default();
            // The header's specification makes it a string in quotes; most send it without.
            value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value).to_owned()
        });
        if idempotency_key.is_some() && form != Form::Json {
            return invalid("leave `Idempotency-Key` out: `source` and `id` of a CloudEvent are its key");
        }
        Ok(Self { form, channels, idempotency_key, headers: headers.clone() })
    }

    /// Understands the body. A large one is read on a thread of its own.
    pub(super) async fn read(
        self,
        body: Bytes,
        limits: PublishLimits,
    ) -> Result<PublishRequest, PublishError> {
        if body.len() <= SMALL_BODY {
            return self.understand(body, &limits);
        }
        let read = tokio::task::spawn_blocking(move || self.understand(body, &limits)).await;
        read.unwrap_or_else(|_| invalid("the body could not be read"))
    }

    fn understand(self, body: Bytes, limits: &PublishLimits) -> Result<PublishRequest, PublishError> {
        let messages = match self.form {
            Form::Json => return self.json(&body, limits),
            Form::Structured => vec![cloudevents::structured(&body, &self.channels, limits)?],
            Form::Batch => cloudevents::batch(&body, &self.channels, limits)?,
            Form::Binary => {
                let content_type =
                    self.headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
                vec![cloudevents::binary(&self.headers, content_type, body, &self.channels, limits)?]
            }
        };
        PublishRequest::new(messages, None, limits)
    }

    fn json(self, body: &[u8], limits: &PublishLimits) -> Result<PublishRequest, PublishError> {
        let mut request = PublishRequest::parse(body, limits)?;
        let Some(key) = text("Idempotency-Key", self.idempotency_key)? else { return Ok(request) };
        let [message] = &mut request.messages[..] else {
            return invalid("`Idempotency-Key` is for one message: give each of `messages` an `id`");
        };
        match &message.publication.id {
            Some(id) if *id != key => invalid("`id` and `Idempotency-Key` differ: send one of them"),
            _ => {
                message.publication.id = Some(key);
                Ok(request)
            }
        }
    }
}

fn form(headers: &HeaderMap) -> Result<Form, PublishError> {
    let content_type = headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
    let mut parts = content_type.unwrap_or("application/json").split(';').map(str::trim_ascii);
    let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
    let charset = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim_ascii().eq_ignore_ascii_case("charset").then(|| value.trim_ascii().trim_matches('"'))
    });
    let form = match essence.as_str() {
        "application/cloudevents+json" => Form::Structured,
        "application/cloudevents-batch+json" => Form::Batch,
        _ if essence.starts_with("application/cloudevents") => return unsupported(&essence),
        _ if cloudevents::is_binary(headers) => return Ok(Form::Binary),
        // The second is what `curl -d` says of whatever it sends.
        "application/json" | "application/x-www-form-urlencoded" => Form::Json,
        _ => return unsupported(&essence),
    };
    match charset {
        Some(charset) if !charset.eq_ignore_ascii_case("utf-8") => {
            Err(PublishError::Unsupported(format!("the body is in {charset:?}: JSON is UTF-8")))
        }
        _ => Ok(form),
    }
}

fn unsupported<T>(essence: &str) -> Result<T, PublishError> {
    Err(PublishError::Unsupported(format!("the body is {essence:?}; what is read is {MEDIA_TYPES}")))
}

/// The channels that the query names.
fn channels(query: &str) -> Result<Vec<String>, PublishError> {
    let mut channels = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if name != "channel" {
            return invalid(format!("there is no parameter {name:?}; there is: channel"));
        }
        let value = percent_decode_str(value).decode_utf8();
        channels.push(value.or_else(|_| invalid("`channel` in the URL is not UTF-8"))?.into_owned());
    }
    Ok(channels)
}

/// Reads the body, within the tenant's bounds on it and on all bodies in flight.
pub(super) async fn read_body<B>(
    headers: &HeaderMap,
    body: &mut B,
    limits: &Limits,
    permit: &mut InFlight,
) -> Result<Bytes, PublishError>
where
    B: Body<Data = Bytes> + Unpin,
{
    let announced = headers.get(CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0);
    within("the body", announced, limits.publish_body_bytes)?;
    let all = async {
        let mut read = BytesMut::with_capacity(announced.min(SMALL_BODY));
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return invalid("the body is cut off") };
            let Ok(data) = frame.into_data() else { continue };
            within("the body", read.len() + data.len(), limits.publish_body_bytes)?;
            if !permit.grow(data.len(), BODIES * limits.publish_body_bytes) {
                return Err(PublishError::Limited {
                    why: format!(
                        "the bodies of the requests in flight have {} bytes together, the most that are taken: \
                         send fewer at a time",
                        BODIES * limits.publish_body_bytes
                    ),
                    targets: 1,
                    wait: Duration::from_secs(1),
                });
            }
            read.extend_from_slice(&data);
        }
        Ok(read.freeze())
    };
    tokio::time::timeout(PATIENCE, all).await.unwrap_or(Err(PublishError::Late(PATIENCE.as_secs())))
}

/// Reads on what is left of a refused request's body and throws it away, up to twice as much as is taken:
/// most clients read no answer before all is sent, and would see a broken connection in its place. One
/// that waits to be asked for its body is not asked.
pub(super) async fn discard<B>(headers: &HeaderMap, body: &mut B, most: usize)
where
    B: Body<Data = Bytes> + Unpin,
{
    if headers.contains_key(EXPECT) {
        return;
    }
    let all = async {
        let mut left = 2 * most;
        while let Some(Ok(frame)) = body.frame().await {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            let Some(less) = left.checked_sub(bytes) else { return };
            left = less;
        }
    };
    // Past that the connection closes with the answer.
    let _ = tokio::time::timeout(DISCARD_PATIENCE, all).await;
}
