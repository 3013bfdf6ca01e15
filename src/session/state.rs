//! The session: identity and subscriptions of one client, across its connections.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::effect::{Effect, Effects};
use super::subscription::{From, NotInFlight, Subscription, Wish};
use super::worker::Worker;
use crate::auth::Identity;
use crate::backbone::Range;
use crate::delivery::Channel;
use crate::domain::{
    ChannelName, CloseReason, Cursor, CursorKey, DeviceId, Generation, Kind, NamespaceRules, Offset,
    PublishRight, SessionId,
};
use crate::protocol::{ClientFrame, ErrorCode, Payload, RequestId, ServerFrame, Subscribe};
use crate::tenants::Tenant;

mod work;

/// The device of a session, with what the backbone remembers of it.
pub struct Attached {
    /// Its name.
    pub device: DeviceId,
    /// Which session of the device this is; an older one may not write.
    pub generation: Generation,
    /// Cursors stored by earlier sessions and not taken up by a subscription yet.
    pub cursors: Vec<(ChannelName, Cursor)>,
}

/// What survives connections. Owned by one shard at a time.
pub struct Session {
    /// Its id, also in resume tokens.
    pub id: SessionId,
    /// Its tenant.
    pub tenant: Arc<Tenant>,
    /// Whose it is.
    pub identity: Box<Identity>,
    /// Its device, where the client names one.
    pub attached: Option<Box<Attached>>,
    /// Counts its connections: only the latest resume token attaches.
    pub connections: u32,
    subs: Vec<Option<Box<Subscription>>>,
    workers: Vec<Option<Box<Worker>>>,
}

/// Finds or makes the shared description of a channel; `None` where its namespace does not exist.
pub type ChannelOf<'a> = &'a mut dyn FnMut(&ChannelName) -> Option<Arc<Channel>>;

impl Session {
    /// A session without subscriptions.
    pub fn new(
        id: SessionId,
        tenant: Arc<Tenant>,
        identity: Box<Identity>,
        attached: Option<Box<Attached>>,
    ) -> Self {
        Self { id, tenant, identity, attached, connections: 0, subs: Vec::new(), workers: Vec::new() }
    }

    /// The key of the device's cursors.
    pub fn cursor_key(&self) -> Option<CursorKey> {
        let attached = self.attached.as_ref()?;
        Some(CursorKey::new(&self.tenant.id, &self.identity.user, &attached.device))
    }

    /// A subscription by its number.
    pub fn sub(&self, sub: usize) -> Option<&Subscription> {
        self.subs.get(sub)?.as_deref()
    }

    /// A subscription by its number.
    pub fn sub_mut(&mut self, sub: usize) -> Option<&mut Subscription> {
        self.subs.get_mut(sub)?.as_deref_mut()
    }

    /// All subscriptions with their numbers.
    pub fn subs_mut(&mut self) -> impl Iterator<Item = (usize, &mut Subscription)> {
        self.subs.iter_mut().enumerate().filter_map(|(at, sub)| Some((at, sub.as_deref_mut()?)))
    }

    /// How many subscriptions there are.
    pub fn sub_count(&self) -> usize {
        self.subs.iter().flatten().count()
    }

    /// Takes a subscription out. A device goes on from its cursor when it subscribes again.
    pub fn remove(&mut self, sub: usize) -> Option<Box<Subscription>> {
        /// Cursors kept for channels that were left: as many as the backbone keeps of a device.
        const MOST: usize = 1_024;
        let removed = self.subs.get_mut(sub)?.take()?;
        let cursor = removed.last_cursor().filter(|_| removed.acking);
        if let (Some(cursor), Some(attached)) = (cursor, &mut self.attached)
            && attached.cursors.len() < MOST
        {
            attached.cursors.push((removed.channel.name.clone(), cursor));
        }
        Some(removed)
    }

