//! A session's part in a queue: the tasks it holds, and how many more it takes.
//!
//! A task is held until the client acknowledges it, gives it back, or lets its time pass. It outlives a
//! connection: who comes back finds it again. The message stays in memory meanwhile, within a budget.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::effect::{Effect, Effects};
use super::subscription::NotInFlight;
use crate::backbone::Held;
use crate::delivery::Channel;
use crate::delivery::queues::{Task, Word};
use crate::domain::{Epoch, Limits, Offset, Publication};
use crate::protocol::{RequestId, ServerFrame};

/// A session's part in a queue.
pub struct Worker {
    /// The queue.
    pub channel: Arc<Channel>,
    /// Tasks it holds at most.
    window: usize,
    /// Payload bytes it holds, unless one task alone has more.
    most_bytes: usize,
    ack_timeout: Duration,
    /// Attempts that a task has.
    attempts: u8,
    phase: Phase,
    holds: Vec<Holding>,
    /// Tasks that were asked for and have not come.
    wanted: usize,
    /// A task did not fit: no more is asked for until another one is gone.
    full: bool,
    /// Payload bytes of a task, roughly: no more are asked for than may fit.
    typical: usize,
    /// Tasks that it had until lately. Their work may be done all the same.
    late: VecDeque<Offset>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The queue is being opened; this request waits for it.
    Opening(Option<RequestId>),
    Open,
}

/// A task and how it stands.
struct Holding {
    message: Arc<Publication>,
    /// Number of the last delivery.
    attempt: u8,
    /// Deliveries to a client that proved to be alive after that.
    counted: u8,
    /// When it was sent on this connection.
    sent: Option<Instant>,
    /// When it goes back.
    due: Instant,
    /// The client does not want it, and it waits for its delay.
    nacked: bool,
    /// The last delivery has counted.
    proven: bool,
    /// Another node has it now: it may be acknowledged, but is not sent again from here.
    lost: bool,
}

impl Holding {
    fn offset(&self) -> Offset {
        self.message.offset
    }

    fn count(&mut self) {
        if !std::mem::replace(&mut self.proven, true) {
            self.counted = self.counted.saturating_add(1);
        }
    }

    fn held(&self) -> Held {
        Held { offset: self.offset(), attempts: self.counted }
    }
}

/// Tasks that are remembered after they were given back.
const LATE: usize = 256;

impl Worker {
    /// A worker whose queue is to be opened for this request.
    pub fn new(channel: Arc<Channel>, window: usize, limits: &Limits, id: Option<RequestId>) -> Self {
        Self {
            channel,
            window: window.max(1),
            most_bytes: limits.outbox_bytes,
            ack_timeout: Duration::from_millis(limits.ack_timeout_ms),
            attempts: limits.attempts,
            phase: Phase::Opening(id),
            holds: Vec::new(),
            wanted: 0,
            full: false,
            typical: 256,
            late: VecDeque::new(),
        }
    }

    /// The request that still waits for its answer.
    pub fn waiting_request(&self) -> Option<RequestId> {
        match self.phase {
            Phase::Opening(id) => id,
            Phase::Open => None,
        }
    }

    /// Attempts that a task has.
    pub fn attempts(&self) -> u8 {
        self.attempts
    }

    /// Changes how much it holds at most; what it holds stays.
    pub fn adjust(&mut self, window: usize) {
        self.window = window.max(1);
    }

    /// The queue is open: `channel` is its description, which all sessions share.
    pub fn on_opened(&mut self, channel: Arc<Channel>, epoch: Epoch, fx: &mut Effects) {
        let Phase::Opening(id) = std::mem::replace(&mut self.phase, Phase::Open) else { return };
        self.channel = channel;
        let channel = self.channel.name.clone();
        // A queue has no position to go on from.
        let (offset, recovered) = (Offset::ZERO, None);
        fx.push(Effect::Send(ServerFrame::Subscribed { id, channel, offset, epoch, recovered }));
    }

    /// A task came. Without room for it, it goes back.
    pub fn on_task(&mut self, at: usize, task: Task, now: Instant, room: usize, fx: &mut Effects) {
        self.wanted = self.wanted.saturating_sub(1);
        let offset = task.message.offset;
        let bytes = task.message.data.len();
        self.typical = ((3 * self.typical + bytes) / 4).max(1);
        let fits = self.holds.is_empty() || self.bytes() + bytes <= self.most_bytes;
        if self.phase != Phase::Open || room == 0 || !fits {
            self.full |= !fits;
            let held = Held { offset, attempts: task.attempts };
            return fx.push(Effect::Tell { worker: at, word: Word::Return(held) });
        }
        // One that another node had meanwhile may come back.
        self.holds.retain(|held| held.offset() != offset);
        self.late.retain(|late| *late != offset);
        let earlier = task.attempts.max(u8::from(task.again));
        let mut held = Holding {
            message: task.message,
            attempt: earlier,
            counted: task.attempts,
            sent: None,
            due: now,
            nacked: false,
            proven: false,
            lost: false,
        };
        self.send(&mut held, now, fx);
        self.holds.push(held);
        self.want(at, fx);
    }

    fn bytes(&self) -> usize {
        self.holds.iter().map(|held| held.message.data.len()).sum()
    }

    fn send(&self, held: &mut Holding, now: Instant, fx: &mut Effects) {
        held.attempt = held.attempt.saturating_add(1);
        held.sent = Some(now);
        held.due = now + self.ack_timeout;
        held.proven = false;
        let (channel, message, attempt) = (self.channel.name.clone(), held.message.clone(), held.attempt);
        fx.push(Effect::Send(ServerFrame::Message { channel, message, attempt }));
    }

