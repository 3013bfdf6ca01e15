//! Who is next: one lane a tenant, and the tenant whose guests have run for the shortest time goes first.
//!
//! Fair queueing by time used, as a scheduler of processes does it: each lane has a clock that moves with what
//! its jobs cost, and who was away starts at the time of those who are here, so that nobody saves up. A pure
//! state: time comes in as numbers.

use std::collections::{BTreeSet, HashMap, VecDeque};

use crate::domain::TenantId;

/// The lanes of all tenants.
#[derive(Debug)]
pub(super) struct Fair<J> {
    lanes: HashMap<TenantId, Lane<J>>,
    /// Lanes that have work and may run it, the one that is due first.
    ready: BTreeSet<(u64, TenantId)>,
    /// Where the clock of the lane stood that was last due.
    floor: u64,
}

#[derive(Debug)]
struct Lane<J> {
    waiting: VecDeque<J>,
    running: usize,
    concurrency: usize,
    /// Nanoseconds that its jobs have cost.
    clock: u64,
}

impl<J> Default for Fair<J> {
    fn default() -> Self {
        Self { lanes: HashMap::new(), ready: BTreeSet::new(), floor: 0 }
    }
}

impl<J> Fair<J> {
    /// Adds a job at the end of its tenant's lane, unless `most` wait there.
    pub(super) fn push(
        &mut self,
        tenant: &TenantId,
        job: J,
        concurrency: usize,
        most: usize,
    ) -> Result<(), J> {
        let lane = self.lane(tenant, concurrency);
        let has_room = lane.waiting.len() < most;
        let pushed = if has_room {
            lane.waiting.push_back(job);
            Ok(())
        } else {
            Err(job)
        };
        self.settle(tenant);
        pushed
    }

    /// Puts a job back that is not done: it is its lane's next.
    pub(super) fn put_back(&mut self, tenant: &TenantId, job: J, concurrency: usize) {
        self.lane(tenant, concurrency).waiting.push_front(job);
        self.settle(tenant);
    }

    /// The job that is due, among those that may run. Its tenant has one more running until [`Self::done`].
    pub(super) fn pop(&mut self, may_run: impl Fn(&J) -> bool) -> Option<J> {
        let next = |tenant| self.lanes.get(tenant).and_then(|lane| lane.waiting.front());
        let due = self.ready.iter().find(|(_, tenant)| next(tenant).is_some_and(&may_run))?.clone();
        self.ready.remove(&due);
        let (clock, tenant) = due;
        self.floor = self.floor.max(clock);
        let lane = self.lanes.get_mut(&tenant)?;
        let job = lane.waiting.pop_front();
        lane.running += 1;
        self.settle(&tenant);
        job
    }

    /// A job that was popped has run and cost so many nanoseconds.
    pub(super) fn done(&mut self, tenant: &TenantId, cost: u64) {
        let Some(lane) = self.lanes.get_mut(tenant) else { return };
        if may_run(lane) {
            self.ready.remove(&(lane.clock, tenant.clone()));
        }
        lane.running = lane.running.saturating_sub(1);
        lane.clock = lane.clock.saturating_add(cost);
        self.settle(tenant);
        self.forget(tenant);
    }

    /// Jobs of a tenant that wait.
    pub(super) fn waiting(&self, tenant: &TenantId) -> usize {
        self.lanes.get(tenant).map_or(0, |lane| lane.waiting.len())
    }

    /// Takes all that waits.
    pub(super) fn drain(&mut self) -> Vec<J> {
        self.ready.clear();
        self.lanes.values_mut().flat_map(|lane| lane.waiting.drain(..)).collect()
    }

    fn lane(&mut self, tenant: &TenantId, concurrency: usize) -> &mut Lane<J> {
        if !self.lanes.contains_key(tenant) {
            let lane = Lane { waiting: VecDeque::new(), running: 0, concurrency, clock: self.floor };
            self.lanes.insert(tenant.clone(), lane);
        }
        let lane = self.lanes.get_mut(tenant).expect("it was just put there if it was missing");
        if may_run(lane) {
            self.ready.remove(&(lane.clock, tenant.clone()));
        }
        lane.concurrency = concurrency;
        if lane.waiting.is_empty() && lane.running == 0 {
            lane.clock = lane.clock.max(self.floor);
        }
        lane
    }

    /// Makes `ready` agree with a lane that is not in it.
    fn settle(&mut self, tenant: &TenantId) {
        if let Some(lane) = self.lanes.get(tenant)
            && may_run(lane)
        {
            self.ready.insert((lane.clock, tenant.clone()));
        }
    }

