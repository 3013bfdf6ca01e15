//! Versions are switched while everybody publishes: an entry meets the version that its offset names, on every node,
//! on every way, and however often it is sent again.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::Context as _;
use tidegate_support::client::{Client, Options};
use tidegate_support::offset::Offset;
use tokio::task::JoinSet;

use super::*;
use crate::harness::{client, user};

const CHANNEL: &str = "room:1";
/// The last message of a run. No version changes it.
const END: &str = "end";
/// What a client leaves unacknowledged: less than its window, so that it goes on.
const OPEN: usize = 40;

/// A message as a client saw it: where it stands, and what was made of it.
type Seen = Vec<(Offset, String)>;

/// Publishes until it is told to stop: by `XADD`, and by HTTP at one of the nodes.
async fn publish(
    mut backend: Backend,
    node: String,
    counted: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        backend.push("demo", CHANNEL, "setting").await?;
        let body = json!({ "channel": CHANNEL, "data": "setting" });
        let answer = http::post(&node, "/v1/demo/publish", Some(API_KEY), &body).await?;
        ensure!(answer.status == 200, "{}", answer.text());
        counted.fetch_add(2, Ordering::Relaxed);
        // A pace, so that no node falls behind.
        tokio::time::sleep(tidegate_support::POLL).await;
    }
    Ok(())
}

/// Reads to the end of the run.
async fn listen(mut client: Client) -> Result<Seen> {
    let mut seen = Seen::new();
    loop {
        let message = client.message().await?;
        seen.push((message.offset, message.text()));
        if message.text() == END {
            return Ok(seen);
        }
    }
}

/// Reads to the end of the run, and acknowledges late. In the middle between two versions it loses its connection
/// and goes to the other node, where it is sent again what it had of both. What it saw on each connection.
async fn straggle(urls: Vec<String>, mut client: Client, options: Options) -> Result<Vec<Seen>> {
    let mut connections = vec![Seen::new()];
    let mut open: VecDeque<(Offset, String)> = VecDeque::new();
    let mut newest = Offset::ZERO;
    loop {
        let message = client.message().await?;
        let seen = (message.offset, message.text());
        connections.last_mut().context("a connection")?.push(seen.clone());
        if seen.1 == END {
            return Ok(connections);
        }
        let is_new = seen.0 > newest;
        newest = newest.max(seen.0);
        open.push_back(seen);
        if open.len() > OPEN
            && let Some((oldest, _)) = open.pop_front()
        {
            client.ack(CHANNEL, oldest).await?;
        }
        if is_new && open.len() == OPEN && open[OPEN / 2 - 1].1 != open[OPEN / 2].1 {
            client.reset()?;
            client = Client::connect(&urls[connections.len() % urls.len()], &options).await?;
            connections.push(Seen::new());
            open.clear();
        }
    }
}

/// What is to be made of each entry of the log.
fn expected(log: Vec<Offset>, stages: &[(u64, &str)]) -> Seen {
    let made = |offset: Offset| match stages.iter().rfind(|(from_ms, _)| *from_ms <= offset.ms) {
        Some((_, greeting)) => (offset, (*greeting).to_owned()),
        None => (offset, "setting".to_owned()),
    };
    let mut expected: Seen = log.into_iter().map(made).collect();
    if let Some((_, last)) = expected.last_mut() {
        *last = END.to_owned();
    }
    expected
}

/// Fails with the first message that is lost, sent twice, out of order, or made by another version.
fn ensure_same(who: &str, seen: &[(Offset, String)], expected: &[(Offset, String)]) -> Result<()> {
    let differs = seen.iter().zip(expected).position(|(seen, expected)| seen != expected);
    if let Some(at) = differs {
        anyhow::bail!("{who} saw {:?} as message {at}, and it is {:?}", seen[at], expected[at]);
    }
    ensure!(seen.len() == expected.len(), "{who} saw {} messages of {}", seen.len(), expected.len());
    Ok(())
}

/// Connections that follow each other have everything, each without a hole, and begin with what was open before:
/// messages of two versions.
fn ensure_covered(connections: &[Seen], expected: &[(Offset, String)]) -> Result<()> {
    let mut covered: Option<usize> = None;
    for (n, seen) in connections.iter().enumerate() {
        let (first, _) = seen.first().with_context(|| format!("connection {n} saw nothing"))?;
        let from = expected.iter().position(|(offset, _)| offset == first).context("an entry of the log")?;
        let until = expected.len().min(from + seen.len());
        ensure_same(&format!("connection {n}"), seen, &expected[from..until])?;
        if let Some(covered) = covered {
            ensure!(from + OPEN <= covered, "connection {n} begins at {from}, with {covered} seen before");
            let again: BTreeSet<_> = expected[from..covered].iter().map(|(_, greeting)| greeting).collect();
            ensure!(again.len() > 1, "{again:?} was sent again, which is of one version");
        }
        covered = Some(until);
    }
    ensure!(covered == Some(expected.len()), "{covered:?} of {} were seen", expected.len());
    Ok(())
}

