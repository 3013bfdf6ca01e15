//! What nodes say of the versions that they are to have ready: a field each in the tenant's hash.

use super::code::state_store;
use super::{PluginStore, StoreError, unexpected};
use crate::backbone::BackboneError;
use crate::backbone::kv::{KvAnswer, KvOp};
use crate::domain::{NodeId, TenantId};
use crate::plugin::catalog::readiness::{Report, Reports};

/// What the names of reports begin with.
const PREFIX: &str = "node:";
/// A report that was not renewed for so long is of a node that is gone, and is removed.
const FORGOTTEN_MS: u64 = 10 * 60 * 1_000;

impl PluginStore {
    /// Says what this node has ready.
    pub async fn report(
        &self,
        tenant: &TenantId,
        node: &NodeId,
        report: &Report,
    ) -> Result<(), BackboneError> {
        let text = serde_json::to_vec(report).expect("a report has nothing but string keys");
        let op = KvOp::Set(field(node), text.into());
        match self.backbone.kv(&state_store(tenant), op).await? {
            KvAnswer::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// What all nodes say. Those that cannot be read say nothing.
    pub async fn reports(&self, tenant: &TenantId) -> Result<Reports, StoreError> {
        let store = state_store(tenant);
        let now_ms = self.backbone.clock().now_ms();
        let mut reports = Reports::new();
        for name in self.fields(&store).await? {
            let node = name.strip_prefix(PREFIX).and_then(|node| NodeId::parse(node).ok());
            let Some(node) = node else { continue };
            let KvAnswer::Value(Some(text)) = self.backbone.kv(&store, KvOp::Get(field(&node))).await? else {
                continue;
            };
            let Ok(report) = serde_json::from_slice::<Report>(&text) else { continue };
            if report.at_ms + FORGOTTEN_MS < now_ms {
                self.backbone.kv(&store, KvOp::Delete(field(&node))).await?;
            } else {
                reports.insert(node, report);
            }
        }
        Ok(reports)
    }
}

fn field(node: &NodeId) -> Box<str> {
    format!("{PREFIX}{node}").into()
}
