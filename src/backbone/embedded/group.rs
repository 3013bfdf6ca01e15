//! Consumer groups of a stream, with the semantics of Redis (7.0).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::log::Log;
use crate::domain::{Offset, RawEntry};

/// Readers who share a stream's entries, and who has which.
#[derive(Debug)]
pub struct Group {
    last: Offset,
    read: Option<u64>,
    pending: BTreeMap<Offset, Pending>,
    consumers: BTreeMap<Bytes, Consumer>,
    /// Bytes of the consumers' names.
    names: usize,
}

/// An entry that was delivered and not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Who has it.
    pub consumer: Bytes,
    /// When it was last delivered.
    pub delivered_ms: u64,
    /// How often.
    pub count: u64,
}

/// A reader of the group.
#[derive(Debug, Default)]
pub struct Consumer {
    /// When it last asked for something.
    pub seen_ms: u64,
    pending: BTreeSet<Offset>,
}

/// How `XCLAIM` takes entries over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claim {
    /// Only entries delivered at least so long ago, in milliseconds.
    pub min_idle_ms: u64,
    /// The delivery time to note; now by default.
    pub delivered_ms: Option<u64>,
    /// The delivery count to note; one more than before by default.
    pub count: Option<u64>,
    /// Takes entries that nobody has, too.
    pub force: bool,
    /// Does not count as a delivery.
    pub just_id: bool,
}

/// What `XAUTOCLAIM` found.
#[derive(Debug, PartialEq, Eq)]
pub struct Swept {
    /// Where to go on; `0-0` at the end.
    pub next: Offset,
    /// Taken over.
    pub claimed: Vec<RawEntry>,
    /// No longer pending, because they are no longer in the log.
    pub gone: Vec<Offset>,
}

impl Group {
    /// A group that has read up to `last`; `read` is how many entries that were, where known.
    pub fn new(last: Offset, read: Option<u64>) -> Self {
        Self { last, read, pending: BTreeMap::new(), consumers: BTreeMap::new(), names: 0 }
    }

    /// Moves the group (`XGROUP SETID`).
    pub fn set_position(&mut self, last: Offset, read: Option<u64>) {
        (self.last, self.read) = (last, read);
    }

    /// Moves the group forward, never back (`XCLAIM … LASTID`).
    pub fn advance_to(&mut self, last: Offset) {
        self.last = self.last.max(last);
    }

    /// The last entry given out as new.
    pub fn last(&self) -> Offset {
        self.last
    }

    /// How many entries were given out as new, where known.
    pub fn read(&self) -> Option<u64> {
        self.read
    }

    /// All pending entries.
    pub fn pending(&self) -> &BTreeMap<Offset, Pending> {
        &self.pending
    }

    /// All consumers.
    pub fn consumers(&self) -> impl ExactSizeIterator<Item = (&Bytes, &Consumer)> {
        self.consumers.iter()
    }

    /// A consumer, if there is one of that name.
    pub fn consumer(&self, name: &[u8]) -> Option<&Consumer> {
        self.consumers.get(name)
    }

    /// Notes that a consumer asked, making it where it is new; whether it is.
    pub fn see(&mut self, name: &Bytes, now_ms: u64) -> bool {
        if let Some(consumer) = self.consumers.get_mut(name) {
            consumer.seen_ms = now_ms;
            return false;
        }
        let consumer = Consumer { seen_ms: now_ms, pending: BTreeSet::new() };
        self.names += name.len();
        self.consumers.insert(Bytes::copy_from_slice(name), consumer).is_none()
    }

    /// Removes a consumer and what it had pending; returns how many that were.
    pub fn remove_consumer(&mut self, name: &[u8]) -> usize {
        let Some(consumer) = self.consumers.remove(name) else { return 0 };
        self.names -= name.len();
        for offset in &consumer.pending {
            self.pending.remove(offset);
        }
        consumer.pending.len()
    }

    /// Gives new entries to a consumer. Unless `no_ack`, they are pending until acknowledged.
    pub fn deliver(
        &mut self,
        log: &Log,
        consumer: &Bytes,
        count: usize,
        no_ack: bool,
        now_ms: u64,
    ) -> Vec<RawEntry> {
        if self.last >= log.last() {
            return Vec::new();
        }
        let entries: Vec<RawEntry> = log.range(self.last.next()..=Offset::MAX).take(count).collect();
        for entry in &entries {
            self.count_read(log, entry.offset);
            self.last = entry.offset;
            if !no_ack {
                self.assign(entry.offset, consumer, now_ms, 1);
            }
        }
        entries
    }

