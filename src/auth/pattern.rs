//! Which channels a token lists.

use crate::domain::{ChannelName, InvalidName};

/// An item of a token's `channels` claim: one channel, or all that begin alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelPattern {
    /// `room:1`: this channel.
    Exact(ChannelName),
    /// `room:team-7-*`: every channel of the namespace that begins so; `room:*` is all of them.
    Prefix(Box<str>),
}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}; a `*` at the end, after the `:`, stands for anything")]
pub struct InvalidPattern(InvalidName);

impl ChannelPattern {
    /// Parses a pattern.
    pub fn parse(text: &str) -> Result<Self, InvalidPattern> {
        let Some(prefix) = text.strip_suffix('*') else {
            return ChannelName::parse(text).map(Self::Exact).map_err(InvalidPattern);
        };
        // `room:` alone is no channel but the beginning of some: with one more letter it must be one.
        ChannelName::parse(&format!("{prefix}0")).map_err(InvalidPattern)?;
        Ok(Self::Prefix(prefix.into()))
    }

    /// Whether the pattern covers a channel.
    pub fn matches(&self, channel: &ChannelName) -> bool {
        match self {
            Self::Exact(exact) => exact == channel,
            Self::Prefix(prefix) => channel.as_str().starts_with(&**prefix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_cover_a_channel_or_a_beginning() {
        let covers = |pattern: &str, channel: &str| {
            ChannelPattern::parse(pattern).unwrap().matches(&ChannelName::parse(channel).unwrap())
        };
        assert!(covers("room:1", "room:1"));
        assert!(!covers("room:1", "room:12"));
        assert!(covers("room:1*", "room:12"));
        assert!(covers("room:*", "room:1"));
        assert!(!covers("room:*", "rooms:1"));
        assert!(covers("room:a:*", "room:a:b"));
    }

    #[test]
    fn a_star_reaches_no_namespace() {
        for bad in ["*", "room*", "ro*m:1", "*:1", "room:*1", "room:**", "", ":*", "Room:*"] {
            assert!(ChannelPattern::parse(bad).is_err(), "{bad}");
        }
    }
}
