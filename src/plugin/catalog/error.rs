//! Why a catalog is not changed, or not understood.

use super::{LEAD_MS, MOST_STAGES, PLUGINS, PREFIX};
use crate::domain::{NodeId, PluginName};
use crate::plugin::prepare::ContentHash;

/// Why a catalog is not changed, or not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// No such plugin.
    #[error("there is no plugin `{0}`: push it first")]
    NoPlugin(PluginName),
    /// No version was said, and none is a candidate.
    #[error("say which version of `{0}` is meant: the one that was uploaded last is gone")]
    NoCandidate(PluginName),
    /// No such version.
    #[error("the plugin `{plugin}` has no version that begins with {prefix}")]
    NoVersion {
        /// Of which plugin.
        plugin: PluginName,
        /// What was looked for.
        prefix: Box<str>,
    },
    /// Several versions fit.
    #[error("the plugin `{plugin}` has several versions that begin with {prefix}: say more digits")]
    Ambiguous {
        /// Of which plugin.
        plugin: PluginName,
        /// What was looked for.
        prefix: Box<str>,
    },
    /// This names no version.
    #[error("a version is named by at least {PREFIX} of the first hexadecimal digits of its hash")]
    Prefix,
    /// Two plugins would have the same hook.
    #[error(
        "`{plugin}` and `{other}` would both have the hook {hook}, and only one plugin can: deactivate `{other}` \
         first, or put both into one component"
    )]
    SameHook {
        /// The one that was to be switched on.
        plugin: PluginName,
        /// The one that is on.
        other: PluginName,
        /// Which.
        hook: &'static str,
    },
    /// No part.
    #[error("a candidate gets 1 to 99 percent, not {0}; to give it everything, activate it")]
    Percent(u64),
    /// Nothing was changed.
    #[error("there is nothing to roll `{0}` back to: no change of it is remembered")]
    NothingBefore(PluginName),
    /// What was on before is gone.
    #[error("`{plugin}` cannot be rolled back: version {version} was removed since")]
    Gone {
        /// Of which plugin.
        plugin: PluginName,
        /// Which.
        version: ContentHash,
    },
    /// It is on.
    #[error("version {version} of `{plugin}` is on: activate another one or deactivate `{plugin}` first")]
    InUse {
        /// Of which plugin.
        plugin: PluginName,
        /// Which.
        version: ContentHash,
    },
    /// A stage begins in a moment.
    #[error("a change has been decided and takes effect within {LEAD_MS} ms: try again then")]
    Switching,
    /// Too many changes at once.
    #[error("there were {MOST_STAGES} changes within a moment: wait a second between changes")]
    TooFast,
    /// Too many plugins.
    #[error("a tenant can have {PLUGINS} plugins: remove one first")]
    TooMany,
    /// It would not fit into the backbone.
    #[error("there are too many plugins, versions and settings: remove versions that are not needed")]
    TooLarge,
    /// A node is not ready.
    #[error(
        "version {version} of `{plugin}` is being prepared on the node {node}: try again when it is ready"
    )]
    Preparing {
        /// Of which plugin.
        plugin: PluginName,
        /// Which.
        version: ContentHash,
        /// Where.
        node: NodeId,
    },
    /// A node could not prepare it.
    #[error("version {version} of `{plugin}` cannot be prepared on the node {node}: {why}")]
    Failed {
        /// Of which plugin.
        plugin: PluginName,
        /// Which.
        version: ContentHash,
        /// Where.
        node: NodeId,
        /// Why.
        why: Box<str>,
    },
    /// Written by a later version.
    #[error(
        "the plugins of this tenant were changed by a later version of tidegate (layout {schema}): bring this node \
         up to date"
    )]
    Newer {
        /// The number of its layout.
        schema: u32,
    },
    /// Written by something else.
    #[error("the list of the tenant's plugins in the backbone is damaged: {0}")]
    Damaged(Box<str>),
}

impl CatalogError {
    /// Whether the same change may be made a little later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Switching | Self::TooFast | Self::Preparing { .. })
    }

    /// Whether what was asked for is not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::NoPlugin(_) | Self::NoCandidate(_) | Self::NoVersion { .. })
    }
}
