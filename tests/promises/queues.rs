//! A queue's work is shared: each entry is with one session at a time, and none is lost, whatever becomes of
//! sessions and nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use tidegate_support::client::{Client, Event, Message};
use tidegate_support::config::{NodeConfig, TenantConfig};
use tidegate_support::node::Node;
use tidegate_support::offset::Offset;
use tidegate_support::redis::RedisServer;
use tidegate_support::redis_faults::Backend;
use tidegate_support::{POLL, eventually, proven};

use crate::harness::{Cluster, TIDEGATE, client, embedded, messages, offsets, silent, texts, user};

const QUEUE: &str = "queue:1";
const KEY: &str = "tg:demo:ch:queue:1";
const DLQ: &str = "tg:demo:dlq";

/// Runs a promise with the embedded backbone and with Redis.
async fn over_both(config: NodeConfig, body: impl AsyncFn(Node, Backend) -> Result<()>) -> Result<()> {
    let (node, backend) = embedded(config.clone()).await?;
    body(node, backend).await.context("embedded")?;
    let redis = RedisServer::start(&[]).await?;
    let node = Node::start(TIDEGATE, &config.redis(&redis.url())).await?;
    let backend = Backend::connect(&redis.url()).await?;
    body(node, backend).await.context("over Redis")
}

/// Heartbeats often enough that attempts count soon, and timeouts that a test can wait for.
fn impatient() -> NodeConfig {
    NodeConfig::demo().limit("ack_timeout_ms", 1500).limit("ping_ms", 1000).limit("ping_min_ms", 1000)
}

/// A session that works at the queue, with so many tasks at a time.
async fn worker(node: &Node, name: &str, window: usize) -> Result<Client> {
    let sub = json!({"channel": QUEUE, "window": window});
    let mut client = client(node, &user(name).sub_with(sub)).await?;
    client.subscribed(QUEUE).await?;
    Ok(client)
}

async fn is_empty(backend: &Backend) -> Result<()> {
    eventually("everything in the queue is finished", || {
        let mut backend = backend.clone();
        async move { (backend.length(KEY).await.ok()? == 0).then_some(()) }
    })
    .await
}

/// Works until all together have handled so many; what this one handled.
async fn work(mut client: Client, handled: Arc<AtomicUsize>, most: usize) -> Result<Vec<Message>> {
    let mut mine = Vec::new();
    while handled.load(Ordering::Relaxed) < most {
        match client.next_within(POLL).await? {
            Some(Event::Frame(frame)) if frame.kind() == "message" => {
                let message = frame.message()?;
                client.ack(QUEUE, message.offset).await?;
                handled.fetch_add(1, Ordering::Relaxed);
                mine.push(message);
            }
            Some(Event::Frame(frame)) => ensure!(frame.kind() != "error", "{}", frame.0),
            Some(ended) => bail!("{ended:?}"),
            None => {}
        }
    }
    client.settle().await?;
    Ok(mine)
}

/// What each of these sessions handled, until all together handled `most`.
async fn share(clients: Vec<Client>, most: usize) -> Result<Vec<Vec<Message>>> {
    let handled = Arc::new(AtomicUsize::new(0));
    let working = clients.into_iter().map(|client| work(client, handled.clone(), most));
    futures_util::future::try_join_all(working).await
}

/// Whether these are exactly the entries that were pushed, each once and as a first attempt.
fn each_once(shares: &[Vec<Message>], pushed: &[Offset]) -> Result<()> {
    let mut handled: Vec<_> = shares.iter().flatten().map(|message| message.offset).collect();
    handled.sort_unstable();
    ensure!(handled == pushed, "{} handled of {}", handled.len(), pushed.len());
    let again = shares.iter().flatten().find(|message| message.attempt != 1);
    ensure!(again.is_none(), "{again:?} was no first attempt");
    Ok(())
}

