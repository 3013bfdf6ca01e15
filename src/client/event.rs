//! What a node says, as events that a program acts on.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::ClientError;
use crate::domain::Offset;

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
        /// How often the node is heard at least.
        ping: Duration,
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
        /// Of a history: its messages, oldest first.
        messages: Vec<Message>,
        /// The frame as it came, with whatever else answers the request.
        frame: Value,
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
    /// The node goes away soon: finish what is in hand, and acknowledge it.
    Drain {
        /// How long to wait before coming back.
        retry_after: Duration,
        /// Where to come back to, where the node says.
        url: Option<String>,
    },
    /// The node is about to close.
    Disconnect {
        /// The close code.
        code: u16,
        /// Its reason.
        reason: String,
        /// The same for people.
        message: String,
        /// How long to wait before coming back, where the node says.
        retry_after: Option<Duration>,
        /// Where to come back to, where the node says.
        url: Option<String>,
    },
    /// The answer to a `ping`.
    Pong,
    /// No connection could be made; the next [`super::Client::next`] tries again after the pause.
    Unreachable {
        /// Where to.
        url: String,
        /// Why not.
        why: String,
        /// How long is waited.
        pause: Duration,
    },
    /// The connection ended; the next [`super::Client::next`] makes a new one.
    Closed {
        /// The close code; 1006 where there was none, as RFC 6455 has it.
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
    /// The channel; empty in a history, whose request names it.
    pub channel: String,
    /// Its offset.
    pub offset: Offset,
    /// The payload: what the backend wrote, JSON made compact.
    pub data: Vec<u8>,
    /// 1 the first time, also in a history.
    pub attempt: u64,
    /// The frame as it came, payloads of CBOR in base64.
    pub frame: Value,
}

/// What a frame means.
pub(super) fn event(frame: Value) -> Result<Event, ClientError> {
    let text = |field: &str| frame[field].as_str().unwrap_or_default().to_owned();
    let offset = |field: &str| offset(&frame, field);
    let millis = |field: &str| frame[field].as_u64().map(Duration::from_millis);
    let (pause, url) = (millis("retry_after_ms"), frame["url"].as_str().map(str::to_owned));
    Ok(match text("type").as_str() {
        "connected" => Event::Connected {
            user: text("user"),
            session: text("session"),
            resume: text("resume"),
            resumed: text("resumed"),
            node: text("node"),
            ping: millis("ping_ms").ok_or_else(|| wrong("no `ping_ms`", &frame))?,
        },
        "subscribed" => Event::Subscribed {
            channel: text("channel"),
            offset: offset("offset")?,
            epoch: text("epoch"),
            recovered: frame["recovered"].as_bool(),
        },
        "message" => Event::Message(message(frame)?),
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
        "ok" => Event::Done {
            id: frame["id"].as_u64().unwrap_or_default(),
            offset: offset("offset").ok(),
            messages: match &frame["messages"] {
                Value::Array(list) => list.iter().cloned().map(message).collect::<Result<_, _>>()?,
                _ => Vec::new(),
            },
            frame,
        },
        "error" => Event::Error { id: frame["id"].as_u64(), code: text("code"), message: text("message") },
        "drain" => Event::Drain { retry_after: pause.unwrap_or_default(), url },
        "disconnect" => Event::Disconnect {
            code: frame["code"].as_u64().and_then(|code| code.try_into().ok()).unwrap_or(1005),
            reason: text("reason"),
            message: text("message"),
            retry_after: pause,
            url,
        },
        "pong" => Event::Pong,
        _ => Event::Other(frame),
    })
}

fn message(frame: Value) -> Result<Message, ClientError> {
    Ok(Message {
        channel: frame["channel"].as_str().unwrap_or_default().to_owned(),
        offset: offset(&frame, "offset")?,
        data: payload(&frame)?,
        attempt: frame["attempt"].as_u64().unwrap_or(1),
        frame,
    })
}

fn offset(frame: &Value, field: &str) -> Result<Offset, ClientError> {
    let offset = frame[field].as_str().and_then(|text| text.parse().ok());
    offset.ok_or_else(|| wrong(&format!("no offset in `{field}`"), frame))
}

fn wrong(what: &str, frame: &Value) -> ClientError {
    ClientError::Protocol(format!("{what} in {frame}"))
}

fn payload(frame: &Value) -> Result<Vec<u8>, ClientError> {
    match (&frame["data"], frame["enc"].as_str()) {
        (Value::String(text), Some("base64")) => {
            STANDARD.decode(text).map_err(|_| wrong("bad base64", frame))
        }
        (Value::String(text), Some("text")) => Ok(text.clone().into_bytes()),
        (json, None) => Ok(json.to_string().into_bytes()),
        _ => Err(wrong("an unknown `enc`", frame)),
    }
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
        event(frame)
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
    fn a_history_holds_messages() {
        let frame =
            json!({"type": "ok", "id": 3, "messages": [{"offset": "4-0", "data": "x", "enc": "text"}]});
        let Ok(Event::Done { id: 3, messages, .. }) = event(frame) else { panic!("not done") };
        assert_eq!((messages.len(), messages[0].data.as_slice()), (1, b"x".as_slice()));
    }

    #[test]
    fn frames_that_lack_something_are_errors_and_unknown_ones_are_not() {
        for frame in
            [json!({"type": "message"}), json!({"type": "gap", "after": "x"}), json!({"type": "connected"})]
        {
            assert!(event(frame.clone()).is_err(), "{frame}");
        }
        for frame in [json!([]), json!({"type": "later"})] {
            assert!(matches!(event(frame), Ok(Event::Other(_))));
        }
    }
}
