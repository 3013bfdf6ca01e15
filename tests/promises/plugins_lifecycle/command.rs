//! The same from the command line.

use std::process::Stdio;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use super::*;

fn command(node: &Node, words: &[&str]) -> Command {
    let mut command = Command::new(TIDEGATE);
    command.arg("plugin").args(words).env("TIDEGATE_URL", format!("http://{}", node.admin));
    command.env("TIDEGATE_KEY", API_KEY).kill_on_drop(true);
    command
}

/// Runs a command that is to succeed; what it printed.
async fn run(node: &Node, words: &[&str]) -> Result<String> {
    let output = command(node, words).output().await?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{words:?}: {err}");
    Ok(out.trim().to_owned())
}

/// Runs a command that is to fail; what it said.
async fn fail(node: &Node, words: &[&str]) -> Result<String> {
    let output = command(node, words).output().await?;
    ensure!(output.status.code() == Some(1), "{words:?}: {:?}", output.status);
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn a_plugin_lives_its_life_from_the_command_line() {
    proven(async {
        let mut cluster = Cluster::start(&config(), &[]).await?;
        let (one, two) = (&cluster.nodes[0], &cluster.nodes[1]);
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("probe.wasm");
        std::fs::write(&file, PROBE)?;
        let file = file.to_str().context("a path that is text")?;
        let pushed = run(one, &["push", file, "--name", "probe", "--set", "greeting=one"]).await?;
        ensure!(pushed.ends_with("is ready"), "{pushed}");
        let first = pushed.split(' ').nth(1).context("a version")?.to_owned();
        let activated = run(two, &["activate", "probe"]).await?;
        ensure!(activated == format!("probe {first} is active"), "{activated}");
        let second = run(two, &["push", file, "--name", "probe", "--set", "greeting=two", "--json"]).await?;
        let second: Value = serde_json::from_str(&second)?;
        let second = second["version"].as_str().context("a version")?[..12].to_owned();
        cluster.backend.push("demo", "room:1", "setting").await?;
        cluster.backend.push("demo", "room:1", "plain").await?;
        let replayed = run(one, &["replay", "probe", "--channel", "room:1"]).await?;
        ensure!(replayed.contains("now   replace one\n  then  replace two"), "{replayed}");
        ensure!(replayed.ends_with("2 entries, 1 the same, 1 differ"), "{replayed}");
        let canary = run(one, &["canary", "probe", "10%", &second]).await?;
        ensure!(canary == format!("probe {first} is active, and 10 % get {second}"), "{canary}");
        let list = run(two, &["list"]).await?;
        let lines: Vec<_> = list.lines().collect();
        ensure!(lines.len() == 2 && lines[0].contains("active") && lines[1].contains("canary 10%"), "{list}");
        ensure!(lines.iter().all(|line| line.contains("one=ready  two=ready")), "{list}");
        let back = run(two, &["rollback", "probe"]).await?;
        ensure!(back == format!("probe {first} is active"), "{back}");
        ensure!(run(one, &["deactivate", "probe"]).await? == "probe is off", "it is off");
        let removed = run(one, &["remove", "probe", &second]).await?;
        ensure!(removed == format!("probe {second} is removed"), "{removed}");
        let active =
            run(one, &["push", file, "--name", "probe", "--set", "greeting=three", "--activate"]).await?;
        ensure!(active.ends_with("is active"), "{active}");
        // What cannot be is said as the node says it.
        std::fs::write(folder.path().join("text.wasm"), "(component)")?;
        let text = folder.path().join("text.wasm");
        let why = fail(one, &["push", text.to_str().context("text")?, "--name", "probe"]).await?;
        ensure!(why.contains("WebAssembly text"), "{why}");
        ensure!(fail(one, &["activate", "nobody"]).await?.contains("no plugin `nobody`"), "it is named");
        let wrong = command(one, &["list", "--key", "wrong"]).output().await?;
        ensure!(String::from_utf8_lossy(&wrong.stderr).contains("refused the key"), "the key is named");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_push_waits_for_nodes_and_not_for_ever() {
    proven(async {
        let mut cluster = Cluster::start(&config(), &[]).await?;
        // A node that lives, as far as anybody knows, and does nothing.
        let far_ms = cluster.backend.push("demo", "room:1", "now").await?.ms + 3_600_000;
        let record = json!({ "record": "{}", "seen_ms": far_ms }).to_string();
        cluster.backend.run(&["HSET", "tg:sys:nodes", "mute", &record].map(str::as_bytes)).await?;
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("probe.wasm");
        std::fs::write(&file, PROBE)?;
        let file = file.to_str().context("a path that is text")?;
        let push = ["push", file, "--name", "probe", "--timeout-s", "0"];
        let late = eventually("nothing but the mute node is waited for", || async {
            let why = fail(&cluster.nodes[0], &push).await.ok()?;
            why.contains("not ready on mute after").then_some(why)
        });
        ensure!(late.await?.contains("tidegate plugin list"), "it says where to look");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn the_log_is_followed() {
    proven(async {
        let (node, _backend) = embedded(config()).await?;
        let mut follower = command(&node, &["logs", "-f"]).stdout(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(follower.stdout.take().context("it is piped")?).lines();
        let version = push(&node, "one").await?;
        activate(&node, &version).await?;
        let line = tokio::time::timeout(tidegate_support::DEADLINE, lines.next_line()).await??;
        let line = line.context("a line")?;
        ensure!(line.contains("info probe: ") && line.contains(&version), "{line}");
        act(&node, "deactivate", &json!({})).await?;
        let line = tokio::time::timeout(tidegate_support::DEADLINE, lines.next_line()).await??;
        ensure!(line.context("a line")?.contains("nothing is active"), "it goes on");
        let once = run(&node, &["logs", "--json"]).await?;
        ensure!(once.lines().count() == 2, "{once}");
        // The node ends though somebody waits for its lines.
        let mut node = node;
        ensure!(node.sigterm().await?.success(), "it ends");
        Ok(())
    })
    .await;
}
