//! Single decisions of a subscription.

use super::model_tests::channel;
use super::*;

fn at(ms: u64) -> Offset {
    Offset { ms, seq: 0 }
}

fn tail(ms: u64, epoch: u64) -> Tail {
    Tail { last: at(ms), first: None, added: None, epoch: Epoch(epoch) }
}

fn page(after: u64, items: &[u64], until: u64, whole: bool, epoch: u64) -> Batch {
    let message = |ms: u64| Publication { offset: at(ms), ..Publication::default() };
    let item = |ms: &u64| Item { offset: at(*ms), message: Some(Arc::new(message(*ms))) };
    let items = items.iter().map(item).collect();
    let stream = channel(false).stream.clone();
    Batch { stream, after: at(after), until: at(until), epoch: Epoch(epoch), whole, more: false, items }
}

fn moment(now: Instant) -> Moment {
    Moment { now, clock_ms: 0, room: 1 << 20 }
}

fn subscription(from: From, acking: bool) -> Subscription {
    let wish = Wish { id: None, from, store_start: false };
    Subscription::new(channel(false), acking, 8, &Limits::default(), wish)
}

/// A subscription that is live at an offset, in epoch 1.
fn live(ms: u64, acking: bool) -> (Subscription, Effects) {
    let (mut sub, mut fx) = (subscription(From::Client(at(ms), Some(Epoch(1))), acking), Effects::new());
    sub.on_open(0, &tail(ms, 1), &mut fx);
    sub.pursue(0, at(ms), 1, &mut fx);
    assert!(sub.is_live());
    fx.clear();
    (sub, fx)
}

fn recovered(fx: &Effects) -> Option<bool> {
    let said = |effect: &Effect| match effect {
        Effect::Send(ServerFrame::Subscribed { recovered, .. }) => Some(*recovered),
        _ => None,
    };
    fx.iter().find_map(said).expect("`subscribed` is said")
}

fn gaps(fx: &Effects) -> Vec<(u64, u64, GapReason)> {
    let gap = |effect: &Effect| match effect {
        Effect::Send(ServerFrame::Gap { after, until, reason, .. }) => Some((after.ms, until.ms, *reason)),
        _ => None,
    };
    fx.iter().filter_map(gap).collect()
}

#[test]
fn a_position_at_the_end_needs_no_proof() {
    let (mut sub, mut fx) = (subscription(From::Client(at(5), None), false), Effects::new());
    sub.on_open(0, &tail(5, 1), &mut fx);
    assert_eq!(recovered(&fx), Some(true));
}

#[test]
fn an_older_position_waits_for_its_proof() {
    let (mut sub, mut fx) = (subscription(From::Client(at(5), Some(Epoch(1))), false), Effects::new());
    sub.on_open(0, &tail(9, 1), &mut fx);
    assert_eq!(fx, [Effect::Read { sub: 0, after: at(5) }]);
    fx.clear();
    sub.on_page(0, at(5), &page(5, &[7, 9], 9, true, 1), moment(Instant::now()), &mut fx);
    assert_eq!(recovered(&fx), Some(true));
    assert_eq!(fx[1..], [Effect::Deliver { index: 0 }, Effect::Deliver { index: 1 }]);
}

#[test]
fn what_is_not_proven_is_a_gap_and_so_is_another_epoch() {
    for (whole, epoch, expected) in
        [(false, 1, (5, 7, GapReason::Trimmed)), (true, 2, (5, 5, GapReason::Epoch))]
    {
        let (mut sub, mut fx) = (subscription(From::Client(at(5), Some(Epoch(1))), false), Effects::new());
        sub.on_open(0, &tail(9, 1), &mut fx);
        fx.clear();
        let mut batch = page(5, &[8], 8, whole, epoch);
        batch.items[0].offset.seq = 0;
        sub.on_page(0, at(5), &batch, moment(Instant::now()), &mut fx);
        assert_eq!(recovered(&fx), Some(false));
        assert_eq!(gaps(&fx), [expected]);
    }
}

#[test]
fn a_live_batch_that_does_not_follow_is_told_or_read() {
    let (mut sub, mut fx) = live(5, false);
    sub.on_live(0, &page(5, &[9], 9, false, 1), moment(Instant::now()), &mut fx);
    assert_eq!(gaps(&fx), [(5, 8, GapReason::Trimmed)]);
    let (mut sub, mut fx) = live(5, false);
    sub.on_live(0, &page(7, &[9], 9, true, 1), moment(Instant::now()), &mut fx);
    assert!(fx.is_empty() && !sub.is_live());
    sub.pursue(0, at(9), 1, &mut fx);
    assert_eq!(fx, [Effect::Read { sub: 0, after: at(5) }]);
}

#[test]
fn without_room_nothing_is_asked_for() {
    let (mut sub, mut fx) = live(5, false);
    sub.on_lagged();
    sub.pursue(0, at(9), 0, &mut fx);
    assert!(fx.is_empty());
    sub.pursue(0, at(9), 1, &mut fx);
    assert_eq!(fx, [Effect::Read { sub: 0, after: at(5) }]);
}

#[test]
fn a_broken_proof_is_asked_for_again_by_the_next_connection() {
    let (mut sub, mut fx) = (subscription(From::Client(at(5), None), false), Effects::new());
    sub.on_open(0, &tail(9, 1), &mut fx);
    sub.interrupt(Instant::now());
    fx.clear();
    sub.on_open(0, &tail(9, 1), &mut fx);
    assert_eq!(fx, [Effect::Read { sub: 0, after: at(5) }]);
}

#[test]
fn rereading_goes_on_until_the_last_and_gives_up_what_the_log_lost() {
    let start = Instant::now();
    let (mut sub, mut fx) = live(5, true);
    sub.on_live(0, &page(5, &[6, 7], 7, true, 1), moment(start), &mut fx);
    assert_eq!(sub.due_soon(start), Some(start + sub.ack_timeout));
    sub.interrupt(start);
    sub.on_open(0, &tail(7, 1), &mut fx);
    fx.clear();
    sub.pursue(0, at(7), 1, &mut fx);
    assert_eq!(fx, [Effect::Read { sub: 0, after: at(5) }], "and not live before it is sent again");
    fx.clear();
    sub.on_page(0, at(5), &page(5, &[6], 6, true, 1), moment(start), &mut fx);
    assert_eq!(fx, [Effect::Redeliver { index: 0, attempt: 2 }, Effect::Read { sub: 0, after: at(6) }]);
    fx.clear();
    sub.on_page(0, at(6), &page(6, &[], 6, false, 1), moment(start), &mut fx);
    assert_eq!(gaps(&fx).len(), 1, "7 is gone");
    assert_eq!(sub.window.head(), Some(at(6)));
}