    /// The number of the subscription to a channel.
    pub fn number_of(&self, channel: &ChannelName) -> Option<usize> {
        let is_it =
            |sub: &Option<Box<Subscription>>| sub.as_ref().is_some_and(|sub| sub.channel.name == *channel);
        self.subs.iter().position(is_it)
    }

    /// Whether it listens to a channel or works at it.
    pub fn is_subscribed(&self, channel: &ChannelName) -> bool {
        self.number_of(channel).is_some() || self.worker_of(channel).is_some()
    }

    fn find(&mut self, channel: &ChannelName) -> Option<(usize, &mut Subscription)> {
        self.subs_mut().find(|(_, sub)| sub.channel.name == *channel)
    }

    /// What a `connect` asks for: new subscriptions, and changes to those that were kept. The user's
    /// own channel is always among them.
    pub fn begin(&mut self, wishes: Vec<Subscribe>, channel_of: ChannelOf<'_>, fx: &mut Effects) {
        let most = self.tenant.limits.window;
        let personal = ChannelName::personal(&self.identity.user);
        let mut asked_personal = false;
        for wish in wishes {
            asked_personal |= wish.channel == personal;
            let kept_work = self.worker_of(&wish.channel);
            if let Some(kept) = kept_work.and_then(|worker| self.worker_mut(worker)) {
                kept.adjust(wish.window.unwrap_or(most).min(most));
                continue;
            }
            match self.find(&wish.channel) {
                Some((_, kept)) => {
                    kept.adjust(wish.window.unwrap_or(most).min(most), wish.offset, wish.epoch)
                }
                None => self.subscribe(None, wish, channel_of, fx),
            }
        }
        if !asked_personal && self.find(&personal).is_none() {
            let (offset, epoch, ack, window) = (None, None, false, None);
            let wish = Subscribe { channel: personal, offset, epoch, ack, window };
            self.subscribe(None, wish, channel_of, fx);
        }
    }

    /// A frame of the client, other than the first.
    pub fn on_frame(
        &mut self,
        frame: ClientFrame,
        now: Instant,
        channel_of: ChannelOf<'_>,
        fx: &mut Effects,
    ) {
        match frame {
            ClientFrame::Connect(_) => {
                let message = "the session is connected already: `connect` comes once, as the first frame";
                fx.push(Effect::Close { reason: CloseReason::Protocol, message: message.into() });
            }
            ClientFrame::Subscribe { id, subscribe } => self.subscribe(Some(id), subscribe, channel_of, fx),
            ClientFrame::Unsubscribe { id, channel } => self.unsubscribe(id, &channel, fx),
            ClientFrame::Publish { id, channel, payload, key, msg_id } => {
                match self.may_publish(&channel, &payload) {
                    Ok(()) => fx.push(Effect::Publish { id, channel, payload, key, msg_id }),
                    Err((code, message)) => fail(Some(id), code, message, fx),
                }
            }
            ClientFrame::Send { id, payload, topic } => match self.fits(&payload) {
                Ok(()) => {
                    self.listen_for_replies(channel_of, fx);
                    fx.push(Effect::SendUp { id, payload, topic });
                }
                Err((code, message)) => fail(Some(id), code, message, fx),
            },
            ClientFrame::Ack { channel, offset } => self.ack(&channel, offset, fx),
            ClientFrame::Nack { channel, offset, delay_ms } => {
                const LONGEST: u64 = 3_600_000;
                let due = now + Duration::from_millis(delay_ms.min(LONGEST));
                self.nack(&channel, offset, due, now, fx);
            }
            ClientFrame::History { id, channel, limit, before, after } => {
                let range = Range { before, after, limit };
                self.history(id, channel, range, fx);
            }
            ClientFrame::Presence { id, .. } => {
                fail(Some(id), ErrorCode::Unsupported, "this node offers no presence", fx);
            }
            ClientFrame::Refresh { id, token } => fx.push(Effect::Refresh { id, token }),
            ClientFrame::Ping => fx.push(Effect::Send(ServerFrame::Pong)),
        }
    }

