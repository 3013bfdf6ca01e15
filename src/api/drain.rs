//! The end of a node: asked for by a signal or an operator, planned once, and watched from outside.
//!
//! The gateway begins it, shards say goodbye by its plan and report here, and `/admin/drain` shows how
//! far it is.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

/// The drain of one node. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Drain(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    timeout: Duration,
    asked: CancellationToken,
    begun: CancellationToken,
    plan: OnceLock<Plan>,
    /// Sessions whose connection is not over, a shard each.
    connected: Vec<Arc<AtomicUsize>>,
    forced: AtomicUsize,
}

/// One session's connection, counted for as long as this lives.
#[derive(Debug)]
pub struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a drain intends, from the number of sessions at its start and the one deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// When it began.
    pub began: Instant,
    /// Everything is over by then.
    pub deadline: Instant,
    /// Shards cut what they still have a little earlier, so that the node can end in order.
    pub shards_end: Instant,
    /// Sessions with a connection at the start.
    pub sessions: usize,
    /// Goodbyes are said evenly over so long.
    pub span: Duration,
    /// Clients come back after a pause of up to so long.
    pub spread: Duration,
    /// How long a session that was told may take to finish and acknowledge.
    pub grace: Duration,
}

/// The pace of goodbyes, where the deadline allows it: 1,000 sessions a second, half of what another
/// node takes in.
const GOODBYE: Duration = Duration::from_millis(1);

impl Plan {
    fn new(began: Instant, timeout: Duration, sessions: usize) -> Self {
        let count = u32::try_from(sessions).unwrap_or(u32::MAX);
        let wanted = GOODBYE.saturating_mul(count);
        let span = wanted.min(timeout / 2);
        // What the deadline does not leave for goodbyes is left to the clients' pauses.
        let pause = (10 * GOODBYE).saturating_mul(count);
        let pause = pause.clamp(Duration::from_millis(100), Duration::from_secs(2));
        let spread = (pause + (wanted - span)).min(Duration::from_secs(60));
        let reserve = (timeout / 10).min(Duration::from_secs(1));
        let deadline = began + timeout;
        Self { began, deadline, shards_end: deadline - reserve, sessions, span, spread, grace: timeout / 10 }
    }

    /// How many of `count` goodbyes are due.
    pub fn due(&self, count: usize, now: Instant) -> usize {
        let passed = now.saturating_duration_since(self.began);
        if passed >= self.span {
            return count;
        }
        (count as f64 * passed.as_secs_f64() / self.span.as_secs_f64()) as usize
    }

    /// A pause for one client, in milliseconds. Pauses differ, so that clients who were told at one time
    /// do not come back at one.
    pub fn pause_ms(&self) -> u64 {
        let most = u64::try_from(self.spread.as_millis()).unwrap_or(u64::MAX);
        rand::random_range(0..=most)
    }
}

impl Drain {
    /// Of a node with so many shards, which takes `timeout` at most.
    pub fn new(shards: usize, timeout: Duration) -> Self {
        Self(Arc::new(Shared {
            timeout,
            asked: CancellationToken::new(),
            begun: CancellationToken::new(),
            plan: OnceLock::new(),
            connected: (0..shards).map(|_| Arc::default()).collect(),
            forced: AtomicUsize::new(0),
        }))
    }

    /// Asks for it. Whoever runs the node hears of it by [`Drain::asked`].
    pub fn ask(&self) {
        self.0.asked.cancel();
    }

    /// Resolves once it is asked for. Cancel-safe.
    pub async fn asked(&self) {
        self.0.asked.cancelled().await;
    }

    /// Begins it; a second call changes nothing.
    pub fn begin(&self) -> Plan {
        let plan = *self.0.plan.get_or_init(|| Plan::new(Instant::now(), self.0.timeout, self.sessions()));
        self.0.begun.cancel();
        plan
    }

    /// Whether it has begun: no new sessions.
    pub fn is_begun(&self) -> bool {
        self.0.begun.is_cancelled()
    }

    /// Resolves with the plan once it has begun. Cancel-safe.
    pub async fn begun(&self) -> Plan {
        self.0.begun.cancelled().await;
        *self.0.plan.get().expect("the plan is made before the token is cancelled")
    }

