//! Single decisions of a subscription.

use super::model_tests::channel;
use super::*;
use crate::backbone::Tail;
use crate::delivery::{Batch, Item, View};
use crate::domain::{CloseReason, OnSlow, Publication};
use crate::protocol::{GapReason, ServerFrame};

const fn at(ms: u64) -> Offset {
    Offset { ms, seq: 0 }
}

fn tail(ms: u64, epoch: u64) -> Tail {
    Tail { last: at(ms), first: None, added: None, epoch: Epoch(epoch) }
}

fn page(after: u64, items: &[u64], until: u64, whole: bool, epoch: u64) -> Batch {
    let message = |ms: u64| Publication { offset: at(ms), ..Publication::default() };
    let item = |ms: &u64| Item::new(at(*ms), Some(Arc::new(message(*ms))));
    let items = items.iter().map(item).collect();
    let stream = channel(false, OnSlow::Pause).view.stream.clone();
    Batch {
        view: View::shared(stream),
        after: at(after),
        until: at(until),
        epoch: Epoch(epoch),
        whole,
        more: false,
        items,
    }
}

fn moment(now: Instant) -> Moment {
    Moment { now, clock_ms: 0, room: 1 << 20, session: SessionId::from_bytes([7; 16]) }
}

const ROOM: Room = Room { bytes: 1 << 20, blocked: false };
const NO_ROOM: Room = Room { bytes: 0, blocked: true };

/// The channel ends here, and nothing is left out.
fn reach(ms: u64) -> Reach {
    Reach { end: at(ms), newest: Offset::ZERO }
}

fn subscription(from: From, acking: bool) -> Subscription {
    subscription_in(OnSlow::Pause, from, acking)
}

fn subscription_in(on_slow: OnSlow, from: From, acking: bool) -> Subscription {
    let wish = Wish { id: None, from, store_start: false };
    Subscription::new(channel(false, on_slow), acking, 8, &Limits::default(), wish)
}

/// A subscription that is live at an offset, in epoch 1.
fn live(ms: u64, acking: bool) -> (Subscription, Effects) {
    live_in(OnSlow::Pause, ms, acking)
}

fn live_in(on_slow: OnSlow, ms: u64, acking: bool) -> (Subscription, Effects) {
    let from = From::Client(at(ms), Some(Epoch(1)));
    let (mut sub, mut fx) = (subscription_in(on_slow, from, acking), Effects::new());
    sub.on_open(0, &tail(ms, 1), &mut fx);
    sub.pursue(0, reach(ms), ROOM, &mut fx);
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
    sub.pursue(0, reach(9), ROOM, &mut fx);
    assert_eq!(fx, [Effect::Read { sub: 0, after: at(5) }]);
}

#[test]
fn without_room_nothing_is_asked_for() {
    let (mut sub, mut fx) = live(5, false);
    sub.on_lagged();
    sub.pursue(0, reach(9), NO_ROOM, &mut fx);
    assert!(fx.is_empty());
    sub.pursue(0, reach(9), ROOM, &mut fx);
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
    sub.pursue(0, reach(7), ROOM, &mut fx);
    assert_eq!(fx, [Effect::Read { sub: 0, after: at(5) }], "and not live before it is sent again");
    fx.clear();
    sub.on_page(0, at(5), &page(5, &[6], 6, true, 1), moment(start), &mut fx);
    assert_eq!(fx, [Effect::Redeliver { index: 0, attempt: 2 }, Effect::Read { sub: 0, after: at(6) }]);
    fx.clear();
    sub.on_page(0, at(6), &page(6, &[], 6, false, 1), moment(start), &mut fx);
    assert_eq!(gaps(&fx).len(), 1, "7 is gone");
    assert_eq!(sub.window.head(), Some(at(6)));
}

// ---- slow subscriptions --------------------------------------------------------------------------------

/// A page whose last messages have no room behind so many of the first.
fn moment_for(messages: usize) -> Moment {
    let bytes = Item::new(at(1), None).bytes();
    Moment { room: messages * bytes, ..moment(Instant::now()) }
}