#[tokio::test]
async fn each_entry_is_handled_by_one_session() {
    proven(over_both(NodeConfig::demo(), async |node, mut backend| {
        // Also what was there before anybody came.
        let mut pushed = backend.push_all("demo", QUEUE, &texts(20)).await?;
        let mut workers = Vec::new();
        for name in ["ada", "bob", "cyd"] {
            workers.push(worker(&node, name, 4).await?);
        }
        pushed.extend(backend.push_all("demo", QUEUE, &texts(100)).await?);
        let shares = share(workers, pushed.len()).await?;
        each_once(&shares, &pushed)?;
        is_empty(&backend).await
    }))
    .await;
}

/// Loose: only that nobody goes without, and nobody does nearly everything.
#[tokio::test]
async fn sessions_on_two_nodes_get_their_share() {
    proven(async {
        let Cluster { nodes, mut backend, redis: _redis } = Cluster::start(&NodeConfig::demo(), &[]).await?;
        let mut workers = Vec::new();
        for (n, name) in ["ada", "bob", "cyd", "dan"].into_iter().enumerate() {
            workers.push(worker(&nodes[n / 2], name, 2).await?);
        }
        let pushed = backend.push_all("demo", QUEUE, &texts(600)).await?;
        let shares = share(workers, pushed.len()).await?;
        each_once(&shares, &pushed)?;
        let counts: Vec<_> = shares.iter().map(Vec::len).collect();
        ensure!(counts.iter().all(|count| (40..=400).contains(count)), "{counts:?}");
        is_empty(&backend).await
    })
    .await;
}

#[tokio::test]
async fn a_session_is_given_its_window_and_no_more() {
    proven(over_both(NodeConfig::demo(), async |node, mut backend| {
        let mut client = worker(&node, "ada", 2).await?;
        let pushed = backend.push_all("demo", QUEUE, &texts(4)).await?;
        ensure!(offsets(&messages(&mut client, 2).await?) == pushed[..2], "the first two");
        silent(&mut client).await?;
        // One by one: the second says nothing of the first.
        client.ack(QUEUE, pushed[1]).await?;
        ensure!(client.message().await?.offset == pushed[2], "one place, one entry");
        silent(&mut client).await?;
        // What this session does not hold is somebody else's.
        let mut other = worker(&node, "bob", 2).await?;
        ensure!(other.message().await?.offset == pushed[3], "the last one is with the other");
        other.ack(QUEUE, pushed[0]).await?;
        let error = other.expect("error").await?;
        ensure!(error.text("code") == "bad_request", "{}", error.0);
        client.ack(QUEUE, pushed[0]).await?;
        client.ack(QUEUE, pushed[2]).await?;
        other.ack(QUEUE, pushed[3]).await?;
        is_empty(&backend).await
    }))
    .await;
}

#[tokio::test]
async fn a_nack_gives_an_entry_to_whoever_is_next() {
    proven(over_both(NodeConfig::demo(), async |node, mut backend| {
        let mut ada = worker(&node, "ada", 1).await?;
        let offset = backend.push("demo", QUEUE, "later").await?;
        ensure!(ada.message().await?.offset == offset, "it came");
        let mut bob = worker(&node, "bob", 1).await?;
        silent(&mut bob).await?;
        ada.nack(QUEUE, offset, 0).await?;
        // Both want it now; whoever gets it sees that it was tried.
        let got =
            tokio::select! { got = ada.message() => (true, got?), got = bob.message() => (false, got?) };
        ensure!((got.1.offset, got.1.attempt) == (offset, 2), "{:?}", got.1);
        let (holder, other) = if got.0 { (&mut ada, &mut bob) } else { (&mut bob, &mut ada) };
        holder.nack(QUEUE, offset, 300).await?;
        holder.settle().await?;
        silent(other).await?;
        let got =
            tokio::select! { got = ada.message() => (true, got?), got = bob.message() => (false, got?) };
        ensure!((got.1.offset, got.1.attempt) == (offset, 3), "{:?}", got.1);
        if got.0 {
            ada.ack(QUEUE, offset).await?
        } else {
            bob.ack(QUEUE, offset).await?
        }
        is_empty(&backend).await
    }))
    .await;
}

