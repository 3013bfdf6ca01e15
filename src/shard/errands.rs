//! What has to wait: local tasks of the shard, whose outcomes come back as calls into its state.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::Shard;
use super::cursors::cursor_write;
use super::requests::from_client;
use super::seat::Link;
use super::state::{LeftOver, Place, who, worker_id};
use super::turns::{NextTurn, Turn};
use crate::backbone::{CursorWrite, Range, Stored, one};
use crate::delivery::dead_letters::DeadLetter;
use crate::delivery::{Request, SessionEvent, queues};
use crate::domain::{ChannelName, CloseReason, Publication, StreamKey};
use crate::protocol::{ClientFrame, ErrorCode, Payload, RequestId, ServerFrame, Subscribe};
use crate::session::Session;
use crate::telemetry::{DeadLetterOutcome, events};
use crate::transport::outbox::Flush;
use crate::transport::socket::Socket;

/// Something that the state hands out because it has to wait for it.
pub(super) enum Errand {
    /// Ask the feed. These stay in order.
    Ask(Request),
    /// Tell the queues. These stay in order.
    Tell(queues::Request),
    /// Store cursors soon, not at the next tick.
    StoreCursors,
    /// Store the cursor of a subscription that ended.
    StoreCursor(Box<CursorWrite>),
    /// A session ended: store what is left of its cursors and forget it, and note what it left over.
    End {
        session: Box<Session>,
        /// Its client was told to come back elsewhere.
        comes_back: bool,
        left: Option<LeftOver>,
    },
    /// Write the last frames of a connection and let it go.
    Farewell {
        link: Link,
        code: u16,
        reason: &'static str,
    },
    /// Wait until a socket takes more.
    AwaitWritable(Place, Socket),
    StoreStart {
        place: Place,
        sub: usize,
    },
    /// Ask the tenant's plugin whether the client may subscribe to what its `connect` names.
    AskSubscribes {
        place: Place,
        asked: Vec<(Subscribe, Turn)>,
    },
    /// Do what a frame says once it is its turn.
    InTurn {
        place: Place,
        id: RequestId,
        frame: ClientFrame,
        turn: NextTurn,
    },
    Refresh {
        place: Place,
        id: RequestId,
        token: Box<str>,
    },
    DeadLetter {
        place: Place,
        sub: usize,
        message: Arc<Publication>,
        attempts: u8,
    },
    Publish {
        place: Place,
        id: RequestId,
        channel: ChannelName,
        payload: Payload,
        key: Option<Box<str>>,
        msg_id: Option<Box<str>>,
    },
    SendUp {
        place: Place,
        id: RequestId,
        payload: Payload,
        topic: Option<Box<str>>,
    },
    History {
        place: Place,
        id: RequestId,
        channel: ChannelName,
        range: Range,
    },
}

/// How long a connection's last frames may take to be written.
const FAREWELL: Duration = Duration::from_secs(2);
/// Requests of clients that one shard has with the backbone at a time; more are told to come again.
const REQUESTS: usize = 4096;
/// Dead letters a shard writes in a second. A tenant whose clients never ack must not flood its stream.
pub(super) const DEAD_LETTERS_A_SECOND: u32 = 200;

