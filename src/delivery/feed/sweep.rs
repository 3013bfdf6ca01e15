//! Which channels the sweep reads when. Pure.

use std::ops::Range;

/// Walks over a list in equal steps, so that each place is visited once a pass of so many steps, however
/// the list grows meanwhile. After many were taken out a place may wait for two passes, never longer.
#[derive(Debug)]
pub(super) struct Sweep {
    /// Steps of one pass.
    steps: usize,
    step: usize,
    /// Where the next step begins.
    next: usize,
    /// The longest that the list was during this pass: it sets the pace.
    longest: usize,
}

impl Sweep {
    pub(super) fn new(steps: usize) -> Self {
        Self { steps: steps.max(1), step: 0, next: 0, longest: 0 }
    }

    /// The places to visit in this step, of a list that now has so many.
    ///
    /// New places come at the end of the list. A pass over a list that has shrunk ends early, which
    /// makes up for most of what its places would wait longer in the next one.
    pub(super) fn advance(&mut self, len: usize) -> Range<usize> {
        self.step += 1;
        self.longest = self.longest.max(len);
        let until = (self.longest * self.step / self.steps).min(len);
        let part = self.next.min(until)..until;
        *self = if until == len { Self::new(self.steps) } else { Self { next: until, ..*self } };
        part
    }

    /// The place at `index` was taken out, and those behind it moved up.
    pub(super) fn removed(&mut self, index: usize) {
        self.next -= usize::from(index < self.next);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_place_is_visited_once_a_pass() {
        let mut sweep = Sweep::new(10);
        let visits: usize = (0..100).map(|_| sweep.advance(1).len()).sum();
        assert_eq!(visits, 10);
        assert_eq!(Sweep::new(3).advance(0), 0..0);
    }

    proptest! {
        /// Nobody waits longer than a pass whatever comes, nor longer than two whatever goes.
        #[test]
        fn everybody_is_visited_within_a_pass(changes in prop::collection::vec(
            prop_oneof![3 => Just((0, 0)), 1 => (1..40_usize, Just(0)), 1 => (Just(0), 1..40_usize)], 1..200,
        )) {
            const STEPS: usize = 20;
            let (mut sweep, mut list, mut seen, mut next) = (Sweep::new(STEPS), vec![], HashMap::new(), 0);
            let mut longest_wait = STEPS;
            for (now, (added, removed)) in changes.into_iter().enumerate() {
                for _ in 0..added {
                    list.push(next);
                    seen.insert(next, now);
                    next += 1;
                }
                if removed > 0 {
                    longest_wait = 2 * STEPS;
                }
                for n in 0..removed.min(list.len()) {
                    let index = (n * 7 + now) % list.len();
                    list.remove(index);
                    sweep.removed(index);
                }
                for place in sweep.advance(list.len()) {
                    seen.insert(list[place], now);
                }
                for one in &list {
                    prop_assert!(now - seen[one] <= longest_wait, "{one} of {list:?} at {now}");
                }
            }
        }
    }
}
