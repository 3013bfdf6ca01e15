//! One subscription: where it starts, what it sends, what it waits for.
//!
//! A subscription is *live* (it takes batches as they come) or *behind* (it reads on from its position,
//! when window and outbox have room). Slow consumers are behind and cost no memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::effect::{Effect, Effects};
use super::window::Window;
use crate::backbone::Tail;
use crate::delivery::{Batch, Channel, Item};
use crate::domain::{Cursor, Epoch, Kind, Limits, Offset, Position, Publication, Start};
use crate::protocol::{GapReason, RequestId, ServerFrame};

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
    /// A live channel's messages after this offset were left out; a gap has to be told.
    dropped: Option<Offset>,
    /// The cursor moved since it was last taken for storing.
    unstored: bool,
    skipped: Skipped,
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
    Behind { asked: bool },
    /// For live batches.
    Live,
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
        let inherited = match wish.from {
            From::Stored(cursor) => cursor.attempts,
            _ => 0,
        };
        Self {
            channel,
            acking,
            member: u32::MAX,
            window: Window::new(window, inherited),
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
            dropped: None,
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
        matches!(self.phase, Phase::Live | Phase::Behind { .. })
    }

    /// The request that still waits for its answer.
    pub fn waiting_request(&self) -> Option<RequestId> {
        match &self.phase {
            Phase::Opening(wish) | Phase::Proving(wish) | Phase::Storing(wish) => wish.id,
            Phase::Behind { .. } | Phase::Live => None,
        }
    }

    /// The cursor as it is to be stored.
    pub fn cursor(&self) -> Cursor {
        let position = Position { offset: self.floor, epoch: self.epoch };
        Cursor { position, attempts: self.window.head_attempts() }
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
            Phase::Behind { .. } | Phase::Live => Some(self.cursor()),
        }
    }

    /// Whether it ever stood somewhere, on this connection or an earlier one.
    fn has_begun(&self) -> bool {
        match &self.phase {
            Phase::Opening(wish) | Phase::Proving(wish) | Phase::Storing(wish) => wish.from == From::Kept,
            Phase::Behind { .. } | Phase::Live => true,
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

    // ---- beginning ---------------------------------------------------------------------------------

    /// The channel is open and ends at `tail`: decides where to start.
    pub fn on_open(&mut self, sub: usize, tail: &Tail, fx: &mut Effects) {
        let Phase::Opening(wish) = &self.phase else { return };
        let wish = *wish.clone();
        if wish.from != From::Kept {
            self.epoch = tail.epoch;
            self.place(match wish.from {
                From::Client(offset, _) => offset,
                From::Stored(cursor) => cursor.position.offset,
                From::Namespace if self.channel.rules.start == Start::Oldest => Offset::ZERO,
                From::Namespace | From::Kept => tail.last,
            });
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
            let stood = self.unsure.take().or(self.dropped.take()).unwrap_or(self.position);
            self.place(tail.last);
            self.epoch = tail.epoch;
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
        } else if wished && self.position == tail.last && self.same_epoch(&wish, tail.epoch) {
            self.epoch = tail.epoch;
            self.say_subscribed(wish.id, Some(true), fx);
        } else {
            fx.push(Effect::Read { sub, after: self.position });
            self.phase = Phase::Proving(Box::new(wish));
        }
    }

    /// The first page came: says `subscribed`, and a gap where something is missing.
    fn proven(&mut self, wish: &Wish, batch: &Batch, fx: &mut Effects) {
        let same_epoch = self.same_epoch(wish, batch.epoch);
        self.epoch = batch.epoch;
        if wish.from == From::Namespace {
            if !batch.whole {
                self.place(batch.gap_until());
            }
            return self.say_subscribed(wish.id, None, fx);
        }
        if !same_epoch {
            // What was tried before need not be what comes next.
            self.window.disinherit();
        }
        let recovered = batch.whole && same_epoch;
        self.say_subscribed(wish.id, Some(recovered), fx);
        if !recovered {
            let until = if batch.whole { self.position } else { batch.gap_until() };
            let reason = if same_epoch { GapReason::Trimmed } else { GapReason::Epoch };
            self.gap(until, reason, fx);
        }
    }

    fn place(&mut self, offset: Offset) {
        self.position = offset;
        self.floor = offset;
    }

    fn same_epoch(&self, wish: &Wish, epoch: Epoch) -> bool {
        match wish.from {
            From::Client(_, wished) => wished.is_none_or(|wished| wished == epoch),
            From::Stored(cursor) => cursor.position.epoch == epoch,
            From::Kept => self.epoch == epoch,
            From::Namespace => true,
        }
    }

    fn say_subscribed(&mut self, id: Option<RequestId>, recovered: Option<bool>, fx: &mut Effects) {
        self.phase = Phase::Behind { asked: false };
        self.told_once = (!self.acking).then_some(self.position);
        let (channel, offset, epoch) = (self.channel.name.clone(), self.position, self.epoch);
        fx.push(Effect::Send(ServerFrame::Subscribed { id, channel, offset, epoch, recovered }));
    }

    // ---- delivering --------------------------------------------------------------------------------

    /// A live batch: delivers it if this subscription is live and stands where the batch begins.
    pub fn on_live(&mut self, sub: usize, batch: &Batch, moment: Moment, fx: &mut Effects) {
        if self.phase != Phase::Live {
            return;
        }
        if self.is_cut_by(batch) {
            self.discontinued(batch, fx);
        } else if self.position < batch.after {
            self.phase = Phase::Behind { asked: false };
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
            Phase::Behind { asked: true } => {
                if self.is_cut_by(batch) {
                    self.discontinued(batch, fx);
                }
            }
            _ => return,
        }
        self.phase = Phase::Behind { asked: false };
        self.deliver(sub, batch, moment, fx);
    }

    /// Reads on where there is room, and becomes live at the channel's position.
    pub fn pursue(&mut self, sub: usize, channel_position: Offset, room: usize, fx: &mut Effects) {
        if room > 0 && self.is_subscribed() {
            self.tell_dropped(self.position, fx);
            if self.window.last_again().is_some() {
                self.reread(sub, fx);
            }
        }
        if self.phase != (Phase::Behind { asked: false }) {
            return;
        }
        if self.position >= channel_position && !self.is_held(room) {
            self.phase = Phase::Live;
        } else if self.channel.rules.kind == Kind::Live {
            self.drop_to(channel_position);
            self.phase = Phase::Live;
        } else if !self.is_held(room) {
            self.phase = Phase::Behind { asked: true };
            fx.push(Effect::Read { sub, after: self.position });
        }
    }

    /// The shard missed batches of this channel.
    pub fn on_lagged(&mut self) {
        if self.phase == Phase::Live {
            self.phase = Phase::Behind { asked: false };
        }
    }

    fn is_held(&self, room: usize) -> bool {
        let resends = || self.resending && self.window.last_again().is_some();
        room == 0 || (self.acking && (self.window.is_full() || resends()))
    }

    /// Sends what it can of a batch; what does not fit stays in the log.
    fn deliver(&mut self, sub: usize, batch: &Batch, moment: Moment, fx: &mut Effects) {
        let mut room = moment.room;
        let first = batch.items.partition_point(|item| item.offset <= self.position);
        for (index, item) in batch.items.iter().enumerate().skip(first) {
            match item.message.as_ref().filter(|message| !message.is_expired(moment.clock_ms)) {
                None => self.skip(item, moment.now),
                Some(_) if self.is_held(room) => {
                    self.hold(batch);
                    return self.settle(sub, fx);
                }
                Some(_) if self.acking && self.window.inherited() >= self.attempts => {
                    self.exhaust(sub, index as u32, item, moment.now, fx);
                }
                Some(_) => {
                    room = room.saturating_sub(item.bytes());
                    self.send(index as u32, item, moment.now, fx);
                }
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

    /// Earlier sessions of the device tried the next message as often as allowed.
    fn exhaust(&mut self, sub: usize, index: u32, item: &Item, now: Instant, fx: &mut Effects) {
        self.position = item.offset;
        let attempts = self.window.inherited();
        if self.channel.rules.dead_letters {
            self.window.sent(item.offset, now, self.ack_timeout);
            fx.push(Effect::DeadLetter { sub, index, attempts });
        } else {
            self.window.disinherit();
            self.push_gap(item.offset.prev(), item.offset, GapReason::Attempts, fx);
        }
    }

    /// Tells a gap that is owed for what was left out of a live channel.
    fn tell_dropped(&mut self, until: Offset, fx: &mut Effects) {
        if let Some(after) = self.dropped.take() {
            self.push_gap(after, until, GapReason::Slow, fx);
        }
    }

    fn send(&mut self, index: u32, item: &Item, now: Instant, fx: &mut Effects) {
        self.tell_dropped(item.offset.prev(), fx);
        self.position = item.offset;
        let mut attempt = 1;
        if self.acking {
            attempt = self.window.sent(item.offset, now, self.ack_timeout);
        }
        fx.push(if attempt == 1 { Effect::Deliver { index } } else { Effect::Redeliver { index, attempt } });
    }

    /// There is no room: waits in the log, or leaves messages out where the channel is live.
    fn hold(&mut self, batch: &Batch) {
        if self.channel.rules.kind == Kind::Live {
            self.drop_to(batch.until);
        } else {
            self.phase = Phase::Behind { asked: false };
        }
    }

    fn drop_to(&mut self, position: Offset) {
        self.dropped.get_or_insert(self.position);
        self.position = position;
        self.floor = position;
    }

    /// An entry that this client never sees.
    fn skip(&mut self, item: &Item, now: Instant) {
        self.position = item.offset;
        if item.message.is_some() {
            // It expired. Attempts that were stored may have been its own.
            self.window.disinherit();
        }
        self.skipped = match self.skipped {
            Skipped::Nothing => Skipped::TellAt(now),
            Skipped::QuietUntil(then) => Skipped::TellAt(then),
            told => told,
        };
    }

    /// With nothing in flight everything up to the position is done.
    fn settle(&mut self, sub: usize, fx: &mut Effects) {
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
        self.epoch = batch.epoch;
        self.unstored |= self.acking;
        let until = match (batch.whole, new_epoch) {
            (true, _) => self.position,
            // In a new life the log may end below where we stood. A batch from further back that goes
            // on does not say so.
            (false, true) if !batch.more && batch.until < self.position => batch.gap_until(),
            (false, _) => batch.gap_until().max(self.position),
        };
        let reason = if new_epoch { GapReason::Epoch } else { GapReason::Trimmed };
        self.gap(until, reason, fx);
    }

    fn gap(&mut self, until: Offset, reason: GapReason, fx: &mut Effects) {
        self.push_gap(self.position, until, reason, fx);
        if until != self.position {
            // What was tried before lies in the gap; in a new life the log may end below it.
            self.window.disinherit();
            self.window.forget_above(until);
        }
        self.position = until;
        self.unstored |= self.acking;
        if self.window.is_empty() {
            self.floor = until;
        }
    }

    fn push_gap(&mut self, after: Offset, until: Offset, reason: GapReason, fx: &mut Effects) {
        self.told_once = Some(self.told_once.map_or(after, |earlier| earlier.min(after)));
        self.told_gap = true;
        let (channel, epoch) = (self.channel.name.clone(), self.epoch);
        fx.push(Effect::Send(ServerFrame::Gap { channel, after, until, epoch, reason }));
    }

    // ---- acknowledging and sending again -----------------------------------------------------------

    /// Acknowledges everything at or below `offset`. Above what was sent is an error.
    pub fn ack(&mut self, sub: usize, offset: Offset, fx: &mut Effects) -> Result<(), NotInFlight> {
        if offset > self.position {
            return Err(NotInFlight);
        }
        if let Some(last) = self.window.ack(offset) {
            self.floor = last;
            self.unstored = true;
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
        let before = self.window.head_attempts();
        let overdue = self.window.expire(now, heard, self.ack_timeout);
        if before != self.window.head_attempts() {
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
        self.window.next_due().into_iter().chain(tell).min()
    }

    /// A time by which [`Self::on_time`] is due after a delivery at `now`, cheaply told.
    pub fn due_soon(&self, now: Instant) -> Option<Instant> {
        match self.skipped {
            Skipped::TellAt(then) => Some(then),
            _ if self.acking && !self.window.is_empty() => Some(now + self.ack_timeout),
            _ => None,
        }
    }

    /// Asks for the log from the floor on, where the messages to send again are.
    fn reread(&mut self, sub: usize, fx: &mut Effects) {
        if self.rereading.is_none() {
            self.rereading = Some(self.floor);
            fx.push(Effect::Read { sub, after: self.floor });
        }
    }

    /// Reads on where more waits to be sent again than this batch reached, or gives it up where the
    /// log does not hold it any more.
    fn reread_on(&mut self, sub: usize, after: Offset, batch: &Batch, fx: &mut Effects) {
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
    fn redeliver(&mut self, sub: usize, batch: &Batch, moment: Moment, fx: &mut Effects) -> usize {
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

    /// The connection is gone: what is in flight is sent again on the next one, and the subscription
    /// begins anew where it stands.
    pub fn interrupt(&mut self, heard: Instant) {
        self.unstored |= self.window.interrupt(heard) && self.acking;
        self.rereading = None;
        self.resending = !self.window.is_empty();
        let gap = std::mem::take(&mut self.told_gap);
        if let Some(after) = self.told_once.take().filter(|after| gap || *after < self.position) {
            self.unsure = Some(after);
        }
        let wish = match &self.phase {
            // What it waited for is answered to the old connection; the next one asks anew.
            Phase::Opening(wish) | Phase::Proving(wish) | Phase::Storing(wish) => Wish { id: None, ..**wish },
            Phase::Behind { .. } | Phase::Live => Wish { id: None, from: From::Kept, store_start: false },
        };
        self.phase = Phase::Opening(Box::new(wish));
    }
}

/// The offset was not sent, or is not waiting for an acknowledgement.
#[derive(Debug, PartialEq, Eq)]
pub struct NotInFlight;

#[cfg(test)]
mod model_tests;

#[cfg(test)]
mod tests;
