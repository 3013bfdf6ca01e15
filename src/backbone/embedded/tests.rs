use super::*;

fn key(name: &str) -> StreamKey {
    StreamKey::from_raw(name)
}

fn fields(data: &str) -> Vec<(Bytes, Bytes)> {
    vec![
        (Bytes::from("data"), Bytes::from(data.to_owned())),
        (Bytes::from("id"), Bytes::from(data.to_owned())),
    ]
}

fn read(after: Offset) -> Read {
    Read { stream: key("s"), after, added: None, count: 10 }
}

async fn one(backbone: &Embedded, read: Read) -> Page {
    backbone.read(&[read]).await.remove(0).unwrap()
}

#[tokio::test]
async fn additions_to_watched_streams_mark_them() {
    let dirty = Arc::new(DirtySet::default());
    let backbone = Embedded::new(dirty.clone());
    backbone.watch(&[key("s"), key("s")]).await.unwrap();
    for stream in ["s", "other", "s"] {
        backbone.append(&key(stream), fields("a"), None).await.unwrap();
    }
    assert_eq!(dirty.take(9), [key("s")]);
    backbone.unwatch(&[key("s")]).await;
    backbone.append(&key("s"), fields("a"), None).await.unwrap();
    assert!(dirty.take(9).is_empty());
}

#[tokio::test]
async fn an_idempotency_key_is_found_among_recent_entries() {
    let backbone = Embedded::new(Arc::default());
    let first = backbone.append(&key("s"), fields("a"), Some("a")).await.unwrap();
    for n in 0..DEDUPE_WINDOW - 1 {
        backbone.append(&key("s"), fields(&n.to_string()), None).await.unwrap();
    }
    assert_eq!(backbone.append(&key("s"), fields("a"), Some("a")).await, Ok(first));
    backbone.append(&key("s"), fields("z"), None).await.unwrap();
    assert_ne!(backbone.append(&key("s"), fields("a"), Some("a")).await, Ok(first));
}

#[tokio::test]
async fn a_stream_that_began_again_is_a_new_epoch_once() {
    let backbone = Embedded::new(Arc::default());
    let epoch = backbone.epoch();
    let beyond = Read { added: Some(3), ..read(Offset { ms: u64::MAX, seq: 0 }) };
    let nothing = one(&backbone, beyond.clone()).await;
    assert_eq!((nothing.whole, nothing.end, nothing.epoch), (false, Offset::ZERO, epoch));
    let start = one(&backbone, read(Offset::ZERO)).await;
    assert_eq!((start.whole, start.end, start.added), (true, Offset::ZERO, Some(0)));

    let last = backbone.append(&key("s"), fields("a"), None).await.unwrap();
    let lost = one(&backbone, beyond.clone()).await;
    assert_eq!((lost.whole, lost.end, lost.entries.len()), (false, last, 0));
    assert_ne!(lost.epoch, epoch);
    assert_eq!(one(&backbone, beyond.clone()).await.epoch, lost.epoch);

    backbone.with_store(|store| store.delete(b"s"));
    backbone.append(&key("s"), fields("a"), None).await.unwrap();
    assert_ne!(one(&backbone, beyond.clone()).await.epoch, lost.epoch);
}

#[tokio::test]
async fn history_is_ascending_and_its_bounds_are_exclusive() {
    let backbone = Embedded::new(Arc::default());
    let mut added = Vec::new();
    for n in 0..5 {
        added.push(backbone.append(&key("s"), fields(&n.to_string()), None).await.unwrap());
    }
    let history = async |before, after, limit| {
        let entries = backbone.history(&key("s"), Range { before, after, limit }).await.unwrap();
        entries.into_iter().map(|entry| entry.offset).collect::<Vec<_>>()
    };
    assert_eq!(history(None, None, 2).await, added[3..]);
    assert_eq!(history(Some(added[3]), None, 2).await, added[1..3]);
    assert_eq!(history(None, Some(added[1]), 2).await, added[2..4]);
    assert!(history(Some(Offset::ZERO), None, 2).await.is_empty());
    assert!(history(None, Some(Offset::MAX), 2).await.is_empty());
}

