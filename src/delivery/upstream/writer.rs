//! The task that writes what was noted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::entry::{self, Origin};
use super::{Found, Maybe, Note, Told};
use crate::backbone::backoff::Backoff;
use crate::backbone::{Addition, Backbone, BackboneError, Page, Read};
use crate::domain::{NodeId, Offset, Publication, StreamKey};
use crate::telemetry::{Metrics, events};
use crate::tenants::Tenant;

/// Notes written together, at most.
const BATCH: usize = 256;
/// Channels read together to count what is undelivered, and entries of each: together they bound what
/// such a read brings.
const READS: usize = 8;
const COUNTED: usize = 100;
/// How long it goes on after the node's stop, for what was noted before.
const FLUSH: Duration = Duration::from_secs(3);

pub(super) struct Writer {
    pub(super) backbone: Arc<dyn Backbone>,
    pub(super) node: NodeId,
    pub(super) metrics: Metrics,
    /// Events were dropped since one was written last.
    pub(super) losing: Arc<AtomicBool>,
}

/// Notes of one round: what is to be written, and what the backbone was away for.
#[derive(Default)]
struct Round {
    told: Vec<Told>,
    again: Vec<Note>,
}

impl Writer {
    pub(super) async fn run(self, mut queue: mpsc::Receiver<Note>, stop: CancellationToken) {
        let mut notes = Vec::with_capacity(BATCH);
        loop {
            let got = tokio::select! {
                got = queue.recv_many(&mut notes, BATCH) => got,
                () = stop.cancelled() => break,
            };
            if got == 0 {
                return;
            }
            self.work_off(notes.drain(..).collect(), &stop).await;
        }
        // What was noted before the stop is all there is from now on.
        queue.close();
        let until = Instant::now() + FLUSH;
        while queue.recv_many(&mut notes, BATCH).await > 0 {
            let whose: Vec<_> = notes.iter().map(|note| note.tenant().clone()).collect();
            match timeout_at(until, self.try_once(notes.drain(..).collect())).await {
                Ok(failed) => failed.iter().for_each(|note| self.dropped(note.tenant())),
                Err(_) => whose.iter().for_each(|tenant| self.dropped(tenant)),
            }
        }
    }

    /// Tries until all is written, or once more after the node's stop.
    async fn work_off(&self, notes: Vec<Note>, stop: &CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut notes = self.try_once(notes).await;
        while !notes.is_empty() {
            let stopped = tokio::select! {
                () = sleep(backoff.delay()) => false,
                () = stop.cancelled() => true,
            };
            notes = self.try_once(notes).await;
            if stopped {
                return notes.iter().for_each(|note| self.dropped(note.tenant()));
            }
        }
    }

    /// Writes what can be written; what is to be tried again, in order.
    async fn try_once(&self, notes: Vec<Note>) -> Vec<Note> {
        let mut round = Round::default();
        let mut maybes = Vec::new();
        for note in notes {
            match note {
                Note::Told(told) => round.told.push(told),
                Note::Maybe(maybe) => maybes.push(maybe),
            }
        }
        let mut maybes = self.unwatched(maybes, &mut round).await;
        while !maybes.is_empty() {
            let rest = maybes.split_off(READS.min(maybes.len()));
            self.count(maybes, &mut round).await;
            maybes = rest;
        }
        self.write(&mut round).await;
        round.again
    }

    async fn write(&self, round: &mut Round) {
        let additions: Vec<_> = round.told.iter().map(|told| self.addition(told)).collect();
        let answers = self.backbone.append_all(&additions).await;
        let mut again = Vec::new();
        for (told, answer) in round.told.drain(..).zip(answers) {
            match answer {
                Ok(_) => {
                    self.losing.store(false, Ordering::Relaxed);
                    self.metrics.tenant(&told.tenant.id).session_events.of(told.event.kind()).inc();
                }
                Err(error) if error.is_retryable() => again.push(Note::Told(told)),
                Err(error) => {
                    self.failed(&error);
                    self.dropped(&told.tenant);
                }
            }
        }
        // Events go before what is looked at again: it may be the last of their sessions.
        again.append(&mut round.again);
        round.again = again;
    }

