//! What every backbone keeps. A new backbone takes part by `contract!(name, constructor)`; the counts
//! asserted here need Redis 7, Valkey or the embedded backbone (Redis 6.2 counts nothing).

use std::time::Duration;

use bytes::Bytes;
use tidegate::backbone::clock::local_ms;
use tidegate::backbone::{BackboneError, CursorWrite, Page, Range, Read, Stored, Trim};
use tidegate::domain::{
    ChannelName, Cursor, CursorKey, DeviceId, Epoch, Generation, NodeId, Offset, Position, RawEntry,
    SessionId, StreamKey, TenantId, UserId,
};

use super::{Subject, stream, until};

mod kv;
mod upkeep;
mod work;

pub use kv::*;
pub use upkeep::*;
pub use work::*;

/// Makes the suite a module of tests over the [`Subject`] that an async constructor returns together
/// with whatever has to live as long.
macro_rules! contract {
    ($name:ident, $constructor:path) => {
        contract!($name, $constructor:
            watched_streams_are_marked, unwatched_streams_are_not, tails_tell_where_streams_end,
            pages_follow_each_other, a_stream_that_never_was_is_whole, trimming_past_the_position_is_a_gap,
            trimming_up_to_the_position_is_not, a_withdrawn_position_is_no_gap,
            an_emptied_stream_still_knows_its_end, a_deleted_stream_is_a_gap,
            counted_entries_prove_what_the_log_no_longer_holds, a_trimmed_start_is_a_gap,
            a_position_that_nobody_kept_is_no_loss, a_position_kept_beyond_the_end_is_a_loss,
            a_wrong_type_is_alone, an_idempotency_key_adds_once, history_goes_both_ways,
            cursors_only_move_forward, an_older_generation_is_refused, many_cursors_at_once,
            a_session_goes_on_under_a_newer_generation,
            nodes_are_seen_within_their_lease, the_first_value_stays, trimming_bounds_length_and_age,
            the_clock_is_the_backbones,
            additions_keep_their_order, large_additions_all_arrive, one_request_adds_an_id_once, an_ingress_entry_reaches_a_target_once, an_ingress_entry_waits_for_the_one_before_it, the_search_for_an_ingress_entry_is_bounded, a_full_stream_refuses_and_only_it, removed_entries_are_gone, only_empty_streams_are_removed, a_scan_finds_every_stream, watchers_are_counted_where_they_can_be, trimming_bounds_memory,
            a_group_begins_at_the_oldest_entry, no_two_consumers_get_the_same_work, attempts_outlive_their_consumer, what_is_kept_is_not_stale, a_consumer_that_wakes_takes_nothing_back, what_is_given_back_is_taken_next, finished_work_is_gone, withdrawn_work_is_dropped, idle_consumers_without_work_are_removed, a_lease_is_one_holders_until_it_ends,
            a_key_value_store_holds_what_was_set, a_key_value_store_has_quotas, sums_are_exact, keys_are_listed_to_the_end, a_value_is_replaced_once, what_comes_late_replaces_nothing, a_timed_value_has_all_that_was_set_before
        );
    };
    ($name:ident, $constructor:path: $($test:ident),*) => {
        mod $name {
            $(
                #[tokio::test]
                async fn $test() {
                    let (subject, _alive) = $constructor().await;
                    $crate::backbone::contract::$test(&subject).await;
                }
            )*
        }
    };
}
pub(super) use contract;

fn read_after(stream: &StreamKey, after: Offset, count: usize) -> Read {
    Read { stream: stream.clone(), after, added: None, count }
}

async fn page(subject: &Subject, read: Read) -> Page {
    let mut pages = subject.backbone.read(&[read]).await;
    assert_eq!(pages.len(), 1);
    pages.remove(0).unwrap()
}

fn offsets(entries: &[RawEntry]) -> Vec<Offset> {
    entries.iter().map(|entry| entry.offset).collect()
}