/// A subscription that was live at 5 and took one message of the two that came.
fn fallen(on_slow: OnSlow) -> (Subscription, Effects) {
    let (mut sub, mut fx) = live_in(on_slow, 5, false);
    sub.on_live(0, &page(5, &[6, 7], 7, true, 1), moment_for(1), &mut fx);
    assert_eq!(fx, [Effect::Deliver { index: 0 }]);
    assert!(!sub.is_live());
    fx.clear();
    (sub, fx)
}

/// The channel ends at 50, the newest few lie after 40.
const FAR: Reach = Reach { end: at(50), newest: at(40) };

#[test]
fn pause_goes_on_where_it_stopped() {
    let (mut sub, mut fx) = fallen(OnSlow::Pause);
    sub.pursue(0, FAR, NO_ROOM, &mut fx);
    assert!(fx.is_empty(), "nothing is read that there is no room for");
    sub.pursue(0, FAR, ROOM, &mut fx);
    assert_eq!(fx, [Effect::Read { sub: 0, after: at(6) }]);
}

#[test]
fn drop_oldest_goes_on_with_the_newest_and_tells_the_rest() {
    let (mut sub, mut fx) = fallen(OnSlow::DropOldest);
    sub.pursue(0, FAR, NO_ROOM, &mut fx);
    assert!(fx.is_empty());
    sub.pursue(0, FAR, ROOM, &mut fx);
    assert_eq!(gaps(&fx), [(6, 40, GapReason::Slow)]);
    assert_eq!(fx[1..], [Effect::Read { sub: 0, after: at(40) }]);
    fx.clear();
    sub.on_page(0, at(40), &page(40, &[45, 50], 50, true, 1), moment(Instant::now()), &mut fx);
    assert_eq!(fx, [Effect::Deliver { index: 0 }, Effect::Deliver { index: 1 }]);
    sub.pursue(0, FAR, ROOM, &mut fx);
    assert!(sub.is_live());
}

#[test]
fn a_burst_makes_nobody_slow_while_the_socket_takes_it() {
    let (mut sub, mut fx) = fallen(OnSlow::DropOldest);
    sub.pursue(0, FAR, Room { bytes: 0, blocked: false }, &mut fx);
    sub.pursue(0, FAR, ROOM, &mut fx);
    assert_eq!(fx, [Effect::Read { sub: 0, after: at(6) }]);
}

#[test]
fn who_catches_up_is_not_slow() {
    for on_slow in [OnSlow::DropOldest, OnSlow::Disconnect] {
        let from = From::Client(at(5), Some(Epoch(1)));
        let (mut sub, mut fx) = (subscription_in(on_slow, from, false), Effects::new());
        sub.on_open(0, &tail(50, 1), &mut fx);
        sub.on_page(0, at(5), &page(5, &[6, 7], 50, true, 1), moment_for(1), &mut fx);
        fx.clear();
        sub.pursue(0, FAR, NO_ROOM, &mut fx);
        sub.pursue(0, FAR, ROOM, &mut fx);
        assert_eq!(fx, [Effect::Read { sub: 0, after: at(6) }], "{on_slow:?}");
    }
}

#[test]
fn a_full_window_is_slow_too_but_no_reason_to_hang_up() {
    for (on_slow, told) in
        [(OnSlow::DropOldest, vec![(6, 40, GapReason::Slow)]), (OnSlow::Disconnect, vec![])]
    {
        let (mut sub, mut fx) = live_in(on_slow, 5, true);
        sub.window.set_limit(1);
        sub.on_live(0, &page(5, &[6, 7], 7, true, 1), moment(Instant::now()), &mut fx);
        sub.pursue(0, FAR, ROOM, &mut fx);
        assert!(!fx.iter().any(|effect| matches!(effect, Effect::Close { .. })));
        sub.ack(0, at(6), &mut fx).unwrap();
        sub.pursue(0, FAR, ROOM, &mut fx);
        assert_eq!(gaps(&fx), told, "{on_slow:?}");
    }
}

#[test]
fn disconnect_hangs_up_on_who_takes_nothing() {
    let (mut sub, mut fx) = fallen(OnSlow::Disconnect);
    sub.pursue(0, FAR, Room { bytes: 0, blocked: false }, &mut fx);
    assert!(fx.is_empty(), "it has not been seen to take nothing");
    sub.pursue(0, FAR, NO_ROOM, &mut fx);
    assert!(matches!(fx[..], [Effect::Close { reason: CloseReason::SlowConsumer, .. }]), "{fx:?}");
}

