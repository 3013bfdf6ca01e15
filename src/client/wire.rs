//! Frames as this client reads and writes them.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ciborium::Value as Cbor;
use serde_json::{Map, Value};
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::header::{HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_PROTOCOL};

use super::{ClientError, Socket};
use crate::domain::Offset;
use crate::protocol::Codec;

/// What a node says, as far as a client acts on it.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A session is open.
    Connected {
        /// Its user.
        user: String,
        /// The session.
        session: String,
        /// What to resume with.
        resume: String,
        /// `new`, `home`, `moved` or `lost`.
        resumed: String,
        /// The node.
        node: String,
    },
    /// A subscription begins.
    Subscribed {
        /// The channel.
        channel: String,
        /// Messages after this offset follow.
        offset: Offset,
        /// The epoch of the offset.
        epoch: String,
        /// Whether everything since the wished position is there, where one was wished.
        recovered: Option<bool>,
    },
    /// A message.
    Message(Message),
    /// The cursor moved over entries that no client sees.
    Position {
        /// The channel.
        channel: String,
        /// Where it stands.
        offset: Offset,
        /// The epoch of the offset.
        epoch: String,
    },
    /// Messages after `after`, up to and with `until`, may be missing.
    Gap {
        /// The channel.
        channel: String,
        /// The last offset before the gap.
        after: Offset,
        /// The last offset that may be missing.
        until: Offset,
        /// The epoch of `until`.
        epoch: String,
        /// Why.
        reason: String,
    },
    /// A request was done.
    Done {
        /// The request.
        id: u64,
        /// Of a publication: where it stands in the log.
        offset: Option<Offset>,
    },
    /// A request was not done, or a frame was wrong.
    Error {
        /// The request, where there is one.
        id: Option<u64>,
        /// Which kind of error.
        code: String,
        /// What is wrong and what to do.
        message: String,
    },
    /// The node goes away soon.
    Drain {
        /// How long to wait before coming back.
        retry_after: Duration,
    },
    /// The node is about to close.
    Disconnect {
        /// How long to wait before coming back, where the node says.
        retry_after: Option<Duration>,
    },
    /// The connection ended; the next [`super::Client::next`] makes a new one.
    Closed {
        /// The close code; 1006 where there was none.
        code: u16,
        /// Why.
        reason: String,
    },
    /// A frame that this client has no use for.
    Other(Value),
}

/// A message.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// The channel.
    pub channel: String,
    /// Its offset.
    pub offset: Offset,
    /// The payload: what the backend wrote, JSON made compact.
    pub data: Vec<u8>,
    /// 1 the first time.
    pub attempt: u64,
    /// The frame as it came, payloads of CBOR in base64.
    pub frame: Value,
}

/// Why a handshake failed, and whether trying again is of use.
pub(super) struct Failure {
    pub(super) why: String,
    pub(super) is_final: bool,
    /// When the node wants to be asked again.
    pub(super) retry_after: Option<Duration>,
}

/// Makes a connection. Cancel-safe: nothing is sent that outlives the socket.
pub(super) async fn handshake(url: &str, codec: Codec) -> Result<Socket, Failure> {
    let unusable = |error: Error| Failure { why: error.to_string(), is_final: true, retry_after: None };
    let mut request = url.into_client_request().map_err(unusable)?;
    let subprotocol = match codec {
        Codec::Json => "tidegate.v1.json",
        Codec::Cbor => "tidegate.v1.cbor",
    };
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
    match tokio_tungstenite::connect_async(request).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(answer)) => {
            let status = answer.status();
            let body = answer.body().as_deref().unwrap_or_default();
            let why = format!("the node answered {status} {}", String::from_utf8_lossy(body).trim());
            let seconds =
                answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            // 429 and 5xx pass; what is wrong with the request stays wrong.
            let is_final = status.is_client_error() && status.as_u16() != 429;
            Err(Failure { why, is_final, retry_after: seconds.map(Duration::from_secs) })
        }
        Err(error) => Err(Failure { why: error.to_string(), is_final: false, retry_after: None }),
    }
}

/// A text frame.
pub(super) fn from_json(text: &str) -> Result<Event, ClientError> {
    let frame = serde_json::from_str(text).map_err(|error| ClientError::Protocol(error.to_string()))?;
    event(frame)
}

/// A binary frame.
pub(super) fn from_cbor(bytes: &[u8]) -> Result<Event, ClientError> {
    let value: Cbor =
        ciborium::from_reader(bytes).map_err(|error| ClientError::Protocol(error.to_string()))?;
    event(cbor_to_json(value)?)
}

/// A frame in CBOR: `data` becomes a byte string.
pub(super) fn to_cbor(frame: &Value) -> Vec<u8> {
    let mut value = Cbor::serialized(frame).expect("JSON has no value that CBOR cannot hold");
    if let (Some(data), Some(fields)) = (frame.get("data"), value.as_map_mut()) {
        let bytes = data.as_str().map_or_else(|| data.to_string(), str::to_owned).into_bytes();
        fields.retain(|(name, _)| name.as_text() != Some("data"));
        fields.push((Cbor::Text("data".into()), Cbor::Bytes(bytes)));
    }
    let mut encoded = Vec::new();
    ciborium::into_writer(&value, &mut encoded).expect("writing to memory does not fail");
    encoded
}

