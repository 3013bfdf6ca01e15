use std::collections::BTreeMap;
use std::sync::LazyLock;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::delivery::View;
use crate::domain::{ChannelName, NamespaceRules, StreamKey, TenantId};
use crate::telemetry::Metrics;

const LEASE: Duration = Duration::from_secs(30);
const LIMIT: u8 = 3;
const SHARD: ShardId = ShardId(0);

fn queue() -> Queue {
    let tenant = TenantId::parse("acme").unwrap();
    let name = ChannelName::parse("queue:1").unwrap();
    let stream = StreamKey::channel(&tenant, &name);
    let metrics = Metrics::default().tenant(&tenant);
    let rules = Arc::new(NamespaceRules::queue("queue"));
    let channel = Channel { tenant, name, view: View::shared(stream), rules, max_payload: 8, metrics };
    let mut queue = Queue::new(Arc::new(channel), LIMIT);
    (queue.phase, queue.marked) = (Phase::Open(Epoch(1)), true);
    queue
}

fn worker(n: u8) -> WorkerId {
    static SESSIONS: LazyLock<[SessionId; 4]> =
        LazyLock::new(|| std::array::from_fn(|_| SessionId::random()));
    WorkerId { session: SESSIONS[usize::from(n)], attach: 1 }
}

fn at(ms: u64) -> Offset {
    Offset { ms, seq: 0 }
}

fn held(ms: u64, attempts: u8) -> Held {
    Held { offset: at(ms), attempts }
}

fn entry(ms: u64, fields: &[(&'static str, &'static str)]) -> Work {
    let fields = fields.iter().map(|(name, value)| (Bytes::from(*name), Bytes::from(*value))).collect();
    Work { entry: RawEntry::new(at(ms), fields), attempts: 0, again: false }
}

fn work(ms: u64) -> Work {
    entry(ms, &[("data", "x")])
}

fn plan(queue: &mut Queue) -> Plan {
    queue.plan(Instant::now(), LEASE, 10).unwrap_or_default()
}

/// The plan is carried out, and brings this work.
fn carry_out(queue: &mut Queue, plan: Plan, work: Vec<Work>) -> Vec<(WorkerId, ShardId, Offset)> {
    let letters = plan.letters.iter().map(|letter| letter.offset);
    let turned = Turned {
        buried: letters.clone().collect(),
        finished: plan.done.iter().copied().chain(letters).collect(),
        returned: plan.back.iter().map(|held| held.offset).collect(),
        taken: (plan.take > 0).then_some((plan.take, work)),
        ..Turned::default()
    };
    queue.turned(turned, 1_000_000, Instant::now())
}

fn take(queue: &mut Queue, work: Vec<Work>) {
    let plan = plan(queue);
    assert!(plan.take >= work.len(), "{plan:?}");
    carry_out(queue, plan, work);
}

fn deal(queue: &mut Queue) -> Vec<(WorkerId, u64)> {
    std::iter::from_fn(|| queue.deal(|_| true))
        .map(|Dealt { worker, task, .. }| (worker, task.message.offset.ms))
        .collect()
}

#[test]
fn work_is_dealt_out_in_turn_and_no_more_is_taken_than_wanted() {
    let mut queue = queue();
    assert_eq!(plan(&mut queue), Plan::default(), "nobody wants anything");
    for n in 1..=3 {
        queue.join(worker(n), SHARD, Subscriber::somebody(), LIMIT);
    }
    queue.told(worker(1), Word::Want(5));
    queue.told(worker(2), Word::Want(1));
    queue.told(worker(3), Word::Want(2));
    let next = plan(&mut queue);
    assert_eq!(next.take, 8);
    carry_out(&mut queue, next, (1..=7).map(work).collect());
    let dealt: Vec<_> = deal(&mut queue).into_iter().map(|(worker, ms)| (worker.session, ms)).collect();
    let order = [1, 2, 3, 1, 3, 1, 1].map(|n| worker(n).session);
    assert_eq!(dealt, order.into_iter().zip(1..).collect::<Vec<_>>());
    assert_eq!(plan(&mut queue), Plan::default(), "it was not as much as asked for: there is no more");
    queue.mark();
    assert_eq!(plan(&mut queue).take, 1);
}