    /// Subscribes, if the rules allow it.
    pub fn subscribe(
        &mut self,
        id: Option<RequestId>,
        wish: Subscribe,
        channel_of: ChannelOf<'_>,
        fx: &mut Effects,
    ) {
        let channel = match self.may_subscribe(&wish.channel, channel_of) {
            Ok(channel) => channel,
            Err((code, message)) => return fail(id, code, message, fx),
        };
        if channel.rules.kind == Kind::Queue {
            return self.work(id, channel, wish.window, fx);
        }
        let acking = channel.rules.kind == Kind::Log && (wish.ack || channel.rules.ack_always);
        let stored = self.take_stored(&wish.channel).filter(|_| acking);
        let from = match (wish.offset, stored) {
            // The client stands where the cursor does: what was tried before counts on.
            (Some(offset), Some(mut cursor)) if offset == cursor.position.offset => {
                cursor.position.epoch = wish.epoch.unwrap_or(cursor.position.epoch);
                From::Stored(cursor)
            }
            (Some(offset), _) => From::Client(offset, wish.epoch),
            (None, Some(cursor)) => From::Stored(cursor),
            (None, None) => From::Namespace,
        };
        let is_stored = matches!(from, From::Stored(_));
        let store_start = acking && !is_stored && self.attached.is_some();
        let most = self.tenant.limits.window;
        let window = wish.window.unwrap_or(most).min(most);
        let wish = Wish { id, from, store_start };
        let subscription = Box::new(Subscription::new(channel, acking, window, &self.tenant.limits, wish));
        let sub = match self.subs.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                self.subs.reserve_exact(1);
                self.subs.push(None);
                self.subs.len() - 1
            }
        };
        self.subs[sub] = Some(subscription);
        fx.push(Effect::Join { sub });
    }

    /// Whoever sends to the backends takes part in its session's own channel, where they reply. What
    /// comes there before it is open is retained.
    fn listen_for_replies(&mut self, channel_of: ChannelOf<'_>, fx: &mut Effects) {
        let channel = ChannelName::of_session(self.id);
        if self.find(&channel).is_none() {
            let (offset, epoch, ack, window) = (None, None, false, None);
            self.subscribe(None, Subscribe { channel, offset, epoch, ack, window }, channel_of, fx);
        }
    }

    /// Whether this session may read the channel.
    fn may_read(&self, rules: &NamespaceRules, name: &ChannelName) -> bool {
        match name.is_of_session() {
            true => *name == ChannelName::of_session(self.id),
            false => self.identity.may_subscribe(rules, name),
        }
    }

    /// The channel that it may subscribe to by the rules, or why not.
    pub fn may_subscribe(
        &mut self,
        name: &ChannelName,
        channel_of: ChannelOf<'_>,
    ) -> Result<Arc<Channel>, Refusal> {
        if self.is_subscribed(name) {
            return Err((ErrorCode::BadRequest, format!("already subscribed to {name}")));
        }
        let channel = channel_of(name).ok_or_else(|| unknown_namespace(name))?;
        if !self.may_read(&channel.rules, name) {
            let message = match name.is_of_session() {
                true => format!("{name} is another session's own channel"),
                false => format!("the token does not allow subscribing to {name}"),
            };
            return Err((ErrorCode::Forbidden, message));
        }
        // Replies find a session that has as many channels as it may.
        if self.channels_left() == 0 && !name.is_of_session() {
            return Err(self.too_many_channels());
        }
        Ok(channel)
    }

    /// How many channels more it may subscribe to.
    pub fn channels_left(&self) -> usize {
        let most = self.tenant.limits.channels_per_session;
        most.saturating_sub(self.sub_count() + self.worker_count())
    }

    /// Why it may not subscribe to one more.
    pub fn too_many_channels(&self) -> Refusal {
        let most = self.tenant.limits.channels_per_session;
        (ErrorCode::LimitExceeded, format!("a session may have {most} channels at most"))
    }

    fn take_stored(&mut self, channel: &ChannelName) -> Option<Cursor> {
        let cursors = &mut self.attached.as_mut()?.cursors;
        let at = cursors.iter().position(|(name, _)| name == channel)?;
        Some(cursors.swap_remove(at).1)
    }

    fn unsubscribe(&mut self, id: RequestId, channel: &ChannelName, fx: &mut Effects) {
        if *channel == ChannelName::personal(&self.identity.user) {
            let message = "a session is always subscribed to its user's own channel";
            return fail(Some(id), ErrorCode::Forbidden, message, fx);
        }
        if self.stop_work(id, channel, fx) {
            return;
        }
        let Some((sub, left)) = self.find(channel) else {
            return fail(Some(id), ErrorCode::NotFound, format!("not subscribed to {channel}"), fx);
        };
        give_up(left.waiting_request(), channel, fx);
        fx.push(Effect::Leave { sub });
        fx.push(Effect::Send(done(id)));
    }

    fn may_publish(&mut self, channel: &ChannelName, payload: &Payload) -> Result<(), Refusal> {
        let rules = self.tenant.rules(channel.namespace()).ok_or_else(|| unknown_namespace(channel))?;
        let allowed = match rules.publish {
            PublishRight::Nobody => false,
            PublishRight::Anyone => true,
            PublishRight::Subscribers => self.is_subscribed(channel),
        };
        if !allowed {
            let message = match rules.publish {
                PublishRight::Subscribers => format!("subscribe to {channel} before publishing to it"),
                _ => format!("clients may not publish to {channel}"),
            };
            return Err((ErrorCode::Forbidden, message));
        }
        self.fits(payload)
    }

    fn fits(&self, payload: &Payload) -> Result<(), Refusal> {
        let (got, most) = (payload.data.len(), self.tenant.limits.payload_bytes);
        if got <= most {
            return Ok(());
        }
        Err((ErrorCode::TooLarge, format!("the payload has {got} bytes, the limit is {most}")))
    }

    fn ack(&mut self, channel: &ChannelName, offset: Offset, fx: &mut Effects) {
        if let Some(worker) = self.worker_of(channel) {
            return self.ack_task(worker, offset, fx);
        }
        let Some((sub, subscription)) = self.find(channel) else {
            return fail(None, ErrorCode::NotFound, format!("ack: not subscribed to {channel}"), fx);
        };
        if !subscription.acking {
            let message = format!("ack: the subscription to {channel} does not ask for acks");
            return fail(None, ErrorCode::BadRequest, message, fx);
        }
        if subscription.ack(sub, offset, fx) == Err(NotInFlight) {
            let message = format!("ack: {offset} of {channel} was not sent yet");
            fail(None, ErrorCode::BadRequest, message, fx);
        }
    }

    fn nack(&mut self, channel: &ChannelName, offset: Offset, due: Instant, now: Instant, fx: &mut Effects) {
        if let Some(worker) = self.worker_of(channel) {
            return self.nack_task(worker, offset, due, now, fx);
        }
        let Some((_, subscription)) = self.find(channel) else {
            return fail(None, ErrorCode::NotFound, format!("nack: not subscribed to {channel}"), fx);
        };
        if subscription.nack(offset, due).is_err() {
            let message = format!("nack: {offset} of {channel} is not waiting for an ack");
            fail(None, ErrorCode::BadRequest, message, fx);
        }
    }

    fn history(&mut self, id: RequestId, channel: ChannelName, range: Range, fx: &mut Effects) {
        const MOST: usize = 1_000;
        let Some(rules) = self.tenant.rules(channel.namespace()) else {
            let (code, message) = unknown_namespace(&channel);
            return fail(Some(id), code, message, fx);
        };
        let refusal = if !self.may_read(&rules, &channel) {
            Some((ErrorCode::Forbidden, format!("the token does not allow reading {channel}")))
        } else if !rules.history {
            Some((ErrorCode::Unsupported, format!("{channel} offers no history")))
        } else if range.before.is_some() && range.after.is_some() {
            Some((ErrorCode::BadRequest, "give `before` or `after`, not both".to_owned()))
        } else if range.limit == 0 || range.limit > MOST {
            Some((ErrorCode::BadRequest, format!("`limit` is 1 to {MOST}")))
        } else {
            None
        };
        match refusal {
            Some((code, message)) => fail(Some(id), code, message, fx),
            None => fx.push(Effect::History { id, channel, range }),
        }
    }

    /// Numbers and channels of subscriptions that the identity, as it is now, does not allow.
    fn forbidden(&self) -> Vec<(usize, ChannelName)> {
        let subs = self.subs.iter().enumerate().filter_map(|(at, sub)| Some((at, &sub.as_ref()?.channel)));
        let refused = subs.filter(|(_, channel)| !self.may_read(&channel.rules, &channel.name));
        refused.map(|(at, channel)| (at, channel.name.clone())).collect()
    }

    /// Leaves the channels that a new token does not allow any more, and says so.
    pub fn leave_forbidden(&mut self, fx: &mut Effects) {
        for (sub, channel) in self.forbidden() {
            let message = format!("the new token does not allow {channel}: the subscription has ended");
            fail(None, ErrorCode::Forbidden, message, fx);
            fx.push(Effect::Leave { sub });
        }
        for (worker, channel) in self.forbidden_work() {
            let message = format!("the new token does not allow {channel}: the subscription has ended");
            fail(None, ErrorCode::Forbidden, message, fx);
            fx.push(Effect::LeaveQueue { worker });
        }
    }

    /// Drops the subscriptions that a new token does not allow, of a session that sits nowhere.
    pub fn drop_forbidden(&mut self) {
        for (sub, _) in self.forbidden() {
            self.remove(sub);
        }
    }

    /// Whether nothing waits for its client's acknowledgement.
    pub fn is_settled(&self) -> bool {
        self.subs.iter().flatten().all(|sub| sub.is_settled())
    }

    /// Time passes for every subscription.
    pub fn on_time(&mut self, now: Instant, heard: Instant, fx: &mut Effects) {
        for (at, sub) in self.subs_mut() {
            sub.on_time(at, now, heard, fx);
        }
        for (at, worker) in self.workers_mut() {
            worker.on_time(at, now, heard, fx);
        }
    }

    /// When [`Self::on_time`] has something to do.
    pub fn next_time(&self) -> Option<Instant> {
        let subs = self.subs.iter().flatten().filter_map(|sub| sub.next_time());
        subs.chain(self.workers.iter().flatten().filter_map(|worker| worker.next_time())).min()
    }

    /// The connection is gone. What waits for its answer is given up with it.
    pub fn interrupt(&mut self, heard: Instant) {
        for (_, sub) in self.subs_mut() {
            sub.interrupt(heard);
        }
    }
}

/// Why a request is refused: the code, and words for people.
pub type Refusal = (ErrorCode, String);

fn unknown_namespace(channel: &ChannelName) -> Refusal {
    let message = format!("the tenant has no namespace {:?}", channel.namespace());
    (ErrorCode::NotFound, message)
}

/// The plain answer to a request that was done.
pub fn done(id: RequestId) -> ServerFrame {
    ServerFrame::Ok { id, offset: None, messages: None, epoch: None }
}

/// Answers a `subscribe` that its client took back before it had begun.
fn give_up(waiting: Option<RequestId>, channel: &ChannelName, fx: &mut Effects) {
    if waiting.is_some() {
        fail(waiting, ErrorCode::NotFound, format!("{channel} was unsubscribed before it began"), fx);
    }
}

fn fail(id: Option<RequestId>, code: ErrorCode, message: impl Into<Box<str>>, fx: &mut Effects) {
    fx.push(Effect::Send(ServerFrame::Error { id, code, message: message.into() }));
}
