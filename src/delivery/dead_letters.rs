//! Dead letters: messages that were given up, in `tg:<tenant>:dlq`, with all it takes to send them again.
//!
//! Whoever gives a message up makes its letter here, and whoever sends it again reads it here, so the
//! two agree: first what the letter says of itself, then the fields of the entry.

use bytes::Bytes;

use crate::domain::{Offset, RawEntry};

/// Why a message was given up, and for whom. Its fields come first; whoever puts the message back takes
/// what comes after them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadLetter<'a> {
    /// Where it stood, and where it belongs if it is tried again. Empty for an ingress entry that makes
    /// no sense: it belongs to the ingress.
    pub channel: &'a str,
    /// Its place there; [`Offset::ZERO`] where it never had one.
    pub offset: Offset,
    /// The ingress entry, where it came no further.
    pub ingress: Option<Offset>,
    /// For whom it was given up, where that is one user.
    pub user: Option<&'a str>,
    /// That user's device.
    pub device: Option<&'a str>,
    /// One word.
    pub reason: &'a str,
    /// The same in plain words, for people.
    pub error: Option<&'a str>,
    /// How often it was tried.
    pub attempts: u8,
}

/// Names that are the letter's own.
const OWN: [&str; 9] = ["channel", "offset", "in", "user", "device", "reason", "error", "attempts", LEFT_OUT];
/// Stands before the name of an entry's field that is called as one of the letter's.
const OF_ENTRY: &str = "entry_";
/// Names the fields that were too large to keep. Such a letter cannot be sent again.
const LEFT_OUT: &str = "left_out";

/// Bytes of an entry that a letter keeps: a payload of 64 KiB and ten thousand targets among them.
const KEPT_BYTES: usize = 512 * 1024;
/// Bytes of a target's name that a letter keeps, where it is no channel's.
const NAME_BYTES: usize = 256;

impl DeadLetter<'_> {
    /// The fields to add: the letter's, then those of the entry, so that it can be put back as it was. One
    /// of the entry's that bears a name of the letter's has `entry_` before it.
    pub fn into_fields(self, entry: impl IntoIterator<Item = (Bytes, Bytes)>) -> Vec<(Bytes, Bytes)> {
        let mut fields = Vec::with_capacity(12);
        let mut say = |name: &'static str, value: &str| {
            fields.push((Bytes::from_static(name.as_bytes()), Bytes::copy_from_slice(value.as_bytes())));
        };
        if !self.channel.is_empty() {
            say("channel", start_of(self.channel));
        }
        if self.offset != Offset::ZERO {
            say("offset", &self.offset.to_string());
        }
        if let Some(ingress) = self.ingress {
            say("in", &ingress.to_string());
        }
        for (name, value) in [("user", self.user), ("device", self.device)] {
            if let Some(value) = value {
                say(name, value);
            }
        }
        say("reason", self.reason);
        if let Some(error) = self.error {
            say("error", error);
        }
        say("attempts", &self.attempts.to_string());
        keep(&mut fields, entry);
        fields
    }
}

/// Keeps an entry's fields as far as there is room.
fn keep(fields: &mut Vec<(Bytes, Bytes)>, entry: impl IntoIterator<Item = (Bytes, Bytes)>) {
    let mut room = KEPT_BYTES;
    let mut left_out = Vec::new();
    for (name, value) in entry {
        match room.checked_sub(name.len() + value.len()) {
            Some(rest) => {
                room = rest;
                let name =
                    if is_own(&name) { Bytes::from([OF_ENTRY.as_bytes(), &name].concat()) } else { name };
                fields.push((name, value));
            }
            None => {
                let name = String::from_utf8_lossy(&name).chars().take(80).collect::<String>();
                left_out.push(format!("{name} ({} bytes)", value.len()));
            }
        }
    }
    if !left_out.is_empty() {
        left_out.truncate(10);
        fields.push((Bytes::from_static(LEFT_OUT.as_bytes()), left_out.join(", ").into()));
    }
}

fn is_own(name: &[u8]) -> bool {
    OWN.iter().any(|own| own.as_bytes() == name)
}