fn event(frame: Value) -> Result<Event, ClientError> {
    let text = |field: &str| frame[field].as_str().unwrap_or_default().to_owned();
    let offset = |field: &str| {
        frame[field]
            .as_str()
            .and_then(|text| text.parse::<Offset>().ok())
            .ok_or_else(|| ClientError::Protocol(format!("no offset in `{field}` of {frame}")))
    };
    let pause = frame["retry_after_ms"].as_u64().map(Duration::from_millis);
    Ok(match text("type").as_str() {
        "connected" => Event::Connected {
            user: text("user"),
            session: text("session"),
            resume: text("resume"),
            resumed: text("resumed"),
            node: text("node"),
        },
        "subscribed" => Event::Subscribed {
            channel: text("channel"),
            offset: offset("offset")?,
            epoch: text("epoch"),
            recovered: frame["recovered"].as_bool(),
        },
        "message" => Event::Message(Message {
            channel: text("channel"),
            offset: offset("offset")?,
            data: payload(&frame)?,
            attempt: frame["attempt"].as_u64().unwrap_or(1),
            frame,
        }),
        "position" => {
            Event::Position { channel: text("channel"), offset: offset("offset")?, epoch: text("epoch") }
        }
        "gap" => Event::Gap {
            channel: text("channel"),
            after: offset("after")?,
            until: offset("until")?,
            epoch: text("epoch"),
            reason: text("reason"),
        },
        "ok" => Event::Done { id: frame["id"].as_u64().unwrap_or_default(), offset: offset("offset").ok() },
        "error" => Event::Error { id: frame["id"].as_u64(), code: text("code"), message: text("message") },
        "drain" => Event::Drain { retry_after: pause.unwrap_or_default() },
        "disconnect" => Event::Disconnect { retry_after: pause },
        _ => Event::Other(frame),
    })
}

fn payload(frame: &Value) -> Result<Vec<u8>, ClientError> {
    let wrong = |what: &str| ClientError::Protocol(format!("{what} in {frame}"));
    match (&frame["data"], frame["enc"].as_str()) {
        (Value::String(text), Some("base64")) => STANDARD.decode(text).map_err(|_| wrong("bad base64")),
        (Value::String(text), Some("text")) => Ok(text.clone().into_bytes()),
        (json, None) => Ok(json.to_string().into_bytes()),
        _ => Err(wrong("an unknown `enc`")),
    }
}

fn cbor_to_json(value: Cbor) -> Result<Value, ClientError> {
    let wrong = |what: &str| ClientError::Protocol(format!("{what} in a CBOR frame"));
    Ok(match value {
        Cbor::Map(fields) => {
            let mut object = Map::new();
            for (name, value) in fields {
                let name = name.into_text().map_err(|_| wrong("a name that is no text"))?;
                if let Cbor::Bytes(bytes) = &value {
                    // Text stays readable in what is printed; both say how they are to be read.
                    let (encoding, text) = match std::str::from_utf8(bytes) {
                        Ok(text) => ("text", text.to_owned()),
                        Err(_) => ("base64", STANDARD.encode(bytes)),
                    };
                    object.insert("enc".into(), encoding.into());
                    object.insert(name, text.into());
                } else {
                    object.insert(name, cbor_to_json(value)?);
                }
            }
            Value::Object(object)
        }
        Cbor::Array(items) => items.into_iter().map(cbor_to_json).collect::<Result<Value, _>>()?,
        Cbor::Text(text) => text.into(),
        Cbor::Bool(flag) => flag.into(),
        Cbor::Null => Value::Null,
        Cbor::Float(number) => number.into(),
        Cbor::Integer(number) => u64::try_from(number)
            .map(Value::from)
            .or_else(|_| i64::try_from(number).map(Value::from))
            .map_err(|_| wrong("a number out of range"))?,
        _ => return Err(wrong("a value that has no place")),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(data: Value, enc: Option<&str>) -> Result<Event, ClientError> {
        let mut frame =
            json!({"type": "message", "channel": "room:1", "offset": "5-0", "attempt": 2, "data": data});
        if let Some(enc) = enc {
            frame["enc"] = enc.into();
        }
        from_json(&frame.to_string())
    }

    #[test]
    fn payloads_are_what_the_backend_wrote() {
        for (data, enc, bytes) in [
            (json!({"a": 1}), None, br#"{"a":1}"#.to_vec()),
            (json!("hi"), Some("text"), b"hi".to_vec()),
            (json!("AP8="), Some("base64"), vec![0, 255]),
        ] {
            let Ok(Event::Message(message)) = message(data, enc) else { panic!("no message") };
            assert_eq!((message.data, message.attempt), (bytes, 2));
        }
        assert!(message(json!("x"), Some("rot13")).is_err());
    }

    #[test]
    fn both_codecs_say_the_same() {
        let ok = json!({"type": "ok", "id": 7, "offset": "5-0"});
        let done = Event::Done { id: 7, offset: Some(Offset { ms: 5, seq: 0 }) };
        assert_eq!(from_json(&ok.to_string()).unwrap(), done);
        assert_eq!(from_cbor(&to_cbor(&ok)).unwrap(), done);
    }

    #[test]
    fn what_is_no_frame_is_an_error_and_never_a_panic() {
        for text in ["", "{", r#"{"type":"message"}"#, r#"{"type":"gap","after":"x"}"#] {
            assert!(from_json(text).is_err(), "{text}");
        }
        assert!(from_cbor(&[0xff, 0x00]).is_err());
        assert!(matches!(from_json("[]"), Ok(Event::Other(_))));
    }
}
