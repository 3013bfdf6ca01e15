//! Cuts a plugin off that keeps failing: its calls fail at once, and now and then one is let through.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What a failure adds. A success takes one away, so that a plugin is cut off in the long run that fails more
/// than once in ten calls.
const FAILURE: u32 = 10;
/// At so much it is cut off: after twenty failures in a row.
const CUT_OFF: u32 = 200;
/// How long at first, and at most, in milliseconds.
const FIRST_MS: u64 = 1_000;
const LONGEST_MS: u64 = 60_000;

/// One plugin's breaker. Time is handed in, in milliseconds of any clock that does not go back.
#[derive(Debug, Default)]
pub struct Breaker {
    score: AtomicU32,
    /// Not before this is the next call let through; 0: not cut off.
    until_ms: AtomicU64,
    /// How long the next pause is.
    pause_ms: AtomicU64,
}

impl Breaker {
    /// Whether a call may be made now.
    pub fn lets_through(&self, now_ms: u64) -> bool {
        let until = self.until_ms.load(Ordering::Relaxed);
        if until == 0 {
            return true;
        }
        if now_ms < until {
            return false;
        }
        // One call finds out whether it works again; who asks meanwhile waits for another pause, twice as long.
        let pause = self.pause_ms.load(Ordering::Relaxed).max(FIRST_MS);
        let next = now_ms.saturating_add(pause);
        let mine = self.until_ms.compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if mine {
            self.pause_ms.store((pause * 2).min(LONGEST_MS), Ordering::Relaxed);
        }
        mine
    }

    /// Whether it is cut off, a trial now and then apart.
    pub fn is_open(&self) -> bool {
        self.until_ms.load(Ordering::Relaxed) != 0
    }

    /// A call had an answer.
    pub fn succeeded(&self) {
        let score = self.score.load(Ordering::Relaxed);
        if score == 0 {
            return;
        }
        if self.is_open() {
            self.until_ms.store(0, Ordering::Relaxed);
            self.pause_ms.store(0, Ordering::Relaxed);
            self.score.store(0, Ordering::Relaxed);
        } else {
            // A lost race forgets a success, which harms nobody.
            self.score.store(score - 1, Ordering::Relaxed);
        }
    }

    /// A call failed by the plugin's fault; whether that has cut it off just now.
    pub fn failed(&self, now_ms: u64) -> bool {
        let score = self.score.fetch_add(FAILURE, Ordering::Relaxed).saturating_add(FAILURE);
        if score < CUT_OFF {
            return false;
        }
        // So that it does not overflow.
        self.score.store(CUT_OFF, Ordering::Relaxed);
        // One that is cut off already: a trial, which has set the next pause, or a call that was under way.
        let until = now_ms.saturating_add(FIRST_MS).max(1);
        let is_first = self.until_ms.compare_exchange(0, until, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_first {
            self.pause_ms.store(2 * FIRST_MS, Ordering::Relaxed);
        }
        is_first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_cut_off_and_one_success_lets_in_again() {
        let breaker = Breaker::default();
        for _ in 0..19 {
            assert!(!breaker.failed(0));
        }
        assert!(breaker.lets_through(0) && breaker.failed(0), "the twentieth cuts it off");
        assert!(!breaker.lets_through(999));
        assert!(breaker.lets_through(1_000), "one trial");
        assert!(!breaker.lets_through(1_000), "and no second one beside it");
        breaker.succeeded();
        assert!(!breaker.is_open() && breaker.lets_through(1_000));
        assert!(!breaker.failed(1_000), "a new life");
    }

    #[test]
    fn pauses_grow_to_a_minute() {
        let breaker = Breaker::default();
        let mut now = 0;
        (0..20).for_each(|_| {
            breaker.failed(now);
        });
        for _ in 0..20 {
            now += 1 << 20;
            assert!(breaker.lets_through(now));
            assert!(!breaker.failed(now), "it was cut off before");
        }
        assert!(!breaker.lets_through(now + LONGEST_MS - 1));
        assert!(breaker.lets_through(now + 2 * LONGEST_MS));
    }

    #[test]
    fn a_failure_now_and_then_is_forgiven() {
        let breaker = Breaker::default();
        for _ in 0..1_000 {
            assert!(!breaker.failed(0));
            (0..10).for_each(|_| breaker.succeeded());
        }
        assert!(breaker.lets_through(0));
    }
}
