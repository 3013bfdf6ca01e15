//! The shard's state: sessions that come and go, their frames, sockets and cursors. How deliveries are
//! walked over subscribers, and what is due when, stand in modules of their own.
//!
//! Everything here is synchronous and on one thread: no lock, no await. What has to wait is handed out
//! as an [`Errand`], which the shard runs as a local task and whose outcome comes back as a call.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use slab::Slab;

use super::errands::Errand;
use super::hub::Hub;
use super::seat::{Link, Seat};
use super::waiting::Waiting;
use crate::auth::Identity;
use crate::backbone::Tail;
use crate::backbone::clock::Clock;
use crate::delivery::{Audience, SessionEvent, ShardId, Upstream};
use crate::directory::{Frames, Said, Wanted};
use crate::domain::{ChannelName, CloseReason, Reconnect, SessionId};
use crate::plugin::Plugins;
use crate::protocol::{BadFrame, ClientFrame, ErrorCode, RequestId, ServerFrame, Subscribe};
use crate::session::state::done;
use crate::session::{Effects, Session};
use crate::telemetry::{Metrics, TenantMetrics, events};
use crate::transport::outbox::Flush;

mod agenda;
mod asking;
mod channels;
mod telling;
mod views;
mod walk;
mod work;

pub(super) use telling::{LeftOver, who};
pub(super) use views::subscriber;
pub(super) use walk::Shared;
pub(super) use work::worker_id;

/// Names a session on this shard from outside its state: the seat may be somebody else's by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) seat: usize,
    pub(super) stamp: u64,
}

/// The close code of who says goodbye (RFC 6455 section 7.4.1), the same on every transport.
pub(super) const GOODBYE: u16 = 1000;

/// What the shard's thread owns.
pub(super) struct State {
    shard: ShardId,
    clock: Clock,
    pub(super) metrics: Metrics,
    upstream: Upstream,
    plugins: Plugins,
    pub(super) seats: Slab<Seat>,
    by_session: HashMap<SessionId, usize>,
    pub(super) hub: Hub,
    agenda: BinaryHeap<Reverse<(Instant, usize, u64)>>,
    touched: Vec<usize>,
    unstored: Vec<Place>,
    /// Sessions without a connection.
    waiting: Waiting,
    pub(super) errands: VecDeque<Errand>,
    pub(super) fx: Effects,
    pub(super) fx_spare: Effects,
    pub(super) scratch: Vec<u8>,
    stamps: u64,
}

impl State {
    pub(super) fn new(
        shard: ShardId,
        clock: Clock,
        metrics: Metrics,
        upstream: Upstream,
        plugins: Plugins,
        waiting: Waiting,
    ) -> Self {
        Self {
            shard,
            clock,
            metrics,
            upstream,
            plugins,
            seats: Slab::new(),
            by_session: HashMap::new(),
            hub: Hub::default(),
            agenda: BinaryHeap::new(),
            touched: Vec::new(),
            unstored: Vec::new(),
            waiting,
            errands: VecDeque::new(),
            fx: Effects::new(),
            fx_spare: Effects::new(),
            scratch: Vec::new(),
            stamps: 0,
        }
    }

    // ---- sessions come and go ------------------------------------------------------------------------

