//! Dead letters: messages that were given up, in `tg:<tenant>:dlq`, with what it takes to send them again.
//!
//! Whoever gives a message up makes its letter here, and whoever sends it again reads it here, so the
//! two agree. What a letter says of itself stands beside the fields of the message, which keep their
//! names but for the publisher's: `user` is whom the message did not reach.

use bytes::Bytes;

use crate::backbone::{Addition, Once};
use crate::domain::{ChannelName, Offset, Publication, RawEntry, StreamKey, TenantId};

/// Why a message was given up: the word in the letter's field `reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It was delivered as often as allowed and never acknowledged.
    Attempts,
    /// An ingress entry that makes no sense.
    BadEntry,
    /// A target that is no channel's name.
    BadChannel,
    /// A target in a namespace that the tenant does not have.
    UnknownNamespace,
    /// The channel's key holds something else than a stream.
    WrongType,
    /// An entry of a queue whose payload is larger than allowed.
    TooLarge,
    /// The queue stayed full.
    Full,
    /// The backbone refused it otherwise.
    Refused,
}

impl Reason {
    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Attempts => "attempts",
            Self::BadEntry => "bad_entry",
            Self::BadChannel => "bad_channel",
            Self::UnknownNamespace => "unknown_namespace",
            Self::WrongType => "wrong_type",
            Self::TooLarge => "too_large",
            Self::Full => "full",
            Self::Refused => "refused",
        }
    }
}

/// A letter: its fields in the order they are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    fields: Vec<(Bytes, Bytes)>,
}

/// Fields of a message, by their names in a letter and in a log.
const MESSAGE: [(&str, &str); 9] = [
    ("data", "data"),
    ("headers", "headers"),
    ("id", "id"),
    ("key", "key"),
    ("ttl_ms", "ttl_ms"),
    ("spread_ms", "spread_ms"),
    ("traceparent", "traceparent"),
    ("publisher", "user"),
    ("publisher_session", "session"),
];

/// Bytes of an entry's fields that a letter keeps; what does not fit is named in `left_out`.
const KEPT_BYTES: usize = 256 * 1024;
/// Bytes of a target's name that a letter keeps, where it is no channel's.
const NAME_BYTES: usize = 256;

impl DeadLetter {
    /// A message of a channel that is given up there.
    pub fn of(channel: &ChannelName, message: &Publication, reason: Reason) -> Self {
        let mut letter = Self { fields: Vec::with_capacity(12) };
        letter.say("channel", channel.as_str().to_owned());
        letter.say("offset", message.offset.to_string());
        letter.say("reason", reason.word());
        letter.keep(&message.clone().into_fields());
        letter
    }

    /// An entry of a channel that makes no message, where it must not stay.
    pub fn of_raw(channel: &ChannelName, entry: &RawEntry, reason: Reason) -> Self {
        let mut letter = Self { fields: Vec::with_capacity(12) };
        letter.say("channel", channel.as_str().to_owned());
        letter.say("offset", entry.offset.to_string());
        letter.say("reason", reason.word());
        letter.keep(&entry.fields);
        letter
    }

    /// A target of an ingress entry that does not get its message. The fields are the message's.
    pub fn of_target(channel: &str, ingress: Offset, message: &[(Bytes, Bytes)], reason: Reason) -> Self {
        let mut letter = Self { fields: Vec::with_capacity(12) };
        letter.say("channel", start_of(channel));
        letter.say("in", ingress.to_string());
        letter.say("reason", reason.word());
        letter.keep(message);
        letter
    }

    /// An ingress entry that makes no sense as a whole, with `to` as it stood there.
    pub fn of_entry(entry: &RawEntry) -> Self {
        let mut letter = Self { fields: Vec::with_capacity(12) };
        letter.say("in", entry.offset.to_string());
        letter.say("reason", Reason::BadEntry.word());
        letter.keep(&entry.fields);
        letter
    }

    /// Whom it did not reach.
    #[must_use]
    pub fn for_user(mut self, user: &str, device: Option<&str>) -> Self {
        self.say("user", user.to_owned());
        if let Some(device) = device {
            self.say("device", device.to_owned());
        }
        self
    }

    /// How often it was tried.
    #[must_use]
    pub fn after_attempts(mut self, attempts: u8) -> Self {
        self.say("attempts", attempts.to_string());
        self
    }

    /// The reason in plain words, for people.
    #[must_use]
    pub fn because(mut self, error: impl Into<String>) -> Self {
        self.say("error", error.into());
        self
    }

