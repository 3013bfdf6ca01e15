//! A backbone that hangs, fills up, refuses writes, fails over or drops connections: publishers get an
//! error that says to try again, sockets stay, and what was acknowledged arrives in order afterwards.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tidegate_support::checker::{Checker, Report, Settings, Signing};
use tidegate_support::config::{API_KEY, KID, NodeConfig, SECRET};
use tidegate_support::node::Node;
use tidegate_support::proxy::{Fault, Proxy};
use tidegate_support::redis::RedisServer;
use tidegate_support::redis_faults::Backend;
use tidegate_support::{eventually, http, proven};

use crate::harness::{TIDEGATE, client, messages, user};

/// Nodes that reach their Redis through a proxy which misbehaves when asked to. Publishers go the same
/// way, so that a failover moves them too.
struct Rig {
    nodes: Vec<Node>,
    proxy: Proxy,
    redis: RedisServer,
}

impl Rig {
    async fn start(redis_settings: &[&str]) -> Result<Self> {
        let redis = RedisServer::start(redis_settings).await?;
        let proxy = Proxy::start(redis.address()).await?;
        let config = NodeConfig::demo().redis(&format!("redis://{}", proxy.address()));
        let mut nodes = Vec::new();
        for id in ["one", "two"] {
            let config = config.clone().node("id", &format!("\"{id}\""));
            nodes.push(Node::start(TIDEGATE, &config).await?);
        }
        Ok(Self { nodes, proxy, redis })
    }

    async fn checker(&self) -> Result<Checker> {
        Checker::start(Settings {
            urls: self.nodes.iter().map(|node| node.ws("demo")).collect(),
            redis: format!("redis://{}", self.proxy.address()),
            signing: Some(Signing { kid: Some(KID.into()), secret: SECRET.into() }),
            api_key: Some(API_KEY.into()),
            ..Settings::default()
        })
        .await
    }

    /// What an HTTP publisher hears now.
    async fn publish(&self) -> Result<http::Answer> {
        let (url, body) = (self.nodes[0].ws("demo"), json!({"channel": "room:1", "data": "x"}));
        let authority = url.trim_start_matches("ws://").split('/').next().context("a host")?;
        http::post(authority, "/v1/demo/publish", Some(API_KEY), &body).await
    }

    /// Waits until an HTTP publisher is told to try again.
    async fn refused(&self, words: &str) -> Result<()> {
        eventually("publishers are told to try again", || async {
            let answer = self.publish().await.ok()?;
            let told = answer.status == 503 && answer.head.contains("retry-after:");
            (told && answer.text().contains(words)).then_some(())
        })
        .await
    }

    /// Waits until an HTTP publisher is served.
    async fn served(&self) -> Result<()> {
        eventually("publishers are served again", || async {
            (self.publish().await.ok()?.status == 200).then_some(())
        })
        .await
    }
}

/// Ends a run after its fault has passed.
async fn verdict(checker: Checker) -> Result<Report> {
    checker.received_more(300).await.context("deliveries go on after the fault")?;
    let report = checker.finish(Duration::from_secs(60)).await?;
    println!("{report}");
    report.assert_promises();
    Ok(report)
}

#[tokio::test]
async fn a_redis_that_hangs_costs_no_socket_and_no_message() {
    proven(async {
        let rig = Rig::start(&[]).await?;
        let checker = rig.checker().await?;
        checker.published_more(200).await?;
        rig.redis.pause()?;
        rig.refused("away").await?;
        // Longer than any lease, timeout or patience with the backbone: the fault is a length of time.
        tokio::time::sleep(Duration::from_secs(12)).await;
        let ready = rig.nodes[0].admin_get("/readyz").await?;
        ensure!(ready.status == 200 && ready.text().contains("backbone"), "{}", ready.text());
        rig.redis.resume()?;
        rig.served().await?;
        checker.published_more(300).await?;
        let report = verdict(checker).await?;
        ensure!(report.reconnects == 0, "sockets stay while the backbone is away\n{report}");
        ensure!(report.gaps_told == 0, "the log was whole all the time\n{report}");
        Ok(())
    })
    .await;
}

/// Publishers are told to try again, what is in the log is delivered meanwhile, and sockets stay.
async fn refuses_and_delivers(rig: &Rig, begin: &str, end: &str) -> Result<()> {
    let checker = rig.checker().await?;
    checker.published_more(200).await?;
    let mut operator = Backend::connect(&rig.redis.url()).await?;
    let kept = operator.push("demo", "room:1", "in the log").await?;
    operator.command(begin).await?;
    rig.refused("takes no writes").await?;
    let sub = json!({"channel": "room:1", "offset": "0-0"});
    let mut reader = client(&rig.nodes[1], &user("reader").sub_with(sub)).await?;
    reader.subscribed("room:1").await?;
    ensure!(messages(&mut reader, 1).await?[0].offset == kept);
    let refused = reader.request(json!({"type": "publish", "channel": "room:1", "data": "no room"})).await?;
    ensure!(refused.text("code") == "unavailable", "{}", refused.0);
    let refusals = "tidegate_publishes_total{tenant=\"demo\",via=\"http\",outcome=\"unavailable\"}";
    ensure!(rig.nodes[0].metric(refusals).await? > 0.0, "it is counted");
    operator.command(end).await?;
    rig.served().await?;
    checker.published_more(300).await?;
    let report = verdict(checker).await?;
    ensure!(report.reconnects == 0, "sockets stay\n{report}");
    Ok(())
}