#[test]
fn a_shard_without_room_is_passed_over() {
    let mut queue = queue();
    queue.join(worker(1), ShardId(0), Subscriber::somebody(), LIMIT);
    queue.join(worker(2), ShardId(1), Subscriber::somebody(), LIMIT);
    queue.told(worker(1), Word::Want(1));
    queue.told(worker(2), Word::Want(1));
    take(&mut queue, vec![work(1), work(2)]);
    let Dealt { worker: to, .. } = queue.deal(|shard| shard.0 == 1).unwrap();
    assert_eq!(to, worker(2));
    assert!(queue.deal(|shard| shard.0 == 1).is_none());
    assert!(queue.has_ready(), "the other waits here");
    assert_eq!(deal(&mut queue), [(worker(1), 2)]);
}

#[test]
fn who_loses_its_connection_keeps_its_work_and_who_leaves_gives_it_back() {
    let mut queue = queue();
    queue.join(worker(1), SHARD, Subscriber::somebody(), LIMIT);
    queue.told(worker(1), Word::Want(3));
    take(&mut queue, vec![work(1), work(2)]);
    assert_eq!(deal(&mut queue).len(), 2);
    queue.told(worker(1), Word::Pause(vec![held(1, 1), held(2, 0)]));
    assert!(!queue.is_idle());
    queue.mark();
    assert_eq!(plan(&mut queue), Plan::default(), "nothing is taken for somebody without a connection");
    // It comes back; what its old connection still says is void.
    let again = WorkerId { attach: 2, ..worker(1) };
    queue.join(again, SHARD, Subscriber::somebody(), LIMIT);
    queue.told(worker(1), Word::Want(9));
    queue.told(worker(1), Word::Pause(vec![]));
    queue.told(again, Word::Want(1));
    assert_eq!(plan(&mut queue).take, 1);
    queue.told(again, Word::Leave(vec![held(1, 1), held(2, 1)]));
    carry_out(&mut queue, Plan { take: 1, ..Plan::default() }, vec![]);
    let next = plan(&mut queue);
    assert_eq!(next, Plan { back: vec![held(1, 1), held(2, 1)], ..Plan::default() });
    carry_out(&mut queue, next, vec![]);
    assert!(queue.is_idle());
}

#[test]
fn what_nobody_wants_any_more_goes_back_untried() {
    let mut queue = queue();
    queue.join(worker(1), SHARD, Subscriber::somebody(), LIMIT);
    queue.told(worker(1), Word::Want(2));
    let next = plan(&mut queue);
    queue.told(worker(1), Word::Leave(vec![]));
    carry_out(&mut queue, next, vec![Work { attempts: 2, ..work(1) }]);
    assert!(deal(&mut queue).is_empty());
    assert_eq!(plan(&mut queue).back, [held(1, 2)]);
}

#[test]
fn what_is_claimed_again_stays_with_whom_it_was() {
    let mut queue = queue();
    queue.join(worker(1), SHARD, Subscriber::somebody(), LIMIT);
    queue.told(worker(1), Word::Want(2));
    take(&mut queue, vec![work(1)]);
    assert_eq!(deal(&mut queue), [(worker(1), 1)]);
    queue.mark();
    take(&mut queue, vec![work(1)]);
    assert!(deal(&mut queue).is_empty());
    queue.told(worker(1), Word::Done(at(1)));
    assert_eq!(plan(&mut queue).done, [at(1)]);
}

