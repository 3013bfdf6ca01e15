//! The backbone's time, as this node believes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds of the backbone's clock: this machine's plus a measured difference.
///
/// Age, time to live, leases and membership use it, so that nodes with wrong clocks agree.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    ahead_ms: Arc<AtomicI64>,
}

impl Clock {
    /// Milliseconds since the Unix epoch by the backbone's clock.
    pub fn now_ms(&self) -> u64 {
        local_ms().saturating_add_signed(self.ahead_ms.load(Ordering::Relaxed))
    }

    /// Takes a measurement: the backbone said `backbone_ms`, asked at `asked_ms` and answered at
    /// `answered_ms` of [`local_ms`]. The middle of the round trip is taken for the moment of its clock.
    pub fn measured(&self, backbone_ms: u64, asked_ms: u64, answered_ms: u64) {
        let middle = asked_ms.midpoint(answered_ms);
        self.ahead_ms.store(backbone_ms.wrapping_sub(middle) as i64, Ordering::Relaxed);
    }
}

/// Milliseconds since the Unix epoch by this machine's clock.
pub fn local_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_is_kept_both_ways() {
        for ahead in [5_000_000_i64, -5_000_000] {
            let clock = Clock::default();
            let local = local_ms();
            clock.measured(local.saturating_add_signed(ahead), local, local);
            let now = i64::try_from(clock.now_ms()).unwrap() - i64::try_from(local_ms()).unwrap();
            assert!((now - ahead).abs() < 1_000, "{now} {ahead}");
        }
    }
}
