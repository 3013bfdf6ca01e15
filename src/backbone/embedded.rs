//! The backbone in this process: the default where no Redis is configured, for one node.
//!
//! Nothing is written to disk: a restart is a new [`Epoch`], as the loss of a master is. Streams live
//! in [`store`] under one lock that is held for the length of one command and never across an await;
//! feed, HTTP and the RESP listener (`api::resp`) take it, shards do not. What the node remembers for
//! itself (cursors, nodes, secrets) is apart from the streams: the listener has no way to it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Notify;

use super::clock::Clock;
use super::kv::{KvAnswer, KvOp, KvStore};
use super::wake::DirtySet;
use super::{
    Addition, Backbone, BackboneError, CursorWrite, DEDUPE_WINDOW, GIVEN_BACK, Group, Held, INGRESS_WINDOW,
    Once, Page, Range, Read, Stored, TRIMMED_AT_ONCE, Tail, Take, Trim, Work,
};
use crate::domain::{
    ChannelName, Cursor, CursorKey, Epoch, Generation, NodeId, Offset, RawEntry, SessionId, StreamKey,
};
use cursors::Cursors;
use leases::Leases;
use log::{Keep, NewId};
use store::{Refused, Store};

mod cursors;
pub mod group;
mod kv;
mod leases;
pub mod log;
pub mod store;
mod work;

/// Memory that streams may take by default, counted roughly: 1 GiB. Beyond it additions are refused.
pub const DEFAULT_MAX_BYTES: usize = 1 << 30;

/// A record of a node is removed when it is so many leases old.
const FORGOTTEN_AFTER_LEASES: u64 = 10;

/// Streams, cursors and what else a node needs, in memory.
pub struct Embedded {
    store: Mutex<Store>,
    cursors: Mutex<Cursors>,
    nodes: Mutex<HashMap<NodeId, NodeRecord>>,
    values: Mutex<BTreeMap<String, String>>,
    leases: Mutex<Leases>,
    kv: Mutex<kv::Kv>,
    clock: Clock,
}

struct NodeRecord {
    written_ms: u64,
    record: String,
}

impl Embedded {
    /// An empty backbone that marks additions to watched streams in `dirty`.
    pub fn new(dirty: Arc<DirtySet>) -> Arc<Self> {
        Self::with_max_bytes(dirty, DEFAULT_MAX_BYTES)
    }

    /// The same with another limit of memory for the streams, in bytes, counted roughly.
    pub fn with_max_bytes(dirty: Arc<DirtySet>, max_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            store: Mutex::new(Store::new(dirty, max_bytes)),
            cursors: Mutex::new(Cursors::new()),
            nodes: Mutex::default(),
            values: Mutex::default(),
            leases: Mutex::default(),
            kv: Mutex::default(),
            clock: Clock::default(),
        })
    }

    /// Does something with the streams, alone: what a command, or a transaction of several, is.
    pub fn with_store<R>(&self, action: impl FnOnce(&mut Store) -> R) -> R {
        action(&mut self.lock())
    }

    /// Waits for additions to streams from now on. Look at the streams after this and before waiting.
    pub fn waiter(self: &Arc<Self>, keys: Vec<Bytes>) -> Waiter {
        let added = Arc::new(Notify::new());
        self.lock().enlist(&keys, &added);
        Waiter { embedded: self.clone(), keys, added }
    }

    fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().expect("no holder of this lock panics")
    }
}

/// Wakes when something was added to one of its streams, or one was deleted.
pub struct Waiter {
    embedded: Arc<Embedded>,
    keys: Vec<Bytes>,
    added: Arc<Notify>,
}

impl Waiter {
    /// Waits for a change since the last wait ended. Cancel-safe: a change is remembered.
    pub async fn changed(&self) {
        self.added.notified().await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.embedded.lock().dismiss(&self.keys, &self.added);
    }
}

#[async_trait]
impl Backbone for Embedded {
    async fn watch(&self, streams: &[StreamKey]) -> Result<(), BackboneError> {
        let mut store = self.lock();
        streams.iter().for_each(|key| store.watch(key));
        Ok(())
    }

