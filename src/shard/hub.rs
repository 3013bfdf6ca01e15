//! The hub: the channels this shard takes part in, and who listens to each.

use std::collections::HashMap;
use std::sync::Arc;

use crate::backbone::Tail;
use crate::delivery::{Batch, Channel, View};
use crate::domain::{Epoch, Offset, OnSlow};
use crate::session::subscription::Reach;

mod newest;

use newest::{Keys, Newest};

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
    /// What it remembers for those who are slow.
    memory: Memory,
    /// Subscriptions that keep it open, those of sessions without a connection included.
    holders: usize,
}

/// By what the channel's namespace wants for slow subscriptions. Boxed, for most want nothing.
enum Memory {
    None,
    Newest(Box<Newest>),
    Keys(Box<Keys>),
}

/// The channels by their views.
#[derive(Default)]
pub(super) struct Hub {
    channels: HashMap<View, HubChannel>,
}

impl Hub {
    pub(super) fn get(&self, view: &View) -> Option<&HubChannel> {
        self.channels.get(view)
    }

    pub(super) fn get_mut(&mut self, view: &View) -> Option<&mut HubChannel> {
        self.channels.get_mut(view)
    }

    /// One more subscription keeps the channel open; true where the feed has to open it.
    pub(super) fn hold(&mut self, channel: &Arc<Channel>) -> bool {
        let held = self.channels.entry(channel.view.clone()).or_insert_with(|| {
            let (members, readers) = (Vec::new(), HashMap::new());
            let (channel, memory) = (channel.clone(), Memory::of(channel.rules.on_slow));
            HubChannel { channel, open: None, asked: false, members, readers, memory, holders: 0 }
        });
        held.holders += 1;
        !std::mem::replace(&mut held.asked, true)
    }

    /// The feed refused the channel: whoever comes next asks again. Sessions without a connection may
    /// still hold it.
    pub(super) fn refused(&mut self, view: &View) {
        if let Some(held) = self.channels.get_mut(view) {
            (held.open, held.asked) = (None, false);
            held.readers.clear();
        }
    }

    /// One subscription less keeps it open; the channel as it was, where the feed can close it.
    pub(super) fn release(&mut self, view: &View) -> Option<HubChannel> {
        let held = self.channels.get_mut(view)?;
        held.holders -= 1;
        if held.holders == 0 { self.channels.remove(view) } else { None }
    }

    /// Adds a member to walk over; its place, which the member has to remember.
    pub(super) fn join(&mut self, view: &View, member: Member) -> u32 {
        let Some(held) = self.channels.get_mut(view) else { return u32::MAX };
        held.members.push(member);
        held.members.len() as u32 - 1
    }

    /// Takes the member at a place out; who moved to that place, if somebody did.
    pub(super) fn part(&mut self, view: &View, place: u32) -> Option<Member> {
        let held = self.channels.get_mut(view)?;
        let place = place as usize;
        if place >= held.members.len() {
            return None;
        }
        held.members.swap_remove(place);
        held.members.get(place).copied()
    }

    /// Notes that a member waits for a page; true where it has to be asked for.
    pub(super) fn wait_for_page(&mut self, view: &View, after: Offset, member: Member) -> bool {
        let Some(held) = self.channels.get_mut(view) else { return false };
        let waiting = held.readers.entry(after).or_default();
        waiting.push(member);
        waiting.len() == 1
    }

    /// Who waited for this page.
    pub(super) fn page_came(&mut self, view: &View, after: Offset) -> Vec<Member> {
        self.channels.get_mut(view).and_then(|held| held.readers.remove(&after)).unwrap_or_default()
    }
}

impl HubChannel {
    /// The feed opened it where it ends.
    pub(super) fn opened(&mut self, tail: Tail) {
        self.open = Some(tail);
        if let Memory::Newest(newest) = &mut self.memory {
            **newest = Newest::at(tail.last);
        }
    }

    /// Moves to the end of a live batch.
    pub(super) fn take(&mut self, batch: &Batch) {
        if self.open.is_some_and(|open| open.epoch != batch.epoch) {
            // Offsets of another life of the log say nothing of this one's.
            self.memory = Memory::of(self.channel.rules.on_slow);
            if let Memory::Newest(newest) = &mut self.memory {
                **newest = Newest::at(batch.gap_until().min(batch.after));
            }
        }
        match &mut self.memory {
            Memory::None => {}
            Memory::Newest(newest) => newest.note(batch),
            Memory::Keys(keys) => keys.note(batch),
        }
        self.advance(batch.until, batch.epoch);
    }

    /// Moves to the end of batches that were left out.
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

    /// How far it reaches.
    pub(super) fn reach(&self) -> Option<Reach> {
        let end = self.position()?;
        let newest = match &self.memory {
            Memory::Newest(newest) => newest.start(),
            Memory::None | Memory::Keys(_) => Offset::ZERO,
        };
        Some(Reach { end, newest })
    }

    /// A page as those get it who catch up, where that is another than it was read.
    pub(super) fn conflated(&self, page: &Batch) -> Option<Batch> {
        match &self.memory {
            Memory::Keys(keys) => Some(keys.conflate(page)),
            Memory::None | Memory::Newest(_) => None,
        }
    }
}

impl Memory {
    fn of(on_slow: OnSlow) -> Self {
        match on_slow {
            OnSlow::DropOldest => Self::Newest(Box::new(Newest::at(Offset::ZERO))),
            OnSlow::Conflate => Self::Keys(Box::default()),
            OnSlow::Pause | OnSlow::Disconnect => Self::None,
        }
    }
}
