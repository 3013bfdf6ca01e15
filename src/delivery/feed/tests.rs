//! The feed over a real embedded backbone, with the time paused: no test waits for a clock.

use super::*;
use probe::Asked;
use rig::Rig;

mod probe;
mod rig;

const TIME: Duration = Duration::from_secs(60);

fn stream(name: &str) -> StreamKey {
    StreamKey::from_raw(&format!("tg:test:ch:room:{name}"))
}

fn offsets(batch: &Arc<Batch>) -> Vec<Offset> {
    batch.items.iter().map(|item| item.offset).collect()
}

fn away() -> BackboneError {
    BackboneError::Away("for a while".to_owned())
}

// ---- live --------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_channel_opens_at_its_end_and_what_follows_is_delivered_once() {
    let mut rig = Rig::new(&[100]);
    let room = stream("1");
    let before = rig.add(&room).await;
    let tail = rig.open(0, &room).await;
    assert_eq!((tail.last, tail.added), (before, Some(1)));
    let added = rig.add(&room).await;
    let batch = rig.live(0).await;
    assert_eq!((batch.after, batch.until, offsets(&batch)), (before, added, vec![added]));
    assert!(batch.whole && !batch.more);
    assert_eq!(batch.items[0].message.as_ref().unwrap().data, "x");
    rig.quiet(0, &room).await;
}