    /// Sends what an earlier connection was sent, as far as there is room, and then asks for more.
    pub fn pursue(&mut self, at: usize, now: Instant, mut room: usize, fx: &mut Effects) {
        if self.phase != Phase::Open {
            return;
        }
        let mut holds = std::mem::take(&mut self.holds);
        holds.retain_mut(|held| {
            if held.sent.is_some() || held.nacked || room == 0 {
                return true;
            }
            if held.counted >= self.attempts {
                fx.push(Effect::Tell { worker: at, word: Word::Return(held.held()) });
                return false;
            }
            self.send(held, now, fx);
            room = room.saturating_sub(held.message.data.len().max(1));
            true
        });
        self.holds = holds;
        if room > 0 {
            self.want(at, fx);
        }
    }

    /// Asks for more, not one by one where the window is large.
    fn want(&mut self, at: usize, fx: &mut Effects) {
        let fit = self.most_bytes.saturating_sub(self.bytes()) / self.typical;
        let fit = if self.holds.is_empty() { fit.max(1) } else { fit };
        let free = (self.window.saturating_sub(self.holds.len())).min(fit).saturating_sub(self.wanted);
        let worth = self.wanted == 0 || free * 2 >= self.window;
        if self.phase == Phase::Open && !self.full && free > 0 && worth {
            self.wanted += free;
            fx.push(Effect::Tell { worker: at, word: Word::Want(free) });
        }
    }

    fn find(&self, offset: Offset) -> Option<usize> {
        self.holds.iter().position(|held| held.offset() == offset)
    }

    /// A task is done. It may also be one that this session had until lately.
    pub fn ack(&mut self, at: usize, offset: Offset, fx: &mut Effects) -> Result<(), NotInFlight> {
        if let Some(place) = self.find(offset) {
            self.holds.remove(place);
            self.full = false;
        } else if let Some(place) = self.late.iter().position(|late| *late == offset) {
            self.late.remove(place);
        } else {
            return Err(NotInFlight);
        }
        fx.push(Effect::Tell { worker: at, word: Word::Done(offset) });
        self.want(at, fx);
        Ok(())
    }

    /// A task is not wanted: it goes back when it is due.
    pub fn nack(
        &mut self,
        at: usize,
        offset: Offset,
        due: Instant,
        now: Instant,
        fx: &mut Effects,
    ) -> Result<(), NotInFlight> {
        let place = self.find(offset).ok_or(NotInFlight)?;
        let held = &mut self.holds[place];
        held.count();
        (held.nacked, held.due) = (true, due);
        if due <= now {
            self.give_back(at, place, fx);
            self.want(at, fx);
        }
        Ok(())
    }

    /// Another node has this task now. A client that is away is not sent it when it comes back, and may
    /// still say that it is done.
    pub fn on_lost(&mut self, offset: Offset) {
        let Some(place) = self.find(offset) else { return };
        match self.phase {
            Phase::Open => self.holds[place].lost = true,
            Phase::Opening(_) => drop(self.part_with(place)),
        }
    }

    fn give_back(&mut self, at: usize, place: usize, fx: &mut Effects) {
        let held = self.part_with(place);
        if !held.lost {
            fx.push(Effect::Tell { worker: at, word: Word::Return(held.held()) });
        }
    }

    /// Takes a task out that may still be acknowledged.
    fn part_with(&mut self, place: usize) -> Holding {
        let held = self.holds.remove(place);
        self.full = false;
        if self.late.len() >= LATE {
            self.late.pop_front();
        }
        self.late.push_back(held.offset());
        held
    }

    /// Time passes: what is overdue goes back, so that another session may have it. A delivery counts only
    /// if the client was heard after it; without that the connection is about to end, and decides.
    pub fn on_time(&mut self, at: usize, now: Instant, heard: Instant, fx: &mut Effects) {
        let mut place = 0;
        while let Some(held) = self.holds.get_mut(place) {
            let is_over = held.nacked || held.sent.is_some_and(|sent| heard > sent);
            if held.due > now || held.sent.is_none() && !held.nacked {
                place += 1;
            } else if is_over {
                held.count();
                self.give_back(at, place, fx);
            } else {
                held.due = now + self.ack_timeout;
                place += 1;
            }
        }
        self.want(at, fx);
    }

    /// When [`Self::on_time`] has something to do.
    pub fn next_time(&self) -> Option<Instant> {
        let due = self.holds.iter().filter(|held| held.nacked || held.sent.is_some()).map(|held| held.due);
        due.min()
    }

    /// A time by which [`Self::on_time`] is due after a delivery at `now`.
    pub fn due_soon(&self, now: Instant) -> Instant {
        now + self.ack_timeout
    }

    /// The connection is gone: what it was sent is kept, to be sent again on the next one.
    pub fn interrupt(&mut self, heard: Instant) -> Word {
        self.holds.retain(|held| !held.lost);
        for held in &mut self.holds {
            if held.sent.take().is_some_and(|sent| heard > sent) {
                held.count();
            }
        }
        self.phase = Phase::Opening(None);
        (self.wanted, self.full) = (0, false);
        Word::Pause(self.holds.iter().map(Holding::held).collect())
    }

    /// It works here no more: everything goes back. What was not told to be handled or not to be is not
    /// counted as an attempt.
    pub fn leave(&mut self) -> Word {
        let held = self.holds.drain(..).filter(|held| !held.lost);
        Word::Leave(held.map(|held| held.held()).collect())
    }
}

#[cfg(test)]
mod tests;
