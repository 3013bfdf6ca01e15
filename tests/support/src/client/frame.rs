//! Frames as this client reads and writes them, in both codecs.

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ciborium::Value as Cbor;
use serde_json::{Map, Value};

use crate::offset::Offset;

/// An encoding of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Codec {
    /// `tidegate.v1.json`.
    #[default]
    Json,
    /// `tidegate.v1.cbor`.
    Cbor,
}

impl Codec {
    /// Writes a frame.
    pub(super) fn encode(self, frame: &Value) -> Result<Vec<u8>> {
        match self {
            Self::Json => Ok(frame.to_string().into_bytes()),
            Self::Cbor => to_cbor(frame),
        }
    }

    /// The WebSocket subprotocol that asks for it.
    pub fn subprotocol(self) -> &'static str {
        match self {
            Self::Json => "tidegate.v1.json",
            Self::Cbor => "tidegate.v1.cbor",
        }
    }
}

/// What a server said, as a JSON object whatever the codec was. A CBOR payload stands in base64.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame(pub Value);

/// A `message` frame, or one message of a history.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// The channel.
    pub channel: String,
    /// Its offset.
    pub offset: Offset,
    /// The payload's bytes; compact JSON where it came as JSON.
    pub data: Vec<u8>,
    /// Which delivery this is; 0 in a history, where there is none.
    pub attempt: u64,
    /// The headers, `null` where there are none.
    pub headers: Value,
    /// The conflation key.
    pub key: Option<String>,
    /// The idempotency key.
    pub msg_id: Option<String>,
}

impl Message {
    /// The payload as text; bytes that are no UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.data).into_owned()
    }
}

impl Frame {
    /// The `type`.
    pub fn kind(&self) -> &str {
        self.text("type")
    }

    /// A field; `null` where it is absent.
    pub fn get(&self, field: &str) -> &Value {
        &self.0[field]
    }

    /// A field as text; empty where it is absent.
    pub fn text(&self, field: &str) -> &str {
        self.0[field].as_str().unwrap_or_default()
    }

    /// A field as a number, where it is one.
    pub fn number(&self, field: &str) -> Option<u64> {
        self.0[field].as_u64()
    }

    /// A field as an offset.
    pub fn offset(&self, field: &str) -> Result<Offset> {
        self.text(field).parse().with_context(|| format!("no offset in `{field}` of {}", self.0))
    }

    /// The frame as a message.
    pub fn message(&self) -> Result<Message> {
        message(&self.0)
    }

    /// The messages of a `history` reply.
    pub fn messages(&self) -> Result<Vec<Message>> {
        let list = self.0["messages"].as_array().with_context(|| format!("no messages in {}", self.0))?;
        list.iter().map(message).collect()
    }

    /// Reads a frame.
    pub(super) fn decode(codec: Codec, bytes: &[u8]) -> Result<Self> {
        match codec {
            Codec::Json => {
                let what = || format!("not JSON: {}", String::from_utf8_lossy(bytes));
                Ok(Self(serde_json::from_slice(bytes).with_context(what)?))
            }
            Codec::Cbor => {
                let value: Cbor = ciborium::from_reader(bytes).context("not CBOR")?;
                Ok(Self(from_cbor(value)?))
            }
        }
    }
}

fn message(value: &Value) -> Result<Message> {
    let text = |field: &str| value[field].as_str().map(str::to_owned);
    let data = match (&value["data"], value["enc"].as_str()) {
        (Value::String(text), Some("text")) => text.clone().into_bytes(),
        (Value::String(text), Some("base64")) => STANDARD.decode(text).context("base64")?,
        (Value::Null, None) if value.get("data").is_none() => bail!("a message without data: {value}"),
        (json, None) => json.to_string().into_bytes(),
        (_, Some(other)) => bail!("unknown enc {other:?} in {value}"),
    };
    Ok(Message {
        channel: text("channel").unwrap_or_default(),
        offset: text("offset").with_context(|| format!("no offset in {value}"))?.parse()?,
        data,
        attempt: value["attempt"].as_u64().unwrap_or_default(),
        headers: value["headers"].clone(),
        key: text("key"),
        msg_id: text("msg_id"),
    })
}

/// A client frame in CBOR: `data` becomes a byte string, everything else is as in JSON.
fn to_cbor(frame: &Value) -> Result<Vec<u8>> {
    let mut value = Cbor::serialized(frame)?;
    if let (Some(data), Some(fields)) = (frame.get("data"), value.as_map_mut()) {
        let bytes = match (data, frame["enc"].as_str()) {
            (Value::String(text), Some("base64")) => STANDARD.decode(text)?,
            (Value::String(text), _) => text.clone().into_bytes(),
            (other, _) => other.to_string().into_bytes(),
        };
        fields.retain(|(name, _)| !matches!(name.as_text(), Some("data" | "enc")));
        fields.push((Cbor::Text("data".into()), Cbor::Bytes(bytes)));
    }
    let mut encoded = Vec::new();
    ciborium::into_writer(&value, &mut encoded)?;
    Ok(encoded)
}

fn from_cbor(value: Cbor) -> Result<Value> {
    Ok(match value {
        Cbor::Map(fields) => {
            let mut object = Map::new();
            for (name, value) in fields {
                let name = name.into_text().map_err(|_| anyhow::anyhow!("a key that is no text"))?;
                if let Cbor::Bytes(bytes) = &value {
                    object.insert("enc".into(), "base64".into());
                    object.insert(name, STANDARD.encode(bytes).into());
                } else {
                    object.insert(name, from_cbor(value)?);
                }
            }
            Value::Object(object)
        }
        Cbor::Array(items) => Value::Array(items.into_iter().map(from_cbor).collect::<Result<_>>()?),
        Cbor::Integer(number) => {
            i64::try_from(number).map(Value::from).or_else(|_| u64::try_from(number).map(Value::from))?
        }
        Cbor::Text(text) => Value::String(text),
        Cbor::Bool(flag) => Value::Bool(flag),
        Cbor::Null => Value::Null,
        Cbor::Float(number) => Value::from(number),
        other => bail!("{other:?} has no place in a frame"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn payloads_come_back_in_every_encoding() {
        let head = json!({"type": "message", "channel": "room:1", "offset": "5-0", "attempt": 1});
        for (data, enc, bytes) in [
            (json!({"a": 1}), None, br#"{"a":1}"#.to_vec()),
            (json!("hi"), Some("text"), b"hi".to_vec()),
            (json!("AP8="), Some("base64"), vec![0, 255]),
        ] {
            let mut frame = head.clone();
            frame["data"] = data;
            if let Some(enc) = enc {
                frame["enc"] = enc.into();
            }
            assert_eq!(Frame(frame).message().unwrap().data, bytes);
        }
        assert!(Frame(head).message().is_err());
    }

    #[test]
    fn cbor_carries_payloads_as_bytes() {
        let sent = json!({"type": "publish", "id": 7, "channel": "room:1", "data": {"a": 1}});
        let frame = Frame::decode(Codec::Cbor, &to_cbor(&sent).unwrap()).unwrap();
        assert_eq!(frame.number("id"), Some(7));
        let data = STANDARD.decode(frame.text("data")).unwrap();
        assert_eq!(data, br#"{"a":1}"#);
    }
}
