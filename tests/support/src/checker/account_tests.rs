//! Crafted histories: the account must find every kind of breach, and nothing where there is none.

use super::*;

const ROOM: &str = "room:1";

fn at(ms: u64) -> Offset {
    Offset { ms, seq: 0 }
}

fn payload(ms: u64) -> String {
    format!("m{ms}")
}

/// Messages 1 to `count` stand in the log; client 0 is subscribed from the start.
fn account(count: u64) -> Account {
    let mut account = Account::default();
    for ms in 1..=count {
        account.published(ROOM, at(ms), &payload(ms));
    }
    account.subscribed(0, ROOM, Offset::ZERO, false, None);
    account
}

fn receive(account: &mut Account, ms: u64, attempt: u64) {
    account.received(0, ROOM, &Delivery { offset: at(ms), attempt, data: &payload(ms) });
}

#[test]
fn a_faultless_run_is_faultless() {
    let mut account = account(3);
    (1..=3).for_each(|ms| receive(&mut account, ms, 1));
    let report = account.report();
    assert!(report.kept_promises(), "{report}");
    assert_eq!((report.published, report.expected, report.received), (3, 3, 3));
    assert_eq!((report.duplicates, report.gaps_told), (0, 0));
}

#[test]
fn a_run_that_showed_nothing_does_not_pass() {
    assert!(!Account::default().report().kept_promises());
    let mut account = Account::default();
    account.published(ROOM, at(1), "m1");
    assert!(!account.report().kept_promises(), "nobody was entitled to anything");
}

#[test]
fn a_missing_message_is_lost() {
    let mut account = account(3);
    receive(&mut account, 1, 1);
    receive(&mut account, 3, 1);
    assert_eq!(account.missing(), 1);
    let report = account.report();
    assert_eq!(report.lost, 1);
    assert!(report.violations.first[0].contains("2-0"), "{report}");
}

#[test]
#[should_panic(expected = "promises were broken")]
fn asserting_a_broken_promise_fails() {
    account(1).report().assert_promises();
}

#[test]
fn a_message_that_never_came_at_the_end_is_lost() {
    let mut account = account(3);
    receive(&mut account, 1, 1);
    assert_eq!(account.report().lost, 2);
}

#[test]
fn what_was_published_before_the_subscription_is_not_owed() {
    let mut account = Account::default();
    (1..=4).for_each(|ms| account.published(ROOM, at(ms), &payload(ms)));
    account.subscribed(0, ROOM, at(2), false, None);
    receive(&mut account, 3, 1);
    receive(&mut account, 4, 1);
    let report = account.report();
    assert_eq!((report.lost, report.expected), (0, 2));
}

#[test]
fn a_gap_told_covers_exactly_its_range() {
    let mut account = account(5);
    receive(&mut account, 1, 1);
    account.gap(0, ROOM, at(1), at(3), "trimmed", 9);
    receive(&mut account, 5, 1);
    let report = account.report();
    assert_eq!(report.lost, 1, "4 lies outside the gap\n{report}");
    assert!(report.violations.first[0].contains("4-0"));
    assert_eq!(report.gaps_told, 1);
}

#[test]
fn an_epoch_gap_reaches_the_next_message() {
    let mut account = account(5);
    receive(&mut account, 1, 1);
    account.gap(0, ROOM, at(1), at(1), "epoch", 3);
    assert_eq!(account.report().lost, 2, "4 and 5 were published after it was told");
    receive(&mut account, 4, 1);
    assert_eq!(account.report().lost, 1, "5 came after the new life began");
    receive(&mut account, 5, 1);
    assert_eq!(account.report().lost, 0);
}

#[test]
fn first_deliveries_out_of_order_are_found() {
    let mut account = account(3);
    for ms in [1, 3, 2] {
        receive(&mut account, ms, 1);
    }
    let report = account.report();
    assert_eq!((report.out_of_order, report.lost), (1, 0));
    assert!(!report.kept_promises());
}

#[test]
fn a_redelivery_may_come_late_and_repeat() {
    let mut account = account(3);
    for (ms, attempt) in [(1, 1), (3, 1), (2, 2), (3, 2)] {
        receive(&mut account, ms, attempt);
    }
    let report = account.report();
    assert!(report.kept_promises(), "{report}");
    assert_eq!((report.late_redeliveries, report.duplicates, report.unexplained_duplicates), (1, 1, 0));
}

#[test]
fn a_repetition_without_reason_is_counted_apart() {
    let mut account = account(1);
    receive(&mut account, 1, 1);
    receive(&mut account, 1, 1);
    assert_eq!(account.report().unexplained_duplicates, 1);
    account.disconnected(0);
    receive(&mut account, 1, 1);
    let report = account.report();
    assert_eq!((report.duplicates, report.unexplained_duplicates), (2, 1), "a new connection explains it");
}

#[test]
fn a_subscription_that_goes_on_still_owes_what_it_owed() {
    let mut account = account(4);
    receive(&mut account, 1, 1);
    account.disconnected(0);
    // The server starts the subscription later than where the client stood, and says nothing.
    account.subscribed(0, ROOM, at(3), true, None);
    receive(&mut account, 4, 1);
    assert_eq!(account.report().lost, 2);
}

#[test]
fn an_unrecovered_subscription_tells_what_is_missing() {
    let mut account = account(4);
    receive(&mut account, 1, 1);
    account.disconnected(0);
    account.subscribed(0, ROOM, at(3), true, Some(false));
    receive(&mut account, 4, 1);
    let report = account.report();
    assert_eq!((report.lost, report.gaps_told), (0, 1));
}

#[test]
fn recovered_true_excuses_nothing() {
    let mut account = account(4);
    receive(&mut account, 1, 1);
    account.subscribed(0, ROOM, at(3), true, Some(true));
    receive(&mut account, 4, 1);
    assert_eq!(account.report().lost, 2);
}

#[test]
fn a_client_that_starts_anew_is_owed_each_stretch_alone() {
    let mut account = account(6);
    receive(&mut account, 1, 1);
    receive(&mut account, 3, 1);
    account.abandoned(0);
    account.disconnected(0);
    account.subscribed(0, ROOM, at(5), false, None);
    receive(&mut account, 6, 1);
    let report = account.report();
    assert_eq!(report.lost, 1, "2 was skipped while it was owed\n{report}");
    assert_eq!(report.expected, 4);
}

#[test]
fn ambiguous_publications_count_once_found() {
    let mut account = account(0);
    account.ambiguous("a");
    account.ambiguous("b");
    account.reconcile(ROOM, [(at(9), "a".to_owned()), (at(10), "someone else's".to_owned())]);
    let report = account.report();
    assert_eq!((report.published, report.ambiguous_found, report.publish_errors), (1, 1, 2));
    assert_eq!(report.lost, 1);
}

#[test]
fn a_changed_payload_is_found() {
    let mut account = account(1);
    account.received(0, ROOM, &Delivery { offset: at(1), attempt: 1, data: "other" });
    let report = account.report();
    assert_eq!(report.corrupt, 1);
    assert!(!report.kept_promises());
}

#[test]
fn a_broken_protocol_breaks_the_promise() {
    let mut account = account(1);
    receive(&mut account, 1, 1);
    assert!(account.report().kept_promises());
    account.breach(0, "a frame that is no frame");
    assert!(!account.report().kept_promises());
}

#[test]
fn a_long_list_of_violations_stays_readable() {
    let report = account(50).report();
    assert_eq!((report.violations.first.len(), report.violations.more), (20, 30));
    assert!(report.to_string().contains("and 30 more"));
}