#[tokio::test]
async fn what_is_not_acknowledged_in_time_goes_to_another() {
    proven(over_both(impatient(), async |node, mut backend| {
        let mut ada = worker(&node, "ada", 1).await?;
        let offset = backend.push("demo", QUEUE, "slow").await?;
        ensure!(ada.message().await?.offset == offset, "it came");
        // Taken by ada until her time is over; then she wants something else, and may get it again.
        let mut bob = worker(&node, "bob", 1).await?;
        let second = loop {
            let got =
                tokio::select! { got = ada.message() => (false, got?), got = bob.message() => (true, got?) };
            ensure!(got.1.offset == offset && got.1.attempt > 1, "{:?}", got.1);
            if got.0 {
                break got.1;
            }
        };
        // Late, but done: it does not come a third time.
        ada.ack(QUEUE, second.offset).await?;
        ada.settle().await?;
        is_empty(&backend).await?;
        bob.ack(QUEUE, offset).await?;
        silent(&mut bob).await
    }))
    .await;
}

#[tokio::test]
async fn exhausted_and_malformed_entries_are_dead_letters_and_the_queue_goes_on() {
    proven(over_both(impatient().limit("attempts", 2), async |node, mut backend| {
        let mut client = worker(&node, "ada", 4).await?;
        let fields: [(&str, &[u8]); 4] = [("data", b"unwanted"), ("key", b"k"), ("id", b"i"), ("more", b"m")];
        let unwanted = backend.push_fields("demo", QUEUE, &fields).await?;
        let wrong = backend.push_fields("demo", QUEUE, &[("text", b"no data")]).await?;
        let mut attempts = Vec::new();
        while attempts.len() < 2 {
            let message = client.message().await?;
            ensure!(message.offset == unwanted, "{message:?}");
            attempts.push(message.attempt);
        }
        ensure!(attempts == [1, 2], "{attempts:?}");
        let reading = async { while let Ok(Event::Frame(_)) = client.next().await {} };
        let letters = async {
            let letter =
                backend.await_entry(DLQ, |entry| entry.text("offset") == unwanted.to_string()).await?;
            let other = backend.await_entry(DLQ, |entry| entry.text("offset") == wrong.to_string()).await?;
            anyhow::Ok((letter, other))
        };
        let (letter, other) = tokio::select! {
            letters = letters => letters?,
            () = reading => bail!("the connection ended"),
        };
        for (name, value) in
            [("channel", QUEUE), ("reason", "attempts"), ("attempts", "2"), ("data", "unwanted")]
        {
            ensure!(letter.text(name) == value, "{name} of {letter:?}");
        }
        for (name, value) in [("key", "k"), ("id", "i"), ("more", "m")] {
            ensure!(letter.text(name) == value, "{name} is kept for another try: {letter:?}");
        }
        ensure!(other.text("reason") == "bad_entry" && other.text("text") == "no data", "{other:?}");
        is_empty(&backend).await?;
        let next = backend.push("demo", QUEUE, "next").await?;
        ensure!(client.message().await?.offset == next, "the queue goes on");
        Ok(())
    }))
    .await;
}

#[tokio::test]
async fn expired_entries_are_not_delivered() {
    proven(over_both(NodeConfig::demo(), async |node, mut backend| {
        let old = backend.push_fields("demo", QUEUE, &[("data", b"old"), ("ttl_ms", b"0")]).await?;
        let new = backend.push("demo", QUEUE, "new").await?;
        ensure!(old.ms <= new.ms, "they follow each other");
        let mut client = worker(&node, "ada", 4).await?;
        ensure!(client.message().await?.offset == new, "only the other one");
        client.ack(QUEUE, new).await?;
        is_empty(&backend).await?;
        ensure!(backend.length(DLQ).await? == 0, "expired is no failure");
        Ok(())
    }))
    .await;
}

