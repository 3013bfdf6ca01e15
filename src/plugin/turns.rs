//! How long a call that may wait has had.
//!
//! Its deadline counts what its guest runs and what it waits for the host, not the turns that its worker gives to
//! others meanwhile. Which of the two it was decides who is to blame when the deadline is missed.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::outcome::Failure;

/// Where meters count from.
static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What one guest has run in the call that is under way. It is written on its worker's thread alone.
#[derive(Debug, Default)]
pub(super) struct Meter {
    nanos: AtomicU64,
    /// When its turn began, where it has one, in nanoseconds.
    since: AtomicU64,
}

impl Meter {
    /// How long it has run, the turn included that it has.
    pub(super) fn ran(&self) -> Duration {
        let turn = match self.since.load(Ordering::Relaxed) {
            0 => 0,
            since => now().saturating_sub(since),
        };
        Duration::from_nanos(self.nanos.load(Ordering::Relaxed) + turn)
    }

    /// Gives it a turn, and says how long that was.
    fn turn<T>(&self, run: impl FnOnce() -> T) -> (T, Duration) {
        let began = now().max(1);
        self.since.store(began, Ordering::Relaxed);
        let result = run();
        let nanos = now().saturating_sub(began);
        self.since.store(0, Ordering::Relaxed);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
        (result, Duration::from_nanos(nanos))
    }
}

fn now() -> u64 {
    u64::try_from(BEGIN.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// What one worker has run for all its guests. A clone counts together with it.
#[derive(Debug, Clone, Default)]
pub(super) struct Turns(Rc<Cell<Duration>>);

impl Turns {
    /// Counts a turn that was given.
    pub(super) fn add(&self, turn: Duration) {
        self.0.set(self.0.get() + turn);
    }

    /// Gives a call turns until it is done, or has had its deadline: [`Failure::Timeout`] where its guest ran for most
    /// of that, [`Failure::HostTimeout`] where it waited.
    pub(super) async fn within<F: Future>(
        &self,
        deadline: Duration,
        meter: &Meter,
        call: F,
    ) -> Result<F::Output, Failure> {
        meter.nanos.store(0, Ordering::Relaxed);
        let (began, before) = (Instant::now(), self.0.get());
        let (mut call, mut timer) = (pin!(call), pin!(sleep(deadline)));
        poll_fn(|context| {
            let (polled, turn) = meter.turn(|| call.as_mut().poll(context));
            self.add(turn);
            if let Poll::Ready(output) = polled {
                return Poll::Ready(Ok(output));
            }
            while timer.as_mut().poll(context).is_ready() {
                let of_others = (self.0.get() - before).saturating_sub(meter.ran());
                let left = deadline.saturating_sub(began.elapsed().saturating_sub(of_others));
                if left.is_zero() {
                    let waited = meter.ran() * 2 < deadline;
                    return Poll::Ready(Err(if waited { Failure::HostTimeout } else { Failure::Timeout }));
                }
                timer.as_mut().reset(tokio::time::Instant::now() + left);
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const DEADLINE: Duration = Duration::from_millis(20);

    /// Keeps this thread busy.
    fn run_for(duration: Duration) {
        let began = Instant::now();
        while began.elapsed() < duration {
            std::hint::spin_loop();
        }
    }

    #[tokio::test]
    async fn who_waits_for_the_host_is_not_to_blame() {
        let (turns, meter) = (Turns::default(), Meter::default());
        assert_eq!(turns.within(DEADLINE, &meter, pending::<()>()).await, Err(Failure::HostTimeout));
    }

    #[tokio::test]
    async fn who_runs_is_to_blame() {
        let (turns, meter) = (Turns::default(), Meter::default());
        let runs = poll_fn(|_| {
            run_for(DEADLINE);
            Poll::<()>::Pending
        });
        assert_eq!(turns.within(DEADLINE, &meter, runs).await, Err(Failure::Timeout));
        assert!(meter.ran() >= DEADLINE);
    }

    #[tokio::test]
    async fn the_turns_of_others_do_not_count() {
        let (turns, meter) = (Turns::default(), Meter::default());
        let others = async {
            run_for(2 * DEADLINE);
            turns.add(Duration::from_secs(3_600));
        };
        let mut waits = 0;
        let call = poll_fn(|context| {
            waits += 1;
            if waits < 3 {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(waits)
        });
        // One thread: the call waits, others run beyond its deadline, then it goes on.
        let (done, ()) = futures_util::future::join(turns.within(DEADLINE, &meter, call), others).await;
        assert_eq!(done, Ok(3));
    }
}
