//! Counters, gauges and histograms as plain atomics: what `/metrics` and OTLP read.

use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use super::labels::Label;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one.
    pub fn inc(&self) {
        self.inc_by(1);
    }

    /// Counts `n`; on the message path once a batch.
    pub fn inc_by(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that grows and shrinks.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// One less.
    pub fn dec(&self) {
        self.add(-1);
    }

    /// So many more, or fewer.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Exactly so many.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Durations sorted into fixed buckets.
pub struct Histogram {
    bounds: &'static [f64],
    /// One a bound and a last one for everything above.
    buckets: Box<[AtomicU64]>,
    sum_nanos: AtomicU64,
}

/// What a histogram held at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Distribution {
    /// Seconds altogether.
    pub(super) sum: f64,
    /// Observations altogether.
    pub(super) count: u64,
    /// Upper bound in seconds and the observations between it and the bound before; the last bound
    /// is infinite.
    pub(super) buckets: Vec<(f64, u64)>,
}

impl Histogram {
    /// Buckets with these upper bounds in seconds, ascending.
    pub(super) fn new(bounds: &'static [f64]) -> Self {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, buckets, sum_nanos: AtomicU64::new(0) }
    }

    /// Takes one observation.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Distribution {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let counts = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        let buckets: Vec<_> = bounds.zip(counts).collect();
        // The count is summed here, so that it always agrees with the buckets beside it.
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = Duration::from_nanos(self.sum_nanos.load(Ordering::Relaxed)).as_secs_f64();
        Distribution { sum, count, buckets }
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.read().fmt(f)
    }
}

/// One value for each word of a bounded label.
pub struct Labelled<L, T> {
    values: Box<[T]>,
    label: PhantomData<fn(L)>,
}

impl<L: Label, T> Labelled<L, T> {
    /// The value for this word.
    pub fn of(&self, label: L) -> &T {
        &self.values[label.index()]
    }

    /// Words and values, in the order of the label.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &T)> {
        L::ALL.iter().map(|label| (label.word(), self.of(*label)))
    }
}

impl<L: Label, T: Default> Default for Labelled<L, T> {
    fn default() -> Self {
        Self { values: L::ALL.iter().map(|_| T::default()).collect(), label: PhantomData }
    }
}

impl<L: Label, T: fmt::Debug> fmt::Debug for Labelled<L, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::labels::Skip;
    use super::*;

    #[test]
    fn observations_fall_below_their_bound() {
        let histogram = Histogram::new(&[0.001, 0.01]);
        for micros in [500, 1_000, 1_001, 50_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let read = histogram.read();
        assert_eq!(read.buckets, [(0.001, 2), (0.01, 1), (f64::INFINITY, 1)]);
        assert_eq!(read.count, 4);
        assert!((read.sum - 0.052_501).abs() < 1e-9);
    }

    #[test]
    fn each_word_has_its_own_value() {
        let counters = Labelled::<Skip, Counter>::default();
        counters.of(Skip::Expired).inc_by(3);
        let read: Vec<_> = counters.iter().map(|(word, counter)| (word, counter.get())).collect();
        assert_eq!(read, [("malformed", 0), ("expired", 3), ("too_large", 0), ("thinned", 0), ("plugin", 0)]);
    }
}
