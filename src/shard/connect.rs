//! From a connection to a seated session, and the loop that reads its frames.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::timeout;

use super::Shard;
use super::admit::{Admitted, owner};
use super::asking::Asked;
use super::gate::Permit;
use super::seat::{Heartbeat, Link};
use super::state::{GOODBYE, Place, State, who};
use crate::delivery::SessionEvent;
use crate::directory::{Entry, Room};
use crate::domain::CloseReason;
use crate::plugin::contract::SessionChange;
use crate::protocol::{ClientFrame, Codec, Connect, Resumed, ServerFrame};
use crate::router::{IdentityHash, ResumeClaims};
use crate::session::Session;
use crate::telemetry::{Refusal, events};
use crate::tenants::Tenant;
use crate::transport::body;
use crate::transport::framing::Framing;
use crate::transport::input::{Decoder, Event};
use crate::transport::outbox::Frame;
use crate::transport::socket::Socket;
use crate::transport::sse::Ids;
use crate::transport::websocket::encode;
use crate::transport::webtransport;

/// A connection whose handshake is done.
pub(super) struct Arrival {
    pub(super) socket: Socket,
    pub(super) framing: Framing,
    pub(super) opening: Opening,
    pub(super) tenant: Arc<Tenant>,
    /// What the request said of who it is.
    pub(super) bearer: Option<Bearer>,
    /// The request, where the tenant's authenticator may ask about it.
    pub(super) asked: Asked,
    /// Its place at the gate.
    pub(super) permit: Rc<Permit>,
}

/// How a connection begins.
pub(super) enum Opening {
    /// With a `connect` frame on it. These bytes came with the handshake.
    Frame(BytesMut),
    /// The `connect` came with the request. Its events may say positions.
    Request(Connect, Option<Box<Ids>>),
}

/// What stands for a client beside its `connect` frame.
pub(super) enum Bearer {
    /// A token.
    Token(Box<str>),
    /// What was given for a token, once.
    Ticket(Box<str>),
}

/// Why a connection gets no session: what its client is told.
pub(super) struct Refused {
    pub(super) reason: CloseReason,
    pub(super) message: Box<str>,
    /// When to come again, where that is said.
    pub(super) retry_after_ms: Option<u64>,
}

impl Refused {
    pub(super) fn new(reason: CloseReason, message: impl Into<Box<str>>) -> Self {
        Self { reason, message: message.into(), retry_after_ms: None }
    }

    fn draining() -> Self {
        // Those that came together do not come back together.
        let retry_after_ms = Some(rand::random_range(0..=2_000));
        Self { retry_after_ms, ..Self::new(CloseReason::Drain, "this node is going away; connect again") }
    }
}

/// How reading goes on.
enum Reading {
    More,
    Over,
}

impl Shard {
    /// Serves one connection to its end.
    pub(super) async fn serve(self: Rc<Self>, arrival: Arrival) {
        let (socket, permit) = (arrival.socket.clone(), arrival.permit.clone());
        let mut decoder = Decoder::of(arrival.framing);
        // Boxed, so that the memory of the handshake is not kept for the life of the connection.
        let begun = Box::pin(self.clone().begin(arrival, &mut decoder)).await;
        if let Some(place) = begun {
            permit.opened();
            self.read_on(&socket, place, &mut decoder).await;
        }
    }

