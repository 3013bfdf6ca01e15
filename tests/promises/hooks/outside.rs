//! `authenticate` that asks a server: who clients are is known elsewhere.

use anyhow::{Context as _, Result, bail, ensure};
use tidegate_support::client::{Client, Refusal};
use tidegate_support::eventually;
use tidegate_support::node::Node;
use tidegate_support::plugins::{push, put_on};
use tidegate_support::proven;
use tidegate_support::server::Server;

use super::{ASKS, config, known, patient};
use crate::harness::{client, embedded};

/// The close of a client that was not let in.
async fn refused(node: &Node, token: &str) -> Result<u16> {
    match Client::try_connect(&node.ws("demo"), &known(token)).await? {
        Err(Refusal::Closed(code, ..)) => Ok(code),
        other => bail!("it was not refused: {:?}", other.map(|client| client.connected.0)),
    }
}

/// Requests of the tenant's plugins that came to this.
async fn requests(node: &Node, outcome: &str) -> Result<u64> {
    let text = node.admin_get("/metrics").await?.text();
    let of = format!("tidegate_plugin_http_requests_total{{tenant=\"demo\",outcome=\"{outcome}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&of)).with_context(|| format!("no {of}"))?;
    Ok(value.parse()?)
}

#[tokio::test]
async fn a_server_says_who_clients_are() {
    proven(async {
        let server = Server::start().await?;
        let tenant = patient().plugins(&format!("http_hosts = [\"{}\"]", server.authority));
        let (node, _) = embedded(config(tenant).admin()).await?;
        put_on(&node, "door", ASKS, &[("url", &server.url("/who"))]).await?;
        let ada = client(&node, &known("ada").listen("room:1")).await?;
        ensure!(ada.user() == "ada", "{:?}", ada.connected);
        ensure!(refused(&node, "eve").await? == 4002, "the server does not know her");
        let heads: Vec<_> = server.seen().into_iter().map(|seen| seen.head).collect();
        ensure!(heads.len() == 2 && heads[0].starts_with("POST /who "), "{heads:?}");
        eventually("two requests that are counted", || async {
            (requests(&node, "answered").await.ok()? == 2).then_some(())
        })
        .await?;
        // Whom the server cannot tell may come again.
        put_on(&node, "door", ASKS, &[("url", &server.url("/broken"))]).await?;
        ensure!(refused(&node, "ada").await? == 4106, "not now");
        put_on(&node, "door", ASKS, &[("url", "http://127.0.0.1:9/")]).await?;
        ensure!(
            refused(&node, "ada").await? == 4106 && requests(&node, "denied").await? == 1,
            "another port"
        );
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_tenant_without_hosts_cannot_have_a_plugin_that_asks() {
    proven(async {
        let (node, _) = embedded(config(patient())).await?;
        let why = push(&node, "door", ASKS, &[]).await.err().context("it was taken")?.to_string();
        ensure!(why.contains("http_hosts"), "{why}");
        Ok(())
    })
    .await;
}
