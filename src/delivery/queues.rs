//! Queues: work shared among the sessions that ask for it, here and on other nodes.
//!
//! One task takes work from the backbone's consumer groups, at most as much as sessions of this node have
//! room for, and deals it out among them in turn. What it took it keeps alive until a session is done with
//! it or gives it back. A node that dies is silent, and others take what it held.

use std::sync::Arc;
use std::time::Duration;

use indexmap::{IndexMap, IndexSet};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, timeout_at};
use tokio_util::sync::CancellationToken;

use super::batch::Channel;
use super::outlet::{Delivery, Outlet, ShardId};
use super::shaping::Shaper;
use super::view::{Audience, Subscriber};
use crate::backbone::wake::DirtySet;
use crate::backbone::{Backbone, Held};
use crate::domain::{NodeId, Offset, Publication, SessionId, StreamKey};
use crate::telemetry::{Metrics, events};

mod queue;
mod turn;

use queue::{Dealt, Phase, Queue};
use turn::{Opening, Turn, Turned};

/// A session at a queue. One that comes back on another connection is another worker of the same session:
/// what the earlier one still says about its place does not count any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WorkerId {
    /// The session.
    pub session: SessionId,
    /// Which of its connections.
    pub attach: u32,
}

/// An entry for one session to work on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// What it is about.
    pub message: Arc<Publication>,
    /// How often it was tried.
    pub attempts: u8,
    /// Somebody may have received it before.
    pub again: bool,
}

/// What a worker says to the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// It takes so many tasks more.
    Want(usize),
    /// A task is done.
    Done(Offset),
    /// A task goes back, to whoever is next.
    Return(Held),
    /// Its connection is gone, and nothing more is to be sent there; these it keeps.
    Pause(Vec<Held>),
    /// It ends; these go back.
    Leave(Vec<Held>),
    /// To plugins it is this from now on.
    Is(Arc<Subscriber>),
}

/// What a shard asks of the queues.
pub enum Request {
    /// A session works at a queue from now on; answered by [`Delivery::QueueOpened`]. Tasks come as far
    /// as it [wants](Word::Want) them.
    Join {
        /// The queue.
        channel: Arc<Channel>,
        /// Who.
        worker: WorkerId,
        /// Where it sits.
        shard: ShardId,
        /// What it is to plugins.
        subscriber: Arc<Subscriber>,
        /// Attempts that a task has.
        attempts: u8,
    },
    /// A worker says something.
    Tell {
        /// The queue.
        stream: StreamKey,
        /// Who.
        worker: WorkerId,
        /// What.
        word: Word,
    },
}

/// The way to the queues, for shards. Bounded.
pub type QueuesHandle = mpsc::Sender<Request>;

/// Knobs of the queues.
#[derive(Debug, Clone, Copy)]
pub struct QueueOptions {
    /// How long another node waits for one that is silent, until it takes what that one holds. A third of
    /// it is how often this node says that it still works, and half how often it looks for what others
    /// left behind, or for what no wake-up told.
    pub lease: Duration,
    /// How long a queue that nobody works at stays watched.
    pub linger: Duration,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self { lease: Duration::from_secs(30), linger: Duration::from_secs(60) }
    }
}

/// The name of the consumer group that nodes share.
const GROUP: &str = "tidegate";
/// How often blocked shards are tried again.
const TICK: Duration = Duration::from_millis(20);
/// Dead letters a node writes in a second; more wait, for nothing of a queue is dropped.
const DEAD_LETTERS_A_SECOND: usize = 200;
/// How long the last words to the backbone may take when the node ends.
const GOODBYE: Duration = Duration::from_secs(3);

/// What the queues are connected with.
pub struct QueueLinks {
    /// Where the work is.
    pub backbone: Arc<dyn Backbone>,
    /// Where the backbone marks what to read.
    pub dirty: Arc<DirtySet>,
    /// What they count.
    pub metrics: Metrics,
    /// What plugins make of tasks.
    pub shaper: Arc<Shaper>,
    /// Who gets tasks, by shard number.
    pub shards: Vec<mpsc::Sender<Delivery>>,
}

