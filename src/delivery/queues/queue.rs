//! One queue as this node sees it: who works at it, what they hold, what is to be said to the backbone.
//! Pure.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use tokio::task::Id;
use tokio::time::Instant;

use super::super::batch::{Channel, Item, note_skipped};
use super::super::dead_letters::DeadLetter;
use super::super::outlet::ShardId;
use super::super::view::Subscriber;
use super::turn::{Letter, Plan, Turned};
use super::{GROUP, Task, Word, WorkerId};
use crate::backbone::backoff::Backoff;
use crate::backbone::{Addition, BackboneError, Group, Held, Work};
use crate::domain::{Epoch, Malformed, Offset, Publication, RawEntry, SessionId, StreamKey};
use crate::telemetry::{DeadLetterOutcome, Skip, events};

/// Tasks taken at once. Few, so that nodes take turns.
const TAKEN_AT_ONCE: usize = 64;
/// Dead letters that wait to be written; with more of them no work is taken.
const LETTERS: usize = 256;
/// How long dead letters wait that could not be written.
const BURY_AGAIN: Duration = Duration::from_secs(2);
/// How often consumers that are gone are looked for.
const TIDY: Duration = Duration::from_secs(600);

/// Whether it is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Opening,
    Open(Epoch),
    Closing,
}

pub(super) struct Queue {
    pub(super) channel: Arc<Channel>,
    pub(super) group: Group,
    pub(super) phase: Phase,
    /// There may be something to take.
    pub(super) marked: bool,
    /// Attempts that a task has.
    attempts: u8,
    workers: IndexMap<SessionId, Place>,
    /// Those who want something, the next one first, and how much all of them want.
    wanting: VecDeque<SessionId>,
    wanted: usize,
    /// Everything the backbone gave this node and did not take back.
    held: HashMap<Offset, Holding>,
    /// Taken, and not dealt out yet.
    ready: VecDeque<Task>,
    /// To be said with the next turn.
    done: Vec<Offset>,
    back: Vec<Held>,
    letters: Vec<Letter>,
    /// The turn under way.
    busy: Option<Id>,
    /// Tasks that were dealt out are being shaped: others come after them.
    shaping: Option<Id>,
    /// Not to be troubled before, because the backbone failed.
    retry_at: Instant,
    backoff: Backoff,
    /// When dead letters are written, and what is held is kept; when it is looked for work that nobody
    /// told of, and for consumers that are gone. At the earliest.
    bury_at: Instant,
    keep_at: Instant,
    look_at: Instant,
    tidy_at: Instant,
    idle_since: Option<Instant>,
}

/// A task on its way to a worker.
pub(super) struct Dealt {
    pub(super) worker: WorkerId,
    pub(super) shard: ShardId,
    pub(super) subscriber: Arc<Subscriber>,
    pub(super) task: Task,
}

impl Dealt {
    /// The task as an entry of its log.
    pub(super) fn item(&self) -> Item {
        Item::new(self.task.message.offset, Some(self.task.message.clone()))
    }
}

/// Where a worker sits, and how many tasks it still wants.
struct Place {
    attach: u32,
    shard: ShardId,
    subscriber: Arc<Subscriber>,
    wants: usize,
    /// Its session waits there for its client.
    away: bool,
}

struct Holding {
    attempts: u8,
    by: By,
}

/// Who has a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// Nobody yet.
    Nobody,
    Session(SessionId),
    /// Nobody any more: it is done, or goes back.
    Leaving,
}

