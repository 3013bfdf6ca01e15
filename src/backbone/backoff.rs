//! How long to wait before trying again.

use std::time::Duration;

/// A capped, jittered, doubling delay: every retry loop of the node takes its waits from one of these.
///
/// Each delay is drawn between half and all of the current step, so that nodes cut off together do
/// not come back together.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    step: Duration,
}

impl Backoff {
    /// Starts at `first` and never waits longer than `cap`.
    pub fn new(first: Duration, cap: Duration) -> Self {
        let first = first.min(cap);
        Self { first, cap, step: first }
    }

    /// The next wait. The one after it is drawn from twice the range, up to the cap.
    pub fn delay(&mut self) -> Duration {
        let step = self.step;
        self.step = step.saturating_mul(2).min(self.cap);
        step.mul_f64(rand::random_range(0.5..=1.0))
    }

    /// Starts over: call it after a success that has lasted.
    pub fn reset(&mut self) {
        self.step = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap_and_start_over() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(10), ms(35));
        for step in [10, 20, 35, 35] {
            let delay = backoff.delay();
            assert!(ms(step) / 2 <= delay && delay <= ms(step), "{delay:?} of {step}");
        }
        backoff.reset();
        assert!(backoff.delay() <= ms(10));
    }
}
