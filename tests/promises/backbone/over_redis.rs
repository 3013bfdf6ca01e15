//! The contract over Redis, by events and by polling, and what a server can do to a node.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use tidegate::backbone::kv::{KvAnswer, KvOp, KvStore};
use tidegate::backbone::redis::{RedisBackbone, RedisConfig};
use tidegate::backbone::wake::DirtySet;
use tidegate::backbone::{Backbone, BackboneError, MAX_ENTRY, Range, Read};
use tidegate::domain::{NodeId, Offset, RawEntry, StreamKey};
use tidegate_support::redis::RedisServer;

use super::contract::contract;
use super::{Backend, Subject, stream, until};

contract!(by_events, super::by_events_only);
contract!(by_polling, super::by_polling_only);

/// Polls so rarely that only events can mark.
const NEVER: Duration = Duration::from_secs(100_000);

/// A backend with a connection of its own.
pub struct RawBackend(pub MultiplexedConnection);

#[async_trait]
impl Backend for RawBackend {
    async fn add_at(&self, stream: &StreamKey, id: Option<Offset>, data: &str) -> Offset {
        let mut add = redis::cmd("XADD");
        let id = id.map_or("*".to_owned(), |id| id.to_string());
        add.arg(stream.as_str()).arg(id).arg("data").arg(data);
        add.query_async::<String>(&mut self.0.clone()).await.unwrap().parse().unwrap()
    }

    async fn trim_to(&self, stream: &StreamKey, length: u64) {
        command(&self.0, &["XTRIM", stream.as_str(), "MAXLEN", "=", &length.to_string()]).await;
    }

    async fn withdraw(&self, stream: &StreamKey, offset: Offset) {
        command(&self.0, &["XDEL", stream.as_str(), &offset.to_string()]).await;
    }

    async fn delete(&self, stream: &StreamKey) {
        command(&self.0, &["DEL", stream.as_str()]).await;
    }

    async fn spoil(&self, stream: &StreamKey) -> bool {
        command(&self.0, &["SET", stream.as_str(), "x"]).await;
        true
    }
}

