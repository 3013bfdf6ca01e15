//! What one tenant may ask of this node: publications and dead letters a second, and requests in flight.
//!
//! *Invariant*: nothing waits here. A request finds room or learns when to come back; each number is an
//! atomic that all shards share. Limits come with each call, so a changed one holds from the next on.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::TenantId;

/// The quotas of all tenants on this node. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Quotas(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    began: Instant,
    tenants: RwLock<HashMap<TenantId, Arc<Quota>>>,
}

impl Default for Quotas {
    fn default() -> Self {
        Self(Arc::new(Shared { began: Instant::now(), tenants: RwLock::default() }))
    }
}

impl Quotas {
    /// A tenant's quota. Ask only for tenants that exist, because each stays until the node stops.
    pub fn of(&self, tenant: &TenantId) -> Arc<Quota> {
        let known = self.0.tenants.read().unwrap_or_else(PoisonError::into_inner).get(tenant).map(Arc::clone);
        known.unwrap_or_else(|| {
            let mut tenants = self.0.tenants.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(tenants.entry(tenant.clone()).or_default())
        })
    }

    /// The time that rates are asked with.
    pub fn now(&self) -> Duration {
        self.0.began.elapsed()
    }
}

/// What one tenant has taken.
#[derive(Debug, Default)]
pub struct Quota {
    /// Publications over HTTP.
    pub publishes: Rate,
    /// Publications of wide sends.
    pub sends: Rate,
    /// Dead letters of messages whose plugin failed.
    pub letters: Rate,
    requests: AtomicUsize,
    body_bytes: AtomicUsize,
}

impl Quota {
    /// Lets one more request in, unless `most` are.
    pub fn enter(self: &Arc<Self>, most: usize) -> Option<InFlight> {
        add_up_to(&self.requests, 1, most).then(|| InFlight { quota: self.clone(), body_bytes: 0 })
    }
}

/// A request that counts as in flight until this is dropped.
#[derive(Debug)]
pub struct InFlight {
    quota: Arc<Quota>,
    body_bytes: usize,
}

impl InFlight {
    /// Counts more bytes of its body, unless all bodies in flight had more than `most` with them.
    pub fn grow(&mut self, bytes: usize, most: usize) -> bool {
        let grown = add_up_to(&self.quota.body_bytes, bytes, most);
        self.body_bytes += if grown { bytes } else { 0 };
        grown
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.quota.requests.fetch_sub(1, Ordering::Relaxed);
        self.quota.body_bytes.fetch_sub(self.body_bytes, Ordering::Relaxed);
    }
}

fn add_up_to(value: &AtomicUsize, more: usize, most: usize) -> bool {
    let sum = |value: usize| value.checked_add(more).filter(|sum| *sum <= most);
    value.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum).is_ok()
}

/// A rate, kept as one number: until when what was taken is paid for (the generic cell rate algorithm of
/// ITU-T I.371). `now` is [`Quotas::now`], or any other clock that only goes forward.
#[derive(Debug, Default)]
pub struct Rate {
    paid_until_ns: AtomicU64,
}

impl Rate {
    /// Takes all of `count` or nothing; then it says how long to wait. A second's worth may be taken at
    /// once. More than that is taken when nothing is owed, and paid for afterwards: otherwise such a
    /// request would never pass.
    pub fn take(&self, now: Duration, count: usize, per_s: u32) -> Result<(), Duration> {
        const BURST_NS: u64 = 1_000_000_000;
        let (now, cost) = (nanos(now), cost_ns(count, per_s));
        let mut wait = 0;
        let taken = self.paid_until_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |paid| {
            let owed = paid.saturating_sub(now);
            wait = (owed + cost.min(BURST_NS)).saturating_sub(BURST_NS);
            (wait == 0).then(|| paid.max(now).saturating_add(cost))
        });
        taken.map(drop).map_err(|_| Duration::from_nanos(wait))
    }

    /// Takes `count` whatever is owed, and says how long to wait before it is used: so several who take
    /// turns keep the rate together.
    pub fn pace(&self, now: Duration, count: usize, per_s: u32) -> Duration {
        let (now, cost) = (nanos(now), cost_ns(count, per_s));
        let paid = self
            .paid_until_ns
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |paid| {
                Some(paid.max(now).saturating_add(cost))
            })
            .unwrap_or_else(|paid| paid);
        Duration::from_nanos(paid.saturating_sub(now))
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn cost_ns(count: usize, per_s: u32) -> u64 {
    (count as u64).saturating_mul(1_000_000_000) / u64::from(per_s.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn a_second_s_worth_may_come_at_once_and_no_more() {
        let rate = Rate::default();
        assert_eq!(rate.take(S(5), 60, 100), Ok(()));
        assert_eq!(rate.take(S(5), 40, 100), Ok(()));
        assert_eq!(rate.take(S(5), 1, 100), Err(Duration::from_millis(10)));
        assert_eq!(rate.take(S(5), 50, 100), Err(Duration::from_millis(500)), "a refusal costs nothing");
        assert_eq!(rate.take(Duration::from_millis(5_500), 50, 100), Ok(()));
        assert_eq!(rate.take(S(60), 100, 100), Ok(()), "what was not used does not add up");
        assert!(rate.take(S(60), 1, 100).is_err());
    }

    #[test]
    fn what_is_larger_than_a_second_s_worth_passes_and_is_paid_for_afterwards() {
        let rate = Rate::default();
        assert_eq!(rate.take(S(1), 300, 100), Ok(()));
        assert_eq!(rate.take(S(1), 1, 100), Err(Duration::from_millis(2_010)));
        assert_eq!(rate.take(S(3), 300, 100), Err(S(1)));
        assert_eq!(rate.take(S(4), 300, 100), Ok(()));
    }

    #[test]
    fn those_who_pace_keep_the_rate_together() {
        let rate = Rate::default();
        let waits: Vec<_> = (0..4).map(|_| rate.pace(S(1), 50, 100).as_millis()).collect();
        assert_eq!(waits, [0, 500, 1_000, 1_500]);
        assert_eq!(rate.pace(S(10), 50, 100), Duration::ZERO);
    }

    #[test]
    fn requests_and_their_bytes_are_counted_while_they_last() {
        let quotas = Quotas::default();
        let acme = TenantId::parse("acme").unwrap();
        let mut first = quotas.of(&acme).enter(2).unwrap();
        let second = quotas.clone().of(&acme).enter(2).unwrap();
        assert!(quotas.of(&acme).enter(2).is_none(), "all clones and shards share one count");
        assert!(quotas.of(&TenantId::parse("other").unwrap()).enter(2).is_some());
        assert!(first.grow(6, 10) && !first.grow(5, 10) && first.grow(4, 10));
        drop(second);
        let mut third = quotas.of(&acme).enter(2).unwrap();
        assert!(!third.grow(1, 10));
        drop(first);
        assert!(third.grow(10, 10));
    }
}