#[test]
fn what_went_to_another_node_is_told_and_forgotten() {
    let mut queue = queue();
    queue.join(worker(1), SHARD, Subscriber::somebody(), LIMIT);
    queue.told(worker(1), Word::Want(2));
    take(&mut queue, vec![work(1), work(2)]);
    deal(&mut queue);
    let later = Instant::now() + LEASE / 2;
    let next = queue.plan(later, LEASE, 10).unwrap();
    assert_eq!(next.keep.len(), 2);
    let turned = Turned { lost: vec![at(2)], ..Turned::default() };
    assert_eq!(queue.turned(turned, 0, later), [(worker(1), SHARD, at(2))]);
    // What it gives back is not this node's, but what it has done is done.
    queue.told(worker(1), Word::Return(held(2, 1)));
    assert_eq!(plan(&mut queue), Plan::default());
    queue.told(worker(1), Word::Done(at(2)));
    assert_eq!(plan(&mut queue).done, [at(2)]);
}

#[test]
fn expired_malformed_and_exhausted_entries_reach_nobody() {
    let mut queue = queue();
    queue.join(worker(1), SHARD, Subscriber::somebody(), LIMIT);
    queue.told(worker(1), Word::Want(9));
    let exhausted = Work { attempts: LIMIT, again: true, ..work(4) };
    let some = vec![
        entry(1, &[("data", "x"), ("ttl_ms", "5")]),
        entry(2, &[("text", "x")]),
        entry(3, &[("data", "123456789")]),
        exhausted,
        work(5),
    ];
    take(&mut queue, some);
    assert_eq!(deal(&mut queue), [(worker(1), 5)]);
    let next = queue.plan(Instant::now(), LEASE, 2).unwrap();
    assert_eq!(next.done, [at(1)]);
    assert_eq!(next.letters.iter().map(|letter| letter.offset.ms).collect::<Vec<_>>(), [2, 3], "no more now");
    carry_out(&mut queue, next, vec![]);
    let next = plan(&mut queue);
    let [last] = &next.letters[..] else { panic!("{next:?}") };
    let field = |name: &str| {
        let value = last.addition.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value);
        value.map(|value| String::from_utf8(value.to_vec()).unwrap())
    };
    assert_eq!(last.addition.stream.as_str(), "tg:acme:dlq");
    assert_eq!((field("reason").as_deref(), field("attempts").as_deref()), (Some("attempts"), Some("3")));
    assert_eq!((field("channel").as_deref(), field("offset").as_deref()), (Some("queue:1"), Some("4-0")));
}

#[test]
fn what_the_backbone_did_not_hear_is_said_again() {
    let mut queue = queue();
    queue.join(worker(1), SHARD, Subscriber::somebody(), LIMIT);
    queue.told(worker(1), Word::Want(4));
    take(&mut queue, vec![work(1), work(2)]);
    deal(&mut queue);
    queue.told(worker(1), Word::Done(at(1)));
    queue.told(worker(1), Word::Return(held(2, 1)));
    queue.mark();
    let left = plan(&mut queue);
    let error = Some(BackboneError::Away("gone".into()));
    let now = Instant::now();
    queue.turned(Turned { left, error, ..Turned::default() }, 0, now);
    assert!(queue.plan(now, LEASE, 10).is_none(), "not at once");
    queue.mark();
    let next = plan(&mut queue);
    assert_eq!((next.done.clone(), next.back.clone(), next.take), (vec![at(1)], vec![held(2, 1)], 2));
    carry_out(&mut queue, next, vec![work(2)]);
    assert_eq!(deal(&mut queue), [(worker(1), 2)], "what went back can be had again");
}

#[test]
fn an_idle_queue_is_over_after_a_while() {
    let mut queue = queue();
    let now = Instant::now();
    assert!(!queue.is_over(now, LEASE));
    assert!(queue.is_over(now + LEASE, LEASE));
    queue.join(worker(1), SHARD, Subscriber::somebody(), LIMIT);
    assert!(!queue.is_over(now + 2 * LEASE, LEASE));
}