#[test]
fn conflation_leaves_out_what_is_superseded_for_those_who_catch_up() {
    let (mut sub, mut fx) = fallen(OnSlow::Conflate);
    sub.pursue(0, FAR, NO_ROOM, &mut fx);
    sub.pursue(0, FAR, ROOM, &mut fx);
    fx.clear();
    let mut batch = page(6, &[7, 8, 9], 9, true, 1);
    batch.items[0].superseded = true;
    batch.items[2].superseded = true;
    let now = Instant::now();
    sub.on_page(0, at(6), &batch, moment(now), &mut fx);
    assert_eq!(fx, [Effect::Deliver { index: 1 }], "and no gap");
    fx.clear();
    sub.on_time(0, now, now, &mut fx);
    assert!(
        matches!(fx[..], [Effect::Send(ServerFrame::Position { offset, .. })] if offset == at(9)),
        "{fx:?}"
    );
}

#[test]
fn a_burst_is_not_conflated() {
    let (mut sub, mut fx) = fallen(OnSlow::Conflate);
    sub.pursue(0, FAR, ROOM, &mut fx);
    fx.clear();
    let mut batch = page(6, &[7, 8], 8, true, 1);
    batch.items[0].superseded = true;
    sub.on_page(0, at(6), &batch, moment(Instant::now()), &mut fx);
    assert_eq!(fx, [Effect::Deliver { index: 0 }, Effect::Deliver { index: 1 }]);
}

#[test]
fn what_was_sent_is_sent_again_even_where_it_is_superseded() {
    let start = Instant::now();
    let (mut sub, mut fx) = live_in(OnSlow::Conflate, 5, true);
    sub.on_live(0, &page(5, &[6], 6, true, 1), moment(start), &mut fx);
    sub.nack(at(6), start).unwrap();
    sub.on_time(0, start, start, &mut fx);
    fx.clear();
    let mut batch = page(5, &[6], 6, true, 1);
    batch.items[0].superseded = true;
    sub.on_page(0, at(5), &batch, moment(start), &mut fx);
    assert_eq!(fx, [Effect::Redeliver { index: 0, attempt: 2 }]);
}

// ---- spread --------------------------------------------------------------------------------------------

/// A page whose first message is spread.
fn spread_page(spread_ms: u64) -> Batch {
    let mut batch = page(5, &[1_000, 1_001], 1_001, true, 1);
    let message = Publication { offset: at(1_000), spread_ms: Some(spread_ms), ..Publication::default() };
    batch.items[0].message = Some(Arc::new(message));
    batch
}

#[test]
fn a_spread_message_waits_for_its_moment_and_what_follows_waits_behind_it() {
    let (start, batch) = (Instant::now(), spread_page(1_000_000));
    let (mut sub, mut fx) = live(5, false);
    let early = Moment { clock_ms: 1_000, ..moment(start) };
    sub.on_live(0, &batch, early, &mut fx);
    assert!(fx.is_empty());
    assert_eq!(sub.position(), at(5), "it waits in the log");
    let wait = early.session.share(at(1_000)) % 1_000_000;
    let due = start + Duration::from_millis(wait);
    assert_eq!((sub.due_soon(start), sub.next_time()), (Some(due), Some(due)));
    sub.pursue(0, reach(1_001), ROOM, &mut fx);
    sub.on_time(0, due - Duration::from_millis(1), start, &mut fx);
    assert!(fx.is_empty(), "nothing is read before");
    sub.on_time(0, due, start, &mut fx);
    assert_eq!(fx, [Effect::Pursue { sub: 0 }]);
    fx.clear();
    sub.pursue(0, reach(1_001), ROOM, &mut fx);
    assert_eq!(fx, [Effect::Read { sub: 0, after: at(5) }]);
    fx.clear();
    sub.on_page(0, at(5), &batch, Moment { clock_ms: 1_000 + wait, ..moment(due) }, &mut fx);
    assert_eq!(fx, [Effect::Deliver { index: 0 }, Effect::Deliver { index: 1 }]);
}