    /// The number of an entry is known by counting on where nothing was withdrawn ahead, else from the
    /// log's edges, else not at all.
    fn count_read(&mut self, log: &Log, offset: Offset) {
        self.read = match self.read {
            Some(read) if !has_holes_after(log, offset) => Some(read + 1),
            _ => number_at(log, offset),
        };
    }

    /// Entries of a consumer after a position that are pending; without fields where the log no longer
    /// has them. Counts as a delivery.
    pub fn history(
        &mut self,
        log: &Log,
        consumer: &[u8],
        after: Offset,
        count: usize,
        now_ms: u64,
    ) -> Vec<(Offset, Option<RawEntry>)> {
        let Some(consumer) = self.consumers.get(consumer) else { return Vec::new() };
        if after == Offset::MAX {
            return Vec::new();
        }
        let mut found = Vec::new();
        for offset in consumer.pending.range(after.next()..).take(count) {
            let entry = log.get(*offset);
            if let Some(pending) = self.pending.get_mut(offset).filter(|_| entry.is_some()) {
                pending.delivered_ms = now_ms;
                pending.count += 1;
            }
            found.push((*offset, entry));
        }
        found
    }

    /// Acknowledges an entry; whether it was pending.
    pub fn ack(&mut self, offset: Offset) -> bool {
        let Some(pending) = self.pending.remove(&offset) else { return false };
        if let Some(consumer) = self.consumers.get_mut(&pending.consumer) {
            consumer.pending.remove(&offset);
        }
        true
    }

    /// Takes one entry over for a consumer. One that the log no longer has is pending no more.
    pub fn claim(
        &mut self,
        log: &Log,
        consumer: &Bytes,
        offset: Offset,
        how: &Claim,
        now_ms: u64,
    ) -> Option<RawEntry> {
        let Some(entry) = log.get(offset) else {
            self.ack(offset);
            return None;
        };
        let before = match self.pending.get(&offset) {
            Some(pending) if now_ms.saturating_sub(pending.delivered_ms) < how.min_idle_ms => return None,
            Some(pending) => pending.count,
            None if how.force => 1,
            None => return None,
        };
        let count = how.count.unwrap_or(if how.just_id { before } else { before + 1 });
        self.assign(offset, consumer, how.delivered_ms.unwrap_or(now_ms), count);
        Some(entry)
    }

    /// Takes over what has been pending too long, from an offset on, at most `count` entries and ten
    /// times as many looked at.
    pub fn sweep(
        &mut self,
        log: &Log,
        consumer: &Bytes,
        start: Offset,
        count: usize,
        how: &Claim,
        now_ms: u64,
    ) -> Swept {
        let mut swept = Swept { next: Offset::ZERO, claimed: Vec::new(), gone: Vec::new() };
        let looked_at = count.saturating_mul(10);
        let candidates: Vec<Offset> = self
            .pending
            .range(start..)
            .map(|(offset, _)| *offset)
            .take(looked_at.saturating_add(1))
            .collect();
        for (seen, offset) in candidates.into_iter().enumerate() {
            if seen == looked_at || swept.claimed.len() + swept.gone.len() >= count {
                swept.next = offset;
                break;
            }
            if !log.contains(offset) {
                self.ack(offset);
                swept.gone.push(offset);
            } else if let Some(entry) = self.claim(log, consumer, offset, how, now_ms) {
                swept.claimed.push(entry);
            }
        }
        swept
    }

    fn assign(&mut self, offset: Offset, consumer: &Bytes, delivered_ms: u64, count: u64) {
        let previous = self.pending.get(&offset).map(|pending| pending.consumer.clone());
        if let Some(owner) = previous.and_then(|name| self.consumers.get_mut(&name)) {
            owner.pending.remove(&offset);
        }
        if !self.consumers.contains_key(consumer) {
            self.see(consumer, delivered_ms);
        }
        if let Some((name, _)) = self.consumers.get_key_value(consumer) {
            // The stored name is shared, the argument's would keep a network buffer alive.
            let pending = Pending { consumer: name.clone(), delivered_ms, count };
            self.pending.insert(offset, pending);
        }
        if let Some(owner) = self.consumers.get_mut(consumer) {
            owner.pending.insert(offset);
        }
    }

