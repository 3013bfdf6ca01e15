//! Writes a batch of ingress entries to their targets, in rounds.
//!
//! A round is one pipeline. Where a channel stands in it several times, each write after the first is
//! done only if the one before it is in the log ([`Once::IngressAfter`]): one that fails is tried again
//! before the channel's next one is.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Display;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::entry::{Entry, NoTarget, Target};
use super::routing::Routed;
use super::{Reader, backoff};
use crate::backbone::backoff::Backoff;
use crate::backbone::{Addition, BackboneError, Once};
use crate::delivery::dead_letters::DeadLetter;
use crate::domain::{Offset, RawEntry, StreamKey};
use crate::telemetry::{DeadLetterOutcome, PublishOutcome, Via, events};
use crate::tenants::Tenant;

/// Writes in one round, and their bytes, about.
const ROUND: usize = 500;
const ROUND_BYTES: usize = 2 << 20;
/// Targets that are passed over for a round because their channels rest.
const LOOK_AHEAD: usize = 2_000;
/// Dead letters that wait to be written.
const LETTERS: usize = 200;
/// Full queues that are remembered.
const FULL: usize = 10_000;

/// A batch under way. Its targets in memory are one entry's and those passed over.
pub(super) struct FanOut<'r> {
    reader: &'r mut Reader,
    tenant: &'r Tenant,
    entries: VecDeque<Routed>,
    begun: Vec<Offset>,
    writes: VecDeque<Write>,
    /// Channels that are left alone until the next pause.
    resting: HashSet<StreamKey>,
    letters: Vec<Letter>,
    backoff: Backoff,
}

/// A write that is to be done.
struct Write {
    entry: Arc<Message>,
    target: Target,
    /// The entry that the same round writes to the same channel just before.
    after: Option<Offset>,
}

/// What an entry brings to each of its targets.
struct Message {
    offset: Offset,
    fields: Vec<(Bytes, Bytes)>,
    bytes: usize,
}

struct Letter {
    channel: String,
    offset: Offset,
    fields: Vec<(Bytes, Bytes)>,
    once: Option<Once>,
}

/// The node stops while the backbone takes nothing.
struct Stopped;

impl<'r> FanOut<'r> {
    pub(super) fn new(reader: &'r mut Reader, tenant: &'r Tenant, entries: Vec<Routed>) -> Self {
        Self {
            reader,
            tenant,
            entries: entries.into(),
            begun: Vec::new(),
            writes: VecDeque::new(),
            resting: HashSet::new(),
            letters: Vec::new(),
            backoff: backoff(),
        }
    }

    /// Works through the batch; the entries that are done: all, but where the node stops.
    pub(super) async fn run(mut self) -> Vec<Offset> {
        let outcome = self.work().await;
        let outcome = outcome.and(self.write_letters().await);
        let mut done = self.begun;
        if outcome.is_err() {
            // An entry whose letters were not written has still to get them.
            let open: HashSet<Offset> = self.writes.iter().map(|write| write.entry.offset).collect();
            let unsaid: HashSet<Offset> = self.letters.iter().map(|letter| letter.offset).collect();
            done.retain(|offset| !open.contains(offset) && !unsaid.contains(offset));
        }
        done
    }

    async fn work(&mut self) -> Result<(), Stopped> {
        loop {
            let round = self.next_round();
            if self.letters.len() >= LETTERS {
                let unwritten = self.write_letters().await;
                if unwritten.is_err() {
                    self.put_back(round);
                    return unwritten;
                }
            }
            if round.is_empty() {
                if self.writes.is_empty() {
                    return Ok(());
                }
                // Only channels that rest are left.
                self.pause().await?;
                continue;
            }
            if self.write(round).await {
                self.pause().await?;
            }
        }
    }

