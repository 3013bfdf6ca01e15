//! A session's place on a shard, with its connection while it has one.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::turns::Turns;
use crate::api::drain::Counted;
use crate::domain::{ChannelName, Offset, Position, Publication};
use crate::plugin::Scope;
use crate::protocol::{ServerFrame, encode_message};
use crate::session::Session;
use crate::telemetry::Transport;
use crate::transport::framing::Framing;
use crate::transport::outbox::{Frame, Outbox};
use crate::transport::socket::Socket;
use crate::transport::sse::Ids;
use crate::transport::webtransport::Datagram;

/// A session and what this shard keeps for it.
pub(super) struct Seat {
    pub(super) session: Box<Session>,
    /// Tells this session from others that sat here.
    pub(super) stamp: u64,
    /// How finely its tenant's plugins told subscribers apart when it took part in its views.
    pub(super) scope: Option<Scope>,
    pub(super) link: Option<Link>,
    /// When a session without a connection ends.
    pub(super) expires: Option<Instant>,
    /// The earliest entry of the agenda for this seat.
    pub(super) scheduled: Option<Instant>,
    /// Its outbox is on the list of those to flush.
    pub(super) touched: bool,
    /// A subscription found no room in the outbox, and reads on when it is empty.
    pub(super) held: bool,
    /// It is on the list of those whose cursors are to be stored.
    pub(super) unstored: bool,
    /// Its client was told that the node goes away: it gets nothing new.
    pub(super) leaving: bool,
    /// Requests of its client that are not answered yet.
    pub(super) requests: u16,
    /// The channels that a plugin is asked about.
    pub(super) turns: Turns,
    /// Ends when the last message that its client published, and a plugin was asked about, is in the log.
    pub(super) publishing: Option<oneshot::Receiver<()>>,
}

/// A connection.
pub(super) struct Link {
    pub(super) socket: Socket,
    pub(super) framing: Framing,
    /// The positions that its events say, where they say any.
    pub(super) ids: Option<Box<Ids>>,
    pub(super) outbox: Outbox,
    pub(super) opened: Instant,
    /// When the client was last heard.
    pub(super) heard: Instant,
    pub(super) beat: Heartbeat,
    /// A task waits for the socket to take more.
    pub(super) waiting: bool,
    /// Counts the session's connection until its last frame is written; `None` without a session.
    pub(super) counted: Option<Counted>,
}

/// The server's side of the negotiated heartbeat.
#[derive(Debug)]
pub(super) struct Heartbeat {
    every: Duration,
    next: Instant,
    /// A ping was sent at `next - grace` and nothing was heard since.
    sent: Option<Instant>,
}

/// What a heartbeat's time asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Beat {
    Nothing,
    Ping,
    Lost,
}

impl Heartbeat {
    /// Pings every so often, the first time after a jittered interval.
    pub(super) fn new(every: Duration, now: Instant) -> Self {
        Self { every, next: now + jittered(every), sent: None }
    }

    pub(super) fn next_time(&self) -> Instant {
        self.next
    }

    /// A ping goes out at its time; what is not answered within the grace is lost.
    pub(super) fn on_time(&mut self, now: Instant, heard: Instant) -> Beat {
        if now < self.next {
            return Beat::Nothing;
        }
        match self.sent.take() {
            Some(sent) if heard < sent => Beat::Lost,
            Some(sent) => {
                self.next = (sent + jittered(self.every)).max(now);
                Beat::Nothing
            }
            None => {
                self.sent = Some(now);
                self.next = now + self.grace();
                Beat::Ping
            }
        }
    }

    fn grace(&self) -> Duration {
        const LONGEST: Duration = Duration::from_secs(10);
        self.every.min(LONGEST)
    }
}

/// 90 to 110 % of an interval, so that clients that came together do not stay in step.
fn jittered(every: Duration) -> Duration {
    every.mul_f64(0.9 + 0.2 * rand::random::<f64>())
}

