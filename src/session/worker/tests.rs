use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::delivery::View;
use crate::domain::{ChannelName, NamespaceRules, StreamKey, TenantId};
use crate::telemetry::Metrics;

const WINDOW: usize = 4;
const LIMIT: u8 = 3;
const ROOM: usize = 1 << 20;
const TIMEOUT: Duration = Duration::from_secs(30);

fn channel() -> Arc<Channel> {
    let tenant = TenantId::parse("acme").unwrap();
    let name = ChannelName::parse("queue:1").unwrap();
    let stream = StreamKey::channel(&tenant, &name);
    let metrics = Metrics::default().tenant(&tenant);
    let rules = Arc::new(NamespaceRules::queue("queue"));
    Arc::new(Channel { tenant, name, view: View::shared(stream), rules, max_payload: 1 << 16, metrics })
}

fn offset(ms: u64) -> Offset {
    Offset { ms, seq: 0 }
}

fn task(ms: u64) -> Task {
    let message = Arc::new(Publication { offset: offset(ms), data: "x".into(), ..Publication::default() });
    Task { message, attempts: 0, again: false }
}

/// What the last call asked for, in short.
#[derive(Debug, PartialEq)]
enum Said {
    Subscribed,
    Sent(u64, u8),
    Told(Word),
}

fn said(fx: &mut Effects) -> Vec<Said> {
    let said = |effect| match effect {
        Effect::Send(ServerFrame::Subscribed { .. }) => Said::Subscribed,
        Effect::Send(ServerFrame::Message { message, attempt, .. }) => Said::Sent(message.offset.ms, attempt),
        Effect::Tell { worker: 0, word } => Said::Told(word),
        other => panic!("{other:?}"),
    };
    fx.drain(..).map(said).collect()
}

fn returned(ms: u64, attempts: u8) -> Said {
    Said::Told(Word::Return(Held { offset: offset(ms), attempts }))
}

struct Rig {
    worker: Worker,
    now: Instant,
    fx: Effects,
}

impl Rig {
    fn new(window: usize) -> Self {
        let limits =
            Limits { attempts: LIMIT, ack_timeout_ms: TIMEOUT.as_millis() as u64, ..Limits::default() };
        let worker = Worker::new(channel(), window, &limits, Some(1));
        Self { worker, now: Instant::now(), fx: Effects::new() }
    }

    fn open(window: usize) -> Self {
        let mut rig = Self::new(window);
        rig.reopen();
        assert_eq!(rig.said(), [Said::Subscribed, Said::Told(Word::Want(window))]);
        rig
    }

    fn reopen(&mut self) {
        self.worker.on_opened(channel(), Epoch(1), &mut self.fx);
        self.worker.pursue(0, self.now, ROOM, &mut self.fx);
    }

    fn said(&mut self) -> Vec<Said> {
        said(&mut self.fx)
    }

    fn take(&mut self, task: Task) -> Vec<Said> {
        self.worker.on_task(0, task, self.now, ROOM, &mut self.fx);
        self.said()
    }

    fn ack(&mut self, ms: u64) -> Result<Vec<Said>, NotInFlight> {
        self.worker.ack(0, offset(ms), &mut self.fx)?;
        Ok(self.said())
    }

    fn nack(&mut self, ms: u64, delay: Duration) -> Result<Vec<Said>, NotInFlight> {
        self.worker.nack(0, offset(ms), self.now + delay, self.now, &mut self.fx)?;
        Ok(self.said())
    }

    /// Time passes; the client was heard until now, or never.
    fn pass(&mut self, time: Duration, is_alive: bool) -> Vec<Said> {
        let heard = self.now + if is_alive { time } else { Duration::ZERO };
        self.now += time;
        self.worker.on_time(0, self.now, heard, &mut self.fx);
        self.said()
    }
}