pub async fn watched_streams_are_marked(subject: &Subject) {
    let streams: Vec<StreamKey> = (0..2_500).map(|n| stream(&format!("watched-{n}"))).collect();
    subject.backbone.watch(&streams).await.unwrap();
    subject.backbone.watch(&streams[..5]).await.unwrap();
    for watched in [&streams[0], &streams[1_234], &streams[2_499]] {
        while !subject.dirty.take(10_000).is_empty() {}
        subject.add(watched, 1).await;
        subject.marked(watched).await;
    }
    // What the node itself adds wakes it as well.
    while !subject.dirty.take(10_000).is_empty() {}
    let fields = vec![(Bytes::from("data"), Bytes::from("x"))];
    subject.backbone.append(&streams[7], fields, None).await.unwrap();
    subject.marked(&streams[7]).await;
}

pub async fn unwatched_streams_are_not(subject: &Subject) {
    let (gone, kept) = (stream("gone"), stream("kept"));
    subject.backbone.watch(std::slice::from_ref(&gone)).await.unwrap();
    subject.backbone.unwatch(std::slice::from_ref(&gone)).await;
    subject.backbone.watch(std::slice::from_ref(&kept)).await.unwrap();
    while !subject.dirty.take(100).is_empty() {}
    subject.add(&gone, 1).await;
    subject.add(&kept, 1).await;
    let marked = subject.marked(&kept).await;
    assert!(!marked.contains(&gone), "{marked:?}");
}

pub async fn tails_tell_where_streams_end(subject: &Subject) {
    let (full, none) = (stream("full"), stream("none"));
    let added = subject.add(&full, 3).await;
    subject.backend.trim_to(&full, 2).await;
    let tails = subject.backbone.tails(&[none, full]).await;
    let [none, full] = &tails[..] else { panic!("{tails:?}") };
    let none = none.as_ref().unwrap();
    assert_eq!((none.last, none.first, none.added), (Offset::ZERO, None, Some(0)));
    let full = full.as_ref().unwrap();
    assert_eq!((full.last, full.first, full.added), (added[2], Some(added[1]), Some(3)));
    assert_eq!(full.epoch, subject.backbone.epoch());
}

pub async fn pages_follow_each_other(subject: &Subject) {
    let key = stream("pages");
    let added = subject.add(&key, 5).await;
    let mut read = Read { added: Some(0), ..read_after(&key, Offset::ZERO, 2) };
    for (expected, more) in [(&added[..2], true), (&added[2..4], true), (&added[4..], false)] {
        let page = page(subject, read.clone()).await;
        assert_eq!(offsets(&page.entries), expected);
        assert_eq!((page.whole, page.more), (true, more));
        assert_eq!(page.end, *expected.last().unwrap());
        assert_eq!(page.epoch, subject.backbone.epoch());
        read = Read { after: page.end, added: page.added, ..read };
    }
    assert_eq!(read.added, Some(5));
    let end = page(subject, read.clone()).await;
    assert_eq!((end.entries.len(), end.whole, end.more, end.end), (0, true, false, added[4]));
    // Exactly as many as asked for is not "more".
    let exact = page(subject, read_after(&key, added[2], 2)).await;
    assert_eq!((offsets(&exact.entries), exact.more), (added[3..].to_vec(), false));
    let entry = &exact.entries[0];
    assert_eq!(entry.fields, [(Bytes::from("data"), Bytes::from("3"))]);
}

pub async fn a_stream_that_never_was_is_whole(subject: &Subject) {
    let page = page(subject, read_after(&stream("never"), Offset::ZERO, 5)).await;
    assert_eq!((page.entries.len(), page.whole, page.more), (0, true, false));
    assert_eq!((page.end, page.added), (Offset::ZERO, Some(0)));
}

pub async fn trimming_past_the_position_is_a_gap(subject: &Subject) {
    let key = stream("trimmed");
    let added = subject.add(&key, 6).await;
    subject.backend.trim_to(&key, 2).await;
    for read in [read_after(&key, added[1], 9), Read { added: Some(2), ..read_after(&key, added[1], 9) }] {
        let page = page(subject, read).await;
        assert!(!page.whole);
        assert_eq!(offsets(&page.entries), added[4..]);
        assert_eq!(page.end, added[5]);
    }
}

pub async fn trimming_up_to_the_position_is_not(subject: &Subject) {
    let key = stream("trimmed-to");
    let added = subject.add(&key, 4).await;
    subject.backend.trim_to(&key, 2).await;
    // The position is the first entry left.
    let page = page(subject, read_after(&key, added[2], 9)).await;
    assert_eq!((page.whole, offsets(&page.entries)), (true, vec![added[3]]));
}