    /// The next writes, to channels that do not rest.
    fn next_round(&mut self) -> Vec<Write> {
        let (mut round, mut passed) = (Vec::new(), Vec::new());
        let (mut last, mut bytes) = (HashMap::<StreamKey, Offset>::new(), 0);
        while round.len() < ROUND
            && bytes < ROUND_BYTES
            && passed.len() < LOOK_AHEAD
            && self.letters.len() < LETTERS
        {
            let Some(mut write) = self.writes.pop_front() else {
                if self.begin() {
                    continue;
                }
                break;
            };
            let stream = &write.target.stream;
            if self.resting.contains(stream) {
                passed.push(write);
            } else {
                write.after = last.insert(stream.clone(), write.entry.offset);
                bytes += write.entry.bytes;
                round.push(write);
            }
        }
        self.put_back(passed);
        round
    }

    /// Puts writes back where they were, before those that are left.
    fn put_back(&mut self, writes: Vec<Write>) {
        writes.into_iter().rev().for_each(|write| self.writes.push_front(write));
    }

    /// Begins the next entry. A node that stops begins none.
    fn begin(&mut self) -> bool {
        if self.reader.stop.is_cancelled() {
            return false;
        }
        let raw = match self.entries.pop_front() {
            None => return false,
            Some(Routed::Nowhere(offset)) => {
                self.begun.push(offset);
                return true;
            }
            Some(Routed::Failed(raw, failure)) => {
                self.begun.push(raw.offset);
                self.bury_entry(raw, PublishOutcome::Failed, "plugin", &failure);
                return true;
            }
            Some(Routed::Entry(raw)) => raw,
        };
        self.begun.push(raw.offset);
        match Entry::parse(&raw, self.tenant) {
            Ok(Entry { offset, fields, bytes, targets }) => {
                let entry = Arc::new(Message { offset, fields, bytes });
                for target in targets {
                    match target {
                        Ok(target) => {
                            self.writes.push_back(Write { entry: entry.clone(), target, after: None })
                        }
                        Err(NoTarget { name, reason, error }) => {
                            self.count(PublishOutcome::Invalid, 1);
                            self.bury(&name, &entry, reason, &error);
                        }
                    }
                }
            }
            Err(poison) => self.bury_entry(raw, PublishOutcome::Invalid, "bad_entry", &poison),
        }
        true
    }

    /// Does a round's writes; whether some have to be tried again after a pause.
    async fn write(&mut self, round: Vec<Write>) -> bool {
        let additions: Vec<_> = round.iter().map(Write::addition).collect();
        let mut answers = self.reader.ingress.backbone.append_all(&additions).await.into_iter();
        let (mut written, mut again, mut wait) = (0, Vec::new(), None);
        for write in round {
            let unanswered = || Err(BackboneError::Away("no answer".into()));
            match answers.next().unwrap_or_else(unanswered) {
                Ok(offset) => {
                    written += 1;
                    self.written(&write.target, offset);
                }
                Err(BackboneError::Full(_)) if self.is_patient(&write.target.stream) => {
                    self.resting.insert(write.target.stream.clone());
                    again.push(write);
                }
                // Its turn comes: the first of a channel in a round is behind nothing.
                Err(BackboneError::Behind) => again.push(write),
                Err(error) if error.is_retryable() && !matches!(error, BackboneError::Full(_)) => {
                    wait = Some(error);
                    again.push(write);
                }
                Err(error) => {
                    let (reason, outcome) = refusal(&error);
                    self.count(outcome, 1);
                    self.bury(write.target.channel.as_str(), &write.entry, reason, &error.to_string());
                }
            }
        }
        self.count(PublishOutcome::Accepted, written);
        self.put_back(again);
        if let Some(error) = &wait {
            self.reader.failed("write what came by an ingress", error);
        } else if written > 0 {
            self.backoff.reset();
        }
        wait.is_some()
    }

    /// A channel took a message.
    fn written(&mut self, target: &Target, offset: Offset) {
        self.reader.ingress.upstream.note_unwatched(&self.reader.tenant, &target.channel, offset);
        if !self.reader.full.is_empty() {
            self.reader.full.remove(&target.stream);
        }
    }

    /// Whether a full queue is still waited for. One that was waited for in vain is not waited for
    /// again until it takes something: the tenant's other channels must not wait each time.
    fn is_patient(&mut self, queue: &StreamKey) -> bool {
        let full = &mut self.reader.full;
        if full.len() >= FULL {
            full.clear();
        }
        let since = *full.entry(queue.clone()).or_insert_with(Instant::now);
        since.elapsed() < self.reader.ingress.options.patience
    }