#[tokio::test]
async fn trimming_leaves_a_gap_and_the_tail() {
    let backbone = Embedded::new(Arc::default());
    let first = backbone.append(&key("s"), fields("a"), None).await.unwrap();
    let last = backbone.append(&key("s"), fields("b"), None).await.unwrap();
    let trim = |max_len, min_offset| Trim { stream: key("s"), max_len, min_offset, max_bytes: None };
    assert_eq!(backbone.trim(&[trim(9, Offset::ZERO), trim(1, Offset::ZERO)]).await, [Ok(0), Ok(1)]);
    assert!(!one(&backbone, read(Offset::ZERO)).await.whole);
    let known = Read { added: Some(1), ..read(first) };
    assert!(one(&backbone, known).await.whole, "nothing but what lies behind is gone");
    assert_eq!(backbone.trim(&[trim(9, Offset::MAX)]).await, [Ok(1)]);
    let tail = backbone.tails(&[key("s"), key("none")]).await;
    let epoch = backbone.epoch();
    assert_eq!(tail[0], Ok(Tail { last, first: None, added: Some(2), epoch }));
    assert_eq!(tail[1], Ok(Tail { last: Offset::ZERO, first: None, added: Some(0), epoch }));
}

#[tokio::test]
async fn memory_is_limited_and_comes_back() {
    let backbone = Embedded::with_max_bytes(Arc::default(), 2_000);
    let mut stored = 0;
    while backbone.append(&key("s"), fields("a"), None).await.is_ok() {
        stored += 1;
        assert!(stored < 100);
    }
    let refused = backbone.append(&key("s"), fields("a"), None).await.unwrap_err();
    assert!(matches!(&refused, BackboneError::ReadOnly(why) if why.starts_with("OOM")), "{refused}");
    assert!(backbone.with_store(|store| store.delete(b"s") && store.bytes() == 0));
    assert!(backbone.append(&key("s"), fields("a"), None).await.is_ok());
}

#[tokio::test]
async fn nodes_are_live_for_a_lease() {
    let backbone = Embedded::new(Arc::default());
    let (a, b) = (NodeId::parse("a").unwrap(), NodeId::parse("b").unwrap());
    let lease = Duration::from_secs(60);
    backbone.heartbeat(&b, "two", lease).await.unwrap();
    let live = backbone.heartbeat(&a, "one", lease).await.unwrap();
    assert_eq!(live, [(a.clone(), "one".to_owned()), (b.clone(), "two".to_owned())]);
    backbone.forget_node(&b).await.unwrap();
    assert_eq!(backbone.heartbeat(&a, "one", lease).await.unwrap().len(), 1);
    // Long past the lease by the backbone's clock.
    let now = backbone.clock().now_ms();
    backbone.clock().measured(now + 11 * 60_000, now, now);
    assert_eq!(backbone.heartbeat(&b, "two", lease).await.unwrap().len(), 1);
    assert_eq!(backbone.nodes.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn the_first_value_stays() {
    let backbone = Embedded::new(Arc::default());
    assert_eq!(backbone.get_or_set("k", "one").await, Ok("one".to_owned()));
    assert_eq!(backbone.get_or_set("k", "two").await, Ok("one".to_owned()));
}

#[tokio::test]
async fn a_waiter_hears_of_what_was_added_before_it_waits() {
    let backbone = Embedded::new(Arc::default());
    let waiter = backbone.waiter(vec![Bytes::from("s")]);
    backbone.append(&key("s"), fields("a"), None).await.unwrap();
    waiter.changed().await;
    drop(waiter);
    let left = backbone.waiter(vec![]);
    drop(left);
}