impl Shard {
    /// Starts an errand as a local task, which the shard's task tracker owns.
    pub(super) fn start(self: &Rc<Self>, errand: Errand) {
        let shard = self.clone();
        match errand {
            Errand::Ask(request) => self.asks.push(request),
            Errand::Tell(request) => self.tells.push(request),
            Errand::StoreCursors => self.store_now.notify_one(),
            Errand::StoreCursor(write) => self.spawn(async move {
                // If that fails the cursor stays behind: what was acknowledged comes again.
                shard.env.backbone.store_cursors(std::slice::from_ref(&write)).await;
            }),
            Errand::End { session, comes_back, left } => {
                self.spawn(async move { shard.end(session, comes_back, left).await });
            }
            Errand::Farewell { link, code, reason } => {
                self.spawn(async move { shard.farewell(link, code, reason).await });
            }
            Errand::AwaitWritable(place, socket) => {
                self.spawn(async move { shard.await_writable(place, &socket).await });
            }
            Errand::StoreStart { place, sub } => {
                self.spawn(async move { shard.store_start(place, sub).await })
            }
            Errand::DeadLetter { place, sub, message, attempts } => {
                self.spawn(async move { shard.bury(place, sub, &message, attempts).await });
            }
            // No more of them than a session may have channels.
            Errand::AskSubscribes { place, asked } => {
                self.spawn(async move { shard.ask_subscribes(place, asked).await });
            }
            Errand::InTurn { place, id, frame, turn } => {
                self.counted(place, id, async move { shard.in_turn(place, frame, turn).await });
            }
            Errand::Refresh { place, id, token } => {
                self.request(place, id, async move { shard.refresh(place, id, token).await });
            }
            Errand::Publish { place, id, channel, payload, key, msg_id } => {
                let message = Publication { key, id: msg_id, ..from_client(payload) };
                self.request(place, id, async move { shard.publish(place, id, channel, message).await });
            }
            Errand::SendUp { place, id, payload, topic } => {
                self.request(place, id, async move { shard.send_up(place, id, payload, topic).await });
            }
            Errand::History { place, id, channel, range } => {
                self.request(place, id, async move { shard.history(place, id, &channel, range).await });
            }
        }
    }

    /// Runs a client's request, unless too many are under way.
    fn request(
        self: &Rc<Self>,
        place: Place,
        id: RequestId,
        work: impl Future<Output = ServerFrame> + 'static,
    ) {
        let shard = self.clone();
        self.counted(place, id, async move {
            let answer = work.await;
            shard.answer(place, &answer);
        });
    }

    /// Runs something that a client asked for, unless too much is under way.
    fn counted(self: &Rc<Self>, place: Place, id: RequestId, work: impl Future<Output = ()> + 'static) {
        if let Err((code, message)) = self.may_request(place) {
            return self.answer(place, &ServerFrame::Error { id: Some(id), code, message });
        }
        self.requests.set(self.requests.get() + 1);
        let shard = self.clone();
        self.spawn(async move {
            work.await;
            shard.requests.set(shard.requests.get() - 1);
            shard.with(|state| {
                if let Some(at) = state.at(place) {
                    state.seats[at].requests -= 1;
                }
            });
        });
    }

    /// Counts one more request of a session, unless it or the shard has too many under way.
    fn may_request(self: &Rc<Self>, place: Place) -> Result<(), (ErrorCode, Box<str>)> {
        if self.requests.get() >= REQUESTS {
            let message = "too many requests are waiting on this node; try again shortly";
            return Err((ErrorCode::Unavailable, message.into()));
        }
        self.with(|state| {
            // Without a seat nobody waits for the answer, and the request is done all the same.
            let Some(at) = state.at(place) else { return Ok(()) };
            let seat = &mut state.seats[at];
            let most = seat.session.tenant.limits.requests_per_session;
            if seat.requests >= most {
                let message = format!("{most} requests of this session are not answered yet: wait for some");
                return Err((ErrorCode::LimitExceeded, message.into()));
            }
            seat.requests += 1;
            Ok(())
        })
    }

    /// Sends a frame to the session, if it is still there.
    fn answer(self: &Rc<Self>, place: Place, frame: &ServerFrame) {
        self.with(|state| {
            if let Some(at) = state.at(place) {
                state.send(at, frame);
            }
        });
    }

