//! A backbone for tests that differs from the embedded one in a few calls.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::clock::Clock;
use super::embedded::Embedded;
use super::kv::{KvAnswer, KvOp, KvStore};
use super::{
    Addition, Backbone, BackboneError, CursorWrite, Group, Held, Page, Range, Read, Stored, Tail, Take, Trim,
    Work,
};
use crate::domain::{
    ChannelName, Cursor, CursorKey, Epoch, Generation, NodeId, Offset, RawEntry, SessionId, StreamKey,
};

/// What a test makes of the embedded backbone: every call that it does not say itself goes there.
#[async_trait]
pub trait Overlay: Send + Sync + 'static {
    /// The backbone under it.
    fn under(&self) -> &Arc<Embedded>;

    async fn watch(&self, streams: &[StreamKey]) -> Result<(), BackboneError> {
        self.under().watch(streams).await
    }

    async fn unwatch(&self, streams: &[StreamKey]) {
        self.under().unwatch(streams).await
    }

    async fn tails(&self, streams: &[StreamKey]) -> Vec<Result<Tail, BackboneError>> {
        self.under().tails(streams).await
    }

    async fn read(&self, reads: &[Read]) -> Vec<Result<Page, BackboneError>> {
        self.under().read(reads).await
    }

    async fn history(&self, stream: &StreamKey, range: Range) -> Result<Vec<RawEntry>, BackboneError> {
        self.under().history(stream, range).await
    }

    async fn append_all(&self, additions: &[Addition]) -> Vec<Result<Offset, BackboneError>> {
        self.under().append_all(additions).await
    }

    async fn trim(&self, trims: &[Trim]) -> Vec<Result<u64, BackboneError>> {
        self.under().trim(trims).await
    }

    async fn remove(&self, stream: &StreamKey, offsets: &[Offset]) -> Result<u64, BackboneError> {
        self.under().remove(stream, offsets).await
    }

    async fn remove_empty(&self, streams: &[(StreamKey, Offset)]) -> Vec<Result<bool, BackboneError>> {
        self.under().remove_empty(streams).await
    }

    async fn scan(
        &self,
        prefix: &str,
        cursor: u64,
        effort: usize,
    ) -> Result<(u64, Vec<StreamKey>), BackboneError> {
        self.under().scan(prefix, cursor, effort).await
    }

    async fn watchers(&self, streams: &[StreamKey]) -> Vec<Result<Option<u64>, BackboneError>> {
        self.under().watchers(streams).await
    }

    async fn take(&self, take: &Take) -> Result<Vec<Work>, BackboneError> {
        self.under().take(take).await
    }

    async fn keep(&self, group: &Group, consumer: &str, held: &[Held]) -> Result<Vec<Offset>, BackboneError> {
        self.under().keep(group, consumer, held).await
    }

    async fn give_back(&self, group: &Group, consumer: &str, held: &[Held]) -> Result<(), BackboneError> {
        self.under().give_back(group, consumer, held).await
    }

    async fn finish(&self, group: &Group, offsets: &[Offset]) -> Result<(), BackboneError> {
        self.under().finish(group, offsets).await
    }

    async fn tidy(&self, group: &Group, idle: Duration) -> Result<u64, BackboneError> {
        self.under().tidy(group, idle).await
    }

    async fn lease(&self, key: &str, holder: &str, ttl: Duration) -> Result<bool, BackboneError> {
        self.under().lease(key, holder, ttl).await
    }

    async fn release(&self, key: &str, holder: &str) -> Result<(), BackboneError> {
        self.under().release(key, holder).await
    }

    async fn claim_cursors(
        &self,
        device: &CursorKey,
        ttl: Duration,
    ) -> Result<(Generation, Vec<(ChannelName, Cursor)>), BackboneError> {
        self.under().claim_cursors(device, ttl).await
    }

    async fn begin_session(
        &self,
        device: &CursorKey,
        generation: Generation,
        session: SessionId,
    ) -> Result<Option<SessionId>, BackboneError> {
        self.under().begin_session(device, generation, session).await
    }

    async fn end_session(
        &self,
        device: &CursorKey,
        generation: Generation,
        session: SessionId,
    ) -> Result<bool, BackboneError> {
        self.under().end_session(device, generation, session).await
    }

    async fn store_cursors(&self, writes: &[CursorWrite]) -> Vec<Result<Stored, BackboneError>> {
        self.under().store_cursors(writes).await
    }

    async fn heartbeat(
        &self,
        node: &NodeId,
        record: &str,
        lease: Duration,
    ) -> Result<Vec<(NodeId, String)>, BackboneError> {
        self.under().heartbeat(node, record, lease).await
    }

    async fn forget_node(&self, node: &NodeId) -> Result<(), BackboneError> {
        self.under().forget_node(node).await
    }

    async fn get_or_set(&self, key: &str, value: &str) -> Result<String, BackboneError> {
        self.under().get_or_set(key, value).await
    }

    async fn kv(&self, store: &KvStore, op: KvOp) -> Result<KvAnswer, BackboneError> {
        self.under().kv(store, op).await
    }

    fn clock(&self) -> Clock {
        self.under().clock()
    }

    fn epoch(&self) -> Epoch {
        self.under().epoch()
    }

    fn is_connected(&self) -> bool {
        self.under().is_connected()
    }
}