    /// Seats a session with its connection, says `connected`, and begins its subscriptions.
    pub(super) fn seat(
        &mut self,
        session: Box<Session>,
        link: Link,
        connected: &ServerFrame,
        wishes: Vec<Subscribe>,
    ) -> Place {
        self.stamps += 1;
        let stamp = self.stamps;
        let tenant = session.tenant.clone();
        self.metrics.tenant(&tenant.id).sessions.inc();
        let id = session.id;
        let scope = self.scope(&tenant.id);
        let at = self.seats.insert(Seat::new(session, stamp, scope));
        self.by_session.insert(id, at);
        let seat = &mut self.seats[at];
        seat.link = Some(link);
        seat.send(connected, &mut self.scratch);
        let kept: Vec<usize> = seat.session.subs_mut().map(|(sub, _)| sub).collect();
        let kept_work: Vec<usize> = seat.session.workers_mut().map(|(worker, _)| worker).collect();
        let audience = self.audience(&self.seats[at].session);
        self.adapt(at, &kept, &audience);
        let (asked, wishes) = self.split_asked(at, wishes);
        let (hub, metrics) = (&self.hub, &self.metrics);
        let mut channel_of = |name: &ChannelName| views::channel(hub, metrics, &tenant, name, &audience);
        self.seats[at].session.begin(wishes, &mut channel_of, &mut self.fx);
        // `connected` goes out at once, whatever the subscriptions wait for.
        self.touch(at);
        for sub in kept {
            self.join(at, sub);
        }
        for worker in kept_work {
            self.join_queue(at, worker);
        }
        self.perform(at, None);
        self.mark_unstored(at);
        self.on_seat_time(at, Instant::now());
        let place = Place { seat: at, stamp };
        if !asked.is_empty() {
            self.errands.push_back(Errand::AskSubscribes { place, asked });
        }
        place
    }

    /// The seat of a place, if the session still sits there.
    pub(super) fn at(&self, place: Place) -> Option<usize> {
        self.seats.get(place.seat).filter(|seat| seat.stamp == place.stamp).map(|_| place.seat)
    }

    /// The place of a seat.
    pub(super) fn place(&self, at: usize) -> Place {
        Place { seat: at, stamp: self.seats[at].stamp }
    }

    /// Where a session sits.
    pub(super) fn find(&self, session: SessionId) -> Option<usize> {
        self.by_session.get(&session).copied()
    }

    /// The connection is gone; the session waits for its client to come back.
    pub(super) fn lose(&mut self, at: usize, reason: CloseReason) {
        if let Some(link) = self.unlink(at, reason) {
            self.keep_for_client(at, reason, &link);
        }
    }

    /// Answers a client that closes its connection (of a WebSocket: RFC 6455 section 5.5.1). One that says
    /// goodbye needs no session kept; any other end may be an accident.
    pub(super) fn answer_close(&mut self, at: usize, goodbye: bool) {
        let Some(mut link) = self.unlink(at, CloseReason::ClientGone) else { return };
        link.close(GOODBYE, "", &mut self.scratch);
        if goodbye {
            self.end(at, CloseReason::ClientGone, Some(&link));
        } else {
            self.keep_for_client(at, CloseReason::ClientGone, &link);
        }
        self.errands.push_back(Errand::Farewell { link, code: GOODBYE, reason: "" });
    }

    /// A session that has just lost its connection waits for its client; what it knows is stored
    /// meanwhile. One that is too many on the node ends the one here that would end first.
    fn keep_for_client(&mut self, at: usize, reason: CloseReason, link: &Link) {
        let lived = Some(link.opened.elapsed());
        self.tell(at, SessionEvent::Disconnected { reason, lived, last: false });
        self.mark_unstored(at);
        self.errands.push_back(Errand::StoreCursors);
        self.schedule(at);
        let expires = self.seats[at].expires.unwrap_or_else(Instant::now);
        if !self.waiting.add(expires, at)
            && let Some(first) = self.waiting.first()
        {
            events::session_forgotten(self.metrics.node(), self.seats[first].session.id);
            self.end(first, CloseReason::ClientGone, None);
        }
    }

    /// Closes the connection with a reason. The session ends where the client must not come back
    /// with it, else it waits.
    pub(super) fn close(&mut self, at: usize, reason: CloseReason, message: &str) {
        let link = self.unlink(at, reason);
        if reason.reconnect() == Reconnect::Never {
            self.end(at, reason, link.as_ref());
        } else if let Some(link) = &link {
            self.keep_for_client(at, reason, link);
        }
        if let Some(link) = link {
            self.see_off(link, reason, message, None);
        }
    }