#[test]
fn it_asks_for_as_much_as_its_window_and_not_one_by_one() {
    let mut rig = Rig::open(WINDOW);
    for ms in 1..=4 {
        assert_eq!(rig.take(task(ms)), [Said::Sent(ms, 1)]);
    }
    let done = |ms| Said::Told(Word::Done(offset(ms)));
    assert_eq!(rig.ack(2), Ok(vec![done(2), Said::Told(Word::Want(1))]), "nothing more was on its way");
    assert_eq!(rig.ack(1), Ok(vec![done(1)]));
    assert_eq!(rig.ack(3), Ok(vec![done(3), Said::Told(Word::Want(2))]));
    assert_eq!(rig.ack(3), Err(NotInFlight));
    assert_eq!(rig.ack(9), Err(NotInFlight), "it never had it");
}

#[test]
fn what_is_overdue_goes_back_if_the_client_lives() {
    let mut rig = Rig::open(1);
    rig.take(task(1));
    assert_eq!(rig.pass(TIMEOUT, false), [], "its heartbeat decides");
    assert_eq!(rig.pass(TIMEOUT, true), [returned(1, 1), Said::Told(Word::Want(1))]);
    // Its work may be done all the same, once.
    assert_eq!(rig.ack(1), Ok(vec![Said::Told(Word::Done(offset(1)))]));
    assert_eq!(rig.ack(1), Err(NotInFlight));
}

#[test]
fn a_nack_gives_back_after_its_delay() {
    let mut rig = Rig::open(2);
    rig.take(task(1));
    rig.take(Task { attempts: 1, again: true, ..task(2) });
    assert_eq!(rig.nack(2, Duration::ZERO), Ok(vec![returned(2, 2), Said::Told(Word::Want(1))]));
    assert_eq!(rig.nack(1, Duration::from_secs(5)), Ok(vec![]));
    assert_eq!(rig.worker.next_time(), Some(rig.now + Duration::from_secs(5)));
    assert_eq!(rig.pass(Duration::from_secs(4), true), []);
    assert_eq!(rig.pass(Duration::from_secs(1), false), [returned(1, 1), Said::Told(Word::Want(1))]);
    assert_eq!(rig.nack(1, Duration::ZERO), Err(NotInFlight));
}

#[test]
fn an_ack_in_time_ends_a_nack() {
    let mut rig = Rig::open(1);
    rig.take(task(1));
    assert_eq!(rig.nack(1, Duration::from_secs(5)), Ok(vec![]));
    assert_eq!(rig.ack(1), Ok(vec![Said::Told(Word::Done(offset(1))), Said::Told(Word::Want(1))]));
    assert_eq!(rig.pass(TIMEOUT, true), []);
}

#[test]
fn work_survives_a_connection_and_is_sent_again() {
    let mut rig = Rig::open(WINDOW);
    (1..=3).for_each(|ms| assert_eq!(rig.take(task(ms)), [Said::Sent(ms, 1)]));
    rig.nack(3, Duration::from_secs(60)).unwrap();
    let heard = rig.now + Duration::from_secs(1);
    let kept = |ms, attempts| Held { offset: offset(ms), attempts };
    let Word::Pause(mut held) = rig.worker.interrupt(heard) else { panic!("not a pause") };
    held.sort_by_key(|held| held.offset);
    assert_eq!(held, [kept(1, 1), kept(2, 1), kept(3, 1)], "the client was heard after it got them");
    assert_eq!(rig.take(task(4)), [returned(4, 0)], "nothing is taken without a connection");
    assert_eq!(
        rig.ack(2),
        Ok(vec![Said::Told(Word::Done(offset(2)))]),
        "it may say so before it is subscribed"
    );
    rig.reopen();
    assert_eq!(rig.said(), [Said::Subscribed, Said::Sent(1, 2), Said::Told(Word::Want(2))]);
    assert_eq!(rig.pass(Duration::from_secs(60), false), [returned(3, 1)], "its delay went on");
}

