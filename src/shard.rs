//! Shards: one thread a core, each with its own listener, that runs sessions and writes sockets.
//!
//! *Invariant*: what a shard owns is touched by its thread alone. The feed, the directory and the
//! gateway reach it through bounded queues; guest code never runs here.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::LocalSet;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::drain::Drain;
use crate::api::publish::Publishing;
use crate::api::route::Route;
use crate::api::tickets::Tickets;
use crate::backbone::Backbone;
use crate::delivery::queues::{self, QueuesHandle};
use crate::delivery::{Delivery, FeedHandle, Request, Shaper, ShardId, Upstream};
use crate::directory::{Directory, Order};
use crate::domain::{CloseReason, NodeId};
use crate::plugin::{NewsDesk, Plugins};
use crate::router::ResumeTokens;
use crate::session::Session;
use crate::telemetry::{Metrics, events};
use crate::tenants::Tenants;
use crate::transport::listener;
use crate::transport::quic::Incoming;

mod admit;
mod asking;
mod connect;
mod cursors;
mod drain;
mod errands;
pub mod gate;
mod http;
mod hub;
mod line;
mod perform;
mod quic;
mod refuse;
mod requests;
mod seat;
mod state;
mod turns;
pub mod waiting;

use errands::DEAD_LETTERS_A_SECOND;
use gate::Gate;
use line::Line;
use state::State;
use waiting::{Detached, Waiting};

/// What a shard needs of the node.
#[derive(Clone)]
pub struct Env {
    /// Its number.
    pub id: ShardId,
    /// The node.
    pub node: NodeId,
    /// Streams and cursors.
    pub backbone: Arc<dyn Backbone>,
    /// New entries and pages.
    pub feed: FeedHandle,
    /// Work to be shared.
    pub queues: QueuesHandle,
    /// Who is where on this node.
    pub directory: Directory<Session>,
    /// What backends are told.
    pub upstream: Upstream,
    /// Hooks of tenants.
    pub plugins: Plugins,
    /// Where plugins are told of sessions.
    pub news: NewsDesk,
    /// What plugins make of messages.
    pub shaper: Arc<Shaper>,
    /// The tenants.
    pub tenants: Arc<Tenants>,
    /// Issues and verifies resume tokens.
    pub resume: ResumeTokens,
    /// Issues and redeems tickets.
    pub tickets: Tickets,
    /// What clients are told of this node.
    pub route: Route,
    /// TLS of the public port, where it has it.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// HTTP publish.
    pub publishing: Publishing,
    /// Counters.
    pub metrics: Metrics,
    /// Which connections the node takes.
    pub gate: Gate,
    /// How long the head of a request may take, and the pause between two.
    pub header_timeout: Duration,
    /// How many sessions without a connection the node keeps.
    pub detached: Detached,
    /// The node's end.
    pub drain: Drain,
    /// The page served at `/`, where there is one.
    pub page: Option<Page>,
}

/// A page to try the node with.
#[derive(Clone)]
pub struct Page {
    /// The page.
    pub html: Bytes,
    /// The client that it uses.
    pub script: &'static str,
}

/// What comes to a shard from outside.
pub struct Inlets {
    /// Clients.
    pub listener: std::net::TcpListener,
    /// Clients over QUIC: nobody sends them where the node does not speak it.
    pub incoming: mpsc::Receiver<Incoming>,
    /// What the feed sends.
    pub deliveries: mpsc::Receiver<Delivery>,
    /// What the directory asks.
    pub orders: mpsc::Receiver<Order<Session>>,
}

/// Starts a shard on a thread of its own, which ends with the drain. What it had to cut it has reported
/// there.
///
/// # Errors
/// When the thread or its runtime cannot be made.
pub fn spawn(env: Env, inlets: Inlets) -> io::Result<std::thread::JoinHandle<io::Result<()>>> {
    std::thread::Builder::new().name(format!("shard-{}", env.id.0)).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // Dropped at the end with whatever the drain did not see through.
        let local = LocalSet::new();
        local.block_on(&runtime, Shard::run(env, inlets))
    })
}

struct Shard {
    env: Env,
    state: RefCell<State>,
    /// One buffer for the reads of all sockets.
    buffer: RefCell<Vec<u8>>,
    asks: Line<Request>,
    tells: Line<queues::Request>,
    store_now: Notify,
    /// When the shard looks at its agenda next, and what tells it to look earlier.
    wakes: Cell<Option<Instant>>,
    sooner: Notify,
    requests: Cell<usize>,
    /// Dead letters written in the current second.
    buried: Cell<(u64, u32)>,
    /// Cancelled after the last goodbye: no more connections, no more requests.
    closing: CancellationToken,
    tasks: TaskTracker,
}

impl Shard {
    async fn run(env: Env, inlets: Inlets) -> io::Result<()> {
        let Inlets { listener, incoming, deliveries, orders } = inlets;
        let listener = TcpListener::from_std(listener)?;
        let waiting = Waiting::new(env.detached.clone());
        let shard = Rc::new(Self {
            state: RefCell::new(State::new(
                env.id,
                env.backbone.clock(),
                env.metrics.clone(),
                env.upstream.clone(),
                env.plugins.clone(),
                waiting,
            )),
            buffer: RefCell::new(vec![0; 64 * 1024]),
            asks: Line::default(),
            tells: Line::default(),
            store_now: Notify::new(),
            wakes: Cell::new(None),
            sooner: Notify::new(),
            requests: Cell::new(0),
            buried: Cell::new((0, 0)),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
            env,
        });
        shard.spawn(shard.clone().accept(listener));
        shard.spawn(shard.clone().accept_quic(incoming));
        let talking = tokio::task::spawn_local(shard.clone().keep_talking());
        let storing = tokio::task::spawn_local(shard.clone().keep_storing_cursors());
        tokio::select! {
            () = shard.attend(deliveries, orders) => {}
            () = shard.clone().leave(storing) => {}
        }
        talking.abort();
        Ok(())
    }

