//! Nodes that come, go, hang or cannot.

use super::*;
use crate::harness::client;
use crate::hooks::known;

/// Longer than any test.
const AN_HOUR_MS: i64 = 3_600_000;

async fn start(cluster: &Cluster, config: NodeConfig, id: &str) -> Result<Node> {
    let config = config.redis(&cluster.redis.url()).node("id", &format!("\"{id}\""));
    Node::start(TIDEGATE, &config).await
}

/// Moves the end of a node's lease that does not renew it, so that a slow machine neither ends it too early nor a test
/// waits for it.
async fn move_lease(backend: &mut Backend, id: &str, by_ms: i64) -> Result<()> {
    let script = "local node = cjson.decode(redis.call('HGET', KEYS[1], ARGV[1])) \
                  node.seen_ms = node.seen_ms + tonumber(ARGV[2]) \
                  redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(node))";
    let by_ms = by_ms.to_string();
    let words = ["EVAL", script, "1", "tg:sys:nodes", id, &by_ms].map(str::as_bytes);
    backend.run(&words).await.map(drop)
}

/// Waits until the node `one` has a version ready that `two` has not; how far both are.
async fn until_one_has(node: &Node, version: &str) -> Result<Value> {
    within(READY, "the node one is ready", || async {
        let about = about(node, version).await.ok()?;
        (about["nodes"]["one"]["state"] == "ready").then_some(about)
    })
    .await
}

#[tokio::test]
async fn a_version_is_switched_on_when_every_live_node_has_it_ready() {
    proven(async {
        let mut cluster = Cluster::start(&config(), &[]).await?;
        let (one, two) = (&cluster.nodes[0], &cluster.nodes[1]);
        two.sigstop()?;
        move_lease(&mut cluster.backend, "two", AN_HOUR_MS).await?;
        let version = push(one, "one").await?;
        let waiting = until_one_has(one, &version).await?;
        ensure!(waiting["state"] == "preparing", "{waiting}");
        ensure!(waiting["nodes"]["two"]["state"] == "preparing", "{waiting}");
        let refused = post(one, "probe/activate", &json!({})).await?;
        ensure!(refused.status == 409 && refused.text().contains("on the node two"), "{}", refused.text());
        two.sigcont()?;
        activate(one, &version).await?;
        let all = until_state(two, &version, "ready").await?;
        ensure!(all["active"] == true, "{all}");
        // One that was killed is waited for as long as it may be alive, and no longer.
        cluster.nodes[1].kill9().await?;
        move_lease(&mut cluster.backend, "two", AN_HOUR_MS).await?;
        let one = &cluster.nodes[0];
        let next = push(one, "next").await?;
        until_one_has(one, &next).await?;
        let refused = post(one, "probe/activate", &json!({ "version": next })).await?;
        ensure!(refused.status == 409 && refused.text().contains("on the node two"), "{}", refused.text());
        move_lease(&mut cluster.backend, "two", -AN_HOUR_MS).await?;
        activate(one, &next).await?;
        Ok(())
    })
    .await;
}