impl Seat {
    pub(super) fn new(session: Box<Session>, stamp: u64, scope: Option<Scope>) -> Self {
        Self {
            session,
            stamp,
            scope,
            link: None,
            expires: None,
            scheduled: None,
            touched: false,
            held: false,
            unstored: false,
            leaving: false,
            requests: 0,
            turns: Turns::default(),
            publishing: None,
        }
    }

    /// Queues a shared frame.
    pub(super) fn push(&mut self, frame: Frame) {
        if let Some(link) = &mut self.link {
            link.outbox.push(frame);
        }
    }

    /// Encodes a frame for this session and queues it.
    pub(super) fn send(&mut self, frame: &ServerFrame, scratch: &mut Vec<u8>) {
        if let Some(link) = &mut self.link {
            link.send(frame, scratch);
        }
    }

    /// Bytes the outbox takes now; an empty one always takes a message.
    pub(super) fn room(&self) -> usize {
        let Some(link) = &self.link else { return 0 };
        let room = self.session.tenant.limits.outbox_bytes.saturating_sub(link.outbox.bytes());
        if link.outbox.is_empty() { room.max(1) } else { room }
    }

    /// Whether the socket takes nothing now.
    pub(super) fn is_blocked(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.waiting)
    }

    /// When the client was last heard; without a connection never since it could have mattered.
    pub(super) fn heard(&self, otherwise: Instant) -> Instant {
        self.link.as_ref().map_or(otherwise, |link| link.heard)
    }

    /// When something is to be done for this seat.
    pub(super) fn next_time(&self, token_ends: Option<Instant>) -> Option<Instant> {
        let beat = self.link.as_ref().map(|link| link.beat.next_time());
        let session = self.link.as_ref().filter(|_| !self.leaving).and_then(|_| self.session.next_time());
        [beat, session, token_ends, self.expires].into_iter().flatten().min()
    }
}

impl Link {
    /// A connection on which nothing was said yet.
    pub(super) fn new(socket: Socket, framing: Framing, ping: Duration) -> Self {
        let now = Instant::now();
        let (outbox, beat) = (Outbox::default(), Heartbeat::new(ping, now));
        Self {
            socket,
            framing,
            ids: None,
            outbox,
            opened: now,
            heard: now,
            beat,
            waiting: false,
            counted: None,
        }
    }

    /// Encodes a frame for this connection and queues it.
    pub(super) fn send(&mut self, frame: &ServerFrame, scratch: &mut Vec<u8>) {
        scratch.clear();
        if let Some(ids) = &mut self.ids
            && is_moved_by(ids, frame)
        {
            ids.write(scratch);
        }
        self.framing.frame(frame.kind(), scratch, |out| self.framing.codec().encode(frame, out));
        self.outbox.push(Frame::new(scratch));
    }

    /// Queues a message that is encoded once for all.
    pub(super) fn push_message(
        &mut self,
        frame: Frame,
        channel: &ChannelName,
        offset: Offset,
        scratch: &mut Vec<u8>,
    ) {
        if let Some(ids) = &mut self.ids
            && ids.advance(channel, offset)
        {
            scratch.clear();
            ids.write(scratch);
            self.outbox.push(Frame::new(scratch));
        }
        self.outbox.push(frame);
    }

    /// Queues what keeps a quiet connection alive, or sends it.
    pub(super) fn ping(&mut self, scratch: &mut Vec<u8>) {
        self.socket.ping();
        scratch.clear();
        self.framing.heartbeat(scratch);
        if !scratch.is_empty() {
            self.outbox.push(Frame::new(scratch));
        }
    }

    /// Queues what closes the connection, where that stands among the frames.
    pub(super) fn close(&mut self, code: u16, reason: &str, scratch: &mut Vec<u8>) {
        scratch.clear();
        self.framing.close(code, reason, scratch);
        if !scratch.is_empty() {
            self.outbox.push(Frame::new(scratch));
        }
    }

