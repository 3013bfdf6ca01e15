//! A letter in JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::delivery::dead_letters::Letter;

/// `offset` is the letter's own; the message's is `message_offset`. A field that is no text is named in
/// `binary` and given in base64.
pub(super) fn letter(letter: &Letter) -> Value {
    let mut shown = Map::new();
    shown.insert("offset".into(), letter.offset().to_string().into());
    let mut binary = Vec::new();
    for (name, bytes) in letter.all() {
        let Ok(name) = std::str::from_utf8(name) else { continue };
        let Ok(text) = std::str::from_utf8(bytes) else {
            binary.push(Value::from(name));
            shown.insert(name.into(), STANDARD.encode(bytes).into());
            continue;
        };
        let (name, value) = match name {
            "offset" => ("message_offset", text.into()),
            "attempts" | "ttl_ms" | "spread_ms" => {
                (name, text.parse::<u64>().map_or(text.into(), Value::from))
            }
            "headers" | "data" => (name, object_or_array(text).unwrap_or_else(|| text.into())),
            _ => (name, text.into()),
        };
        shown.insert(name.into(), value);
    }
    if !binary.is_empty() {
        shown.insert("binary".into(), binary.into());
    }
    shown.into()
}

fn object_or_array(text: &str) -> Option<Value> {
    let is_compound = |value: &Value| value.is_object() || value.is_array();
    serde_json::from_str(text).ok().filter(is_compound)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::{Offset, RawEntry};

    #[test]
    fn a_letter_says_all_it_holds() {
        let fields = [
            ("channel", &b"room:1"[..]),
            ("offset", b"5-1"),
            ("attempts", b"5"),
            ("data", br#"{"n":1}"#),
            ("headers", br#"{"a":"b"}"#),
            ("key", b"7"),
            ("other", b"\xff"),
        ];
        let fields = fields.map(|(name, value)| (name.into(), value.into())).to_vec();
        let shown = letter(&Letter::new(RawEntry::new(Offset { ms: 9, seq: 0 }, fields)));
        let wanted = json!({
            "offset": "9-0", "channel": "room:1", "message_offset": "5-1", "attempts": 5,
            "data": {"n": 1}, "headers": {"a": "b"}, "key": "7", "other": "/w==", "binary": ["other"],
        });
        assert_eq!(shown, wanted);
    }
}