pub async fn a_withdrawn_position_is_no_gap(subject: &Subject) {
    let key = stream("withdrawn");
    let added = subject.add(&key, 4).await;
    subject.backend.withdraw(&key, added[1]).await;
    // An older entry stands for all above it.
    let page = page(subject, read_after(&key, added[1], 9)).await;
    assert_eq!((page.whole, offsets(&page.entries)), (true, added[2..].to_vec()));
}

pub async fn an_emptied_stream_still_knows_its_end(subject: &Subject) {
    let key = stream("emptied");
    let added = subject.add(&key, 3).await;
    subject.backend.trim_to(&key, 0).await;
    let at_end = page(subject, read_after(&key, added[2], 9)).await;
    assert_eq!((at_end.whole, at_end.end, at_end.entries.len()), (true, added[2], 0));
    let behind = page(subject, read_after(&key, added[1], 9)).await;
    assert_eq!((behind.whole, behind.end, behind.more), (false, added[2], false));
}

pub async fn a_deleted_stream_is_a_gap(subject: &Subject) {
    let key = stream("deleted");
    let added = subject.add(&key, 3).await;
    subject.backend.delete(&key).await;
    let gone = page(subject, Read { added: Some(3), ..read_after(&key, added[2], 9) }).await;
    assert_eq!((gone.whole, gone.end, gone.added), (false, Offset::ZERO, Some(0)));
    // Begun anew, it is another log: neither a position nor a count of the old one proves anything.
    let anew = subject.add(&key, 2).await;
    let below = Offset { ms: anew[0].ms - 1, seq: u64::MAX };
    for added in [None, Some(3)] {
        let page = page(subject, Read { added, ..read_after(&key, below, 9) }).await;
        assert_eq!((page.whole, offsets(&page.entries)), (false, anew.clone()));
    }
}

pub async fn counted_entries_prove_what_the_log_no_longer_holds(subject: &Subject) {
    let key = stream("counted");
    let added = subject.add(&key, 5).await;
    subject.backend.trim_to(&key, 2).await;
    // The third entry is gone, but exactly the two added after it are there.
    let read = Read { added: Some(3), ..read_after(&key, added[2], 9) };
    let proven = page(subject, read).await;
    assert_eq!((proven.whole, proven.added, offsets(&proven.entries)), (true, Some(5), added[3..].to_vec()));
    let unproven = page(subject, read_after(&key, added[2], 9)).await;
    assert!(!unproven.whole, "doubt is a gap");
    // Withdrawing makes the count short: doubt again, never a false proof.
    subject.backend.withdraw(&key, added[3]).await;
    let short = page(subject, Read { added: Some(3), ..read_after(&key, added[2], 9) }).await;
    assert_eq!((short.whole, offsets(&short.entries)), (false, vec![added[4]]));
}

pub async fn a_trimmed_start_is_a_gap(subject: &Subject) {
    let key = stream("start");
    subject.add(&key, 3).await;
    assert!(page(subject, read_after(&key, Offset::ZERO, 9)).await.whole);
    subject.backend.trim_to(&key, 2).await;
    assert!(!page(subject, read_after(&key, Offset::ZERO, 9)).await.whole);
}

pub async fn a_position_that_nobody_kept_is_no_loss(subject: &Subject) {
    let key = stream("invented");
    let added = subject.add(&key, 2).await;
    let epoch = subject.backbone.epoch();
    // Whoever counted nothing may have made the position up, as any client can.
    let beyond = page(subject, read_after(&key, Offset { ms: u64::MAX, seq: 0 }, 9)).await;
    assert_eq!((beyond.whole, beyond.end, beyond.entries.len()), (false, added[1], 0));
    assert_eq!((beyond.epoch, subject.backbone.epoch()), (epoch, epoch));
}

