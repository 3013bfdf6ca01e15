//! The feed: one task that watches channels, reads what is new, and hands it to the shards.
//!
//! A wake-up only marks a channel dirty. While one pipeline of reads is in flight, dirty channels
//! gather; the next pipeline takes them all, so batches grow with the load and nothing waits for a
//! timer. Readers behind the live position are served from the ring, else from joined page reads.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::batch::{Batch, Channel};
use super::outlet::{Delivery, Outlet, ShardId};
use super::pages::Pages;
use super::ring::{Budget, Ring};
use super::shaping::Shaper;
use super::upstream::Upstream;
use super::view::{View, Views};
use crate::backbone::wake::DirtySet;
use crate::backbone::{Backbone, BackboneError, Page, Read, Tail, Trim};
use crate::domain::{Epoch, Kind, Offset, Retention, StreamKey};
use crate::telemetry::{Metrics, events};

mod handing;
mod retained;
mod side;
mod sweep;
mod thinning;

use handing::tell_opened;
use retained::Retained;
use side::{Done, Side};
use sweep::Sweep;
use thinning::Thinning;

/// What a shard asks of the feed.
pub enum Request {
    /// Watch a channel; answered by [`Delivery::Opened`], then live batches follow.
    Open {
        /// The channel.
        channel: Arc<Channel>,
        /// Who asks.
        shard: ShardId,
    },
    /// The shard has no more use for the channel.
    Close {
        /// The view that it opened.
        view: View,
        /// Who asks.
        shard: ShardId,
        /// Up to where its subscribers were offered the channel, where it was open to them.
        offered: Option<Offset>,
    },
    /// Entries after an offset; answered by [`Delivery::Page`]. The channel must be open.
    Read {
        /// The view.
        view: View,
        /// The reader's position.
        after: Offset,
        /// Who asks.
        shard: ShardId,
    },
}

/// The way to the feed, for shards. Bounded.
pub type FeedHandle = mpsc::Sender<Request>;

/// Knobs of the feed.
#[derive(Debug, Clone, Copy)]
pub struct FeedOptions {
    /// Bytes of all rings together. More spares reads after short disconnections.
    pub ring_bytes: usize,
    /// Bytes of the page cache.
    pub page_cache_bytes: usize,
    /// Time in which every watched channel is read once without a wake-up: the worst case of a lost one.
    pub sweep: Duration,
    /// How long a channel that nobody reads stays watched; a user's own does not.
    pub linger: Duration,
}

impl Default for FeedOptions {
    fn default() -> Self {
        Self {
            ring_bytes: 64 << 20,
            page_cache_bytes: 32 << 20,
            sweep: Duration::from_secs(15),
            linger: Duration::from_secs(60),
        }
    }
}

/// Entries asked of one channel in one live read, and in one page.
const LIVE_COUNT: usize = 32;
const PAGE_COUNT: usize = 64;
/// Bytes of one channel that one read should not exceed by far.
const READ_BYTES: usize = 512 * 1024;
/// Channels in one pipeline of live reads.
const PIPELINE: usize = 256;
/// How often the sweep marks a part of all channels, and blocked shards are tried again.
const TICK: Duration = Duration::from_millis(20);

/// A watched channel.
struct Watched {
    channel: Arc<Channel>,
    /// Shards that read it, and for whom.
    views: Views,
    /// `None` until its wake-up is confirmed and its end was read.
    open: Option<Open>,
    /// A live batch is being shaped: the next one waits until that was handed on.
    shaping: bool,
    /// Marked before it was open, or while a batch was shaped.
    marked: bool,
    /// Nobody reads it.
    idle: Option<Idle>,
}

/// A watched channel that nobody reads.
#[derive(Clone, Copy)]
struct Idle {
    since: Instant,
    /// Up to where the last reader was offered it.
    offered: Offset,
}

/// A user's own channel, and up to where its last reader was offered it.
type Unread = (Arc<Channel>, Offset);

