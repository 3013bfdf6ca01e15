//! One worker: its instances, and what it has under way.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::sleep;

use super::Shared;
use super::job::{Ask, Batch, Job, Step, Trial};
use crate::plugin::answers::DeliverVerdict;
use crate::plugin::engine::{Running as Ticking, TICK, Wakeful};
use crate::plugin::host::Plugin;
use crate::plugin::imports::Way;
use crate::plugin::instance::Instance;
use crate::plugin::outcome::Failure;
use crate::plugin::prepare::Tried;
use crate::plugin::turns::Turns;

/// How long a call may wait for its turn.
const PATIENCE: Duration = Duration::from_secs(1);
/// An instance that nobody has called for so long is dropped.
const IDLE: Duration = Duration::from_secs(30);

/// Whose instances, and how they are linked.
type Key = (u64, Way);

pub(super) struct Bench<'w> {
    shared: &'w Arc<Shared>,
    wakeful: Wakeful,
    /// Held while guests run or may go on running.
    ticking: Option<Ticking>,
    idle: HashMap<Key, Vec<Idle>>,
    running: FuturesUnordered<Pin<Box<dyn Future<Output = Done>>>>,
    turns: Turns,
    /// Instances here, idle and busy.
    count: usize,
    /// At least two.
    most: usize,
    sweeps: u64,
    shortages: u64,
    swept: Instant,
}

struct Idle {
    plugin: Arc<Plugin>,
    instance: Instance,
    since: Instant,
}

/// What was under way and is over.
#[expect(clippy::large_enum_variant, reason = "a box would cost every call an allocation")]
enum Done {
    /// A free call.
    Call { plugin: Arc<Plugin>, instance: Option<Instance>, nanos: u64 },
    /// The wait of a batch for which the engine had no room.
    Wait(Batch),
}

/// What is left of a batch.
enum Rest {
    Nothing,
    /// It goes on when it is its turn again.
    Later(Batch),
    /// There is no instance for it.
    NoRoom(Batch),
}

impl<'w> Bench<'w> {
    pub(super) fn new(shared: &'w Arc<Shared>, wakeful: Wakeful, most: usize) -> Self {
        let (idle, running, turns) = Default::default();
        let (ticking, swept) = (None, Instant::now());
        Self {
            shared,
            wakeful,
            ticking,
            idle,
            running,
            turns,
            count: 0,
            most,
            sweeps: 0,
            shortages: 0,
            swept,
        }
    }

    /// Works until the workers are stopped.
    pub(super) async fn run(mut self) {
        let shared = self.shared;
        while !shared.stopping.load(Ordering::SeqCst) {
            self.sweep();
            let wake = shared.wake.notified();
            // Calls that wait leave an instance to batches, which would wait as long otherwise.
            let has_room = self.running.len() + 1 < self.most;
            match shared.pop(|job| has_room || matches!(job, Job::Batch(_))) {
                Some(job) => self.begin(job),
                None if self.running.is_empty() => {
                    self.ticking = None;
                    tokio::select! {
                        () = wake => {}
                        () = sleep(IDLE), if self.count > 0 => {}
                    }
                }
                None => {
                    tokio::select! {
                        biased;
                        Some(done) = self.running.next() => self.finish(done),
                        () = wake, if has_room => {}
                        () = shared.batches.notified(), if !has_room => {}
                    }
                }
            }
            // Calls under way have their turn after each job, and so have timers.
            while let Some(Some(done)) = self.running.next().now_or_never() {
                self.finish(done);
            }
            tokio::task::yield_now().await;
        }
        let instances = i64::try_from(self.count).unwrap_or(i64::MAX);
        self.shared.metrics.node().plugin_instances.add(-instances);
    }

    fn begin(&mut self, job: Job) {
        if self.ticking.is_none() {
            self.ticking = Some(self.wakeful.run());
        }
        let plugin = Arc::clone(job.plugin());
        if plugin.is_retired() {
            job.fail(Failure::Unavailable);
            return self.shared.done(&plugin, 0, None);
        }
        match job {
            Job::Call(plugin, call) => self.begin_call(plugin, call),
            Job::Batch(batch) => self.run_batch(batch),
            Job::Trial(trial) => self.begin_trial(trial),
        }
    }

