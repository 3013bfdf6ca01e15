//! The plugins' key-value stores.

use std::collections::BTreeSet;

use bytes::Bytes;
use tidegate::backbone::kv::{KvAnswer, KvOp, KvStore, Replace};

use super::super::Subject;

fn store(name: &str) -> KvStore {
    KvStore { key: format!("tg:acme:kv:{name}").into(), max_keys: 1_000, max_bytes: 100_000 }
}

async fn kv(subject: &Subject, store: &KvStore, op: KvOp) -> KvAnswer {
    subject.backbone.kv(store, op).await.unwrap()
}

fn set(key: &str, value: &'static str) -> KvOp {
    KvOp::Set(key.into(), Bytes::from(value))
}

pub async fn a_key_value_store_holds_what_was_set(subject: &Subject) {
    let store = store("plain");
    assert_eq!(kv(subject, &store, KvOp::Get("a".into())).await, KvAnswer::Value(None));
    assert_eq!(kv(subject, &store, set("a", "1\0é")).await, KvAnswer::Done);
    assert_eq!(kv(subject, &store, set("b", "")).await, KvAnswer::Done);
    assert_eq!(kv(subject, &store, KvOp::Get("a".into())).await, KvAnswer::Value(Some("1\0é".into())));
    assert_eq!(kv(subject, &store, KvOp::Get("b".into())).await, KvAnswer::Value(Some("".into())));
    for _ in 0..2 {
        assert_eq!(kv(subject, &store, KvOp::Delete("a".into())).await, KvAnswer::Done);
    }
    assert_eq!(kv(subject, &store, KvOp::Get("a".into())).await, KvAnswer::Value(None));
}

pub async fn a_key_value_store_has_quotas(subject: &Subject) {
    let store = KvStore { max_keys: 2, max_bytes: 60, ..store("quota") };
    assert_eq!(kv(subject, &store, set("a", "0123456789")).await, KvAnswer::Done);
    assert_eq!(kv(subject, &store, set("b", "0")).await, KvAnswer::Done);
    assert_eq!(kv(subject, &store, set("c", "0")).await, KvAnswer::OverQuota, "keys");
    assert_eq!(kv(subject, &store, KvOp::Increment("c".into(), 1)).await, KvAnswer::OverQuota, "keys");
    assert_eq!(kv(subject, &store, KvOp::Set("a".into(), vec![0; 60].into())).await, KvAnswer::OverQuota);
    assert_eq!(kv(subject, &store, KvOp::Set("a".into(), vec![0; 57].into())).await, KvAnswer::Done);
    // What is taken away makes room, and what is smaller goes in even below a lower quota.
    let lower = KvStore { max_bytes: 10, ..store.clone() };
    assert_eq!(kv(subject, &lower, KvOp::Set("a".into(), vec![0; 40].into())).await, KvAnswer::Done);
    assert_eq!(kv(subject, &lower, set("b", "00")).await, KvAnswer::OverQuota);
    for key in ["a", "b"] {
        assert_eq!(kv(subject, &lower, KvOp::Delete(key.into())).await, KvAnswer::Done);
    }
    assert_eq!(kv(subject, &lower, set("c", "012345678")).await, KvAnswer::Done, "ten bytes");
}

pub async fn sums_are_exact(subject: &Subject) {
    let store = store("sums");
    let add = |key: &str, delta| KvOp::Increment(key.into(), delta);
    assert_eq!(kv(subject, &store, add("n", 5)).await, KvAnswer::Sum(5));
    assert_eq!(kv(subject, &store, add("n", i64::MAX - 5)).await, KvAnswer::Sum(i64::MAX));
    assert_eq!(kv(subject, &store, add("n", 1)).await, KvAnswer::NotANumber);
    assert_eq!(kv(subject, &store, set("text", "many")).await, KvAnswer::Done);
    assert_eq!(kv(subject, &store, add("text", 1)).await, KvAnswer::NotANumber);
    assert_eq!(
        kv(subject, &store, KvOp::Get("n".into())).await,
        KvAnswer::Value(Some(i64::MAX.to_string().into()))
    );
}

