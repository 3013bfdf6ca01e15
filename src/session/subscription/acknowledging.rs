//! Acknowledging, and sending again.

use std::sync::Arc;
use std::time::Instant;

use super::{Effect, Effects, Lag, Moment, NotInFlight, Phase, Skipped, Subscription, TELL_POSITION};
use crate::delivery::Batch;
use crate::domain::{Offset, Publication};
use crate::protocol::{GapReason, ServerFrame};

impl Subscription {
    /// Acknowledges everything at or below `offset`. Above what was sent is an error.
    pub fn ack(&mut self, sub: usize, offset: Offset, fx: &mut Effects) -> Result<(), NotInFlight> {
        if offset > self.position {
            return Err(NotInFlight);
        }
        if let Some(last) = self.window.ack(offset) {
            self.floor = last;
            self.unstored = true;
            if self.unproven.as_ref().is_some_and(|gap| last > gap.above) {
                self.gaps_arrived();
            }
            self.settle(sub, fx);
        }
        Ok(())
    }

    /// Asks for one message again.
    pub fn nack(&mut self, offset: Offset, due: Instant) -> Result<(), NotInFlight> {
        if self.acking && self.window.nack(offset, due) { Ok(()) } else { Err(NotInFlight) }
    }

    /// Time passes: reads again what is overdue, and tells a position that is owed.
    pub fn on_time(&mut self, sub: usize, now: Instant, heard: Instant, fx: &mut Effects) {
        if !self.is_subscribed() {
            return;
        }
        if let Phase::Waiting(until) = self.phase
            && until <= now
        {
            self.phase = Phase::Behind { asked: false, lag: Lag::CatchingUp };
            fx.push(Effect::Pursue { sub });
        }
        let before = self.cursor();
        self.look_for_gaps(now, heard);
        let overdue = self.window.expire(now, heard, self.ack_timeout);
        if before != self.cursor() {
            self.unstored = true;
            fx.push(Effect::CursorMoved { sub });
        }
        if overdue {
            self.reread(sub, fx);
        }
        match self.skipped {
            // What lies behind an unacknowledged message is told when that is done.
            Skipped::TellAt(then) if then <= now && !self.window.is_empty() => {
                self.skipped = Skipped::TellAt(now + TELL_POSITION);
            }
            Skipped::TellAt(then) if then <= now => {
                let (channel, offset, epoch) = (self.channel.name.clone(), self.position, self.epoch);
                fx.push(Effect::Send(ServerFrame::Position { channel, offset, epoch }));
                self.skipped = Skipped::QuietUntil(now + TELL_POSITION);
            }
            Skipped::QuietUntil(then) if then <= now => self.skipped = Skipped::Nothing,
            _ => {}
        }
    }

    /// Whether nothing waits for an acknowledgement.
    pub fn is_settled(&self) -> bool {
        !self.acking || self.window.is_empty()
    }

    /// When [`Self::on_time`] has something to do.
    pub fn next_time(&self) -> Option<Instant> {
        let tell = match self.skipped {
            Skipped::TellAt(then) => Some(then),
            Skipped::Nothing | Skipped::QuietUntil(_) => None,
        };
        self.window.next_due().into_iter().chain(tell).chain(self.turn()).min()
    }

    /// A time by which [`Self::on_time`] is due after a delivery at `now`, cheaply told.
    pub fn due_soon(&self, now: Instant) -> Option<Instant> {
        if self.turn().is_some() {
            return self.next_time();
        }
        match self.skipped {
            Skipped::TellAt(then) => Some(then),
            _ if self.acking && !self.window.is_empty() => Some(now + self.ack_timeout),
            _ => None,
        }
    }

    /// When the next message is due that is spread.
    fn turn(&self) -> Option<Instant> {
        match self.phase {
            Phase::Waiting(until) => Some(until),
            _ => None,
        }
    }

    /// A client that is heard again some time after a gap was told has it, as surely as a delivery counts.
    fn look_for_gaps(&mut self, now: Instant, heard: Instant) {
        let Some(gap) = &mut self.unproven else { return };
        if heard > *gap.since.get_or_insert(now) {
            self.gaps_arrived();
        }
    }

    /// The client knows of every gap that it was told.
    fn gaps_arrived(&mut self) {
        self.unproven = None;
        (self.told_once, self.told_gap) = (None, false);
    }

    /// Asks for the log from the floor on, where the messages to send again are.
    pub(super) fn reread(&mut self, sub: usize, fx: &mut Effects) {
        if self.rereading.is_none() {
            self.rereading = Some(self.floor);
            fx.push(Effect::Read { sub, after: self.floor });
        }
    }

    /// Reads on where more waits to be sent again than this batch reached, or gives it up where the
    /// log does not hold it any more.
    pub(super) fn reread_on(&mut self, sub: usize, after: Offset, batch: &Batch, fx: &mut Effects) {
        let Some(last) = self.window.last_again().filter(|last| *last > batch.until) else { return };
        if batch.until > after {
            self.rereading = Some(batch.until);
            fx.push(Effect::Read { sub, after: batch.until });
            return;
        }
        for offset in self.window.waiting_between(batch.until, last) {
            self.give_up(sub, offset, GapReason::Trimmed, fx);
        }
    }

    /// Sends again what waits for it and is in this batch; the room that is left. What finds none goes
    /// on waiting until there is some.
    pub(super) fn redeliver(&mut self, sub: usize, batch: &Batch, moment: Moment, fx: &mut Effects) -> usize {
        let mut room = moment.room;
        for offset in self.window.waiting_between(batch.after, batch.until) {
            let Ok(index) = batch.items.binary_search_by_key(&offset, |item| item.offset) else {
                // Where nothing is missing it was withdrawn, which is no gap.
                match batch.whole || offset > batch.gap_until() {
                    true => self.finish(sub, offset, fx),
                    false => self.give_up(sub, offset, GapReason::Trimmed, fx),
                }
                continue;
            };
            let counted = self.window.waits_again(offset).unwrap_or(0);
            let expired = |message: &Arc<Publication>| message.is_expired(moment.clock_ms);
            if batch.items[index].message.as_ref().is_none_or(expired) {
                self.finish(sub, offset, fx);
            } else if counted < self.attempts {
                if room == 0 {
                    break;
                }
                room = room.saturating_sub(batch.items[index].bytes());
                let attempt = self.window.resent(offset, moment.now, self.ack_timeout);
                fx.push(Effect::Redeliver { index: index as u32, attempt });
            } else if self.channel.rules.dead_letters {
                // It stays in flight until the dead letter is written; if that fails it comes up again.
                self.window.resent(offset, moment.now, self.ack_timeout);
                fx.push(Effect::DeadLetter { sub, index: index as u32, attempts: counted });
            } else {
                self.give_up(sub, offset, GapReason::Attempts, fx);
            }
        }
        room
    }

    fn give_up(&mut self, sub: usize, offset: Offset, reason: GapReason, fx: &mut Effects) {
        self.push_gap(offset.prev(), offset, reason, fx);
        self.finish(sub, offset, fx);
    }

    /// A message in flight is done with otherwise than by an ack: it is a dead letter now, it expired,
    /// or it is gone from the log.
    pub fn finish(&mut self, sub: usize, offset: Offset, fx: &mut Effects) {
        if self.window.head() == Some(offset) {
            self.floor = offset;
            self.unstored = true;
        }
        self.window.remove(offset);
        self.settle(sub, fx);
    }
}
