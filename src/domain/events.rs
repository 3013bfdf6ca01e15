//! What a tenant's backends are told of its sessions. Configuration parses into these values.

use std::fmt;
use std::str::FromStr;

/// A kind of session event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A connection has a session: a new one, or one that was kept for it.
    Connected,
    /// A connection is over, or a session that waited for its client is.
    Disconnected,
    /// A session takes part in a channel.
    Subscribed,
    /// A session has left a channel.
    Unsubscribed,
    /// A user did not get messages of the own channel, because nobody of the user's was there.
    Undelivered,
}

impl EventKind {
    /// Every kind, in the order of their declaration.
    pub const ALL: &'static [Self] =
        &[Self::Connected, Self::Disconnected, Self::Subscribed, Self::Unsubscribed, Self::Undelivered];

    /// The kind in configuration, in the field `event`, and as the metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::Subscribed => "subscribed",
            Self::Unsubscribed => "unsubscribed",
            Self::Undelivered => "undelivered",
        }
    }
}

/// Why a text is no kind of event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be one of {}", words())]
pub struct UnknownEvent;

fn words() -> String {
    let words: Vec<_> = EventKind::ALL.iter().map(|kind| format!("{:?}", kind.label())).collect();
    words.join(", ")
}

impl FromStr for EventKind {
    type Err = UnknownEvent;

    fn from_str(text: &str) -> Result<Self, UnknownEvent> {
        Self::ALL.iter().copied().find(|kind| kind.label() == text).ok_or(UnknownEvent)
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// How entries of `up` look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EventFormat {
    /// A field for each value.
    #[default]
    Plain,
    /// `data`, and CloudEvents 1.0 attributes in `headers`.
    CloudEvents,
}

/// Which events a tenant wants, and how.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventRules {
    /// The kinds; none by default.
    pub kinds: Vec<EventKind>,
    /// How they look, and what clients send with them.
    pub format: EventFormat,
    /// Whether `connected` tells the client's address.
    pub address: bool,
}

impl EventRules {
    /// Whether the tenant wants events of this kind.
    pub fn has(&self, kind: EventKind) -> bool {
        self.kinds.contains(&kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_goes_by_its_word() {
        for (place, kind) in EventKind::ALL.iter().enumerate() {
            assert_eq!(kind.label().parse(), Ok(*kind));
            assert_eq!(*kind as usize, place);
        }
        let error = "online".parse::<EventKind>().unwrap_err().to_string();
        assert!(error.contains("\"connected\", \"disconnected\""), "{error}");
    }
}
