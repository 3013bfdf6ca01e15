//! A backbone for tests of this floor: it records what is added.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::backbone::clock::Clock;
use crate::backbone::{Backbone, BackboneError, CursorWrite, Page, Range, Read, Stored, Tail, Trim};
use crate::domain::{
    ChannelName, Cursor, CursorKey, Epoch, Generation, NodeId, Offset, Publication, RawEntry, StreamKey,
};

/// Answers after a few turns of the scheduler, so that calls overlap if they can.
#[derive(Default)]
pub(super) struct Fake {
    added: Mutex<Vec<(StreamKey, RawEntry)>>,
    ids: Mutex<HashMap<(StreamKey, String), Offset>>,
    away: AtomicBool,
    in_flight: AtomicUsize,
    pub(super) most_in_flight: AtomicUsize,
}

impl Fake {
    /// From now on nothing answers.
    pub(super) fn leave(&self) {
        self.away.store(true, Ordering::Relaxed);
    }

    /// What was added to a channel of tenant `acme`, in order.
    pub(super) fn log(&self, channel: &str) -> Vec<Publication> {
        let key = format!("tg:acme:ch:{channel}");
        let added = self.added.lock().unwrap();
        let entries = added.iter().filter(|(stream, _)| stream.as_str() == key);
        entries.map(|(_, entry)| Publication::from_entry(entry, usize::MAX).unwrap()).collect()
    }
}

#[async_trait]
impl Backbone for Fake {
    async fn append(
        &self,
        stream: &StreamKey,
        fields: Vec<(Bytes, Bytes)>,
        dedupe: Option<&str>,
    ) -> Result<Offset, BackboneError> {
        let now = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_in_flight.fetch_max(now, Ordering::Relaxed);
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        if self.away.load(Ordering::Relaxed) {
            return Err(BackboneError::Away("connection refused".to_owned()));
        }
        if stream.as_str().ends_with("room:list") {
            return Err(BackboneError::WrongType(stream.to_string()));
        }
        let mut added = self.added.lock().unwrap();
        let offset = Offset { ms: 1, seq: added.len() as u64 };
        if let Some(id) = dedupe {
            let mut ids = self.ids.lock().unwrap();
            if let Some(known) = ids.insert((stream.clone(), id.to_owned()), offset) {
                ids.insert((stream.clone(), id.to_owned()), known);
                return Ok(known);
            }
        }
        added.push((stream.clone(), RawEntry { offset, fields, oversize: None }));
        Ok(offset)
    }

    fn is_connected(&self) -> bool {
        !self.away.load(Ordering::Relaxed)
    }

    fn clock(&self) -> Clock {
        Clock::default()
    }

    fn epoch(&self) -> Epoch {
        Epoch(1)
    }

    async fn watch(&self, _: &[StreamKey]) -> Result<(), BackboneError> {
        unreachable!("this floor only appends")
    }

    async fn unwatch(&self, _: &[StreamKey]) {
        unreachable!("this floor only appends")
    }

    async fn tails(&self, _: &[StreamKey]) -> Vec<Result<Tail, BackboneError>> {
        unreachable!("this floor only appends")
    }

    async fn read(&self, _: &[Read]) -> Vec<Result<Page, BackboneError>> {
        unreachable!("this floor only appends")
    }

    async fn history(&self, _: &StreamKey, _: Range) -> Result<Vec<RawEntry>, BackboneError> {
        unreachable!("this floor only appends")
    }

    async fn trim(&self, _: &[Trim]) -> Result<(), BackboneError> {
        unreachable!("this floor only appends")
    }

    async fn claim_cursors(
        &self,
        _: &CursorKey,
        _: Duration,
    ) -> Result<(Generation, Vec<(ChannelName, Cursor)>), BackboneError> {
        unreachable!("this floor only appends")
    }

    async fn store_cursors(&self, _: &[CursorWrite]) -> Vec<Result<Stored, BackboneError>> {
        unreachable!("this floor only appends")
    }

    async fn heartbeat(
        &self,
        _: &NodeId,
        _: &str,
        _: Duration,
    ) -> Result<Vec<(NodeId, String)>, BackboneError> {
        unreachable!("this floor only appends")
    }

    async fn forget_node(&self, _: &NodeId) -> Result<(), BackboneError> {
        unreachable!("this floor only appends")
    }

    async fn get_or_set(&self, _: &str, _: &str) -> Result<String, BackboneError> {
        unreachable!("this floor only appends")
    }
}