/// Where a watched channel was read to.
struct Open {
    position: Offset,
    added: Option<u64>,
    epoch: Epoch,
    ring: Ring,
    /// Typical bytes of an entry, which bound the next read.
    entry_bytes: usize,
    /// Tells when the log is to be trimmed.
    retained: Retained,
    /// Leaves messages out above a rate, where the namespace has one.
    thinning: Option<Box<Thinning>>,
}

/// Whether this node is the one that trims a channel.
pub type Trims = Arc<dyn Fn(&Channel) -> bool + Send + Sync>;

/// What the feed is connected with.
pub struct Links {
    /// Where it reads.
    pub backbone: Arc<dyn Backbone>,
    /// Where the backbone marks what to read.
    pub dirty: Arc<DirtySet>,
    /// What it counts.
    pub metrics: Metrics,
    /// Who gets what was read, by shard number.
    pub shards: Vec<mpsc::Sender<Delivery>>,
    /// Who is told of what nobody read.
    pub upstream: Upstream,
    /// Which channels it trims.
    pub trims: Trims,
    /// What plugins make of messages.
    pub shaper: Arc<Shaper>,
}

/// The feed's state, owned by its one task.
pub struct Feed {
    backbone: Arc<dyn Backbone>,
    trims: Trims,
    shaper: Arc<Shaper>,
    dirty: Arc<DirtySet>,
    metrics: Metrics,
    options: FeedOptions,
    watched: IndexMap<StreamKey, Watched>,
    outlets: Vec<Outlet>,
    budget: Budget,
    pages: Pages,
    side: JoinSet<Done>,
    reading: Option<tokio::task::Id>,
    opening: Vec<StreamKey>,
    /// Watches being ended: to watch such a stream again has to wait, or the two would race. Users' own
    /// channels among them stand with what to tell afterwards.
    closing: HashMap<StreamKey, Option<Unread>>,
    sweep: Sweep,
    upstream: Upstream,
}

impl Feed {
    /// Starts the feed. It ends when `cancel` fires or every handle is gone; the handle joins it.
    pub fn spawn(
        links: Links,
        options: FeedOptions,
        cancel: CancellationToken,
    ) -> (FeedHandle, JoinHandle<()>) {
        let Links { backbone, dirty, metrics, shards, upstream, trims, shaper } = links;
        let (handle, requests) = mpsc::channel(4096);
        let feed = Self {
            backbone,
            trims,
            shaper,
            dirty,
            metrics,
            options,
            watched: IndexMap::new(),
            outlets: shards.into_iter().map(Outlet::new).collect(),
            budget: Budget::new(options.ring_bytes),
            pages: Pages::new(options.page_cache_bytes),
            side: JoinSet::new(),
            reading: None,
            opening: Vec::new(),
            closing: HashMap::new(),
            sweep: Sweep::new((options.sweep.as_millis() / TICK.as_millis()) as usize),
            upstream,
        };
        (handle, tokio::spawn(feed.run(requests, cancel)))
    }