    fn addition(&self, told: &Told) -> Addition {
        let Told { tenant, id, ms, who, event } = told;
        let origin = Origin { tenant: &tenant.id, node: &self.node, id, ms: *ms };
        let fields = entry::of_event(tenant.events.format, origin, who, event);
        Addition { stream: StreamKey::upstream(&tenant.id), fields, once: None, refuse_at: None }
    }

    /// Leaves those whose channels no node watches, and those for which that does not matter.
    async fn unwatched(&self, maybes: Vec<Maybe>, round: &mut Round) -> Vec<Maybe> {
        let (asked, mut left): (Vec<_>, Vec<_>) =
            maybes.into_iter().partition(|maybe| !matches!(maybe.found, Found::LeftOver(_)));
        if asked.is_empty() {
            return left;
        }
        let streams: Vec<_> = asked.iter().map(Maybe::stream).collect();
        for (maybe, watchers) in asked.into_iter().zip(self.backbone.watchers(&streams).await) {
            match watchers {
                Ok(Some(0)) => left.push(maybe),
                Ok(None) if !self.backbone.is_connected() => round.again.push(Note::Maybe(maybe)),
                // Somebody gets them, or it cannot be told whether anybody does.
                Ok(_) => {}
                Err(error) => self.put_off(maybe, &error, round),
            }
        }
        left
    }

    /// Finds out which messages there are, by reading them where that is not known.
    async fn count(&self, maybes: Vec<Maybe>, round: &mut Round) {
        let (known, unknown): (Vec<_>, Vec<_>) =
            maybes.into_iter().partition(|maybe| matches!(maybe.found, Found::Added(_)));
        for maybe in known {
            if let Found::Added(offset) = maybe.found {
                round.told.push(maybe.undelivered(offset, Some(1)));
            }
        }
        if unknown.is_empty() {
            return;
        }
        let read =
            |maybe: &Maybe| Read { stream: maybe.stream(), after: maybe.after, added: None, count: COUNTED };
        let reads: Vec<_> = unknown.iter().map(read).collect();
        for (maybe, page) in unknown.into_iter().zip(self.backbone.read(&reads).await) {
            match page {
                Ok(page) => round.told.extend(self.counted(maybe, &page)),
                Err(error) => self.put_off(maybe, &error, round),
            }
        }
    }

    /// What of a page a client would have been sent; the count is told where it is certain.
    fn counted(&self, maybe: Maybe, page: &Page) -> Option<Told> {
        let end = match maybe.found {
            Found::LeftOver(until) | Found::Added(until) => until,
            Found::Unread => Offset::MAX,
        };
        let (now_ms, most) = (self.backbone.clock().now_ms(), maybe.tenant.limits.payload_bytes);
        let within = page.entries.iter().take_while(|entry| entry.offset <= end);
        let visible = within.filter(|entry| {
            Publication::from_entry(entry, most).is_ok_and(|message| !message.is_expired(now_ms))
        });
        let (count, last) = visible.fold((0, None), |(count, _), entry| (count + 1, Some(entry.offset)));
        let is_all = !page.more || page.end >= end;
        if count == 0 && is_all && page.whole {
            return None;
        }
        let last = match (is_all, maybe.found) {
            (false, Found::LeftOver(until)) => until,
            _ => last.unwrap_or(page.end.min(end)),
        };
        Some(maybe.undelivered(last, (is_all && page.whole).then_some(count)))
    }

    fn put_off(&self, maybe: Maybe, error: &BackboneError, round: &mut Round) {
        if error.is_retryable() {
            round.again.push(Note::Maybe(maybe));
        } else {
            self.failed(error);
        }
    }

    fn dropped(&self, tenant: &Tenant) {
        let first = !self.losing.swap(true, Ordering::Relaxed);
        events::session_event_dropped(&self.metrics.tenant(&tenant.id), &tenant.id, first);
    }

    fn failed(&self, error: &BackboneError) {
        events::backbone_error(self.metrics.node(), error.into(), "tell backends of sessions", error);
    }
}
