//! The plugins' key-value stores, in memory.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use bytes::Bytes;

use crate::backbone::kv::{KvAnswer, KvOp, KvStore, Replace};

/// Keys that one answer lists.
const LISTED: usize = 100;

#[derive(Default)]
pub(super) struct Kv {
    stores: HashMap<Box<str>, Held>,
}

#[derive(Default)]
struct Held {
    values: BTreeMap<Box<str>, Bytes>,
    bytes: u64,
    /// Where a listing goes on that was cut, by the cursor that was given out.
    cursors: BTreeMap<u64, Box<str>>,
    next_cursor: u64,
}

/// Listings that may be under way; the oldest is forgotten, and begins again.
const CURSORS: usize = 100;

impl Kv {
    pub(super) fn apply(&mut self, store: &KvStore, op: KvOp, now_ms: u64) -> KvAnswer {
        let held = match &op {
            KvOp::Set(..) | KvOp::Increment(..) | KvOp::Replace(_) => {
                self.stores.entry(store.key.clone()).or_default()
            }
            _ => match self.stores.get_mut(&store.key) {
                Some(held) => held,
                None => return Held::default().apply(store, op, now_ms),
            },
        };
        held.apply(store, op, now_ms)
    }
}

impl Held {
    fn apply(&mut self, store: &KvStore, op: KvOp, now_ms: u64) -> KvAnswer {
        match op {
            KvOp::Get(key) => KvAnswer::Value(self.values.get(&key).cloned()),
            KvOp::Set(key, value) => self.set(store, key, value),
            KvOp::Delete(key) => {
                if let Some(old) = self.values.remove(&key) {
                    self.bytes -= (key.len() + old.len()) as u64;
                }
                KvAnswer::Done
            }
            KvOp::Increment(key, delta) => {
                let old = match self.values.get(&key) {
                    Some(text) => std::str::from_utf8(text).ok().and_then(|text| text.parse::<i64>().ok()),
                    None => Some(0),
                };
                let Some(sum) = old.and_then(|old| old.checked_add(delta)) else {
                    return KvAnswer::NotANumber;
                };
                match self.set(store, key, sum.to_string().into()) {
                    KvAnswer::Done => KvAnswer::Sum(sum),
                    other => other,
                }
            }
            KvOp::Keys(cursor) => self.list(cursor),
            KvOp::GetTimed(key) => KvAnswer::Timed(self.values.get(&key).cloned(), now_ms),
            KvOp::Replace(replace) => self.replace(store, *replace, now_ms),
        }
    }

    fn replace(&mut self, store: &KvStore, replace: Replace, now_ms: u64) -> KvAnswer {
        let Replace { key, expected, value, mark, by_ms } = replace;
        if now_ms > by_ms {
            return KvAnswer::Late;
        }
        if self.values.get(&key) != expected.as_ref() {
            return KvAnswer::Changed;
        }
        match self.set(store, key, value) {
            KvAnswer::Done => {
                // A mark takes no room worth a quota.
                self.set(
                    &KvStore { max_keys: u64::MAX, max_bytes: u64::MAX, ..store.clone() },
                    mark.0,
                    mark.1,
                )
            }
            other => other,
        }
    }

    fn set(&mut self, store: &KvStore, key: Box<str>, value: Bytes) -> KvAnswer {
        let old = self.values.get(&key).map(Bytes::len);
        let before = old.map_or(0, |old| key.len() + old) as u64;
        let bytes = self.bytes - before + (key.len() + value.len()) as u64;
        let keys = self.values.len() as u64 + u64::from(old.is_none());
        // What shrinks is let in even where a quota was lowered.
        if (bytes > store.max_bytes && bytes > self.bytes) || (old.is_none() && keys > store.max_keys) {
            return KvAnswer::OverQuota;
        }
        self.bytes = bytes;
        self.values.insert(key, value);
        KvAnswer::Done
    }

    fn list(&mut self, cursor: u64) -> KvAnswer {
        let from = self.cursors.get(&cursor).filter(|_| cursor != 0).cloned();
        let start = from.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.values.range((start, Bound::Unbounded)).map(|(key, _)| key.clone());
        let keys: Vec<Box<str>> = rest.by_ref().take(LISTED).collect();
        let more = rest.next().is_some();
        drop(rest);
        let next = match keys.last().filter(|_| more) {
            Some(last) => self.remember(last.clone()),
            None => 0,
        };
        KvAnswer::Keys(keys.into_iter().map(String::from).collect(), next)
    }

    fn remember(&mut self, key: Box<str>) -> u64 {
        self.next_cursor += 1;
        self.cursors.insert(self.next_cursor, key);
        while self.cursors.len() > CURSORS {
            self.cursors.pop_first();
        }
        self.next_cursor
    }
}