    /// Attends to what comes from outside and to time. A node whose feed is gone sends its clients away.
    async fn attend(
        self: &Rc<Self>,
        mut deliveries: mpsc::Receiver<Delivery>,
        mut orders: mpsc::Receiver<Order<Session>>,
    ) {
        let mut delivered = Vec::new();
        loop {
            // With nothing on the agenda the loop looks again after a while.
            let due =
                self.state.borrow().next_time().unwrap_or_else(|| Instant::now() + Duration::from_secs(60));
            self.wakes.set(Some(due));
            tokio::select! {
                () = self.sooner.notified() => {}
                got = deliveries.recv_many(&mut delivered, 256) => {
                    if got == 0 {
                        tracing::error!("the feed is gone, and nothing can be delivered: this node drains");
                        self.env.drain.ask();
                        return std::future::pending().await;
                    }
                    self.with(|state| delivered.drain(..).for_each(|delivery| state.on_delivery(delivery)));
                }
                Some(order) = orders.recv() => self.obey(order),
                () = sleep_until(due.into()) => self.with(|state| state.on_time(Instant::now())),
            }
        }
    }

    /// Calls into the state, then writes what gathered and starts what has to wait.
    fn with<R>(self: &Rc<Self>, call: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.borrow_mut();
        let answer = call(&mut state);
        state.flush();
        let errands = std::mem::take(&mut state.errands);
        // A connection's task may have put something on the agenda that comes before all there was.
        if state.next_time().is_some_and(|due| self.wakes.get().is_some_and(|wakes| due < wakes)) {
            self.wakes.set(None);
            self.sooner.notify_one();
        }
        drop(state);
        errands.into_iter().for_each(|errand| self.start(errand));
        answer
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.tasks.spawn_local(task);
    }

    fn obey(self: &Rc<Self>, order: Order<Session>) {
        match order {
            Order::Detach { session, wanted, reason, to } => {
                let found = self.with(|state| {
                    let at = state.find(session)?;
                    wanted(&state.seats[at].session).then(|| state.detach(at, reason))
                });
                if let Err(Some(session)) = to.send(found) {
                    // Whoever asked is gone: the session ends here.
                    let shard = self.clone();
                    self.spawn(async move { shard.retire(session, CloseReason::Replaced).await });
                }
            }
            Order::Say { session, wanted, frames, to } => {
                let said = self.with(|state| state.say(session, wanted, frames));
                // Nobody may wait for the answer any more; the frames are taken all the same.
                let _ = to.send(said);
            }
            Order::Close { session, reason, message } => self.with(|state| {
                if let Some(at) = state.find(session) {
                    state.close(
                        at,
                        reason,
                        message.as_deref().unwrap_or("the session was ended by the node"),
                    );
                }
            }),
        }
    }

    /// Takes connections until the last goodbye of a drain is said.
    async fn accept(self: Rc<Self>, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener::accept(&listener) => accepted,
                () = self.closing.cancelled() => break,
            };
            match accepted {
                Ok((stream, peer)) => self.take(stream, peer),
                Err(error) => match error.retry_after() {
                    Some(pause) => {
                        tracing::debug!(%error, "accepting failed");
                        tokio::time::sleep(pause).await;
                    }
                    None => {
                        tracing::error!(%error, "this shard takes no more connections");
                        return;
                    }
                },
            }
        }
        listener::accept_rest(listener).into_iter().for_each(|(stream, peer)| self.take(stream, peer));
    }

    /// Serves a connection, or tells it to come again, where that is not too much too.
    fn take(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr) {
        match self.env.gate.enter(peer.ip(), Instant::now()) {
            Ok(permit) => self.spawn(self.clone().serve_http(stream, permit)),
            Err(refused) => {
                let told = self.env.gate.tell();
                let why = if told.is_some() { "it is told to come again" } else { "it is closed" };
                events::handshake_refused(self.env.metrics.node(), refused.reason, peer.ip(), &why);
                if let Some(telling) = told {
                    self.spawn(refuse::turn_away(stream, self.env.tls.clone(), refused, telling));
                }
            }
        }
    }

    /// Hands on what the state asks of the feed and tells the queues, in order.
    async fn keep_talking(self: Rc<Self>) {
        tokio::join!(
            self.asks.forward(&self.env.feed),
            self.tells.forward(&self.env.queues),
            self.keep_regrouping()
        );
    }

    /// Follows the tenants' plugins with the views that sessions take part in.
    async fn keep_regrouping(self: &Rc<Self>) {
        let mut tables = self.env.plugins.tables.clone();
        while tables.changed().await {
            self.with(State::regroup);
        }
    }

    /// Whether one more dead letter may be written in this second.
    fn may_bury(&self) -> bool {
        let second = self.env.backbone.clock().now_ms() / 1000;
        let (since, count) = self.buried.get();
        let count = if since == second { count + 1 } else { 1 };
        self.buried.set((second, count));
        count <= DEAD_LETTERS_A_SECOND
    }
}