    fn begin_call(&mut self, plugin: Arc<Plugin>, call: Box<dyn Ask>) {
        let refused = if call.is_moot() || call.since().elapsed() > PATIENCE {
            Some(Failure::Overloaded)
        } else if !plugin.lets_through() {
            Some(Failure::CutOff)
        } else {
            None
        };
        if let Some(failure) = refused {
            call.fail(&plugin, failure);
            return self.shared.done(&plugin, 0, None);
        }
        let idle = self.take((plugin.key, Way::Free));
        if idle.is_none() {
            self.make_room();
        }
        let (shared, turns) = (Arc::clone(self.shared), self.turns.clone());
        self.running.push(Box::pin(timed(plugin, move |plugin| async move {
            let instance = match idle {
                Some(instance) => Ok(instance),
                None => start(&shared, &plugin, &turns).await,
            };
            match instance {
                Ok(instance) => call.run(plugin, instance, turns).await,
                Err(failure) => {
                    call.fail(&plugin, failure);
                    None
                }
            }
        })));
    }

    fn begin_trial(&mut self, trial: Trial) {
        self.make_room();
        let (shared, turns) = (Arc::clone(self.shared), self.turns.clone());
        let Trial { plugin, reply } = trial;
        self.running.push(Box::pin(timed(plugin, move |plugin| async move {
            let began = Instant::now();
            let started = start(&shared, &plugin, &turns).await;
            let tried = started.map(|mut instance| Tried {
                misfit: plugin.prepared.hooks.iter().find(|hook| !instance.fits(*hook)),
                memory_bytes: instance.memory_bytes(),
                start: began.elapsed(),
            });
            // Whoever waited is gone.
            let _ = reply.send(tried);
            None
        })));
    }

    /// Runs a slice of a batch.
    fn run_batch(&mut self, batch: Batch) {
        let (plugin, began) = (Arc::clone(&batch.plugin), Instant::now());
        let rest = self.slice(&plugin, batch, began);
        let turn = began.elapsed();
        self.turns.add(turn);
        let rest = match rest {
            Rest::Nothing => None,
            Rest::Later(batch) => Some(Job::Batch(batch)),
            Rest::NoRoom(batch) => {
                self.shared.tell_shortage();
                return self.running.push(Box::pin(async move {
                    sleep(TICK).await;
                    Done::Wait(batch)
                }));
            }
        };
        self.shared.done(&plugin, nanos(turn), rest);
    }

    /// What is left of a batch after its slice, or after an instance that is to be used no more.
    fn slice(&mut self, plugin: &Arc<Plugin>, mut batch: Batch, began: Instant) -> Rest {
        if batch.is_moot() {
            return Rest::Nothing;
        }
        if !batch.admit() {
            batch.answer();
            return Rest::Nothing;
        }
        let key = (plugin.key, Way::Pure);
        let mut instance = match self.take_pure(key, plugin) {
            Ok(instance) => instance,
            Err(Failure::Overloaded) => return Rest::NoRoom(batch),
            Err(failure) if failure.is_plugins() => {
                // Each start may cost its whole deadline: one for each message, as traps do.
                batch.fail_next(failure);
                return Rest::Later(batch);
            }
            Err(failure) => {
                batch.fail_rest(failure);
                return Rest::Nothing;
            }
        };
        match batch.step(&mut instance, began) {
            Step::Done => {
                self.put_pure(key, plugin, instance, batch.answers.last());
                batch.answer();
                Rest::Nothing
            }
            Step::Later => {
                self.put_pure(key, plugin, instance, None);
                Rest::Later(batch)
            }
            Step::Fresh => {
                self.drop_one();
                Rest::Later(batch)
            }
        }
    }

    fn take_pure(&mut self, key: Key, plugin: &Arc<Plugin>) -> Result<Instance, Failure> {
        if let Some(instance) = self.take(key) {
            return Ok(instance);
        }
        self.make_room();
        let deadline = plugin.start_deadline();
        let started = Instance::start_pure(plugin.prepared.blueprint.as_ref(), &plugin.environment, deadline);
        if started.is_err() {
            self.drop_one();
        }
        started
    }

    /// Keeps an instance after a batch, unless its last call has spoiled it.
    fn put_pure(
        &mut self,
        key: Key,
        plugin: &Arc<Plugin>,
        instance: Instance,
        last: Option<&Result<DeliverVerdict, Failure>>,
    ) {
        let spoiled = last.is_some_and(|last| !crate::plugin::instance::is_reusable(last));
        if spoiled || instance.calls() >= plugin.limits.instance_calls {
            self.drop_one();
        } else {
            self.put(key, Arc::clone(plugin), instance);
        }
    }

