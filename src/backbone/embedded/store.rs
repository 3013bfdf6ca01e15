//! All streams of the embedded backbone, who waits for them, and what they weigh.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use indexmap::IndexMap;
use tokio::sync::Notify;

use super::group::Group;
use super::log::{AddError, Keep, Log, NewId};
use crate::backbone::wake::DirtySet;
use crate::backbone::{Page, Read, Tail};
use crate::domain::{Epoch, Offset, StreamKey};

/// What a stream costs beside its entries and groups.
const STREAM_BYTES: usize = 256;

/// A key's value: entries and the groups that read them.
#[derive(Debug, Default)]
pub struct Stream {
    /// The entries.
    pub log: Log,
    /// Consumer groups by name.
    pub groups: BTreeMap<Bytes, Group>,
    /// A reader stood beyond the end once: the key had another life before, and that was said.
    loss_noted: bool,
}

/// The streams by key. Held under the one lock of [`super::Embedded`].
pub struct Store {
    streams: IndexMap<Bytes, Stream>,
    watched: HashSet<StreamKey>,
    dirty: Arc<DirtySet>,
    waiting: HashMap<Bytes, Vec<Arc<Notify>>>,
    epoch: Epoch,
    bytes: usize,
    max_bytes: usize,
}

/// An entry to add.
#[derive(Debug, Clone, Copy)]
pub struct Addition<'a> {
    /// Its id.
    pub id: NewId,
    /// Its fields.
    pub fields: &'a [(Bytes, Bytes)],
    /// Makes the stream where there is none.
    pub make: bool,
    /// Trims afterwards: what to keep, and how many to drop at most.
    pub trim: Option<(Keep, usize)>,
}

/// Why an entry was not added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Its id does not do.
    #[error("ERR {0}")]
    Id(#[from] AddError),
    /// The limit of memory is reached.
    #[error("OOM command not allowed when used memory > 'maxmemory'.")]
    Full,
}

impl Store {
    pub(super) fn new(dirty: Arc<DirtySet>, max_bytes: usize) -> Self {
        Self {
            streams: IndexMap::new(),
            watched: HashSet::new(),
            dirty,
            waiting: HashMap::new(),
            epoch: Epoch::random(),
            bytes: 0,
            max_bytes,
        }
    }

    /// The stream at a key.
    pub fn stream(&self, key: &[u8]) -> Option<&Stream> {
        self.streams.get(key)
    }

    /// Changes the stream at a key; `None` where there is none. All changes go through here, so that
    /// the memory in use stays known.
    pub fn change<R>(&mut self, key: &[u8], change: impl FnOnce(&mut Stream) -> R) -> Option<R> {
        let stream = self.streams.get_mut(key)?;
        let before = stream.bytes();
        let answer = change(stream);
        self.bytes = (self.bytes + stream.bytes()).saturating_sub(before);
        Some(answer)
    }

    /// Makes an empty stream where there is none.
    pub fn make(&mut self, key: &[u8]) {
        if !self.streams.contains_key(key) {
            self.insert(key, Stream::default());
        }
    }

    /// Adds an entry, marks the stream if it is watched, and wakes who waits for it. `None` where there
    /// is no stream and none is to be made.
    pub fn add(&mut self, key: &[u8], new: &Addition<'_>, now_ms: u64) -> Result<Option<Offset>, Refused> {
        if self.is_full() {
            return Err(Refused::Full);
        }
        let add = |stream: &mut Stream| {
            let offset = stream.log.add(new.id, new.fields, now_ms)?;
            if let Some((keep, limit)) = new.trim {
                stream.log.trim(keep, limit);
            }
            Ok::<_, AddError>(offset)
        };
        let offset = match self.change(key, add) {
            Some(added) => added?,
            None if new.make => {
                let mut stream = Stream::default();
                let offset = add(&mut stream)?;
                self.insert(key, stream);
                offset
            }
            None => return Ok(None),
        };
        if let Some(watched) = std::str::from_utf8(key).ok().and_then(|key| self.watched.get(key)) {
            self.dirty.mark([watched.clone()]);
        }
        self.wake(key);
        Ok(Some(offset))
    }

