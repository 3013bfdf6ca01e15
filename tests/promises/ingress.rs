//! One entry of the ingress reaches each of its channels once and in order, whatever becomes of the node
//! that reads it; what cannot be delivered is a dead letter, which can be sent again.

use std::collections::HashSet;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tidegate_support::checker::{Checker, Settings, Signing, Via};
use tidegate_support::config::{API_KEY, KID, NodeConfig, SECRET, TenantConfig};
use tidegate_support::node::Node;
use tidegate_support::redis::RedisServer;
use tidegate_support::redis_faults::{Backend, Entry};
use tidegate_support::{DEADLINE, eventually, http, proven};

use crate::harness::{Cluster, TIDEGATE, embedded, messages, subscriber, user};

const IN: &str = "tg:demo:in";
const DLQ: &str = "tg:demo:dlq";

/// Runs a promise with the embedded backbone and with Redis.
async fn over_both<F>(body: impl Fn(Node, Backend) -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let (node, backend) = embedded(config()).await?;
    body(node, backend).await.context("embedded")?;
    let redis = RedisServer::start(&[]).await?;
    let node = Node::start(TIDEGATE, &config().redis(&redis.url())).await?;
    let backend = Backend::connect(&redis.url()).await?;
    body(node, backend).await.context("over Redis")
}

fn config() -> NodeConfig {
    let small = ["kind = \"queue\"", "retention_max_len = 2"];
    NodeConfig::demo().tenant("demo", TenantConfig::default().namespace("small", &small))
}

/// Waits until everything in the ingress was worked off.
async fn worked_off(backend: &mut Backend) -> Result<()> {
    // As long as another node may need to take over, twice.
    for _ in 0..2 {
        let look = || {
            let mut backend = backend.clone();
            async move { (backend.length(IN).await.ok()? == 0).then_some(()) }
        };
        if eventually("the ingress is worked off", look).await.is_ok() {
            return Ok(());
        }
    }
    anyhow::bail!("{} entries are left in the ingress", backend.length(IN).await?)
}

async fn letters(backend: &mut Backend, count: usize) -> Result<Vec<Entry>> {
    eventually("dead letters are written", || {
        let mut backend = backend.clone();
        async move { (backend.length(DLQ).await.ok()? >= count).then_some(()) }
    })
    .await?;
    let letters = backend.stream(DLQ).await?;
    ensure!(letters.len() == count, "{count} letters were expected: {letters:?}");
    Ok(letters)
}

/// The node that reads the ingress.
async fn holder(nodes: &[Node], among: &[usize]) -> Result<usize> {
    eventually("a node reads the ingress", || async {
        for at in among {
            if nodes[*at].metric("tidegate_ingress_held").await.ok()? > 0.0 {
                return Some(*at);
            }
        }
        None
    })
    .await
}

