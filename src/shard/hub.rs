//! The hub: the channels this shard takes part in, and who listens to each.

use std::collections::HashMap;
use std::sync::Arc;

use crate::backbone::Tail;
use crate::delivery::Channel;
use crate::domain::{Epoch, Offset, StreamKey};

/// A subscription of a session of this shard: where the session sits, and which of its subscriptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) seat: u32,
    pub(super) sub: u32,
}

/// A channel as this shard sees it.
pub(super) struct HubChannel {
    pub(super) channel: Arc<Channel>,
    /// Where it was delivered to; `None` until the feed has opened it.
    pub(super) open: Option<Tail>,
    /// The feed was asked to open it, and did not refuse.
    asked: bool,
    /// Who a batch is walked over.
    pub(super) members: Vec<Member>,
    /// Who waits for which page.
    readers: HashMap<Offset, Vec<Member>>,
    /// Subscriptions that keep it open, those of sessions without a connection included.
    holders: usize,
}

/// The channels by their logs.
#[derive(Default)]
pub(super) struct Hub {
    channels: HashMap<StreamKey, HubChannel>,
}

impl Hub {
    pub(super) fn get(&self, stream: &StreamKey) -> Option<&HubChannel> {
        self.channels.get(stream)
    }

    pub(super) fn get_mut(&mut self, stream: &StreamKey) -> Option<&mut HubChannel> {
        self.channels.get_mut(stream)
    }

    /// One more subscription keeps the channel open; true where the feed has to open it.
    pub(super) fn hold(&mut self, channel: &Arc<Channel>) -> bool {
        let held = self.channels.entry(channel.stream.clone()).or_insert_with(|| {
            let (members, readers) = (Vec::new(), HashMap::new());
            HubChannel { channel: channel.clone(), open: None, asked: false, members, readers, holders: 0 }
        });
        held.holders += 1;
        !std::mem::replace(&mut held.asked, true)
    }

    /// The feed refused the channel: whoever comes next asks again. Sessions without a connection may
    /// still hold it.
    pub(super) fn refused(&mut self, stream: &StreamKey) {
        if let Some(held) = self.channels.get_mut(stream) {
            (held.open, held.asked) = (None, false);
            held.readers.clear();
        }
    }

    /// One subscription less keeps it open; the channel as it was, where the feed can close it.
    pub(super) fn release(&mut self, stream: &StreamKey) -> Option<HubChannel> {
        let held = self.channels.get_mut(stream)?;
        held.holders -= 1;
        if held.holders == 0 { self.channels.remove(stream) } else { None }
    }

    /// Adds a member to walk over; its place, which the member has to remember.
    pub(super) fn join(&mut self, stream: &StreamKey, member: Member) -> u32 {
        let Some(held) = self.channels.get_mut(stream) else { return u32::MAX };
        held.members.push(member);
        held.members.len() as u32 - 1
    }

    /// Takes the member at a place out; who moved to that place, if somebody did.
    pub(super) fn part(&mut self, stream: &StreamKey, place: u32) -> Option<Member> {
        let held = self.channels.get_mut(stream)?;
        let place = place as usize;
        if place >= held.members.len() {
            return None;
        }
        held.members.swap_remove(place);
        held.members.get(place).copied()
    }

    /// Notes that a member waits for a page; true where it has to be asked for.
    pub(super) fn wait_for_page(&mut self, stream: &StreamKey, after: Offset, member: Member) -> bool {
        let Some(held) = self.channels.get_mut(stream) else { return false };
        let waiting = held.readers.entry(after).or_default();
        waiting.push(member);
        waiting.len() == 1
    }

    /// Who waited for this page.
    pub(super) fn page_came(&mut self, stream: &StreamKey, after: Offset) -> Vec<Member> {
        self.channels.get_mut(stream).and_then(|held| held.readers.remove(&after)).unwrap_or_default()
    }
}

impl HubChannel {
    /// Moves to the end of a batch.
    pub(super) fn advance(&mut self, until: Offset, epoch: Epoch) {
        if let Some(open) = &mut self.open {
            open.last = until;
            open.epoch = epoch;
        }
    }

    /// Where it was delivered to.
    pub(super) fn position(&self) -> Option<Offset> {
        self.open.as_ref().map(|open| open.last)
    }
}