    /// Waits a moment, then everything is tried again. An error: the node stops.
    async fn pause(&mut self) -> Result<(), Stopped> {
        if let Some(write) = self.writes.front() {
            self.reader.metrics.ingress_lag.set(self.reader.age(write.entry.offset).as_secs() as i64);
        }
        self.reader.pause(self.backoff.delay()).await;
        self.resting.clear();
        if self.reader.stop.is_cancelled() { Err(Stopped) } else { Ok(()) }
    }

    fn count(&self, outcome: PublishOutcome, count: u64) {
        if count > 0 {
            self.reader.metrics.publishes.of(Via::Ingress).of(outcome).inc_by(count);
        }
    }

    /// A target that does not get its message; the others do.
    fn bury(&mut self, channel: &str, entry: &Message, reason: &'static str, error: &str) {
        let letter = DeadLetter {
            channel,
            ingress: Some(entry.offset),
            reason,
            error: Some(error),
            ..DeadLetter::default()
        };
        let message = entry.fields.iter().filter(|(name, _)| name != "in").cloned();
        let (offset, fields) = (entry.offset, letter.into_fields(message));
        // Several of one entry's targets may fail, so its offset does not tell letters apart: after the
        // end of a node one may be there twice.
        self.letters.push(Letter { channel: channel.to_owned(), offset, fields, once: None });
    }

    /// An entry that goes nowhere.
    fn bury_entry(&mut self, raw: RawEntry, outcome: PublishOutcome, reason: &str, why: &dyn Display) {
        self.count(outcome, 1);
        let error = why.to_string();
        let letter =
            DeadLetter { ingress: Some(raw.offset), reason, error: Some(&error), ..DeadLetter::default() };
        let (offset, channel) = (raw.offset, "in".to_owned());
        let fields = letter.into_fields(raw.fields);
        self.letters.push(Letter { channel, offset, fields, once: Some(Once::Ingress(offset)) });
    }

    /// Writes all dead letters that wait. One that the backbone never takes is lost, and told of.
    async fn write_letters(&mut self) -> Result<(), Stopped> {
        while !self.letters.is_empty() {
            let stream = StreamKey::dead_letters(&self.reader.tenant);
            let addition = |letter: &Letter| Addition {
                stream: stream.clone(),
                fields: letter.fields.clone(),
                once: letter.once.clone(),
                refuse_at: None,
            };
            let additions: Vec<_> = self.letters.iter().map(addition).collect();
            let answers = self.reader.ingress.backbone.append_all(&additions).await;
            let mut again = Vec::new();
            for (letter, answer) in std::mem::take(&mut self.letters).into_iter().zip(answers) {
                let outcome = match answer {
                    Ok(_) => DeadLetterOutcome::Stored,
                    Err(error) if error.is_retryable() => {
                        again.push(letter);
                        continue;
                    }
                    Err(_) => DeadLetterOutcome::Failed,
                };
                let Reader { metrics, tenant, .. } = &*self.reader;
                events::dead_letter(metrics, tenant, &letter.channel.escape_debug(), letter.offset, outcome);
            }
            self.letters = again;
            if !self.letters.is_empty() {
                self.pause().await?;
            }
        }
        Ok(())
    }
}

impl Write {
    fn addition(&self) -> Addition {
        Addition {
            stream: self.target.stream.clone(),
            fields: self.entry.fields.clone(),
            once: Some(match self.after {
                Some(previous) => Once::IngressAfter(self.entry.offset, previous),
                None => Once::Ingress(self.entry.offset),
            }),
            refuse_at: self.target.refuse_at,
        }
    }
}

/// The word in the dead letter, and how it is counted.
fn refusal(error: &BackboneError) -> (&'static str, PublishOutcome) {
    match error {
        BackboneError::WrongType(_) => ("wrong_type", PublishOutcome::Failed),
        BackboneError::Full(_) => ("full", PublishOutcome::Unavailable),
        _ => ("refused", PublishOutcome::Failed),
    }
}