#[tokio::test]
async fn a_session_that_comes_home_keeps_its_work() {
    // Several shards: it comes back to whichever accepts it.
    proven(over_both(NodeConfig::demo().node("shards", "4"), async |node, mut backend| {
        let mut ada = worker(&node, "ada", 2).await?;
        let pushed = backend.push_all("demo", QUEUE, &texts(2)).await?;
        messages(&mut ada, 2).await?;
        let mut bob = worker(&node, "bob", 2).await?;
        for round in 0..6 {
            let resume = ada.resume_token().to_owned();
            ada.reset()?;
            ada = client(&node, &user("ada").resume(&resume)).await?;
            ensure!(ada.resumed() == "home", "{}", ada.connected.0);
            ada.subscribed(QUEUE).await?;
            let again = messages(&mut ada, 2).await?;
            ensure!(offsets(&again) == pushed, "it gets its work again");
            ensure!(again.iter().all(|message| message.attempt > 1), "round {round}: {again:?}");
            silent(&mut bob).await?;
        }
        for offset in pushed {
            ada.ack(QUEUE, offset).await?;
        }
        is_empty(&backend).await?;
        let next = backend.push_all("demo", QUEUE, &texts(4)).await?;
        messages(&mut ada, 2).await?;
        messages(&mut bob, 2).await.with_context(|| format!("both have room for {next:?}"))?;
        Ok(())
    }))
    .await;
}

#[tokio::test]
async fn work_of_a_session_that_never_returns_goes_to_another() {
    proven(over_both(NodeConfig::demo().limit("resume_window_ms", 500), async |node, mut backend| {
        let mut ada = worker(&node, "ada", 1).await?;
        let offset = backend.push("demo", QUEUE, "left").await?;
        ada.message().await?;
        ada.reset()?;
        let mut bob = worker(&node, "bob", 1).await?;
        let message = bob.message().await?;
        ensure!(message.offset == offset && message.attempt > 1, "{message:?}");
        bob.ack(QUEUE, offset).await?;
        is_empty(&backend).await
    }))
    .await;
}

#[tokio::test]
async fn who_says_goodbye_or_unsubscribes_gives_its_work_back_at_once() {
    proven(over_both(NodeConfig::demo(), async |node, mut backend| {
        let (mut ada, mut bob) = (worker(&node, "ada", 1).await?, worker(&node, "bob", 1).await?);
        let pushed = backend.push_all("demo", QUEUE, &texts(2)).await?;
        let first = ada.message().await?.offset;
        let second = bob.message().await?.offset;
        ensure!(BTreeSet::from([first, second]) == pushed.into_iter().collect(), "one each");
        let mut cyd = worker(&node, "cyd", 2).await?;
        ada.request(json!({"type": "unsubscribe", "channel": QUEUE})).await?;
        let message = cyd.message().await?;
        ensure!(message.offset == first && message.attempt > 1, "{message:?}");
        silent(&mut ada).await?;
        bob.send_raw(tokio_tungstenite::tungstenite::Message::Close(Some(
            tokio_tungstenite::tungstenite::protocol::CloseFrame { code: 1000.into(), reason: "".into() },
        )))
        .await?;
        let message = cyd.message().await?;
        ensure!(message.offset == second && message.attempt > 1, "{message:?}");
        Ok(())
    }))
    .await;
}

#[tokio::test]
async fn work_of_a_killed_node_goes_to_another() {
    proven(async {
        let config = NodeConfig::demo().cluster("queue_lease_ms", 2_000);
        let Cluster { mut nodes, mut backend, redis: _redis } = Cluster::start(&config, &[]).await?;
        let mut ada = worker(&nodes[0], "ada", 3).await?;
        let pushed = backend.push_all("demo", QUEUE, &texts(3)).await?;
        messages(&mut ada, 3).await?;
        let mut bob = worker(&nodes[1], "bob", 8).await?;
        silent(&mut bob).await?;
        nodes[0].kill9().await?;
        let got = messages(&mut bob, 3).await?;
        ensure!(offsets(&got) == pushed && got.iter().all(|message| message.attempt > 1), "{got:?}");
        for offset in pushed {
            bob.ack(QUEUE, offset).await?;
        }
        is_empty(&backend).await
    })
    .await;
}

