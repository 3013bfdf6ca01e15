//! The pause before the next connection: full jitter, so that clients cut off together come back apart.

use std::time::Duration;

/// Doubles its range from try to try, up to a cap.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    range: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { range: Duration::from_millis(250) }
    }
}

impl Backoff {
    const CAP: Duration = Duration::from_secs(30);

    /// The next pause: anywhere from nothing to the whole range.
    pub(super) fn next(&mut self) -> Duration {
        let pause = self.range.mul_f64(rand::random_range(0.0..=1.0));
        self.range = (self.range * 2).min(Self::CAP);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_cap() {
        let mut backoff = Backoff::default();
        for _ in 0..20 {
            assert!(backoff.next() <= Backoff::CAP);
        }
        assert_eq!(backoff.range, Backoff::CAP);
    }
}
