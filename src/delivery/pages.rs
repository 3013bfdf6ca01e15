//! Pages read from the log for readers behind the ring, shared by all who want the same.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::batch::Batch;
use super::outlet::ShardId;
use super::view::{View, Views};
use crate::domain::{Epoch, Offset, StreamKey};

/// How long a page answers: entries that a backend withdraws go on being delivered for so long.
const FRESH: Duration = Duration::from_secs(5);

/// A byte-bounded cache of whole pages, and the reads under way with who waits for them.
pub(super) struct Pages {
    limit: usize,
    used: usize,
    cached: HashMap<StreamKey, BTreeMap<Offset, Arc<Batch>>>,
    order: VecDeque<(Instant, StreamKey, Offset)>,
    under_way: HashMap<(StreamKey, Offset), Views>,
}

impl Pages {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, used: 0, cached: HashMap::new(), order: VecDeque::new(), under_way: HashMap::new() }
    }

    /// A fresh page of this epoch that holds what follows `from`. Pages of another life of the log
    /// would tell their readers of a loss once more.
    pub(super) fn find(
        &mut self,
        stream: &StreamKey,
        from: Offset,
        epoch: Epoch,
        now: Instant,
    ) -> Option<Arc<Batch>> {
        self.forget(|since| now.duration_since(since) > FRESH);
        let pages = self.cached.get(stream)?;
        let (_, page) = pages.range(..=from).next_back()?;
        (from < page.until && page.epoch == epoch).then(|| page.clone())
    }

    /// Joins a read; true when this is the first to want it, who then has to start it.
    pub(super) fn join(&mut self, view: &View, from: Offset, shard: ShardId) -> bool {
        let waiting = self.under_way.entry((view.stream.clone(), from)).or_default();
        let first = waiting.is_empty();
        waiting.join(&view.audience, shard);
        first
    }

    /// Ends a read; which shards wait for it, for whom.
    pub(super) fn arrived(&mut self, stream: &StreamKey, from: Offset) -> Views {
        self.under_way.remove(&(stream.clone(), from)).unwrap_or_default()
    }

    /// Keeps a page for others, unless it has doubt or holds nothing.
    pub(super) fn keep(&mut self, page: &Arc<Batch>, now: Instant) {
        if !page.whole || page.items.is_empty() {
            return;
        }
        // The log grows: who is served this page later has to look what follows, mostly in the ring.
        let page = if page.more { page.clone() } else { Arc::new(Batch { more: true, ..(**page).clone() }) };
        let pages = self.cached.entry(page.view.stream.clone()).or_default();
        if let Some(replaced) = pages.insert(page.after, page.clone()) {
            self.used -= replaced.bytes();
        }
        self.used += page.bytes();
        self.order.push_back((now, page.view.stream.clone(), page.after));
        while self.used > self.limit && !self.order.is_empty() {
            self.forget_oldest();
        }
    }

    fn forget(&mut self, stale: impl Fn(Instant) -> bool) {
        while self.order.front().is_some_and(|(since, ..)| stale(*since)) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((_, stream, after)) = self.order.pop_front() else { return };
        let Some(pages) = self.cached.get_mut(&stream) else { return };
        if let Some(page) = pages.remove(&after) {
            self.used -= page.bytes();
        }
        if pages.is_empty() {
            self.cached.remove(&stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::{Audience, Item};

    fn page(after: u64, until: u64) -> Arc<Batch> {
        let offset = |ms| Offset { ms, seq: 0 };
        let items = (after + 1..=until).map(|ms| Item::new(offset(ms), None)).collect();
        let view = View::shared(StreamKey::from_raw("s"));
        let (after, until) = (offset(after), offset(until));
        Arc::new(Batch { view, after, until, epoch: Epoch(1), whole: true, more: true, items })
    }

    #[test]
    fn equal_reads_are_one_and_pages_serve_whoever_stands_in_them() {
        let mut pages = Pages::new(usize::MAX);
        let (stream, now) = (StreamKey::from_raw("s"), Instant::now());
        let (view, from) = (View::shared(stream.clone()), Offset { ms: 5, seq: 0 });
        let gold = View { audience: Audience::Class("gold".into()), ..view.clone() };
        assert!(pages.join(&view, from, ShardId(0)));
        assert!(!pages.join(&view, from, ShardId(1)));
        assert!(!pages.join(&gold, from, ShardId(1)), "the log is the same for all");
        let waiting = pages.arrived(&stream, from);
        assert_eq!(waiting.iter().collect::<Vec<_>>(), [(&view.audience, 0b11), (&gold.audience, 0b10)]);
        pages.keep(&page(0, 9), now);
        assert!(pages.find(&stream, from, Epoch(1), now).is_some());
        assert!(pages.find(&stream, from, Epoch(2), now).is_none(), "another life of the log");
        assert!(pages.find(&stream, Offset { ms: 9, seq: 0 }, Epoch(1), now).is_none());
        assert!(pages.find(&stream, from, Epoch(1), now + FRESH * 2).is_none());
        assert_eq!(pages.used, 0);
    }

    #[test]
    fn the_end_of_a_log_is_kept_as_what_may_go_on() {
        let mut pages = Pages::new(usize::MAX);
        let (stream, now) = (StreamKey::from_raw("s"), Instant::now());
        pages.keep(&Arc::new(Batch { more: false, ..(*page(0, 9)).clone() }), now);
        assert!(pages.find(&stream, Offset::ZERO, Epoch(1), now).unwrap().more);
        pages.keep(&page(20, 20), now);
        assert!(pages.find(&stream, Offset { ms: 20, seq: 0 }, Epoch(1), now).is_none(), "it holds nothing");
    }

    #[test]
    fn the_byte_limit_holds() {
        let mut pages = Pages::new(page(0, 9).bytes());
        let now = Instant::now();
        pages.keep(&page(0, 9), now);
        pages.keep(&page(9, 18), now);
        assert!(pages.used <= pages.limit);
        assert!(pages.find(&StreamKey::from_raw("s"), Offset::ZERO, Epoch(1), now).is_none());
    }
}
