//! Where a reader stands in a channel's log.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A publication's place in its channel's log: its Redis stream id, `<ms>-<seq>`.
///
/// Ids only grow within a stream. `0-0` stands before every entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Offset {
    /// Milliseconds since the Unix epoch, by the backbone's clock.
    pub ms: u64,
    /// Counts entries within one millisecond.
    pub seq: u64,
}

impl Offset {
    /// Before every entry.
    pub const ZERO: Self = Self { ms: 0, seq: 0 };
    /// At or after every entry.
    pub const MAX: Self = Self { ms: u64::MAX, seq: u64::MAX };

    /// The smallest offset above this one (`MAX` stays).
    pub fn next(self) -> Self {
        match self.seq.checked_add(1) {
            Some(seq) => Self { ms: self.ms, seq },
            None => match self.ms.checked_add(1) {
                Some(ms) => Self { ms, seq: 0 },
                None => Self::MAX,
            },
        }
    }

    /// The largest offset below this one (`ZERO` stays).
    pub fn prev(self) -> Self {
        match self.seq.checked_sub(1) {
            Some(seq) => Self { ms: self.ms, seq },
            None => match self.ms.checked_sub(1) {
                Some(ms) => Self { ms, seq: u64::MAX },
                None => Self::ZERO,
            },
        }
    }
}

/// The text is no stream id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an offset: write it as milliseconds-sequence, for example \"1763769600000-0\"")]
pub struct InvalidOffset(String);

impl FromStr for Offset {
    type Err = InvalidOffset;

    fn from_str(text: &str) -> Result<Self, InvalidOffset> {
        fn number(digits: &str) -> Option<u64> {
            // `u64::from_str` would take a leading '+'.
            digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
        }
        text.split_once('-')
            .and_then(|(ms, seq)| Some(Self { ms: number(ms)?, seq: number(seq)? }))
            .ok_or_else(|| InvalidOffset(text.chars().take(60).collect()))
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

impl fmt::Debug for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One life of a backbone master's data: 64 random bits, written in hexadecimal.
///
/// It changes when data may have been lost, so an offset means what it says only together with it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub u64);

impl Epoch {
    /// A new life.
    pub fn random() -> Self {
        Self(rand::random())
    }
}

impl FromStr for Epoch {
    type Err = InvalidEpoch;

    fn from_str(text: &str) -> Result<Self, InvalidEpoch> {
        let valid = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let digits = valid.then(|| u64::from_str_radix(text, 16).ok()).flatten();
        digits.map(Self).ok_or_else(|| InvalidEpoch(text.chars().take(60).collect()))
    }
}

/// The text is no epoch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an epoch: use the 16 hexadecimal digits that the server sent")]
pub struct InvalidEpoch(String);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An offset together with the epoch it was read in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    /// Everything at or below this offset lies behind the reader.
    pub offset: Offset,
    /// The life of the data in which that was so.
    pub epoch: Epoch,
}

/// Serde as text, through the parsers above.
macro_rules! serde_as_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
serde_as_text!(Offset, Epoch);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_read_and_write_as_stream_ids() {
        assert_eq!("5-7".parse(), Ok(Offset { ms: 5, seq: 7 }));
        assert_eq!(Offset { ms: 5, seq: 7 }.to_string(), "5-7");
        for bad in ["", "5", "5-", "-7", "+5-1", "5-7-9", "18446744073709551616-0"] {
            assert!(bad.parse::<Offset>().is_err(), "{bad}");
        }
    }

    #[test]
    fn neighbours_meet() {
        let last_of_ms = Offset { ms: 5, seq: u64::MAX };
        assert_eq!(last_of_ms.next(), Offset { ms: 6, seq: 0 });
        assert_eq!(last_of_ms.next().prev(), last_of_ms);
        assert_eq!(Offset::ZERO.prev(), Offset::ZERO);
        assert_eq!(Offset::MAX.next(), Offset::MAX);
    }

    #[test]
    fn epochs_read_back() {
        let epoch = Epoch(0x12ab);
        assert_eq!(epoch.to_string().parse(), Ok(epoch));
        assert!("12ab".parse::<Epoch>().is_err());
    }
}
