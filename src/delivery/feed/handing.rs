//! Handing batches and pages to the shards, shaped where a plugin wants that.

use std::sync::Arc;

use tokio::time::Instant;

use super::side::{Shaped, Side};
use super::{Feed, Open};
use crate::backbone::{BackboneError, Page, Read, Tail};
use crate::delivery::outlet::Outlet;
use crate::delivery::view::Views;
use crate::delivery::{Audience, Batch, Channel, Delivery, View};
use crate::domain::{Offset, StreamKey};
use crate::telemetry::{Metrics, deliver_span, events};

impl Feed {
    /// Hands a live batch on.
    pub(super) fn hand_on(&mut self, stream: &StreamKey, batch: Arc<Batch>) {
        let Some(watched) = self.watched.get_mut(stream) else { return };
        let channel = watched.channel.clone();
        if self.shaper.passes(&channel.tenant, &batch.items) {
            let _span = deliver_span(&channel.tenant, batch.items.len(), batch.traceparents()).entered();
            for (audience, shards) in watched.views.iter() {
                offer(&mut self.outlets, shards, &for_audience(&batch, audience), &self.metrics);
            }
        } else {
            watched.shaping = true;
            let audiences = watched.views.iter().map(|(audience, shards)| (audience.clone(), shards));
            let audiences = audiences.collect();
            self.side.spawn(Side::new(self).shape(channel, None, batch, audiences));
        }
    }

    /// Hands on what was shaped.
    pub(super) fn on_shaped(&mut self, shaped: Shaped) {
        let Shaped { channel, page, batch, views } = shaped;
        let stream = &channel.view.stream;
        if let Some(after) = page {
            for (_, shards, batch) in views {
                // Whom nothing can be shown to asks again as somebody else.
                if let Some(batch) = batch {
                    answer(&mut self.outlets, shards, after, &batch);
                }
            }
            return;
        }
        let Some(watched) = self.watched.get_mut(stream) else { return };
        watched.shaping = false;
        if std::mem::take(&mut watched.marked) {
            self.dirty.mark([stream.clone()]);
        }
        let _span = deliver_span(&channel.tenant, batch.items.len(), batch.traceparents()).entered();
        for (audience, shards, shaped) in views {
            match shaped {
                Some(batch) => offer(&mut self.outlets, shards, &batch, &self.metrics),
                None => {
                    let view = View { stream: stream.clone(), audience };
                    for (_, outlet) in outlets(&mut self.outlets, shards) {
                        outlet.lag(view.clone(), &batch);
                    }
                }
            }
        }
    }

    /// Takes a page that somebody asked for.
    pub(super) fn on_page(&mut self, read: Read, page: Result<Page, BackboneError>) {
        let views = self.pages.arrived(&read.stream, read.after);
        let Some(watched) = self.watched.get(&read.stream) else { return };
        let batch = page.map(|page| Arc::new(Batch::from_page(&watched.channel, read.after, page)));
        match batch {
            Ok(batch) => {
                // The log ends below what was read of it, or began a new life: shown to everybody by the
                // next live read. Without it a reader would ask for the same again and again.
                let behind = |open: &Open| batch.epoch != open.epoch || batch.until < open.position;
                if !batch.more && watched.open.as_ref().is_some_and(behind) {
                    self.dirty.mark([read.stream.clone()]);
                }
                self.pages.keep(&batch, Instant::now());
                self.answer_page(watched.channel.clone(), read.after, views, &batch);
            }
            Err(error) => {
                self.on_read_error(&read.stream, &error);
                for (audience, shards) in views.iter() {
                    let view = View { stream: read.stream.clone(), audience: audience.clone() };
                    for (_, outlet) in outlets(&mut self.outlets, shards) {
                        let (view, after, batch) = (view.clone(), read.after, Err(error.clone()));
                        outlet.answer(Delivery::Page { view, after, batch });
                    }
                }
            }
        }
    }

    /// Answers with a page, shaped where a plugin wants that.
    pub(super) fn answer_page(
        &mut self,
        channel: Arc<Channel>,
        after: Offset,
        views: Views,
        batch: &Arc<Batch>,
    ) {
        if self.shaper.passes(&channel.tenant, &batch.items) {
            for (audience, shards) in views.iter() {
                answer(&mut self.outlets, shards, after, &for_audience(batch, audience));
            }
        } else {
            let audiences = views.iter().map(|(audience, shards)| (audience.clone(), shards)).collect();
            self.side.spawn(Side::new(self).shape(channel, Some(after), batch.clone(), audiences));
        }
    }
}

/// The outlets of a set of shards.
fn outlets(outlets: &mut [Outlet], shards: u64) -> impl Iterator<Item = (usize, &mut Outlet)> {
    outlets.iter_mut().enumerate().filter(move |(shard, _)| shards & (1 << shard) != 0)
}

/// Offers a live batch to shards.
fn offer(all: &mut [Outlet], shards: u64, batch: &Arc<Batch>, metrics: &Metrics) {
    for (shard, outlet) in outlets(all, shards) {
        if !outlet.offer(batch) {
            events::shard_inbox_full(metrics.node(), shard);
        }
    }
}

/// Answers shards with a page.
fn answer(all: &mut [Outlet], shards: u64, after: Offset, batch: &Arc<Batch>) {
    for (_, outlet) in outlets(all, shards) {
        outlet.answer(Delivery::Page { view: batch.view.clone(), after, batch: Ok(batch.clone()) });
    }
}

/// Tells shards where a channel ends, or why it cannot be opened.
pub(super) fn tell_opened(
    all: &mut [Outlet],
    stream: &StreamKey,
    views: &Views,
    tail: &Result<Tail, BackboneError>,
) {
    for (audience, shards) in views.iter() {
        let view = View { stream: stream.clone(), audience: audience.clone() };
        for (_, outlet) in outlets(all, shards) {
            outlet.answer(Delivery::Opened { view: view.clone(), tail: tail.clone() });
        }
    }
}

/// What an audience gets where no plugin says otherwise.
fn for_audience(batch: &Arc<Batch>, audience: &Audience) -> Arc<Batch> {
    match audience {
        Audience::Everyone => batch.clone(),
        other => Arc::new(batch.shaped(other.clone(), batch.items.clone())),
    }
}
