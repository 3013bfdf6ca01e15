//! The newest entries of watched channels, under one byte budget for all of them.

use std::collections::VecDeque;

use super::batch::{Batch, Item};
use super::view::View;
use crate::domain::{Epoch, Offset, StreamKey};

/// The ring of one channel: contiguous entries from `after` on.
#[derive(Debug)]
pub(super) struct Ring {
    after: Offset,
    items: VecDeque<Item>,
}

/// Bytes and order of entry of all rings, so that the oldest entry of all goes first.
#[derive(Debug)]
pub(super) struct Budget {
    limit: usize,
    used: usize,
    order: VecDeque<(StreamKey, Offset)>,
}

impl Ring {
    /// Empty, standing at a position.
    pub(super) fn at(position: Offset) -> Self {
        Self { after: position, items: VecDeque::new() }
    }

    /// Adds a batch that was read from where the ring ends, or begins anew where it is not whole.
    pub(super) fn push(&mut self, batch: &Batch, budget: &mut Budget) {
        if !batch.whole {
            self.reset(batch.gap_until(), budget);
        }
        for item in &batch.items {
            budget.used += item.bytes();
            budget.order.push_back((batch.view.stream.clone(), item.offset));
            self.items.push_back(item.clone());
        }
    }

    /// Forgets everything; the ring then begins at `position`.
    pub(super) fn reset(&mut self, position: Offset, budget: &mut Budget) {
        // What `order` still says of these entries is passed over when their turn comes.
        budget.used -= self.items.drain(..).map(|item| item.bytes()).sum::<usize>();
        self.after = position;
    }

    /// The entries after `from`, at most `most`, where the ring reaches back so far.
    pub(super) fn read(
        &self,
        stream: &StreamKey,
        from: Offset,
        position: Offset,
        epoch: Epoch,
        most: usize,
    ) -> Option<Batch> {
        if from < self.after || from > position {
            return None;
        }
        let first = self.items.partition_point(|item| item.offset <= from);
        let items: Vec<_> = self.items.range(first..).take(most).cloned().collect();
        let more = first + items.len() < self.items.len();
        let until = if more { items.last().map_or(position, |last| last.offset) } else { position };
        let view = View::shared(stream.clone());
        Some(Batch { view, after: from, until, epoch, whole: true, more, items })
    }

    fn drop_oldest(&mut self, offset: Offset, budget: &mut Budget) {
        if self.items.front().is_some_and(|item| item.offset == offset) {
            let item = self.items.pop_front().expect("it was just looked at");
            budget.used -= item.bytes();
            self.after = offset;
        }
    }
}

impl Budget {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, used: 0, order: VecDeque::new() }
    }

    /// Bytes in all rings.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// Drops the oldest entries of all rings until the budget holds. `drop_from` finds the ring of a
    /// stream, if there still is one, and hands it on.
    pub(super) fn enforce(&mut self, mut drop_from: impl FnMut(&StreamKey, &mut dyn FnMut(&mut Ring))) {
        /// Entries in all rings: bounds `order` also where entries are tiny.
        const MOST_ENTRIES: usize = 1 << 20;
        while self.used > self.limit || self.order.len() > MOST_ENTRIES {
            let Some((stream, offset)) = self.order.pop_front() else { return };
            drop_from(&stream, &mut |ring| ring.drop_oldest(offset, self));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offset(ms: u64) -> Offset {
        Offset { ms, seq: 0 }
    }

    fn batch(after: u64, items: std::ops::RangeInclusive<u64>, whole: bool) -> Batch {
        let until = offset(*items.end());
        let items = items.map(|ms| Item::new(offset(ms), None)).collect();
        let view = View::shared(StreamKey::from_raw("s"));
        Batch { view, after: offset(after), until, epoch: Epoch(1), whole, more: false, items }
    }

    fn read(ring: &Ring, from: u64, position: u64) -> Option<(Vec<u64>, bool)> {
        let batch = ring.read(&StreamKey::from_raw("s"), offset(from), offset(position), Epoch(1), 3)?;
        Some((batch.items.iter().map(|item| item.offset.ms).collect(), batch.more))
    }

    #[test]
    fn it_answers_only_what_it_can_prove() {
        let mut budget = Budget::new(usize::MAX);
        let mut ring = Ring::at(offset(10));
        ring.push(&batch(10, 11..=15, true), &mut budget);
        assert_eq!(read(&ring, 9, 15), None, "older than the ring");
        assert_eq!(read(&ring, 10, 15), Some((vec![11, 12, 13], true)));
        assert_eq!(read(&ring, 13, 15), Some((vec![14, 15], false)));
        assert_eq!(read(&ring, 16, 15), None, "beyond what was read");
        ring.push(&batch(15, 20..=21, false), &mut budget);
        assert_eq!(read(&ring, 15, 21), None, "a gap cuts the ring");
        assert_eq!(read(&ring, 20, 21), Some((vec![21], false)));
    }

    #[test]
    fn the_budget_drops_the_oldest_of_all() {
        let mut budget = Budget::new(3 * Item::new(offset(0), None).bytes());
        let mut ring = Ring::at(offset(0));
        ring.push(&batch(0, 1..=5, true), &mut budget);
        budget.enforce(|_, drop| drop(&mut ring));
        assert_eq!(read(&ring, 1, 5), None);
        assert_eq!(read(&ring, 2, 5), Some((vec![3, 4, 5], false)));
        ring.reset(offset(5), &mut budget);
        assert_eq!(budget.used(), 0);
    }
}
