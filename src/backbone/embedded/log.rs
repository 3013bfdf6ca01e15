//! One stream's entries, with the semantics of Redis streams (7.0).

use std::collections::BTreeMap;
use std::ops::{Bound, RangeInclusive};

use bytes::{Bytes, BytesMut};

use crate::domain::{Offset, RawEntry};

/// Field names and values of an entry.
pub type Fields = Vec<(Bytes, Bytes)>;

/// What an entry costs beside the bytes of its fields.
const ENTRY_BYTES: usize = 96;
/// What a field costs beside its bytes: two handles.
const FIELD_BYTES: usize = 64;

/// A stream's entries and what is known of those that are gone.
#[derive(Debug, Default)]
pub struct Log {
    entries: BTreeMap<Offset, Entry>,
    last: Offset,
    added: u64,
    max_deleted: Offset,
    trimmed: bool,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    /// How many entries had been added with this one.
    ordinal: u64,
    fields: Fields,
}

/// Which id a new entry gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewId {
    /// `*`: by the clock, above all others.
    Auto,
    /// `<ms>-*`: this millisecond, the next sequence number in it.
    AutoSequence(u64),
    /// This one; it must be above all others.
    Exact(Offset),
}

/// Why an entry was not added. The texts are Redis's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// The id is not above the last one.
    #[error("The ID specified in XADD is equal or smaller than the target stream top item")]
    NotGreater,
    /// `0-0` stands before every entry and can be none.
    #[error("The ID specified in XADD must be greater than 0-0")]
    Zero,
    /// No id is above the last one.
    #[error("The stream has exhausted the last possible ID, unable to add more items")]
    Exhausted,
}

/// What trimming keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// So many of the newest.
    Newest(u64),
    /// Those at or after this offset.
    From(Offset),
    /// The newest that take so many bytes together.
    Bytes(u64),
}

/// What a read from a position found: see [`crate::backbone::Page`], whose terms these are.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// Entries after the position.
    pub entries: Vec<RawEntry>,
    /// Proven: none is missing before the first of them.
    pub whole: bool,
    /// More follow.
    pub more: bool,
    /// Where the reader stands now.
    pub end: Offset,
    /// Entries ever added at `end`.
    pub added: u64,
}

impl Log {
    /// Adds an entry. Its fields are copied together, so that it does not keep a whole network buffer
    /// alive.
    pub fn add(&mut self, id: NewId, fields: &[(Bytes, Bytes)], now_ms: u64) -> Result<Offset, AddError> {
        let offset = self.next_id(id, now_ms)?;
        let fields = compact(fields);
        self.added += 1;
        self.last = offset;
        self.bytes += weight(&fields);
        self.entries.insert(offset, Entry { ordinal: self.added, fields });
        Ok(offset)
    }

    fn next_id(&self, id: NewId, now_ms: u64) -> Result<Offset, AddError> {
        if self.last == Offset::MAX {
            return Err(AddError::Exhausted);
        }
        let in_ms = |ms| Offset { ms, seq: 0 };
        let offset = match id {
            // A clock that steps back must not stop the stream: the last id goes on counting.
            NewId::Auto if now_ms > self.last.ms => in_ms(now_ms),
            NewId::Auto => self.last.next(),
            NewId::AutoSequence(ms) if ms == self.last.ms => {
                let seq = self.last.seq.checked_add(1).ok_or(AddError::NotGreater)?;
                Offset { ms, seq }
            }
            NewId::AutoSequence(ms) => in_ms(ms),
            NewId::Exact(Offset::ZERO) => return Err(AddError::Zero),
            NewId::Exact(offset) => offset,
        };
        if offset > self.last { Ok(offset) } else { Err(AddError::NotGreater) }
    }