#[test]
fn a_delivery_that_nobody_proved_does_not_count() {
    let mut rig = Rig::open(1);
    rig.take(task(1));
    for attempt in 2..10 {
        let heard = rig.now;
        assert_eq!(rig.worker.interrupt(heard), Word::Pause(vec![Held { offset: offset(1), attempts: 0 }]));
        rig.reopen();
        assert_eq!(rig.said(), [Said::Subscribed, Said::Sent(1, attempt)]);
    }
    // Three that do count are too many.
    for _ in 0..LIMIT {
        rig.now += Duration::from_secs(1);
        let heard = rig.now;
        rig.worker.interrupt(heard);
        rig.reopen();
    }
    assert_eq!(rig.said().last(), Some(&Said::Told(Word::Want(1))));
    assert_eq!(rig.ack(1), Err(NotInFlight), "it went back to be given up");
}

#[test]
fn what_finds_no_room_goes_back_and_nothing_is_asked_for_until_there_is() {
    let mut rig = Rig::open(WINDOW);
    rig.worker.on_task(0, task(1), rig.now, 0, &mut rig.fx);
    assert_eq!(rig.said(), [returned(1, 0)]);
    rig.worker.pursue(0, rig.now, ROOM, &mut rig.fx);
    assert_eq!(rig.said(), [], "three are still on their way");
    let large = |ms| {
        let message =
            Publication { offset: offset(ms), data: vec![0; 200 << 10].into(), ..Publication::default() };
        Task { message: Arc::new(message), attempts: 0, again: false }
    };
    assert_eq!(rig.take(large(2)), [Said::Sent(2, 1)]);
    assert_eq!(rig.take(large(3)), [returned(3, 0)], "over its budget of bytes");
    rig.worker.pursue(0, rig.now, ROOM, &mut rig.fx);
    assert_eq!(rig.said(), []);
    assert_eq!(rig.ack(2), Ok(vec![Said::Told(Word::Done(offset(2)))]), "one is still on its way");
    rig.take(large(4));
    rig.nack(4, Duration::from_secs(9)).unwrap();
    let said = rig.ack(4);
    assert_eq!(said, Ok(vec![Said::Told(Word::Done(offset(4))), Said::Told(Word::Want(2))]), "as may fit");
}

#[test]
fn what_another_node_has_is_not_sent_again_but_may_be_done() {
    let mut rig = Rig::open(2);
    rig.take(task(1));
    rig.take(task(2));
    rig.worker.on_lost(offset(1));
    rig.worker.on_lost(offset(2));
    assert_eq!(rig.ack(1), Ok(vec![Said::Told(Word::Done(offset(1))), Said::Told(Word::Want(1))]));
    assert_eq!(rig.pass(TIMEOUT, true), [Said::Told(Word::Want(1))], "nothing of ours goes back");
    rig.take(task(3));
    rig.worker.on_lost(offset(3));
    assert_eq!(rig.worker.interrupt(rig.now), Word::Pause(vec![]));
}

#[test]
fn what_another_node_took_meanwhile_is_not_sent_to_who_comes_back() {
    let mut rig = Rig::open(2);
    rig.take(task(1));
    rig.take(task(2));
    // Tried as often as allowed: without the other node it would go back now, to be given up.
    for _ in 0..LIMIT - 1 {
        rig.now += Duration::from_secs(1);
        let heard = rig.now;
        rig.worker.interrupt(heard);
        rig.reopen();
    }
    rig.said();
    rig.now += Duration::from_secs(1);
    let heard = rig.now;
    rig.worker.interrupt(heard);
    rig.worker.on_lost(offset(1));
    rig.reopen();
    assert_eq!(rig.said(), [Said::Subscribed, returned(2, LIMIT), Said::Told(Word::Want(2))]);
    assert_eq!(rig.ack(1), Ok(vec![Said::Told(Word::Done(offset(1)))]), "it was done before");
}

#[derive(Debug, Clone)]
enum Step {
    /// The queue deals so many of the tasks that it may.
    Deal(usize),
    Ack(usize),
    Nack(usize, u64),
    Pass(u64, bool),
    Lose,
    Open,
    Lost(usize),
    Full,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1..6_usize).prop_map(Step::Deal),
        4 => (0..8_usize).prop_map(Step::Ack),
        2 => (0..8_usize, 0..3_u64).prop_map(|(which, s)| Step::Nack(which, s * 20)),
        2 => (1..60_u64, any::<bool>()).prop_map(|(s, alive)| Step::Pass(s, alive)),
        1 => Just(Step::Lose),
        2 => Just(Step::Open),
        1 => (0..8_usize).prop_map(Step::Lost),
        1 => Just(Step::Full),
    ];
    prop::collection::vec(step, 1..120)
}

