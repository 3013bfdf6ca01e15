//! What the promises share: a node, or two on one Redis, and clients of the tenant `demo`, over one transport
//! or over each.

use anyhow::{Context as _, Result};
use futures_util::future::try_join_all;
use tidegate_support::client::{Client, Event, Frame, Message, Options, Wire};
use tidegate_support::config::{NodeConfig, token};
use tidegate_support::node::Node;
use tidegate_support::offset::Offset;
use tidegate_support::proven;
use tidegate_support::redis::RedisServer;
use tidegate_support::redis_faults::Backend;

/// The binary under test.
pub const TIDEGATE: &str = env!("CARGO_BIN_EXE_tidegate");

tokio::task_local! {
    /// What [`user`] connects over.
    static WIRE: Wire;
}

/// The transports that promises are proven over.
pub const WIRES: [Wire; 6] = Wire::ALL;

/// Proves a promise over each of these transports: [`user`] connects over the one whose turn it is. All run at
/// once, each with nodes of its own; the failure names the transport.
///
/// # Panics
/// If the body fails over one of them.
pub async fn proven_over<Fut>(wires: &[Wire], body: impl Fn() -> Fut)
where
    Fut: Future<Output = Result<()>>,
{
    let over = |wire: &Wire| {
        let wire = *wire;
        let proof = WIRE.scope(wire, body());
        async move { proof.await.with_context(|| format!("over {wire}")) }
    };
    proven(async { try_join_all(wires.iter().map(over)).await.map(drop) }).await;
}

/// What this proof connects over.
pub fn wire() -> Wire {
    WIRE.try_get().unwrap_or_default()
}

/// A node with the embedded backbone, and a backend at its RESP listener.
pub async fn embedded(config: NodeConfig) -> Result<(Node, Backend)> {
    let node = Node::start(TIDEGATE, &config).await?;
    let backend = Backend::connect(&node.redis_url()?).await?;
    Ok((node, backend))
}

/// Two nodes on a Redis of their own.
pub struct Cluster {
    /// The nodes; dropped before their Redis.
    pub nodes: Vec<Node>,
    /// A backend's connection.
    pub backend: Backend,
    /// The Redis.
    pub redis: RedisServer,
}

impl Cluster {
    /// Starts both. The fault tests give settings to Redis.
    pub async fn start(config: &NodeConfig, redis_settings: &[&str]) -> Result<Self> {
        let redis = RedisServer::start(redis_settings).await?;
        let config = config.clone().redis(&redis.url());
        let mut nodes = Vec::new();
        for id in ["one", "two"] {
            let config = config.clone().node("id", &format!("\"{id}\""));
            nodes.push(Node::start(TIDEGATE, &config).await?);
        }
        let backend = Backend::connect(&redis.url()).await?;
        Ok(Self { nodes, backend, redis })
    }

    /// The WebSocket URLs of the tenant `demo`.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.ws("demo")).collect()
    }
}

/// Options of `user` of a test tenant, over this proof's transport.
pub fn user(name: &str) -> Options {
    Options::token(token(name)).over(wire())
}

/// A client of `user` on a node.
pub async fn client(node: &Node, options: &Options) -> Result<Client> {
    Client::connect(&node.ws("demo"), options).await
}

/// A client that is subscribed to `channel`, where it starts now.
pub async fn subscriber(node: &Node, name: &str, channel: &str, ack: bool) -> Result<Client> {
    let options = if ack { user(name).ack(channel) } else { user(name).listen(channel) };
    let mut client = client(node, &options).await?;
    client.subscribed(channel).await?;
    Ok(client)
}

/// The next so many messages.
pub async fn messages(client: &mut Client, count: usize) -> Result<Vec<Message>> {
    let mut got = Vec::with_capacity(count);
    for n in 0..count {
        got.push(client.message().await.with_context(|| format!("message {} of {count}", n + 1))?);
    }
    Ok(got)
}

/// Offsets of messages.
pub fn offsets(messages: &[Message]) -> Vec<Offset> {
    messages.iter().map(|message| message.offset).collect()
}

/// Texts `m0`, `m1`, …
pub fn texts(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("m{n}")).collect()
}

/// Asserts that nothing came before the answer to a `ping`: whatever the node had to say it has said.
pub async fn silent(client: &mut Client) -> Result<()> {
    client.send_frame(&serde_json::json!({"type": "ping"})).await?;
    loop {
        match client.next().await? {
            Event::Frame(frame) if frame.kind() == "pong" => return Ok(()),
            Event::Frame(frame) if ["position", "subscribed"].contains(&frame.kind()) => {}
            other => anyhow::bail!("silence was expected, and {other:?} came"),
        }
    }
}

/// The next frame of one of these kinds; others are dropped.
pub async fn one_of(client: &mut Client, kinds: &[&str]) -> Result<Frame> {
    loop {
        match client.next().await.with_context(|| format!("while waiting for one of {kinds:?}"))? {
            Event::Frame(frame) if kinds.contains(&frame.kind()) => return Ok(frame),
            Event::Frame(_) => {}
            ended => anyhow::bail!("{ended:?} while waiting for one of {kinds:?}"),
        }
    }
}