    async fn run(mut self, mut requests: mpsc::Receiver<Request>, cancel: CancellationToken) {
        let mut asked = Vec::new();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut second = tokio::time::interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let dirty = self.dirty.clone();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                got = requests.recv_many(&mut asked, 256) => {
                    if got == 0 {
                        return;
                    }
                    asked.drain(..).for_each(|request| self.on_request(request));
                    self.open_channels();
                }
                Some(done) = self.side.join_next_with_id() => match done {
                    Ok((id, done)) => self.on_done(id, done),
                    Err(error) => self.on_failed(&error),
                },
                () = dirty.marked(), if self.reading.is_none() => {}
                _ = tick.tick() => self.on_tick(),
                _ = second.tick() => self.on_second(),
            }
            if self.reading.is_none() {
                self.read_dirty();
            }
        }
    }

    fn on_request(&mut self, request: Request) {
        match request {
            Request::Open { channel, shard } => self.on_open(channel, shard),
            Request::Close { view, shard, offered } => {
                if let Some(watched) = self.watched.get_mut(&view.stream) {
                    watched.views.part(&view.audience, shard);
                    if watched.views.is_empty() {
                        let position = watched.open.as_ref().map(|open| open.position);
                        let offered = offered.or(position).unwrap_or(Offset::MAX);
                        watched.idle = Some(Idle { since: Instant::now(), offered });
                    }
                }
            }
            Request::Read { view, after, shard } => self.on_read(view, after, shard),
        }
    }

    fn on_open(&mut self, channel: Arc<Channel>, shard: ShardId) {
        let view = channel.view.clone();
        let stream = &view.stream;
        let watched = self.watched.entry(stream.clone()).or_insert_with(|| {
            if !self.closing.contains_key(stream) {
                self.opening.push(stream.clone());
            }
            let views = Views::default();
            Watched { channel, views, open: None, shaping: false, marked: false, idle: None }
        });
        watched.views.join(&view.audience, shard);
        watched.idle = None;
        if let Some(open) = &watched.open {
            let tail = Tail { last: open.position, first: None, added: open.added, epoch: open.epoch };
            self.outlets[usize::from(shard.0)].answer(Delivery::Opened { view, tail: Ok(tail) });
        }
    }

    fn on_read(&mut self, view: View, after: Offset, shard: ShardId) {
        let stream = view.stream.clone();
        let Some(watched) = self.watched.get(&stream) else {
            tracing::error!(%stream, "a shard reads a channel that it did not open");
            return;
        };
        let Some(open) = &watched.open else { return };
        let from_ring = open.ring.read(&stream, after, open.position, open.epoch, PAGE_COUNT).map(Arc::new);
        if let Some(batch) = from_ring.or_else(|| self.pages.find(&stream, after, open.epoch, Instant::now()))
        {
            self.metrics.node().page_cache_hits.inc();
            let mut views = Views::default();
            views.join(&view.audience, shard);
            self.answer_page(watched.channel.clone(), after, views, &batch);
        } else if self.pages.join(&view, after, shard) {
            self.metrics.node().page_cache_misses.inc();
            let count = fitting(PAGE_COUNT, open.entry_bytes);
            let beyond = after > open.position;
            let read = Read { stream, after, added: None, count };
            self.side.spawn(Side::new(self).page(read, beyond));
        } else {
            self.metrics.node().page_cache_joined.inc();
        }
    }

    /// Opens what was asked for since the last time, together.
    fn open_channels(&mut self) {
        if !self.opening.is_empty() {
            let streams = std::mem::take(&mut self.opening);
            self.side.spawn(Side::new(self).open(streams));
        }
    }

    /// Starts one pipeline over what is dirty. Streams that are not open yet keep their mark.
    fn read_dirty(&mut self) {
        let mut reads = Vec::new();
        for stream in self.dirty.take(PIPELINE) {
            let Some(watched) = self.watched.get_mut(&stream) else { continue };
            match &watched.open {
                Some(open) if !watched.shaping => reads.push(Read {
                    stream,
                    after: open.position,
                    added: open.added,
                    count: fitting(LIVE_COUNT, open.entry_bytes),
                }),
                _ => watched.marked = true,
            }
        }
        if !reads.is_empty() {
            self.metrics.node().feed_reads.inc_by(reads.len() as u64);
            self.reading = Some(self.side.spawn(Side::new(self).live(reads)).id());
        }
    }

    fn on_done(&mut self, id: tokio::task::Id, done: Done) {
        if self.reading == Some(id) {
            self.reading = None;
        }
        match done {
            Done::Opened(tails, again) => {
                if let Some(again) = again {
                    self.side.spawn(Side::new(self).open_again(again));
                }
                tails.into_iter().for_each(|(stream, tail)| self.on_opened(stream, tail));
            }
            Done::Live(pages) => {
                for (read, page) in pages {
                    match page {
                        Ok(page) => self.on_live(&read, page),
                        Err(error) => self.on_read_error(&read.stream, &error),
                    }
                }
                let watched = &mut self.watched;
                self.budget.enforce(|stream, drop_oldest| {
                    if let Some(open) = watched.get_mut(stream).and_then(|watched| watched.open.as_mut()) {
                        drop_oldest(&mut open.ring);
                    }
                });
                self.metrics.node().ring_bytes.set(self.budget.used() as i64);
            }
            Done::Page(read, page) => self.on_page(read, page),
            Done::Shaped(shaped) => self.on_shaped(shaped),
            Done::Unwatched(streams) => self.on_unwatched(streams),
            Done::Trimmed => {}
        }
    }

    /// A task panicked. The next pipeline must not wait for it; what it should have read is read again
    /// by the sweep.
    fn on_failed(&mut self, error: &JoinError) {
        self.reading = self.reading.filter(|id| *id != error.id());
        // If it shaped a batch, readers find the hole and read it from the log.
        for (stream, watched) in &mut self.watched {
            if std::mem::take(&mut watched.shaping) {
                self.dirty.mark([stream.clone()]);
            }
        }
        tracing::error!(%error, "a task of the feed failed");
    }

    fn on_opened(&mut self, stream: StreamKey, tail: Result<Tail, BackboneError>) {
        let Some(watched) = self.watched.get_mut(&stream) else {
            // Nobody waited so long; the watch may have begun after it was ended.
            if !self.closing.contains_key(&stream) {
                self.unwatch(vec![(stream, None)]);
            }
            return;
        };
        if watched.open.is_some() {
            // Opened twice, by an opening that outlived its first watch: where it was read to stands.
            return;
        }
        match &tail {
            Ok(tail) => {
                let most = watched.channel.rules.max_per_subscriber_per_s;
                watched.open = Some(Open {
                    position: tail.last,
                    added: tail.added,
                    epoch: tail.epoch,
                    ring: Ring::at(tail.last),
                    entry_bytes: 256,
                    retained: Retained::opened(tail),
                    thinning: most.map(|most| Box::new(Thinning::new(most, Instant::now()))),
                });
                if std::mem::take(&mut watched.marked) {
                    self.dirty.mark([stream.clone()]);
                }
            }
            Err(error) => {
                self.on_read_error(&stream, error);
                if let Some((index, _, refused)) = self.watched.shift_remove_full(&stream) {
                    self.sweep.removed(index);
                    tell_opened(&mut self.outlets, &stream, &refused.views, &tail);
                }
                self.unwatch(vec![(stream.clone(), None)]);
            }
        }
        self.metrics.node().watched_streams.set(self.watched.len() as i64);
        if let Some(watched) = self.watched.get(&stream) {
            tell_opened(&mut self.outlets, &stream, &watched.views, &tail);
        }
    }

    fn unwatch(&mut self, ended: Vec<(StreamKey, Option<Unread>)>) {
        let streams = ended.iter().map(|(stream, _)| stream.clone()).collect();
        self.closing.extend(ended);
        self.side.spawn(Side::new(self).unwatch(streams));
    }

    /// Watches again what was asked for while its old watch was being ended. Where nobody came back to a
    /// user's own channel, what was added since the last reader may have found nobody.
    fn on_unwatched(&mut self, streams: Vec<StreamKey>) {
        for stream in streams {
            let unread = self.closing.remove(&stream).flatten();
            if self.watched.contains_key(&stream) {
                self.opening.push(stream);
            } else if let Some((channel, offered)) = unread {
                self.upstream.note_unread(&channel, offered);
            }
        }
        self.open_channels();
    }

    /// Takes what a live read brought: moves the position, fills the ring, offers it to the shards.
    fn on_live(&mut self, read: &Read, page: Page) {
        let Some(watched) = self.watched.get_mut(&read.stream) else { return };
        let Some(open) = &mut watched.open else { return };
        if open.position != read.after {
            return;
        }
        if page.more {
            self.dirty.mark([read.stream.clone()]);
        }
        let new_epoch = page.epoch != open.epoch;
        // Without entries the end still moves where all that came was withdrawn: position and count go
        // together, or the count would prove something about another place.
        if page.entries.is_empty() && page.end == read.after && page.whole && !new_epoch {
            open.added = page.added.or(open.added);
            return;
        }
        open.added = match (page.added, open.added) {
            (Some(added), _) => Some(added),
            (None, Some(added)) if page.whole => Some(added + page.entries.len() as u64),
            _ => None,
        };
        self.metrics.node().feed_read_entries.inc_by(page.entries.len() as u64);
        let mut batch = Batch::from_page(&watched.channel, read.after, page);
        if let Some(thinning) = &mut open.thinning {
            thinning.thin(&watched.channel, &mut batch, Instant::now());
        }
        let batch = Arc::new(batch);
        if new_epoch {
            open.ring.reset(read.after, &mut self.budget);
        }
        open.ring.push(&batch, &mut self.budget);
        open.position = batch.until;
        open.epoch = batch.epoch;
        if let Some(first) = batch.items.first() {
            open.retained.grew(first.offset, batch.items.len(), batch.bytes());
            open.entry_bytes = batch.bytes() / batch.items.len();
        }
        self.hand_on(&read.stream, batch);
    }

    /// One channel's error is its own: the sweep tries it again. Lost connections are told by the
    /// backbone, which marks everything when it is back.
    fn on_read_error(&self, stream: &StreamKey, error: &BackboneError) {
        events::backbone_error(
            self.metrics.node(),
            error.into(),
            "read a channel",
            &format_args!("{stream}: {error}"),
        );
    }

    /// Marks a part of all channels, so that within `sweep` each was read once, and tries blocked shards.
    fn on_tick(&mut self) {
        self.outlets.iter_mut().filter(|outlet| outlet.is_blocked()).for_each(Outlet::pump);
        let part = self.sweep.advance(self.watched.len());
        self.dirty.mark(self.watched.as_slice()[part].keys().cloned());
    }

    /// Ends the watch of channels that nobody reads any more, and trims those that grew.
    fn on_second(&mut self) {
        let linger = self.options.linger;
        let mut ended = Vec::new();
        let (budget, sweep) = (&mut self.budget, &mut self.sweep);
        let mut index = 0;
        self.watched.retain(|stream, watched| {
            index += 1;
            // What is still being opened waits: to end its watch would race with the one on its way.
            let Some(open) = &mut watched.open else { return true };
            let is_personal = watched.channel.name.is_personal();
            // A session waits for its client with the user's own channel open. Once it has ended, only
            // who looks whether the channel is watched learns that the user is away.
            let linger = if is_personal { Duration::ZERO } else { linger };
            let over = watched.idle.filter(|idle| idle.since.elapsed() > linger);
            if let Some(Idle { offered, .. }) = over {
                open.ring.reset(open.position, budget);
                ended.push((stream.clone(), is_personal.then(|| (watched.channel.clone(), offered))));
                index -= 1;
                sweep.removed(index);
            }
            over.is_none()
        });
        if !ended.is_empty() {
            self.metrics.node().watched_streams.set(self.watched.len() as i64);
            self.unwatch(ended);
        }
        let (now_ms, trims) = (self.backbone.clock().now_ms(), &self.trims);
        let due = self.watched.iter_mut().filter_map(|(stream, watched)| {
            let Watched { channel, open, .. } = watched;
            // The work of a queue leaves it when it is done.
            let (keep, is_queue) = (channel.rules.retention, channel.rules.kind == Kind::Queue);
            let open = open.as_mut().filter(|_| !is_queue)?;
            let min_offset = open.retained.trim(keep, now_ms, trims(channel))?;
            let Retention { max_len, max_bytes, .. } = keep;
            Some(Trim { stream: stream.clone(), max_len, min_offset, max_bytes })
        });
        let trims: Vec<_> = due.collect();
        if !trims.is_empty() {
            self.side.spawn(Side::new(self).trim(trims));
        }
    }
}

/// How many entries of a typical size fit into one read, at most `most`.
fn fitting(most: usize, entry_bytes: usize) -> usize {
    (READ_BYTES / entry_bytes.max(1)).clamp(1, most)
}

#[cfg(test)]
mod tests;
