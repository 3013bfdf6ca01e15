//! The RESP listener answers as Redis does, and real clients work with it.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;

use bytes::BytesMut;
use proptest::prelude::*;
use tidegate::api::resp::{Options, serve};
use tidegate::backbone::embedded::Embedded;
use tidegate::backbone::resp::{Protocol, Value};
use tidegate_support::DEADLINE;
use tidegate_support::redis::RedisServer;
use tidegate_support::resp::Client;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The listener on a free port.
struct Listener {
    address: SocketAddr,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Listener {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let cancel = CancellationToken::new();
        let ended = cancel.clone();
        let task = tokio::spawn(async move {
            let embedded = Embedded::new(Arc::default());
            serve(listener, embedded, Options::default(), ended).await.unwrap();
        });
        Self { address, cancel, task }
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap();
    }
}

/// The lines of a reply, without times and what depends on Redis's memory layout.
fn comparable(command: &str, reply: &[u8]) -> Vec<String> {
    const VARYING: [&str; 3] = ["idle", "radix-tree-keys", "radix-tree-nodes"];
    let text = String::from_utf8_lossy(reply);
    let mut lines: Vec<&str> = text.split("\r\n").collect();
    let leave_out = |line: &mut &str| {
        if line.starts_with(':') {
            *line = ":…";
        }
    };
    for at in 1..lines.len() {
        if VARYING.contains(&lines[at - 1]) {
            leave_out(&mut lines[at]);
        }
    }
    if command.starts_with("XPENDING") && command.split(' ').count() > 3 {
        // `*4`, an id and a consumer of two lines each, how long it is idle, and a count.
        lines[1..].chunks_exact_mut(7).for_each(|row| leave_out(&mut row[5]));
    }
    lines.into_iter().map(str::to_owned).collect()
}

/// The first word of an error.
fn code(reply: &[String]) -> Option<&str> {
    reply[0].strip_prefix('-')?.split(' ').next()
}

/// Runs the commands on both servers and returns where the replies differ.
async fn differences(redis: SocketAddr, ours: SocketAddr, commands: &[&str]) -> Vec<String> {
    let (mut redis, mut ours) = (Client::connect(redis).await, Client::connect(ours).await);
    // Other versions word some errors differently; their codes are the same.
    let redis::Value::BulkString(info) = redis.ask("INFO server").await else { panic!("no INFO") };
    let same_words = String::from_utf8_lossy(&info).contains("redis_version:7.0.");
    let mut found = Vec::new();
    for command in commands {
        tokio::time::timeout(DEADLINE, async {
            redis.ask(command).await;
            ours.ask(command).await;
        })
        .await
        .unwrap_or_else(|_| panic!("no reply to {command}"));
        let (expected, got) = (comparable(command, &redis.heard), comparable(command, &ours.heard));
        let same =
            expected == got || (!same_words && code(&expected).is_some() && code(&expected) == code(&got));
        // `HELLO` tells of the server itself.
        if !same && !command.starts_with("HELLO") {
            found.push(format!("{command}\n   redis: {expected:?}\n    ours: {got:?}"));
        }
    }
    found
}