pub async fn command(connection: &MultiplexedConnection, words: &[&str]) -> redis::Value {
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command.query_async(&mut connection.clone()).await.unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

async fn setting(server: &RedisServer, name: &str) -> String {
    let mut get = redis::cmd("CONFIG");
    get.arg("GET").arg(name);
    let (_, value): (String, String) =
        get.query_async(&mut server.connection().await.unwrap()).await.unwrap();
    value
}

pub fn config(url: String) -> RedisConfig {
    RedisConfig { poll_interval: NEVER, ..RedisConfig::new(url, NodeId::parse("node-1").unwrap()) }
}

pub async fn subject(server: &RedisServer, config: RedisConfig) -> (Subject, Arc<RedisBackbone>) {
    let dirty = Arc::new(DirtySet::default());
    let polls = config.force_polling;
    let redis = RedisBackbone::connect(config, Arc::clone(&dirty)).await.unwrap();
    let backend = Box::new(RawBackend(server.connection().await.unwrap()));
    (Subject { backbone: Arc::clone(&redis) as Arc<dyn Backbone>, dirty, backend, polls }, redis)
}

async fn by_events_only() -> (Subject, RedisServer) {
    let server = RedisServer::start(&[]).await.unwrap();
    (subject(&server, config(server.url())).await.0, server)
}

async fn by_polling_only() -> (Subject, RedisServer) {
    let server = RedisServer::start(&[]).await.unwrap();
    let config =
        RedisConfig { force_polling: true, poll_interval: Duration::from_millis(10), ..config(server.url()) };
    let subject = subject(&server, config).await.0;
    assert_eq!(setting(&server, "notify-keyspace-events").await, "", "polling leaves the flags alone");
    (subject, server)
}

/// Persists every command before it is answered.
const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

async fn restarted(server: &mut RedisServer, subject: &mut Subject) {
    server.kill();
    until("the loss is noticed", async || (!subject.backbone.is_connected()).then_some(())).await;
    server.restart().await.unwrap();
    until("it is back", async || subject.backbone.is_connected().then_some(())).await;
    subject.backend = Box::new(RawBackend(server.connection().await.unwrap()));
}

#[tokio::test]
async fn a_killed_subscription_comes_back_and_marks_everything() {
    let (subject, server) = by_events_only().await;
    let streams: Vec<StreamKey> = (0..1_500).map(|n| stream(&format!("s{n}"))).collect();
    subject.backbone.watch(&streams).await.unwrap();
    let epoch = subject.backbone.epoch();
    while !subject.dirty.take(10_000).is_empty() {}
    let raw = server.connection().await.unwrap();
    command(&raw, &["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    let mut seen = HashSet::new();
    until("every stream is marked", async || {
        seen.extend(subject.dirty.take(10_000));
        (seen.len() == streams.len()).then_some(())
    })
    .await;
    subject.add(&streams[1_499], 1).await;
    subject.marked(&streams[1_499]).await;
    assert_eq!(subject.backbone.epoch(), epoch);
}

/// Subscribing to all of them at once would have Redis close the connection for its output buffer.
#[tokio::test(flavor = "multi_thread")]
async fn a_million_streams_are_watched_again_over_one_connection() {
    const STREAMS: usize = 1_000_000;
    let (subject, server) = by_events_only().await;
    let raw = server.connection().await.unwrap();
    let listener = async || {
        let list = command(&raw, &["CLIENT", "LIST", "TYPE", "pubsub"]).await;
        let list: String = redis::from_redis_value(list).unwrap();
        list.split_whitespace().find_map(|field| field.strip_prefix("id=")).map(str::to_owned)
    };
    let streams: Vec<StreamKey> = (0..STREAMS).map(|n| stream(&n.to_string())).collect();
    for some in streams.chunks(100_000) {
        subject.backbone.watch(some).await.unwrap();
    }
    while !subject.dirty.take(10_000).is_empty() {}
    let before = listener().await;
    command(&raw, &["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    let mut marked = HashSet::new();
    until("every stream is marked", async || {
        marked.extend(subject.dirty.take(STREAMS));
        (marked.len() == STREAMS).then_some(())
    })
    .await;
    let after = listener().await;
    assert_ne!(after, before);
    for watched in [&streams[0], &streams[STREAMS - 1]] {
        subject.add(watched, 1).await;
        subject.marked(watched).await;
    }
    assert_eq!(listener().await, after, "the second connection lasts");
}

#[tokio::test]
async fn a_killed_command_connection_comes_back_and_marks_everything() {
    let (subject, server) = by_events_only().await;
    let key = stream("read-again");
    subject.backbone.watch(std::slice::from_ref(&key)).await.unwrap();
    while !subject.dirty.take(100).is_empty() {}
    let raw = server.connection().await.unwrap();
    command(&raw, &["CLIENT", "KILL", "TYPE", "normal"]).await;
    subject.marked(&key).await;
    until("reads go on", async || subject.backbone.tails(std::slice::from_ref(&key)).await.remove(0).ok())
        .await;
}

/// Kills one of the node's connections by its name.
async fn kill_named(raw: &MultiplexedConnection, name: &str) {
    let listed = match command(raw, &["CLIENT", "LIST"]).await {
        redis::Value::VerbatimString { text, .. } => text,
        redis::Value::BulkString(text) => String::from_utf8(text).unwrap(),
        other => panic!("{other:?}"),
    };
    let line = listed.lines().find(|line| line.contains(&format!("name={name} ")));
    let line = line.unwrap_or_else(|| panic!("no connection {name} among\n{listed}"));
    let id = line.split(' ').find_map(|word| word.strip_prefix("id=")).unwrap();
    command(raw, &["CLIENT", "KILL", "ID", id]).await;
}

#[tokio::test]
async fn a_killed_connection_for_reads_comes_back_and_marks_everything() {
    let (subject, server) = by_events_only().await;
    let key = stream("read-again");
    subject.backbone.watch(std::slice::from_ref(&key)).await.unwrap();
    let raw = server.connection().await.unwrap();
    for name in ["tidegate:live", "tidegate:pages"] {
        while !subject.dirty.take(100).is_empty() {}
        kill_named(&raw, name).await;
        subject.marked(&key).await;
        let read = Read { stream: key.clone(), after: Offset::ZERO, added: None, count: 1 };
        let reads = std::slice::from_ref(&read);
        subject.backbone.read_live(reads).await.remove(0).expect("marked means that it can be read");
        subject.backbone.read(reads).await.remove(0).expect("marked means that it can be read");
    }
}

#[tokio::test]
async fn an_entry_too_large_to_be_read_keeps_its_place() {
    let (subject, server) = by_events_only().await;
    let key = stream("oversize");
    let raw = server.connection().await.unwrap();
    let mut add = redis::cmd("XADD");
    add.arg(key.as_str()).arg("5-0").arg("data").arg(vec![b'x'; 2 * MAX_ENTRY]);
    subject.backend.add_at(&key, Some(Offset { ms: 4, seq: 0 }), "before").await;
    add.query_async::<()>(&mut raw.clone()).await.unwrap();
    let sizes = |entries: &[RawEntry]| -> Vec<_> {
        entries.iter().map(|entry| (entry.offset.ms, entry.oversize, entry.fields.len())).collect()
    };
    let (before, large, after) = ((4, None, 1), (5, Some(2 * MAX_ENTRY + 4), 0), (6, None, 1));
    let read = |ms, added| Read { stream: key.clone(), after: Offset { ms, seq: 0 }, added, count: 9 };
    let page = subject.backbone.read(&[read(4, Some(1))]).await.remove(0).unwrap();
    assert_eq!((sizes(&page.entries), page.whole, page.added), (vec![large], true, Some(2)));
    subject.backend.add_at(&key, Some(Offset { ms: 6, seq: 0 }), "after").await;
    let reads = [read(0, None), read(5, Some(2)), read(3, None)];
    let pages: Vec<_> = subject.backbone.read_live(&reads).await.into_iter().map(Result::unwrap).collect();
    assert_eq!((sizes(&pages[0].entries), pages[0].whole), (vec![before, large, after], true));
    assert_eq!((sizes(&pages[1].entries), pages[1].whole, pages[1].added), (vec![after], true, Some(3)));
    assert_eq!((sizes(&pages[2].entries), pages[2].whole), (vec![before, large, after], false));
    for range in [
        Range { before: None, after: None, limit: 2 },
        Range { before: None, after: Some(Offset { ms: 4, seq: 0 }), limit: 2 },
    ] {
        let found = subject.backbone.history(&key, range).await.unwrap();
        assert_eq!(sizes(&found), [large, after]);
    }
    assert_eq!(subject.backbone.tails(&[key]).await.remove(0).unwrap().last.ms, 6);
}

#[tokio::test]
async fn a_socket_in_the_file_system_will_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("redis.sock");
    let server = RedisServer::start(&["--unixsocket", path.to_str().unwrap()]).await.unwrap();
    let (subject, _redis) = subject(&server, config(format!("unix://{}", path.display()))).await;
    let (key, after) = (stream("by-file"), Offset::ZERO);
    let added = subject.add(&key, 2).await;
    let read = Read { stream: key, after, added: None, count: 9 };
    assert_eq!(subject.backbone.read(&[read]).await.remove(0).unwrap().end, added[1]);
}

#[tokio::test]
async fn flags_that_somebody_takes_away_at_run_time_come_back_with_the_next_connection() {
    let (mut subject, server) = by_events_only().await;
    let key = stream("flags");
    subject.backbone.watch(std::slice::from_ref(&key)).await.unwrap();
    let raw = server.connection().await.unwrap();
    command(&raw, &["CONFIG", "SET", "notify-keyspace-events", ""]).await;
    command(&raw, &["CLIENT", "KILL", "TYPE", "normal"]).await;
    until("the flags are back", async || {
        (!setting(&server, "notify-keyspace-events").await.is_empty()).then_some(())
    })
    .await;
    until("wake-ups are back", async || subject.backbone.is_connected().then_some(())).await;
    subject.backend = Box::new(RawBackend(raw));
    while !subject.dirty.take(100).is_empty() {}
    subject.backend.add_at(&key, None, "x").await;
    subject.marked(&key).await;
}

#[tokio::test]
async fn a_restart_that_keeps_its_data_keeps_the_epoch_and_loses_no_wake_up() {
    let mut server = RedisServer::start(&DURABLE).await.unwrap();
    let (mut subject, _redis) = subject(&server, config(server.url())).await;
    let key = stream("kept");
    subject.backbone.watch(std::slice::from_ref(&key)).await.unwrap();
    subject.add(&key, 1).await;
    subject.marked(&key).await;
    let epoch = subject.backbone.epoch();
    assert!(!setting(&server, "notify-keyspace-events").await.is_empty());
    restarted(&mut server, &mut subject).await;
    subject.marked(&key).await;
    // The flags went with the process and were set again.
    assert!(setting(&server, "notify-keyspace-events").await.contains('K'));
    let added = subject.add(&key, 1).await;
    subject.marked(&key).await;
    let read = Read { stream: key, after: Offset::ZERO, added: Some(0), count: 9 };
    let page = subject.backbone.read(&[read]).await.remove(0).unwrap();
    assert_eq!((page.whole, page.entries.len(), page.end), (true, 2, added[0]));
    assert_eq!((page.epoch, subject.backbone.epoch()), (epoch, epoch));
}

#[tokio::test]
async fn a_restart_that_lost_its_data_begins_a_new_epoch() {
    let mut server = RedisServer::start(&[]).await.unwrap();
    let (mut subject, _redis) = subject(&server, config(server.url())).await;
    let epoch = subject.backbone.epoch();
    restarted(&mut server, &mut subject).await;
    assert_ne!(subject.backbone.epoch(), epoch);
}

#[tokio::test]
async fn nodes_agree_on_a_new_epoch_when_its_key_is_gone() {
    let server = RedisServer::start(&[]).await.unwrap();
    let (a, _) = subject(&server, config(server.url())).await;
    let second = RedisConfig { node: NodeId::parse("node-2").unwrap(), ..config(server.url()) };
    let (b, _) = subject(&server, second).await;
    let epoch = a.backbone.epoch();
    assert_eq!(b.backbone.epoch(), epoch);
    let raw = server.connection().await.unwrap();
    command(&raw, &["DEL", "tg:sys:epoch"]).await;
    command(&raw, &["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    until("both have the same new epoch", async || {
        let (a, b) = (a.backbone.epoch(), b.backbone.epoch());
        (a == b && a != epoch).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_ends_before_a_held_position_begins_a_new_epoch() {
    let (subject, server) = by_events_only().await;
    let key = stream("behind");
    let raw = server.connection().await.unwrap();
    command(&raw, &["XADD", key.as_str(), "5-0", "data", "x"]).await;
    let epoch = subject.backbone.epoch();
    let read = Read { stream: key.clone(), after: Offset { ms: 9, seq: 0 }, added: None, count: 5 };
    let claimed = subject.backbone.read(std::slice::from_ref(&read)).await.remove(0).unwrap();
    assert_eq!((claimed.whole, claimed.epoch), (false, epoch), "a client's word is no evidence");
    let read = Read { added: Some(3), ..read };
    let reads = [read.clone(), read];
    let pages: Vec<_> = subject.backbone.read(&reads).await.into_iter().map(Result::unwrap).collect();
    assert_eq!((pages[0].whole, pages[0].end), (false, Offset { ms: 5, seq: 0 }));
    assert_ne!(pages[0].epoch, epoch);
    assert_eq!(subject.backbone.epoch(), pages[1].epoch);
}

/// What a node needs besides `CONFIG`, `INFO` and the right to hear events.
const NODE: &str = "~tg:* resetchannels +@all -config -info -@dangerous";

async fn with_user(server: &RedisServer, rights: &str) -> RedisConfig {
    let raw = server.connection().await.unwrap();
    let mut words = vec!["ACL", "SETUSER", "edge", "on", ">sesame"];
    words.extend(rights.split(' '));
    command(&raw, &words).await;
    config(server.url_as("edge", "sesame"))
}

/// What `docs/redis.md` gives a node.
fn documented_rights() -> String {
    let docs = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/redis.md")).unwrap();
    let line = docs.lines().find_map(|line| line.strip_prefix("user tidegate on >change-me ")).unwrap();
    line.to_owned()
}

#[tokio::test]
async fn key_value_stores_need_no_more_rights_than_the_docs_give() {
    let server = RedisServer::start(&[]).await.unwrap();
    let (subject, _redis) = subject(&server, with_user(&server, &documented_rights()).await).await;
    super::contract::a_key_value_store_has_quotas(&subject).await;
    super::contract::sums_are_exact(&subject).await;
    super::contract::keys_are_listed_to_the_end(&subject).await;
    super::contract::a_value_is_replaced_once(&subject).await;
}

/// Bytes that a server has sent to its clients.
async fn bytes_sent(raw: &MultiplexedConnection) -> u64 {
    let redis::Value::BulkString(stats) = command(raw, &["INFO", "stats"]).await else { panic!("no stats") };
    let stats = String::from_utf8(stats).unwrap();
    let sent = stats.lines().find_map(|line| line.strip_prefix("total_net_output_bytes:"));
    sent.unwrap().parse().unwrap()
}

#[tokio::test]
async fn values_do_not_travel_where_keys_are_listed() {
    let (subject, server) = by_events_only().await;
    let raw = server.connection().await.unwrap();
    let store = KvStore { key: "tg:acme:kv:large".into(), max_keys: 1_000, max_bytes: 1 << 30 };
    for key in 0..50 {
        let value = Bytes::from(vec![b'x'; 64 << 10]);
        subject.backbone.kv(&store, KvOp::Set(key.to_string().into(), value)).await.unwrap();
    }
    let before = bytes_sent(&raw).await;
    let (mut cursor, mut found) = (0, 0);
    loop {
        let answer = subject.backbone.kv(&store, KvOp::Keys(cursor)).await.unwrap();
        let KvAnswer::Keys(keys, next) = answer else { panic!("{answer:?}") };
        found += keys.len();
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    let sent = bytes_sent(&raw).await - before;
    assert!(found >= 50 && sent < 64 << 10, "{found} keys, {sent} bytes");
}

#[tokio::test]
async fn without_the_right_to_configure_polling_stands_in() {
    let server = RedisServer::start(&[]).await.unwrap();
    let rights = format!("{NODE} &__keyspace@*");
    let config =
        RedisConfig { poll_interval: Duration::from_millis(10), ..with_user(&server, &rights).await };
    let (subject, _redis) = subject(&server, config).await;
    super::contract::watched_streams_are_marked(&subject).await;
    super::contract::unwatched_streams_are_not(&subject).await;
}

#[tokio::test]
async fn without_the_right_to_hear_events_polling_stands_in() {
    let server = RedisServer::start(&["--notify-keyspace-events", "Kt"]).await.unwrap();
    let config = RedisConfig { poll_interval: Duration::from_millis(10), ..with_user(&server, NODE).await };
    let (subject, _redis) = subject(&server, config).await;
    super::contract::watched_streams_are_marked(&subject).await;
}

#[tokio::test]
async fn with_the_flags_set_by_the_operator_events_come_without_the_right_to_configure() {
    let server = RedisServer::start(&["--notify-keyspace-events", "Kt"]).await.unwrap();
    let config = with_user(&server, &format!("{NODE} &__keyspace@*")).await;
    let (subject, _redis) = subject(&server, config).await;
    super::contract::watched_streams_are_marked(&subject).await;
}

#[tokio::test]
async fn flags_that_others_need_are_kept() {
    let server = RedisServer::start(&["--notify-keyspace-events", "Ex"]).await.unwrap();
    let (subject, _redis) = subject(&server, config(server.url())).await;
    super::contract::watched_streams_are_marked(&subject).await;
    let flags = setting(&server, "notify-keyspace-events").await;
    assert!(["E", "x", "K", "t"].iter().all(|flag| flags.contains(flag)), "{flags}");
}

#[tokio::test]
async fn another_database_has_events_of_its_own() {
    let server = RedisServer::start(&[]).await.unwrap();
    let (mut subject, _redis) = subject(&server, config(format!("{}/3", server.url()))).await;
    let raw = server.connection().await.unwrap();
    command(&raw, &["SELECT", "3"]).await;
    subject.backend = Box::new(RawBackend(raw));
    super::contract::watched_streams_are_marked(&subject).await;
    let (key, before) = (stream("watched-0"), Offset::ZERO);
    let read = Read { stream: key, after: before, added: None, count: 9 };
    assert!(!subject.backbone.read(&[read]).await.remove(0).unwrap().entries.is_empty());
}

#[tokio::test]
async fn a_server_that_is_gone_or_hangs_makes_calls_fail_and_none_hang() {
    let mut server = RedisServer::start(&DURABLE).await.unwrap();
    let config = RedisConfig {
        response_timeout: Duration::from_millis(300),
        patience: Duration::from_millis(50),
        ..config(server.url())
    };
    let (mut subject, _redis) = subject(&server, config).await;
    let key = stream("away");
    let read = Read { stream: key.clone(), after: Offset::ZERO, added: Some(0), count: 5 };
    let is_away = async |subject: &Subject| {
        let page = subject.backbone.read(std::slice::from_ref(&read)).await.remove(0);
        let tail = subject.backbone.tails(std::slice::from_ref(&key)).await.remove(0);
        let watched = subject.backbone.watch(std::slice::from_ref(&key)).await;
        let added = subject.backbone.append(&key, vec![(Bytes::from("data"), Bytes::new())], None).await;
        for error in [page.err(), tail.err(), watched.err(), added.err()] {
            assert!(matches!(error, Some(BackboneError::Away(_))), "{error:?}");
        }
        assert!(!subject.backbone.is_connected());
    };
    server.pause().unwrap();
    is_away(&subject).await;
    server.resume().unwrap();
    until("it goes on", async || subject.backbone.watch(std::slice::from_ref(&key)).await.ok()).await;
    server.kill();
    until("the loss is noticed", async || (!subject.backbone.is_connected()).then_some(())).await;
    is_away(&subject).await;
    server.restart().await.unwrap();
    until("it is back", async || subject.backbone.watch(std::slice::from_ref(&key)).await.ok()).await;
    subject.backend = Box::new(RawBackend(server.connection().await.unwrap()));
    subject.add(&key, 1).await;
    subject.marked(&key).await;
}

#[tokio::test]
async fn a_server_without_memory_takes_no_writes_and_still_answers_reads() {
    let (subject, server) = by_events_only().await;
    let key = stream("full");
    let added = subject.add(&key, 1).await;
    let raw = server.connection().await.unwrap();
    command(&raw, &["CONFIG", "SET", "maxmemory", "1"]).await;
    let fields = || vec![(Bytes::from("data"), Bytes::from("x"))];
    for dedupe in [None, Some("a")] {
        let refused = subject.backbone.append(&key, fields(), dedupe).await;
        assert!(matches!(refused, Err(BackboneError::ReadOnly(_))), "{refused:?}");
    }
    let tail = subject.backbone.tails(&[key]).await.remove(0).unwrap();
    assert_eq!(tail.last, added[0]);
    command(&raw, &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    until("it connects without memory too", async || subject.backbone.is_connected().then_some(())).await;
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_loaded_again() {
    let (subject, server) = by_events_only().await;
    command(&server.connection().await.unwrap(), &["SCRIPT", "FLUSH"]).await;
    super::contract::many_cursors_at_once(&subject).await;
}

#[tokio::test]
async fn a_replica_is_not_taken_for_a_master() {
    let master = RedisServer::start(&[]).await.unwrap();
    let port = master.port().to_string();
    let replica = RedisServer::start(&["--replicaof", "127.0.0.1", &port]).await.unwrap();
    let refused = RedisBackbone::connect(config(replica.url()), Arc::default()).await.err();
    assert!(matches!(&refused, Some(BackboneError::Away(why)) if why.contains("replica")), "{refused:?}");
}

#[tokio::test]
async fn what_is_not_supported_is_said_and_the_password_is_not() {
    let refusal = async |config: RedisConfig| match RedisBackbone::connect(config, Arc::default()).await {
        Err(BackboneError::Refused(why)) => why,
        other => panic!("{:?}", other.err()),
    };
    let cluster = RedisServer::start(&["--cluster-enabled", "yes"]).await.unwrap();
    command(&cluster.connection().await.unwrap(), &["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
    until("the cluster is up", async || {
        let info = command(&cluster.connection().await.unwrap(), &["CLUSTER", "INFO"]).await;
        format!("{info:?}").contains("cluster_state:ok").then_some(())
    })
    .await;
    assert!(refusal(config(cluster.url())).await.contains("not supported yet"));
    let server = RedisServer::start(&[]).await.unwrap();
    command(&server.connection().await.unwrap(), &["SET", "tg:sys:schema", "2"]).await;
    assert!(refusal(config(server.url())).await.contains("schema"));
    for url in ["http://u:sesame@127.0.0.1", "sesame"] {
        let config = config(url.into());
        assert!(!format!("{config:?}").contains("sesame"));
        assert!(!refusal(config).await.contains("sesame"));
    }
    let wrong = refusal(config(server.url_as("edge", "sesame"))).await;
    assert!(wrong.contains("password") && !wrong.contains("sesame"), "{wrong}");
}

#[tokio::test]
async fn after_shutdown_nothing_runs_and_everything_is_away() {
    let server = RedisServer::start(&[]).await.unwrap();
    let (subject, redis) = subject(&server, config(server.url())).await;
    redis.shutdown().await;
    assert!(!subject.backbone.is_connected());
    let refused = subject.backbone.watch(&[stream("late")]).await;
    assert!(matches!(refused, Err(BackboneError::Away(_))));
    let raw = server.connection().await.unwrap();
    until("the node's connections are closed", async || {
        let list = format!("{:?}", command(&raw, &["CLIENT", "LIST", "TYPE", "pubsub"]).await);
        (!list.contains("addr=")).then_some(())
    })
    .await;
}