    fn insert(&mut self, key: &[u8], stream: Stream) {
        self.bytes += key.len() + stream.bytes();
        self.streams.insert(Bytes::copy_from_slice(key), stream);
    }

    /// Deletes a stream; whether there was one. Who waits for it looks again, as its group is gone.
    pub fn delete(&mut self, key: &[u8]) -> bool {
        let Some(stream) = self.streams.swap_remove(key) else { return false };
        self.bytes = self.bytes.saturating_sub(key.len() + stream.bytes());
        self.wake(key);
        true
    }

    /// Wakes everybody who waits for this stream.
    pub fn wake(&self, key: &[u8]) {
        for waiter in self.waiting.get(key).into_iter().flatten() {
            waiter.notify_one();
        }
    }

    /// Some keys of streams from `cursor` on, 0 at first, and where to go on, 0 at the end.
    ///
    /// It goes from the end to the start: the last stream takes the place of one that is deleted, so
    /// one that was not found yet never moves behind the cursor.
    pub(super) fn scan(&self, cursor: u64, effort: usize) -> (u64, impl Iterator<Item = &Bytes>) {
        let end = match usize::try_from(cursor) {
            Ok(cursor) if cursor > 0 => cursor.min(self.streams.len()),
            _ => self.streams.len(),
        };
        let start = end.saturating_sub(effort.max(1));
        (start as u64, self.streams.as_slice()[start..end].keys())
    }

    pub(super) fn is_watched(&self, key: &StreamKey) -> bool {
        self.watched.contains(key)
    }

    /// How many streams there are.
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// Whether there is no stream.
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// About how much memory the streams take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether additions are refused until something is trimmed or deleted.
    pub fn is_full(&self) -> bool {
        self.bytes >= self.max_bytes
    }

    /// The current epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(super) fn watch(&mut self, key: &StreamKey) {
        self.watched.insert(key.clone());
    }

    pub(super) fn unwatch(&mut self, key: &StreamKey) {
        self.watched.remove(key);
    }

    pub(super) fn tail(&self, key: &StreamKey) -> Tail {
        let nothing = Log::default();
        let log = self.stream(key.as_str().as_bytes()).map_or(&nothing, |stream| &stream.log);
        Tail { last: log.last(), first: log.first(), added: Some(log.added()), epoch: self.epoch }
    }

    pub(super) fn read(&mut self, read: &Read) -> Page {
        let nothing = Log::default();
        let log = match self.streams.get_mut(read.stream.as_str().as_bytes()) {
            None => &nothing,
            Some(stream) => {
                // Ids only grow during a stream's life, so a reader who counted up to a place beyond its
                // end comes from an earlier one, which is lost; a position without a count may be
                // invented. That is one loss however many readers tell of it.
                if stream.log.last() < read.after && read.added.is_some() && !stream.loss_noted {
                    stream.loss_noted = true;
                    self.epoch = Epoch::random();
                }
                &stream.log
            }
        };
        let found = log.read(read.after, read.added, read.count);
        Page {
            entries: found.entries,
            whole: found.whole,
            more: found.more,
            end: found.end,
            added: Some(found.added),
            epoch: self.epoch,
        }
    }

    pub(super) fn enlist(&mut self, keys: &[Bytes], waiter: &Arc<Notify>) {
        for key in keys {
            self.waiting.entry(key.clone()).or_default().push(waiter.clone());
        }
    }

    pub(super) fn dismiss(&mut self, keys: &[Bytes], waiter: &Arc<Notify>) {
        for key in keys {
            if let Some(waiting) = self.waiting.get_mut(key) {
                waiting.retain(|other| !Arc::ptr_eq(other, waiter));
                if waiting.is_empty() {
                    self.waiting.remove(key);
                }
            }
        }
    }
}

impl Stream {
    fn bytes(&self) -> usize {
        let groups: usize = self.groups.iter().map(|(name, group)| name.len() + group.bytes()).sum();
        STREAM_BYTES + self.log.bytes() + groups
    }
}
