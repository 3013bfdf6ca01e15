//! The backbone: streams, wake-ups, cursors and the little the nodes of a cluster share.
//!
//! Two implementations keep one contract, [`embedded`] in this process and [`redis`] over the network;
//! `tests/promises/backbone.rs` runs the same conformance suite over both.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::domain::{
    ChannelName, Cursor, CursorKey, Epoch, Generation, NodeId, Offset, RawEntry, SessionId, StreamKey,
};

pub mod backoff;
pub mod clock;
pub mod embedded;
pub mod kv;
#[cfg(test)]
pub(crate) mod overlay;
pub mod redis;
pub mod resp;
pub mod wake;

/// What a node needs of streams. All futures are cancel-safe in the sense that dropping one loses
/// only its answer: the command may or may not have been carried out.
#[async_trait]
pub trait Backbone: Send + Sync + 'static {
    /// Starts waking for these streams: each addition marks the stream in the [`wake::DirtySet`] that
    /// the backbone was built with. Resolves when every wake-up is confirmed: an entry added after
    /// that marks the stream. After a lost connection the backbone watches again by itself, checks the
    /// epoch, and marks every watched stream. Watching twice is watching once.
    async fn watch(&self, streams: &[StreamKey]) -> Result<(), BackboneError>;

    /// Stops waking for these streams. A few late marks may still come; [`Self::watchers`] asked after
    /// this does not count this node, while the backbone answers.
    async fn unwatch(&self, streams: &[StreamKey]);

    /// Where these streams end, one answer each, in order. A stream that does not exist ends at `0-0`.
    async fn tails(&self, streams: &[StreamKey]) -> Vec<Result<Tail, BackboneError>>;

    /// Reads on from positions, one answer each, in order; one stream's error is that stream's alone.
    async fn read(&self, reads: &[Read]) -> Vec<Result<Page, BackboneError>>;

    /// [`Backbone::read`] of what is new: no page for somebody behind holds it up.
    async fn read_live(&self, reads: &[Read]) -> Vec<Result<Page, BackboneError>> {
        self.read(reads).await
    }

    /// Reads entries for history: forwards from `range.after` or backwards from `range.before`, both
    /// exclusive, at most `range.limit`. The answer is in ascending order either way.
    async fn history(&self, stream: &StreamKey, range: Range) -> Result<Vec<RawEntry>, BackboneError>;

    /// Adds entries, pipelined, one answer each, in order; two to one stream keep their order. The answer
    /// is the entry's offset once it is in the log, or that of the entry which [`Once`] found there.
    async fn append_all(&self, additions: &[Addition]) -> Vec<Result<Offset, BackboneError>>;

    /// Adds one entry. With `dedupe` it is added [`Once::Id`].
    async fn append(
        &self,
        stream: &StreamKey,
        fields: Vec<(Bytes, Bytes)>,
        dedupe: Option<&str>,
    ) -> Result<Offset, BackboneError> {
        let once = dedupe.map(|id| Once::Id(id.into()));
        one(self.append_all(&[Addition { stream: stream.clone(), fields, once, refuse_at: None }]).await)
    }

    /// Trims streams by length, age and bytes, one answer each, in order: how many entries went, 0 for
    /// a stream that does not exist. Bounded work a stream: of one that is [`TRIMMED_AT_ONCE`] entries
    /// too long some may be left.
    async fn trim(&self, trims: &[Trim]) -> Vec<Result<u64, BackboneError>>;

    /// Removes entries; how many there were.
    async fn remove(&self, stream: &StreamKey, offsets: &[Offset]) -> Result<u64, BackboneError>;

    /// Removes the streams among these that have no entry and no consumer group and whose last entry came
    /// before the offset, each looked at in the moment of its removal, one answer each, in order: whether
    /// it was removed.
    async fn remove_empty(&self, streams: &[(StreamKey, Offset)]) -> Vec<Result<bool, BackboneError>>;

    /// Some more of all streams whose keys begin with `prefix`, from `cursor`, 0 at first, and the
    /// cursor to go on with, 0 at the end. A stream that is there from the first call to the last is
    /// found at least once; one call costs the backbone about `effort` keys looked at.
    async fn scan(
        &self,
        prefix: &str,
        cursor: u64,
        effort: usize,
    ) -> Result<(u64, Vec<StreamKey>), BackboneError>;

    /// How many nodes watch each stream, this one included, one answer each, in order; `None` where that
    /// cannot be told (nodes that poll).
    async fn watchers(&self, streams: &[StreamKey]) -> Vec<Result<Option<u64>, BackboneError>>;

    /// Takes work of a group for one of its consumers: first what was given back, then what was not
    /// [kept](Self::keep) for [`Take::idle`] by whoever was given it, then new entries. Group and stream
    /// are made where they are missing, from the oldest entry on. Entries that were removed meanwhile
    /// are dropped from the group. To be given an entry is no attempt: only its holder counts those.
    async fn take(&self, take: &Take) -> Result<Vec<Work>, BackboneError>;

    /// Says that a consumer still works on these entries, and how often each was tried. The answer:
    /// those that still are the consumer's; the others went to somebody else meanwhile, or are done.
    async fn keep(&self, group: &Group, consumer: &str, held: &[Held]) -> Result<Vec<Offset>, BackboneError>;

    /// Gives entries back that still are the consumer's: whoever takes next gets them, with their
    /// attempts.
    async fn give_back(&self, group: &Group, consumer: &str, held: &[Held]) -> Result<(), BackboneError>;

    /// Work is done: the entries leave the group and the stream. Done twice is done once.
    async fn finish(&self, group: &Group, offsets: &[Offset]) -> Result<(), BackboneError>;

    /// Removes the group's consumers that hold nothing and neither took nor kept for so long; how many.
    async fn tidy(&self, group: &Group, idle: Duration) -> Result<u64, BackboneError>;

    /// Takes a lease or renews it: whether `holder` has it from now on for `ttl`. Leases of others end
    /// by themselves. After an error the lease may have been taken all the same.
    async fn lease(&self, key: &str, holder: &str, ttl: Duration) -> Result<bool, BackboneError>;

    /// Gives a lease up, if `holder` has it.
    async fn release(&self, key: &str, holder: &str) -> Result<(), BackboneError>;

    /// Begins a new generation of a device and returns it with the cursors stored so far. `ttl` is
    /// how long the cursors outlive their last write.
    async fn claim_cursors(
        &self,
        device: &CursorKey,
        ttl: Duration,
    ) -> Result<(Generation, Vec<(ChannelName, Cursor)>), BackboneError>;

    /// Notes whose generation of a device this is, unless there is a newer one; the session that was noted
    /// before and has not ended.
    async fn begin_session(
        &self,
        device: &CursorKey,
        generation: Generation,
        session: SessionId,
    ) -> Result<Option<SessionId>, BackboneError>;

    /// Whether a session that ends under this generation is over: false where it goes on under a newer one.
    async fn end_session(
        &self,
        device: &CursorKey,
        generation: Generation,
        session: SessionId,
    ) -> Result<bool, BackboneError>;

    /// Stores cursors, one answer each, in order. Within a generation a cursor only moves forward (an
    /// older offset is kept out silently and counts as stored; the same offset updates `attempts`); a
    /// write of an older generation is refused with [`Stored::Stale`].
    async fn store_cursors(&self, writes: &[CursorWrite]) -> Vec<Result<Stored, BackboneError>>;

    /// Writes this node's record with the backbone's time, and returns all records not older than
    /// `lease`, this node's included. Records older than ten leases are removed.
    async fn heartbeat(
        &self,
        node: &NodeId,
        record: &str,
        lease: Duration,
    ) -> Result<Vec<(NodeId, String)>, BackboneError>;

    /// Removes this node's record, at a clean shutdown.
    async fn forget_node(&self, node: &NodeId) -> Result<(), BackboneError>;

    /// Returns the value at `key`, or stores `value` there and returns it: for the cluster's secret.
    async fn get_or_set(&self, key: &str, value: &str) -> Result<String, BackboneError>;

    /// Does something with a plugins' key-value store. Where an answer was lost a change may have been
    /// made.
    async fn kv(&self, store: &kv::KvStore, op: kv::KvOp) -> Result<kv::KvAnswer, BackboneError>;

    /// The backbone's clock, kept by a measured offset.
    fn clock(&self) -> clock::Clock;

    /// The current epoch. It changes on evidence of loss: pages and tails carry the one they were
    /// read in.
    fn epoch(&self) -> Epoch;

    /// Whether the backbone answers now: what `/readyz` says.
    fn is_connected(&self) -> bool;
}

