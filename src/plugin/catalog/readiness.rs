//! What each node says of the versions that it is to have ready.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::CatalogError;
use crate::domain::{NodeId, PluginName};
use crate::plugin::prepare::ContentHash;

/// Where a node stands with a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Readiness {
    /// It fetches, compiles and tries it.
    Preparing {
        /// Since when, by the backbone's clock.
        since_ms: u64,
    },
    /// It can be switched on.
    Ready,
    /// It cannot.
    Failed {
        /// In plain words.
        why: Box<str>,
    },
}

/// What one node says of a tenant's plugins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// When it said so, by the backbone's clock.
    pub at_ms: u64,
    /// Of each version.
    pub versions: BTreeMap<ContentHash, Readiness>,
}

/// What all nodes say, those included that are long gone.
pub type Reports = BTreeMap<NodeId, Report>;

/// Whether all nodes that live have a version ready. A node that says nothing of it has not seen it yet.
///
/// # Errors
/// Names the first node that has not, one that failed before one that is still at it.
pub fn check(
    reports: &Reports,
    live: &[NodeId],
    plugin: &PluginName,
    version: ContentHash,
) -> Result<(), CatalogError> {
    let mut preparing = None;
    for node in live {
        match reports.get(node).and_then(|report| report.versions.get(&version)) {
            Some(Readiness::Ready) => {}
            Some(Readiness::Failed { why }) => {
                let (plugin, node, why) = (plugin.clone(), node.clone(), why.clone());
                return Err(CatalogError::Failed { plugin, version, node, why });
            }
            Some(Readiness::Preparing { .. }) | None => preparing = preparing.or(Some(node)),
        }
    }
    preparing.map_or(Ok(()), |node| {
        Err(CatalogError::Preparing { plugin: plugin.clone(), version, node: node.clone() })
    })
}
