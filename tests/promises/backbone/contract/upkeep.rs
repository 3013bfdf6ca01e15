//! Additions on conditions, and what keeps the streams in order.

use std::collections::{BTreeSet, HashSet};

use bytes::Bytes;
use tidegate::backbone::{Addition, BackboneError, Group, INGRESS_WINDOW, Once, Read, Take, Trim};
use tidegate::domain::{Offset, StreamKey};

use super::super::{Subject, stream};
use super::offsets;

fn addition(stream: &StreamKey, data: &str) -> Addition {
    let fields = vec![(Bytes::from("data"), Bytes::from(data.to_owned()))];
    Addition { stream: stream.clone(), fields, once: None, refuse_at: None }
}

fn with_id(stream: &StreamKey, id: &str) -> Addition {
    let mut addition = addition(stream, id);
    addition.fields.push((Bytes::from("id"), Bytes::from(id.to_owned())));
    Addition { once: Some(Once::Id(id.into())), ..addition }
}

fn from_ingress(stream: &StreamKey, entry: Offset) -> Addition {
    let mut addition = addition(stream, "x");
    addition.fields.push((Bytes::from("in"), Bytes::from(entry.to_string())));
    Addition { once: Some(Once::Ingress(entry)), ..addition }
}

async fn texts(subject: &Subject, stream: &StreamKey) -> Vec<String> {
    let read = Read { stream: stream.clone(), after: Offset::ZERO, added: None, count: 9_000 };
    let page = subject.backbone.read(&[read]).await.remove(0).unwrap();
    page.entries.iter().map(|entry| String::from_utf8_lossy(&entry.fields[0].1).into_owned()).collect()
}

pub async fn additions_keep_their_order(subject: &Subject) {
    let streams = [stream("order-a"), stream("order-b"), stream("order-c")];
    let additions: Vec<Addition> = (0..2_100)
        .map(|n: usize| match (n % 5, &streams[n % 3]) {
            (0, stream) => with_id(stream, &n.to_string()),
            (1, stream) => Addition { refuse_at: Some(9_000), ..addition(stream, &n.to_string()) },
            (_, stream) => addition(stream, &n.to_string()),
        })
        .collect();
    let answers = subject.backbone.append_all(&additions).await;
    let given: Vec<Offset> = answers.into_iter().map(Result::unwrap).collect();
    for (n, stream) in streams.iter().enumerate() {
        let expected: Vec<String> = (n..2_100).step_by(3).map(|n| n.to_string()).collect();
        assert_eq!(texts(subject, stream).await, expected);
        let of_stream: Vec<Offset> = given.iter().skip(n).step_by(3).copied().collect();
        let read = Read { stream: stream.clone(), after: Offset::ZERO, added: None, count: 9_000 };
        let page = subject.backbone.read(&[read]).await.remove(0).unwrap();
        assert_eq!(of_stream, offsets(&page.entries));
    }
    assert!(subject.backbone.append_all(&[]).await.is_empty());
}

pub async fn large_additions_all_arrive(subject: &Subject) {
    let key = stream("large");
    let text = "x".repeat(300_000);
    let answers = subject.backbone.append_all(&vec![addition(&key, &text); 20]).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let distinct: HashSet<Offset> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(distinct.len(), 20);
}

pub async fn one_request_adds_an_id_once(subject: &Subject) {
    let key = stream("ids");
    let additions = [with_id(&key, "a"), with_id(&key, "b"), with_id(&key, "a"), addition(&key, "a")];
    let answers = subject.backbone.append_all(&additions).await;
    let given: Vec<Offset> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(given[2], given[0]);
    assert_eq!(texts(subject, &key).await, ["a", "b", "a"]);
}

pub async fn an_ingress_entry_reaches_a_target_once(subject: &Subject) {
    let (target, other) = (stream("target"), stream("other-target"));
    // By the backbone's clock, as an ingress entry's offset is.
    let entry = subject.add(&stream("ingress"), 2).await;
    let add = async |stream: &StreamKey, entry| {
        subject.backbone.append_all(&[from_ingress(stream, entry)]).await.remove(0).unwrap()
    };
    let first = add(&target, entry[0]).await;
    let second = add(&target, entry[1]).await;
    assert!(first < second);
    // However much came since: more than one step of the search.
    let others = vec![addition(&target, "another"); 250];
    assert!(subject.backbone.append_all(&others).await.iter().all(Result::is_ok));
    assert_eq!(add(&target, entry[0]).await, first);
    assert_eq!(add(&target, entry[1]).await, second);
    assert!(add(&other, entry[0]).await > Offset::ZERO);
    // The search for one ends where it would stand if it were there.
    let three = subject.add(&stream("ingress"), 3).await;
    let (third, fifth) = (add(&target, three[0]).await, add(&target, three[2]).await);
    assert!(fifth > third && second < third);
    for (entry, offset) in [(three[2], fifth), (three[0], third), (entry[1], second)] {
        assert_eq!(add(&target, entry).await, offset);
    }
    // What is older than the ingress entry cannot come from it, and is not looked at.
    let later = Offset { ms: first.ms + 3_600_000, seq: 0 };
    let unfound = add(&target, later).await;
    assert_ne!(add(&target, later).await, unfound);
}

pub async fn the_search_for_an_ingress_entry_is_bounded(subject: &Subject) {
    let target = stream("long-target");
    let entry = subject.add(&stream("ingress"), 1).await[0];
    let add = async || subject.backbone.append_all(&[from_ingress(&target, entry)]).await.remove(0).unwrap();
    let first = add().await;
    let others = vec![addition(&target, "x"); INGRESS_WINDOW - 1];
    assert!(subject.backbone.append_all(&others).await.iter().all(Result::is_ok));
    assert_eq!(add().await, first);
    assert!(subject.backbone.append_all(&others[..1]).await[0].is_ok());
    assert_ne!(add().await, first);
}

