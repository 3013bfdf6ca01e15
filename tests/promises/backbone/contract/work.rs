//! Groups and leases: what nodes share among each other.

use std::collections::HashSet;
use std::time::Duration;

use tidegate::backbone::{Group, Held, Read, Take, Work};
use tidegate::domain::{Offset, StreamKey};

use super::super::{Subject, stream, until};
use super::offsets;

/// So long nobody waits here.
const LONG: Duration = Duration::from_secs(3_600);

fn group(stream: &StreamKey) -> Group {
    Group { stream: stream.clone(), name: "tidegate" }
}

async fn take(
    subject: &Subject,
    stream: &StreamKey,
    consumer: &str,
    count: usize,
    idle: Duration,
) -> Vec<Work> {
    let take = Take { group: group(stream), consumer: consumer.into(), count, idle };
    subject.backbone.take(&take).await.unwrap()
}

fn taken(work: &[Work]) -> Vec<(Offset, u8)> {
    work.iter().map(|work| (work.entry.offset, work.attempts)).collect()
}

fn held(offsets: &[Offset], attempts: u8) -> Vec<Held> {
    offsets.iter().map(|offset| Held { offset: *offset, attempts }).collect()
}

pub async fn a_group_begins_at_the_oldest_entry(subject: &Subject) {
    let key = stream("work");
    assert!(take(subject, &key, "a", 5, LONG).await.is_empty(), "made where there is nothing");
    let added = subject.add(&key, 3).await;
    let work = take(subject, &key, "a", 2, LONG).await;
    assert_eq!(taken(&work), [(added[0], 0), (added[1], 0)]);
    assert_eq!(work[1].entry.fields, [("data".into(), "1".into())]);
    // Gone with its stream, it begins anew.
    subject.backend.delete(&key).await;
    let anew = subject.add(&key, 1).await;
    assert_eq!(taken(&take(subject, &key, "a", 9, LONG).await), [(anew[0], 0)]);
}

pub async fn no_two_consumers_get_the_same_work(subject: &Subject) {
    let key = stream("shared");
    let added = subject.add(&key, 300).await;
    let consumers = ["a", "b", "c"];
    let rounds = consumers.map(|consumer| {
        let key = &key;
        async move {
            let mut mine = Vec::new();
            loop {
                let work = take(subject, key, consumer, 7, LONG).await;
                if work.is_empty() {
                    return mine;
                }
                mine.extend(work.iter().map(|work| work.entry.offset));
            }
        }
    });
    let mut all: Vec<Offset> = futures_util::future::join_all(rounds).await.concat();
    all.sort_unstable();
    assert_eq!(all, added);
}

pub async fn attempts_outlive_their_consumer(subject: &Subject) {
    let key = stream("attempts");
    let added = subject.add(&key, 3).await;
    take(subject, &key, "a", 9, LONG).await;
    let kept = subject.backbone.keep(&group(&key), "a", &held(&added[..2], 3)).await.unwrap();
    assert_eq!(kept, added[..2]);
    assert!(take(subject, &key, "b", 9, LONG).await.is_empty(), "all of it is held");
    // To be taken is no attempt, however often.
    for consumer in ["b", "c", "a"] {
        let work = take(subject, &key, consumer, 9, Duration::ZERO).await;
        assert_eq!(taken(&work), [(added[0], 3), (added[1], 3), (added[2], 0)]);
    }
    let most = subject.backbone.keep(&group(&key), "a", &held(&added[..1], u8::MAX)).await.unwrap();
    assert_eq!(most.len(), 1);
    assert_eq!(taken(&take(subject, &key, "b", 1, Duration::ZERO).await), [(added[0], u8::MAX)]);
}

pub async fn what_is_kept_is_not_stale(subject: &Subject) {
    let key = stream("stale");
    let added = subject.add(&key, 2).await;
    take(subject, &key, "a", 9, LONG).await;
    let idle = Duration::from_millis(400);
    let found = until("what nobody keeps is found", async || {
        let kept = subject.backbone.keep(&group(&key), "a", &held(&added[1..], 1)).await.unwrap();
        assert_eq!(kept, added[1..]);
        let work = take(subject, &key, "b", 9, idle).await;
        (!work.is_empty()).then_some(work)
    })
    .await;
    assert_eq!(taken(&found), [(added[0], 0)]);
}

pub async fn a_consumer_that_wakes_takes_nothing_back(subject: &Subject) {
    let key = stream("paused");
    let added = subject.add(&key, 4).await;
    take(subject, &key, "a", 9, LONG).await;
    subject.backbone.finish(&group(&key), &added[3..]).await.unwrap();
    assert_eq!(taken(&take(subject, &key, "b", 2, Duration::ZERO).await), [(added[0], 0), (added[1], 0)]);
    let kept = subject.backbone.keep(&group(&key), "a", &held(&added, 9)).await.unwrap();
    assert_eq!(kept, added[2..3]);
    // Nor does it give away what is another's.
    subject.backbone.give_back(&group(&key), "a", &held(&added[..2], 9)).await.unwrap();
    assert!(take(subject, &key, "c", 9, LONG).await.is_empty());
    let kept = subject.backbone.keep(&group(&key), "b", &held(&added, 1)).await.unwrap();
    assert_eq!(kept, added[..2]);
}

