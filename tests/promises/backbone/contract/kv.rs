//! The plugins' key-value stores.

use std::collections::BTreeSet;

use bytes::Bytes;
use tidegate::backbone::kv::{KvAnswer, KvOp, KvStore};

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