pub async fn a_full_stream_refuses_and_only_it(subject: &Subject) {
    let (full, other) = (stream("full-queue"), stream("other-queue"));
    let limited = |stream| Addition { refuse_at: Some(2), ..addition(stream, "x") };
    let known = Addition { refuse_at: Some(2), ..with_id(&full, "known") };
    let additions = [known.clone(), limited(&full), limited(&full), limited(&other), addition(&full, "any")];
    let answers = subject.backbone.append_all(&additions).await;
    assert_eq!(answers[2], Err(BackboneError::Full(2)));
    assert!([0, 1, 3, 4].iter().all(|place| answers[*place].is_ok()), "{answers:?}");
    // Who asks again after a lost answer learns that it is in.
    assert_eq!(subject.backbone.append_all(&[known]).await[0], answers[0]);
    assert_eq!(subject.backbone.append_all(&[limited(&full)]).await, [Err(BackboneError::Full(3))]);
}

pub async fn removed_entries_are_gone(subject: &Subject) {
    let key = stream("removed");
    let added = subject.add(&key, 1_200).await;
    assert_eq!(subject.backbone.remove(&key, &added[..1_100]).await, Ok(1_100));
    assert_eq!(subject.backbone.remove(&key, &added[1_099..1_101]).await, Ok(1));
    assert_eq!(subject.backbone.remove(&stream("never-was"), &added[..1]).await, Ok(0));
    assert_eq!(texts(subject, &key).await.len(), 99);
}

pub async fn only_empty_streams_are_removed(subject: &Subject) {
    let [empty, used, shared, none] = ["empty", "used", "shared", "none"].map(stream);
    let last = subject.add(&empty, 2).await[1];
    subject.backend.trim_to(&empty, 0).await;
    subject.add(&used, 1).await;
    let group = Group { stream: shared.clone(), name: "tidegate" };
    let take = Take { group, consumer: "a".into(), count: 1, idle: std::time::Duration::ZERO };
    assert!(subject.backbone.take(&take).await.unwrap().is_empty());
    let streams = [empty.clone(), used, shared, none, empty.clone()];
    let removed = subject.backbone.remove_empty(&streams).await;
    assert_eq!(removed, [Ok(true), Ok(false), Ok(false), Ok(false), Ok(false)]);
    let tail = subject.backbone.tails(&[empty]).await.remove(0).unwrap();
    assert!(tail.last < last);
}

pub async fn a_scan_finds_every_stream(subject: &Subject) {
    let streams: BTreeSet<StreamKey> = (0..700).map(|n| stream(&format!("scan-{n}"))).collect();
    let passing: Vec<StreamKey> = (0..300).map(|n| stream(&format!("pass-{n}"))).collect();
    for stream in passing.iter().chain(&streams) {
        subject.add(stream, 1).await;
    }
    let strange = StreamKey::from_raw("tg:te?t:ch:room:1");
    subject.add(&strange, 1).await;
    let (mut cursor, mut found, mut calls) = (0, BTreeSet::new(), 0);
    loop {
        let (next, some) = subject.backbone.scan("tg:test:ch:room:scan-", cursor, 50).await.unwrap();
        found.extend(some);
        // Others come and go meanwhile.
        subject.add(&stream(&format!("new-{calls}")), 1).await;
        for gone in passing.iter().skip(20 * calls).take(20) {
            subject.backend.delete(gone).await;
        }
        (cursor, calls) = (next, calls + 1);
        if cursor == 0 {
            break;
        }
    }
    assert_eq!(found, streams);
    assert!(calls >= 8, "{calls}");
    let (next, some) = subject.backbone.scan("tg:te?t:", 0, 100_000).await.unwrap();
    assert_eq!((next, some), (0, vec![strange]));
}

pub async fn watchers_are_counted_where_they_can_be(subject: &Subject) {
    let (watched, other) = (stream("watched"), stream("unwatched"));
    subject.backbone.watch(std::slice::from_ref(&watched)).await.unwrap();
    let counts = subject.backbone.watchers(&[other, watched]).await;
    let expected = if subject.polls { [Ok(None), Ok(None)] } else { [Ok(Some(0)), Ok(Some(1))] };
    assert_eq!(counts, expected);
}

pub async fn trimming_bounds_memory(subject: &Subject) {
    let (heavy, light) = (stream("heavy"), stream("light"));
    let text = "x".repeat(1_000);
    for stream in [&heavy, &light] {
        let answers = subject.backbone.append_all(&vec![addition(stream, &text); 1_000]).await;
        assert!(answers.iter().all(Result::is_ok));
    }
    let trim = |stream: &StreamKey, max_bytes| Trim {
        stream: stream.clone(),
        max_len: 1_000_000,
        min_offset: Offset::ZERO,
        max_bytes: Some(max_bytes),
    };
    let trims = [trim(&heavy, 300_000), trim(&light, 10_000_000), trim(&stream("no-memory"), 1_000)];
    let went = subject.backbone.trim(&trims).await;
    assert_eq!(went[1..], [Ok(0), Ok(0)]);
    let left = texts(subject, &heavy).await.len();
    assert_eq!(went[0], Ok(1_000 - left as u64));
    assert!((150..=350).contains(&left), "{left} entries of 1,000 bytes are left");
}
