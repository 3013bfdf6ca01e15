//! Frames between JSON values and bytes, in both encodings, as a client needs them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ciborium::Value as Cbor;
use serde_json::{Map, Value};

use super::ClientError;
use crate::protocol::Codec;

/// The largest frame that a client takes, in bytes. Memory grows with what really came.
pub(super) const MAX_FRAME: usize = 16 << 20;

/// A frame that a node sent. Payloads in CBOR become text where they are UTF-8, else base64; `enc` says which.
pub(super) fn decode(codec: Codec, bytes: &[u8]) -> Result<Value, ClientError> {
    let wrong = |why: String| ClientError::Protocol(why);
    match codec {
        Codec::Json => serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string())),
        Codec::Cbor => {
            let value: Cbor = ciborium::from_reader(bytes).map_err(|error| wrong(error.to_string()))?;
            from_cbor(value)
        }
    }
}

/// A frame for a node. In CBOR `data` becomes a byte string.
pub(super) fn encode(codec: Codec, frame: &Value) -> Vec<u8> {
    match codec {
        Codec::Json => frame.to_string().into_bytes(),
        Codec::Cbor => to_cbor(frame),
    }
}

fn to_cbor(frame: &Value) -> Vec<u8> {
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

fn from_cbor(value: Cbor) -> Result<Value, ClientError> {
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
                    object.insert(name, from_cbor(value)?);
                }
            }
            Value::Object(object)
        }
        Cbor::Array(items) => items.into_iter().map(from_cbor).collect::<Result<Value, _>>()?,
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

    #[test]
    fn both_encodings_say_the_same() {
        let frame = json!({"type": "ok", "id": 7, "offset": "5-0", "messages": [{"offset": "4-0"}]});
        for codec in [Codec::Json, Codec::Cbor] {
            assert_eq!(decode(codec, &encode(codec, &frame)).unwrap(), frame);
        }
        let publish = json!({"type": "publish", "data": {"a": 1}});
        let read = decode(Codec::Cbor, &encode(Codec::Cbor, &publish)).unwrap();
        assert_eq!(read, json!({"type": "publish", "data": "{\"a\":1}", "enc": "text"}));
    }

    #[test]
    fn what_is_no_frame_is_an_error_and_never_a_panic() {
        for text in ["", "{", "{} {}"] {
            assert!(decode(Codec::Json, text.as_bytes()).is_err(), "{text}");
        }
        for bytes in [
            &[][..],
            &[0xff, 0x00],
            &[0xa1, 0x01, 0x02],
            &[0x3b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        ] {
            assert!(decode(Codec::Cbor, bytes).is_err(), "{bytes:02x?}");
        }
    }
}