pub async fn a_position_kept_beyond_the_end_is_a_loss(subject: &Subject) {
    let (key, other) = (stream("lost"), stream("not-lost"));
    subject.add(&other, 1).await;
    let kept = subject.add(&key, 3).await;
    let epoch = subject.backbone.epoch();
    subject.backend.delete(&key).await;
    let anew = subject.backend.add_at(&key, Some(Offset { ms: 5, seq: 0 }), "x").await;
    let lost = page(subject, Read { added: Some(3), ..read_after(&key, kept[2], 9) }).await;
    assert_eq!((lost.whole, lost.end, lost.entries.len()), (false, anew, 0));
    assert_ne!(lost.epoch, epoch);
    // It is told with whatever is read from now on.
    assert_eq!(subject.backbone.epoch(), lost.epoch);
    assert_eq!(page(subject, read_after(&other, Offset::ZERO, 9)).await.epoch, lost.epoch);
    let tail = subject.backbone.tails(&[other]).await.remove(0).unwrap();
    assert_eq!(tail.epoch, lost.epoch);
}

pub async fn a_wrong_type_is_alone(subject: &Subject) {
    let (healthy, spoilt) = (stream("healthy"), stream("spoilt"));
    let added = subject.add(&healthy, 1).await;
    if !subject.backend.spoil(&spoilt).await {
        // The embedded backbone holds streams only: there is no wrong type to answer for. What is left
        // of the promise is that a key which is no stream reads as one that never was.
        for (key, expected) in [(&spoilt, &[][..]), (&healthy, &added[..])] {
            let page = page(subject, read_after(key, Offset::ZERO, 5)).await;
            assert_eq!((offsets(&page.entries).as_slice(), page.whole), (expected, true));
        }
        return;
    }
    let reads =
        [&healthy, &spoilt, &healthy].map(|key| Read { added: Some(0), ..read_after(key, Offset::ZERO, 5) });
    let pages = subject.backbone.read(&reads).await;
    for healthy in [&pages[0], &pages[2]] {
        assert_eq!(offsets(&healthy.as_ref().unwrap().entries), added);
    }
    assert!(matches!(pages[1], Err(BackboneError::WrongType(_))), "{:?}", pages[1]);
    let tails = subject.backbone.tails(&[spoilt.clone(), healthy]).await;
    assert!(matches!(tails[0], Err(BackboneError::WrongType(_))));
    assert_eq!(tails[1].as_ref().unwrap().last, added[0]);
    let fields = || vec![(Bytes::from("data"), Bytes::from("x"))];
    for dedupe in [None, Some("a")] {
        let refused = subject.backbone.append(&spoilt, fields(), dedupe).await;
        assert!(matches!(refused, Err(BackboneError::WrongType(_))), "{refused:?}");
    }
}

pub async fn an_idempotency_key_adds_once(subject: &Subject) {
    let key = stream("dedupe");
    let append = async |id: &str| {
        let fields =
            vec![(Bytes::from("data"), Bytes::from("x")), (Bytes::from("id"), Bytes::from(id.to_owned()))];
        subject.backbone.append(&key, fields, Some(id)).await.unwrap()
    };
    let first = append("a").await;
    let other = append("b").await;
    assert!(first < other);
    assert_eq!(append("a").await, first);
    assert_eq!(append("b").await, other);
    let page = page(subject, read_after(&key, Offset::ZERO, 9)).await;
    assert_eq!(offsets(&page.entries), [first, other]);
}

pub async fn history_goes_both_ways(subject: &Subject) {
    let key = stream("history");
    let added = subject.add(&key, 6).await;
    let history = async |before: Option<usize>, after: Option<usize>, limit| {
        let range =
            Range { before: before.map(|i: usize| added[i]), after: after.map(|i: usize| added[i]), limit };
        offsets(&subject.backbone.history(&key, range).await.unwrap())
    };
    assert_eq!(history(None, None, 2).await, added[4..]);
    assert_eq!(history(Some(4), None, 2).await, added[2..4]);
    assert_eq!(history(None, Some(1), 2).await, added[2..4]);
    assert_eq!(history(Some(0), None, 2).await, []);
    assert_eq!(history(None, Some(5), 2).await, []);
    assert_eq!(history(None, None, 99).await, added);
    let none = Range { before: None, after: None, limit: 5 };
    assert!(subject.backbone.history(&stream("no-history"), none).await.unwrap().is_empty());
}

const TTL: Duration = Duration::from_secs(3_600);

fn device(name: &str) -> CursorKey {
    let tenant = TenantId::parse("test").unwrap();
    CursorKey::new(&tenant, &UserId::parse("u/1").unwrap(), &DeviceId::parse(name).unwrap())
}