    /// Drops the oldest entries beyond what is to be kept, at most `limit`; returns how many.
    pub fn trim(&mut self, keep: Keep, limit: usize) -> usize {
        let mut dropped = 0;
        while dropped < limit {
            let Some((first, _)) = self.entries.first_key_value() else { break };
            let kept = match keep {
                Keep::Newest(most) => self.len() <= most,
                Keep::From(offset) => *first >= offset,
                Keep::Bytes(most) => self.bytes as u64 <= most,
            };
            if kept {
                break;
            }
            if let Some((_, entry)) = self.entries.pop_first() {
                self.bytes -= weight(&entry.fields);
            }
            self.trimmed = true;
            dropped += 1;
        }
        dropped
    }

    /// Withdraws an entry (`XDEL`); whether it was there.
    pub fn remove(&mut self, offset: Offset) -> bool {
        let Some(entry) = self.entries.remove(&offset) else { return false };
        self.bytes -= weight(&entry.fields);
        self.max_deleted = self.max_deleted.max(offset);
        true
    }

    /// Reads on from a position. `added` is how many entries had been added there, where known.
    ///
    /// Whole is what one of these proves: the entry at the position is still here, or an older one,
    /// for trimming takes the oldest first; the position is the last id given out; it is the start of
    /// a log that was never trimmed; or the entries are numbered without a hole from the position on.
    pub fn read(&self, after: Offset, added: Option<u64>, count: usize) -> Found {
        let start = if after == Offset::ZERO { Some(0) } else { added };
        // With nothing ahead, all entries ever added must lie behind.
        let behind = self.after(after).next().map_or(self.added, |(_, entry)| entry.ordinal - 1);
        // Fewer than were counted: another log under the old name, whose entries prove nothing.
        let same_log = added.is_none_or(|added| added <= self.added);
        let older = after < self.last && self.first().is_some_and(|first| first < after);
        let whole = after == self.last
            || (older && same_log)
            || self.contains(after)
            || (after == Offset::ZERO && !self.trimmed)
            || (after < self.last && start == Some(behind));
        let mut following = self.after(after);
        let taken: Vec<_> = following.by_ref().take(count.max(1)).collect();
        let more = following.next().is_some();
        let (end, added) =
            taken.last().map_or((self.last, self.added), |(offset, entry)| (**offset, entry.ordinal));
        let entries = taken.into_iter().map(|(offset, entry)| entry.to_raw(*offset)).collect();
        Found { entries, whole, more, end, added }
    }

    fn after(&self, offset: Offset) -> impl Iterator<Item = (&Offset, &Entry)> {
        self.entries.range((Bound::Excluded(offset), Bound::Unbounded))
    }

    /// Entries within the bounds, both included; empty where they are the wrong way round.
    pub fn range(&self, bounds: RangeInclusive<Offset>) -> impl DoubleEndedIterator<Item = RawEntry> + '_ {
        // `BTreeMap::range` panics on bounds the wrong way round.
        let entries = (!bounds.is_empty()).then(|| self.entries.range(bounds));
        entries.into_iter().flatten().map(|(offset, entry)| entry.to_raw(*offset))
    }

    /// The entry at an offset.
    pub fn get(&self, offset: Offset) -> Option<RawEntry> {
        self.entries.get(&offset).map(|entry| entry.to_raw(offset))
    }

    /// Whether there is an entry at an offset.
    pub fn contains(&self, offset: Offset) -> bool {
        self.entries.contains_key(&offset)
    }

    /// The last id ever given out.
    pub fn last(&self) -> Offset {
        self.last
    }

    /// The first entry still here.
    pub fn first(&self) -> Option<Offset> {
        self.entries.first_key_value().map(|(offset, _)| *offset)
    }

    /// The last entry still here.
    pub fn newest(&self) -> Option<Offset> {
        self.entries.last_key_value().map(|(offset, _)| *offset)
    }

    /// How many entries are here.
    pub fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Whether no entry is here.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many entries were ever added.
    pub fn added(&self) -> u64 {
        self.added
    }

    /// The highest offset withdrawn by `XDEL`; trimming leaves it, as in Redis.
    pub fn max_deleted(&self) -> Offset {
        self.max_deleted
    }

    /// About how much memory the entries take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Entry {
    fn to_raw(&self, offset: Offset) -> RawEntry {
        RawEntry::new(offset, self.fields.clone())
    }
}