#[tokio::test(start_paused = true)]
async fn what_comes_during_a_read_is_one_batch_for_all_shards() {
    let mut rig = Rig::new(&[100, 100]);
    let (room, other) = (stream("1"), stream("2"));
    for shard in [0, 1] {
        rig.open(shard, &room).await;
    }
    rig.open(0, &other).await;
    rig.probe.hold(true);
    let first = rig.add(&room).await;
    rig.until("the read is under way", |rig| rig.probe.reads().len() == 1).await;
    let mut gathered = Vec::new();
    for _ in 0..3 {
        gathered.push(rig.add(&room).await);
        rig.add(&other).await;
    }
    rig.probe.hold(false);
    let batches = [rig.live(0).await, rig.live(1).await];
    assert_eq!(offsets(&batches[0]), [first]);
    assert!(Arc::ptr_eq(&batches[0], &batches[1]), "shared, not copied");
    let batches = [rig.live(0).await, rig.live(1).await];
    assert_eq!(offsets(&batches[0]), gathered);
    assert!(Arc::ptr_eq(&batches[0], &batches[1]));
    assert_eq!(offsets(&rig.live(0).await).len(), 3, "of the other channel, which shard 1 did not open");
    rig.quiet(0, &room).await;
    rig.quiet(1, &room).await;
    assert_eq!(rig.probe.reads().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_long_backlog_comes_in_batches_that_follow_each_other() {
    let mut rig = Rig::new(&[100]);
    let room = stream("1");
    let mut position = rig.open(0, &room).await.last;
    let added = rig.add_unheard(&room, 3 * LIVE_COUNT + 1).await;
    rig.dirty.mark([room.clone()]);
    let mut got = Vec::new();
    for more in [true, true, true, false] {
        let batch = rig.live(0).await;
        assert_eq!((batch.after, batch.whole, batch.more), (position, true, more));
        position = batch.until;
        got.extend(offsets(&batch));
    }
    assert_eq!(got, added);
    rig.quiet(0, &room).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_wake_up_is_made_good_by_the_next() {
    let mut rig = Rig::new(&[100]);
    let room = stream("1");
    rig.open(0, &room).await;
    let mut added = rig.add_unheard(&room, 2).await;
    added.push(rig.add(&room).await);
    assert_eq!(offsets(&rig.live(0).await), added);
}

#[tokio::test(start_paused = true)]
async fn a_lost_wake_up_is_made_good_by_the_sweep() {
    let mut rig = Rig::new(&[100]);
    let rooms: Vec<_> = (0..9).map(|n| stream(&n.to_string())).collect();
    for room in &rooms {
        rig.open(0, room).await;
    }
    let sweep = FeedOptions::default().sweep;
    for room in &rooms {
        let added = rig.add_unheard(room, 1).await;
        let lost = Instant::now();
        assert_eq!(offsets(&rig.live(0).await), added);
        assert!(lost.elapsed() <= sweep, "{room} after {:?}", lost.elapsed());
    }
    // Nobody publishes: each is read once a sweep, and not more.
    let before = rig.probe.reads().len();
    tokio::time::sleep(sweep * 4).await;
    let reads = rig.probe.reads().len() - before;
    assert!((3 * rooms.len()..=5 * rooms.len()).contains(&reads), "{reads}");
}

#[tokio::test(start_paused = true)]
async fn entries_that_were_all_withdrawn_move_the_position() {
    let mut rig = Rig::new(&[100]);
    let room = stream("1");
    rig.add(&room).await;
    let before = rig.open(0, &room).await.last;
    let withdrawn = rig.add_unheard(&room, 1).await[0];
    let key = room.as_str().as_bytes();
    rig.probe.embedded.with_store(|store| store.change(key, |stream| stream.log.remove(withdrawn)));
    rig.dirty.mark([room.clone()]);
    let batch = rig.live(0).await;
    assert_eq!((batch.after, batch.until, batch.items.len()), (before, withdrawn, 0));
    assert!(batch.whole, "withdrawn, not lost");
    assert_eq!(rig.open(0, &room).await.last, withdrawn);
}

#[tokio::test(start_paused = true)]
async fn a_crowded_live_channel_is_thinned_for_all_alike_and_in_the_ring() {
    let mut rig = Rig::new(&[100, 100]);
    let room = stream("1");
    rig.thin(2);
    let start = rig.open(0, &room).await.last;
    rig.open(1, &room).await;
    let added = rig.add_unheard(&room, 5).await;
    rig.dirty.mark([room.clone()]);
    let batch = rig.live(0).await;
    let seen =
        |batch: &Arc<Batch>| -> Vec<bool> { batch.items.iter().map(|item| item.message.is_some()).collect() };
    assert_eq!(offsets(&batch), added, "their places stay: nothing is missing");
    assert_eq!(seen(&batch), [true, true, false, false, false], "a burst of one second");
    assert_eq!(seen(&rig.live(1).await), seen(&batch));
    assert_eq!(seen(&rig.read(0, &room, start).await), seen(&batch), "whoever lags gets no more");
    let tenant = crate::domain::TenantId::parse("test").unwrap();
    let skipped = &rig.metrics.tenant(&tenant).entries_skipped;
    assert_eq!(skipped.of(crate::telemetry::Skip::Thinned).get(), 3);
    tokio::time::advance(Duration::from_millis(500)).await;
    rig.add_unheard(&room, 2).await;
    rig.dirty.mark([room.clone()]);
    assert_eq!(seen(&rig.live(0).await), [true, false], "half a second later one more goes");
}

// ---- pages -------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn ten_thousand_equal_reads_are_one() {
    let mut rig = Rig::new(&[100, 100]);
    let room = stream("1");
    let added = rig.add_unheard(&room, 3).await;
    for shard in [0, 1] {
        rig.open(shard, &room).await;
    }
    rig.probe.hold(true);
    for n in 0..10_000_u32 {
        rig.ask_read((n % 2) as u8, &room, Offset::ZERO).await;
    }
    // Requests are taken in order, so by then all reads were asked for.
    rig.quiet(0, &room).await;
    rig.probe.hold(false);
    for shard in [0, 1] {
        let page = rig.page(shard, &room, Offset::ZERO).await;
        assert_eq!((offsets(&page), page.whole, page.more), (added.clone(), true, false));
        rig.quiet(shard, &room).await;
    }
    let wanted = |read: &Read| read.after == Offset::ZERO;
    assert_eq!(rig.probe.reads().into_iter().filter(wanted).count(), 1);
    assert_eq!(rig.metrics.node().page_cache_joined.get(), 9_999);
    // Whoever comes a little later is served from the cache, and told to look what follows.
    let later = rig.read(1, &room, Offset::ZERO).await;
    assert_eq!((offsets(&later), later.more), (added, true));
    assert_eq!(rig.probe.reads().into_iter().filter(wanted).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_ring_serves_what_came_live() {
    let mut rig = Rig::new(&[100]);
    let room = stream("1");
    let before = rig.add(&room).await;
    let start = rig.open(0, &room).await.last;
    let mut added = Vec::new();
    for _ in 0..3 {
        added.push(rig.add(&room).await);
        rig.live(0).await;
    }
    let live_reads = rig.probe.reads().len();
    for (from, expected) in [(start, &added[..]), (added[0], &added[1..]), (added[2], &[])] {
        let page = rig.read(0, &room, from).await;
        assert_eq!((offsets(&page).as_slice(), page.after, page.until), (expected, from, added[2]));
        assert!(page.whole && !page.more);
    }
    assert_eq!(rig.probe.reads().len(), live_reads);
    let older = rig.read(0, &room, Offset::ZERO).await;
    assert_eq!(offsets(&older)[..2], [before, added[0]]);
    assert_eq!(rig.probe.reads().len(), live_reads + 1);
}

#[tokio::test(start_paused = true)]
async fn a_cached_page_serves_whoever_stands_in_it_for_a_while() {
    let mut rig = Rig::new(&[100]);
    let room = stream("1");
    let added = rig.add_unheard(&room, PAGE_COUNT + 10).await;
    rig.open(0, &room).await;
    let first = rig.read(0, &room, Offset::ZERO).await;
    assert_eq!((first.items.len(), first.more), (PAGE_COUNT, true));
    let inside = rig.read(0, &room, added[9]).await;
    assert!(Arc::ptr_eq(&first, &inside));
    assert_eq!(inside.items_after(added[9]).len(), PAGE_COUNT - 10);
    let rest = rig.read(0, &room, first.until).await;
    assert_eq!((offsets(&rest), rest.whole), (added[PAGE_COUNT..].to_vec(), true));
    let of_page = |rig: &Rig| rig.probe.reads().iter().filter(|read| read.after == Offset::ZERO).count();
    assert_eq!(of_page(&rig), 1);
    tokio::time::advance(Duration::from_secs(6)).await;
    assert!(!Arc::ptr_eq(&first, &rig.read(0, &room, Offset::ZERO).await));
    assert_eq!(of_page(&rig), 2);
}

#[tokio::test(start_paused = true)]
async fn a_reader_beyond_the_end_is_told_of_a_gap_and_changes_no_epoch() {
    let mut rig = Rig::new(&[100]);
    let room = stream("1");
    let end = rig.add(&room).await;
    let epoch = rig.open(0, &room).await.epoch;
    let page = rig.read(0, &room, Offset { ms: u64::MAX, seq: 1 }).await;
    assert_eq!((page.whole, page.until, page.items.len(), page.epoch), (false, end, 0, epoch));
    assert_eq!(rig.probe.embedded.epoch(), epoch);
    // Further than this node has read, but not than the log: another node told the client so.
    let unheard = rig.add_unheard(&room, 2).await;
    let page = rig.read(0, &room, unheard[0]).await;
    assert_eq!((page.whole, offsets(&page)), (true, vec![unheard[1]]));
}

// ---- loss --------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn trimming_behind_the_feed_is_a_batch_that_is_not_whole() {
    let mut rig = Rig::new(&[100]);
    let room = stream("1");
    rig.add(&room).await;
    let before = rig.open(0, &room).await.last;
    let added = rig.add_unheard(&room, 5).await;
    rig.trim(&room, 2);
    rig.dirty.mark([room.clone()]);
    let batch = rig.live(0).await;
    assert_eq!((batch.whole, batch.after, offsets(&batch)), (false, before, added[3..].to_vec()));
    assert_eq!(batch.gap_until(), added[3].prev());
    // The ring begins after the gap; a reader before it is told of it by the log.
    assert!(!rig.read(0, &room, before).await.whole);
    assert!(rig.read(0, &room, added[3]).await.whole);
    let next = rig.add(&room).await;
    let batch = rig.live(0).await;
    assert_eq!((batch.whole, offsets(&batch)), (true, vec![next]));
}

#[tokio::test(start_paused = true)]
async fn a_new_epoch_travels_to_every_channel() {
    let mut rig = Rig::new(&[100]);
    let (lost, other) = (stream("lost"), stream("other"));
    let others = rig.add_unheard(&other, 2).await;
    rig.add_unheard(&lost, 1).await;
    rig.open(0, &lost).await;
    let old = rig.open(0, &other).await;
    assert_eq!(rig.read(0, &other, Offset::ZERO).await.epoch, old.epoch);
    rig.probe.embedded.with_store(|store| store.delete(lost.as_str().as_bytes()));
    let anew = Offset { ms: 5, seq: 0 };
    rig.add_at(&lost, anew);
    let batch = rig.live(0).await;
    assert_eq!((batch.whole, batch.until, batch.view.stream.clone()), (false, anew, lost));
    let epoch = batch.epoch;
    assert_ne!(epoch, old.epoch);
    // Nothing is missing in the other channel, but its readers have to know the epoch.
    let told = rig.live(0).await;
    assert_eq!((told.view.stream.clone(), told.whole, told.items.len()), (other.clone(), true, 0));
    assert_eq!((told.epoch, told.until), (epoch, old.last));
    let page = rig.read(0, &other, Offset::ZERO).await;
    assert_eq!((page.epoch, offsets(&page)), (epoch, others), "not the page cached in the old epoch");
    assert_eq!(rig.open(0, &other).await.epoch, epoch);
}

// ---- errors ------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_channel_that_cannot_be_read_is_alone() {
    let mut rig = Rig::new(&[100]);
    let (spoilt, healthy, late) = (stream("spoilt"), stream("healthy"), stream("late"));
    let wrong = || BackboneError::WrongType("a string".to_owned());
    rig.probe.fail(&spoilt, vec![wrong()]);
    rig.ask_open(0, &spoilt).await;
    rig.ask_open(0, &healthy).await;
    assert_eq!(rig.opened(0, &spoilt).await, Err(wrong()));
    rig.opened(0, &healthy).await.unwrap();
    // Refused, it is watched no longer, and can be asked for again.
    rig.until("it is unwatched", |rig| rig.probe.asked().contains(&Asked::Unwatched)).await;
    rig.open(0, &spoilt).await;
    rig.add_unheard(&late, 1).await;
    rig.open(0, &late).await;
    rig.probe.fail(&late, vec![wrong()]);
    let missed = rig.add(&late).await;
    let added = rig.add(&healthy).await;
    assert_eq!(offsets(&rig.live(0).await), [added]);
    let swept = rig.live(0).await;
    assert_eq!((swept.view.stream.clone(), offsets(&swept)), (late.clone(), vec![missed]));
    rig.probe.fail(&late, vec![wrong()]);
    rig.ask_read(0, &late, Offset::ZERO).await;
    let Delivery::Page { batch: Err(error), .. } = rig.next(0).await else { panic!("no error") };
    assert_eq!(error, wrong());
}

#[tokio::test(start_paused = true)]
async fn what_may_succeed_later_is_tried_again() {
    let mut rig = Rig::new(&[100]);
    let (slow, quick) = (stream("slow"), stream("quick"));
    *rig.probe.watch_errors.lock().unwrap() = vec![away(); 3];
    rig.probe.fail(&slow, vec![away(); 3]);
    rig.ask_open(0, &slow).await;
    rig.ask_open(0, &quick).await;
    rig.opened(0, &quick).await.expect("it does not wait for the other");
    // A wake-up before the channel is open is kept.
    let added = rig.add(&slow).await;
    rig.opened(0, &slow).await.unwrap();
    rig.probe.fail(&slow, vec![away(), BackboneError::ReadOnly("loading".to_owned())]);
    assert_eq!(offsets(&rig.read(0, &slow, Offset::ZERO).await), [added]);
}

// ---- shards ------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_full_shard_lags_and_reads_on_while_the_other_goes_on() {
    let mut rig = Rig::new(&[1, 100]);
    let room = stream("1");
    for shard in [0, 1] {
        rig.open(shard, &room).await;
    }
    let mut added = Vec::new();
    for _ in 0..5 {
        added.push(rig.add(&room).await);
        assert_eq!(rig.live(1).await.until, *added.last().unwrap(), "not held up");
    }
    assert_eq!(rig.metrics.node().shard_inbox_full.get(), 4);
    let position = rig.live(0).await.until;
    assert_eq!(position, added[0]);
    let Delivery::Lagged { view: View { stream, .. }, until, .. } = rig.next(0).await else {
        panic!("it is not told")
    };
    assert_eq!((stream, until), (room.clone(), added[4]));
    assert_eq!(offsets(&rig.read(0, &room, position).await), added[1..]);
    let next = rig.add(&room).await;
    assert_eq!(offsets(&rig.live(0).await), [next]);
}

#[tokio::test(start_paused = true)]
async fn a_closed_channel_lingers_and_then_is_unwatched() {
    let mut rig = Rig::new(&[100]);
    let room = stream("1");
    rig.open(0, &room).await;
    rig.close(0, &room).await;
    tokio::time::sleep(TIME / 2).await;
    rig.open(0, &room).await;
    let one = || vec![room.clone()];
    let watches = |rig: &Rig| {
        let asked = rig.probe.asked().into_iter();
        asked.filter(|asked| !matches!(asked, Asked::Read(_) | Asked::Trim(..))).collect::<Vec<_>>()
    };
    tokio::time::sleep(2 * TIME).await;
    assert_eq!(watches(&rig), [Asked::Watch(one())], "it was never let go");

    rig.close(0, &room).await;
    // The end of the watch takes its time; what asks for the channel meanwhile has to wait for it.
    tokio::time::sleep(TIME / 2).await;
    rig.probe.hold(true);
    tokio::time::sleep(TIME).await;
    assert_eq!(watches(&rig)[1..], [Asked::Unwatch(one())]);
    rig.ask_open(0, &room).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(watches(&rig).len(), 2);
    rig.probe.hold(false);
    rig.opened(0, &room).await.unwrap();
    assert_eq!(watches(&rig)[2..], [Asked::Unwatched, Asked::Watch(one())]);
    let added = rig.add(&room).await;
    assert_eq!(offsets(&rig.live(0).await), [added], "not silent");
}

#[tokio::test(start_paused = true)]
async fn a_channel_left_while_it_is_being_opened_is_opened_once() {
    let mut rig = Rig::new(&[100]);
    let room = stream("1");
    *rig.probe.watch_errors.lock().unwrap() = vec![away(); 60];
    rig.ask_open(0, &room).await;
    rig.close(0, &room).await;
    tokio::time::sleep(2 * TIME).await;
    rig.ask_open(0, &room).await;
    assert!(!rig.probe.watch_errors.lock().unwrap().is_empty(), "still away");
    rig.opened(0, &room).await.unwrap();
    let unwatched = rig.probe.asked().iter().any(|asked| matches!(asked, Asked::Unwatch(_)));
    assert!(!unwatched, "it would have raced with the watch");
    let added = rig.add(&room).await;
    assert_eq!(offsets(&rig.live(0).await), [added]);
    rig.quiet(0, &room).await;
}

// ---- retention ---------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_growing_channel_is_trimmed_once_a_second_at_most() {
    let mut rig = Rig::new(&[1_000]);
    rig.retain(10, Duration::from_secs(3_600));
    let room = stream("1");
    rig.open(0, &room).await;
    for _ in 0..100 {
        rig.add(&room).await;
        rig.live(0).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(rig.len(&room), 10);
    let trims = |rig: &Rig| {
        let trim = |asked| if let Asked::Trim(at, trims) = asked { Some((at, trims)) } else { None };
        rig.probe.asked().into_iter().filter_map(trim).collect::<Vec<_>>()
    };
    let done = trims(&rig);
    assert!((5..=8).contains(&done.len()), "{}", done.len());
    assert!(done.windows(2).all(|two| two[1].0 - two[0].0 >= Duration::from_millis(999)), "{done:?}");
    tokio::time::sleep(TIME).await;
    assert_eq!(trims(&rig).len(), done.len(), "it no longer grows");

    // Two hours later by the backbone's clock, all that is left is too old.
    let clock = rig.probe.embedded.clock();
    let now = clock.now_ms();
    clock.measured(now + 2 * 3_600_000, now, now);
    let added = rig.add(&room).await;
    assert_eq!(offsets(&rig.live(0).await), [added]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(rig.len(&room), 1);
}