    async fn unwatch(&self, streams: &[StreamKey]) {
        let mut store = self.lock();
        streams.iter().for_each(|key| store.unwatch(key));
    }

    async fn tails(&self, streams: &[StreamKey]) -> Vec<Result<Tail, BackboneError>> {
        let store = self.lock();
        streams.iter().map(|key| Ok(store.tail(key))).collect()
    }

    async fn read(&self, reads: &[Read]) -> Vec<Result<Page, BackboneError>> {
        // One lock a read: a long batch must not hold up the listener.
        reads.iter().map(|read| Ok(self.lock().read(read))).collect()
    }

    async fn history(&self, stream: &StreamKey, range: Range) -> Result<Vec<RawEntry>, BackboneError> {
        let store = self.lock();
        let Some(stream) = store.stream(stream.as_str().as_bytes()) else { return Ok(Vec::new()) };
        let log = &stream.log;
        match (range.after, range.before) {
            (Some(Offset::MAX), _) | (_, Some(Offset::ZERO)) => Ok(Vec::new()),
            (Some(after), _) => Ok(log.range(after.next()..=Offset::MAX).take(range.limit).collect()),
            (None, before) => {
                let last = before.map_or(Offset::MAX, Offset::prev);
                let mut found: Vec<_> = log.range(Offset::ZERO..=last).rev().take(range.limit).collect();
                found.reverse();
                Ok(found)
            }
        }
    }

    async fn append_all(&self, additions: &[Addition]) -> Vec<Result<Offset, BackboneError>> {
        // One lock an addition: a long batch must not hold up the listener.
        additions.iter().map(|addition| self.lock().append(addition, self.clock.now_ms())).collect()
    }

    async fn trim(&self, trims: &[Trim]) -> Vec<Result<u64, BackboneError>> {
        trims.iter().map(|trim| Ok(self.lock().trim(trim))).collect()
    }

    async fn remove(&self, stream: &StreamKey, offsets: &[Offset]) -> Result<u64, BackboneError> {
        let removed = self.lock().change(stream.as_str().as_bytes(), |stream| {
            offsets.iter().filter(|offset| stream.log.remove(**offset)).count()
        });
        Ok(removed.unwrap_or(0) as u64)
    }

    async fn remove_empty(&self, streams: &[(StreamKey, Offset)]) -> Vec<Result<bool, BackboneError>> {
        let remove = |key: &StreamKey, before: Offset| {
            let (mut store, key) = (self.lock(), key.as_str().as_bytes());
            let is_over = |store::Stream { log, groups, .. }: &store::Stream| {
                log.is_empty() && groups.is_empty() && log.last().ms < before.ms
            };
            store.stream(key).is_some_and(is_over) && store.delete(key)
        };
        streams.iter().map(|(key, before)| Ok(remove(key, *before))).collect()
    }

    async fn scan(
        &self,
        prefix: &str,
        cursor: u64,
        effort: usize,
    ) -> Result<(u64, Vec<StreamKey>), BackboneError> {
        let store = self.lock();
        let (next, keys) = store.scan(cursor, effort);
        let found = keys.filter(|key| key.starts_with(prefix.as_bytes()));
        // A key that is no text is no stream of ours.
        let found = found.filter_map(|key| std::str::from_utf8(key).ok());
        Ok((next, found.map(StreamKey::from_raw).collect()))
    }

    async fn watchers(&self, streams: &[StreamKey]) -> Vec<Result<Option<u64>, BackboneError>> {
        let store = self.lock();
        streams.iter().map(|key| Ok(Some(store.is_watched(key).into()))).collect()
    }

    async fn take(&self, take: &Take) -> Result<Vec<Work>, BackboneError> {
        Ok(work::take(&mut self.lock(), take, self.clock.now_ms()))
    }

    async fn keep(&self, group: &Group, consumer: &str, held: &[Held]) -> Result<Vec<Offset>, BackboneError> {
        Ok(work::hand_on(&mut self.lock(), group, (consumer, consumer), held, self.clock.now_ms()))
    }