    /// Writes a dead letter, if this session still is the device's latest, and then lets go of the
    /// message. Where that fails the message stays in flight and comes up again.
    async fn bury(self: Rc<Self>, place: Place, sub: usize, message: &Publication, attempts: u8) {
        let found = self.with(|state| {
            let session = &state.seats[state.at(place)?].session;
            let subscription = session.sub(sub)?;
            let device = session.attached.as_ref().map(|attached| attached.device.as_str().to_owned());
            let user = session.identity.user.as_str().to_owned();
            Some((subscription.channel.clone(), user, device, cursor_write(session, sub)))
        });
        let Some((channel, user, device, write)) = found else { return };
        if let Some(write) = write {
            match one(self.env.backbone.store_cursors(&[write]).await) {
                Ok(Stored::Yes) => {}
                Ok(Stored::Stale) => return self.taken_over(place),
                Err(_) => return,
            }
        }
        let outcome = if self.may_bury() {
            let letter = DeadLetter {
                channel: channel.name.as_str(),
                offset: message.offset,
                user: Some(&user),
                device: device.as_deref(),
                reason: "attempts",
                attempts,
                ..DeadLetter::default()
            };
            let fields = letter.into_fields(message.clone().into_fields());
            let written =
                self.env.backbone.append(&StreamKey::dead_letters(&channel.tenant), fields, None).await;
            if written.is_ok() { DeadLetterOutcome::Stored } else { DeadLetterOutcome::Failed }
        } else {
            DeadLetterOutcome::Dropped
        };
        events::dead_letter(&channel.metrics, &channel.tenant, &channel.name, message.offset, outcome);
        if outcome == DeadLetterOutcome::Failed {
            return;
        }
        self.with(|state| {
            let Some(at) = state.at(place) else { return };
            if let Some(subscription) = state.seats[at].session.sub_mut(sub) {
                subscription.finish(sub, message.offset, &mut state.fx);
                state.pursue(at, sub);
                state.perform(at, None);
            }
        });
    }

    /// Stores what is left of an ended session's cursors. If the backbone is away they stay as they
    /// were: what came after is delivered again, not lost.
    async fn end(self: Rc<Self>, mut session: Box<Session>, comes_back: bool, left: Option<LeftOver>) {
        self.store_last(&mut session).await;
        self.announce_end(&session, comes_back).await;
        self.env.directory.forget(session.id, self.env.id).await;
        let (tenant, user) = (&session.tenant, &session.identity.user);
        // Asked after it is forgotten: of two sessions that end together the later one finds none.
        if let Some((after, until)) = left
            && !self.env.directory.has_sessions(&tenant.id, user).await
        {
            self.env.upstream.note_left_over(tenant, who(&session), after, until);
        }
    }

    /// Ends a session that was taken from its shard and does not go on here.
    pub(super) async fn retire(&self, mut session: Box<Session>, reason: CloseReason) {
        self.store_last(&mut session).await;
        self.announce_end(&session, reason == CloseReason::Drain).await;
        self.env.directory.forget(session.id, self.env.id).await;
        let (lived, last) = (None, true);
        let event = SessionEvent::Disconnected { reason, lived, last };
        self.env.upstream.tell(&session.tenant, event, || who(&session));
    }

    /// Tells queues the last words of workers that a session has no more.
    pub(super) fn give_work_up(&self, session: &mut Session, only_forbidden: bool) {
        let worker = worker_id(session);
        for (channel, word) in session.give_work_up(only_forbidden) {
            let stream = channel.view.stream.clone();
            self.tells.push(queues::Request::Tell { stream, worker, word });
        }
    }

    /// Writes what is queued, says that no more comes, and hangs up after the client did or time is up.
    async fn farewell(self: Rc<Self>, mut link: Link, code: u16, reason: &'static str) {
        let write = async {
            while let Flush::Blocked = link.socket.flush(&mut link.outbox) {
                if link.socket.writable().await.is_err() {
                    break;
                }
            }
        };
        // Past the limit the rest is dropped with the connection.
        let written = timeout(FAREWELL, write).await.is_ok();
        if link.counted.take().is_some() && !written && self.env.drain.is_begun() {
            self.env.drain.force(1);
        }
        link.socket.end(code, reason).await;
    }

    async fn await_writable(self: Rc<Self>, place: Place, socket: &Socket) {
        while socket.writable().await.is_ok() {
            let goes_on = self.with(|state| {
                let Some(at) = state.at(place) else { return false };
                if !state.seats[at].link.as_ref().is_some_and(|link| link.socket.is(socket)) {
                    return false;
                }
                let blocked = !state.flush_seat(at);
                // Flushing may have found the connection broken.
                if let Some(at) = state.at(place).filter(|_| !blocked) {
                    state.relieve(at);
                }
                blocked
            });
            if !goes_on {
                return;
            }
        }
    }
}