    /// Ends a session for good, which had this connection until now.
    pub(super) fn end(&mut self, at: usize, reason: CloseReason, link: Option<&Link>) {
        let lived = link.map(|link| link.opened.elapsed());
        self.tell(at, SessionEvent::Disconnected { reason, lived, last: true });
        let left = self.left_over(at, reason, link);
        let comes_back = reason == CloseReason::Drain && link.is_some();
        let session = self.unseat(at, reason);
        self.errands.push_back(Errand::End { session, comes_back, left });
    }

    /// Gives a session up to whoever has it from now on.
    pub(super) fn detach(&mut self, at: usize, reason: CloseReason) -> Box<Session> {
        if let Some(link) = self.unlink(at, reason) {
            let lived = Some(link.opened.elapsed());
            self.tell(at, SessionEvent::Disconnected { reason, lived, last: false });
            self.see_off(link, reason, "the session goes on with another connection", None);
        }
        self.unseat(at, reason)
    }

    /// Takes the connection away from a session, which then waits for its client.
    pub(super) fn unlink(&mut self, at: usize, reason: CloseReason) -> Option<Link> {
        let link = self.seats[at].link.take()?;
        self.part_all(at);
        let seat = &mut self.seats[at];
        seat.session.interrupt(link.heard);
        self.pause_work(at, link.heard);
        let seat = &mut self.seats[at];
        let patience = Duration::from_millis(seat.session.tenant.limits.resume_window_ms);
        seat.expires = Some(Instant::now() + patience);
        let (tenant, lived) = (&seat.session.tenant.id, link.opened.elapsed());
        let metrics = self.metrics.tenant(tenant);
        events::connection_closed(&metrics, tenant, link.transport(), seat.session.id, reason, lived);
        Some(link)
    }

    /// Queues the last frames of a connection and lets it go once they are written.
    pub(super) fn see_off(
        &mut self,
        mut link: Link,
        reason: CloseReason,
        message: &str,
        retry_after_ms: Option<u64>,
    ) {
        let frame = ServerFrame::Disconnect { reason, message: message.into(), retry_after_ms, url: None };
        link.send(&frame, &mut self.scratch);
        let (code, reason) = (reason.code(), reason.label());
        link.close(code, reason, &mut self.scratch);
        self.errands.push_back(Errand::Farewell { link, code, reason });
    }

    fn unseat(&mut self, at: usize, reason: CloseReason) -> Box<Session> {
        // A connection that was not seen off is gone already.
        drop(self.unlink(at, reason));
        for sub in self.subs_of(at) {
            self.release(at, sub);
        }
        self.release_work(at);
        let seat = self.seats.remove(at);
        if let Some(expires) = seat.expires {
            self.waiting.remove(expires, at);
        }
        self.by_session.remove(&seat.session.id);
        self.metrics.tenant(&seat.session.tenant.id).sessions.dec();
        seat.session
    }

    fn subs_of(&mut self, at: usize) -> Vec<usize> {
        self.seats[at].session.subs_mut().map(|(sub, _)| sub).collect()
    }

    // ---- the client ----------------------------------------------------------------------------------

    /// Takes a frame of the client, or says what is wrong with what is none.
    pub(super) fn on_decoded(&mut self, at: usize, frame: Result<ClientFrame, BadFrame>) {
        match frame {
            Ok(frame) => self.on_frame(at, frame),
            Err(BadFrame { id, message }) => {
                self.send(at, &ServerFrame::Error { id, code: ErrorCode::BadRequest, message });
            }
        }
    }

    /// Takes a frame of the client.
    pub(super) fn on_frame(&mut self, at: usize, frame: ClientFrame) {
        let seat = &self.seats[at];
        if let (true, ClientFrame::Subscribe { id, .. }) = (seat.leaving, &frame) {
            let message = "this node is going away: subscribe with the next connection".into();
            let error = ServerFrame::Error { id: Some(*id), code: ErrorCode::Unavailable, message };
            return self.send(at, &error);
        }
        if let Some((id, turn)) = self.turn_for(at, &frame) {
            let place = self.place(at);
            return self.errands.push_back(Errand::InTurn { place, id, frame, turn });
        }
        self.obey(at, frame);
    }