/// Recovered from before all of it, and read from the history.
async fn ensure_read_again(nodes: &[Node], expected: &[(Offset, String)]) -> Result<()> {
    for node in nodes {
        let from_start = json!({ "channel": CHANNEL, "offset": "0-0" });
        let late = client(node, &Options::token("late").sub_with(from_start)).await?;
        ensure_same("who comes late", &listen(late).await?, expected)?;
        let mut reader = client(node, &Options::token("reader")).await?;
        let history = reader.history(CHANNEL, 100).await?;
        let history: Seen = history.iter().map(|message| (message.offset, message.text())).collect();
        ensure_same("the history", &history, &expected[expected.len() - history.len()..])?;
    }
    Ok(())
}

#[tokio::test]
async fn an_entry_meets_the_version_of_its_offset_on_every_node_and_whenever_it_is_sent_again() {
    proven(async {
        // Nothing is trimmed, however long the switches take.
        let tenant = TenantConfig::default().plugins("deadline_ms = 1000");
        let tenant = tenant.namespace("room", &["retention_max_len = 1000000"]);
        let mut cluster = Cluster::start(&NodeConfig::demo().tenant("demo", tenant), &[]).await?;
        let (one, two) = (&cluster.nodes[0], &cluster.nodes[1]);
        let (first, second) = (push(one, "one").await?, push(two, "two").await?);
        let mut listeners = JoinSet::new();
        for node in [one, two] {
            let mut listener = client(node, &user("listener").listen(CHANNEL)).await?;
            listener.subscribed(CHANNEL).await?;
            listeners.spawn(listen(listener));
        }
        let (counted, stop) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let mut publishers = JoinSet::new();
        for node in [one, two] {
            let (counted, stop) = (Arc::clone(&counted), Arc::clone(&stop));
            publishers.spawn(publish(cluster.backend.clone(), node.http.clone(), counted, stop));
        }
        let flow = async || {
            let wanted = counted.load(Ordering::Relaxed) + 2 * OPEN;
            eventually("messages flow", || async {
                (counted.load(Ordering::Relaxed) >= wanted).then_some(())
            })
            .await
        };
        let begins = |answer: Value| answer["from_ms"].as_u64().context("when it begins");
        flow().await?;
        let mut stages = vec![(begins(activate(one, &first).await?)?, "one")];
        // The plugin says who clients are from here on.
        let options = Options::token("straggler").device("phone").ack(CHANNEL);
        let mut straggler = client(one, &options).await?;
        straggler.subscribed(CHANNEL).await?;
        let straggling = tokio::spawn(straggle(cluster.urls(), straggler, options));
        flow().await?;
        stages.push((begins(activate(two, &second).await?)?, "two"));
        flow().await?;
        stages.push((begins(act(one, "rollback", &json!({})).await?)?, "one"));
        flow().await?;
        stages.push((begins(activate(two, &second).await?)?, "two"));
        flow().await?;
        stop.store(true, Ordering::Relaxed);
        while let Some(published) = publishers.join_next().await {
            published??;
        }
        cluster.backend.push("demo", CHANNEL, END).await?;
        let log = cluster.backend.log("demo", CHANNEL).await?;
        ensure!(log.len() > counted.load(Ordering::Relaxed), "{} of {counted:?} are in the log", log.len());
        let expected = expected(log.iter().map(|entry| entry.offset).collect(), &stages);
        while let Some(seen) = listeners.join_next().await {
            ensure_same("a listener", &seen??, &expected)?;
        }
        let connections = straggling.await??;
        ensure!(connections.len() == stages.len(), "it changed nodes {} times", connections.len() - 1);
        ensure_covered(&connections, &expected)?;
        ensure_read_again(&cluster.nodes, &expected).await
    })
    .await;
}

#[tokio::test]
async fn a_node_that_is_late_lets_nobody_past_a_plugin_that_is_on() {
    proven(async {
        let cluster = Cluster::start(&config(), &[]).await?;
        let (one, two) = (&cluster.nodes[0], &cluster.nodes[1]);
        let version = push(one, "one").await?;
        until_state(one, &version, "ready").await?;
        // The tenant lets in anonymous clients, the plugin nobody without a token.
        let opened = Client::open(&two.ws("demo"), &Options::default()).await?;
        let Ok(mut anonymous) = opened else { anyhow::bail!("no connection") };
        two.sigstop()?;
        activate(one, &version).await?;
        anonymous.send_frame(&Options::default().connect_frame()).await?;
        two.sigcont()?;
        let (code, _) = anonymous.closed().await.context("it was let in")?;
        ensure!(code == 4002, "{code}");
        Ok(())
    })
    .await;
}