    async fn begin(self: Rc<Self>, arrival: Arrival, decoder: &mut Decoder) -> Option<Place> {
        let Arrival { socket, framing, opening, tenant, bearer, asked, permit: _permit } = arrival;
        let patience = Duration::from_millis(tenant.limits.connect_timeout_ms);
        let (connect, mut rest, ids) = match opening {
            Opening::Request(connect, ids) => (connect, BytesMut::new(), ids),
            Opening::Frame(early) => {
                let first = first_frame(&socket, decoder, early, framing.codec(), tenant.limits.frame_bytes);
                let first = timeout(patience, first).await.unwrap_or_else(|_| {
                    let message = format!("no `connect` frame came within {} ms", patience.as_millis());
                    Err(Some(Refused::new(CloseReason::ConnectTimeout, message)))
                });
                match first {
                    Ok((connect, rest)) => (connect, rest, None),
                    Err(None) => return None,
                    Err(Some(refused)) => return self.refuse(&socket, framing, refused).await,
                }
            }
        };
        if self.env.drain.is_begun() {
            return self.refuse(&socket, framing, Refused::draining()).await;
        }
        let mut link = Link { ids, ..Link::new(socket.clone(), framing, Duration::from_secs(60)) };
        let patience = Duration::from_millis(tenant.limits.auth_timeout_ms);
        let facts = asked.facts(link.transport(), socket.peer_addr());
        let admitted = async {
            let bearer = self.token_of(&tenant, bearer).await?;
            self.clone().admit(&tenant, connect, bearer, facts).await
        };
        let admitted = timeout(patience, admitted).await.unwrap_or_else(|_| {
            let message = "the session could not be begun in time; try again";
            Err(Refused::new(CloseReason::BackboneAway, message))
        });
        let admitted = match admitted {
            Ok(admitted) => admitted,
            Err(refused) => return self.refuse(&socket, framing, refused).await,
        };
        let room = self.env.directory.room().await;
        // Where the drain began meanwhile, its goodbyes do not count with this session.
        if self.env.drain.is_begun() {
            drop(room);
            if admitted.resumed == Resumed::Home {
                self.retire(admitted.session, CloseReason::Drain).await;
            }
            return self.refuse(&socket, framing, Refused::draining()).await;
        }
        link.counted = Some(self.env.drain.count(usize::from(self.env.id.0)));
        let place = self.seat(link, admitted, room);
        if let Reading::Over = self.on_bytes(place, decoder, &mut rest) {
            self.hung_up(place, &socket);
            return None;
        }
        Some(place)
    }

    /// The token that a request brought, or that its ticket was given for.
    async fn token_of(&self, tenant: &Tenant, bearer: Option<Bearer>) -> Result<Option<Box<str>>, Refused> {
        match bearer {
            None => Ok(None),
            Some(Bearer::Token(token)) => Ok(Some(token)),
            Some(Bearer::Ticket(ticket)) => {
                let redeemed = self.env.tickets.redeem(tenant, &ticket).await;
                redeemed.map(Some).map_err(|error| Refused::new(error.close_reason(), error.to_string()))
            }
        }
    }

    /// Ends a connection that has no session, and waits until it is gone.
    async fn refuse(self: &Rc<Self>, socket: &Socket, framing: Framing, refused: Refused) -> Option<Place> {
        let Refused { reason, message, retry_after_ms } = refused;
        let label = match reason {
            CloseReason::ConnectTimeout => Refusal::Timeout,
            CloseReason::Unauthorized | CloseReason::TokenExpired => Refusal::Unauthorized,
            CloseReason::BackboneAway => Refusal::BackboneAway,
            CloseReason::Drain => Refusal::Draining,
            CloseReason::NotNow => Refusal::Plugin,
            _ => Refusal::BadRequest,
        };
        if let Some(peer) = socket.peer_addr() {
            events::handshake_refused(self.env.metrics.node(), label, peer.ip(), &message);
        }
        let link = Link::new(socket.clone(), framing, Duration::from_secs(60));
        self.with(|state| state.see_off(link, reason, &message, retry_after_ms));
        socket.hung_up().await;
        None
    }

