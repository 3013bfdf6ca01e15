//! Shards: one thread a core, each with its own listener, that runs sessions and writes sockets.
//!
//! *Invariant*: what a shard owns is touched by its thread alone. The feed, the directory and the
//! gateway reach it through bounded queues; guest code never runs here.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::LocalSet;
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::publish::Publishing;
use crate::backbone::Backbone;
use crate::delivery::{Delivery, FeedHandle, Request, ShardId, Upstream};
use crate::directory::{Directory, Order};
use crate::domain::NodeId;
use crate::router::ResumeTokens;
use crate::session::Session;
use crate::telemetry::Metrics;
use crate::tenants::Tenants;
use crate::transport::listener;

mod connect;
mod errands;
pub mod gate;
mod http;
mod hub;
mod perform;
mod seat;
mod state;

use errands::DEAD_LETTERS_A_SECOND;
use gate::Gate;
use state::State;

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
    /// Who is where on this node.
    pub directory: Directory<Session>,
    /// What backends are told.
    pub upstream: Upstream,
    /// The tenants.
    pub tenants: Arc<Tenants>,
    /// Issues and verifies resume tokens.
    pub resume: ResumeTokens,
    /// HTTP publish.
    pub publishing: Publishing,
    /// Counters.
    pub metrics: Metrics,
    /// How many connections the node takes.
    pub gate: Gate,
    /// The page served at `/`, where there is one.
    pub page: Option<Bytes>,
}

/// What comes to a shard from outside.
pub struct Inlets {
    /// Clients.
    pub listener: std::net::TcpListener,
    /// What the feed sends.
    pub deliveries: mpsc::Receiver<Delivery>,
    /// What the directory asks.
    pub orders: mpsc::Receiver<Order<Session>>,
    /// Ends the shard: clients are told to go elsewhere, cursors are stored.
    pub drain: CancellationToken,
}

/// Starts a shard on a thread of its own, which ends after `drain`, with the number of tasks it had to
/// cut.
///
/// # Errors
/// When the thread or its runtime cannot be made.
pub fn spawn(env: Env, inlets: Inlets) -> io::Result<std::thread::JoinHandle<io::Result<usize>>> {
    std::thread::Builder::new().name(format!("shard-{}", env.id.0)).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // Dropped at the end with whatever the grace of the drain did not see through.
        let local = LocalSet::new();
        local.block_on(&runtime, Shard::run(env, inlets))
    })
}

/// How long a drain waits for goodbyes to be written.
const DRAIN: Duration = Duration::from_secs(3);

struct Shard {
    env: Env,
    state: RefCell<State>,
    /// One buffer for the reads of all sockets.
    buffer: RefCell<Vec<u8>>,
    asks: RefCell<VecDeque<Request>>,
    asked: Notify,
    store_now: Notify,
    requests: Cell<usize>,
    /// Dead letters written in the current second.
    buried: Cell<(u64, u32)>,
    tasks: TaskTracker,
}

impl Shard {
    async fn run(env: Env, inlets: Inlets) -> io::Result<usize> {
        let Inlets { listener, mut deliveries, mut orders, drain } = inlets;
        let listener = TcpListener::from_std(listener)?;
        let shard = Rc::new(Self {
            state: RefCell::new(State::new(
                env.id,
                env.backbone.clock(),
                env.metrics.clone(),
                env.upstream.clone(),
            )),
            buffer: RefCell::new(vec![0; 64 * 1024]),
            asks: RefCell::default(),
            asked: Notify::new(),
            store_now: Notify::new(),
            requests: Cell::new(0),
            buried: Cell::new((0, 0)),
            tasks: TaskTracker::new(),
            env,
        });
        let accepting = tokio::task::spawn_local(shard.clone().accept(listener));
        let asking = tokio::task::spawn_local(shard.clone().keep_asking());
        let storing = tokio::task::spawn_local(shard.clone().keep_storing_cursors());

        let mut delivered = Vec::new();
        loop {
            // With nothing on the agenda the loop looks again after a while.
            let due =
                shard.state.borrow().next_time().unwrap_or_else(|| Instant::now() + Duration::from_secs(60));
            tokio::select! {
                () = drain.cancelled() => break,
                got = deliveries.recv_many(&mut delivered, 256) => {
                    if got == 0 {
                        break;
                    }
                    shard.with(|state| delivered.drain(..).for_each(|delivery| state.on_delivery(delivery)));
                }
                Some(order) = orders.recv() => shard.obey(order),
                () = sleep_until(due.into()) => shard.with(|state| state.on_time(Instant::now())),
            }
        }

        accepting.abort();
        storing.abort();
        shard.store_cursors().await;
        shard.with(State::drain);
        shard.tasks.close();
        // Connections that do not hang up in time are cut with the runtime.
        let _ = timeout(DRAIN, shard.tasks.wait()).await;
        asking.abort();
        Ok(shard.tasks.len())
    }

    /// Calls into the state, then writes what gathered and starts what has to wait.
    fn with<R>(self: &Rc<Self>, call: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.borrow_mut();
        let answer = call(&mut state);
        state.flush();
        let errands = std::mem::take(&mut state.errands);
        drop(state);
        errands.into_iter().for_each(|errand| self.start(errand));
        answer
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.tasks.spawn_local(task);
    }

    fn obey(self: &Rc<Self>, order: Order<Session>) {
        match order {
            Order::Detach { session, reason, to } => {
                let found = self.with(|state| state.detach(session, reason));
                if let Err(Some(session)) = to.send(found) {
                    // Whoever asked is gone: the session ends here.
                    let shard = self.clone();
                    self.spawn(async move { shard.retire(session).await });
                }
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

    async fn accept(self: Rc<Self>, listener: TcpListener) {
        loop {
            match listener::accept(&listener).await {
                Ok((stream, _)) => {
                    let permit = self.env.gate.enter();
                    self.spawn(self.clone().serve_http(stream, permit));
                }
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
    }

    /// Asks the feed, in order. The list is bounded by the sessions: each has few requests at a time.
    fn ask(&self, request: Request) {
        self.asks.borrow_mut().push_back(request);
        self.asked.notify_one();
    }

    async fn keep_asking(self: Rc<Self>) {
        loop {
            let next = self.asks.borrow_mut().pop_front();
            match next {
                Some(request) => {
                    if self.env.feed.send(request).await.is_err() {
                        return;
                    }
                }
                None => self.asked.notified().await,
            }
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
