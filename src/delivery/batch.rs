//! What travels from the feed to the shards.

use std::sync::Arc;

use super::view::{Audience, View};
use crate::backbone::Page;
use crate::domain::{ChannelName, Epoch, Malformed, NamespaceRules, Offset, Publication, TenantId};
use crate::telemetry::{Skip, TenantMetrics, events};

/// A channel and what holds for it; made once a channel and shard, then shared.
#[derive(Debug)]
pub struct Channel {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its name.
    pub name: ChannelName,
    /// Its log, and who is shown it as here.
    pub view: View,
    /// The rules of its namespace.
    pub rules: Arc<NamespaceRules>,
    /// Largest payload that is delivered, in bytes.
    pub max_payload: usize,
    /// The tenant's counters.
    pub metrics: Arc<TenantMetrics>,
}

/// One entry of a batch.
#[derive(Debug, Clone)]
pub struct Item {
    /// Its place in the log.
    pub offset: Offset,
    /// The message, or `None` for an entry that no client ever sees.
    pub message: Option<Arc<Publication>>,
    /// The message as it is in the log, where a plugin put another in its place.
    pub original: Option<Arc<Publication>>,
    /// A newer message with its key follows: who catches up in a namespace that conflates does not get it.
    pub superseded: bool,
}

impl Item {
    /// An entry as it is in the log.
    pub fn new(offset: Offset, message: Option<Arc<Publication>>) -> Self {
        Self { offset, message, original: None, superseded: false }
    }

    /// Bytes it is accounted with in ring, cache and outbox: payload and an allowance for the rest.
    pub fn bytes(&self) -> usize {
        const AROUND: usize = 160;
        AROUND + self.message.as_ref().map_or(0, |message| message.bytes())
    }
}

/// Contiguous entries of one channel's log, shared by everybody who reads them.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The channel's log, and who gets this. What the log has, as it is, is in the view that all share.
    pub view: View,
    /// The position it was read from.
    pub after: Offset,
    /// The position of a reader who has taken it.
    pub until: Offset,
    /// The epoch it was read in.
    pub epoch: Epoch,
    /// Proven: nothing is missing between `after` and the first item, or `until` without items.
    pub whole: bool,
    /// The log goes on after `until`.
    pub more: bool,
    /// The entries, ascending.
    pub items: Vec<Item>,
}

impl Batch {
    /// Understands a page of raw entries. Entries that make no message stay as skipped items, counted.
    pub fn from_page(channel: &Channel, after: Offset, page: Page) -> Self {
        let items = page
            .entries
            .into_iter()
            .map(|entry| {
                let offset = entry.offset;
                let message = Publication::take_entry(entry, channel.max_payload)
                    .inspect_err(|why| note_skipped(channel, offset, why))
                    .ok()
                    .map(Arc::new);
                Item::new(offset, message)
            })
            .collect();
        Self {
            view: View::shared(channel.view.stream.clone()),
            after,
            until: page.end,
            epoch: page.epoch,
            whole: page.whole,
            more: page.more,
            items,
        }
    }

    /// The same for an audience that gets these items of it.
    pub fn shaped(&self, audience: Audience, items: Vec<Item>) -> Self {
        let Self { ref view, after, until, epoch, whole, more, .. } = *self;
        let view = View { stream: view.stream.clone(), audience };
        Self { view, after, until, epoch, whole, more, items }
    }

    /// Bytes it is accounted with.
    pub fn bytes(&self) -> usize {
        self.items.iter().map(Item::bytes).sum()
    }

    /// The trace contexts that its messages carry, where they do.
    pub fn traceparents(&self) -> impl Iterator<Item = &str> {
        self.items.iter().filter_map(|item| item.message.as_ref()?.traceparent.as_deref())
    }

    /// The last offset that may be missing when the batch is not whole.
    pub fn gap_until(&self) -> Offset {
        self.items.first().map_or(self.until, |first| first.offset.prev())
    }

    /// The items after an offset.
    pub fn items_after(&self, offset: Offset) -> &[Item] {
        let from = self.items.partition_point(|item| item.offset <= offset);
        &self.items[from..]
    }
}

pub(super) fn note_skipped(channel: &Channel, offset: Offset, why: &Malformed) {
    let reason = match why {
        Malformed::TooLarge { .. } => Skip::TooLarge,
        Malformed::NoData | Malformed::Field { .. } => Skip::Malformed,
    };
    events::entry_skipped(&channel.metrics, &channel.tenant, &channel.name, offset, reason, why);
}