pub async fn what_is_given_back_is_taken_next(subject: &Subject) {
    let key = stream("given-back");
    let added = subject.add(&key, 4).await;
    take(subject, &key, "a", 3, LONG).await;
    subject.backbone.give_back(&group(&key), "a", &held(&added[1..3], 2)).await.unwrap();
    // Who gave it back has it no more.
    let kept = subject.backbone.keep(&group(&key), "a", &held(&added[..3], 5)).await.unwrap();
    assert_eq!(kept, added[..1]);
    let work = take(subject, &key, "b", 9, LONG).await;
    assert_eq!(taken(&work), [(added[1], 2), (added[2], 2), (added[3], 0)]);
    assert!(take(subject, &key, "a", 9, LONG).await.is_empty());
    subject.backbone.give_back(&group(&key), "b", &held(&added[1..2], 3)).await.unwrap();
    // Nothing is given out twice in one answer, even where nothing may be held.
    let work = take(subject, &key, "a", 9, Duration::ZERO).await;
    let distinct: HashSet<Offset> = work.iter().map(|work| work.entry.offset).collect();
    assert_eq!((work.len(), distinct.len()), (4, 4));
    assert_eq!(taken(&work[..1]), [(added[1], 3)]);
}

pub async fn finished_work_is_gone(subject: &Subject) {
    let key = stream("finished");
    let added = subject.add(&key, 3).await;
    take(subject, &key, "a", 9, LONG).await;
    for _ in 0..2 {
        subject.backbone.finish(&group(&key), &added[..2]).await.unwrap();
    }
    let read = Read { stream: key.clone(), after: Offset::ZERO, added: None, count: 9 };
    let page = subject.backbone.read(&[read]).await.remove(0).unwrap();
    assert_eq!(offsets(&page.entries), added[2..]);
    assert_eq!(taken(&take(subject, &key, "b", 9, Duration::ZERO).await), [(added[2], 0)]);
    // Where there is no group there is nothing to take out of it.
    let none = stream("no-group");
    subject.backbone.finish(&group(&none), &added).await.unwrap();
    assert!(subject.backbone.keep(&group(&none), "a", &held(&added, 1)).await.unwrap().is_empty());
    subject.backbone.give_back(&group(&none), "a", &held(&added, 1)).await.unwrap();
    assert_eq!(subject.backbone.tidy(&group(&none), Duration::ZERO).await, Ok(0));
}

pub async fn withdrawn_work_is_dropped(subject: &Subject) {
    let key = stream("withdrawn-work");
    let added = subject.add(&key, 4).await;
    take(subject, &key, "a", 9, LONG).await;
    for offset in &added[..2] {
        subject.backend.withdraw(&key, *offset).await;
    }
    subject.backbone.give_back(&group(&key), "a", &held(&added[2..3], 1)).await.unwrap();
    subject.backend.withdraw(&key, added[2]).await;
    assert_eq!(taken(&take(subject, &key, "b", 9, Duration::ZERO).await), [(added[3], 0)]);
    // Nothing is left of them in the group, so nobody holds anything once the last one is done.
    subject.backbone.finish(&group(&key), &added[3..]).await.unwrap();
    assert!(take(subject, &key, "c", 9, Duration::ZERO).await.is_empty());
    until("every consumer is removed", async || {
        take(subject, &key, "c", 1, LONG).await;
        (subject.backbone.tidy(&group(&key), Duration::from_millis(1)).await.unwrap() > 0).then_some(())
    })
    .await;
}

pub async fn idle_consumers_without_work_are_removed(subject: &Subject) {
    let key = stream("tidy");
    let added = subject.add(&key, 3).await;
    for consumer in ["a", "b", "c"] {
        take(subject, &key, consumer, 1, LONG).await;
    }
    subject.backbone.finish(&group(&key), &[added[0], added[2]]).await.unwrap();
    assert_eq!(subject.backbone.tidy(&group(&key), LONG).await, Ok(0));
    let mut removed = 0;
    until("a and c are removed", async || {
        removed += subject.backbone.tidy(&group(&key), Duration::from_millis(1)).await.unwrap();
        (removed == 2).then_some(())
    })
    .await;
    let kept = subject.backbone.keep(&group(&key), "b", &held(&added, 1)).await.unwrap();
    assert_eq!(kept, added[1..2], "b still has its work");
}

pub async fn a_lease_is_one_holders_until_it_ends(subject: &Subject) {
    let key = "tg:sys:lease:test";
    let lease = async |holder, ttl| subject.backbone.lease(key, holder, ttl).await.unwrap();
    assert!(lease("a", LONG).await);
    assert!(lease("a", LONG).await, "renewed");
    assert!(!lease("b", LONG).await);
    assert!(subject.backbone.lease("tg:sys:lease:other", "b", LONG).await.unwrap());
    subject.backbone.release(key, "b").await.unwrap();
    assert!(!lease("b", LONG).await, "b had nothing to give up");
    subject.backbone.release(key, "a").await.unwrap();
    subject.backbone.release(key, "a").await.unwrap();
    assert!(lease("b", Duration::from_millis(1)).await);
    until("the lease of b ends", async || lease("a", LONG).await.then_some(())).await;
    assert!(!lease("b", LONG).await);
}