    /// Counts a session's connection on a shard.
    pub fn count(&self, shard: usize) -> Counted {
        let connected = self.0.connected[shard].clone();
        connected.fetch_add(1, Ordering::Relaxed);
        Counted(connected)
    }

    /// Sessions on a shard whose connection is not over.
    pub fn sessions_of(&self, shard: usize) -> usize {
        self.0.connected[shard].load(Ordering::Relaxed)
    }

    /// Sessions whose connection is not over.
    pub fn sessions(&self) -> usize {
        self.0.connected.iter().map(|connected| connected.load(Ordering::Relaxed)).sum()
    }

    /// So many sessions were cut before they had their goodbye.
    pub fn force(&self, sessions: usize) {
        self.0.forced.fetch_add(sessions, Ordering::Relaxed);
    }

    /// Sessions that were cut.
    pub fn forced(&self) -> usize {
        self.0.forced.load(Ordering::Relaxed)
    }

    fn progress(&self) -> Progress {
        let left = match self.0.plan.get() {
            Some(plan) => plan.deadline.saturating_duration_since(Instant::now()),
            None => self.0.timeout,
        };
        Progress {
            draining: self.0.asked.is_cancelled() || self.is_begun(),
            sessions: self.sessions(),
            forced: self.forced(),
            deadline_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// How far a drain is: the body of the answers of `/admin/drain`.
#[derive(Debug, Serialize)]
struct Progress {
    /// Whether the node goes away.
    draining: bool,
    /// Sessions whose connection is not over.
    sessions: usize,
    /// Sessions that were cut.
    forced: usize,
    /// Milliseconds until the deadline; before the drain, how long one may take.
    deadline_ms: u64,
}

/// `POST /drain` begins, `GET /drain` shows how far it is. For the admin listener, behind its token.
pub fn router(drain: Drain) -> Router {
    Router::new().route("/drain", get(progress).post(begin)).with_state(drain)
}

async fn progress(State(drain): State<Drain>) -> Json<Progress> {
    Json(drain.progress())
}

async fn begin(State(drain): State<Drain>) -> (StatusCode, Json<Progress>) {
    drain.ask();
    (StatusCode::ACCEPTED, Json(drain.progress()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(seconds: u64, sessions: usize) -> Plan {
        Plan::new(Instant::now(), Duration::from_secs(seconds), sessions)
    }

    #[test]
    fn few_sessions_go_quickly_and_many_within_half_of_the_deadline() {
        let few = plan(30, 10);
        assert_eq!((few.span, few.spread), (Duration::from_millis(10), Duration::from_millis(100)));
        let many = plan(30, 100_000);
        assert_eq!(many.span, Duration::from_secs(15));
        assert_eq!(many.spread, Duration::from_secs(60), "the rest is spread over the clients' pauses");
        assert!(many.began + many.span + many.grace < many.shards_end && many.shards_end < many.deadline);
        let none = plan(0, 5);
        assert_eq!((none.span, none.grace, none.deadline), (Duration::ZERO, Duration::ZERO, none.began));
    }

    #[test]
    fn goodbyes_are_due_evenly() {
        let plan = plan(30, 1_000);
        assert_eq!(plan.span, Duration::from_secs(1));
        assert_eq!(plan.due(100, plan.began), 0);
        assert_eq!(plan.due(100, plan.began + Duration::from_millis(505)), 50);
        assert_eq!(plan.due(100, plan.began + Duration::from_secs(1)), 100);
        let all = Plan { span: Duration::ZERO, ..plan };
        assert_eq!(all.due(100, plan.began), 100);
        assert!((0..1_000).all(|_| plan.pause_ms() <= 2_000));
    }

    #[test]
    fn connections_are_counted_while_they_live() {
        let drain = Drain::new(2, Duration::from_secs(30));
        let (first, second) = (drain.count(0), drain.count(1));
        assert_eq!((drain.sessions(), drain.sessions_of(1)), (2, 1));
        let plan = drain.begin();
        drop(first);
        assert_eq!((drain.sessions(), drain.begin()), (1, plan), "a second call changes nothing");
        drop(second);
        assert!(drain.is_begun());
    }
}