#[derive(Debug, Clone)]
enum Step {
    Add(u64),
    Want(u8, usize),
    /// A worker is done with one of its tasks, or gives it back.
    Done(u8, usize),
    Return(u8, usize),
    Pause(u8),
    Resume(u8),
    Leave(u8),
    /// A turn, of which so many steps reach the backbone.
    Turn(usize),
    /// Another node takes an entry over.
    Steal(usize),
    Later,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = || 1..=3_u8;
    let step = prop_oneof![
        4 => (1..5_u64).prop_map(Step::Add),
        4 => (who(), 1..4_usize).prop_map(|(who, count)| Step::Want(who, count)),
        4 => (who(), 0..4_usize).prop_map(|(who, which)| Step::Done(who, which)),
        2 => (who(), 0..4_usize).prop_map(|(who, which)| Step::Return(who, which)),
        1 => who().prop_map(Step::Pause),
        2 => who().prop_map(Step::Resume),
        1 => who().prop_map(Step::Leave),
        8 => prop_oneof![4 => Just(9), 1 => 0..4_usize].prop_map(Step::Turn),
        1 => (0..9_usize).prop_map(Step::Steal),
        1 => Just(Step::Later),
    ];
    prop::collection::vec(step, 1..150)
}

/// Where an entry is by the backbone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    Free,
    Ours,
    Theirs,
}

/// A backbone, and workers that follow the rules.
struct Model {
    queue: Queue,
    now: Instant,
    entries: BTreeMap<u64, (Is, u8)>,
    next: u64,
    attach: u32,
    /// Sessions: their present connection, and what they hold.
    workers: BTreeMap<u8, (Option<u32>, Vec<u64>)>,
}

impl Model {
    fn new() -> Self {
        let (now, entries, workers) = (Instant::now(), BTreeMap::new(), BTreeMap::new());
        Self { queue: queue(), now, entries, next: 0, attach: 0, workers }
    }

    fn id(&self, n: u8, attach: Option<u32>) -> WorkerId {
        WorkerId { attach: attach.unwrap_or(self.attach), ..worker(n) }
    }

    fn turn(&mut self, mut heard: usize) {
        self.now += Duration::from_secs(6);
        let Some(mut plan) = self.queue.plan(self.now, LEASE, 10) else { return };
        let mut turned = Turned::default();
        let mut goes = || {
            heard = heard.saturating_sub(1);
            heard > 0
        };
        if goes() {
            for offset in plan.done.drain(..) {
                self.entries.remove(&offset.ms);
                turned.finished.push(offset);
            }
        }
        if goes() {
            for held in plan.back.drain(..) {
                if let Some(entry) = self.entries.get_mut(&held.offset.ms).filter(|entry| entry.0 == Is::Ours)
                {
                    *entry = (Is::Free, held.attempts);
                }
                turned.returned.push(held.offset);
            }
        }
        if goes() {
            let is_ours =
                |held: &Held| self.entries.get(&held.offset.ms).is_some_and(|entry| entry.0 == Is::Ours);
            turned.lost = plan.keep.drain(..).filter(|held| !is_ours(held)).map(|held| held.offset).collect();
        }
        if goes() && plan.take > 0 {
            let free = self.entries.iter_mut().filter(|(_, entry)| entry.0 == Is::Free).take(plan.take);
            let taken = free.map(|(ms, entry)| {
                entry.0 = Is::Ours;
                Work { attempts: entry.1, ..work(*ms) }
            });
            turned.taken = Some((plan.take, taken.collect()));
            plan.take = 0;
        }
        if heard == 0 {
            turned.error = Some(BackboneError::Away("gone".into()));
        }
        turned.left = plan;
        let lost = self.queue.turned(turned, 0, self.now);
        for (worker, _, offset) in lost {
            for (n, (_, holds)) in &mut self.workers {
                if super::tests::worker(*n).session == worker.session {
                    holds.retain(|ms| *ms != offset.ms);
                }
            }
        }
    }