impl Queue {
    pub(super) fn new(channel: Arc<Channel>, attempts: u8) -> Self {
        let now = Instant::now();
        Self {
            group: Group { stream: channel.view.stream.clone(), name: GROUP },
            channel,
            phase: Phase::Opening,
            marked: false,
            attempts,
            workers: IndexMap::new(),
            wanting: VecDeque::new(),
            wanted: 0,
            held: HashMap::new(),
            ready: VecDeque::new(),
            done: Vec::new(),
            back: Vec::new(),
            letters: Vec::new(),
            busy: None,
            shaping: None,
            retry_at: now,
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(5)),
            bury_at: now,
            keep_at: now,
            look_at: now,
            tidy_at: now,
            idle_since: None,
        }
    }

    // ---- workers -----------------------------------------------------------------------------------

    /// A session works here from now on; what it said on an earlier connection counts no more.
    pub(super) fn join(
        &mut self,
        worker: WorkerId,
        shard: ShardId,
        subscriber: Arc<Subscriber>,
        attempts: u8,
    ) {
        self.attempts = attempts;
        if self.workers.get(&worker.session).is_none_or(|place| place.attach < worker.attach) {
            self.part(worker);
            let place = Place { attach: worker.attach, shard, subscriber, wants: 0, away: false };
            self.workers.insert(worker.session, place);
        }
    }

    /// Everybody who works here now.
    pub(super) fn workers(&self) -> impl Iterator<Item = (WorkerId, ShardId)> {
        let here = self.workers.iter().filter(|(_, place)| !place.away);
        here.map(|(session, place)| (WorkerId { session: *session, attach: place.attach }, place.shard))
    }

    /// Nobody works here any more.
    pub(super) fn dismiss(&mut self) {
        self.workers.clear();
        self.wanting.clear();
        self.wanted = 0;
    }

    /// Nothing is to be dealt to this worker any more.
    fn hold_off(&mut self, worker: WorkerId) {
        let place = self.workers.get_mut(&worker.session);
        let Some(place) = place.filter(|place| place.attach <= worker.attach) else { return };
        place.away = true;
        if place.wants > 0 {
            self.wanted -= std::mem::take(&mut place.wants);
            self.wanting.retain(|session| *session != worker.session);
        }
    }

    fn part(&mut self, worker: WorkerId) {
        self.hold_off(worker);
        if self.workers.get(&worker.session).is_some_and(|place| place.attach <= worker.attach) {
            self.workers.swap_remove(&worker.session);
        }
    }

    /// A worker says something.
    pub(super) fn told(&mut self, worker: WorkerId, word: Word) {
        match word {
            Word::Want(more) => self.want(worker, more),
            Word::Is(subscriber) => {
                if let Some(place) = self.workers.get_mut(&worker.session) {
                    place.subscriber = subscriber;
                }
            }
            Word::Done(offset) => self.finish(offset),
            Word::Return(held) => self.give_back(worker.session, held),
            Word::Pause(held) => {
                for Held { offset, attempts } in held {
                    if let Some(holding) = self.held_by(worker.session, offset) {
                        holding.attempts = attempts;
                    }
                }
                self.hold_off(worker);
            }
            Word::Leave(held) => {
                held.into_iter().for_each(|held| self.give_back(worker.session, held));
                self.part(worker);
            }
        }
    }

    fn want(&mut self, worker: WorkerId, more: usize) {
        let place = self.workers.get_mut(&worker.session);
        let Some(place) = place.filter(|place| place.attach == worker.attach) else { return };
        if place.wants == 0 && more > 0 {
            self.wanting.push_back(worker.session);
        }
        place.wants += more;
        self.wanted += more;
    }

    fn held_by(&mut self, session: SessionId, offset: Offset) -> Option<&mut Holding> {
        self.held.get_mut(&offset).filter(|holding| holding.by == By::Session(session))
    }

    fn give_back(&mut self, session: SessionId, held: Held) {
        if let Some(holding) = self.held_by(session, held.offset) {
            *holding = Holding { attempts: held.attempts, by: By::Leaving };
            self.back.push(held);
        }
    }

    /// Also what this node holds no more: it was done by somebody who was given it, and must not be done
    /// again if that can be helped.
    fn finish(&mut self, offset: Offset) {
        if let Some(holding) = self.held.get_mut(&offset)
            && std::mem::replace(&mut holding.by, By::Leaving) == By::Nobody
        {
            self.ready.retain(|task| task.message.offset != offset);
        }
        self.done.push(offset);
    }

    // ---- dealing out -------------------------------------------------------------------------------

    /// Whether something waits for a worker.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Deals the next task to the next worker who wants one and whose shard has room.
    pub(super) fn deal(&mut self, has_room: impl Fn(ShardId) -> bool) -> Option<Dealt> {
        if self.ready.is_empty() || self.shaping.is_some() {
            return None;
        }
        for _ in 0..self.wanting.len() {
            let session = self.wanting.pop_front()?;
            let Some(place) = self.workers.get_mut(&session) else { continue };
            if !has_room(place.shard) {
                self.wanting.push_back(session);
                continue;
            }
            place.wants -= 1;
            self.wanted -= 1;
            if place.wants > 0 {
                self.wanting.push_back(session);
            }
            let worker = WorkerId { session, attach: place.attach };
            let task = self.ready.pop_front()?;
            self.held.entry(task.message.offset).and_modify(|holding| holding.by = By::Session(session));
            let (shard, subscriber) = (place.shard, place.subscriber.clone());
            return Some(Dealt { worker, shard, subscriber, task });
        }
        None
    }

    /// What was dealt out last is being shaped.
    pub(super) fn set_shaping(&mut self, id: Id) {
        self.shaping = Some(id);
    }

    /// That is over.
    pub(super) fn shaped(&mut self) {
        self.shaping = None;
    }

    /// A plugin lets nobody see a task: it is done, and its worker still wants one.
    pub(super) fn not_shown(&mut self, dealt: &Dealt) {
        self.finish(dealt.task.message.offset);
        self.want(dealt.worker, 1);
    }

    /// Nobody can say what its worker would see of a task: it goes back, for another node. The worker is not
    /// dealt the same once more.
    pub(super) fn undealt(&mut self, dealt: &Dealt) {
        let Task { message, attempts, .. } = &dealt.task;
        self.give_back(dealt.worker.session, Held { offset: message.offset, attempts: *attempts });
    }

    // ---- turns -------------------------------------------------------------------------------------

    /// Something may have come; whether to look now.
    pub(super) fn mark(&mut self) -> bool {
        self.marked = true;
        // The backbone answers again, if it did not.
        self.retry_at = Instant::now();
        true
    }

    pub(super) fn is_busy(&self) -> bool {
        self.busy.is_some()
    }

    /// The turn that was planned is under way.
    pub(super) fn set_busy(&mut self, id: Id) {
        self.busy = Some(id);
    }

    /// What is to be said now, if anything; the caller starts it and says that it [is under
    /// way](Self::set_busy). `letters` is how many dead letters may be written.
    pub(super) fn plan(&mut self, now: Instant, lease: Duration, letters: usize) -> Option<Plan> {
        if self.busy.is_some() || !matches!(self.phase, Phase::Open(_)) || now < self.retry_at {
            return None;
        }
        if self.wanted == 0 {
            self.return_ready();
        }
        let mut plan = Plan { done: std::mem::take(&mut self.done), ..Plan::default() };
        plan.back = std::mem::take(&mut self.back);
        if now >= self.bury_at {
            plan.letters = self.letters.drain(..letters.min(self.letters.len())).collect();
        }
        if now >= self.keep_at {
            self.keep_at = now + lease / 3;
            plan.keep = self.holdings(|by| by != By::Leaving);
        }
        if (self.marked || now >= self.look_at) && self.letters.len() < LETTERS {
            plan.take = self.wanted.saturating_sub(self.ready.len()).min(TAKEN_AT_ONCE);
        }
        if plan.take > 0 {
            self.marked = false;
            self.look_at = now + lease / 2;
            plan.tidy = now >= self.tidy_at;
        }
        if plan.tidy {
            self.tidy_at = now + TIDY;
        }
        (plan != Plan::default()).then_some(plan)
    }

    /// The last words: what is done, and everything else back.
    pub(super) fn last_plan(&mut self) -> Option<Plan> {
        self.return_ready();
        self.letters.clear();
        let done = std::mem::take(&mut self.done);
        let mut back = self.holdings(|_| true);
        back.retain(|held| !done.contains(&held.offset));
        let plan = Plan { done, back, ..Plan::default() };
        (plan != Plan::default()).then_some(plan)
    }

    /// Nobody wants what was taken: others shall have it.
    fn return_ready(&mut self) {
        for task in self.ready.drain(..) {
            let offset = task.message.offset;
            if let Some(holding) = self.held.get_mut(&offset) {
                holding.by = By::Leaving;
                self.back.push(Held { offset, attempts: holding.attempts });
            }
        }
    }

    fn holdings(&self, of: impl Fn(By) -> bool) -> Vec<Held> {
        let some = self.held.iter().filter(|(_, holding)| of(holding.by));
        some.map(|(offset, holding)| Held { offset: *offset, attempts: holding.attempts }).collect()
    }

    /// The task that took the turn has failed: what it should have said is not known to be said. Nothing
    /// is lost, because the lease of what left ends. One that shaped tasks leaves them to be taken again.
    pub(super) fn task_failed(&mut self, id: Id) {
        if self.shaping == Some(id) {
            self.shaping = None;
        }
        if self.busy == Some(id) {
            self.busy = None;
            self.marked = true;
            let leaving = self.holdings(|by| by == By::Leaving);
            leaving.iter().for_each(|held| self.forget(held.offset));
        }
    }

    /// A turn is over. Whose tasks went to somebody else meanwhile.
    pub(super) fn turned(
        &mut self,
        turned: Turned,
        clock_ms: u64,
        now: Instant,
    ) -> Vec<(WorkerId, ShardId, Offset)> {
        self.busy = None;
        if turned.error.as_ref().is_some_and(BackboneError::is_retryable) {
            self.retry_at = now + self.backoff.delay();
        } else {
            self.backoff.reset();
        }
        let Turned { left, buried, unburied, finished, returned, lost, taken, .. } = turned;
        let Channel { metrics, tenant, name, .. } = &*self.channel;
        for offset in buried {
            events::dead_letter(metrics, tenant, name, offset, DeadLetterOutcome::Stored);
        }
        if unburied.is_some() {
            self.bury_at = now + BURY_AGAIN;
            for letter in &left.letters {
                events::dead_letter(metrics, tenant, name, letter.offset, DeadLetterOutcome::Failed);
            }
        }
        self.done.extend(left.done);
        self.back.extend(left.back);
        self.letters.extend(left.letters);
        if !left.keep.is_empty() {
            self.keep_at = now;
        }
        self.marked |= left.take > 0 || !returned.is_empty();
        self.channel.metrics.work_finished.inc_by(finished.len() as u64);
        self.channel.metrics.work_returned.inc_by(returned.len() as u64);
        finished.into_iter().chain(returned).for_each(|offset| self.forget(offset));
        let mut told = Vec::new();
        for offset in lost {
            if let Some(Holding { by: By::Session(session), .. }) = self.held.get(&offset)
                && let Some(place) = self.workers.get(session)
            {
                told.push((WorkerId { session: *session, attach: place.attach }, place.shard, offset));
            }
            self.ready.retain(|task| task.message.offset != offset);
            self.letters.retain(|letter| letter.offset != offset);
            self.forget(offset);
        }
        if let Some((asked, work)) = taken {
            self.marked |= work.len() >= asked;
            work.into_iter().for_each(|work| self.took(work, clock_ms));
        }
        told
    }

    fn forget(&mut self, offset: Offset) {
        if self.held.remove(&offset).is_some() {
            self.channel.metrics.work_held.dec();
        }
    }

    fn took(&mut self, work: Work, clock_ms: u64) {
        let Work { entry, attempts, again } = work;
        let offset = entry.offset;
        if self.held.contains_key(&offset) {
            // Its lease had ended and nobody else came: it is ours again, and with whom it was.
            return;
        }
        self.channel.metrics.work_held.inc();
        self.held.insert(offset, Holding { attempts, by: By::Nobody });
        match Publication::from_entry(&entry, self.channel.max_payload) {
            Err(why) => {
                // Left in the queue it would come again and again.
                note_skipped(&self.channel, offset, &why);
                let reason = match why {
                    Malformed::TooLarge { .. } => "too_large",
                    Malformed::NoData | Malformed::Field { .. } => "bad_entry",
                };
                self.bury(entry, reason, Some(&why.to_string()), attempts);
            }
            Ok(message) if message.is_expired(clock_ms) => {
                let Channel { metrics, tenant, name, .. } = &*self.channel;
                let why = "its time to live is over";
                events::entry_skipped(metrics, tenant, name, offset, Skip::Expired, &why);
                self.finish(offset);
            }
            Ok(_) if attempts >= self.attempts => self.bury(entry, "attempts", None, attempts),
            Ok(message) => self.ready.push_back(Task { message: Arc::new(message), attempts, again }),
        }
    }

    /// Gives an entry up.
    fn bury(&mut self, entry: RawEntry, reason: &str, error: Option<&str>, attempts: u8) {
        let Channel { metrics, tenant, name, rules, .. } = &*self.channel;
        let offset = entry.offset;
        if !rules.dead_letters {
            events::dead_letter(metrics, tenant, name, offset, DeadLetterOutcome::Dropped);
            return self.finish(offset);
        }
        let channel = name.as_str();
        let letter = DeadLetter { channel, offset, reason, error, attempts, ..DeadLetter::default() };
        let (stream, fields) = (StreamKey::dead_letters(tenant), letter.into_fields(entry.fields));
        let addition = Addition { stream, fields, once: None, refuse_at: None };
        self.letters.push(Letter { offset, addition });
    }

    // ---- time --------------------------------------------------------------------------------------

    /// Whether nobody works here and nothing is held.
    pub(super) fn is_idle(&self) -> bool {
        self.workers.is_empty() && self.held.is_empty() && self.done.is_empty() && self.back.is_empty()
    }

    /// Whether it was idle for so long.
    pub(super) fn is_over(&mut self, now: Instant, linger: Duration) -> bool {
        if self.busy.is_some() || !matches!(self.phase, Phase::Open(_)) || !self.is_idle() {
            self.idle_since = None;
            return false;
        }
        now.duration_since(*self.idle_since.get_or_insert(now)) >= linger
    }

    /// Whether time may have brought something to do.
    pub(super) fn is_due(&self) -> bool {
        self.busy.is_none() && matches!(self.phase, Phase::Open(_)) && !self.is_idle()
    }
}

#[cfg(test)]
mod tests;
