//! The set of streams that may have something new.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use indexmap::IndexSet;
use tokio::sync::Notify;

use crate::domain::StreamKey;

/// Streams to read, each once however often it was marked, in the order of their first mark.
///
/// The backbone marks, the feed takes. Bounded by the number of watched streams: the backbone marks
/// no others. The lock is held for a few instructions and never near a socket. Streams that the feed
/// does not read are [diverted](Self::divert) to sets of those who do.
#[derive(Default)]
pub struct DirtySet {
    marks: Mutex<Marks>,
    marked: Notify,
}

#[derive(Default)]
struct Marks {
    streams: IndexSet<StreamKey>,
    diverted: HashMap<StreamKey, Arc<DirtySet>>,
}

impl DirtySet {
    /// Marks streams and wakes the reader.
    pub fn mark(&self, streams: impl IntoIterator<Item = StreamKey>) {
        let mut marks = self.lock();
        let mut elsewhere = Vec::new();
        for stream in streams {
            match marks.diverted.get(&stream) {
                Some(set) => elsewhere.push((set.clone(), stream)),
                None => {
                    marks.streams.insert(stream);
                }
            }
        }
        let any = !marks.streams.is_empty();
        drop(marks);
        for (set, stream) in elsewhere {
            set.mark([stream]);
        }
        if any {
            self.marked.notify_one();
        }
    }

    /// From now on marks of this stream go to another set, until they are [restored](Self::restore).
    /// Do it before the stream is watched, and never in a circle.
    pub fn divert(&self, stream: StreamKey, to: Arc<Self>) {
        let mut marks = self.lock();
        marks.streams.shift_remove(&stream);
        marks.diverted.insert(stream, to);
    }

    /// Marks of this stream come here again.
    pub fn restore(&self, stream: &StreamKey) {
        self.lock().diverted.remove(stream);
    }

    /// Takes up to `most` streams, those marked first. Empty when nothing is marked.
    pub fn take(&self, most: usize) -> Vec<StreamKey> {
        let mut marks = self.lock();
        let most = most.min(marks.streams.len());
        marks.streams.drain(..most).collect()
    }

    /// Waits for a mark since the last wait ended. Cancel-safe: a mark is remembered.
    pub async fn marked(&self) {
        self.marked.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().expect("no holder of this lock panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> StreamKey {
        StreamKey::from_raw(name)
    }

    #[tokio::test]
    async fn marks_are_taken_once_in_order_and_not_forgotten() {
        let set = DirtySet::default();
        set.mark([key("b"), key("a"), key("b")]);
        set.marked().await;
        assert_eq!(set.take(1), [key("b")]);
        assert_eq!(set.take(9), [key("a")]);
        assert!(set.take(9).is_empty());
    }

    #[tokio::test]
    async fn a_diverted_stream_wakes_its_own_reader_alone() {
        let (set, other) = (DirtySet::default(), Arc::new(DirtySet::default()));
        set.mark([key("in")]);
        set.divert(key("in"), other.clone());
        assert!(set.take(9).is_empty(), "an old mark is nobody's any more: its new reader looks by itself");
        set.mark([key("a"), key("in")]);
        other.marked().await;
        assert_eq!((set.take(9), other.take(9)), (vec![key("a")], vec![key("in")]));
        set.restore(&key("in"));
        set.mark([key("in")]);
        assert_eq!((set.take(9), other.take(9)), (vec![key("in")], vec![]));
    }
}