    /// How many entries of the log it has not been given, where that is known.
    pub fn lag(&self, log: &Log) -> Option<u64> {
        if log.added() == 0 {
            return Some(0);
        }
        let read = self.read.filter(|_| !has_holes_after(log, self.last));
        read.or_else(|| number_at(log, self.last)).map(|read| log.added().saturating_sub(read))
    }

    /// About how much memory it takes; asked at each change, so nothing is counted here.
    pub fn bytes(&self) -> usize {
        256 + self.pending.len() * 128 + self.consumers.len() * 160 + self.names
    }
}

impl Consumer {
    /// What it has pending, ascending.
    pub fn pending(&self) -> &BTreeSet<Offset> {
        &self.pending
    }
}

/// Whether an entry at or after this offset was withdrawn (Redis: `streamRangeHasTombstones`).
fn has_holes_after(log: &Log, offset: Offset) -> bool {
    !log.is_empty() && log.max_deleted() != Offset::ZERO && offset <= log.max_deleted()
}

/// How many entries had been added at an offset, where the log's edges tell (Redis:
/// `streamEstimateDistanceFromFirstEverEntry`).
fn number_at(log: &Log, offset: Offset) -> Option<u64> {
    let Some(first) = log.first() else {
        return (log.added() == 0 || offset <= log.last()).then_some(log.added());
    };
    if offset >= log.last() {
        return (offset == log.last()).then_some(log.added());
    }
    let fragmented = log.max_deleted() != Offset::ZERO && log.max_deleted() >= first;
    match offset.cmp(&first) {
        _ if fragmented => None,
        std::cmp::Ordering::Less => Some(log.added() - log.len()),
        std::cmp::Ordering::Equal => Some(log.added() - log.len() + 1),
        std::cmp::Ordering::Greater => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::log::NewId;
    use super::*;

    fn at(ms: u64) -> Offset {
        Offset { ms, seq: 0 }
    }

    fn log(count: u64) -> Log {
        let mut log = Log::default();
        for ms in 1..=count {
            log.add(NewId::Exact(at(ms)), &[], 0).unwrap();
        }
        log
    }

    fn offsets(entries: &[RawEntry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.offset.ms).collect()
    }

    #[test]
    fn an_entry_is_pending_with_one_consumer_until_acknowledged() {
        let (log, mut group) = (log(3), Group::new(Offset::ZERO, Some(0)));
        let (a, b) = (Bytes::from("a"), Bytes::from("b"));
        assert_eq!(offsets(&group.deliver(&log, &a, 2, false, 10)), [1, 2]);
        assert_eq!(offsets(&group.deliver(&log, &b, 9, true, 10)), [3]);
        assert_eq!((group.pending().len(), group.read(), group.lag(&log)), (2, Some(3), Some(0)));
        let how = Claim { min_idle_ms: 5, ..Claim::default() };
        assert_eq!(group.claim(&log, &b, at(1), &how, 14), None);
        assert!(group.claim(&log, &b, at(1), &how, 15).is_some());
        assert_eq!(group.pending()[&at(1)], Pending { consumer: b.clone(), delivered_ms: 15, count: 2 });
        assert_eq!(group.history(&log, &a, Offset::ZERO, 9, 20).len(), 1);
        assert!(group.ack(at(1)) && !group.ack(at(1)));
        assert_eq!(group.remove_consumer(&a), 1);
        assert!(group.pending().is_empty());
    }

    #[test]
    fn a_sweep_goes_on_where_it_stopped_and_forgets_what_is_gone() {
        let (mut log, mut group) = (log(4), Group::new(Offset::ZERO, Some(0)));
        let (a, b) = (Bytes::from("a"), Bytes::from("b"));
        group.deliver(&log, &a, 9, false, 0);
        log.remove(at(1));
        let how = Claim::default();
        let first = group.sweep(&log, &b, Offset::ZERO, 2, &how, 9);
        assert_eq!((first.next, offsets(&first.claimed), first.gone), (at(3), vec![2], vec![at(1)]));
        let second = group.sweep(&log, &b, first.next, 2, &how, 9);
        assert_eq!((second.next, offsets(&second.claimed)), (Offset::ZERO, vec![3, 4]));
        assert_eq!(group.consumer(&a).unwrap().pending().len(), 0);
        assert_eq!(group.consumer(&b).unwrap().pending().len(), 3);
    }
}