    /// Enters the session into the directory and seats it.
    fn seat(self: &Rc<Self>, mut link: Link, admitted: Admitted, room: Room<'_, Session>) -> Place {
        let Admitted { mut session, resumed, is_new, ping_ms, subs } = admitted;
        session.connections += 1;
        let limits = &session.tenant.limits;
        let ping_ms = ping_ms.unwrap_or(limits.ping_ms).clamp(limits.ping_min_ms, limits.ping_max_ms);
        let (least, most) = ping_bounds(link.framing);
        let ping_ms = ping_ms.clamp(least, most);
        link.beat = Heartbeat::new(Duration::from_millis(ping_ms), link.opened);
        let cap = limits.sessions_per_user;
        let (tenant, user) = (session.tenant.id.clone(), session.identity.user.clone());
        let device = session.attached.as_ref().map(|attached| attached.device.clone());
        let resume = self.env.resume.issue(&ResumeClaims {
            session: session.id,
            node: self.env.node.clone(),
            tenant: tenant.clone(),
            user: owner(&session.identity),
            device: device.as_ref().map(IdentityHash::of_device),
            token: IdentityHash::of_token(&session.identity.token_hash),
            attach: session.connections,
            issued_ms: self.env.backbone.clock().now_ms(),
        });
        let connected = ServerFrame::Connected {
            session: session.id,
            user: user.clone(),
            device: device.clone(),
            resume: resume.into(),
            resumed,
            node: self.env.node.clone(),
            ping_ms,
        };
        let metrics = self.env.metrics.tenant(&tenant);
        let transport = link.transport();
        events::connection_opened(&metrics, &tenant, transport, session.id, resumed.into());
        let address = session.tenant.events.address.then(|| link.socket.peer_addr()).flatten();
        let address = address.map(|peer| peer.ip());
        let event = SessionEvent::Connected { resumed, transport, address };
        self.env.upstream.tell(&session.tenant, event, || who(&session));
        if is_new {
            self.announce(&session, SessionChange::Connected);
        }
        let entry = Entry { session: session.id, tenant, user, device, shard: self.env.id };
        // Before its client hears of it, so that a user's sessions are entered in the order of their
        // clients. What the directory orders comes to this thread, after the seat is taken.
        room.register(entry, cap);
        self.with(|state| state.seat(session, link, &connected, subs))
    }

    /// Reads frames until the connection is over.
    async fn read_on(self: Rc<Self>, socket: &Socket, place: Place, decoder: &mut Decoder) {
        while self.has_room(place, socket).await && socket.readable().await.is_ok() {
            let mut buffer = self.buffer.take();
            let reading = match socket.try_read(&mut buffer) {
                Ok(0) => Reading::Over,
                Ok(got) => self.on_bytes(place, decoder, &mut buffer[..got]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Reading::More,
                Err(_) => Reading::Over,
            };
            self.buffer.replace(buffer);
            if let Reading::Over = reading {
                break;
            }
        }
        if socket.close_code().await == Some(GOODBYE) {
            return self.with(|state| {
                if let Some(at) = linked(state, place, socket) {
                    state.answer_close(at, true);
                }
            });
        }
        self.hung_up(place, socket);
    }

    /// Waits while the outbox is over its limit: a client that asks and does not read the answers is
    /// not listened to, so it costs no memory, and its heartbeat ends it. False once the socket is gone.
    async fn has_room(&self, place: Place, socket: &Socket) -> bool {
        while self.state.borrow().is_over(place) {
            if socket.writable().await.is_err() {
                return false;
            }
            // Whoever writes this outbox waits for the same; it goes first.
            tokio::task::yield_now().await;
        }
        true
    }

    fn hung_up(self: &Rc<Self>, place: Place, socket: &Socket) {
        self.with(|state| {
            if let Some(at) = linked(state, place, socket) {
                state.lose(at, CloseReason::ClientGone);
            }
        });
    }

    /// Takes what the socket gave. After the connection was closed by this side input is read and
    /// dropped, until the client hangs up.
    fn on_bytes(self: &Rc<Self>, place: Place, decoder: &mut Decoder, mut input: &mut [u8]) -> Reading {
        self.with(|state| {
            let Some(at) = state.at(place).filter(|at| state.seats[*at].link.is_some()) else {
                return Reading::More;
            };
            state.heard(at);
            let limit = state.seats[at].session.tenant.limits.frame_bytes;
            loop {
                if state.at(place).is_none_or(|at| state.seats[at].link.is_none()) {
                    return Reading::More;
                }
                match decoder.next(&mut input, limit) {
                    Ok(None) => return Reading::More,
                    Ok(Some(event)) => {
                        if let Reading::Over = on_event(state, at, &event) {
                            return Reading::Over;
                        }
                    }
                    Err(error) => {
                        state.close(at, error.close_reason(), &error.to_string());
                        return Reading::More;
                    }
                }
            }
        })
    }
}

fn on_event(state: &mut State, at: usize, event: &Event<'_>) -> Reading {
    match event {
        Event::Frame(codec, bytes) => on_payload(state, at, *codec, bytes),
        Event::Ping(payload) => {
            state.scratch.clear();
            encode::pong(payload, &mut state.scratch);
            let pong = Frame::new(&state.scratch);
            state.seats[at].push(pong);
            state.touch(at);
        }
        Event::Pong => {}
        Event::Close(close) => {
            state.answer_close(at, *close == Some(GOODBYE));
            return Reading::Over;
        }
    }
    Reading::More
}

fn on_payload(state: &mut State, at: usize, codec: Codec, bytes: &[u8]) {
    let spoken = state.seats[at].link.as_ref().map_or(codec, |link| link.framing.codec());
    if spoken != codec {
        return state.close(at, CloseReason::Protocol, wrong_codec(spoken));
    }
    state.on_decoded(at, codec.decode(bytes));
}

fn wrong_codec(spoken: Codec) -> &'static str {
    match spoken {
        Codec::Json => "this connection speaks tidegate.v1.json: send text messages",
        Codec::Cbor => "this connection speaks tidegate.v1.cbor: send binary messages",
    }
}

