//! The streams watched, and what an event does: it marks one of them.

use std::sync::{Arc, Mutex, MutexGuard};

use indexmap::IndexSet;
use redis::{PushInfo, PushKind, Value};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::backbone::wake::DirtySet;
use crate::domain::StreamKey;

/// Streams marked under one lock.
const CHUNK: usize = 1_000;

/// Events after which a stream has something to read. Others (`xtrim`, `expire`, `del`…) bring
/// nothing, and `XADD MAXLEN` sends one of them with each entry.
const EVENTS: [&[u8]; 4] = [b"xadd", b"restore", b"rename_to", b"copy_to"];

/// Shared by the task that subscribes and the connection that hears.
pub(super) struct Watched {
    streams: Mutex<IndexSet<StreamKey>>,
    dirty: Arc<DirtySet>,
    /// `__keyspace@<db>__:`
    prefix: String,
    probe_key: String,
    probe_heard: Notify,
}

impl Watched {
    pub(super) fn new(dirty: Arc<DirtySet>, database: i64, node: &str) -> Self {
        Self {
            streams: Mutex::default(),
            dirty,
            prefix: format!("__keyspace@{database}__:"),
            probe_key: format!("tg:sys:probe:{node}"),
            probe_heard: Notify::new(),
        }
    }

    /// The stream that this node notifies itself by.
    pub(super) fn probe_key(&self) -> &str {
        &self.probe_key
    }

    /// Resolves at the next event of the probe stream.
    pub(super) fn probe_heard(&self) -> Notified<'_> {
        self.probe_heard.notified()
    }

    /// The channel on which events of a key come.
    pub(super) fn event_channel(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Adds streams; returns those that were not watched.
    pub(super) fn add(&self, streams: impl IntoIterator<Item = StreamKey>) -> Vec<StreamKey> {
        let mut watched = self.lock();
        streams.into_iter().filter(|stream| watched.insert(stream.clone())).collect()
    }

    /// Removes streams; returns those that were watched.
    pub(super) fn remove(&self, streams: Vec<StreamKey>) -> Vec<StreamKey> {
        let mut watched = self.lock();
        streams.into_iter().filter(|stream| watched.swap_remove(stream)).collect()
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<StreamKey> {
        self.lock().iter().cloned().collect()
    }

    /// Marks every stream, in chunks so that no reader waits long for the lock.
    pub(super) async fn mark_all(&self) {
        for chunk in self.all().chunks(CHUNK) {
            self.dirty.mark(chunk.iter().cloned());
            tokio::task::yield_now().await;
        }
    }

    /// Marks up to `most` streams from the `from`th on; returns where to go on, 0 after the last.
    pub(super) fn mark_some(&self, from: usize, most: usize) -> usize {
        let watched = self.lock();
        let end = from.saturating_add(most).min(watched.len());
        let chunk: Vec<StreamKey> = watched.iter().skip(from).take(most).cloned().collect();
        let next = if end >= watched.len() { 0 } else { end };
        drop(watched);
        if !chunk.is_empty() {
            self.dirty.mark(chunk);
        }
        next
    }

    /// Takes what the server sent on the subscribed connection.
    pub(super) fn hear(&self, push: &PushInfo) {
        let (PushKind::Message, [Value::BulkString(channel), Value::BulkString(event)]) =
            (&push.kind, push.data.as_slice())
        else {
            return;
        };
        let Some(key) = channel.strip_prefix(self.prefix.as_bytes()) else { return };
        if !EVENTS.contains(&event.as_slice()) {
            return;
        }
        let Ok(key) = std::str::from_utf8(key) else { return };
        if key == self.probe_key {
            self.probe_heard.notify_waiters();
            return;
        }
        let stream = self.lock().get(key).cloned();
        if let Some(stream) = stream {
            self.dirty.mark([stream]);
        }
    }

    fn lock(&self) -> MutexGuard<'_, IndexSet<StreamKey>> {
        self.streams.lock().expect("no holder of this lock panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> StreamKey {
        StreamKey::from_raw(name)
    }

    fn push(channel: &str, event: &str) -> PushInfo {
        let bulk = |text: &str| Value::BulkString(text.into());
        PushInfo { kind: PushKind::Message, data: vec![bulk(channel), bulk(event)] }
    }

    #[test]
    fn only_additions_to_watched_streams_mark() {
        let dirty = Arc::new(DirtySet::default());
        let watched = Watched::new(Arc::clone(&dirty), 3, "n");
        watched.add([key("a")]);
        for (channel, event) in [
            ("__keyspace@3__:a", "xtrim"),
            ("__keyspace@0__:a", "xadd"),
            ("__keyspace@3__:b", "xadd"),
            ("else", "xadd"),
        ] {
            watched.hear(&push(channel, event));
        }
        assert!(dirty.take(9).is_empty());
        watched.hear(&push("__keyspace@3__:a", "xadd"));
        assert_eq!(dirty.take(9), [key("a")]);
    }

    #[test]
    fn polling_goes_round() {
        let dirty = Arc::new(DirtySet::default());
        let watched = Watched::new(Arc::clone(&dirty), 0, "n");
        watched.add(["a", "b", "c"].map(key));
        let next = watched.mark_some(0, 2);
        assert_eq!((next, dirty.take(9)), (2, vec![key("a"), key("b")]));
        let next = watched.mark_some(next, 2);
        assert_eq!((next, dirty.take(9)), (0, vec![key("c")]));
    }
}
