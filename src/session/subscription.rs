//! One subscription: where it starts, what it sends, what it waits for.
//!
//! A subscription is *live* (it takes batches as they come) or *behind* (it reads on from its position,
//! when window and outbox have room). Slow consumers are behind and cost no memory; what the namespace
//! wants for them stands in `slow`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::effect::{Effect, Effects};
use super::window::{Tried, Window};
use crate::delivery::Channel;
use crate::domain::{Cursor, Epoch, Limits, Offset, Position, SessionId};
use crate::protocol::RequestId;

/// How a new subscription begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// The request to answer; `None` where `connect` or the node asked.
    pub id: Option<RequestId>,
    /// Where to start.
    pub from: From,
    /// Whether the start is to be stored before `subscribed`: acking subscriptions of a device.
    pub store_start: bool,
}

/// Where a subscription starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// At the client's position.
    Client(Offset, Option<Epoch>),
    /// At the stored cursor.
    Stored(Cursor),
    /// Where the namespace says.
    Namespace,
    /// Where this session stood: it came back to its own node.
    Kept,
}

/// What holds for a moment of delivery.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Monotonic time.
    pub now: Instant,
    /// The backbone's clock, for times to live.
    pub clock_ms: u64,
    /// Bytes the outbox still takes; at least one message always goes.
    pub room: usize,
    /// Whose subscription it is: tells when a message that is spread is due here.
    pub session: SessionId,
}

/// What a connection takes now.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Bytes the outbox still takes; at least one message always goes.
    pub bytes: usize,
    /// The socket takes nothing now.
    pub blocked: bool,
}

/// How far a channel reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// Up to here it was offered to live subscriptions.
    pub end: Offset,
    /// After this one there are the newest few messages, all that a slow subscription still gets where
    /// the oldest are left out.
    pub newest: Offset,
}

/// A session's interest in a channel.
pub struct Subscription {
    /// The channel.
    pub channel: Arc<Channel>,
    /// Whether the client acknowledges.
    pub acking: bool,
    /// Where it stands among the channel's members; kept by the hub.
    pub member: u32,
    window: Window,
    ack_timeout: Duration,
    /// Deliveries of one message before it is given up.
    attempts: u8,
    /// Everything at or below was sent, skipped, or told as a gap.
    position: Offset,
    /// Everything at or below is acknowledged or was skipped.
    floor: Offset,
    epoch: Epoch,
    phase: Phase,
    /// The page asked for to send messages again, by the offset it was asked after.
    rereading: Option<Offset>,
    /// What an earlier connection did not acknowledge is sent before anything new: it may not have
    /// arrived, and an ack of something newer would cover it.
    resending: bool,
    /// What this connection was told after this offset is not told again by itself: everything without
    /// acks, gaps with them.
    told_once: Option<Offset>,
    /// A gap was among it.
    told_gap: bool,
    /// What was told once after this offset went to a connection that broke, and may be lost with it.
    unsure: Option<Offset>,
    /// A gap that the client may not have yet. Boxed, for it is rare.
    unproven: Option<Box<Unproven>>,
    /// The cursor moved since it was last taken for storing.
    unstored: bool,
    skipped: Skipped,
}

/// A gap that was told and may be lost with the node. What is stored stays before it until the client
/// surely has it, so that otherwise its next session is told again.
#[derive(Debug)]
struct Unproven {
    /// Messages above were sent after the gap: an ack of one proves it.
    above: Offset,
    /// The cursor before the gap.
    before: Cursor,
    /// A client that is heard after this has it as well; `None` until time has passed at all.
    since: Option<Instant>,
}

/// What waits for what.
#[derive(Debug, PartialEq)]
enum Phase {
    /// For the hub to open the channel.
    Opening(Box<Wish>),
    /// For the first page, which proves whether anything is missing.
    Proving(Box<Wish>),
    /// For the start to be stored.
    Storing(Box<Wish>),
    /// For room, or for the page asked for.
    Behind { asked: bool, lag: Lag },
    /// For its moment within the time over which the next message is spread.
    Waiting(Instant),
    /// For live batches.
    Live,
}

/// Why a subscription is behind. One that has not caught up yet is not slow: the log is read to it at the
/// pace it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lag {
    /// It has not been live since it began, or since it waited.
    CatchingUp,
    /// It was live.
    Fell,
    /// It was live, and its client takes no more: not everything that waits has to be sent.
    Slow,
}

/// `position` frames are sent at most so often.
const TELL_POSITION: Duration = Duration::from_secs(1);

/// Whether the client has to learn that its position moved over entries it never sees.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Skipped {
    Nothing,
    /// Tell it, at this time at the earliest.
    TellAt(Instant),
    /// Told lately: not again before this time.
    QuietUntil(Instant),
}

impl Subscription {
    /// A subscription that waits for its channel to be open.
    pub fn new(channel: Arc<Channel>, acking: bool, window: usize, limits: &Limits, wish: Wish) -> Self {
        let tried = match wish.from {
            From::Stored(Cursor { attempts, head, .. }) => Some(Tried { attempts, offset: head }),
            _ => None,
        };
        Self {
            channel,
            acking,
            member: u32::MAX,
            window: Window::new(window, tried),
            ack_timeout: Duration::from_millis(limits.ack_timeout_ms),
            attempts: limits.attempts,
            position: Offset::ZERO,
            floor: Offset::ZERO,
            epoch: Epoch(0),
            phase: Phase::Opening(Box::new(wish)),
            rereading: None,
            resending: false,
            told_once: None,
            told_gap: false,
            unsure: None,
            unproven: None,
            unstored: false,
            skipped: Skipped::Nothing,
        }
    }

