//! What a channel's log may hold at most, so that it is trimmed when it has grown, not at every message.

use crate::backbone::Tail;
use crate::domain::{Offset, Retention};

/// A log trimmed to `n` may grow by an `n / SLACK` before it is trimmed again, and its oldest entry may
/// get older by as much. Trimming is approximate in Redis by more than that.
const SLACK: u64 = 10;

/// Bounds on a watched channel's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Retained {
    /// No more entries than this.
    most: u64,
    /// No entry is older than this.
    oldest_ms: u64,
    /// No more bytes of payloads than this.
    bytes: u64,
    /// Entries came since the log was trimmed last.
    grown: bool,
}

impl Retained {
    /// A log that was just opened. One whose count is not known is taken to be too long.
    pub(super) fn opened(tail: &Tail) -> Self {
        let most = tail.added.unwrap_or(u64::MAX);
        let bytes = if most == 0 { 0 } else { u64::MAX };
        Self { most, oldest_ms: tail.first.map_or(u64::MAX, |first| first.ms), bytes, grown: true }
    }

    /// Entries came, the first of them at this offset, with so many bytes together.
    pub(super) fn grew(&mut self, first: Offset, entries: usize, bytes: usize) {
        self.most = self.most.saturating_add(entries as u64);
        self.bytes = self.bytes.saturating_add(bytes as u64);
        self.oldest_ms = self.oldest_ms.min(first.ms);
        self.grown = true;
    }

    /// The smallest offset to keep, where the log is to be trimmed now; it counts as trimmed then. Of the
    /// nodes that watch it one is `named` to trim it; it may not be among them, so another does it where
    /// the log has twice of what it may have.
    pub(super) fn trim(&mut self, keep: Retention, now_ms: u64, named: bool) -> Option<Offset> {
        let beyond = |limit: u64| limit.saturating_add(if named { limit / SLACK } else { limit });
        let long = self.most > beyond(keep.max_len);
        let old = self.oldest_ms < now_ms.saturating_sub(beyond(keep.max_age_ms));
        let heavy = keep.max_bytes.is_some_and(|most| self.bytes > beyond(most));
        if !self.grown || !(long || old || heavy) {
            return None;
        }
        let min_ms = now_ms.saturating_sub(keep.max_age_ms);
        self.most = self.most.min(keep.max_len);
        self.oldest_ms = self.oldest_ms.max(min_ms);
        self.bytes = self.bytes.min(keep.max_bytes.unwrap_or(u64::MAX));
        self.grown = false;
        Some(Offset { ms: min_ms, seq: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Epoch;

    const KEEP: Retention = Retention { max_len: 100, max_age_ms: 10_000, max_bytes: None };

    fn opened(added: Option<u64>) -> Retained {
        let first = added.filter(|added| *added > 0).map(|_| Offset { ms: 50_000, seq: 0 });
        let last = first.unwrap_or(Offset::ZERO);
        Retained::opened(&Tail { last, first, added, epoch: Epoch(1) })
    }

    fn at(ms: u64) -> Offset {
        Offset { ms, seq: 0 }
    }

    #[test]
    fn a_log_is_trimmed_once_it_has_grown_past_the_slack() {
        let mut log = opened(Some(0));
        let mut trims = 0;
        for _ in 0..1_000 {
            log.grew(at(60_000), 1, 50);
            trims += u32::from(log.trim(KEEP, 60_000, true).is_some());
        }
        // First after 111 entries, then after 11 more each time.
        assert_eq!(trims, 1 + (1_000 - 111) / 11);
    }

    #[test]
    fn a_log_is_trimmed_once_its_oldest_entry_is_past_the_slack() {
        let mut log = opened(Some(0));
        log.grew(at(60_000), 1, 50);
        assert_eq!(log.trim(KEEP, 71_000, true), None);
        assert_eq!(log.trim(KEEP, 71_001, true), Some(at(61_001)));
        assert_eq!(log.trim(KEEP, 99_000, true), None, "nothing came since");
        log.grew(at(99_000), 1, 50);
        assert_eq!(log.trim(KEEP, 99_000, true), Some(at(89_000)));
    }

    #[test]
    fn what_was_there_before_counts() {
        assert_eq!(opened(Some(100)).trim(KEEP, 50_000, true), None);
        assert!(opened(Some(111)).trim(KEEP, 50_000, true).is_some());
        assert!(opened(None).trim(KEEP, 50_000, true).is_some());
        assert!(opened(Some(1)).trim(KEEP, 70_000, true).is_some());
    }

    #[test]
    fn a_log_is_trimmed_once_its_payloads_are_past_the_slack() {
        let keep = Retention { max_bytes: Some(1_000), ..KEEP };
        let mut log = opened(Some(0));
        log.grew(at(60_000), 22, 1_100);
        assert_eq!(log.trim(keep, 60_000, true), None);
        log.grew(at(60_000), 1, 1);
        assert!(log.trim(keep, 60_000, true).is_some());
        log.grew(at(60_000), 1, 100);
        assert_eq!(log.trim(keep, 60_000, true), None);
        assert!(opened(Some(1)).trim(keep, 50_000, true).is_some(), "nobody knows what was there");
    }

    #[test]
    fn who_is_not_named_trims_only_what_is_far_too_much() {
        let mut log = opened(Some(0));
        log.grew(at(60_000), 200, 50);
        assert_eq!(log.trim(KEEP, 60_000, false), None);
        assert_eq!(log.trim(KEEP, 80_000, false), None);
        assert!(log.trim(KEEP, 80_001, false).is_some());
        log.grew(at(90_000), 101, 50);
        assert!(log.trim(KEEP, 90_000, false).is_some());
    }
}