/// Bytes of an entry, with an allowance for each field, beyond which it is not read: [`RawEntry::oversize`].
/// Well above the largest payload that a tenant can be allowed.
pub const MAX_ENTRY: usize = 4 << 20;

/// How many recent entries are looked at for an idempotency key.
pub const DEDUPE_WINDOW: usize = 100;

/// Reads on from a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// The stream.
    pub stream: StreamKey,
    /// Entries after this offset are wanted.
    pub after: Offset,
    /// How many entries had ever been added to the stream at `after`, where that is known: it proves
    /// continuity when the entry at `after` is no longer in the log. `0-0` implies `Some(0)`.
    pub added: Option<u64>,
    /// At most so many entries, at least one. Where they are large fewer come, and [`Page::more`] says so.
    pub count: usize,
}

/// What a read found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Entries after `Read::after`, ascending, contiguous in the log.
    pub entries: Vec<RawEntry>,
    /// Proven: nothing is missing between `Read::after` and the first entry (or the end of the log).
    /// Doubt counts as missing.
    pub whole: bool,
    /// More entries follow the last one here.
    pub more: bool,
    /// Where the reader stands now: the last entry's offset; without entries the end of the log, or
    /// `Read::after` where that is the end.
    pub end: Offset,
    /// Entries ever added at `end`, where known.
    pub added: Option<u64>,
    /// The epoch it was read in.
    pub epoch: Epoch,
}