    /// The position up to which everything was sent or skipped.
    pub fn position(&self) -> Offset {
        self.position
    }

    /// Whether it takes live batches.
    pub fn is_live(&self) -> bool {
        self.phase == Phase::Live
    }

    /// Whether `subscribed` was sent.
    pub fn is_subscribed(&self) -> bool {
        matches!(self.phase, Phase::Live | Phase::Behind { .. } | Phase::Waiting(_))
    }

    /// The request that still waits for its answer.
    pub fn waiting_request(&self) -> Option<RequestId> {
        match &self.phase {
            Phase::Opening(wish) | Phase::Proving(wish) | Phase::Storing(wish) => wish.id,
            Phase::Behind { .. } | Phase::Waiting(_) | Phase::Live => None,
        }
    }

    /// The cursor as it is to be stored.
    pub fn cursor(&self) -> Cursor {
        if let Some(gap) = &self.unproven {
            return gap.before;
        }
        let position = Position { offset: self.floor, epoch: self.epoch };
        let Tried { attempts, offset: head } = self.window.tried();
        Cursor { position, attempts, head }
    }

    /// Takes the cursor for storing, if it moved since the last time.
    pub fn take_unstored(&mut self) -> Option<Cursor> {
        (self.has_begun() && std::mem::take(&mut self.unstored)).then(|| self.cursor())
    }

    /// The cursor that a later subscription of the device to this channel goes on from.
    pub fn last_cursor(&self) -> Option<Cursor> {
        match &self.phase {
            Phase::Opening(wish) | Phase::Proving(wish) | Phase::Storing(wish) => match wish.from {
                From::Stored(cursor) => Some(cursor),
                From::Kept => Some(self.cursor()),
                From::Client(..) | From::Namespace => None,
            },
            Phase::Behind { .. } | Phase::Waiting(_) | Phase::Live => Some(self.cursor()),
        }
    }

    /// Whether it ever stood somewhere, on this connection or an earlier one.
    fn has_begun(&self) -> bool {
        match &self.phase {
            Phase::Opening(wish) | Phase::Proving(wish) | Phase::Storing(wish) => wish.from == From::Kept,
            Phase::Behind { .. } | Phase::Waiting(_) | Phase::Live => true,
        }
    }

    /// Storing failed: the cursor is to be stored again.
    pub fn set_unstored(&mut self) {
        self.unstored = true;
    }

    /// Changes what a client may change when it comes back: how much may be in flight, and, as it
    /// knows best what it received, an earlier position to go on from.
    pub fn adjust(&mut self, window: usize, from: Option<Offset>, epoch: Option<Epoch>) {
        self.window.set_limit(window);
        let Some(from) = from else { return };
        match &mut self.phase {
            Phase::Opening(wish) if wish.from != From::Kept => wish.from = From::Client(from, epoch),
            // It says what it received: what an earlier connection did not deliver is asked for again.
            Phase::Opening(wish) if !self.acking => {
                self.unsure = None;
                let epoch = epoch.unwrap_or(self.epoch);
                wish.from = From::Client(from.min(self.position), Some(epoch));
            }
            _ => {}
        }
    }

    /// Sees its channel in another view from now on, and reads on there: what it waits for in the old one does not
    /// come any more.
    pub fn see(&mut self, channel: Arc<Channel>) {
        self.channel = channel;
        self.rereading = None;
        self.phase = match std::mem::replace(&mut self.phase, Phase::Live) {
            Phase::Proving(wish) | Phase::Storing(wish) => Phase::Opening(wish),
            Phase::Behind { lag, .. } => Phase::Behind { asked: false, lag },
            Phase::Live => Phase::Behind { asked: false, lag: Lag::Fell },
            other => other,
        };
    }

    /// The connection is gone: what is in flight is sent again on the next one, and the subscription
    /// begins anew where it stands.
    pub fn interrupt(&mut self, heard: Instant) {
        self.unstored |= self.window.interrupt(heard) && self.acking;
        self.rereading = None;
        self.resending = !self.window.is_empty();
        if let Some(gap) = &mut self.unproven {
            gap.since = None;
        }
        let gap = std::mem::take(&mut self.told_gap);
        if let Some(after) = self.told_once.take().filter(|after| gap || *after < self.position) {
            self.unsure = Some(after);
        }
        let wish = match &self.phase {
            // What it waited for is answered to the old connection; the next one asks anew.
            Phase::Opening(wish) | Phase::Proving(wish) | Phase::Storing(wish) => Wish { id: None, ..**wish },
            Phase::Behind { .. } | Phase::Waiting(_) | Phase::Live => {
                Wish { id: None, from: From::Kept, store_start: false }
            }
        };
        self.phase = Phase::Opening(Box::new(wish));
    }
}

/// The offset was not sent, or is not waiting for an acknowledgement.
#[derive(Debug, PartialEq, Eq)]
pub struct NotInFlight;

mod acknowledging;
mod beginning;
mod delivering;
mod slow;

#[cfg(test)]
mod model_tests;

#[cfg(test)]
mod tests;
