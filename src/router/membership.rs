//! Who lives: this node's record, renewed under a lease, and the set of all nodes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::rendezvous::{self, AffinityKey};
use crate::backbone::{Backbone, BackboneError};
use crate::domain::{NodeId, TenantId};

/// Time between heartbeats.
pub const PERIOD: Duration = Duration::from_secs(2);

/// A node that was not heard of for so long, by the backbone's clock, is taken for gone. It is five
/// periods: a node survives a failover of the backbone of some seconds.
pub const LEASE: Duration = Duration::from_secs(10);

/// How long one command may take. A heartbeat without an answer by then counts as failed.
const PATIENCE: Duration = Duration::from_secs(4);

/// What a node says of itself, as JSON in the backbone. Fields of later versions are passed over, and
/// missing ones have defaults, so that old and new nodes agree on who lives during an upgrade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Version of the record. It grows when a field changes its meaning, not when one is added.
    #[serde(default = "NodeRecord::version")]
    pub v: u32,
    /// Where clients reach this node and no other, where there is such an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The node's share of clients, against the other nodes' weights. 0 takes none.
    #[serde(default = "NodeRecord::usual_weight")]
    pub weight: u32,
    /// The node is going away and takes no new clients.
    #[serde(default)]
    pub draining: bool,
    /// The tenants of its configuration. A node that does not say may serve any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenants: Option<BTreeSet<TenantId>>,
}

impl NodeRecord {
    /// The record of a node of usual weight that takes clients, of whichever tenants.
    pub fn new(url: Option<String>) -> Self {
        Self { v: Self::version(), url, weight: Self::usual_weight(), draining: false, tenants: None }
    }

    /// Whether the node serves a tenant, as far as is known.
    pub fn may_serve(&self, tenant: &TenantId) -> bool {
        self.tenants.as_ref().is_none_or(|tenants| tenants.contains(tenant))
    }

    fn version() -> u32 {
        1
    }

    fn usual_weight() -> u32 {
        100
    }
}

/// A node that lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub id: NodeId,
    /// Where clients reach it alone.
    pub url: Option<String>,
    /// Its share of clients; 0 takes none.
    pub weight: u32,
    /// Whether it is going away.
    pub draining: bool,
}

impl Member {
    fn new(id: NodeId, record: NodeRecord) -> Self {
        Self { id, url: record.url, weight: record.weight, draining: record.draining }
    }
}

/// The nodes that live, by name. Two nodes that know the same set agree on every home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    nodes: Vec<Member>,
}

impl Members {
    /// These nodes, in any order, each once.
    pub fn new(mut nodes: Vec<Member>) -> Self {
        nodes.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        Self { nodes }
    }

    /// All nodes, sorted by name, draining ones included.
    pub fn nodes(&self) -> &[Member] {
        &self.nodes
    }

    /// A node, if it lives.
    pub fn get(&self, id: &NodeId) -> Option<&Member> {
        let found = self.nodes.binary_search_by(|member| member.id.cmp(id)).ok()?;
        Some(&self.nodes[found])
    }

    /// Where a key belongs; `None` while every node drains.
    pub fn home(&self, key: AffinityKey) -> Option<&NodeId> {
        rendezvous::home(key, self.candidates())
    }

    /// Where a key belongs, and then where next.
    pub fn ranked(&self, key: AffinityKey) -> Vec<&NodeId> {
        rendezvous::ranked(key, self.candidates())
    }

    fn candidates(&self) -> impl Iterator<Item = (&NodeId, u32)> {
        self.nodes.iter().filter(|member| !member.draining).map(|member| (&member.id, member.weight))
    }
}