/// The shortest and the longest pause between heartbeats, in milliseconds, that a transport stands.
fn ping_bounds(framing: Framing) -> (u64, u64) {
    match framing {
        Framing::WebSocket(_) => (0, u64::MAX),
        Framing::Stream(_) => (0, webtransport::PING_MAX_MS),
        Framing::Sse | Framing::Lines => (body::PING_MIN_MS, u64::MAX),
    }
}

/// The seat whose connection this socket is.
fn linked(state: &State, place: Place, socket: &Socket) -> Option<usize> {
    let at = state.at(place)?;
    let link = state.seats[at].link.as_ref()?;
    link.socket.is(socket).then_some(at)
}

/// Reads the first frame, which has to be `connect`. `Err(None)`: the client hung up.
async fn first_frame(
    socket: &Socket,
    decoder: &mut Decoder,
    early: BytesMut,
    codec: Codec,
    limit: usize,
) -> Result<(Connect, BytesMut), Option<Refused>> {
    let mut input = early;
    loop {
        let whole = input.len();
        let mut rest = &mut input[..];
        let found = match decoder.next(&mut rest, limit) {
            Ok(None) => None,
            Ok(Some(Event::Frame(spoken, bytes))) if spoken == codec => Some(codec.decode(bytes)),
            Ok(Some(Event::Frame(..))) => {
                return Err(Some(Refused::new(CloseReason::Protocol, wrong_codec(codec))));
            }
            Ok(Some(Event::Ping(_) | Event::Pong)) => None,
            Ok(Some(Event::Close(_))) => return Err(None),
            Err(error) => {
                return Err(Some(Refused::new(error.close_reason(), error.to_string())));
            }
        };
        let taken = whole - rest.len();
        match found {
            Some(Ok(ClientFrame::Connect(connect))) => return Ok((connect, input.split_off(taken))),
            Some(Ok(_)) => {
                let message = "the first frame must be `connect`";
                return Err(Some(Refused::new(CloseReason::Protocol, message)));
            }
            Some(Err(bad)) => {
                return Err(Some(Refused::new(CloseReason::Protocol, bad.message)));
            }
            None if taken < input.len() => input = input.split_off(taken),
            None => {
                input = BytesMut::zeroed(4096);
                let got = read_some(socket, &mut input).await?;
                input.truncate(got);
            }
        }
    }
}

async fn read_some(socket: &Socket, into: &mut [u8]) -> Result<usize, Option<Refused>> {
    loop {
        socket.readable().await.map_err(|_| None)?;
        match socket.try_read(into) {
            Ok(0) => return Err(None),
            Ok(got) => return Ok(got),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return Err(None),
        }
    }
}