    /// The entry to add to the tenant's dead letters.
    pub fn into_addition(self, tenant: &TenantId, once: Option<Once>) -> Addition {
        Addition { stream: StreamKey::dead_letters(tenant), fields: self.fields, once, refuse_at: None }
    }

    /// A letter as it was found.
    pub fn from_entry(entry: RawEntry) -> Self {
        Self { fields: entry.fields }
    }

    /// A field's value.
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value)
    }

    /// A field as text, where it is text.
    pub fn text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.get(name)?).ok()
    }

    /// The message as it goes to a log again, under a new idempotency key: by its own one it might be
    /// taken for the entry that was given up. A time to live begins anew.
    pub fn message(&self, id: &str) -> Vec<(Bytes, Bytes)> {
        let mut fields = Vec::with_capacity(8);
        for (kept, name) in MESSAGE.into_iter().filter(|(_, name)| *name != "id") {
            fields.extend(self.get(kept).map(|value| (name.into(), value.clone())));
        }
        fields.push(("id".into(), id.to_owned().into()));
        fields
    }

    fn say(&mut self, name: &'static str, value: impl Into<Bytes>) {
        self.fields.push((name.into(), value.into()));
    }

    /// Keeps the fields of a message, and `to`, as far as they fit.
    fn keep(&mut self, fields: &[(Bytes, Bytes)]) {
        let mut room = KEPT_BYTES;
        let mut left_out = Vec::new();
        for (kept, name) in MESSAGE.into_iter().chain([("to", "to")]) {
            let Some((_, value)) = fields.iter().find(|(field, _)| field == name) else { continue };
            match room.checked_sub(value.len()) {
                Some(rest) => {
                    room = rest;
                    self.say(kept, value.clone());
                }
                None => left_out.push(format!("{name} ({} bytes)", value.len())),
            }
        }
        if !left_out.is_empty() {
            self.say("left_out", left_out.join(", "));
        }
    }
}

fn start_of(name: &str) -> String {
    let end = (0..=NAME_BYTES.min(name.len())).rev().find(|at| name.is_char_boundary(*at));
    name[..end.unwrap_or(0)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&'static str, &'static str)]) -> Vec<(Bytes, Bytes)> {
        pairs.iter().map(|(name, value)| (Bytes::from(*name), Bytes::from(*value))).collect()
    }

    #[test]
    fn a_message_comes_back_as_it_was_but_for_its_id() {
        let entry = RawEntry {
            offset: Offset { ms: 5, seq: 1 },
            fields: fields(&[
                ("data", "hi"),
                ("headers", r#"{"a":"b"}"#),
                ("id", "order-1"),
                ("key", "k"),
                ("user", "publisher"),
                ("session", "s"),
                ("traceparent", "00-1-2-01"),
                ("ttl_ms", "50"),
                ("spread_ms", "7"),
            ]),
        };
        let message = Publication::from_entry(&entry, 10).unwrap();
        let channel = ChannelName::parse("user:alice").unwrap();
        let letter = DeadLetter::of(&channel, &message, Reason::Attempts)
            .for_user("alice", Some("phone"))
            .after_attempts(5);
        for (name, value) in [
            ("channel", "user:alice"),
            ("offset", "5-1"),
            ("reason", "attempts"),
            ("user", "alice"),
            ("device", "phone"),
            ("attempts", "5"),
            ("data", "hi"),
            ("id", "order-1"),
        ] {
            assert_eq!(letter.text(name), Some(value), "{name}");
        }
        let again = RawEntry { offset: entry.offset, fields: letter.message("dlq-9-0") };
        let again = Publication::from_entry(&again, 10).unwrap();
        assert_eq!(again, Publication { id: Some("dlq-9-0".into()), ..message });
    }

    #[test]
    fn what_is_too_large_to_keep_is_named() {
        let entry = RawEntry {
            offset: Offset { ms: 5, seq: 1 },
            fields: vec![
                ("data".into(), vec![b'x'; KEPT_BYTES + 1].into()),
                ("to".into(), "room:1".into()),
                ("else".into(), "?".into()),
            ],
        };
        let letter = DeadLetter::of_entry(&entry);
        assert_eq!(letter.text("left_out"), Some("data (262145 bytes)"));
        assert_eq!((letter.text("to"), letter.get("data"), letter.get("else")), (Some("room:1"), None, None));
        let letter = DeadLetter::of_target(&"é".repeat(200), entry.offset, &[], Reason::BadChannel);
        assert_eq!(letter.text("channel"), Some("é".repeat(128).as_str()));
    }
}
