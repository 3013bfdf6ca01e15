//! Offsets as the protocol writes them.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, Error, Result};

/// A Redis stream id, `<ms>-<seq>`; `0-0` stands before every entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Offset {
    /// Milliseconds since the Unix epoch, by Redis.
    pub ms: u64,
    /// Counts entries within one millisecond.
    pub seq: u64,
}

impl Offset {
    /// Before every entry.
    pub const ZERO: Self = Self { ms: 0, seq: 0 };
    /// After every entry.
    pub const MAX: Self = Self { ms: u64::MAX, seq: u64::MAX };
}

impl FromStr for Offset {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (ms, seq) = text.split_once('-').with_context(|| format!("{text:?} is not an offset"))?;
        Ok(Self { ms: ms.parse()?, seq: seq.parse()? })
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
