//! The bounded way from the feed to one shard.

use std::collections::VecDeque;
use std::sync::Arc;

use indexmap::IndexMap;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::batch::{Batch, Channel};
use super::queues::{Task, WorkerId};
use super::view::View;
use crate::backbone::{BackboneError, Tail};
use crate::domain::{Epoch, Offset, StreamKey};

/// Numbers the shards of a node, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ShardId(pub u8);

impl ShardId {
    /// The most shards a node can have.
    pub const MOST: usize = 64;

    /// The shard's bit in a set of shards.
    pub(super) fn bit(self) -> u64 {
        1 << self.0
    }
}

/// What the feed tells a shard.
#[derive(Debug)]
pub enum Delivery {
    /// Answers `Request::Open`: wake-ups are confirmed and the position was read after that.
    Opened {
        /// What was opened.
        view: View,
        /// Where it ends, or why it cannot be opened. Retryable errors are retried and not told.
        tail: Result<Tail, BackboneError>,
    },
    /// New entries of an open channel.
    Live(Arc<Batch>),
    /// Answers `Request::Read`.
    Page {
        /// What was read.
        view: View,
        /// What was asked for.
        after: Offset,
        /// The entries; retryable errors are retried and not told. The batch may begin before `after`.
        batch: Result<Arc<Batch>, BackboneError>,
    },
    /// The shard's queue was full and batches of this channel were left out: read on from the log.
    Lagged {
        /// Where they were left out.
        view: View,
        /// Where the last batch left out ended: readers who stand before it have something to read.
        until: Offset,
        /// The epoch of that batch.
        epoch: Epoch,
    },
    /// Answers [`queues::Request::Join`](super::queues::Request::Join).
    QueueOpened {
        /// The queue.
        stream: StreamKey,
        /// Who joined.
        worker: WorkerId,
        /// Its description, one for all of the node, and the epoch; or why it cannot be opened.
        channel: Result<(Arc<Channel>, Epoch), BackboneError>,
    },
    /// Work for a session.
    Task {
        /// The queue.
        stream: StreamKey,
        /// Whose it is.
        worker: WorkerId,
        /// What is to be done.
        task: Task,
    },
    /// Another node has this task now: it is not sent again here.
    TaskLost {
        /// The queue.
        stream: StreamKey,
        /// Whose it was.
        worker: WorkerId,
        /// Which.
        offset: Offset,
    },
}

/// One shard as the feed sees it. A full queue never holds up the feed: answers wait in the backlog
/// (bounded by what the shard asked), live batches are left out and the shard is told so.
pub(super) struct Outlet {
    queue: mpsc::Sender<Delivery>,
    backlog: VecDeque<Delivery>,
    lagging: IndexMap<View, (Offset, Epoch)>,
}

impl Outlet {
    pub(super) fn new(queue: mpsc::Sender<Delivery>) -> Self {
        Self { queue, backlog: VecDeque::new(), lagging: IndexMap::new() }
    }

    /// Answers a request of the shard.
    pub(super) fn answer(&mut self, delivery: Delivery) {
        self.backlog.push_back(delivery);
        self.pump();
    }

    /// Offers a live batch; false when it was left out.
    pub(super) fn offer(&mut self, batch: &Arc<Batch>) -> bool {
        if !self.is_blocked() && self.queue.try_send(Delivery::Live(batch.clone())).is_ok() {
            return true;
        }
        self.lag(batch.view.clone(), batch);
        false
    }

    /// Leaves a live batch out of a view.
    pub(super) fn lag(&mut self, view: View, batch: &Batch) {
        self.lagging.insert(view, (batch.until, batch.epoch));
    }

    /// Whether something waits for room in the queue.
    pub(super) fn is_blocked(&self) -> bool {
        !self.backlog.is_empty() || !self.lagging.is_empty()
    }

    /// Moves what waits into the queue, as far as there is room.
    pub(super) fn pump(&mut self) {
        while let Some(delivery) = self.backlog.pop_front() {
            if let Err(TrySendError::Full(delivery)) = self.queue.try_send(delivery) {
                self.backlog.push_front(delivery);
                return;
            }
        }
        while let Some((view, (until, epoch))) = self.lagging.pop() {
            if let Err(TrySendError::Full(Delivery::Lagged { view, .. })) =
                self.queue.try_send(Delivery::Lagged { view, until, epoch })
            {
                self.lagging.insert(view, (until, epoch));
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(stream: &str) -> Arc<Batch> {
        let (after, until, epoch) = (Offset::ZERO, Offset { ms: 7, seq: 0 }, Epoch(1));
        let view = View::shared(StreamKey::from_raw(stream));
        Arc::new(Batch { view, after, until, epoch, whole: true, more: false, items: Vec::new() })
    }

    #[test]
    fn a_full_queue_leaves_batches_out_and_says_so_after_the_answers() {
        let (queue, mut shard) = mpsc::channel(1);
        let mut outlet = Outlet::new(queue);
        assert!(outlet.offer(&batch("a")));
        assert!(!outlet.offer(&batch("b")));
        let (view, after) = (View::shared(StreamKey::from_raw("c")), Offset::ZERO);
        outlet.answer(Delivery::Page { view, after, batch: Ok(batch("c")) });
        assert!(matches!(shard.try_recv(), Ok(Delivery::Live(_))));
        outlet.pump();
        assert!(matches!(shard.try_recv(), Ok(Delivery::Page { .. })));
        assert!(!outlet.offer(&batch("b")), "order holds: the shard first learns that it lags");
        outlet.pump();
        let Ok(Delivery::Lagged { until, .. }) = shard.try_recv() else { panic!("it does not learn that") };
        assert_eq!(until.ms, 7, "readers learn how far there is to read");
        assert!(outlet.offer(&batch("b")));
    }
}
