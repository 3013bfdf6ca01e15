//! What the feed brings, walked over the subscribers.

use std::sync::Arc;
use std::time::Duration;

use super::super::hub::Member;
use super::super::seat::{Now, Seat, SharedFrames};
use super::State;
use crate::delivery::{Batch, Channel, Delivery, View};
use crate::domain::Offset;
use crate::protocol::{ErrorCode, ServerFrame};
use crate::session::subscription::Moment;

impl State {
    /// Takes what the feed sent.
    pub(in crate::shard) fn on_delivery(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Live(batch) => self.on_live(&batch),
            Delivery::Opened { view, tail: Ok(tail) } => {
                let Some(held) = self.hub.get_mut(&view) else { return };
                held.opened(tail);
                let members = held.members.clone();
                self.each_member(&view, &members, |state, at, sub| {
                    let subscription = state.seats[at].session.sub_mut(sub).expect("each_member found it");
                    subscription.on_open(sub, &tail, &mut state.fx);
                    // A channel that was left and joined again meanwhile is opened twice; what came
                    // between the two was offered to nobody here.
                    subscription.on_lagged();
                    state.pursue(at, sub);
                    state.perform(at, None);
                });
            }
            Delivery::Opened { view, tail: Err(error) } => self.refuse_members(&view, &error.to_string()),
            Delivery::Page { view, after, batch } => {
                let waiting = self.hub.page_came(&view, after);
                match batch {
                    Ok(batch) => self.on_page(after, &batch, &waiting),
                    Err(error) => self.refuse_members(&view, &error.to_string()),
                }
            }
            Delivery::QueueOpened { stream, worker, channel } => {
                self.on_queue_opened(&stream, worker, channel);
            }
            Delivery::Task { stream, worker, task } => self.on_task(stream, worker, task),
            Delivery::TaskLost { stream, worker, offset } => self.on_task_lost(&stream, worker, offset),
            Delivery::Lagged { view, until, epoch } => {
                let Some(held) = self.hub.get_mut(&view) else { return };
                // Without this everybody would stand at the channel's end and read nothing.
                held.advance(until, epoch);
                let members = held.members.clone();
                self.each_member(&view, &members, |state, at, sub| {
                    let subscription = state.seats[at].session.sub_mut(sub).expect("each_member found it");
                    subscription.on_lagged();
                    state.pursue(at, sub);
                    state.perform(at, None);
                });
            }
        }
    }

    /// The walk over the subscribers: nothing here allocates, encodes or locks once a subscriber.
    fn on_live(&mut self, batch: &Arc<Batch>) {
        let Some(held) = self.hub.get_mut(&batch.view) else { return };
        held.take(batch);
        let channel = held.channel.clone();
        let now = self.now();
        let delay = now.clock_ms.saturating_sub(batch.until.ms);
        if !batch.items.is_empty() {
            channel.metrics.delivery_delay.observe(Duration::from_millis(delay));
        }
        let mut shared =
            Shared { batch, channel: &channel, frames: SharedFrames::default(), sent: 0, bytes: 0 };
        let mut place = 0;
        // By place, for effects may end a session and with it change the list.
        while let Some(member) = self.hub.get(&batch.view).and_then(|held| held.members.get(place)).copied() {
            self.offer(member, &mut shared, now);
            let same = self.hub.get(&batch.view).and_then(|held| held.members.get(place)) == Some(&member);
            place += usize::from(same);
        }
        shared.count();
    }

    fn offer(&mut self, member: Member, shared: &mut Shared<'_>, now: Now) {
        let (at, sub) = (member.seat as usize, member.sub as usize);
        let Some(seat) = self.seats.get_mut(at) else { return };
        let moment = moment(seat, now);
        let Some(subscription) = seat.session.sub_mut(sub) else { return };
        subscription.on_live(sub, shared.batch, moment, &mut self.fx);
        let due = subscription.due_soon(now.instant);
        if !subscription.is_live() {
            self.pursue(at, sub);
        }
        if let Some(due) = due {
            self.schedule_by(at, due);
        }
        self.perform(at, Some(shared));
    }

    /// A page came for those who wait for it.
    fn on_page(&mut self, after: Offset, batch: &Arc<Batch>, waiting: &[Member]) {
        let Some(held) = self.hub.get(&batch.view) else { return };
        let channel = held.channel.clone();
        let conflated = held.conflated(batch);
        let batch = conflated.as_ref().unwrap_or(batch);
        let now = self.now();
        let mut shared =
            Shared { batch, channel: &channel, frames: SharedFrames::default(), sent: 0, bytes: 0 };
        self.each_member(&batch.view, waiting, |state, at, sub| {
            if state.seats[at].leaving {
                return;
            }
            let moment = moment(&state.seats[at], now);
            let subscription = state.seats[at].session.sub_mut(sub).expect("each_member found it");
            subscription.on_page(sub, after, batch, moment, &mut state.fx);
            let due = subscription.due_soon(now.instant);
            state.pursue(at, sub);
            if let Some(due) = due {
                state.schedule_by(at, due);
            }
            state.perform(at, Some(&mut shared));
        });
        shared.count();
    }

    /// A channel that cannot be read: whoever waits for it is told, and is subscribed no longer.
    fn refuse_members(&mut self, view: &View, why: &str) {
        let Some(held) = self.hub.get(view) else { return };
        let members = held.members.clone();
        self.hub.refused(view);
        self.each_member(view, &members, |state, at, sub| {
            let subscription = state.seats[at].session.sub(sub).expect("each_member found it");
            let message = format!("{} cannot be read: {why}", subscription.channel.name).into();
            let (id, code) = (subscription.waiting_request(), ErrorCode::Unavailable);
            state.send(at, &ServerFrame::Error { id, code, message });
            state.leave(at, sub);
        });
    }

    /// Calls for those members that still are subscribed to the channel. The list is a copy: what is
    /// called may change the hub's.
    fn each_member(
        &mut self,
        view: &View,
        members: &[Member],
        mut call: impl FnMut(&mut Self, usize, usize),
    ) {
        for member in members {
            let (at, sub) = (member.seat as usize, member.sub as usize);
            let subscription = self.seats.get(at).and_then(|seat| seat.session.sub(sub));
            if subscription.is_some_and(|subscription| subscription.channel.view == *view) {
                call(self, at, sub);
            }
        }
    }
}

fn moment(seat: &Seat, now: Now) -> Moment {
    Moment { now: now.instant, clock_ms: now.clock_ms, room: seat.room(), session: seat.session.id }
}

/// What the walk over the subscribers of one batch shares.
pub(in crate::shard) struct Shared<'a> {
    pub(in crate::shard) batch: &'a Batch,
    pub(in crate::shard) channel: &'a Channel,
    pub(in crate::shard) frames: SharedFrames,
    /// Messages and payload bytes queued, counted once a batch.
    pub(in crate::shard) sent: u64,
    pub(in crate::shard) bytes: u64,
}

impl Shared<'_> {
    fn count(&self) {
        self.channel.metrics.messages_delivered.inc_by(self.sent);
        self.channel.metrics.message_bytes_delivered.inc_by(self.bytes);
    }
}