    async fn give_back(&self, group: &Group, consumer: &str, held: &[Held]) -> Result<(), BackboneError> {
        work::hand_on(&mut self.lock(), group, (consumer, GIVEN_BACK), held, self.clock.now_ms());
        Ok(())
    }

    async fn finish(&self, group: &Group, offsets: &[Offset]) -> Result<(), BackboneError> {
        work::finish(&mut self.lock(), group, offsets);
        Ok(())
    }

    async fn tidy(&self, group: &Group, idle: Duration) -> Result<u64, BackboneError> {
        Ok(work::tidy(&mut self.lock(), group, idle, self.clock.now_ms()))
    }

    async fn lease(&self, key: &str, holder: &str, ttl: Duration) -> Result<bool, BackboneError> {
        let mut leases = self.leases.lock().expect("no holder of this lock panics");
        Ok(leases.take(key, holder, ttl, self.clock.now_ms()))
    }

    async fn release(&self, key: &str, holder: &str) -> Result<(), BackboneError> {
        self.leases.lock().expect("no holder of this lock panics").release(key, holder);
        Ok(())
    }

    async fn claim_cursors(
        &self,
        device: &CursorKey,
        ttl: Duration,
    ) -> Result<(Generation, Vec<(ChannelName, Cursor)>), BackboneError> {
        let mut cursors = self.cursors.lock().expect("no holder of this lock panics");
        cursors.claim(device, ttl, self.clock.now_ms())
    }

    async fn begin_session(
        &self,
        device: &CursorKey,
        generation: Generation,
        session: SessionId,
    ) -> Result<Option<SessionId>, BackboneError> {
        let mut cursors = self.cursors.lock().expect("no holder of this lock panics");
        Ok(cursors.begin(device, generation, session))
    }

    async fn end_session(
        &self,
        device: &CursorKey,
        generation: Generation,
        session: SessionId,
    ) -> Result<bool, BackboneError> {
        let mut cursors = self.cursors.lock().expect("no holder of this lock panics");
        Ok(cursors.end(device, generation, session))
    }

    async fn store_cursors(&self, writes: &[CursorWrite]) -> Vec<Result<Stored, BackboneError>> {
        let now_ms = self.clock.now_ms();
        let mut cursors = self.cursors.lock().expect("no holder of this lock panics");
        writes.iter().map(|write| cursors.store(write, now_ms)).collect()
    }

    async fn heartbeat(
        &self,
        node: &NodeId,
        record: &str,
        lease: Duration,
    ) -> Result<Vec<(NodeId, String)>, BackboneError> {
        let now_ms = self.clock.now_ms();
        let lease_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        let mut nodes = self.nodes.lock().expect("no holder of this lock panics");
        nodes.insert(node.clone(), NodeRecord { written_ms: now_ms, record: record.to_owned() });
        let age = |node: &NodeRecord| now_ms.saturating_sub(node.written_ms);
        nodes.retain(|_, node| age(node) <= lease_ms.saturating_mul(FORGOTTEN_AFTER_LEASES));
        let live = nodes.iter().filter(|(_, node)| age(node) <= lease_ms);
        let mut live: Vec<_> = live.map(|(id, node)| (id.clone(), node.record.clone())).collect();
        live.sort_unstable();
        Ok(live)
    }

    async fn forget_node(&self, node: &NodeId) -> Result<(), BackboneError> {
        self.nodes.lock().expect("no holder of this lock panics").remove(node);
        Ok(())
    }

    async fn get_or_set(&self, key: &str, value: &str) -> Result<String, BackboneError> {
        let mut values = self.values.lock().expect("no holder of this lock panics");
        Ok(values.entry(key.to_owned()).or_insert_with(|| value.to_owned()).clone())
    }

