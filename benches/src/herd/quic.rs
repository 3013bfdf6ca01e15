//! A herd over WebTransport: a task a client, all on one thread, many clients behind each UDP socket.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint, EndpointConfig, TokioRuntime, TransportConfig};
use socket2::{Domain, Socket, Type};
use tokio::sync::Notify;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, timeout_at};

use super::counts::Counts;
use super::flock::{AT_ONCE, OPENING};
use super::{Answer, Kind, Order, listen, tls};

mod client;

use client::Client;

/// Clients that share a UDP socket: what a node may have under way to them, 128 KiB each, fits into its
/// buffer, else a herd that is held up would look like a network that loses packets.
const A_SOCKET: usize = 25;

/// What the kernel may keep for a socket.
const BUFFER: usize = 4 << 20;

/// Longer than a node is silent.
const IDLE: Duration = Duration::from_secs(120);

/// Runs the herd until standard input ends.
pub fn run(certificate: &Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut crypto = tls::trusting(certificate)?;
    crypto.alpn_protocols = vec![b"h3".to_vec()];
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(crypto)?));
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(IDLE.try_into()?)).mtu_discovery_config(None);
    config.transport_config(Arc::new(transport));
    LocalSet::new().block_on(&runtime, serve(config))
}

async fn serve(config: ClientConfig) -> Result<()> {
    let ordered = Arc::new(Notify::new());
    let bell = ordered.clone();
    let orders = listen(move || {
        bell.notify_one();
        true
    });
    let mut flock = Flock {
        config,
        endpoints: Vec::new(),
        clients: Vec::new(),
        readers: JoinSet::new(),
        shared: Rc::default(),
    };
    loop {
        while let Ok(order) = orders.try_recv() {
            let Some(order) = order else { return Ok(()) };
            let answer = flock.obey(order).await;
            println!("{}", serde_json::to_string(&answer)?);
        }
        ordered.notified().await;
    }
}

/// All clients.
struct Flock {
    config: ClientConfig,
    endpoints: Vec<Endpoint>,
    clients: Vec<Rc<Client>>,
    readers: JoinSet<()>,
    shared: Rc<Shared>,
}

/// What clients tell their herd.
#[derive(Default)]
struct Shared {
    counts: RefCell<Counts>,
    /// Messages that the herd waits for.
    goal: RefCell<Option<u64>>,
    /// The goal is reached, or a client has failed.
    changed: Notify,
}

impl Flock {
    async fn obey(&mut self, order: Order) -> Answer {
        let failed = match order {
            Order::Open { address, count, kind } => self.open(address, count, kind).await,
            Order::Reopen => Err(anyhow::anyhow!("clients over WebTransport do not come back")),
            Order::Reset => {
                self.shared.counts.take();
                Ok(())
            }
            Order::Expect { messages, limit_ms } => {
                self.expect(messages, Duration::from_millis(limit_ms)).await;
                Ok(())
            }
            Order::Acknowledge { per_s, time_ms } => {
                self.acknowledge(per_s, Duration::from_millis(time_ms)).await
            }
        };
        let mut counts = self.shared.counts.borrow_mut();
        if let Err(error) = failed {
            counts.fail(format!("{error:#}"));
        }
        counts.answer()
    }

    /// Connects so many more clients, some at a time.
    async fn open(&mut self, address: SocketAddr, count: usize, kind: Kind) -> Result<()> {
        let deadline = Instant::now() + OPENING;
        let (first, mut next) = (self.clients.len(), self.clients.len());
        let mut opening = JoinSet::new();
        while self.clients.len() < first + count {
            while next < first + count && opening.len() < AT_ONCE {
                let (endpoint, config) = (self.endpoint(next)?, self.config.clone());
                let (shared, number) = (self.shared.clone(), next);
                opening.spawn_local(async move {
                    let opened = Client::open(&endpoint, config, address, kind, number, &shared).await;
                    opened.with_context(|| format!("client {number}"))
                });
                next += 1;
            }
            let opened = timeout_at(deadline, opening.join_next()).await;
            let opened = opened
                .context("not all clients were served in time")?
                .context("clients are opening")???;
            let (client, reader) = opened;
            let shared = self.shared.clone();
            self.readers.spawn_local(async move {
                if let Err(error) = reader.run(&shared).await {
                    shared.counts.borrow_mut().fail(format!("{error:#}"));
                    shared.changed.notify_one();
                }
            });
            self.clients.push(client);
        }
        Ok(())
    }

    /// The socket of a client.
    fn endpoint(&mut self, number: usize) -> Result<Endpoint> {
        let at = number / A_SOCKET;
        if at == self.endpoints.len() {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
            socket.set_recv_buffer_size(BUFFER)?;
            let source = Ipv4Addr::new(127, 0, 0, 1 + (at % 8) as u8);
            socket.bind(&SocketAddr::from((source, 0)).into())?;
            let (config, runtime) = (EndpointConfig::default(), Arc::new(TokioRuntime));
            self.endpoints.push(Endpoint::new(config, None, socket.into(), runtime)?);
        }
        self.endpoints.get(at).cloned().context("clients are numbered in order")
    }

    async fn expect(&self, messages: u64, limit: Duration) {
        let deadline = Instant::now() + limit;
        self.shared.goal.replace(Some(messages));
        while !self.shared.is_reached() {
            if timeout_at(deadline, self.shared.changed.notified()).await.is_err() {
                break;
            }
        }
        self.shared.goal.replace(None);
    }

    /// Sends acknowledgements at a steady rate.
    async fn acknowledge(&self, per_s: u64, time: Duration) -> Result<()> {
        let packets = || self.clients.iter().map(|client| client.packets()).sum::<u64>();
        let (start, before, mut sent) = (Instant::now(), packets(), 0);
        let mut clients = self.clients.iter().cycle();
        while start.elapsed() < time {
            let due = (start.elapsed().as_secs_f64() * per_s as f64) as u64;
            // No more at once than there are clients: what a connection has to say goes in one packet.
            let until = due.min(sent + self.clients.len() as u64);
            for client in clients.by_ref().take((until - sent) as usize) {
                client.acknowledge_again().await?;
            }
            if sent == until {
                tokio::time::sleep(Duration::from_millis(1)).await;
            } else {
                // The connections send what they have been given.
                tokio::task::yield_now().await;
            }
            sent = until;
        }
        self.shared.counts.borrow_mut().sent(packets() - before);
        Ok(())
    }
}

impl Shared {
    fn is_reached(&self) -> bool {
        let counts = self.counts.borrow();
        counts.is_failed() || self.goal.borrow().is_none_or(|goal| counts.messages() >= goal)
    }

    /// Wakes the herd if it waits no longer.
    fn seen(&self) {
        if self.goal.borrow().is_some() && self.is_reached() {
            self.changed.notify_one();
        }
    }
}