/// Starts the task that keeps this node among the members and learns of the others.
///
/// The record is sent every [`PERIOD`] and at once when it changes, so that a drain is known early.
/// The set starts with this node alone, changes when the backbone names another one, and stays as it
/// is while the backbone is away. At `stop` the node takes its record away, if the backbone answers in
/// time, and the task ends; the caller owns and joins it. It must be called within a Tokio runtime.
pub fn start(
    backbone: Arc<dyn Backbone>,
    node: NodeId,
    record: watch::Receiver<NodeRecord>,
    stop: CancellationToken,
) -> (watch::Receiver<Arc<Members>>, JoinHandle<()>) {
    let alone = Members::new(vec![Member::new(node.clone(), record.borrow().clone())]);
    let (members, seen) = watch::channel(Arc::new(alone));
    let keeper = Keeper { backbone, node, record, members, answering: true, unreadable: BTreeSet::new() };
    (seen, tokio::spawn(keeper.run(stop)))
}

/// Asks the backbone itself who lives, this node included, which is thereby known to the others. What
/// [`start`] tells may be a period behind, and nodes whose records are not understood are not in it; here they
/// are, with a record that says nothing.
pub async fn ask(
    backbone: &dyn Backbone,
    node: &NodeId,
    record: &NodeRecord,
) -> Result<Vec<(NodeId, NodeRecord)>, BackboneError> {
    let records = backbone.heartbeat(node, &json(record), LEASE).await?;
    let read = |json: String| serde_json::from_str(&json).unwrap_or_else(|_| NodeRecord::new(None));
    Ok(records.into_iter().map(|(node, json)| (node, read(json))).collect())
}

fn json(record: &NodeRecord) -> String {
    serde_json::to_string(record).expect("a record of text and numbers is valid JSON")
}

/// The state of the membership task.
struct Keeper {
    backbone: Arc<dyn Backbone>,
    node: NodeId,
    record: watch::Receiver<NodeRecord>,
    members: watch::Sender<Arc<Members>>,
    /// Whether the last heartbeat was answered, so that a change is logged once.
    answering: bool,
    /// Nodes whose records could not be read last time: each is logged once.
    unreadable: BTreeSet<NodeId>,
}

impl Keeper {
    async fn run(mut self, stop: CancellationToken) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => {}
                // When whoever could change the record is gone, only the ticks are left.
                Ok(()) = self.record.changed() => {}
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.beat() => {}
            }
        }
        match timeout(PATIENCE, self.backbone.forget_node(&self.node)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "this node's record stays until its lease ends"),
            Err(_) => tracing::warn!("this node's record stays until its lease ends: no answer in time"),
        }
    }

    /// One heartbeat. Dropped before it resolves, it may or may not have renewed the lease.
    async fn beat(&mut self) {
        let record = self.record.borrow_and_update().clone();
        let json = json(&record);
        let beat = self.backbone.heartbeat(&self.node, &json, LEASE);
        let answer = timeout(PATIENCE, beat)
            .await
            .unwrap_or_else(|_| Err(BackboneError::Away("no answer to the heartbeat in time".into())));
        match answer {
            Ok(records) => {
                if !self.answering {
                    tracing::info!("the backbone answers heartbeats again");
                }
                self.answering = true;
                self.learn(record, &records);
            }
            Err(error) => {
                if self.answering {
                    tracing::warn!(%error, "no heartbeat; the nodes last known stay");
                }
                self.answering = false;
            }
        }
    }

    /// Takes the records that the backbone gave back for the set of those who live.
    fn learn(&mut self, own: NodeRecord, records: &[(NodeId, String)]) {
        // This node knows best what it said, whatever the backbone gave back.
        let mut nodes = vec![Member::new(self.node.clone(), own)];
        let mut unreadable = BTreeSet::new();
        for (id, json) in records.iter().filter(|(id, _)| *id != self.node) {
            match serde_json::from_str(json) {
                Ok(record) => nodes.push(Member::new(id.clone(), record)),
                // Such a node is not known well enough to send clients there.
                Err(error) => {
                    if !self.unreadable.contains(id) {
                        tracing::warn!(node = %id, %error, "a node's record cannot be read; it is left out");
                    }
                    unreadable.insert(id.clone());
                }
            }
        }
        self.unreadable = unreadable;
        let now = Members::new(nodes);
        self.members.send_if_modified(|known| {
            let changed = **known != now;
            if changed {
                *known = Arc::new(now);
            }
            changed
        });
    }
}

#[cfg(test)]
mod tests;
