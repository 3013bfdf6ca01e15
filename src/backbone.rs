//! The backbone: streams, wake-ups, cursors and the little the nodes of a cluster share.
//!
//! Two implementations keep one contract, [`embedded`] in this process and [`redis`] over the network;
//! `tests/promises/backbone.rs` runs the same conformance suite over both.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::domain::{ChannelName, Cursor, CursorKey, Epoch, Generation, NodeId, Offset, RawEntry, StreamKey};

pub mod backoff;
pub mod clock;
pub mod embedded;
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

    /// Stops waking for these streams. A few late marks may still come.
    async fn unwatch(&self, streams: &[StreamKey]);

    /// Where these streams end, one answer each, in order. A stream that does not exist ends at `0-0`.
    async fn tails(&self, streams: &[StreamKey]) -> Vec<Result<Tail, BackboneError>>;

    /// Reads on from positions, one answer each, in order; one stream's error is that stream's alone.
    async fn read(&self, reads: &[Read]) -> Vec<Result<Page, BackboneError>>;

    /// Reads entries for history: forwards from `range.after` or backwards from `range.before`, both
    /// exclusive, at most `range.limit`. The answer is in ascending order either way.
    async fn history(&self, stream: &StreamKey, range: Range) -> Result<Vec<RawEntry>, BackboneError>;

    /// Adds an entry; the answer is its offset once it is in the log. With `dedupe`, an entry among
    /// the last [`DEDUPE_WINDOW`] whose field `id` equals it answers instead of a second addition.
    async fn append(
        &self,
        stream: &StreamKey,
        fields: Vec<(Bytes, Bytes)>,
        dedupe: Option<&str>,
    ) -> Result<Offset, BackboneError>;

    /// Trims streams by length and by age; one failing does not stop the others.
    async fn trim(&self, trims: &[Trim]) -> Result<(), BackboneError>;

    /// Begins a new generation of a device and returns it with the cursors stored so far. `ttl` is
    /// how long the cursors outlive their last write.
    async fn claim_cursors(
        &self,
        device: &CursorKey,
        ttl: Duration,
    ) -> Result<(Generation, Vec<(ChannelName, Cursor)>), BackboneError>;

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

    /// The backbone's clock, kept by a measured offset.
    fn clock(&self) -> clock::Clock;

    /// The current epoch. It changes on evidence of loss: pages and tails carry the one they were
    /// read in.
    fn epoch(&self) -> Epoch;

    /// Whether the backbone answers now: what `/readyz` says.
    fn is_connected(&self) -> bool;
}

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
    /// At most so many entries, at least one.
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

/// Trims one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trim {
    /// The stream.
    pub stream: StreamKey,
    /// Keep at most about so many entries.
    pub max_len: u64,
    /// Drop entries before this offset.
    pub min_offset: Offset,
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
    /// It refused the command otherwise: rights, syntax, a value it does not take.
    #[error("the backbone refused: {0}")]
    Refused(String),
}

impl BackboneError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Away(_) | Self::ReadOnly(_))
    }
}

/// The answer to a call that asked for one thing.
pub fn one<T>(answers: Vec<Result<T, BackboneError>>) -> Result<T, BackboneError> {
    let missing = || Err(BackboneError::Refused("the backbone gave no answer".to_owned()));
    answers.into_iter().next().unwrap_or_else(missing)
}