#[async_trait]
impl<T: Overlay> Backbone for T {
    async fn watch(&self, streams: &[StreamKey]) -> Result<(), BackboneError> {
        Overlay::watch(self, streams).await
    }

    async fn unwatch(&self, streams: &[StreamKey]) {
        Overlay::unwatch(self, streams).await
    }

    async fn tails(&self, streams: &[StreamKey]) -> Vec<Result<Tail, BackboneError>> {
        Overlay::tails(self, streams).await
    }

    async fn read(&self, reads: &[Read]) -> Vec<Result<Page, BackboneError>> {
        Overlay::read(self, reads).await
    }

    async fn history(&self, stream: &StreamKey, range: Range) -> Result<Vec<RawEntry>, BackboneError> {
        Overlay::history(self, stream, range).await
    }

    async fn append_all(&self, additions: &[Addition]) -> Vec<Result<Offset, BackboneError>> {
        Overlay::append_all(self, additions).await
    }

    async fn trim(&self, trims: &[Trim]) -> Vec<Result<u64, BackboneError>> {
        Overlay::trim(self, trims).await
    }

    async fn remove(&self, stream: &StreamKey, offsets: &[Offset]) -> Result<u64, BackboneError> {
        Overlay::remove(self, stream, offsets).await
    }

    async fn remove_empty(&self, streams: &[(StreamKey, Offset)]) -> Vec<Result<bool, BackboneError>> {
        Overlay::remove_empty(self, streams).await
    }

    async fn scan(
        &self,
        prefix: &str,
        cursor: u64,
        effort: usize,
    ) -> Result<(u64, Vec<StreamKey>), BackboneError> {
        Overlay::scan(self, prefix, cursor, effort).await
    }

    async fn watchers(&self, streams: &[StreamKey]) -> Vec<Result<Option<u64>, BackboneError>> {
        Overlay::watchers(self, streams).await
    }

    async fn take(&self, take: &Take) -> Result<Vec<Work>, BackboneError> {
        Overlay::take(self, take).await
    }

    async fn keep(&self, group: &Group, consumer: &str, held: &[Held]) -> Result<Vec<Offset>, BackboneError> {
        Overlay::keep(self, group, consumer, held).await
    }

    async fn give_back(&self, group: &Group, consumer: &str, held: &[Held]) -> Result<(), BackboneError> {
        Overlay::give_back(self, group, consumer, held).await
    }

    async fn finish(&self, group: &Group, offsets: &[Offset]) -> Result<(), BackboneError> {
        Overlay::finish(self, group, offsets).await
    }

    async fn tidy(&self, group: &Group, idle: Duration) -> Result<u64, BackboneError> {
        Overlay::tidy(self, group, idle).await
    }

    async fn lease(&self, key: &str, holder: &str, ttl: Duration) -> Result<bool, BackboneError> {
        Overlay::lease(self, key, holder, ttl).await
    }

    async fn release(&self, key: &str, holder: &str) -> Result<(), BackboneError> {
        Overlay::release(self, key, holder).await
    }

    async fn claim_cursors(
        &self,
        device: &CursorKey,
        ttl: Duration,
    ) -> Result<(Generation, Vec<(ChannelName, Cursor)>), BackboneError> {
        Overlay::claim_cursors(self, device, ttl).await
    }

    async fn begin_session(
        &self,
        device: &CursorKey,
        generation: Generation,
        session: SessionId,
    ) -> Result<Option<SessionId>, BackboneError> {
        Overlay::begin_session(self, device, generation, session).await
    }

    async fn end_session(
        &self,
        device: &CursorKey,
        generation: Generation,
        session: SessionId,
    ) -> Result<bool, BackboneError> {
        Overlay::end_session(self, device, generation, session).await
    }

    async fn store_cursors(&self, writes: &[CursorWrite]) -> Vec<Result<Stored, BackboneError>> {
        Overlay::store_cursors(self, writes).await
    }

    async fn heartbeat(
        &self,
        node: &NodeId,
        record: &str,
        lease: Duration,
    ) -> Result<Vec<(NodeId, String)>, BackboneError> {
        Overlay::heartbeat(self, node, record, lease).await
    }

    async fn forget_node(&self, node: &NodeId) -> Result<(), BackboneError> {
        Overlay::forget_node(self, node).await
    }

    async fn get_or_set(&self, key: &str, value: &str) -> Result<String, BackboneError> {
        Overlay::get_or_set(self, key, value).await
    }

    async fn kv(&self, store: &KvStore, op: KvOp) -> Result<KvAnswer, BackboneError> {
        Overlay::kv(self, store, op).await
    }

    fn clock(&self) -> Clock {
        Overlay::clock(self)
    }

    fn epoch(&self) -> Epoch {
        Overlay::epoch(self)
    }

    fn is_connected(&self) -> bool {
        Overlay::is_connected(self)
    }
}
