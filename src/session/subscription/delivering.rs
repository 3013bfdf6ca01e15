//! What a subscription takes of batches and pages.

use std::time::{Duration, Instant};

use super::{Effect, Effects, Lag, Moment, Phase, Reach, Room, Skipped, Subscription, Unproven};
use crate::delivery::{Batch, Item};
use crate::domain::{Cursor, Kind, Offset, Publication};
use crate::protocol::{GapReason, ServerFrame};

impl Subscription {
    /// A live batch: delivers it if this subscription is live and stands where the batch begins.
    pub fn on_live(&mut self, sub: usize, batch: &Batch, moment: Moment, fx: &mut Effects) {
        if self.phase != Phase::Live {
            return;
        }
        if self.is_cut_by(batch) {
            self.discontinued(batch, fx);
        } else if self.position < batch.after {
            self.fall_behind();
            return;
        }
        self.deliver(sub, batch, moment, fx);
    }

    /// Whether this batch says that something after our position may be missing.
    fn is_cut_by(&self, batch: &Batch) -> bool {
        let here = self.position == batch.after || self.position < batch.gap_until();
        batch.epoch != self.epoch || (!batch.whole && here)
    }

    /// A page that was asked for from `after`; it may begin before that.
    pub fn on_page(&mut self, sub: usize, after: Offset, batch: &Batch, moment: Moment, fx: &mut Effects) {
        let mut moment = moment;
        if self.rereading == Some(after) {
            self.rereading = None;
            moment.room = self.redeliver(sub, batch, moment, fx);
            self.resending &= self.window.last_again().is_some();
            if moment.room > 0 {
                self.reread_on(sub, after, batch, fx);
            }
        }
        if after != self.position {
            return;
        }
        match &self.phase {
            Phase::Proving(wish) => {
                let wish = *wish.clone();
                self.proven(&wish, batch, fx);
            }
            Phase::Behind { asked: true, lag } => {
                self.phase = Phase::Behind { asked: false, lag: *lag };
                if self.is_cut_by(batch) {
                    self.discontinued(batch, fx);
                }
            }
            _ => return,
        }
        self.deliver(sub, batch, moment, fx);
    }

    /// Reads on where there is room, and becomes live at the channel's end.
    pub fn pursue(&mut self, sub: usize, reach: Reach, room: Room, fx: &mut Effects) {
        if room.bytes > 0 && self.is_subscribed() && self.window.last_again().is_some() {
            self.reread(sub, fx);
        }
        let Phase::Behind { asked: false, lag } = self.phase else { return };
        if self.is_held(room.bytes) {
            return self.note_slow(lag, room, fx);
        }
        let lag = if lag == Lag::Slow { self.go_on(reach, fx) } else { lag };
        if self.position >= reach.end {
            self.phase = Phase::Live;
        } else {
            self.phase = Phase::Behind { asked: true, lag };
            fx.push(Effect::Read { sub, after: self.position });
        }
    }

    pub(super) fn is_held(&self, room: usize) -> bool {
        let resends = || self.resending && self.window.last_again().is_some();
        room == 0 || (self.acking && (self.window.is_full() || resends()))
    }

    /// Sends what it can of a batch; what does not fit stays in the log.
    fn deliver(&mut self, sub: usize, batch: &Batch, moment: Moment, fx: &mut Effects) {
        let mut room = moment.room;
        // Who only fell behind in a burst gets every message.
        let conflates = matches!(self.phase, Phase::Behind { lag: Lag::CatchingUp | Lag::Slow, .. });
        let first = batch.items.partition_point(|item| item.offset <= self.position);
        for (index, item) in batch.items.iter().enumerate().skip(first) {
            let message = item.message.as_ref().filter(|message| !message.is_expired(moment.clock_ms));
            let Some(message) = message.filter(|_| !(conflates && item.superseded)) else {
                self.skip(item, moment.now);
                continue;
            };
            if self.is_held(room) {
                self.fall_behind();
                return self.settle(sub, fx);
            }
            if let Some(due) = self.spread(message, moment) {
                self.phase = Phase::Waiting(due);
                return self.settle(sub, fx);
            }
            if self.acking && self.window.inherited_by(item.offset) >= self.attempts {
                self.exhaust(sub, index as u32, item, moment.now, fx);
            } else {
                room = room.saturating_sub(item.bytes());
                self.send(index as u32, item, moment.now, fx);
            }
        }
        let end = batch.until.max(self.position);
        if end != self.position {
            self.position = end;
            self.settle(sub, fx);
        } else if self.unstored {
            fx.push(Effect::CursorMoved { sub });
        }
    }

