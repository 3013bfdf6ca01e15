//! Subscriptions join and leave their channels.

use super::super::cursors::cursor_moved;
use super::super::errands::Errand;
use super::super::hub::{HubChannel, Member};
use super::State;
use crate::delivery::{Request, SessionEvent};
use crate::domain::Offset;
use crate::session::subscription::Room;

impl State {
    /// A subscription takes part in its channel; it goes on at once where that is open.
    pub(in crate::shard) fn join(&mut self, at: usize, sub: usize) {
        self.hold(at, sub);
        let Some(subscription) = self.seats[at].session.sub_mut(sub) else { return };
        let channel = subscription.channel.clone();
        let member = Member { seat: at as u32, sub: sub as u32 };
        subscription.member = self.hub.join(&channel.view, member);
        if let Some(tail) = self.hub.get(&channel.view).and_then(|held| held.open) {
            subscription.on_open(sub, &tail, &mut self.fx);
            self.pursue(at, sub);
        }
    }

    /// A subscription keeps its channel open.
    pub(super) fn hold(&mut self, at: usize, sub: usize) {
        let Some(subscription) = self.seats[at].session.sub(sub) else { return };
        let channel = subscription.channel.clone();
        channel.metrics.subscriptions.inc();
        if self.hub.hold(&channel) {
            self.errands.push_back(Errand::Ask(Request::Open { channel, shard: self.shard }));
        }
    }

    /// Takes a subscription out of the walk over its channel's members.
    pub(super) fn part(&mut self, at: usize, sub: usize) {
        let Some(subscription) = self.seats[at].session.sub_mut(sub) else { return };
        let place = std::mem::replace(&mut subscription.member, u32::MAX);
        let view = subscription.channel.view.clone();
        if let Some(moved) = self.hub.part(&view, place) {
            let seat = self.seats.get_mut(moved.seat as usize);
            if let Some(other) = seat.and_then(|seat| seat.session.sub_mut(moved.sub as usize)) {
                other.member = place;
            }
        }
    }

    /// Takes all subscriptions of a seat out.
    pub(in crate::shard) fn part_all(&mut self, at: usize) {
        for sub in self.subs_of(at) {
            self.part(at, sub);
        }
    }

    /// A subscription keeps its channel open no longer.
    pub(super) fn release(&mut self, at: usize, sub: usize) {
        let Some(subscription) = self.seats[at].session.sub(sub) else { return };
        subscription.channel.metrics.subscriptions.dec();
        let view = subscription.channel.view.clone();
        if let Some(last) = self.hub.release(&view) {
            let (shard, offered) = (self.shard, last.position());
            self.errands.push_back(Errand::Ask(Request::Close { view, shard, offered }));
        }
    }

    /// Ends a subscription.
    pub(in crate::shard) fn leave(&mut self, at: usize, sub: usize) {
        if let Some(left) = self.seats[at].session.sub(sub).filter(|sub| sub.is_subscribed()) {
            self.tell(at, SessionEvent::Unsubscribed(left.channel.name.clone()));
        }
        self.part(at, sub);
        self.release(at, sub);
        if let Some(write) = cursor_moved(&mut self.seats[at].session, sub) {
            self.errands.push_back(Errand::StoreCursor(Box::new(write)));
        }
        self.seats[at].session.remove(sub);
    }

    /// Lets a subscription read on where it has room, unless its client was told to go.
    pub(in crate::shard) fn pursue(&mut self, at: usize, sub: usize) {
        let seat = &mut self.seats[at];
        if seat.leaving {
            return;
        }
        let room = Room { bytes: seat.room(), blocked: seat.is_blocked() };
        seat.held |= room.bytes == 0;
        let Some(subscription) = seat.session.sub_mut(sub) else { return };
        let reach = self.hub.get(&subscription.channel.view).and_then(HubChannel::reach);
        if let Some(reach) = reach {
            subscription.pursue(sub, reach, room, &mut self.fx);
        }
    }

    /// Asks the feed for a page that a subscription wants, unless somebody here waits for it already.
    pub(in crate::shard) fn read(&mut self, at: usize, sub: usize, after: Offset) {
        let Some(subscription) = self.seats[at].session.sub(sub) else { return };
        let view = subscription.channel.view.clone();
        let member = Member { seat: at as u32, sub: sub as u32 };
        if self.hub.wait_for_page(&view, after, member) {
            self.errands.push_back(Errand::Ask(Request::Read { view, after, shard: self.shard }));
        }
    }
}