/// The state, owned by one task.
pub struct Queues {
    backbone: Arc<dyn Backbone>,
    node: NodeId,
    /// Where the backbone marks; marks of queues are diverted to `marks`.
    dirty: Arc<DirtySet>,
    marks: Arc<DirtySet>,
    metrics: Metrics,
    shaper: Arc<Shaper>,
    options: QueueOptions,
    queues: IndexMap<StreamKey, Queue>,
    outlets: Vec<Outlet>,
    side: JoinSet<Done>,
    /// Dead letters that may still be written in this second.
    letters: usize,
}

/// What a task on the side brought back.
enum Done {
    Opened(Opening),
    Turned(StreamKey, Box<Turned>),
    Shaped(StreamKey, Vec<Shown>),
    Unwatched(StreamKey),
}

/// A task that was dealt out, as its worker is to see it.
struct Shown {
    dealt: Dealt,
    sight: Sight,
}

/// What a worker sees of a task.
enum Sight {
    Message(Arc<Publication>),
    /// Its plugin lets nobody see it.
    Nothing,
    /// It is not known, for the node ends.
    Unknown,
}

impl Queues {
    /// Starts them, for this node. They end when `cancel` fires or every handle is gone, and give back what the node
    /// still holds; the join handle waits for that.
    pub fn spawn(
        links: QueueLinks,
        node: NodeId,
        options: QueueOptions,
        cancel: CancellationToken,
    ) -> (QueuesHandle, JoinHandle<()>) {
        let QueueLinks { backbone, dirty, metrics, shaper, shards } = links;
        let (handle, requests) = mpsc::channel(4096);
        let queues = Self {
            backbone,
            node,
            dirty,
            marks: Arc::default(),
            metrics,
            shaper,
            options,
            queues: IndexMap::new(),
            outlets: shards.into_iter().map(Outlet::new).collect(),
            side: JoinSet::new(),
            letters: DEAD_LETTERS_A_SECOND,
        };
        (handle, tokio::spawn(queues.run(requests, cancel)))
    }