fn cursor(ms: u64, seq: u64, attempts: u8) -> Cursor {
    let head = (attempts > 0).then(|| Offset { ms, seq }.next());
    Cursor { position: Position { offset: Offset { ms, seq }, epoch: Epoch(0xe) }, attempts, head }
}

fn write(device: &CursorKey, generation: Generation, channel: &str, cursor: Cursor) -> CursorWrite {
    CursorWrite { device: device.clone(), generation, channel: ChannelName::parse(channel).unwrap(), cursor }
}

async fn store(subject: &Subject, writes: &[CursorWrite]) -> Vec<Stored> {
    subject.backbone.store_cursors(writes).await.into_iter().map(Result::unwrap).collect()
}

pub async fn cursors_only_move_forward(subject: &Subject) {
    let (_, none) = subject.backbone.claim_cursors(&device("phone"), TTL).await.unwrap();
    assert!(none.is_empty());
    // Longer digits are larger, although their text may sort lower.
    let steps = [
        vec![cursor(999, 7, 0), cursor(1_000, 0, 2), cursor(999, 8, 1)],
        vec![cursor(1_000, 0, 2), cursor(1_000, 0, 3)],
        vec![cursor(1_000, 10, 0), cursor(1_000, 9, 4)],
        vec![cursor(u64::MAX, u64::MAX, 0), cursor(u64::MAX, u64::MAX - 1, 1)],
    ];
    let kept =
        [cursor(1_000, 0, 2), cursor(1_000, 0, 3), cursor(1_000, 10, 0), cursor(u64::MAX, u64::MAX, 0)];
    for (n, (steps, kept)) in steps.into_iter().zip(kept).enumerate() {
        let device = device(&format!("tablet-{n}"));
        let (generation, _) = subject.backbone.claim_cursors(&device, TTL).await.unwrap();
        for step in steps {
            assert_eq!(store(subject, &[write(&device, generation, "room:1", step)]).await, [Stored::Yes]);
        }
        let (_, stored) = subject.backbone.claim_cursors(&device, TTL).await.unwrap();
        assert_eq!(stored, [(ChannelName::parse("room:1").unwrap(), kept)]);
    }
}

pub async fn an_older_generation_is_refused(subject: &Subject) {
    let (phone, laptop) = (device("phone"), device("laptop"));
    let (old, _) = subject.backbone.claim_cursors(&phone, TTL).await.unwrap();
    let (other, _) = subject.backbone.claim_cursors(&laptop, TTL).await.unwrap();
    let (new, _) = subject.backbone.claim_cursors(&phone, TTL).await.unwrap();
    assert!(old < new);
    let writes = [
        write(&phone, old, "room:1", cursor(5, 0, 0)),
        write(&laptop, other, "room:1", cursor(5, 0, 0)),
        write(&phone, new, "room:1", cursor(3, 0, 1)),
        write(&phone, old, "room:2", cursor(5, 0, 0)),
    ];
    let stored = store(subject, &writes).await;
    assert_eq!(stored, [Stored::Stale, Stored::Yes, Stored::Yes, Stored::Stale]);
    let (_, stored) = subject.backbone.claim_cursors(&phone, TTL).await.unwrap();
    assert_eq!(stored, [(ChannelName::parse("room:1").unwrap(), cursor(3, 0, 1))]);
}

pub async fn a_session_goes_on_under_a_newer_generation(subject: &Subject) {
    let phone = device("phone");
    let claim = async || subject.backbone.claim_cursors(&phone, TTL).await.unwrap().0;
    let begin = async |generation, session| {
        subject.backbone.begin_session(&phone, generation, session).await.unwrap()
    };
    let end =
        async |generation, session| subject.backbone.end_session(&phone, generation, session).await.unwrap();
    let (one, other) = (SessionId::random(), SessionId::random());
    let first = claim().await;
    assert_eq!(begin(first, one).await, None);
    let second = claim().await;
    assert_eq!(begin(first, other).await, Some(one), "an older generation notes nothing");
    assert_eq!(begin(second, one).await, Some(one));
    assert!(!end(first, one).await, "it goes on under the second");
    let third = claim().await;
    assert_eq!(begin(third, other).await, Some(one));
    assert!(end(second, one).await, "the device has another");
    assert!(end(third, other).await);
    assert_eq!(begin(claim().await, one).await, None, "it had ended");
    let (_, stored) = subject.backbone.claim_cursors(&phone, TTL).await.unwrap();
    assert!(stored.is_empty(), "it is no cursor: {stored:?}");
}