/// What a queue may think of one worker.
#[derive(Default)]
struct Model {
    /// Dealt, and neither done nor returned.
    with: BTreeSet<u64>,
    /// Lost to another node.
    lost: BTreeSet<u64>,
    wanted: usize,
    open: bool,
}

impl Model {
    fn hears(&mut self, said: &[Said]) -> Result<(), TestCaseError> {
        for said in said {
            match said {
                Said::Told(Word::Want(more)) => self.wanted += more,
                Said::Told(Word::Done(offset)) => {
                    self.with.remove(&offset.ms);
                }
                Said::Told(Word::Return(held)) => {
                    prop_assert!(self.with.remove(&held.offset.ms), "it never had {}", held.offset);
                    prop_assert!(!self.lost.contains(&held.offset.ms), "{} is another's", held.offset);
                }
                Said::Told(Word::Pause(held)) => {
                    self.with.retain(|ms| !self.lost.contains(ms));
                    let held: BTreeSet<_> = held.iter().map(|held| held.offset.ms).collect();
                    prop_assert_eq!(&held, &self.with, "what it keeps");
                    (self.wanted, self.open) = (0, false);
                }
                Said::Told(Word::Leave(_) | Word::Is(_)) => {}
                Said::Subscribed => self.open = true,
                Said::Sent(ms, attempt) => {
                    prop_assert!(self.with.contains(ms) && *attempt > 0);
                    prop_assert!(self.open, "sent before it was subscribed");
                }
            }
        }
        prop_assert!(self.wanted + self.with.len() <= WINDOW, "more than its window");
        Ok(())
    }
}

proptest! {
    /// Whatever comes: a task is with the worker until it says that it is done or goes back, never more than
    /// the window, and in the end everything is accounted for.
    #[test]
    fn no_task_is_forgotten(steps in steps()) {
        let (mut rig, mut model, mut next) = (Rig::new(WINDOW), Model::default(), 0);
        for step in steps {
            let some = |which: usize, model: &Model| model.with.iter().nth(which).copied().unwrap_or(next);
            let said = match step {
                Step::Deal(count) => {
                    let mut all = Vec::new();
                    for _ in 0..count.min(model.wanted) {
                        next += 1;
                        model.wanted -= 1;
                        model.with.insert(next);
                        all.extend(rig.take(task(next)));
                    }
                    all
                }
                Step::Ack(which) => rig.ack(some(which, &model)).unwrap_or_default(),
                Step::Nack(which, s) => {
                    rig.nack(some(which, &model), Duration::from_secs(s)).unwrap_or_default()
                }
                Step::Pass(s, is_alive) => rig.pass(Duration::from_secs(s), is_alive),
                Step::Lose => {
                    let heard = rig.now;
                    vec![Said::Told(rig.worker.interrupt(heard))]
                }
                Step::Open => {
                    rig.reopen();
                    rig.said()
                }
                Step::Lost(which) => {
                    let which = some(which, &model);
                    model.lost.insert(which);
                    rig.worker.on_lost(offset(which));
                    Vec::new()
                }
                Step::Full if model.wanted > 0 => {
                    next += 1;
                    model.wanted -= 1;
                    model.with.insert(next);
                    rig.worker.on_task(0, task(next), rig.now, 0, &mut rig.fx);
                    rig.said()
                }
                Step::Full => Vec::new(),
            };
            model.with.retain(|ms| !model.lost.contains(ms) || rig.worker.find(offset(*ms)).is_some());
            model.hears(&said)?;
        }
        let Word::Leave(held) = rig.worker.leave() else { panic!("not a leave") };
        let held: BTreeSet<_> = held.iter().map(|held| held.offset.ms).collect();
        model.with.retain(|ms| !model.lost.contains(ms));
        prop_assert_eq!(held, model.with, "what goes back in the end");
    }
}