/// The lease is long: only a node that gives its work back when it goes makes this pass.
#[tokio::test]
async fn a_node_that_drains_gives_its_work_back() {
    proven(async {
        let config = NodeConfig::demo().cluster("queue_lease_ms", 600_000);
        let Cluster { mut nodes, mut backend, redis: _redis } = Cluster::start(&config, &[]).await?;
        let mut ada = worker(&nodes[0], "ada", 3).await?;
        let pushed = backend.push_all("demo", QUEUE, &texts(3)).await?;
        messages(&mut ada, 3).await?;
        ada.ack(QUEUE, pushed[0]).await?;
        nodes[0].sigterm().await?;
        ensure!(backend.length(KEY).await? == 2, "what was acknowledged is finished");
        let mut bob = worker(&nodes[1], "bob", 8).await?;
        let got = messages(&mut bob, 2).await?;
        ensure!(offsets(&got) == pushed[1..] && got.iter().all(|message| message.attempt > 1), "{got:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_node_that_slept_past_its_lease_harms_nothing() {
    proven(async {
        let config = NodeConfig::demo().cluster("queue_lease_ms", 2_000);
        let Cluster { nodes, mut backend, redis: _redis } = Cluster::start(&config, &[]).await?;
        let mut ada = worker(&nodes[0], "ada", 2).await?;
        let pushed = backend.push_all("demo", QUEUE, &texts(2)).await?;
        messages(&mut ada, 2).await?;
        let mut bob = worker(&nodes[1], "bob", 2).await?;
        nodes[0].sigstop()?;
        let got = messages(&mut bob, 2).await?;
        ensure!(offsets(&got) == pushed && got.iter().all(|message| message.attempt > 1), "{got:?}");
        // Ada has done hers all the same, and the other is with bob.
        ada.ack(QUEUE, pushed[0]).await?;
        nodes[0].sigcont()?;
        ada.settle().await?;
        eventually("her ack finishes it", || {
            let mut backend = backend.clone();
            async move { (backend.length(KEY).await.ok()? == 1).then_some(()) }
        })
        .await?;
        // When she goes, nothing that is bob's goes back.
        ada.request(json!({"type": "unsubscribe", "channel": QUEUE})).await?;
        silent(&mut bob).await?;
        bob.ack(QUEUE, pushed[0]).await?;
        bob.ack(QUEUE, pushed[1]).await?;
        is_empty(&backend).await?;
        silent(&mut bob).await
    })
    .await;
}

/// Sessions of two nodes work while nodes are killed, stopped and started again.
#[tokio::test]
async fn no_entry_is_lost_while_nodes_come_and_go() {
    proven(async {
        const ENTRIES: usize = 160;
        let config = NodeConfig::demo().cluster("queue_lease_ms", 2_000).limit("resume_window_ms", 500);
        let Cluster { mut nodes, mut backend, redis: _redis } = Cluster::start(&config, &[]).await?;
        let pushed: BTreeSet<_> =
            backend.push_all("demo", QUEUE, &texts(ENTRIES)).await?.into_iter().collect();
        let mut handled: BTreeMap<Offset, Vec<u64>> = BTreeMap::new();
        // One session a node, served in turn; whose node goes away comes again.
        let mut clients: Vec<Option<Client>> = vec![None, None];
        let (mut turns, mut faults) = (0, 0);
        let deadline = tokio::time::Instant::now() + 4 * tidegate_support::DEADLINE;
        while backend.length(KEY).await? > 0 {
            ensure!(tokio::time::Instant::now() < deadline, "{} of {ENTRIES} handled", handled.len());
            turns += 1;
            let n = turns % 2;
            if clients[n].is_none() {
                clients[n] = worker(&nodes[n], ["ada", "bob"][n], 8).await.ok();
            }
            let Some(client) = &mut clients[n] else { continue };
            match client.next_within(POLL).await {
                Ok(Some(Event::Frame(frame))) if frame.kind() == "message" => {
                    let message = frame.message()?;
                    handled.entry(message.offset).or_default().push(message.attempt);
                    // Now and then a task is left undone.
                    if turns % 7 > 0 && client.ack(QUEUE, message.offset).await.is_err() {
                        clients[n] = None;
                    }
                }
                Ok(Some(Event::Frame(_)) | None) => {}
                Ok(Some(_)) | Err(_) => clients[n] = None,
            }
            if handled.len() >= ENTRIES / 4 * (faults + 1) && faults < 3 {
                faults += 1;
                clients[faults % 2] = None;
                nodes[faults % 2].kill9().await?;
                nodes[faults % 2].restart().await?;
            }
            // Who kept what it left undone would keep it for long.
            if turns % 101 == 100 {
                clients[n] = None;
            }
        }
        ensure!(handled.keys().copied().collect::<BTreeSet<_>>() == pushed, "{} of {ENTRIES}", handled.len());
        let wrong =
            handled.iter().find(|(_, attempts)| attempts.iter().filter(|attempt| **attempt == 1).count() > 1);
        ensure!(wrong.is_none(), "a repetition says so: {wrong:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_queue_begins_anew_after_all_data_or_its_group_is_lost() {
    proven(async {
        let config = NodeConfig::demo().cluster("queue_lease_ms", 2_000);
        let Cluster { nodes, mut backend, redis: _redis } = Cluster::start(&config, &[]).await?;
        let mut ada = worker(&nodes[0], "ada", 4).await?;
        let old = backend.push("demo", QUEUE, "old").await?;
        ensure!(ada.message().await?.offset == old, "it comes");
        backend.flush_all().await?;
        // In the same millisecond the first entry of the new life would have the offset of the last one's.
        while backend.push("demo", "room:clock", "tick").await?.ms <= old.ms {}
        let new = backend.push("demo", QUEUE, "new").await?;
        ensure!(ada.message().await?.offset == new, "so does what comes after");
        // Done with what is gone, which is no error.
        ada.ack(QUEUE, old).await?;
        ada.ack(QUEUE, new).await?;
        is_empty(&backend).await?;
        backend.command(&format!("XGROUP DESTROY {KEY} tidegate")).await?;
        let last = backend.push("demo", QUEUE, "last").await?;
        let message = ada.message().await?;
        ensure!(message.offset == last, "{message:?}");
        ada.ack(QUEUE, last).await?;
        is_empty(&backend).await
    })
    .await;
}

#[tokio::test]
async fn a_full_queue_refuses_what_clients_publish_until_there_is_room() {
    let small = ["kind = \"queue\"", "publish = \"anyone\"", "retention_max_len = 2"];
    let config = NodeConfig::demo().tenant("demo", TenantConfig::default().namespace("queue", &small));
    proven(over_both(config, async |node, mut backend| {
        let mut ada = worker(&node, "ada", 2).await?;
        let publish = |n: usize| json!({"type": "publish", "channel": QUEUE, "data": n});
        let mut taken = Vec::new();
        for n in 0..2 {
            taken.push(ada.request(publish(n)).await?.offset("offset")?);
        }
        let error = ada.request(publish(2)).await?;
        ensure!(error.text("code") == "unavailable" && error.text("message").contains("full"), "{}", error.0);
        ensure!(backend.length(KEY).await? == 2, "nothing is trimmed for it");
        messages(&mut ada, 2).await?;
        ada.ack(QUEUE, taken[1]).await?;
        eventually("there is room again", || {
            let mut backend = backend.clone();
            async move { (backend.length(KEY).await.ok()? < 2).then_some(()) }
        })
        .await?;
        let offset = ada.request(publish(3)).await?.offset("offset")?;
        ensure!(ada.message().await?.offset == offset, "the next one");
        Ok(())
    }))
    .await;
}

#[tokio::test]
async fn a_key_that_holds_no_stream_is_told() {
    proven(over_both(NodeConfig::demo(), async |node, mut backend| {
        // The embedded backbone holds nothing but streams.
        if backend.command(&format!("SET {KEY} text")).await.is_err() {
            return Ok(());
        }
        let mut client = client(&node, &user("ada")).await?;
        let error = client.request(json!({"type": "subscribe", "channel": QUEUE})).await?;
        ensure!(error.text("code") == "unavailable", "{}", error.0);
        backend.command(&format!("DEL {KEY}")).await?;
        client.subscribe(QUEUE, true).await?;
        let offset = backend.push("demo", QUEUE, "now").await?;
        ensure!(client.message().await?.offset == offset, "it works once the key is gone");
        Ok(())
    }))
    .await;
}
