//! A duration as people write it on a command line.

use std::str::FromStr;
use std::time::Duration;

/// A duration of at least a second and at most ten years, written `90s`, `15m`, `1h` or `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime(Duration);

/// Why a text is no lifetime.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be a number and a unit (90s, 15m, 1h, 7d), at least 1s and at most 3650d")]
pub struct InvalidLifetime;

const MAX_SECONDS: u64 = 3_650 * 86_400;

impl Lifetime {
    /// One hour.
    pub const HOUR: Self = Self(Duration::from_secs(3_600));

    /// The duration.
    pub fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for Lifetime {
    type Err = InvalidLifetime;

    fn from_str(text: &str) -> Result<Self, InvalidLifetime> {
        let digits_end = text.find(|c: char| !c.is_ascii_digit()).ok_or(InvalidLifetime)?;
        let (digits, unit) = text.split_at(digits_end);
        let seconds_each = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return Err(InvalidLifetime),
        };
        let count: u64 = digits.parse().map_err(|_| InvalidLifetime)?;
        let seconds = count.checked_mul(seconds_each).filter(|seconds| (1..=MAX_SECONDS).contains(seconds));
        seconds.map(|seconds| Self(Duration::from_secs(seconds))).ok_or(InvalidLifetime)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_have_a_unit_and_an_end() {
        let seconds = |text: &str| text.parse::<Lifetime>().map(|lifetime| lifetime.duration().as_secs());
        assert_eq!(seconds("90s"), Ok(90));
        assert_eq!(seconds("15m"), Ok(900));
        assert_eq!(seconds("1h"), Ok(3_600));
        assert_eq!(seconds("3650d"), Ok(MAX_SECONDS));
        for bad in ["", "1", "0s", "h", "-1h", "1w", "1h30m", "3651d", "99999999999999999999s"] {
            assert_eq!(seconds(bad), Err(InvalidLifetime), "{bad}");
        }
    }
}
