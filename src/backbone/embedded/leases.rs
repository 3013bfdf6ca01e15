//! Leases by key, which end by the clock.

use std::collections::BTreeMap;
use std::time::Duration;

/// Who has which lease until when. Leases that ended are dropped whenever one is taken.
#[derive(Debug, Default)]
pub(super) struct Leases {
    held: BTreeMap<String, (String, u64)>,
}

impl Leases {
    /// Takes or renews a lease; whether the holder has it now.
    pub(super) fn take(&mut self, key: &str, holder: &str, ttl: Duration, now_ms: u64) -> bool {
        self.held.retain(|_, (_, until_ms)| *until_ms > now_ms);
        if self.held.get(key).is_some_and(|(other, _)| other != holder) {
            return false;
        }
        let until_ms = now_ms.saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        self.held.insert(key.to_owned(), (holder.to_owned(), until_ms));
        true
    }

    /// Gives a lease up.
    pub(super) fn release(&mut self, key: &str, holder: &str) {
        if self.held.get(key).is_some_and(|(other, _)| other == holder) {
            self.held.remove(key);
        }
    }
}