/// The same component with so many bytes that nobody reads.
fn padded(component: &[u8], padding: usize) -> Vec<u8> {
    let leb128 = |mut number: usize| {
        let mut bytes = Vec::new();
        while number >= 0x80 {
            bytes.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        bytes.push(number as u8);
        bytes
    };
    // A custom section: its kind, its size, its name, and what is in it.
    let name = b"\x07padding";
    let content: Vec<u8> = (0..padding).map(|n| (n % 251) as u8).collect();
    [component, &[0], &leb128(name.len() + padding), name, &content].concat()
}

#[tokio::test]
async fn a_large_component_goes_to_other_nodes_in_pieces_and_says_how_far_it_is() {
    proven(async {
        let mut cluster = Cluster::start(&config(), &[]).await?;
        let (one, two) = (&cluster.nodes[0], &cluster.nodes[1]);
        two.sigstop()?;
        move_lease(&mut cluster.backend, "two", AN_HOUR_MS).await?;
        let large = padded(PROBE, 5 << 20);
        let version = plugins::push(one, "probe", &large, &[("greeting", "large")]).await?;
        let waiting = until_one_has(one, &version).await?;
        ensure!(waiting["stored"] == true && waiting["bytes"] == large.len(), "{waiting}");
        ensure!(
            waiting["state"] == "preparing" && waiting["nodes"]["two"]["state"] == "preparing",
            "{waiting}"
        );
        let pieces = cluster.backend.fields("tg:sys:plugins:demo:code").await?;
        ensure!(pieces > large.len() / (512 << 10), "{pieces} pieces");
        two.sigcont()?;
        activate(two, &version).await?;
        for node in &cluster.nodes {
            let mut reader = client(node, &known("reader").listen("room:1")).await?;
            reader.subscribed("room:1").await?;
            cluster.backend.push("demo", "room:1", "setting").await?;
            ensure!(reader.message().await?.text() == "large", "both nodes run it");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_node_that_does_not_serve_the_tenant_is_not_waited_for() {
    proven(async {
        let cluster = Cluster::start(&config(), &[]).await?;
        let elsewhere = NodeConfig::default().admin().tenant("other", TenantConfig::default());
        let _elsewhere = start(&cluster, elsewhere, "elsewhere").await?;
        let one = &cluster.nodes[0];
        let version = push(one, "one").await?;
        let about = until_state(one, &version, "ready").await?;
        ensure!(about["nodes"] == json!({"one": {"state": "ready"}, "two": {"state": "ready"}}), "{about}");
        activate(one, &version).await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_a_node_said_that_is_gone_counts_for_nothing() {
    proven(async {
        let mut cluster = Cluster::start(&config(), &[]).await?;
        let version = push(&cluster.nodes[0], "one").await?;
        let said = json!({
            "at_ms": cluster.backend.push("demo", "room:1", "now").await?.ms,
            "versions": { &version: { "state": "failed", "why": "long ago" } },
        });
        let said = said.to_string();
        let words = ["HSET", "tg:sys:plugins:demo", "node:three", &said].map(str::as_bytes);
        cluster.backend.run(&words).await?;
        activate(&cluster.nodes[1], &version).await?;
        let about = about(&cluster.nodes[0], &version).await?;
        ensure!(about["nodes"].as_object().is_some_and(|nodes| nodes.len() == 2), "{about}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_node_that_joins_has_ready_what_is_on_before_it_takes_traffic() {
    proven(async {
        let cluster = Cluster::start(&config(), &[]).await?;
        let one = &cluster.nodes[0];
        let version = push(one, "one").await?;
        activate(one, &version).await?;
        let three = start(&cluster, config(), "three").await?;
        let log = three.log();
        let (prepared, ready) = (log.find("a plugin is ready"), log.find("ready node=three"));
        ensure!(prepared.zip(ready).is_some_and(|(prepared, ready)| prepared < ready), "{log}");
        let about = eventually("the others see it", || async {
            about(one, &version).await.ok().filter(|about| about["nodes"]["three"]["state"] == "ready")
        });
        about.await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_node_that_cannot_prepare_a_version_is_named_and_takes_traffic_all_the_same() {
    proven(async {
        let cluster = Cluster::start(&config(), &[]).await?;
        let one = &cluster.nodes[0];
        let first = push(one, "one").await?;
        activate(one, &first).await?;
        let small = TenantConfig::default().plugins("code_bytes = 1024");
        let poor = start(&cluster, config().tenant("demo", small), "poor").await?;
        ensure!(poor.admin_get("/readyz").await?.status == 200, "it serves its sockets");
        let second = push(one, "two").await?;
        let failed = until_state(one, &second, "failed").await?;
        ensure!(failed["nodes"]["poor"]["state"] == "failed", "{failed}");
        let refused = post(one, "probe/activate", &json!({ "version": second })).await?;
        ensure!(refused.status == 409 && refused.text().contains("on the node poor: "), "{}", refused.text());
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn versions_outlive_a_restart_and_an_outage() {
    proven(async {
        let mut cluster = Cluster::start(&config(), &["--appendonly", "yes"]).await?;
        let version = push(&cluster.nodes[0], "one").await?;
        activate(&cluster.nodes[0], &version).await?;
        cluster.redis.restart().await?;
        cluster.nodes[1].restart().await?;
        for node in &cluster.nodes {
            let about = until_state(node, &version, "ready").await?;
            ensure!(about["active"] == true, "it is on still");
        }
        let next = push(&cluster.nodes[1], "two").await?;
        activate(&cluster.nodes[0], &next).await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn nodes_agree_again_after_everything_was_lost() {
    proven(async {
        let mut cluster = Cluster::start(&config(), &[]).await?;
        let version = push(&cluster.nodes[0], "one").await?;
        activate(&cluster.nodes[1], &version).await?;
        cluster.backend.flush_all().await?;
        for node in &cluster.nodes {
            eventually("there is nothing", || async {
                get(node, "").await.ok().filter(|list| list["plugins"] == json!([]))
            })
            .await?;
        }
        let again = push(&cluster.nodes[1], "one").await?;
        ensure!(again == version, "a version is what it is made of");
        activate(&cluster.nodes[0], &again).await?;
        for node in &cluster.nodes {
            until_state(node, &version, "ready").await?;
        }
        Ok(())
    })
    .await;
}
