//! What a node makes of a master that is replaced: the same address leads to another server.

use redis::aio::MultiplexedConnection;
use tidegate::backbone::BackboneError;
use tidegate_support::proxy::Proxy;
use tidegate_support::redis::RedisServer;

use super::over_redis::{RawBackend, command, config, subject};
use super::{Subject, stream, until};

/// An address that leads to one server at a time, as a load balancer in front of a failover does.
async fn address_of(server: &RedisServer) -> (Proxy, String) {
    let proxy = Proxy::start(server.address()).await.unwrap();
    let url = format!("redis://{}", proxy.address());
    (proxy, url)
}

async fn replication(server: &RedisServer) -> String {
    match command(&server.connection().await.unwrap(), &["INFO", "replication"]).await {
        redis::Value::BulkString(text) => String::from_utf8(text).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn field<'a>(info: &'a str, name: &str) -> &'a str {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim()
}

/// A master, and a replica that has all that it has.
async fn pair() -> (RedisServer, RedisServer) {
    let master = RedisServer::start(&["--repl-diskless-sync-delay", "0"]).await.unwrap();
    let port = master.port().to_string();
    let replica = RedisServer::start(&["--replicaof", "127.0.0.1", &port]).await.unwrap();
    until("the replica is in step", async || in_step(&master, &replica).await).await;
    (master, replica)
}

async fn in_step(master: &RedisServer, replica: &RedisServer) -> Option<()> {
    let (ahead, behind) = (replication(master).await, replication(replica).await);
    let linked = field(&behind, "master_link_status") == "up";
    (linked && field(&ahead, "master_repl_offset") == field(&behind, "slave_repl_offset")).then_some(())
}

async fn promote(replica: &RedisServer) {
    command(&replica.connection().await.unwrap(), &["REPLICAOF", "NO", "ONE"]).await;
}

/// Makes the node look at how far its master has come, and waits until it did.
async fn look_again(subject: &Subject, raw: &MultiplexedConnection) {
    let key = stream("looked");
    subject.backbone.watch(std::slice::from_ref(&key)).await.unwrap();
    while !subject.dirty.take(100).is_empty() {}
    command(raw, &["CLIENT", "KILL", "TYPE", "normal"]).await;
    subject.marked(&key).await;
}

#[tokio::test]
async fn a_promoted_replica_that_lacks_entries_begins_a_new_epoch() {
    let (mut master, replica) = pair().await;
    let (address, url) = address_of(&master).await;
    let (mut subject, _redis) = subject(&master, config(url)).await;
    let epoch = subject.backbone.epoch();
    until("the replica has the epoch", async || in_step(&master, &replica).await).await;
    promote(&replica).await;
    subject.add(&stream("lost"), 3).await;
    let raw = master.connection().await.unwrap();
    look_again(&subject, &raw).await;
    assert_eq!(subject.backbone.epoch(), epoch);
    address.lead_to(replica.address());
    master.kill();
    until("a new epoch", async || (subject.backbone.epoch() != epoch).then_some(())).await;
    until("it is back", async || subject.backbone.is_connected().then_some(())).await;
    subject.backend = Box::new(RawBackend(replica.connection().await.unwrap()));
    let key = stream("looked");
    while !subject.dirty.take(100).is_empty() {}
    subject.add(&key, 1).await;
    subject.marked(&key).await;
}

#[tokio::test]
async fn a_promoted_replica_that_lacks_nothing_keeps_the_epoch() {
    let (mut master, replica) = pair().await;
    let (address, url) = address_of(&master).await;
    let (mut subject, _redis) = subject(&master, config(url)).await;
    let epoch = subject.backbone.epoch();
    let key = stream("kept");
    subject.backbone.watch(std::slice::from_ref(&key)).await.unwrap();
    subject.add(&key, 3).await;
    until("the replica has everything", async || in_step(&master, &replica).await).await;
    promote(&replica).await;
    address.lead_to(replica.address());
    master.kill();
    until("the loss is noticed", async || (!subject.backbone.is_connected()).then_some(())).await;
    until("it is back", async || subject.backbone.is_connected().then_some(())).await;
    assert_eq!(subject.backbone.epoch(), epoch);
    // The flags of keyspace events are not replicated: they were set on the new master.
    subject.backend = Box::new(RawBackend(replica.connection().await.unwrap()));
    while !subject.dirty.take(100).is_empty() {}
    subject.add(&key, 1).await;
    subject.marked(&key).await;
}

#[tokio::test]
async fn a_demoted_master_is_left_at_the_first_refused_write() {
    let (master, replica) = pair().await;
    let (subject, _redis) = subject(&master, config(master.url())).await;
    promote(&replica).await;
    let raw = master.connection().await.unwrap();
    let port = replica.port().to_string();
    command(&raw, &["REPLICAOF", "127.0.0.1", &port]).await;
    let refused = subject.backbone.append(&stream("x"), vec![("data".into(), "x".into())], None).await;
    assert!(matches!(refused, Err(BackboneError::ReadOnly(_) | BackboneError::Away(_))), "{refused:?}");
    until("it is left", async || (!subject.backbone.is_connected()).then_some(())).await;
    promote(&master).await;
    until("it is taken again", async || subject.backbone.is_connected().then_some(())).await;
}