fn weight(fields: &Fields) -> usize {
    ENTRY_BYTES + fields.iter().map(|(name, value)| name.len() + value.len() + FIELD_BYTES).sum::<usize>()
}

fn compact(fields: &[(Bytes, Bytes)]) -> Fields {
    let size = fields.iter().map(|(name, value)| name.len() + value.len()).sum();
    let mut memory = BytesMut::with_capacity(size);
    for (name, value) in fields {
        memory.extend_from_slice(name);
        memory.extend_from_slice(value);
    }
    let mut memory = memory.freeze();
    let mut take = |part: &Bytes| memory.split_to(part.len());
    fields.iter().map(|(name, value)| (take(name), take(value))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64, seq: u64) -> Offset {
        Offset { ms, seq }
    }

    fn log(offsets: &[Offset]) -> Log {
        let mut log = Log::default();
        for offset in offsets {
            let fields = [(Bytes::from("data"), Bytes::from(offset.to_string()))];
            log.add(NewId::Exact(*offset), &fields, 0).unwrap();
        }
        log
    }

    fn numbered(count: u64) -> Log {
        log(&(1..=count).map(|ms| at(ms, 0)).collect::<Vec<_>>())
    }

    #[test]
    fn ids_only_grow() {
        let mut log = log(&[at(5, 1)]);
        assert_eq!(log.add(NewId::Auto, &[], 4), Ok(at(5, 2)));
        assert_eq!(log.add(NewId::Auto, &[], 9), Ok(at(9, 0)));
        assert_eq!(log.add(NewId::AutoSequence(9), &[], 0), Ok(at(9, 1)));
        assert_eq!(log.add(NewId::AutoSequence(8), &[], 0), Err(AddError::NotGreater));
        assert_eq!(log.add(NewId::Exact(at(9, 1)), &[], 0), Err(AddError::NotGreater));
        assert_eq!(log.add(NewId::Exact(Offset::ZERO), &[], 0), Err(AddError::Zero));
        assert_eq!(log.add(NewId::Exact(Offset::MAX), &[], 0), Ok(Offset::MAX));
        assert_eq!(log.add(NewId::Auto, &[], 0), Err(AddError::Exhausted));
        assert_eq!(Log::default().add(NewId::AutoSequence(0), &[], 0), Ok(at(0, 1)));
    }

    #[test]
    fn a_read_is_whole_only_when_it_is_proven() {
        let mut log = numbered(10);
        let whole = |log: &Log, after, added| log.read(after, added, 100).whole;
        assert!(whole(&log, Offset::ZERO, None), "never trimmed");
        assert!(log.remove(at(1, 0)));
        assert!(whole(&log, Offset::ZERO, None), "withdrawn, not lost");
        assert!(!whole(&log, at(1, 0), None), "the entry there is gone and nothing else is known");
        assert!(whole(&log, at(1, 0), Some(1)), "the next is number two");
        assert_eq!(log.trim(Keep::From(at(5, 0)), usize::MAX), 3);
        assert!(!whole(&log, Offset::ZERO, None));
        assert!(!whole(&log, at(3, 0), Some(3)), "number four is missing");
        assert!(whole(&log, at(4, 0), Some(4)));
        assert!(whole(&log, at(5, 0), None), "the entry is here");
        assert!(whole(&log, at(5, 1), None), "an older entry is here, so none after it was trimmed");
        assert!(!whole(&log, at(5, 1), Some(11)), "more were counted than this log ever had");
        assert!(log.remove(at(7, 0)));
        assert!(whole(&log, at(7, 0), None), "withdrawn, and older ones are here");
        assert_eq!(log.trim(Keep::Newest(0), usize::MAX), 5);
        assert!(whole(&log, at(10, 0), None), "the end of the log");
        assert!(!whole(&log, at(9, 0), Some(9)));
        assert!(!whole(&log, at(11, 0), Some(10)), "beyond the end");
    }

    #[test]
    fn pages_follow_one_another() {
        let log = numbered(5);
        let first = log.read(Offset::ZERO, None, 3);
        assert_eq!((first.entries.len(), first.more, first.end, first.added), (3, true, at(3, 0), 3));
        let second = log.read(first.end, Some(first.added), 3);
        assert_eq!((second.entries.len(), second.more, second.end, second.added), (2, false, at(5, 0), 5));
        let none = log.read(second.end, Some(second.added), 3);
        assert_eq!((none.entries.len(), none.whole, none.end, none.added), (0, true, at(5, 0), 5));
        let beyond = log.read(Offset::MAX, None, 3);
        assert_eq!(
            (beyond.entries.len(), beyond.whole, beyond.more, beyond.end),
            (0, false, false, at(5, 0))
        );
    }

    #[test]
    fn trimming_and_removing_give_the_memory_back() {
        let mut log = numbered(5);
        assert_eq!(log.trim(Keep::Newest(3), 1), 1);
        assert_eq!(log.trim(Keep::Newest(3), 10), 1);
        assert_eq!(log.trim(Keep::Bytes(log.bytes() as u64), 10), 0);
        assert!(log.remove(at(4, 0)) && !log.remove(at(4, 0)));
        assert_eq!((log.len(), log.first(), log.newest()), (2, Some(at(3, 0)), Some(at(5, 0))));
        assert_eq!((log.max_deleted(), log.added(), log.last()), (at(4, 0), 5, at(5, 0)));
        assert_eq!(log.trim(Keep::Bytes(log.bytes() as u64 - 1), 10), 1);
        log.trim(Keep::Newest(0), 10);
        assert_eq!((log.bytes(), log.is_empty()), (0, true));
    }

    #[test]
    fn a_range_the_wrong_way_round_is_empty() {
        let log = numbered(5);
        assert_eq!(log.range(at(4, 0)..=at(2, 0)).count(), 0);
        assert_eq!(log.range(at(2, 0)..=at(4, 0)).next_back().map(|entry| entry.offset), Some(at(4, 0)));
    }

    proptest! {
        /// Whatever was added, withdrawn and trimmed: a page that calls itself whole misses nothing
        /// that was lost, and pages call themselves whole as long as nothing was lost.
        #[test]
        fn a_whole_page_misses_nothing(steps in prop::collection::vec((0_u8..4, 1_u64..40), 1..60)) {
            let (mut log, mut trimmed) = (Log::default(), Vec::new());
            for (step, number) in steps {
                match step {
                    0 | 1 => { log.add(NewId::Exact(at(log.added() + 1, 0)), &[], 0).unwrap(); }
                    2 => { log.remove(at(number, 0)); }
                    _ => {
                        let before: Vec<_> = log.range(Offset::ZERO..=Offset::MAX).collect();
                        let count = log.trim(Keep::Newest(number / 8), usize::MAX);
                        trimmed.extend(before[..count].iter().map(|entry| entry.offset));
                    }
                }
                // Entry `n` has the offset `n-0`, so the position after it has seen `n` additions.
                for after in 0..=log.added() {
                    for added in [None, Some(after)] {
                        let found = log.read(at(after, 0), added, 3);
                        let until = found.entries.first().map_or(Offset::MAX, |entry| entry.offset);
                        let lost = trimmed.iter().any(|offset| at(after, 0) < *offset && *offset < until);
                        prop_assert!(!(found.whole && lost), "after {after}: {found:?}");
                        prop_assert!(found.whole || !trimmed.is_empty() || log.max_deleted() > Offset::ZERO);
                    }
                }
            }
        }
    }
}