#[test]
fn sessions_share_the_time_of_a_spread_message_among_them() {
    let shares = (0..=255_u8).map(|n| SessionId::from_bytes([n; 16]).share(at(1_000)) % 1_000);
    let quarters = shares.fold([0; 4], |mut quarters, share| {
        quarters[(share / 250) as usize] += 1;
        quarters
    });
    assert!(quarters.iter().all(|sessions| (32..=96).contains(sessions)), "{quarters:?}");
}

#[test]
fn an_old_message_is_spread_no_more() {
    let (mut sub, mut fx) = live(5, false);
    let late = Moment { clock_ms: 1_000 + 50, ..moment(Instant::now()) };
    sub.on_live(0, &spread_page(50), late, &mut fx);
    assert_eq!(fx.len(), 2, "{fx:?}");
}

// ---- what is stored ------------------------------------------------------------------------------------

#[test]
fn the_stored_cursor_stays_before_a_gap_until_the_client_surely_has_it() {
    let start = Instant::now();
    let (mut sub, mut fx) = live(5, true);
    let before = sub.cursor();
    sub.on_live(0, &page(5, &[9], 9, false, 1), moment(start), &mut fx);
    assert_eq!(gaps(&fx), [(5, 8, GapReason::Trimmed)]);
    assert_eq!(sub.cursor(), before);
    sub.ack(0, at(9), &mut fx).unwrap();
    assert_eq!(sub.cursor().position.offset, at(9), "it came after the gap");
}

#[test]
fn a_client_that_is_heard_after_a_gap_has_it() {
    let start = Instant::now();
    let (mut sub, mut fx) = live(5, true);
    sub.on_live(0, &page(5, &[], 9, false, 1), moment(start), &mut fx);
    let second = Duration::from_secs(1);
    sub.on_time(0, start + second, start, &mut fx);
    sub.on_time(0, start + 2 * second, start, &mut fx);
    assert_eq!(sub.cursor().position.offset, at(5), "it was not heard");
    fx.clear();
    sub.on_time(0, start + 3 * second, start + 2 * second, &mut fx);
    assert_eq!(sub.cursor().position.offset, at(9));
    assert_eq!(fx, [Effect::CursorMoved { sub: 0 }]);
}

#[test]
fn attempts_belong_to_the_message_that_was_tried() {
    let position = Position { offset: at(5), epoch: Epoch(1) };
    let stored = Cursor { position, attempts: 2, head: Some(at(6)) };
    for (next, attempt) in [(6, 3), (7, 1)] {
        let (mut sub, mut fx) = (subscription(From::Stored(stored), true), Effects::new());
        sub.on_open(0, &tail(9, 1), &mut fx);
        assert_eq!(sub.last_cursor(), Some(stored));
        fx.clear();
        sub.on_page(0, at(5), &page(5, &[next], 9, true, 1), moment(Instant::now()), &mut fx);
        assert_eq!(sub.window.inherited_by(at(6)), 0);
        let sent = match fx[1] {
            Effect::Deliver { .. } => 1,
            Effect::Redeliver { attempt, .. } => attempt,
            ref other => panic!("{other:?}"),
        };
        assert_eq!(sent, attempt, "{next}");
    }
}

#[test]
fn attempts_stay_with_a_message_that_comes_after_a_gap() {
    let position = Position { offset: at(5), epoch: Epoch(1) };
    let stored = Cursor { position, attempts: 2, head: Some(at(8)) };
    // What lies before it was trimmed, or it was trimmed too.
    for (next, attempt) in [(8, 3), (9, 1)] {
        let (mut sub, mut fx) = (subscription(From::Stored(stored), true), Effects::new());
        sub.on_open(0, &tail(9, 1), &mut fx);
        fx.clear();
        sub.on_page(0, at(5), &page(5, &[next], 9, false, 1), moment(Instant::now()), &mut fx);
        let sent = |effect: &Effect| match effect {
            Effect::Deliver { .. } => Some(1),
            Effect::Redeliver { attempt, .. } => Some(*attempt),
            _ => None,
        };
        assert_eq!(fx.iter().find_map(sent), Some(attempt), "{fx:?}");
    }
}

#[test]
fn a_subscription_is_small() {
    assert!(size_of::<Subscription>() <= 256, "{}", size_of::<Subscription>());
}