async fn compare(commands: &[&str]) {
    let (redis, listener) = (RedisServer::start(&[]).await.unwrap(), Listener::start().await);
    for hello in ["HELLO 2", "HELLO 3"] {
        let all = [&[hello, "DEL s t u v"], commands].concat();
        let found = differences(redis.address(), listener.address, &all).await;
        assert!(found.is_empty(), "{hello}: {} differ\n{}", found.len(), found.join("\n"));
    }
    listener.stop().await;
}

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "a list of commands")]
async fn entries_are_added_read_and_trimmed_as_in_redis() {
    compare(&[
        "TYPE s",
        "EXISTS s s",
        "XLEN s",
        "XRANGE s - +",
        "XADD s NOMKSTREAM 1-1 a b",
        "XADD s 0-0 a b",
        "EXISTS s",
        "XADD s 1-1 a b",
        "XADD s 1-1 a b",
        "XADD s 1-0 a b",
        "XADD s 1-* a b",
        "XADD s 5 a b c d",
        "XADD s 4-* a b",
        "XADD s NOMKSTREAM 6-1 a b",
        "XADD s x a b",
        "XADD s 1-2-3 a b",
        "XADD s -1 a b",
        "XADD s 7-1 a",
        "XADD s 7-1",
        "XADD s",
        "XADD s *-* a b",
        "XADD s 5-*-* a b",
        "XLEN s",
        "TYPE s",
        "EXISTS s s t",
        "XRANGE s - +",
        "XRANGE s - + COUNT 2",
        "XRANGE s - + COUNT 0",
        "XRANGE s - + COUNT -3",
        "XRANGE s - + COUNT x",
        "XRANGE s - + COUNT",
        "XRANGE s - + LIMIT 2",
        "XRANGE s 1 1",
        "XRANGE s (1-1 +",
        "XRANGE s (1 (5",
        "XRANGE s 5 1",
        "XRANGE s + -",
        "XRANGE s x +",
        "XRANGE s (18446744073709551615-18446744073709551615 +",
        "XRANGE s - (0-0",
        "XRANGE s (- +",
        "XREVRANGE s + -",
        "XREVRANGE s + - COUNT 1",
        "XREVRANGE s (5-0 1",
        "XRANGE t - + COUNT 0",
        "XADD s MAXLEN 3 8-1 a b",
        "XLEN s",
        "XADD s MAXLEN = 3 9-1 a b",
        "XADD s MINID 6 10-1 a b",
        "XRANGE s - +",
        "XADD s MAXLEN -1 11-1 a b",
        "XADD s MAXLEN 2 MINID 3 11-1 a b",
        "XADD s MAXLEN 2 LIMIT 3 11-1 a b",
        "XADD s LIMIT 3 11-1 a b",
        "XADD s MAXLEN ~ 100 LIMIT -1 11-1 a b",
        "XADD s MAXLEN ~ 100 LIMIT 1 11-1 a b",
        "XADD s MAXLEN x 12-1 a b",
        "XADD s MAXLEN",
        "XTRIM s MAXLEN 3",
        "XTRIM s MINID 10-1",
        "XTRIM s MAXLEN",
        "XTRIM s",
        "XTRIM s FOO 3",
        "XTRIM t MAXLEN 0",
        "XTRIM s LIMIT 3",
        "XTRIM s MAXLEN 3 FOO",
        "XINFO STREAM s",
        "XDEL s 10-1 10-1 99-1",
        "XDEL s x",
        "XDEL t 1-1",
        "XINFO STREAM s",
        "XTRIM s MAXLEN 0",
        "XINFO STREAM s",
        "XLEN s",
        "EXISTS s",
        "XADD s 11-1 a b",
        "XADD s 18446744073709551615-18446744073709551615 a b",
        "XADD s * a b",
        "XADD s 18446744073709551616-0 a b",
        "XADD t 0-* a b",
        "XADD u 5-18446744073709551615 a b",
        "DEL s t u",
        "EXISTS s t",
        "UNLINK s",
    ])
    .await;
}

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "a list of commands")]
async fn positions_are_read_on_from_as_in_redis() {
    compare(&[
        "XADD s 1-1 a b",
        "XADD s 2-1 c d",
        "XADD t 3-1 e f",
        "XREAD STREAMS s 0",
        "XREAD COUNT 1 STREAMS s t 0 0",
        "XREAD STREAMS s t 1-1 3-1",
        "XREAD STREAMS s t $ $",
        "XREAD COUNT 0 STREAMS s 0",
        "XREAD COUNT -1 STREAMS s 0",
        "XREAD COUNT x STREAMS s 0",
        "XREAD STREAMS v 0",
        "XREAD BLOCK 1 STREAMS s $",
        "XREAD BLOCK -1 STREAMS s $",
        "XREAD BLOCK x STREAMS s $",
        "XREAD BLOCK 1000 STREAMS s 0",
        "XREAD STREAMS s",
        "XREAD STREAMS s t 0",
        "XREAD COUNT 1 STREAMS",
        "XREAD",
        "XREAD STREAMS s >",
        "XREAD STREAMS s x",
        "XREAD NOACK STREAMS s 0",
        "XREAD GROUP g c STREAMS s 0",
        "XREAD FOO STREAMS s 0",
        "XREAD STREAMS s 18446744073709551615-18446744073709551615",
        "XREAD STREAMS s 99",
        "MULTI",
        "MULTI",
        "XADD s 3-1 a b",
        "XREAD BLOCK 0 STREAMS s $",
        "XLEN s",
        "EXEC",
        "EXEC",
        "DISCARD",
        "MULTI",
        "XLEN s",
        "DISCARD",
        "MULTI",
        "XLEN",
        "XLEN s",
        "EXEC",
        "MULTI",
        "XADD s 1-1 a b",
        "XLEN s",
        "EXEC",
        "NOSUCH",
        "NOSUCH a bc d",
        "PING",
        "PING hi",
        "PING a b",
        "ECHO hi",
        "ECHO",
        "SELECT 0",
        "SELECT x",
        "SELECT 99",
        "CLIENT GETNAME",
        "CLIENT SETNAME me",
        "CLIENT GETNAME",
        "CLIENT NOSUCH",
        "CLIENT GETNAME x",
        "CLIENT",
        "AUTH secret",
        "AUTH a b c",
        "HELLO 4",
        "HELLO x",
        "COMMAND NOSUCH",
        "XGROUP",
        "XGROUP NOSUCH s",
        "XINFO NOSUCH s",
        "XINFO STREAM v",
        "XINFO STREAM",
        "XINFO GROUPS s t",
        "RESET",
        "PING",
    ])
    .await;
}

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "a list of commands")]
async fn groups_share_entries_as_in_redis() {
    compare(&[
        "XGROUP CREATE s g 0",
        "XGROUP CREATE s g x MKSTREAM",
        "EXISTS s",
        "XGROUP CREATE s g 0 MKSTREAM",
        "XGROUP CREATE s g 0 MKSTREAM",
        "XGROUP CREATE s h $ FOO",
        "XINFO STREAM s",
        "XINFO GROUPS s",
        "XADD s 1-1 a b",
        "XADD s 2-1 a b",
        "XADD s 3-1 a b",
        "XADD s 4-1 a b",
        "XGROUP CREATE s h $",
        "XGROUP CREATE s i 2-1 ENTRIESREAD 2",
        "XGROUP CREATE s j 1-1 ENTRIESREAD -2",
        "XGROUP CREATE s j 1-1",
        "XINFO GROUPS s",
        "XINFO GROUPS v",
        "XINFO CONSUMERS s no",
        "XREADGROUP GROUP g c1 COUNT 1 STREAMS s >",
        "XREADGROUP GROUP g c2 COUNT 2 STREAMS s >",
        "XGROUP CREATECONSUMER s h c1",
        "XREADGROUP GROUP h c1 STREAMS s >",
        "XREADGROUP GROUP i c1 NOACK STREAMS s >",
        "XREADGROUP GROUP j c1 COUNT 1 STREAMS s >",
        "XREADGROUP GROUP g c1 STREAMS s 0",
        "XREADGROUP GROUP g c1 STREAMS s 1-1",
        "XREADGROUP GROUP g c9 STREAMS s 0",
        "XREADGROUP GROUP no c1 STREAMS s >",
        "XREADGROUP GROUP g c1 STREAMS v >",
        "XREADGROUP GROUP g c1 STREAMS s $",
        "XREADGROUP GROUP g c1 COUNT 1 BLOCK 1 STREAMS s s >",
        "XREADGROUP COUNT 1 STREAMS s t > >",
        "XREADGROUP GROUP g c1 STREAMS s x",
        "XINFO GROUPS s",
        "XINFO CONSUMERS s g",
        "XPENDING s g",
        "XPENDING s g - + 10",
        "XPENDING s g - + 1",
        "XPENDING s g - + 10 c2",
        "XPENDING s g - + 10 no",
        "XPENDING s g IDLE 0 - + 10",
        "XPENDING s g IDLE 100000 - + 10",
        "XPENDING s g (1-1 + 10",
        "XPENDING s g - +",
        "XPENDING s g IDLE",
        "XPENDING s g - + x",
        "XPENDING s no",
        "XPENDING v g",
        "XPENDING s h",
        "XPENDING s g - + 0",
        "XPENDING s g + - 9",
        "XACK s g 1-1 1-1",
        "XACK s no 1-1",
        "XACK v g 1-1",
        "XACK s g x",
        "XACK s g",
        "XPENDING s g",
        "XCLAIM s g c1 0 2-1",
        "XCLAIM s g c1 100000 3-1",
        "XCLAIM s g c1 0 3-1 JUSTID",
        "XCLAIM s g c1 0 4-1",
        "XCLAIM s g c1 0 4-1 FORCE",
        "XCLAIM s g c2 0 1-1 FORCE RETRYCOUNT 7 IDLE 5",
        "XCLAIM s g c2 0 9-9 FORCE",
        "XPENDING s g - + 10",
        "XCLAIM s g c1 x 2-1",
        "XCLAIM s g c1 0 2-1 FOO",
        "XCLAIM s g c1 0 x",
        "XCLAIM s no c1 0 2-1",
        "XCLAIM v g c1 0 2-1",
        "XCLAIM s g c1 0 2-1 LASTID 4-1",
        "XCLAIM s g c1 0 2-1 TIME 1",
        "XCLAIM s g c1 0 2-1 IDLE x",
        "XCLAIM s g c1 -5 2-1 JUSTID",
        "XINFO GROUPS s",
        "XDEL s 3-1",
        "XREADGROUP GROUP g c1 STREAMS s 0",
        "XAUTOCLAIM s g c2 0 0 COUNT 2",
        "XPENDING s g",
        "XAUTOCLAIM s g c2 0 0 COUNT 1 JUSTID",
        "XAUTOCLAIM s g c2 100000 - ",
        "XAUTOCLAIM s g c2 0 0 COUNT 0",
        "XAUTOCLAIM s g c2 0 0 FOO",
        "XAUTOCLAIM s g c2 x 0",
        "XAUTOCLAIM s g c2 0 x",
        "XAUTOCLAIM s no c2 0 0",
        "XAUTOCLAIM v g c2 0 0",
        "XAUTOCLAIM s g c2 0 (1-1",
        "XAUTOCLAIM s g c2 0 0",
        "XPENDING s g - + 10",
        "XADD s 5-1 a b",
        "XINFO GROUPS s",
        "XREADGROUP GROUP j c1 STREAMS s >",
        "XINFO GROUPS s",
        "XGROUP SETID s g 2-1",
        "XGROUP SETID s no 2-1",
        "XGROUP SETID v g 2-1",
        "XGROUP SETID s h $ ENTRIESREAD 5",
        "XGROUP SETID s g x",
        "XINFO GROUPS s",
        "XREADGROUP GROUP g c9 STREAMS s >",
        "XPENDING s g - + 10",
        "XGROUP CREATECONSUMER s g new",
        "XGROUP CREATECONSUMER s g new",
        "XGROUP CREATECONSUMER s no new",
        "XGROUP CREATECONSUMER v g new",
        "XGROUP CREATECONSUMER s g",
        "XINFO CONSUMERS s g",
        "XGROUP DELCONSUMER s g c2",
        "XGROUP DELCONSUMER s g none",
        "XGROUP DELCONSUMER s no c2",
        "XPENDING s g",
        "XTRIM s MAXLEN 1",
        "XINFO GROUPS s",
        "XREADGROUP GROUP g c1 STREAMS s 0",
        "XAUTOCLAIM s g c1 0 0",
        "XGROUP DESTROY s g",
        "XGROUP DESTROY s g",
        "XGROUP DESTROY v g",
        "XGROUP DESTROY s",
        "XGROUP CREATE s",
        "XINFO STREAM s",
        "XINFO GROUPS s",
    ])
    .await;
}

