//! Many clients in one thread of a process of their own, as cheap as they can be: they share the
//! machine with the node. All clients of a herd speak one transport.

use std::io::BufRead as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::ValueEnum;
use mio::{Events, Poll, Token, Waker};
use serde::{Deserialize, Serialize};

mod client;
mod counts;
mod events;
mod flock;
mod http3;
mod quic;
mod talk;
mod tls;
mod tokens;
mod websocket;

use flock::Flock;

/// What a herd is.
#[derive(Debug, clap::Args)]
pub struct HerdArgs {
    /// What its clients speak.
    #[arg(long, value_enum)]
    pub transport: Transport,
    /// The one certificate that they trust, in DER.
    #[arg(long, value_name = "FILE")]
    pub certificate: PathBuf,
}

/// What carries the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[expect(clippy::enum_variant_names, reason = "WebTransport is a name")]
pub enum Transport {
    /// WebSocket over TCP.
    WebSocket,
    /// WebSocket over TLS.
    Tls,
    /// Server-sent events, over HTTP/1.1 without TLS.
    Sse,
    /// WebTransport.
    WebTransport,
}

impl Transport {
    /// Its value on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::WebSocket => "web-socket",
            Self::Tls => "tls",
            Self::Sse => "sse",
            Self::WebTransport => "web-transport",
        }
    }
}

/// What a herd is told to do, one line of JSON each.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Order {
    /// Connect so many more clients; answered when all are subscribed.
    Open {
        /// Where to.
        address: SocketAddr,
        /// How many.
        count: usize,
        /// What they are.
        kind: Kind,
    },
    /// Hang up and come back with the resume token, all clients; answered when all are connected.
    Reopen,
    /// Count from nothing.
    Reset,
    /// Send acknowledgements of what was acknowledged already, each in a packet of its own, all clients in
    /// turn; answered when the time is over. WebTransport only.
    Acknowledge {
        /// How many a second, all together.
        per_s: u64,
        /// How long.
        time_ms: u64,
    },
    /// Answered once so many messages came since the last reset, or after a limit of time.
    Expect {
        /// How many.
        messages: u64,
        /// How long to wait for them.
        limit_ms: u64,
    },
}

/// What a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Takes frames from a plain socket, without a handshake.
    Bare,
    /// Anonymous, in one room with all others. Its own channel is its second subscription.
    Room,
    /// The same in a live channel, whose messages may get lost.
    Live,
    /// The same, and in a room of its own; reads nothing once it is subscribed.
    Stalled,
    /// A user with a token who is subscribed to the own channel alone.
    Own,
    /// The same, acknowledging every message.
    Acking,
    /// A user with token and device in a room, acknowledging; keeps its resume token.
    Device,
}

/// What a herd answers, one line of JSON each.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Answer {
    /// Messages since the last reset.
    pub messages: u64,
    /// Bytes of the frames since the last reset.
    pub bytes: u64,
    /// Gaps told since the last reset.
    pub gaps: u64,
    /// Clients that came back to a session that was kept, since the last reset.
    pub home: u64,
    /// UDP packets that were sent in answer to [`Order::Acknowledge`].
    pub packets: u64,
    /// Latency, from just before `XADD` to the client, of a sample: the middle, in milliseconds.
    pub p50_ms: f64,
    /// The same: 99 of 100 are quicker.
    pub p99_ms: f64,
    /// What went wrong.
    pub error: Option<String>,
}

const WAKE: Token = Token(usize::MAX);

/// Runs the herd until standard input ends.
pub fn run(args: &HerdArgs) -> Result<()> {
    rlimit::increase_nofile_limit(u64::MAX)?;
    match args.transport {
        Transport::WebTransport => quic::run(&args.certificate),
        _ => over_tcp(args),
    }
}

fn over_tcp(args: &HerdArgs) -> Result<()> {
    let tls = match args.transport {
        Transport::Tls => Some(tls::trusting(&args.certificate)?),
        _ => None,
    };
    let mut poll = Poll::new()?;
    let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
    let orders = listen(move || waker.wake().is_ok());
    let mut flock = Flock::new(poll.registry().try_clone()?, args.transport, tls.map(Arc::new));
    let mut events = Events::with_capacity(4096);
    loop {
        if let Err(error) = poll.poll(&mut events, flock.patience())
            && error.kind() != std::io::ErrorKind::Interrupted
        {
            return Err(error.into());
        }
        for event in &events {
            if event.token() != WAKE {
                flock.on_ready(event.token().0);
            }
        }
        loop {
            match orders.try_recv() {
                Ok(Some(order)) => flock.obey(order),
                Ok(None) => return Ok(()),
                Err(_) => break,
            }
        }
        if let Some(answer) = flock.settle() {
            println!("{}", serde_json::to_string(&answer)?);
        }
    }
}

/// Reads orders on a thread of its own, which ends with standard input. After each it calls `wake`, which
/// says whether anybody listens.
fn listen(wake: impl Fn() -> bool + Send + 'static) -> Receiver<Option<Order>> {
    let (send, orders) = sync_channel(8);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(order) = line.map_err(drop).and_then(|line| serde_json::from_str(&line).map_err(drop))
            else {
                break;
            };
            if send.send(Some(order)).is_err() || !wake() {
                return;
            }
        }
        // The herd ends; if it is gone already nobody listens.
        let _ = send.send(None);
        wake();
    });
    orders
}

/// Nanoseconds since 1970, the clock that processes share.
pub fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}
