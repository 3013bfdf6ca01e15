//! What a channel remembers of its newest messages for those who are slow: once a batch, however many
//! subscribe, and only where its namespace leaves messages out.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::delivery::{Batch, Item};
use crate::domain::Offset;

/// Messages that a slow subscription still gets where the oldest are left out.
const NEWEST: usize = 32;

/// Keys remembered for one channel, with the newest message of each. What is forgotten is not conflated
/// across pages.
const KEYS: usize = 1_024;

/// Where the newest few messages begin.
#[derive(Debug)]
pub(super) struct Newest {
    /// They lie after this offset.
    start: Offset,
    offsets: VecDeque<Offset>,
}

impl Newest {
    /// None came yet.
    pub(super) fn at(start: Offset) -> Self {
        Self { start, offsets: VecDeque::new() }
    }

    pub(super) fn start(&self) -> Offset {
        self.start
    }

    pub(super) fn note(&mut self, batch: &Batch) {
        for item in batch.items.iter().filter(|item| item.message.is_some()) {
            if self.offsets.len() == NEWEST {
                self.start = self.offsets.pop_front().expect("it is full");
            }
            self.offsets.push_back(item.offset);
        }
    }
}

/// The newest message of each key.
#[derive(Debug, Default)]
pub(super) struct Keys {
    newest: HashMap<Box<str>, Offset>,
}

impl Keys {
    pub(super) fn note(&mut self, batch: &Batch) {
        for item in &batch.items {
            let Some(key) = key(item) else { continue };
            match self.newest.get_mut(key) {
                Some(newest) => *newest = item.offset,
                None => {
                    self.forget_oldest();
                    self.newest.insert(key.into(), item.offset);
                }
            }
        }
    }

    /// The batch for those who catch up: it says which of its messages are superseded.
    pub(super) fn conflate(&self, batch: &Batch) -> Batch {
        let mut conflated = batch.clone();
        let mut later = HashSet::new();
        for (item, marked) in batch.items.iter().zip(&mut conflated.items).rev() {
            let Some(key) = key(item) else { continue };
            let known = self.newest.get(key).is_some_and(|newest| *newest > item.offset);
            marked.superseded = !later.insert(key) || known;
        }
        conflated
    }

    /// Makes room in a full table, for as many keys as half of it.
    fn forget_oldest(&mut self) {
        if self.newest.len() < KEYS {
            return;
        }
        let mut offsets: Vec<_> = self.newest.values().copied().collect();
        let (_, middle, _) = offsets.select_nth_unstable(KEYS / 2);
        let middle = *middle;
        self.newest.retain(|_, newest| *newest >= middle);
    }
}

fn key(item: &Item) -> Option<&str> {
    item.message.as_ref()?.key.as_deref()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::delivery::View;
    use crate::domain::{Epoch, Publication, StreamKey};

    fn at(ms: u64) -> Offset {
        Offset { ms, seq: 0 }
    }

    fn batch(items: &[(u64, Option<&str>)]) -> Batch {
        let item = |(ms, key): &(u64, Option<&str>)| {
            let message = Publication { offset: at(*ms), key: key.map(Into::into), ..Publication::default() };
            Item::new(at(*ms), Some(Arc::new(message)))
        };
        let items: Vec<_> = items.iter().map(item).collect();
        let (after, until) = (Offset::ZERO, items.last().unwrap().offset);
        let (stream, epoch) = (StreamKey::from_raw("s"), Epoch(1));
        Batch { view: View::shared(stream), after, until, epoch, whole: true, more: false, items }
    }

    #[test]
    fn the_newest_messages_begin_where_a_slow_reader_goes_on() {
        let mut newest = Newest::at(at(5));
        newest.note(&batch(&[(6, None), (7, None)]));
        assert_eq!(newest.start(), at(5), "few came: none is left out");
        let many: Vec<_> = (8..8 + NEWEST as u64).map(|ms| (ms, None)).collect();
        newest.note(&batch(&many));
        assert_eq!(newest.start(), at(7));
        let mut skipped = batch(&[(100, None)]);
        skipped.items[0].message = None;
        newest.note(&skipped);
        assert_eq!(newest.start(), at(7), "what nobody sees does not count");
    }

    #[test]
    fn a_message_is_superseded_by_a_newer_one_of_its_key() {
        let mut keys = Keys::default();
        let page = batch(&[(1, Some("a")), (2, Some("b")), (3, None), (4, Some("a")), (5, Some("c"))]);
        let superseded = |keys: &Keys| -> Vec<u64> {
            keys.conflate(&page)
                .items
                .iter()
                .filter(|item| item.superseded)
                .map(|item| item.offset.ms)
                .collect()
        };
        assert_eq!(superseded(&keys), [1]);
        keys.note(&page);
        assert_eq!(superseded(&keys), [1], "nothing by itself");
        keys.note(&batch(&[(9, Some("b"))]));
        assert_eq!(superseded(&keys), [1, 2]);
    }

    #[test]
    fn the_table_of_keys_stays_bounded_and_keeps_the_newest() {
        let mut keys = Keys::default();
        for ms in 0..5 * KEYS as u64 {
            let key = format!("key-{ms}");
            keys.note(&batch(&[(ms, Some(&key))]));
            assert!(keys.newest.len() <= KEYS && keys.newest.contains_key(key.as_str()));
        }
    }
}
