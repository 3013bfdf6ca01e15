//! Answers of hooks as a word and as JSON.

use serde_json::{Map, Value, json};

use crate::domain::ChannelName;
use crate::plugin::answers::{Refusal, Replacement};
use crate::plugin::{Admission, DeliverVerdict, PublishVerdict, RouteVerdict, SubscribeVerdict};

/// Letters of an answer that a table shows.
const BRIEF: usize = 100;

/// An answer.
#[derive(Debug)]
pub(super) struct Verdict {
    /// What the WIT calls it; `admit` and `refuse` for `authenticate`, `told` for `on-session`.
    pub(super) word: &'static str,
    /// What there is beside the word: an object.
    pub(super) answer: Value,
}

impl Verdict {
    /// What `on-session` answers.
    pub(super) fn told() -> Self {
        Self::of("told", json!({}))
    }

    fn of(word: &'static str, answer: Value) -> Self {
        Self { word, answer }
    }

    /// Whether it is as a sample expects: a word, or an object in which everything must be as in the answer.
    pub(super) fn fits(&self, expected: &Value) -> bool {
        match expected {
            Value::String(word) => word == self.word,
            Value::Object(fields) => fields.iter().all(|(name, value)| match name.as_str() {
                "verdict" => value == self.word,
                name => self.answer.get(name).unwrap_or(&Value::Null) == value,
            }),
            _ => false,
        }
    }

    /// The answer in a line, cut short.
    pub(super) fn brief(&self) -> String {
        let Some(fields) = self.answer.as_object() else { return String::new() };
        let text = match (fields.len(), fields.values().next()) {
            (0, _) | (_, None) => String::new(),
            (1, Some(Value::String(text))) => super::plain(text),
            (1, Some(value)) => value.to_string(),
            _ => self.answer.to_string(),
        };
        match text.char_indices().nth(BRIEF) {
            Some((at, _)) => format!("{}…", &text[..at]),
            None => text,
        }
    }
}

impl From<Admission> for Verdict {
    fn from(admission: Admission) -> Self {
        match admission {
            Admission::Refused(refusal) => Self::of("refuse", refused(&refusal)),
            Admission::Admitted(client) => {
                let mut answer = Map::new();
                answer.insert("user".into(), client.user.as_str().into());
                let claims = client.claims.and_then(|claims| serde_json::from_str(&claims).ok());
                let channels = client.channels.map(|names| json!(names));
                let expires = client.expires_ms.map(|ms| (ms / 1_000).into());
                let class = client.class.map(|class| Value::from(&*class));
                for (name, value) in
                    [("class", class), ("channels", channels), ("claims", claims), ("expires", expires)]
                {
                    answer.extend(value.map(|value| (name.to_owned(), value)));
                }
                Self::of("admit", Value::Object(answer))
            }
        }
    }
}

impl From<SubscribeVerdict> for Verdict {
    fn from(verdict: SubscribeVerdict) -> Self {
        match verdict {
            SubscribeVerdict::Allow => Self::of("allow", json!({})),
            SubscribeVerdict::Deny(refusal) => Self::of("deny", refused(&refusal)),
            SubscribeVerdict::Rewrite(channel) => Self::of("rewrite", json!({"channel": channel.as_str()})),
        }
    }
}

impl From<PublishVerdict> for Verdict {
    fn from(verdict: PublishVerdict) -> Self {
        match verdict {
            PublishVerdict::Accept => Self::of("accept", json!({})),
            PublishVerdict::Drop => Self::of("drop", json!({})),
            PublishVerdict::Refuse(refusal) => Self::of("refuse", refused(&refusal)),
            PublishVerdict::Replace(with) => Self::of("replace", replaced(Some(&with))),
            PublishVerdict::Redirect(channels, with) => Self::of("redirect", sent(&channels, with.as_ref())),
        }
    }
}

impl From<RouteVerdict> for Verdict {
    fn from(verdict: RouteVerdict) -> Self {
        match verdict {
            RouteVerdict::Accept => Self::of("accept", json!({})),
            RouteVerdict::Drop => Self::of("drop", json!({})),
            RouteVerdict::To(channels, None) => Self::of("channels", sent(&channels, None)),
            RouteVerdict::To(channels, with) => Self::of("replace", sent(&channels, with.as_ref())),
        }
    }
}

impl From<DeliverVerdict> for Verdict {
    fn from(verdict: DeliverVerdict) -> Self {
        match verdict {
            DeliverVerdict::Accept => Self::of("accept", json!({})),
            DeliverVerdict::Drop => Self::of("drop", json!({})),
            DeliverVerdict::Replace(with) => Self::of("replace", replaced(Some(&with))),
        }
    }
}

fn refused(refusal: &Refusal) -> Value {
    match refusal.retry_after_ms {
        Some(ms) => json!({"reason": refusal.reason, "retry_after_ms": ms}),
        None => json!({"reason": refusal.reason}),
    }
}

fn sent(channels: &[ChannelName], with: Option<&Replacement>) -> Value {
    let mut answer = replaced(with);
    answer["channels"] = channels.iter().map(|channel| channel.as_str()).collect();
    answer
}

/// JSON as it is, text as text, bytes in base64: as in a sample.
fn replaced(with: Option<&Replacement>) -> Value {
    use base64::Engine as _;
    let Some(Replacement { data, headers }) = with else { return json!({}) };
    let mut answer = match (serde_json::from_slice::<Value>(data), std::str::from_utf8(data)) {
        (Ok(value), _) if value.is_object() || value.is_array() => json!({"data": value}),
        (_, Ok(text)) => json!({"data": text}),
        _ => json!({"data_base64": base64::engine::general_purpose::STANDARD.encode(data)}),
    };
    if let Some(headers) = headers {
        let headers: Map<String, Value> =
            headers.iter().map(|(name, value)| (name.to_string(), Value::from(&**value))).collect();
        answer["headers"] = Value::Object(headers);
    }
    answer
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn an_answer_is_held_against_what_is_expected() {
        let with = |data: &'static str, headers| {
            DeliverVerdict::Replace(Replacement { data: Bytes::from_static(data.as_bytes()), headers })
        };
        let json = Verdict::from(with(r#"{"a": 1}"#, Some(vec![("x".into(), "y".into())])));
        assert_eq!(json.answer, json!({"data": {"a": 1}, "headers": {"x": "y"}}));
        for fits in [json!("replace"), json!({"verdict": "replace"}), json!({"data": {"a": 1}}), json!({})] {
            assert!(json.fits(&fits), "{fits}");
        }
        for other in
            [json!("drop"), json!({"verdict": "drop"}), json!({"data": {}}), json!({"reason": "x"}), json!(1)]
        {
            assert!(!json.fits(&other), "{other}");
        }
        assert_eq!(Verdict::from(with("7", None)).answer, json!({"data": "7"}), "a text, as clients see it");
        assert_eq!(Verdict::from(with("a\nb", None)).brief(), r"a\nb");
    }
}