    /// A lane without jobs that owes nothing is made anew when it is needed.
    fn forget(&mut self, tenant: &TenantId) {
        let floor = self.floor;
        let is_over = |lane: &Lane<J>| lane.waiting.is_empty() && lane.running == 0 && lane.clock <= floor;
        if self.lanes.get(tenant).is_some_and(is_over) {
            self.lanes.remove(tenant);
        }
    }
}

fn may_run<J>(lane: &Lane<J>) -> bool {
    !lane.waiting.is_empty() && lane.running < lane.concurrency
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::parse(name).unwrap()
    }

    #[test]
    fn a_dear_tenant_waits_for_a_cheap_one() {
        let mut fair = Fair::default();
        let (dear, cheap) = (tenant("dear"), tenant("cheap"));
        for n in 0..100 {
            fair.push(&dear, ("dear", n), 1, 1_000).unwrap();
            fair.push(&cheap, ("cheap", n), 1, 1_000).unwrap();
        }
        let (mut dear_ran, mut cheap_ran) = (0, 0);
        for _ in 0..101 {
            let (who, _) = fair.pop(|_| true).unwrap();
            if who == "dear" {
                dear_ran += 1;
                fair.done(&dear, 10_000);
            } else {
                cheap_ran += 1;
                fair.done(&cheap, 100);
            }
        }
        assert!(dear_ran <= 2 && cheap_ran >= 99, "{dear_ran} {cheap_ran}");
    }

    #[test]
    fn lanes_are_in_order_and_bounded() {
        let mut fair = Fair::default();
        let acme = tenant("acme");
        assert_eq!(fair.push(&acme, 1, 1, 2), Ok(()));
        assert_eq!(fair.push(&acme, 2, 1, 2), Ok(()));
        assert_eq!(fair.push(&acme, 3, 1, 2), Err(3));
        assert_eq!(fair.pop(|_| true), Some(1));
        assert_eq!(fair.pop(|_| true), None, "one at a time");
        fair.put_back(&acme, 1, 1);
        fair.done(&acme, 5);
        assert_eq!((fair.waiting(&acme), fair.pop(|_| true)), (2, Some(1)));
        fair.done(&acme, 5);
        assert_eq!(fair.drain(), [2]);
        assert_eq!(fair.pop(|_| true), None);
    }

    #[test]
    fn who_was_away_saves_nothing_up() {
        let mut fair = Fair::default();
        let (busy, late) = (tenant("busy"), tenant("late"));
        for n in 0..10 {
            fair.push(&busy, n, 1, 100).unwrap();
            fair.pop(|_| true).unwrap();
            fair.done(&busy, 1_000);
        }
        for n in 0..10 {
            fair.push(&busy, n, 1, 100).unwrap();
            fair.push(&late, n + 100, 1, 100).unwrap();
        }
        let mut order = Vec::new();
        while let Some(job) = fair.pop(|_| true) {
            let who = if job < 100 { &busy } else { &late };
            order.push(job < 100);
            fair.done(who, 1_000);
        }
        let late_first = order.iter().take(4).filter(|busy| !**busy).count();
        assert!((1..=3).contains(&late_first), "{order:?}");
    }

    #[test]
    fn the_ready_set_never_disagrees() {
        // Many pushes and completions in an order that a small generator chooses.
        let mut fair = Fair::default();
        let names: Vec<TenantId> = (0..5).map(|n| tenant(&format!("t{n}"))).collect();
        let (mut seed, mut running, mut pushed, mut popped) = (7_u64, Vec::new(), 0, 0);
        for _ in 0..10_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let who = (seed >> 33) as usize % names.len();
            match (seed >> 40) % 3 {
                0 => pushed += usize::from(fair.push(&names[who], who, 2, 10).is_ok()),
                1 => {
                    if let Some(job) = fair.pop(|_| true) {
                        popped += 1;
                        running.push(job);
                    }
                }
                _ => {
                    if let Some(job) = running.pop() {
                        fair.done(&names[job], seed >> 50);
                    }
                }
            }
            let at_once = running.iter().filter(|job| **job == who).count();
            assert!(at_once <= 2);
        }
        running.drain(..).for_each(|job| fair.done(&names[job], 1));
        while let Some(job) = fair.pop(|_| true) {
            popped += 1;
            fair.done(&names[job], 1);
        }
        assert_eq!(pushed, popped);
        assert!(fair.ready.is_empty());
    }
}
