//! Where a subscription starts, and whether it can be proven that nothing is missing there.

use super::{Effect, Effects, From, Lag, Phase, Subscription, Wish};
use crate::backbone::Tail;
use crate::delivery::Batch;
use crate::domain::{Cursor, Epoch, Kind, Offset, Start};
use crate::protocol::{GapReason, RequestId, ServerFrame};

impl Subscription {
    /// The channel is open and ends at `tail`: decides where to start.
    pub fn on_open(&mut self, sub: usize, tail: &Tail, fx: &mut Effects) {
        let Phase::Opening(wish) = &self.phase else { return };
        let wish = *wish.clone();
        match wish.from {
            From::Client(offset, epoch) => self.place(offset, epoch.unwrap_or(tail.epoch)),
            From::Stored(Cursor { position, .. }) => self.place(position.offset, position.epoch),
            From::Namespace if self.channel.rules.start == Start::Oldest => {
                self.place(Offset::ZERO, tail.epoch);
            }
            From::Namespace => self.place(tail.last, tail.epoch),
            From::Kept => {}
        }
        if wish.store_start {
            fx.push(Effect::StoreStart { sub });
            self.phase = Phase::Storing(Box::new(wish));
        } else {
            self.start(wish, sub, tail, fx);
        }
    }

    /// The start is stored; the channel now ends at `tail`.
    pub fn on_start_stored(&mut self, sub: usize, tail: &Tail, fx: &mut Effects) {
        if let Phase::Storing(wish) = &self.phase {
            let wish = *wish.clone();
            self.start(wish, sub, tail, fx);
        }
    }

    /// Begins where it was placed; asks for proof where a position was wished that is not the end.
    fn start(&mut self, wish: Wish, sub: usize, tail: &Tail, fx: &mut Effects) {
        let rules = &self.channel.rules;
        let wished = wish.from != From::Namespace;
        if rules.kind == Kind::Live {
            let stood = self.unsure.take().unwrap_or(self.position);
            self.place(tail.last, tail.epoch);
            self.say_subscribed(wish.id, wished.then_some(false), fx);
            if wished {
                self.push_gap(stood.min(tail.last), tail.last, GapReason::Trimmed, fx);
            }
        } else if let Some(after) = self.unsure.take().filter(|_| wish.from == From::Kept) {
            self.epoch = tail.epoch;
            // Said where the client certainly stood: the gap that follows may be lost as well.
            let until = std::mem::replace(&mut self.position, after);
            self.say_subscribed(wish.id, Some(false), fx);
            self.push_gap(after, until, GapReason::Trimmed, fx);
            self.position = until;
        } else if !wished && rules.start == Start::Now {
            self.say_subscribed(wish.id, None, fx);
        } else if wished && self.position == tail.last && self.epoch == tail.epoch {
            self.say_subscribed(wish.id, Some(true), fx);
        } else {
            fx.push(Effect::Read { sub, after: self.position });
            self.phase = Phase::Proving(Box::new(wish));
        }
    }

    /// The first page came: says `subscribed`, and a gap where something is missing.
    pub(super) fn proven(&mut self, wish: &Wish, batch: &Batch, fx: &mut Effects) {
        if wish.from == From::Namespace {
            let from = if batch.whole { self.position } else { batch.gap_until() };
            self.place(from, batch.epoch);
            return self.say_subscribed(wish.id, None, fx);
        }
        let same_epoch = self.epoch == batch.epoch;
        if !same_epoch {
            // What was tried before need not be what comes next.
            self.window.disinherit();
        }
        let recovered = batch.whole && same_epoch;
        let before = self.cursor();
        self.epoch = batch.epoch;
        self.say_subscribed(wish.id, Some(recovered), fx);
        if !recovered {
            let until = if batch.whole { self.position } else { batch.gap_until() };
            let reason = if same_epoch { GapReason::Trimmed } else { GapReason::Epoch };
            self.gap(before, until, reason, fx);
        }
    }

    fn place(&mut self, offset: Offset, epoch: Epoch) {
        (self.position, self.floor, self.epoch) = (offset, offset, epoch);
    }

    fn say_subscribed(&mut self, id: Option<RequestId>, recovered: Option<bool>, fx: &mut Effects) {
        self.phase = Phase::Behind { asked: false, lag: Lag::CatchingUp };
        self.told_once = (!self.acking).then_some(self.position);
        let (channel, offset, epoch) = (self.channel.name.clone(), self.position, self.epoch);
        fx.push(Effect::Send(ServerFrame::Subscribed { id, channel, offset, epoch, recovered }));
    }
}