pub async fn keys_are_listed_to_the_end(subject: &Subject) {
    let store = store("list");
    let expected: BTreeSet<String> = (0..750).map(|n| format!("key-{n}")).collect();
    for key in &expected {
        assert_eq!(kv(subject, &store, set(key, "x")).await, KvAnswer::Done);
    }
    let (mut found, mut cursor) = (BTreeSet::new(), 0);
    loop {
        let KvAnswer::Keys(keys, next) = kv(subject, &store, KvOp::Keys(cursor)).await else {
            panic!("no keys")
        };
        found.extend(keys);
        if next == 0 {
            break;
        }
        cursor = next;
    }
    assert_eq!(found, expected);
}

/// The end of days.
const NEVER: u64 = 1 << 45;

fn replace(key: &str, expected: Option<&'static str>, value: &'static str, mark: &'static str) -> Replace {
    let (expected, value) = (expected.map(Bytes::from), Bytes::from(value));
    Replace { key: key.into(), expected, value, mark: ("~".into(), mark.into()), by_ms: NEVER }
}

pub async fn a_value_is_replaced_once(subject: &Subject) {
    let store = store("replace");
    let put = async |replace: Replace| kv(subject, &store, KvOp::Replace(Box::new(replace))).await;
    let get = async |key: &str| kv(subject, &store, KvOp::Get(key.into())).await;
    assert_eq!(put(replace("a", Some("1"), "2", "x")).await, KvAnswer::Changed, "nothing is there");
    assert_eq!(get("~").await, KvAnswer::Value(None), "no change, no mark");
    assert_eq!(put(replace("a", None, "1\0é", "x")).await, KvAnswer::Done);
    assert_eq!(put(replace("a", None, "2", "y")).await, KvAnswer::Changed);
    assert_eq!(get("~").await, KvAnswer::Value(Some("x".into())));
    assert_eq!(put(replace("a", Some("1\0é"), "", "y")).await, KvAnswer::Done);
    assert_eq!(put(replace("a", None, "2", "z")).await, KvAnswer::Changed, "an empty value is one");
    assert_eq!(put(replace("a", Some(""), "3", "z")).await, KvAnswer::Done);
    assert_eq!(get("a").await, KvAnswer::Value(Some("3".into())));
    assert_eq!(get("~").await, KvAnswer::Value(Some("z".into())));
    let full = KvStore { max_bytes: 3, ..store.clone() };
    let more = replace("a", Some("3"), "0123456789", "q");
    assert_eq!(kv(subject, &full, KvOp::Replace(Box::new(more))).await, KvAnswer::OverQuota);
    // Of many who replace the same value one does.
    let racers = (0..20).map(|_| put(replace("a", Some("3"), "4", "w")));
    let answers = futures_util::future::join_all(racers).await;
    assert_eq!(answers.iter().filter(|answer| **answer == KvAnswer::Done).count(), 1, "{answers:?}");
}

pub async fn what_comes_late_replaces_nothing(subject: &Subject) {
    let store = store("late");
    let now_ms = subject.backbone.clock().now_ms();
    let late = Replace { by_ms: now_ms - 60_000, ..replace("a", None, "1", "x") };
    assert_eq!(kv(subject, &store, KvOp::Replace(Box::new(late))).await, KvAnswer::Late);
    let in_time = Replace { by_ms: now_ms + 60_000, ..replace("a", None, "1", "x") };
    assert_eq!(kv(subject, &store, KvOp::Replace(Box::new(in_time))).await, KvAnswer::Done);
}

pub async fn a_timed_value_has_all_that_was_set_before(subject: &Subject) {
    let store = store("timed");
    let KvAnswer::Timed(None, before) = kv(subject, &store, KvOp::GetTimed("a".into())).await else {
        panic!("nothing is there")
    };
    let stream = super::super::stream("timed");
    let offset = subject.add(&stream, 1).await[0];
    assert!(before <= offset.ms, "the clock is the one of offsets: {before} {offset}");
    assert_eq!(kv(subject, &store, set("a", "1")).await, KvAnswer::Done);
    let KvAnswer::Timed(value, after) = kv(subject, &store, KvOp::GetTimed("a".into())).await else {
        panic!("no answer of that kind")
    };
    assert!(value == Some("1".into()) && after >= offset.ms, "{value:?} {after} {offset}");
}
