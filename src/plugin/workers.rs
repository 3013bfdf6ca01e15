//! The threads that run guest code, and the queue before them.
//!
//! Each worker has instances of its own and runs one guest at a time: a pure batch until its slice is over, a free
//! call until it waits or a tick is over. Jobs come from lanes, one a tenant ([`fair`]).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use tokio::sync::Notify;

use self::fair::Fair;
use super::engine::{Ticker, Wakeful};
use super::host::Plugin;
use super::outcome::Failure;
use crate::telemetry::Metrics;

mod bench;
mod fair;
mod job;

pub(super) use job::{Audience, Batch, Call, Item, Job, Trial};

/// The workers. They stop when this is dropped: what waits fails, what runs is abandoned.
pub(super) struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Kept until the workers are gone.
    ticker: Ticker,
}

struct Shared {
    queue: Mutex<Fair<Job>>,
    /// Something was queued, or is to be looked at.
    wake: Notify,
    /// The same for workers that have room for nothing but batches.
    batches: Notify,
    /// A job left the queue.
    room: Notify,
    stopping: AtomicBool,
    /// Moves when a plugin is retired: instances of it are to be dropped.
    sweeps: AtomicU64,
    /// Moves when the engine has no room for an instance: idle ones are to be dropped.
    shortages: AtomicU64,
    metrics: Metrics,
}

impl Workers {
    /// Starts so many threads that have so many instances together.
    pub(super) fn start(
        count: usize,
        instances: usize,
        ticker: Ticker,
        metrics: Metrics,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: Notify::new(),
            batches: Notify::new(),
            room: Notify::new(),
            stopping: AtomicBool::new(false),
            sweeps: AtomicU64::new(0),
            shortages: AtomicU64::new(0),
            metrics,
        });
        let mut workers = Self { shared, threads: Vec::with_capacity(count), ticker };
        for number in 0..count {
            let (shared, wakeful) = (Arc::clone(&workers.shared), workers.ticker.wakeful());
            let most = (instances / count).max(2);
            let run = move || work(&shared, wakeful, most);
            workers.threads.push(thread::Builder::new().name(format!("plugin-{number}")).spawn(run)?);
        }
        Ok(workers)
    }

    /// Queues a job. One for which there is no room fails.
    pub(super) fn submit(&self, job: Job) {
        let most = job.plugin().limits.queue;
        if let Err(job) = self.shared.push(job, most) {
            job.fail(Failure::Overloaded);
        }
    }

    /// Queues a job once there is room. Cancelled before, the job is lost with whoever waited.
    pub(super) async fn submit_patiently(&self, mut job: Job) {
        loop {
            let room = self.shared.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            let most = job.plugin().limits.queue;
            match self.shared.push(job, most) {
                Ok(()) => return,
                Err(back) => job = back,
            }
            if self.shared.stopping.load(Ordering::SeqCst) {
                return job.fail(Failure::Unavailable);
            }
            room.await;
        }
    }

    /// Has instances of retired plugins dropped.
    pub(super) fn sweep(&self) {
        self.shared.sweeps.fetch_add(1, Ordering::SeqCst);
        self.shared.wake.notify_waiters();
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        let left = self.shared.lock().drain();
        left.into_iter().for_each(|job| job.fail(Failure::Unavailable));
        self.shared.room.notify_waiters();
        for thread in self.threads.drain(..) {
            // Each takes one: a permit is kept for who does not wait yet.
            while !thread.is_finished() {
                self.shared.wake.notify_waiters();
                self.shared.wake.notify_one();
                thread::park_timeout(std::time::Duration::from_millis(1));
            }
            // A worker that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Fair<Job>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, job: Job, most: usize) -> Result<(), Job> {
        if self.stopping.load(Ordering::SeqCst) {
            return Err(job);
        }
        let plugin = Arc::clone(job.plugin());
        let concurrency = plugin.limits.concurrency;
        self.lock().push(plugin.tenant(), job, concurrency, most)?;
        plugin.metrics.plugin_waiting.inc();
        self.tell_work();
        Ok(())
    }

    /// An instance could not be had.
    fn tell_shortage(&self) {
        self.shortages.fetch_add(1, Ordering::SeqCst);
        self.wake.notify_waiters();
    }

    fn pop(&self, may_run: impl Fn(&Job) -> bool) -> Option<Job> {
        let job = self.lock().pop(may_run)?;
        job.plugin().metrics.plugin_waiting.dec();
        self.room.notify_waiters();
        Some(job)
    }

    /// A job has run; what is left of it goes back to the front of its lane.
    fn done(&self, plugin: &Plugin, nanos: u64, rest: Option<Job>) {
        plugin.metrics.plugin_busy_nanos.inc_by(nanos);
        let mut queue = self.lock();
        if let Some(job) = rest {
            queue.put_back(plugin.tenant(), job, plugin.limits.concurrency);
            plugin.metrics.plugin_waiting.inc();
        }
        queue.done(plugin.tenant(), nanos);
        let more = queue.waiting(plugin.tenant()) > 0;
        drop(queue);
        if more {
            // The lane may have been held back by its concurrency, with nobody awake.
            self.tell_work();
        }
    }

    fn tell_work(&self) {
        self.wake.notify_one();
        self.batches.notify_one();
    }
}

/// One worker's thread.
fn work(shared: &Arc<Shared>, wakeful: Wakeful, instances: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime with timers alone needs nothing of the system");
    runtime.block_on(bench::Bench::new(shared, wakeful, instances).run());
}
