//! The clients of a herd, what it counts, and the order it is working on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use mio::{Interest, Registry, Token};
use rustls::ClientConfig;

use super::client::{Client, Line};
use super::counts::{Counts, is_sampled};
use super::{Answer, Kind, Order, Transport};

/// All clients, by number.
pub struct Flock {
    registry: Registry,
    transport: Transport,
    tls: Option<Arc<ClientConfig>>,
    clients: Vec<Option<Client>>,
    buffer: Vec<u8>,
    counts: Counts,
    work: Work,
}

/// The order that waits for its answer.
enum Work {
    Nothing,
    /// Connections to make: those that are to come, those under way.
    Opening {
        next: usize,
        until: usize,
        pending: usize,
        to: Option<(SocketAddr, Kind)>,
        deadline: Instant,
    },
    Expecting {
        messages: u64,
        deadline: Instant,
    },
    Done,
}

/// Connections under way at a time: the node's backlog takes them.
pub(super) const AT_ONCE: usize = 64;
/// How long one order to connect may take.
pub(super) const OPENING: Duration = Duration::from_secs(120);

impl Flock {
    /// Without clients. `tls` is what clients over TLS need.
    pub fn new(registry: Registry, transport: Transport, tls: Option<Arc<ClientConfig>>) -> Self {
        Self {
            registry,
            transport,
            tls,
            clients: Vec::new(),
            buffer: vec![0; 256 * 1024],
            counts: Counts::default(),
            work: Work::Nothing,
        }
    }

    /// How long the poll may wait.
    pub fn patience(&self) -> Option<Duration> {
        match self.work {
            Work::Opening { deadline, .. } | Work::Expecting { deadline, .. } => {
                Some(deadline.saturating_duration_since(Instant::now()))
            }
            Work::Nothing => None,
            Work::Done => Some(Duration::ZERO),
        }
    }

    /// Begins an order.
    pub fn obey(&mut self, order: Order) {
        let now = Instant::now();
        self.work = match order {
            Order::Open { address, count, kind } => {
                let next = self.clients.len();
                let (until, to) = (next + count, Some((address, kind)));
                Work::Opening { next, until, pending: 0, to, deadline: now + OPENING }
            }
            Order::Reopen => {
                let until = self.clients.len();
                Work::Opening { next: 0, until, pending: 0, to: None, deadline: now + OPENING }
            }
            Order::Reset => {
                self.counts = Counts::default();
                Work::Done
            }
            Order::Acknowledge { .. } => {
                self.counts.fail("only clients over WebTransport acknowledge on an order".to_owned());
                Work::Done
            }
            Order::Expect { messages, limit_ms } => {
                Work::Expecting { messages, deadline: now + Duration::from_millis(limit_ms) }
            }
        };
        self.open_more();
    }

    fn open_more(&mut self) {
        while let Work::Opening { next, until, pending, to, .. } = &mut self.work {
            if next == until || *pending == AT_ONCE {
                return;
            }
            let (number, to) = (*next, *to);
            *next += 1;
            *pending += 1;
            match self.open(number, to) {
                Ok(true) => self.began(),
                Ok(false) => {}
                Err(error) => return self.fail(format!("client {number}: {error:#}")),
            }
        }
    }

    /// Connects a client; whether it waits for nothing more.
    fn open(&mut self, number: usize, to: Option<(SocketAddr, Kind)>) -> Result<bool> {
        let mut client = match (to, self.clients.get(number)) {
            (Some((address, kind)), _) => {
                let line = Line { address, transport: self.transport, tls: self.tls.clone() };
                Client::connect(line, kind, number, None)?
            }
            (None, Some(Some(old))) => old.again()?,
            (None, _) => anyhow::bail!("it is not connected"),
        };
        self.registry.register(&mut client.stream, Token(number), Interest::READABLE)?;
        let begun = client.talk.begun;
        if number == self.clients.len() {
            self.clients.push(None);
        }
        // The old connection, if there was one, ends here.
        self.clients[number] = Some(client);
        Ok(begun)
    }

    fn began(&mut self) {
        if let Work::Opening { pending, .. } = &mut self.work {
            *pending -= 1;
        }
    }

    /// A client's socket has something to read.
    pub fn on_ready(&mut self, number: usize) {
        let Some(Some(client)) = self.clients.get_mut(number) else { return };
        let begun = client.talk.begun;
        if begun && client.talk.kind == Kind::Stalled {
            return;
        }
        match client.read(&mut self.buffer, is_sampled(number)) {
            Ok(seen) => {
                self.counts.add(&seen);
                if client.talk.begun && !begun {
                    self.began();
                    self.open_more();
                }
            }
            Err(error) => {
                self.clients[number] = None;
                self.fail(format!("client {number}: {error:#}"));
            }
        }
    }

    fn fail(&mut self, error: String) {
        self.counts.fail(error);
        if !matches!(self.work, Work::Nothing) {
            self.work = Work::Done;
        }
    }

    /// The answer, once the order is done or its time is up.
    pub fn settle(&mut self) -> Option<Answer> {
        let now = Instant::now();
        let (done, late) = match &self.work {
            Work::Nothing => (false, false),
            Work::Opening { next, until, pending, deadline, .. } => {
                (next == until && *pending == 0, now >= *deadline)
            }
            Work::Expecting { messages, deadline } => {
                (self.counts.messages() >= *messages || now >= *deadline, false)
            }
            Work::Done => (true, false),
        };
        if late {
            self.fail("not all clients were served in time".to_owned());
        }
        if !done && !late {
            return None;
        }
        self.work = Work::Nothing;
        Some(self.counts.answer())
    }
}