    /// When a message that is spread is due here, if that is not now. Live channels keep their messages
    /// too short a time for that.
    fn spread(&self, message: &Publication, moment: Moment) -> Option<Instant> {
        let over_ms = message.spread_ms.filter(|ms| *ms > 0 && self.channel.rules.kind == Kind::Log)?;
        let due_ms = message.offset.ms.saturating_add(moment.session.share(message.offset) % over_ms);
        let wait_ms = due_ms.checked_sub(moment.clock_ms).filter(|ms| *ms > 0)?;
        Some(moment.now + Duration::from_millis(wait_ms.min(over_ms)))
    }

    /// Earlier sessions of the device tried the next message as often as allowed.
    fn exhaust(&mut self, sub: usize, index: u32, item: &Item, now: Instant, fx: &mut Effects) {
        self.position = item.offset;
        let attempts = self.window.inherited_by(item.offset);
        if self.channel.rules.dead_letters {
            self.window.sent(item.offset, now, self.ack_timeout);
            fx.push(Effect::DeadLetter { sub, index, attempts });
        } else {
            self.push_gap(item.offset.prev(), item.offset, GapReason::Attempts, fx);
            self.window.passed(item.offset);
        }
    }

    fn send(&mut self, index: u32, item: &Item, now: Instant, fx: &mut Effects) {
        self.position = item.offset;
        let mut attempt = 1;
        if self.acking {
            attempt = self.window.sent(item.offset, now, self.ack_timeout);
        }
        fx.push(if attempt == 1 { Effect::Deliver { index } } else { Effect::Redeliver { index, attempt } });
    }

    /// An entry that this client never sees.
    fn skip(&mut self, item: &Item, now: Instant) {
        self.position = item.offset;
        if item.message.is_some() {
            // It expired, or a newer one takes its place.
            self.window.passed(item.offset);
        }
        self.skipped = match self.skipped {
            Skipped::Nothing => Skipped::TellAt(now),
            Skipped::QuietUntil(then) => Skipped::TellAt(then),
            told => told,
        };
    }

    /// With nothing in flight everything up to the position is done.
    pub(super) fn settle(&mut self, sub: usize, fx: &mut Effects) {
        if self.window.is_empty() && self.floor != self.position {
            self.floor = self.position;
            self.unstored = self.acking;
        }
        if self.unstored {
            fx.push(Effect::CursorMoved { sub });
        }
    }

    fn discontinued(&mut self, batch: &Batch, fx: &mut Effects) {
        let new_epoch = batch.epoch != self.epoch;
        if new_epoch {
            // What was tried before need not be what comes next.
            self.window.disinherit();
        }
        let before = self.cursor();
        self.epoch = batch.epoch;
        let until = match (batch.whole, new_epoch) {
            (true, _) => self.position,
            // In a new life the log may end below where we stood. A batch from further back that goes
            // on does not say so.
            (false, true) if !batch.more && batch.until < self.position => batch.gap_until(),
            (false, _) => batch.gap_until().max(self.position),
        };
        let reason = if new_epoch { GapReason::Epoch } else { GapReason::Trimmed };
        self.gap(before, until, reason, fx);
    }

    /// Goes on after what may be missing. `before` is the cursor as it was before that was known.
    pub(super) fn gap(&mut self, before: Cursor, until: Offset, reason: GapReason, fx: &mut Effects) {
        self.doubt(before, until);
        self.push_gap(self.position, until, reason, fx);
        if until != self.position {
            // What was tried before may lie in the gap, or be what follows it.
            self.window.passed(until);
            // In a new life the log may end below it.
            self.window.forget_above(until);
        }
        self.position = until;
        self.unstored |= self.acking;
        if self.window.is_empty() {
            self.floor = until;
        }
    }

    pub(super) fn push_gap(&mut self, after: Offset, until: Offset, reason: GapReason, fx: &mut Effects) {
        self.told_once = Some(self.told_once.map_or(after, |earlier| earlier.min(after)));
        self.told_gap = true;
        self.doubt(self.cursor(), until);
        let (channel, epoch) = (self.channel.name.clone(), self.epoch);
        fx.push(Effect::Send(ServerFrame::Gap { channel, after, until, epoch, reason }));
    }

    /// What is stored stays where it is until the client surely knows of a gap.
    fn doubt(&mut self, before: Cursor, until: Offset) {
        if !self.acking {
            return;
        }
        let above = until.max(self.position);
        match &mut self.unproven {
            Some(gap) => (gap.above, gap.since) = (gap.above.max(above), None),
            None => self.unproven = Some(Box::new(Unproven { above, before, since: None })),
        }
    }
}