#[tokio::test]
async fn one_entry_reaches_thousands_of_channels() {
    proven(async {
        over_both(|node, mut backend| async move {
            let mut alice = subscriber(&node, "alice", "room:7", false).await?;
            let to: Vec<_> = (0..5_000).map(|n| format!("room:{n}")).collect();
            let array = json!(to).to_string();
            let fields: [(&str, &[u8]); 6] = [
                ("to", array.as_bytes()),
                ("data", br#"{"n":1}"#),
                ("headers", br#"{"ce-type":"tick"}"#),
                ("id", b"i-1"),
                ("key", b"k"),
                ("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            ];
            let mut words: Vec<&[u8]> = vec![b"XADD", IN.as_bytes(), b"*"];
            words.extend(fields.iter().flat_map(|(name, value)| [name.as_bytes(), value]));
            backend.run(&words).await?;
            let message = alice.message().await?;
            ensure!(message.text() == r#"{"n":1}"# && message.headers["ce-type"] == "tick", "{message:?}");
            worked_off(&mut backend).await?;
            for channel in &to {
                let log = backend.log("demo", channel).await?;
                ensure!(log.len() == 1, "{channel}: {log:?}");
                ensure!(!log[0].text("in").is_empty() && log[0].text("to").is_empty(), "{:?}", log[0]);
                for (name, value) in &fields[1..] {
                    ensure!(log[0].text(name).as_bytes() == *value, "{name}: {:?}", log[0]);
                }
            }
            ensure!(backend.length(DLQ).await? == 0, "no dead letters");
            Ok(())
        })
        .await
    })
    .await;
}

#[tokio::test]
async fn targets_come_once_each_and_channels_keep_their_order() {
    proven(async {
        over_both(|node, mut backend| async move {
            let mut alice = subscriber(&node, "alice", "user:alice", false).await?;
            let entries: Vec<_> = (0..1_000)
                .map(|n| (format!("room:{}, user:alice, room:{}", n % 3, n % 3), n.to_string()))
                .collect();
            // Fewer at a time than the logs keep.
            for part in entries.chunks(200) {
                backend.push_in_all("demo", part).await?;
            }
            worked_off(&mut backend).await?;
            for (nth, message) in messages(&mut alice, 1_000).await?.iter().enumerate() {
                ensure!(message.text() == nth.to_string(), "{nth}: {message:?}");
            }
            for room in 0..3 {
                let log = backend.log("demo", &format!("room:{room}")).await?;
                let got: Vec<_> = log.iter().map(|entry| entry.text("data")).collect();
                let wanted: Vec<_> = (0..1_000).filter(|n| n % 3 == room).map(|n| n.to_string()).collect();
                ensure!(got == wanted, "room:{room}: {got:?}");
            }
            Ok(())
        })
        .await
    })
    .await;
}

#[tokio::test]
async fn what_makes_no_sense_is_a_dead_letter_and_the_rest_goes_on() {
    proven(async {
        over_both(|node, mut backend| async move {
            let _running = node;
            // The embedded backbone holds nothing but streams, and does not know the command.
            let is_redis = backend.run(&[b"SET", b"tg:demo:ch:room:string", b"no stream"]).await.is_ok();
            let many = vec!["room:1"; 10_001].join(",");
            let large = "x".repeat(70_000);
            for (to, data) in [
                ("no channel,room:1,nowhere:1", "a"),
                ("room:string,room:1", "b"),
                (&*many, "c"),
                ("[1]", "d"),
                ("room:1", &*large),
                ("room:1", "e"),
            ] {
                backend.push_in("demo", to, data).await?;
            }
            backend.run(&[b"XADD", IN.as_bytes(), b"*", b"data", b"f"]).await?;
            backend.run(&[b"XADD", IN.as_bytes(), b"*", b"to", b"room:1"]).await?;
            backend.push_in("demo", "room:1", "g").await?;
            worked_off(&mut backend).await?;
            let log = backend.log("demo", "room:1").await?;
            let got: Vec<_> = log.iter().map(|entry| entry.text("data")).collect();
            ensure!(got == ["a", "b", "e", "g"], "{got:?}");
            let letters = letters(&mut backend, if is_redis { 8 } else { 7 }).await?;
            let mut wanted = vec![
                ("bad_channel", "no channel", "a", "is not valid"),
                ("unknown_namespace", "nowhere:1", "a", "no namespace"),
                ("bad_entry", "", "c", "names 10001 channels"),
                ("bad_entry", "", "d", "JSON array"),
                ("bad_entry", "", &*large, "`data` has 70000 bytes"),
                ("bad_entry", "", "f", "no field `to`"),
                ("bad_entry", "", "", "no field `data`"),
            ];
            if is_redis {
                wanted.insert(2, ("wrong_type", "room:string", "b", "no stream"));
            }
            for (reason, channel, data, error) in wanted {
                let found = letters.iter().find(|letter| {
                    letter.text("reason") == reason
                        && letter.text("channel") == channel
                        && letter.text("data") == data
                });
                let letter =
                    found.with_context(|| format!("no letter {reason} of {channel}: {letters:?}"))?;
                ensure!(letter.text("error").contains(error), "{error}: {letter:?}");
                ensure!(!letter.text("in").is_empty(), "{letter:?}");
            }
            Ok(())
        })
        .await
    })
    .await;
}

#[tokio::test]
async fn a_full_queue_holds_the_ingress_up_for_a_while_only() {
    proven(async {
        let (_node, mut backend) = embedded(config()).await?;
        let entries: Vec<_> = (0..5).map(|n| ("small:1,room:1".to_owned(), n.to_string())).collect();
        backend.push_in_all("demo", &entries).await?;
        worked_off(&mut backend).await?;
        ensure!(backend.length("tg:demo:ch:small:1").await? == 2, "a queue takes what it may");
        ensure!(backend.length("tg:demo:ch:room:1").await? == 5, "the other channel gets everything");
        for (letter, data) in letters(&mut backend, 3).await?.iter().zip(["2", "3", "4"]) {
            ensure!(letter.text("reason") == "full" && letter.text("data") == data, "{letter:?}");
        }
        Ok(())
    })
    .await;
}

const CHANNELS: usize = 20;

/// Pushes entries `from..to`, each to half of all channels.
async fn load(backend: &mut Backend, numbers: std::ops::Range<usize>) -> Result<()> {
    let entry = |n: usize| {
        let targets: Vec<_> =
            (0..CHANNELS).filter(|c| (c + n).is_multiple_of(2)).map(|c| format!("room:{c}")).collect();
        (targets.join(","), n.to_string())
    };
    let entries: Vec<_> = numbers.map(entry).collect();
    backend.push_in_all("demo", &entries).await
}

/// Every target has each of its entries once, in order.
async fn complete(backend: &mut Backend, count: usize) -> Result<()> {
    for channel in 0..CHANNELS {
        let log = backend.log("demo", &format!("room:{channel}")).await?;
        let got: Vec<_> = log.iter().map(|entry| entry.text("data")).collect();
        let wanted: Vec<_> =
            (0..count).filter(|n| (channel + n).is_multiple_of(2)).map(|n| n.to_string()).collect();
        let once: HashSet<_> = got.iter().collect();
        ensure!(
            got == wanted,
            "room:{channel}: {} of {} ({} different) {got:?}",
            got.len(),
            wanted.len(),
            once.len()
        );
    }
    ensure!(backend.length(DLQ).await? == 0, "no dead letters");
    Ok(())
}

#[tokio::test]
async fn kill_9_of_the_reader_mid_entry_doubles_and_loses_nothing() {
    proven(async {
        let mut cluster = Cluster::start(&config(), &[]).await?;
        let first = holder(&cluster.nodes, &[0, 1]).await?;
        let mut backend = cluster.backend.clone();
        load(&mut backend, 0..1_500).await?;
        let mut watching = backend.clone();
        // Under way, and far from its end.
        while watching.length("tg:demo:ch:room:0").await? < 50 {
            tokio::task::yield_now().await;
        }
        cluster.nodes[first].kill9().await?;
        ensure!(backend.length(IN).await? > 0, "it was killed too late: the run shows nothing");
        load(&mut backend, 1_500..1_800).await?;
        worked_off(&mut backend).await?;
        complete(&mut backend, 1_800).await?;
        let second = holder(&cluster.nodes, &[1 - first]).await?;
        eventually("the dead node's consumer is removed", || {
            let mut backend = backend.clone();
            async move {
                let consumers = backend.command("XINFO CONSUMERS tg:demo:in tidegate").await.ok()?;
                let said = format!("{consumers:?}");
                (!said.contains(["one", "two"][first]) && said.contains(["one", "two"][second])).then_some(())
            }
        })
        .await
    })
    .await;
}

#[tokio::test]
async fn a_reader_that_was_stopped_past_its_lease_harms_nothing() {
    proven(async {
        let cluster = Cluster::start(&config(), &[]).await?;
        let first = holder(&cluster.nodes, &[0, 1]).await?;
        let mut backend = cluster.backend.clone();
        load(&mut backend, 0..600).await?;
        while backend.length("tg:demo:ch:room:0").await? < 20 {
            tokio::task::yield_now().await;
        }
        cluster.nodes[first].sigstop()?;
        load(&mut backend, 600..900).await?;
        holder(&cluster.nodes, &[1 - first]).await?;
        load(&mut backend, 900..1_200).await?;
        cluster.nodes[first].sigcont()?;
        load(&mut backend, 1_200..1_800).await?;
        worked_off(&mut backend).await?;
        eventually("the one that was stopped reads no longer", || async {
            (cluster.nodes[first].metric("tidegate_ingress_held").await.ok()? == 0.0).then_some(())
        })
        .await?;
        complete(&mut backend, 1_800).await
    })
    .await;
}

#[tokio::test]
async fn a_reader_that_drains_hands_over_at_once() {
    proven(async {
        let mut cluster = Cluster::start(&config(), &[]).await?;
        let first = holder(&cluster.nodes, &[0, 1]).await?;
        let mut backend = cluster.backend.clone();
        load(&mut backend, 0..1_000).await?;
        ensure!(cluster.nodes[first].sigterm().await?.success(), "it ends well");
        let lease = backend.command("GET tg:sys:lease:in:demo").await?;
        ensure!(
            !format!("{lease:?}").contains(["\"one\"", "\"two\""][first]),
            "the lease is released: {lease:?}"
        );
        load(&mut backend, 1_000..1_800).await?;
        worked_off(&mut backend).await?;
        complete(&mut backend, 1_800).await
    })
    .await;
}

#[tokio::test]
async fn the_group_is_made_again_and_data_may_begin_anew() {
    proven(async {
        let cluster = Cluster::start(&config(), &[]).await?;
        holder(&cluster.nodes, &[0, 1]).await?;
        let mut backend = cluster.backend.clone();
        load(&mut backend, 0..300).await?;
        backend.command("XGROUP DESTROY tg:demo:in tidegate").await?;
        load(&mut backend, 300..600).await?;
        worked_off(&mut backend).await?;
        complete(&mut backend, 600).await?;
        backend.flush_all().await?;
        load(&mut backend, 0..300).await?;
        worked_off(&mut backend).await?;
        complete(&mut backend, 300).await
    })
    .await;
}

#[tokio::test]
async fn clients_get_all_that_comes_by_the_ingress_while_nodes_die() {
    proven(async {
        let mut cluster = Cluster::start(&config(), &[]).await?;
        let checker = Checker::start(Settings {
            urls: cluster.urls(),
            redis: cluster.redis.url(),
            signing: Some(Signing { kid: Some(KID.into()), secret: SECRET.into() }),
            via: Via::Ingress,
            publishers: 8,
            ..Settings::default()
        })
        .await?;
        checker.published_more(200).await?;
        let first = holder(&cluster.nodes, &[0, 1]).await?;
        cluster.nodes[first].kill9().await?;
        holder(&cluster.nodes, &[1 - first]).await?;
        cluster.nodes[first].restart().await?;
        checker.published_more(200).await?;
        checker.received_more(200).await?;
        let report = checker.finish(2 * DEADLINE).await?;
        println!("{report}");
        report.assert_promises();
        Ok(())
    })
    .await;
}

/// Runs `tidegate dlq` against a node; its standard output and exit code.
async fn dlq(node: &Node, words: &[&str]) -> Result<(String, i32)> {
    let output = tokio::process::Command::new(TIDEGATE)
        .arg("dlq")
        .args(words)
        .env("TIDEGATE_URL", format!("http://{}", node.http))
        .env("TIDEGATE_KEY", API_KEY)
        .kill_on_drop(true)
        .output()
        .await?;
    Ok((String::from_utf8(output.stdout)?, output.status.code().unwrap_or(-1)))
}

#[tokio::test]
async fn dead_letters_are_listed_sent_again_and_purged() {
    proven(async {
        let redis = RedisServer::start(&[]).await?;
        let node = Node::start(TIDEGATE, &config().redis(&redis.url())).await?;
        let mut backend = Backend::connect(&redis.url()).await?;
        backend.run(&[b"SET", b"tg:demo:ch:room:1", b"no stream"]).await?;
        backend.push_in("demo", "room:1,user:alice", "again").await?;
        backend.push_in("demo", "nowhere:1", "never").await?;
        let written = letters(&mut backend, 2).await?;
        let letter = written.iter().find(|letter| letter.text("reason") == "wrong_type");
        let offset = letter.context("the key holds no stream")?.offset.to_string();
        let (list, code) = dlq(&node, &["list", "--json", "--reason", "wrong_type"]).await?;
        let list: Value = serde_json::from_str(&list)?;
        let found = &list["letters"];
        ensure!(code == 0 && found.as_array().is_some_and(|found| found.len() == 1), "{list}");
        ensure!(found[0]["offset"] == offset && found[0]["data"] == "again", "{list}");
        let (lines, _) = dlq(&node, &["list"]).await?;
        ensure!(lines.contains("wrong_type") && lines.contains("unknown_namespace"), "{lines}");

        let (_, code) = dlq(&node, &["retry", "--offset", &offset]).await?;
        ensure!(code == 1, "the key still holds no stream");
        letters(&mut backend, 2).await?;
        backend.command("DEL tg:demo:ch:room:1").await?;
        let (said, code) = dlq(&node, &["retry", "--offset", &offset]).await?;
        ensure!(code == 0 && said.contains("1 sent again"), "{said}");
        let log = backend.log("demo", "room:1").await?;
        ensure!(log.len() == 1 && log[0].text("data") == "again", "{log:?}");
        ensure!(log[0].text("id") == format!("dlq-{offset}"), "{log:?}");
        ensure!(backend.log("demo", "user:alice").await?.len() == 1, "the other target has its own");
        letters(&mut backend, 1).await?;

        let (_, code) = dlq(&node, &["purge", "--all"]).await?;
        ensure!(code == 2, "to remove everything has to be meant");
        let (said, code) = dlq(&node, &["purge", "--all", "--yes"]).await?;
        ensure!(code == 0 && said.contains("1 removed"), "{said}");
        ensure!(backend.length(DLQ).await? == 0, "nothing is left");
        let wrong = http::get(&node.http, "/v1/demo/dead-letters", Some("wrong")).await?;
        ensure!(wrong.status == 401, "{}", wrong.status);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn all_letters_go_again_once_each_and_keep_what_they_are() {
    proven(async {
        over_both(|node, mut backend| async move {
            // Written as another node would have, and more than one call works off.
            for n in 0..620 {
                let data = format!("m{n}");
                let fields: [&[u8]; 16] = [
                    b"channel",
                    b"work:1",
                    b"offset",
                    b"5-1",
                    b"user",
                    b"alice",
                    b"reason",
                    b"attempts",
                    b"attempts",
                    b"5",
                    b"data",
                    data.as_bytes(),
                    b"key",
                    b"k",
                    b"entry_user",
                    b"bob",
                ];
                let mut words: Vec<&[u8]> = vec![b"XADD", DLQ.as_bytes(), b"*"];
                words.extend(fields);
                backend.run(&words).await?;
            }
            let page = http::get(&node.http, "/v1/demo/dead-letters?limit=10&after=0-0", Some(API_KEY))
                .await?
                .json()?;
            let last = page["next"]["after"].as_str().context("there are more")?.to_owned();
            ensure!(page["letters"][9]["offset"] == last && page["more"] == true, "{page}");
            // A crash between adding and removing: the first message is there, and so is its letter.
            let first = backend.stream(DLQ).await?[0].offset;
            let id = format!("dlq-{first}");
            backend.push_fields("demo", "work:1", &[("data", b"m0"), ("id", id.as_bytes())]).await?;
            let path = "/v1/demo/dead-letters/retry";
            let body = json!({"offsets": [first.to_string(), "1-1"]});
            let answer = http::post(&node.http, path, Some(API_KEY), &body).await?.json()?;
            ensure!(answer["retried"] == 1 && answer["failed"] == 1, "{answer}");
            ensure!(answer["results"][1]["error"] == "there is no such letter", "{answer}");
            let (said, code) = dlq(&node, &["retry", "--all", "--channel", "work:1"]).await?;
            ensure!(code == 0 && said.contains("619 sent again"), "{said}");
            let log = backend.log("demo", "work:1").await?;
            let got: Vec<_> = log.iter().map(|entry| entry.text("data")).collect();
            ensure!(got == crate::harness::texts(620), "{got:?}");
            ensure!(log[5].text("user") == "bob" && log[5].text("key") == "k", "{:?}", log[5]);
            ensure!(backend.length(DLQ).await? == 0, "nothing is left");
            Ok(())
        })
        .await
    })
    .await;
}

#[tokio::test]
async fn what_a_device_gave_up_comes_again() {
    proven(async {
        let impatient = NodeConfig::demo().limit("ack_timeout_ms", 1_500).limit("attempts", 1);
        let impatient = impatient.limit("ping_ms", 1_000).limit("ping_min_ms", 1_000);
        let (node, mut backend) = embedded(impatient).await?;
        let options = user("alice").device("phone").ack("work:1");
        let mut alice = crate::harness::client(&node, &options).await?;
        alice.subscribed("work:1").await?;
        let fields: [(&str, &[u8]); 3] = [("data", b"job"), ("key", b"k"), ("headers", br#"{"a":"b"}"#)];
        let offset = backend.push_fields("demo", "work:1", &fields).await?;
        let mut watching = backend.clone();
        let letter = tokio::select! {
            letter = watching.await_entry(DLQ, |_| true) => letter?,
            // Heartbeats are answered while it is read.
            ended = async { loop { if let Err(error) = alice.next().await { return error; } } } => return Err(ended),
        };
        ensure!(letter.text("offset") == offset.to_string() && letter.text("device") == "phone", "{letter:?}");
        let (said, code) = dlq(&node, &["retry", "--all", "--reason", "attempts"]).await?;
        ensure!(code == 0 && said.contains("1 sent again"), "{said}");
        let again = loop {
            let message = alice.message().await?;
            if message.offset > offset {
                break message;
            }
        };
        ensure!(again.text() == "job" && again.headers["a"] == "b", "{again:?}");
        Ok(())
    })
    .await;
}