#[tokio::test]
async fn redis_cli_works() {
    let listener = Listener::start().await;
    let port = listener.address.port().to_string();
    for (command, said) in [("PING", "PONG"), ("XADD s 1-1 data hi", "1-1"), ("XLEN s", "1")] {
        let mut cli = Command::new("redis-cli");
        cli.args(["-p", &port]).args(command.split(' '));
        let output = tokio::task::spawn_blocking(move || cli.output()).await.unwrap();
        let output = output.expect("redis-cli does not start; install it: apt-get install redis-tools");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), said);
    }
    listener.stop().await;
}

/// A reply in RESP3, as it is written and as the client library reads it.
fn reply() -> impl Strategy<Value = (Value, redis::Value)> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..9);
    let verbatim = |text: Vec<u8>| {
        let read = String::from_utf8_lossy(&text).into_owned();
        let read = redis::Value::VerbatimString { format: redis::VerbatimFormat::Text, text: read };
        (Value::Verbatim(text.into()), read)
    };
    let leaf = prop_oneof![
        bytes().prop_map(|bytes| (Value::Bulk(bytes.clone().into()), redis::Value::BulkString(bytes))),
        any::<i64>().prop_map(|number| (Value::Integer(number), redis::Value::Int(number))),
        Just((Value::Null, redis::Value::Nil)),
        Just((Value::NullArray, redis::Value::Nil)),
        bytes().prop_map(verbatim),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        let items = prop::collection::vec(inner.clone(), 0..4).prop_map(|items| items.into_iter().unzip());
        let pairs = prop::collection::vec((inner.clone(), inner), 0..3).prop_map(|pairs| {
            pairs.into_iter().map(|((key, read_key), (value, read))| ((key, value), (read_key, read))).unzip()
        });
        prop_oneof![
            items.clone().prop_map(|(written, read)| (Value::Array(written), redis::Value::Array(read))),
            items.prop_map(|(written, read)| (Value::Set(written), redis::Value::Set(read))),
            pairs.prop_map(|(written, read)| (Value::Map(written), redis::Value::Map(read))),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_what_a_client_reads((written, read) in reply()) {
        let mut out = BytesMut::new();
        written.encode(Protocol::Resp3, &mut out);
        prop_assert_eq!(redis::parse_redis_value(&out), Ok(read));
    }
}