    /// Notes what the transport itself knows of the client.
    pub(super) fn listen(&mut self, now: Instant) {
        if let Some(heard) = self.socket.heard(now) {
            self.heard = self.heard.max(heard);
        }
    }

    /// What carries it.
    pub(super) fn transport(&self) -> Transport {
        match self.framing {
            Framing::WebSocket(_) => Transport::WebSocket,
            Framing::Stream(_) => Transport::WebTransport,
            Framing::Sse => Transport::Sse,
            Framing::Lines => Transport::Ndjson,
        }
    }
}

/// Whether a frame says where a channel stands; that is noted.
fn is_moved_by(ids: &mut Ids, frame: &ServerFrame) -> bool {
    match frame {
        ServerFrame::Subscribed { channel, offset, epoch, .. }
        | ServerFrame::Position { channel, offset, epoch }
        | ServerFrame::Gap { channel, until: offset, epoch, .. } => {
            ids.set(channel, Position { offset: *offset, epoch: *epoch })
        }
        ServerFrame::Message { channel, message, .. } => ids.advance(channel, message.offset),
        _ => false,
    }
}

/// The frames of one batch, each encoded once a framing when the first session wants it.
#[derive(Default)]
pub(super) struct SharedFrames {
    frames: [Vec<Option<Frame>>; Framing::COUNT],
    datagrams: [Vec<Option<Datagram>>; Framing::COUNT],
}

impl SharedFrames {
    /// The frame of the item at `index` of its batch.
    pub(super) fn get(
        &mut self,
        framing: Framing,
        index: usize,
        channel: &ChannelName,
        message: &Publication,
        scratch: &mut Vec<u8>,
    ) -> Frame {
        let encoded = || {
            scratch.clear();
            let encode = |out: &mut Vec<u8>| encode_message(framing.codec(), channel, message, 1, out);
            framing.frame(ServerFrame::MESSAGE, scratch, encode);
            Frame::new(scratch)
        };
        place(&mut self.frames[framing.index()], index).get_or_insert_with(encoded).clone()
    }

    /// The same as a datagram, for who has it from a namespace that may lose messages.
    pub(super) fn datagram(
        &mut self,
        framing: Framing,
        index: usize,
        channel: &ChannelName,
        message: &Publication,
        scratch: &mut Vec<u8>,
    ) -> Datagram {
        let encoded = || {
            scratch.clear();
            encode_message(framing.codec(), channel, message, 1, scratch);
            Datagram::new(scratch)
        };
        place(&mut self.datagrams[framing.index()], index).get_or_insert_with(encoded).clone()
    }
}

/// The place of an item among those that were encoded.
fn place<T: Clone>(encoded: &mut Vec<Option<T>>, index: usize) -> &mut Option<T> {
    if encoded.len() <= index {
        encoded.resize(index + 1, None);
    }
    &mut encoded[index]
}

/// The epoch and clock are read once a batch, not once a subscriber.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) instant: Instant,
    pub(super) clock_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_missed_answer_and_the_grace_end_a_connection() {
        let start = Instant::now();
        let every = Duration::from_secs(20);
        let mut beat = Heartbeat::new(every, start);
        let first = beat.next_time();
        assert!(first >= start + every.mul_f64(0.9) && first <= start + every.mul_f64(1.1));
        assert_eq!(beat.on_time(start, start), Beat::Nothing);
        assert_eq!(beat.on_time(first, start), Beat::Ping);
        let grace = beat.next_time();
        assert_eq!(beat.on_time(grace, first), Beat::Nothing, "answered: the next ping is due later");
        let second = beat.next_time();
        assert_eq!(beat.on_time(second, first), Beat::Ping);
        assert_eq!(beat.on_time(beat.next_time(), first), Beat::Lost);
        assert_eq!(beat.on_time(beat.next_time(), first), Beat::Ping, "where it goes on all the same");
    }
}