    /// Does what a frame says.
    pub(super) fn obey(&mut self, at: usize, frame: ClientFrame) {
        let seat = &self.seats[at];
        let tenant = seat.session.tenant.clone();
        let (acked, nacked) = match &frame {
            ClientFrame::Ack { channel, .. } => (Some(channel.clone()), None),
            ClientFrame::Nack { channel, .. } => (None, Some(channel.clone())),
            _ => (None, None),
        };
        // Only these begin something in a channel.
        let audience = match &frame {
            ClientFrame::Subscribe { .. } | ClientFrame::Send { .. } => self.audience(&seat.session),
            _ => Audience::Everyone,
        };
        let (hub, metrics) = (&self.hub, &self.metrics);
        let mut channel_of = |name: &ChannelName| views::channel(hub, metrics, &tenant, name, &audience);
        let seat = &mut self.seats[at];
        seat.session.on_frame(frame, Instant::now(), &mut channel_of, &mut self.fx);
        if let Some(metrics) = nacked.and_then(|channel| metrics_of(&seat.session, &channel)) {
            metrics.nacks.inc();
        }
        if let Some(channel) = acked {
            if let Some(metrics) = metrics_of(&seat.session, &channel) {
                metrics.acks.inc();
            }
            if let Some(sub) = seat.session.number_of(&channel) {
                self.pursue(at, sub);
            }
        }
        let place = self.place(at);
        self.perform(at, None);
        // The frame may have ended the session, and with it the seat.
        if self.at(place).is_some() {
            self.schedule(at);
        }
    }

    /// Takes frames that came beside the session's connection; `None` where it is not here.
    pub(super) fn say(
        &mut self,
        session: SessionId,
        wanted: Wanted<Session>,
        frames: Frames,
    ) -> Option<Said> {
        let at = self.find(session)?;
        if !wanted(&self.seats[at].session) {
            return Some(Said::Outdated);
        }
        let place = self.place(at);
        if self.is_over(place) {
            return Some(Said::Behind);
        }
        if self.seats[at].link.is_none() {
            return Some(Said::NotConnected);
        }
        self.heard(at);
        for frame in frames {
            // One of them may close the connection; what comes after it is void.
            if self.at(place).is_some_and(|at| self.seats[at].link.is_some()) {
                self.on_decoded(at, frame);
            }
        }
        Some(Said::Heard)
    }

    /// Queues a frame for one session.
    pub(super) fn send(&mut self, at: usize, frame: &ServerFrame) {
        self.seats[at].send(frame, &mut self.scratch);
        self.touch(at);
    }

    /// Notes that bytes came from the client.
    pub(super) fn heard(&mut self, at: usize) {
        if let Some(link) = &mut self.seats[at].link {
            link.heard = Instant::now();
        }
    }

    // ---- sockets and cursors -------------------------------------------------------------------------

    /// Puts a seat on the list of those to flush.
    pub(super) fn touch(&mut self, at: usize) {
        if !std::mem::replace(&mut self.seats[at].touched, true) {
            self.touched.push(at);
        }
    }

    /// Writes what has gathered for every touched socket, one `writev` each.
    pub(super) fn flush(&mut self) {
        let mut touched = std::mem::take(&mut self.touched);
        // Relieved sessions may have more to write, which touches them again.
        while !touched.is_empty() {
            for at in touched.drain(..) {
                let Some(seat) = self.seats.get_mut(at) else { continue };
                seat.touched = false;
                if seat.link.as_ref().is_some_and(|link| !link.waiting)
                    && self.flush_seat(at)
                    && self.seats[at].held
                {
                    self.relieve(at);
                }
            }
            std::mem::swap(&mut touched, &mut self.touched);
        }
        self.touched = touched;
    }