#[tokio::test]
async fn a_redis_out_of_memory_refuses_and_delivers() {
    proven(async {
        let rig = Rig::start(&["--maxmemory-policy", "noeviction"]).await?;
        refuses_and_delivers(&rig, "CONFIG SET maxmemory 1mb", "CONFIG SET maxmemory 0").await
    })
    .await;
}

#[tokio::test]
async fn a_master_short_of_replicas_refuses_and_delivers() {
    proven(async {
        let rig = Rig::start(&[]).await?;
        let (begin, end) = ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0");
        refuses_and_delivers(&rig, begin, end).await
    })
    .await;
}

#[tokio::test]
async fn a_slow_redis_is_waited_for_or_left_and_loses_nothing() {
    proven(async {
        let rig = Rig::start(&[]).await?;
        let checker = rig.checker().await?;
        checker.published_more(200).await?;
        let mut operator = Backend::connect(&rig.redis.url()).await?;
        // Every command waits so long, which is longer than the node waits for an answer.
        operator.command("CLIENT PAUSE 5000 ALL").await?;
        rig.refused("").await?;
        rig.served().await?;
        rig.proxy.set(Fault::Delay(Duration::from_millis(300)));
        checker.published_more(50).await?;
        rig.proxy.set(Fault::None);
        checker.published_more(200).await?;
        let report = verdict(checker).await?;
        ensure!(report.gaps_told == 0, "the log was whole all the time\n{report}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn connections_reset_again_and_again_lose_nothing() {
    proven(async {
        let rig = Rig::start(&[]).await?;
        let checker = rig.checker().await?;
        for fault in [Fault::Reset, Fault::Cut, Fault::Blackhole, Fault::Reset] {
            checker.published_more(100).await?;
            rig.proxy.set(fault);
            rig.refused("").await?;
            rig.proxy.set(Fault::None);
            rig.served().await?;
        }
        let report = verdict(checker).await?;
        ensure!(report.gaps_told == 0, "the log was whole all the time\n{report}");
        Ok(())
    })
    .await;
}

/// The replica stops listening to its master some time before it takes over, so what was published
/// since then is gone with the master.
#[tokio::test]
async fn a_failover_to_a_replica_that_lagged_is_told() {
    proven(async {
        let mut rig = Rig::start(&["--repl-diskless-sync-delay", "0"]).await?;
        let port = rig.redis.port().to_string();
        let replica = RedisServer::start(&["--replicaof", "127.0.0.1", &port]).await?;
        let mut second = Backend::connect(&replica.url()).await?;
        let checker = rig.checker().await?;
        checker.published_more(200).await?;
        let info = |text: redis::Value| redis::from_redis_value::<String>(text).unwrap_or_default();
        eventually("the replica follows", || {
            let mut second = second.clone();
            async move {
                let text = info(second.command("INFO replication").await.ok()?);
                text.contains("master_link_status:up").then_some(())
            }
        })
        .await?;
        second.command("REPLICAOF NO ONE").await?;
        checker.published_more(200).await?;
        rig.proxy.lead_to(replica.address());
        rig.redis.kill();
        rig.served().await?;
        checker.published_more(300).await?;
        let report = verdict(checker).await?;
        ensure!(report.gaps_told > 0, "200 messages are gone and nobody was told\n{report}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn entries_that_are_no_messages_hurt_nobody() {
    proven(async {
        let rig = Rig::start(&[]).await?;
        let mut backend = Backend::connect(&rig.redis.url()).await?;
        let mut reader = client(&rig.nodes[0], &user("alice").listen("room:odd").listen("room:good")).await?;
        reader.subscribed("room:odd").await?;
        reader.subscribed("room:good").await?;
        for fields in [
            &[("text", b"no data".as_slice())][..],
            &[("data", b"x"), ("headers", b"[]")],
            &[("data", b"x"), ("ttl_ms", b"soon")],
        ] {
            backend.push_fields("demo", "room:odd", fields).await?;
            let good = backend.push("demo", "room:good", "fine").await?;
            let got = messages(&mut reader, 1).await?;
            ensure!(got[0].channel == "room:good" && got[0].offset == good, "{got:?}");
        }
        let last = backend.push("demo", "room:odd", "a message").await?;
        ensure!(messages(&mut reader, 1).await?[0].offset == last, "the channel goes on");
        Ok(())
    })
    .await;
}