fn start_of(name: &str) -> &str {
    let end = (0..=NAME_BYTES.min(name.len())).rev().find(|at| name.is_char_boundary(*at));
    &name[..end.unwrap_or(0)]
}

/// A letter as it stands in the stream.
#[derive(Debug, Clone)]
pub struct Letter {
    entry: RawEntry,
}

impl Letter {
    /// The letter in an entry. Whatever is missing is none.
    pub fn new(entry: RawEntry) -> Self {
        Self { entry }
    }

    /// Its place among the dead letters.
    pub fn offset(&self) -> Offset {
        self.entry.offset
    }

    /// All fields, names and values.
    pub fn all(&self) -> &[(Bytes, Bytes)] {
        &self.entry.fields
    }

    /// How much it holds.
    pub fn bytes(&self) -> usize {
        self.entry.fields.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    /// A field's value.
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.entry.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value)
    }

    /// A field as text, where it is text.
    pub fn text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.get(name)?).ok()
    }

    /// The fields that were too large to keep.
    pub fn left_out(&self) -> Option<&str> {
        self.text(LEFT_OUT)
    }

    /// The idempotency key under which its message is sent again.
    pub fn retry_id(&self) -> String {
        format!("dlq-{}", self.entry.offset)
    }

    /// The entry's fields, to be sent again under [`Letter::retry_id`]: by its own key it might be taken
    /// for the entry that was given up, which may still be in the log. A time to live begins anew.
    pub fn fields(&self) -> Vec<(Bytes, Bytes)> {
        let of_entry = self.entry.fields.iter().filter(|(name, _)| !is_own(name) && name != "id");
        let restored = of_entry.filter_map(|(name, value)| {
            let name = match name.strip_prefix(OF_ENTRY.as_bytes()) {
                // Where it came from says nothing of the new entry.
                Some(b"in") => return None,
                Some(own) if is_own(own) => name.slice(OF_ENTRY.len()..),
                _ => name.clone(),
            };
            Some((name, value.clone()))
        });
        restored.chain([("id".into(), self.retry_id().into())]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&'static str, &'static str)]) -> Vec<(Bytes, Bytes)> {
        pairs.iter().map(|(name, value)| (Bytes::from(*name), Bytes::from(*value))).collect()
    }

    fn letter(fields: Vec<(Bytes, Bytes)>) -> Letter {
        Letter::new(RawEntry::new(Offset { ms: 9, seq: 0 }, fields))
    }

    #[test]
    fn a_message_comes_back_as_it_was_but_for_its_id() {
        let entry =
            [("data", "x"), ("user", "alice"), ("id", "order-1"), ("key", "k"), ("in", "4-0"), ("mine", "1")];
        let written = DeadLetter {
            channel: "queue:1",
            offset: Offset { ms: 5, seq: 1 },
            user: Some("bob"),
            reason: "attempts",
            attempts: 5,
            ..DeadLetter::default()
        }
        .into_fields(fields(&entry));
        let wanted = [
            ("channel", "queue:1"),
            ("offset", "5-1"),
            ("user", "bob"),
            ("reason", "attempts"),
            ("attempts", "5"),
            ("data", "x"),
            ("entry_user", "alice"),
            ("id", "order-1"),
            ("key", "k"),
            ("entry_in", "4-0"),
            ("mine", "1"),
        ];
        assert_eq!(written, fields(&wanted));
        let again = [("data", "x"), ("user", "alice"), ("key", "k"), ("mine", "1"), ("id", "dlq-9-0")];
        assert_eq!(letter(written).fields(), fields(&again));
    }

    #[test]
    fn what_is_too_large_to_keep_is_named() {
        let mut entry = fields(&[("to", "room:1")]);
        entry.push(("data".into(), vec![b'x'; KEPT_BYTES].into()));
        let written = DeadLetter { reason: "bad_entry", ..DeadLetter::default() }.into_fields(entry);
        let letter = letter(written);
        assert_eq!(letter.left_out(), Some("data (524288 bytes)"));
        assert_eq!(
            (letter.text("to"), letter.get("data"), letter.get("channel")),
            (Some("room:1"), None, None)
        );
        assert_eq!(start_of(&"é".repeat(200)), "é".repeat(128));
    }
}