    /// Writes what has gathered for one socket; true when all of it went.
    pub(super) fn flush_seat(&mut self, at: usize) -> bool {
        let place = self.place(at);
        let Some(link) = &mut self.seats[at].link else { return true };
        match link.socket.flush(&mut link.outbox) {
            Flush::Empty => {
                link.waiting = false;
                return true;
            }
            Flush::Blocked if !link.waiting => {
                link.waiting = true;
                self.errands.push_back(Errand::AwaitWritable(place, link.socket.clone()));
            }
            Flush::Blocked => {}
            Flush::Broken(_) => self.lose(at, CloseReason::ClientGone),
        }
        false
    }

    /// The outbox has room again: subscriptions that waited for it read on.
    pub(super) fn relieve(&mut self, at: usize) {
        self.seats[at].held = false;
        for sub in self.subs_of(at) {
            self.pursue(at, sub);
        }
        let workers: Vec<usize> = self.seats[at].session.workers_mut().map(|(worker, _)| worker).collect();
        for worker in workers {
            self.pursue_work(at, worker);
        }
        self.perform(at, None);
    }

    /// Whether more waits for a socket than its tenant allows.
    pub(super) fn is_over(&self, place: Place) -> bool {
        let seat = self.at(place).map(|at| &self.seats[at]);
        seat.is_some_and(|seat| {
            let limit = seat.session.tenant.limits.outbox_bytes;
            seat.link.as_ref().is_some_and(|link| link.waiting && link.outbox.is_full(limit))
        })
    }

    /// Puts a seat on the list of those whose cursors are stored next.
    pub(super) fn mark_unstored(&mut self, at: usize) {
        let seat = &mut self.seats[at];
        if seat.session.attached.is_some() && !std::mem::replace(&mut seat.unstored, true) {
            self.unstored.push(Place { seat: at, stamp: seat.stamp });
        }
    }

    /// A cursor could not be stored: it is tried again with the next batch.
    pub(super) fn store_again(&mut self, place: Place, sub: usize) {
        let Some(at) = self.at(place) else { return };
        if let Some(subscription) = self.seats[at].session.sub_mut(sub) {
            subscription.set_unstored();
        }
        self.mark_unstored(at);
    }

    /// Where the channel of a subscription ends for this shard.
    pub(super) fn tail_of(&self, at: usize, sub: usize) -> Option<Tail> {
        let subscription = self.seats[at].session.sub(sub)?;
        self.hub.get(&subscription.channel.view)?.open
    }

    /// Puts the identity of a new token in the place of the old one. The answer to the request.
    pub(super) fn refresh(
        &mut self,
        at: usize,
        id: RequestId,
        identity: Result<Identity, Box<str>>,
    ) -> ServerFrame {
        let session = &mut self.seats[at].session;
        let message = match identity {
            Ok(identity) if identity.user == session.identity.user => {
                *session.identity = identity;
                session.leave_forbidden(&mut self.fx);
                self.perform(at, None);
                self.regroup_seat(at);
                self.schedule(at);
                return done(id);
            }
            Ok(_) => "the new token belongs to another user".into(),
            Err(why) => why,
        };
        ServerFrame::Error { id: Some(id), code: ErrorCode::Forbidden, message }
    }

    /// Takes the list of those whose cursors are to be stored.
    pub(super) fn take_unstored(&mut self) -> Vec<Place> {
        let places = std::mem::take(&mut self.unstored);
        for place in &places {
            if let Some(at) = self.at(*place) {
                self.seats[at].unstored = false;
            }
        }
        places
    }
}

/// The counters of a channel that the session is subscribed to, or works for.
fn metrics_of<'s>(session: &'s Session, channel: &ChannelName) -> Option<&'s TenantMetrics> {
    let subscribed = session.number_of(channel).and_then(|sub| session.sub(sub)).map(|sub| &sub.channel);
    let works_for = || session.worker_of(channel).and_then(|at| session.worker(at)).map(|work| &work.channel);
    subscribed.or_else(works_for).map(|channel| &*channel.metrics)
}