/// Where a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// The last offset ever given out (`last-generated-id`), `0-0` for a stream that does not exist.
    pub last: Offset,
    /// The first entry still in the log.
    pub first: Option<Offset>,
    /// Entries ever added (`entries-added`, Redis ≥ 7), `Some(0)` for a stream that does not exist.
    pub added: Option<u64>,
    /// The epoch it was read in.
    pub epoch: Epoch,
}

/// Which entries of history are wanted. With neither bound: the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Only entries before this offset, the newest of them.
    pub before: Option<Offset>,
    /// Only entries after this offset, the oldest of them. Not together with `before`.
    pub after: Option<Offset>,
    /// At most so many.
    pub limit: usize,
}

/// An entry to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addition {
    /// Where.
    pub stream: StreamKey,
    /// Its fields.
    pub fields: Vec<(Bytes, Bytes)>,
    /// What keeps it from being added a second time.
    pub once: Option<Once>,
    /// Refused with [`BackboneError::Full`] where the stream has so many entries already.
    pub refuse_at: Option<u64>,
}

/// By what an entry that was added before is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Once {
    /// The same field `id` among the last [`DEDUPE_WINDOW`] entries.
    Id(Box<str>),
    /// The same field `in`, this ingress entry's offset, among the entries that are not older than it,
    /// the last [`INGRESS_WINDOW`] of them. A stream gets its ingress entries in their order, so the
    /// search ends at an earlier one: however far behind an ingress is, that is mostly the first.
    Ingress(Offset),
    /// The same for the first of these ingress entries, and only behind the second one, which was to be
    /// added to the same stream just before: where that is not there [`BackboneError::Behind`]. So many
    /// of one stream fit into one pipeline, and stay in order whichever fails.
    IngressAfter(Offset, Offset),
}

/// How many entries of one stream a single [`Backbone::trim`] takes away at most, by each of its limits.
pub const TRIMMED_AT_ONCE: u64 = 10_000;

/// The consumer that holds what was [given back](Backbone::give_back). No node can have this name.
pub const GIVEN_BACK: &str = "~given-back";

/// How many entries of a target are looked at for those that an ingress entry brought.
pub const INGRESS_WINDOW: usize = 10_000;

/// A consumer group of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Group {
    /// The stream.
    pub stream: StreamKey,
    /// The group's name.
    pub name: &'static str,
}

/// Takes work of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Take {
    /// The group.
    pub group: Group,
    /// For whom.
    pub consumer: Box<str>,
    /// At most so many entries.
    pub count: usize,
    /// How long a consumer may hold an entry without [keeping](Backbone::keep) it. What is held longer
    /// is looked for at most once a second a group and node.
    pub idle: Duration,
}

/// An entry that a consumer was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    /// The entry.
    pub entry: RawEntry,
    /// How often it was tried, by what its last holder said.
    pub attempts: u8,
    /// Somebody was given it before.
    pub again: bool,
}

/// An entry that a consumer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Which.
    pub offset: Offset,
    /// How often it was tried.
    pub attempts: u8,
}

/// Trims one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trim {
    /// The stream.
    pub stream: StreamKey,
    /// Keep at most about so many entries.
    pub max_len: u64,
    /// Drop entries before this offset.
    pub min_offset: Offset,
    /// Keep at most about so many bytes of the backbone's memory.
    pub max_bytes: Option<u64>,
}

/// Stores one cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorWrite {
    /// Whose.
    pub device: CursorKey,
    /// The writer's generation.
    pub generation: Generation,
    /// Of which channel.
    pub channel: ChannelName,
    /// The value.
    pub cursor: Cursor,
}

/// What became of a cursor write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It stands, or a later one does.
    Yes,
    /// A newer generation owns the device: this session was taken over.
    Stale,
}

/// Why the backbone did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackboneError {
    /// No connection, or it was lost while waiting. Retry later; the command may have been carried out.
    #[error("the backbone is away: {0}")]
    Away(String),
    /// The key holds something else than a stream.
    #[error("the key holds no stream: {0}")]
    WrongType(String),
    /// The backbone takes no writes now: out of memory, read-only, loading, or short of replicas.
    #[error("the backbone takes no writes: {0}")]
    ReadOnly(String),
    /// The stream holds as many entries as it may: publishing to a queue that is behind. Retry later.
    #[error("the stream is full: {0} entries wait")]
    Full(u64),
    /// The ingress entry that comes first is not in the stream. Retry after that one.
    #[error("the ingress entry before it is not in the stream")]
    Behind,
    /// It refused the command otherwise: rights, syntax, a value it does not take.
    #[error("the backbone refused: {0}")]
    Refused(String),
}

impl BackboneError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Away(_) | Self::ReadOnly(_) | Self::Full(_) | Self::Behind)
    }
}

/// The answer to a call that asked for one thing.
pub fn one<T>(answers: Vec<Result<T, BackboneError>>) -> Result<T, BackboneError> {
    let missing = || Err(BackboneError::Refused("the backbone gave no answer".to_owned()));
    answers.into_iter().next().unwrap_or_else(missing)
}
