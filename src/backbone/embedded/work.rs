//! Work shared by a consumer group, in the terms of the backbone's contract. The groups are those that
//! the listener shows; an entry's delivery count is its attempts and one more.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;

use super::group::{Claim, Group, Pending};
use super::log::Log;
use super::store::{Store, Stream};
use crate::backbone::{self, GIVEN_BACK, Held, Take, Work};
use crate::domain::Offset;

/// Takes what was given back, what nobody kept, and what is new.
pub(super) fn take(store: &mut Store, take: &Take, now_ms: u64) -> Vec<Work> {
    let key = take.group.stream.as_str().as_bytes();
    let idle_ms = milliseconds(take.idle);
    let consumer = Bytes::copy_from_slice(take.consumer.as_bytes());
    store.make(key);
    let taken = store.change(key, |Stream { log, groups, .. }| {
        let name = Bytes::from_static(take.group.name.as_bytes());
        let group = groups.entry(name).or_insert_with(|| Group::new(Offset::ZERO, None));
        group.see(&consumer, now_ms);
        let returned = |_: &Offset, pending: &Pending| pending.consumer == GIVEN_BACK;
        let mut work = claim(group, log, &consumer, take.count, now_ms, returned);
        let seen: HashSet<Offset> = work.iter().map(|work| work.entry.offset).collect();
        let stale = |offset: &Offset, pending: &Pending| {
            now_ms.saturating_sub(pending.delivered_ms) >= idle_ms && !seen.contains(offset)
        };
        work.extend(claim(group, log, &consumer, take.count - work.len(), now_ms, stale));
        let new = group.deliver(log, &consumer, take.count - work.len(), false, now_ms);
        work.extend(new.into_iter().map(|entry| Work { entry, attempts: 0 }));
        work
    });
    taken.unwrap_or_default()
}

/// Claims pending entries that fit. What the log no longer has is dropped.
fn claim(
    group: &mut Group,
    log: &Log,
    consumer: &Bytes,
    most: usize,
    now_ms: u64,
    fits: impl Fn(&Offset, &Pending) -> bool,
) -> Vec<Work> {
    let fitting = group.pending().iter().filter(|(offset, pending)| fits(offset, pending));
    let found: Vec<_> = fitting.map(|(offset, pending)| (*offset, pending.count)).take(most).collect();
    let how = Claim { just_id: true, ..Claim::default() };
    let claimed = found.into_iter().filter_map(|(offset, count)| {
        let entry = group.claim(log, consumer, offset, &how, now_ms)?;
        Some(Work { entry, attempts: u8::try_from(count.saturating_sub(1)).unwrap_or(u8::MAX) })
    });
    claimed.collect()
}

/// Hands on to a consumer, perhaps the same, what still is another's; answers what that was.
pub(super) fn hand_on(
    store: &mut Store,
    group: &backbone::Group,
    (from, to): (&str, &str),
    held: &[Held],
    now_ms: u64,
) -> Vec<Offset> {
    let to = Bytes::copy_from_slice(to.as_bytes());
    let kept = change(store, group, |log, group| {
        let is_kept = |Held { offset, attempts }: &Held| {
            group.pending().get(offset).is_some_and(|pending| pending.consumer == from) && {
                let how = Claim { count: Some(u64::from(*attempts) + 1), just_id: true, ..Claim::default() };
                group.claim(log, &to, *offset, &how, now_ms).is_some()
            }
        };
        let mut kept = held.to_vec();
        kept.retain(is_kept);
        kept.into_iter().map(|held| held.offset).collect()
    });
    kept.unwrap_or_default()
}

/// Takes entries out of the group and the stream.
pub(super) fn finish(store: &mut Store, group: &backbone::Group, offsets: &[Offset]) {
    store.change(group.stream.as_str().as_bytes(), |Stream { log, groups, .. }| {
        let mut group = groups.get_mut(group.name.as_bytes());
        for offset in offsets {
            if let Some(group) = &mut group {
                group.ack(*offset);
            }
            log.remove(*offset);
        }
    });
}

/// Removes consumers that hold nothing and were not seen for so long.
pub(super) fn tidy(store: &mut Store, group: &backbone::Group, idle: Duration, now_ms: u64) -> u64 {
    let idle_ms = milliseconds(idle);
    let removed = change(store, group, |_, group| {
        let idle = group.consumers().filter(|(_, consumer)| {
            consumer.pending().is_empty() && now_ms.saturating_sub(consumer.seen_ms) > idle_ms
        });
        let idle: Vec<Bytes> = idle.map(|(name, _)| name.clone()).collect();
        idle.iter().for_each(|name| {
            group.remove_consumer(name);
        });
        idle.len() as u64
    });
    removed.unwrap_or(0)
}

fn change<R>(
    store: &mut Store,
    group: &backbone::Group,
    change: impl FnOnce(&Log, &mut Group) -> R,
) -> Option<R> {
    let changed = store.change(group.stream.as_str().as_bytes(), |Stream { log, groups, .. }| {
        Some(change(log, groups.get_mut(group.name.as_bytes())?))
    });
    changed.flatten()
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
