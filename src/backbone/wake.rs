//! The set of streams that may have something new.

use std::sync::Mutex;

use indexmap::IndexSet;
use tokio::sync::Notify;

use crate::domain::StreamKey;

/// Streams to read, each once however often it was marked, in the order of their first mark.
///
/// The backbone marks, the feed takes. Bounded by the number of watched streams: the backbone marks
/// no others. The lock is held for a few instructions and never near a socket.
#[derive(Default)]
pub struct DirtySet {
    streams: Mutex<IndexSet<StreamKey>>,
    marked: Notify,
}

impl DirtySet {
    /// Marks streams and wakes the reader.
    pub fn mark(&self, streams: impl IntoIterator<Item = StreamKey>) {
        let mut set = self.streams.lock().expect("no holder of this lock panics");
        set.extend(streams);
        drop(set);
        self.marked.notify_one();
    }

    /// Takes up to `most` streams, those marked first. Empty when nothing is marked.
    pub fn take(&self, most: usize) -> Vec<StreamKey> {
        let mut set = self.streams.lock().expect("no holder of this lock panics");
        let most = most.min(set.len());
        set.drain(..most).collect()
    }

    /// Waits for a mark since the last wait ended. Cancel-safe: a mark is remembered.
    pub async fn marked(&self) {
        self.marked.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn marks_are_taken_once_in_order_and_not_forgotten() {
        let set = DirtySet::default();
        let key = |name: &str| StreamKey::from_raw(name);
        set.mark([key("b"), key("a"), key("b")]);
        set.marked().await;
        assert_eq!(set.take(1), [key("b")]);
        assert_eq!(set.take(9), [key("a")]);
        assert!(set.take(9).is_empty());
    }
}