    fn deal(&mut self) -> Result<(), TestCaseError> {
        while let Some(Dealt { worker: to, task, .. }) = self.queue.deal(|_| true) {
            let ms = task.message.offset.ms;
            let holder = self.workers.iter().find(|(_, (_, holds))| holds.contains(&ms));
            // One that another node had and gave back may be with somebody who was not told yet.
            let stolen = self.entries.get(&ms).is_none_or(|entry| entry.0 == Is::Theirs);
            prop_assert!(holder.is_none() || stolen, "{ms} is with two sessions");
            let to = self.workers.iter_mut().find(|(n, _)| worker(**n).session == to.session);
            let Some((_, (Some(_), holds))) = to else {
                return Err(TestCaseError::fail("dealt to somebody without a connection"));
            };
            holds.push(ms);
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) {
        let mut with = |n: u8, which: usize| {
            let (attach, holds) = self.workers.get_mut(&n)?;
            (which < holds.len()).then(|| (*attach, holds.swap_remove(which)))
        };
        match *step {
            Step::Add(count) => {
                for _ in 0..count {
                    self.next += 1;
                    self.entries.insert(self.next, (Is::Free, 0));
                }
                self.queue.mark();
            }
            Step::Want(n, count) => {
                if let Some((Some(attach), _)) = self.workers.get(&n) {
                    self.queue.told(self.id(n, Some(*attach)), Word::Want(count));
                }
            }
            Step::Done(n, which) => {
                if let Some((attach, ms)) = with(n, which) {
                    self.queue.told(self.id(n, attach), Word::Done(at(ms)));
                }
            }
            Step::Return(n, which) => {
                if let Some((attach, ms)) = with(n, which) {
                    self.queue.told(self.id(n, attach), Word::Return(held(ms, 1)));
                }
            }
            Step::Pause(n) => {
                let Some((attach, holds)) = self.workers.get_mut(&n) else { return };
                let Some(attach) = attach.take() else { return };
                let held = holds.iter().map(|ms| held(*ms, 0)).collect();
                self.queue.told(self.id(n, Some(attach)), Word::Pause(held));
            }
            Step::Resume(n) => {
                self.attach += 1;
                self.workers.entry(n).or_default().0 = Some(self.attach);
                self.queue.join(self.id(n, Some(self.attach)), SHARD, Subscriber::somebody(), LIMIT);
            }
            Step::Leave(n) => {
                let Some((attach, holds)) = self.workers.remove(&n) else { return };
                let held = holds.iter().map(|ms| held(*ms, 0)).collect();
                self.queue.told(self.id(n, attach), Word::Leave(held));
            }
            Step::Turn(heard) => self.turn(heard),
            Step::Steal(which) => {
                let ours = self.entries.values_mut().filter(|entry| entry.0 == Is::Ours);
                if let Some(entry) = ours.into_iter().nth(which) {
                    entry.0 = Is::Theirs;
                }
            }
            Step::Later => self.now += LEASE,
        }
    }
}

proptest! {
    /// Whatever comes: an entry is with one session at a time, and in the end every entry is either free
    /// again, or another node's, or was done.
    #[test]
    fn no_entry_is_lost_or_with_two(steps in steps()) {
        let mut model = Model::new();
        let mut done = 0;
        for step in &steps {
            model.step(step);
            model.deal()?;
            done += usize::from(matches!(step, Step::Done(..)));
        }
        for n in 1..=3 {
            model.step(&Step::Leave(n));
        }
        for _ in 0..4 {
            model.turn(9);
            model.now += LEASE;
        }
        prop_assert!(model.queue.is_idle(), "something is still held: {:?}", model.queue.held.keys());
        prop_assert!(model.entries.values().all(|entry| entry.0 != Is::Ours), "{:?}", model.entries);
        prop_assert!(model.next as usize - model.entries.len() <= done, "an entry is gone that nobody did");
    }
}