    fn finish(&mut self, done: Done) {
        let (plugin, instance, nanos) = match done {
            Done::Call { plugin, instance, nanos } => (plugin, instance, nanos),
            Done::Wait(batch) => {
                let plugin = Arc::clone(&batch.plugin);
                return self.shared.done(&plugin, 0, Some(Job::Batch(batch)));
            }
        };
        match instance {
            Some(instance) if instance.calls() < plugin.limits.instance_calls && !plugin.is_retired() => {
                self.put((plugin.key, Way::Free), Arc::clone(&plugin), instance);
            }
            _ => self.drop_one(),
        }
        self.shared.done(&plugin, nanos, None);
    }

    fn take(&mut self, key: Key) -> Option<Instance> {
        Some(self.idle.get_mut(&key)?.pop()?.instance)
    }

    fn put(&mut self, key: Key, plugin: Arc<Plugin>, instance: Instance) {
        plugin.put_by(instance.memory_bytes());
        self.idle.entry(key).or_default().push(Idle { plugin, instance, since: Instant::now() });
    }

    /// Counts one instance more; the one that was idle for longest goes if there are too many.
    fn make_room(&mut self) {
        if self.count >= self.most {
            self.drop_oldest();
        }
        self.count += 1;
        let node = self.shared.metrics.node();
        node.plugin_instances.inc();
        node.plugin_instances_made.inc();
    }

    fn drop_oldest(&mut self) {
        // The first of a list is the one that was put there first.
        let oldest = self
            .idle
            .iter()
            .filter_map(|(key, idle)| Some((idle.first()?.since, *key)))
            .min_by_key(|(since, _)| *since);
        let Some((_, key)) = oldest else { return };
        let idle = self.idle.get_mut(&key).expect("it was just found there");
        idle.remove(0);
        if idle.is_empty() {
            self.idle.remove(&key);
        }
        self.drop_one();
    }

    fn drop_one(&mut self) {
        self.count -= 1;
        self.shared.metrics.node().plugin_instances.dec();
    }

    /// Drops idle instances: of plugins that were retired, those that nobody has needed for long, and all where the
    /// engine has no room for another.
    fn sweep(&mut self) {
        let now = Instant::now();
        let sweeps = self.shared.sweeps.load(Ordering::SeqCst);
        let shortages = self.shared.shortages.load(Ordering::SeqCst);
        let is_short = shortages != self.shortages;
        if !is_short && sweeps == self.sweeps && now - self.swept < IDLE {
            return;
        }
        (self.sweeps, self.shortages, self.swept) = (sweeps, shortages, now);
        let before: usize = self.idle.values().map(Vec::len).sum();
        self.idle.retain(|_, idle| {
            idle.retain(|idle| !is_short && !idle.plugin.is_retired() && now - idle.since < IDLE);
            !idle.is_empty()
        });
        let after: usize = self.idle.values().map(Vec::len).sum();
        (after..before).for_each(|_| self.drop_one());
    }
}

/// Starts an instance for calls that may wait, once the engine has room for it.
async fn start(shared: &Shared, plugin: &Plugin, turns: &Turns) -> Result<Instance, Failure> {
    let (blueprint, began) = (plugin.prepared.blueprint.as_ref(), Instant::now());
    loop {
        let started =
            Instance::start_free(blueprint, &plugin.environment, plugin.start_deadline(), turns).await;
        match started {
            Err(Failure::Overloaded) if began.elapsed() < PATIENCE => {
                shared.tell_shortage();
                sleep(TICK).await;
            }
            started => return started,
        }
    }
}

/// Runs a call and counts how long it was at it, not how long it waited.
async fn timed<F>(plugin: Arc<Plugin>, call: impl FnOnce(Arc<Plugin>) -> F) -> Done
where
    F: Future<Output = Option<Instance>>,
{
    let mut spent = Duration::ZERO;
    let mut call = std::pin::pin!(call(Arc::clone(&plugin)));
    let instance = poll_fn(|context| {
        let began = Instant::now();
        let polled = call.as_mut().poll(context);
        spent += began.elapsed();
        polled
    })
    .await;
    Done::Call { plugin, instance, nanos: nanos(spent) }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