pub async fn many_cursors_at_once(subject: &Subject) {
    let devices: Vec<CursorKey> = (0..1_200).map(|n| device(&format!("d{n}"))).collect();
    let mut writes = Vec::new();
    for device in &devices {
        for channel in ["room:1", "user:u"] {
            writes.push(write(device, Generation(1), channel, cursor(7, 7, 1)));
        }
    }
    // No device was claimed: their hashes begin at the writers' generation.
    assert!(store(subject, &writes).await.into_iter().all(|stored| stored == Stored::Yes));
    let (generation, stored) = subject.backbone.claim_cursors(&devices[1_199], TTL).await.unwrap();
    assert!(generation > Generation(1));
    assert_eq!(stored.len(), 2);
}

pub async fn nodes_are_seen_within_their_lease(subject: &Subject) {
    let (a, b) = (NodeId::parse("node-a").unwrap(), NodeId::parse("node-b").unwrap());
    let (long, short) = (Duration::from_secs(600), Duration::from_millis(1));
    let sorted = |mut nodes: Vec<(NodeId, String)>| {
        nodes.sort();
        nodes
    };
    let beat =
        async |node, record, lease| sorted(subject.backbone.heartbeat(node, record, lease).await.unwrap());
    assert_eq!(beat(&a, r#"{"zone":"1"}"#, long).await, [(a.clone(), r#"{"zone":"1"}"#.into())]);
    assert_eq!(beat(&b, "b", long).await.len(), 2);
    assert_eq!(beat(&b, "b2", long).await[1], (b.clone(), "b2".into()));
    // A lease of a millisecond soon is over, and ten of them soon after: then the record is gone.
    until("node a expires", async || (beat(&b, "b", short).await.len() == 1).then_some(())).await;
    until("node a is removed", async || {
        beat(&b, "b", short).await;
        (beat(&b, "b", long).await.len() == 1).then_some(())
    })
    .await;
    beat(&a, "a", long).await;
    subject.backbone.forget_node(&b).await.unwrap();
    assert_eq!(beat(&a, "a", long).await, [(a.clone(), "a".into())]);
}

pub async fn the_first_value_stays(subject: &Subject) {
    assert_eq!(subject.backbone.get_or_set("tg:sys:secret", "one").await.unwrap(), "one");
    assert_eq!(subject.backbone.get_or_set("tg:sys:secret", "two").await.unwrap(), "one");
}

pub async fn trimming_bounds_length_and_age(subject: &Subject) {
    let (long, old, none) = (stream("long"), stream("old"), stream("nothing-to-trim"));
    let long_added = subject.add(&long, 1_000).await;
    let old_added = subject.add(&old, 1_000).await;
    let trim = |stream: &StreamKey, max_len, min_offset| Trim {
        stream: stream.clone(),
        max_len,
        min_offset,
        max_bytes: None,
    };
    let trims =
        [trim(&none, 1, Offset::ZERO), trim(&long, 300, Offset::ZERO), trim(&old, 1_000_000, old_added[700])];
    let trimmed = subject.backbone.trim(&trims).await;
    assert_eq!(trimmed[0], Ok(0));
    assert!(trimmed[1..].iter().all(|went| matches!(went, Ok(600..=700))), "{trimmed:?}");
    let tails = subject.backbone.tails(&[long, old]).await;
    for (tail, added) in tails.into_iter().zip([long_added, old_added]) {
        let first = tail.unwrap().first.unwrap();
        // Approximate: never more than asked for, and near it (a node of the stream holds 100).
        assert!(added[500] <= first && first <= added[700], "{first}");
    }
}

pub async fn the_clock_is_the_backbones(subject: &Subject) {
    let difference = subject.backbone.clock().now_ms().abs_diff(local_ms());
    assert!(difference < 60_000, "{difference} ms apart on one machine");
    assert!(subject.backbone.is_connected());
}