    async fn run(mut self, mut requests: mpsc::Receiver<Request>, cancel: CancellationToken) {
        let mut asked = Vec::new();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut second = tokio::time::interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let marks = self.marks.clone();
        // Those to go on with, so that many requests make one turn.
        let mut touched = IndexSet::new();
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                got = requests.recv_many(&mut asked, 256) => {
                    if got == 0 {
                        break;
                    }
                    touched.extend(asked.drain(..).map(|request| self.on_request(request)));
                }
                Some(done) = self.side.join_next() => match done {
                    Ok(done) => touched.extend(self.on_done(done)),
                    Err(error) => {
                        tracing::error!(%error, "a task of the queues failed");
                        self.queues.values_mut().for_each(|queue| queue.task_failed(error.id()));
                    }
                },
                () = marks.marked() => touched.extend(self.on_marks()),
                _ = tick.tick() => touched.extend(self.on_tick()),
                _ = second.tick() => touched.extend(self.on_second()),
            }
            for stream in touched.drain(..) {
                self.go_on(&stream);
            }
        }
        self.end(requests).await;
    }

    /// Takes a request; the queue that it is about.
    fn on_request(&mut self, request: Request) -> StreamKey {
        match request {
            Request::Join { channel, worker, shard, subscriber, attempts } => {
                let stream = channel.view.stream.clone();
                if !self.queues.contains_key(&stream) {
                    self.open(&stream);
                }
                let queue =
                    self.queues.entry(stream.clone()).or_insert_with(|| Queue::new(channel, attempts));
                queue.join(worker, shard, subscriber, attempts);
                if let Phase::Open(epoch) = queue.phase {
                    let channel = Ok((queue.channel.clone(), epoch));
                    let stream = stream.clone();
                    self.outlets[usize::from(shard.0)].answer(Delivery::QueueOpened {
                        stream,
                        worker,
                        channel,
                    });
                }
                stream
            }
            Request::Tell { stream, worker, word } => {
                if let Some(queue) = self.queues.get_mut(&stream) {
                    queue.told(worker, word);
                }
                stream
            }
        }
    }

    fn open(&mut self, stream: &StreamKey) {
        // Before it is watched, or its first mark went to the feed, which does not know it.
        self.dirty.divert(stream.clone(), self.marks.clone());
        let opening = turn::open(self.backbone.clone(), self.metrics.clone(), stream.clone());
        self.side.spawn(async { Done::Opened(opening.await) });
    }

    fn on_done(&mut self, done: Done) -> Option<StreamKey> {
        match done {
            Done::Opened((stream, Ok(epoch))) => {
                let queue = self.queues.get_mut(&stream)?;
                queue.phase = Phase::Open(epoch);
                queue.marked = true;
                for (worker, shard) in queue.workers() {
                    let (stream, channel) = (stream.clone(), Ok((queue.channel.clone(), epoch)));
                    self.outlets[usize::from(shard.0)].answer(Delivery::QueueOpened {
                        stream,
                        worker,
                        channel,
                    });
                }
                Some(stream)
            }
            Done::Opened((stream, Err(error))) => {
                events::backbone_error(self.metrics.node(), (&error).into(), "open a queue", &error);
                let queue = self.queues.get_mut(&stream)?;
                for (worker, shard) in queue.workers() {
                    let (stream, channel) = (stream.clone(), Err(error.clone()));
                    self.outlets[usize::from(shard.0)].answer(Delivery::QueueOpened {
                        stream,
                        worker,
                        channel,
                    });
                }
                queue.dismiss();
                self.close(&stream);
                None
            }
            Done::Turned(stream, turned) => {
                let clock_ms = self.backbone.clock().now_ms();
                let queue = self.queues.get_mut(&stream)?;
                for error in turned.error.iter().chain(&turned.unburied) {
                    let why = format!("{stream}: {error}");
                    events::backbone_error(self.metrics.node(), error.into(), "work on a queue", &why);
                }
                for (worker, shard, offset) in queue.turned(*turned, clock_ms, Instant::now()) {
                    let stream = stream.clone();
                    self.outlets[usize::from(shard.0)].answer(Delivery::TaskLost { stream, worker, offset });
                }
                Some(stream)
            }
            Done::Shaped(stream, shown) => {
                self.on_shaped(&stream, shown)?;
                Some(stream)
            }
            Done::Unwatched(stream) => {
                let wanted = self.queues.get(&stream).is_some_and(|queue| !queue.is_idle());
                if wanted {
                    self.queues.get_mut(&stream)?.phase = Phase::Opening;
                    self.open(&stream);
                } else {
                    self.queues.swap_remove(&stream);
                }
                None
            }
        }
    }

    /// Hands on tasks as plugins made them.
    fn on_shaped(&mut self, stream: &StreamKey, shown: Vec<Shown>) -> Option<()> {
        let queue = self.queues.get_mut(stream)?;
        queue.shaped();
        for Shown { dealt, sight } in shown {
            let message = match sight {
                Sight::Message(message) => message,
                Sight::Nothing => {
                    queue.not_shown(&dealt);
                    continue;
                }
                Sight::Unknown => {
                    queue.undealt(&dealt);
                    continue;
                }
            };
            let Dealt { worker, shard, task, .. } = dealt;
            let (stream, task) = (stream.clone(), Task { message, ..task });
            self.outlets[usize::from(shard.0)].answer(Delivery::Task { stream, worker, task });
        }
        Some(())
    }

    fn on_marks(&mut self) -> Vec<StreamKey> {
        let mut marked = self.marks.take(usize::MAX);
        marked.retain(|stream| self.queues.get_mut(stream).is_some_and(Queue::mark));
        marked
    }

    /// Tries shards again that were full; those whose work waited for them go on.
    fn on_tick(&mut self) -> Vec<StreamKey> {
        let mut freed = false;
        for outlet in self.outlets.iter_mut().filter(|outlet| outlet.is_blocked()) {
            outlet.pump();
            freed |= !outlet.is_blocked();
        }
        let waiting = self.queues.iter().filter(|(_, queue)| freed && queue.has_ready());
        waiting.map(|(stream, _)| stream.clone()).collect()
    }

    /// Every second: what is due is done, and queues that nobody works at are left.
    fn on_second(&mut self) -> Vec<StreamKey> {
        self.letters = DEAD_LETTERS_A_SECOND;
        let now = Instant::now();
        let linger = self.options.linger;
        let over = self
            .queues
            .iter_mut()
            .filter_map(|(stream, queue)| queue.is_over(now, linger).then(|| stream.clone()));
        for stream in over.collect::<Vec<_>>() {
            self.close(&stream);
        }
        let due = self.queues.iter().filter(|(_, queue)| queue.is_due());
        due.map(|(stream, _)| stream.clone()).collect()
    }

    fn close(&mut self, stream: &StreamKey) {
        let Some(queue) = self.queues.get_mut(stream) else { return };
        queue.phase = Phase::Closing;
        let (backbone, dirty, stream) = (self.backbone.clone(), self.dirty.clone(), stream.clone());
        self.side.spawn(async move {
            backbone.unwatch(std::slice::from_ref(&stream)).await;
            dirty.restore(&stream);
            Done::Unwatched(stream)
        });
    }

    /// Deals out what there is, and starts the queue's next turn where there is something to do.
    fn go_on(&mut self, stream: &StreamKey) {
        let Some(queue) = self.queues.get_mut(stream) else { return };
        let outlets = &mut self.outlets;
        let mut shaped = Vec::new();
        while let Some(dealt) = queue.deal(|shard| !outlets[usize::from(shard.0)].is_blocked()) {
            // Once one has to be shaped the others come after it.
            if !shaped.is_empty() || !self.shaper.passes(&queue.channel.tenant, &[dealt.item()]) {
                shaped.push(dealt);
                continue;
            }
            let Dealt { worker, shard, task, .. } = dealt;
            let stream = stream.clone();
            outlets[usize::from(shard.0)].answer(Delivery::Task { stream, worker, task });
        }
        if !shaped.is_empty() {
            let shaping = shape(self.shaper.clone(), queue.channel.clone(), shaped);
            queue.set_shaping(self.side.spawn(shaping).id());
        }
        let Some(plan) = queue.plan(Instant::now(), self.options.lease, self.letters) else { return };
        self.letters -= plan.letters.len();
        let turn =
            Turn::new(self.backbone.clone(), queue.group.clone(), self.node.as_str(), self.options.lease);
        let stream = stream.clone();
        let id = self.side.spawn(async move { Done::Turned(stream, Box::new(turn.run(plan).await)) }).id();
        queue.set_busy(id);
    }

    /// The node ends: what is done is said to be done, and the rest given back.
    async fn end(mut self, mut requests: mpsc::Receiver<Request>) {
        requests.close();
        while let Ok(request) = requests.try_recv() {
            self.on_request(request);
        }
        let until = Instant::now() + GOODBYE;
        self.queues.values_mut().for_each(Queue::dismiss);
        // First the turns under way, so that none takes something after it was given back.
        while self.queues.values().any(Queue::is_busy) {
            match timeout_at(until, self.side.join_next()).await {
                Ok(Some(Ok(done))) => {
                    self.on_done(done);
                }
                Ok(Some(Err(_))) => {}
                Ok(None) | Err(_) => break,
            }
        }
        let mut last = JoinSet::new();
        for queue in self.queues.values_mut() {
            if let Some(plan) = queue.last_plan() {
                let (backbone, node) = (self.backbone.clone(), self.node.as_str());
                last.spawn(Turn::new(backbone, queue.group.clone(), node, self.options.lease).run(plan));
            }
        }
        while let Ok(Some(_)) = timeout_at(until, last.join_next()).await {}
    }
}

/// Shows tasks that were dealt out to plugins.
async fn shape(shaper: Arc<Shaper>, channel: Arc<Channel>, tasks: Vec<Dealt>) -> Done {
    let mut shown = Vec::with_capacity(tasks.len());
    for dealt in tasks {
        let audience = Audience::Session(dealt.subscriber.clone());
        let items = shaper.shape(&channel, &audience, &[dealt.item()]).await;
        let sight = match items.map(|mut items| items.pop().and_then(|item| item.message)) {
            Some(Some(message)) => Sight::Message(message),
            Some(None) => Sight::Nothing,
            None => Sight::Unknown,
        };
        shown.push(Shown { dealt, sight });
    }
    Done::Shaped(channel.view.stream.clone(), shown)
}

#[cfg(test)]
mod tests;