    async fn kv(&self, store: &KvStore, op: KvOp) -> Result<KvAnswer, BackboneError> {
        let mut kv = self.kv.lock().expect("no holder of this lock panics");
        // Asked under the lock: what is set before it is seen by who reads after it.
        Ok(kv.apply(store, op, self.clock.now_ms()))
    }

    fn clock(&self) -> Clock {
        self.clock.clone()
    }

    fn epoch(&self) -> Epoch {
        self.lock().epoch()
    }

    fn is_connected(&self) -> bool {
        true
    }
}

impl Store {
    /// Adds an entry in the terms of the contract.
    fn append(&mut self, addition: &Addition, now_ms: u64) -> Result<Offset, BackboneError> {
        let key = addition.stream.as_str().as_bytes();
        let found = match &addition.once {
            None => None,
            Some(Once::Id(id)) => self.find_id(key, id),
            Some(Once::Ingress(entry)) => self.find_ingress(key, *entry, Offset::ZERO)?,
            Some(Once::IngressAfter(entry, previous)) => self.find_ingress(key, *entry, *previous)?,
        };
        if let Some(found) = found {
            return Ok(found);
        }
        let waiting = self.stream(key).map_or(0, |stream| stream.log.len());
        if addition.refuse_at.is_some_and(|most| waiting >= most.max(1)) {
            return Err(BackboneError::Full(waiting));
        }
        let new = store::Addition { id: NewId::Auto, fields: &addition.fields, make: true, trim: None };
        match self.add(key, &new, now_ms) {
            Ok(Some(offset)) => Ok(offset),
            Ok(None) => Err(BackboneError::Refused("the stream was not made".into())),
            Err(full @ Refused::Full) => Err(BackboneError::ReadOnly(full.to_string())),
            Err(id @ Refused::Id(_)) => Err(BackboneError::Refused(id.to_string())),
        }
    }

    /// The newest of the recent entries that has this idempotency key.
    fn find_id(&self, key: &[u8], id: &str) -> Option<Offset> {
        let log = &self.stream(key)?.log;
        let mut recent = log.range(Offset::ZERO..=Offset::MAX).rev().take(DEDUPE_WINDOW);
        let is_same = |entry: &RawEntry| field(entry, "id").is_some_and(|value| value == id.as_bytes());
        recent.find(is_same).map(|entry| entry.offset)
    }

    /// The entry that an ingress entry brought. One that comes before it ends the search, and none may be
    /// missing up to `previous`.
    fn find_ingress(
        &self,
        key: &[u8],
        entry: Offset,
        previous: Offset,
    ) -> Result<Option<Offset>, BackboneError> {
        let from = |found: RawEntry| -> Option<(Offset, Offset)> {
            let ingress = std::str::from_utf8(field(&found, "in")?).ok()?.parse().ok()?;
            Some((ingress, found.offset))
        };
        let latest = self.stream(key).and_then(|stream| {
            let oldest = Offset { ms: entry.ms, seq: 0 };
            let recent = stream.log.range(oldest..=Offset::MAX).rev().take(INGRESS_WINDOW);
            recent.filter_map(from).find(|(ingress, _)| *ingress <= entry)
        });
        match latest {
            Some((ingress, offset)) if ingress == entry => Ok(Some(offset)),
            Some((ingress, _)) if ingress >= previous => Ok(None),
            None if previous == Offset::ZERO => Ok(None),
            _ => Err(BackboneError::Behind),
        }
    }

    /// Trims in the terms of the contract; how many entries went.
    fn trim(&mut self, trim: &Trim) -> u64 {
        let limits = [Keep::Newest(trim.max_len), Keep::From(trim.min_offset)];
        let trimmed = self.change(trim.stream.as_str().as_bytes(), |stream| {
            let limits = limits.into_iter().chain(trim.max_bytes.map(Keep::Bytes));
            limits.map(|keep| stream.log.trim(keep, TRIMMED_AT_ONCE as usize)).sum::<usize>()
        });
        trimmed.unwrap_or(0) as u64
    }
}

fn field<'e>(entry: &'e RawEntry, name: &str) -> Option<&'e Bytes> {
    entry.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests;
