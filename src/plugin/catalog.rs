//! What plugins a tenant has, and which of their versions are on from when: one value, changed as a whole.
//!
//! Nothing here knows a clock, a store or a node: a change makes a new catalog of an old one.
//!
//! *Invariants*: stages begin one after the other, and a new one begins [`LEAD_MS`] after its change was decided,
//! or later. No two plugins that are on have a hook in common. Every version that a stage names is there.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::hooks::Hooks;
use super::prepare::ContentHash;
use crate::domain::PluginName;

mod change;
mod error;
mod hook_names;
pub mod readiness;
#[cfg(test)]
mod tests;

pub use error::CatalogError;

/// The number of the catalog's layout. A node refuses one with a larger number.
const SCHEMA: u32 = 1;
/// How long after its change was decided a stage begins, in milliseconds of the backbone's clock.
pub const LEAD_MS: u64 = 750;
/// Stages that are kept however old they are. Entries that are older than all stages meet the oldest.
const STAGES: usize = 8;
/// How long others are kept once the next one has begun: as long as logs keep entries unless told otherwise.
const STAGE_KEPT_MS: u64 = 24 * 3_600 * 1_000;
/// Stages that there may be. Each may name a version that every node has ready.
const MOST_STAGES: usize = 32;
/// Versions of one plugin that are kept, beside those that are named somewhere.
const VERSIONS: usize = 10;
/// Changes of one plugin that can be rolled back, one after the other.
const BEFORE: usize = 8;
/// Plugins of one tenant.
const PLUGINS: usize = 64;
/// Bytes of a catalog as it is stored: one value of the backbone.
const BYTES: usize = 768 * 1024;
/// Fewest digits by which a version is named.
const PREFIX: usize = 4;

/// A tenant's plugins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalog {
    schema: u32,
    plugins: BTreeMap<PluginName, Entry>,
    /// Each from a moment on until the next one begins; in their order.
    stages: Vec<StagePlan>,
}

/// One plugin.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its versions, in the order of their upload.
    pub versions: Vec<Version>,
    /// The version that was uploaded or asked for last. Nodes prepare it, so that it can be switched on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<ContentHash>,
    /// What was on before each change that can be rolled back; the latest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    before: Vec<On>,
}

/// A version of a plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// By what it is known: the hash of its bytes, and of its settings where it has any.
    pub version: ContentHash,
    /// The hash of its bytes.
    pub content: ContentHash,
    /// How many there are.
    pub bytes: u64,
    /// The hooks it has.
    #[serde(with = "hook_names")]
    pub hooks: Hooks,
    /// When it was uploaded, by the backbone's clock.
    pub uploaded_ms: u64,
    /// What it reads by `wasi:config`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
}

/// What of a plugin is on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct On {
    /// The version for all that the candidate does not get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<ContentHash>,
    /// A version that gets a part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryPlan>,
}

/// A version that gets a part of entries and clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryPlan {
    /// Which.
    pub version: ContentHash,
    /// Its part, in hundredths: 1 to 99.
    pub percent: u8,
}

/// What is on from a moment on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagePlan {
    /// When, by the backbone's clock.
    pub from_ms: u64,
    /// The plugins of which something is on.
    pub slots: Vec<SlotPlan>,
}

/// What of one plugin is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotPlan {
    /// The plugin.
    pub plugin: PluginName,
    /// What.
    #[serde(flatten)]
    pub on: On,
}

impl Version {
    /// By what a component with settings is known.
    pub fn id(content: ContentHash, settings: &BTreeMap<String, String>) -> ContentHash {
        if settings.is_empty() {
            return content;
        }
        let settings = serde_json::to_vec(settings).expect("texts are JSON");
        ContentHash::of(&[content.as_bytes(), &settings[..]].concat())
    }
}

impl On {
    /// The versions in it.
    pub fn versions(&self) -> impl Iterator<Item = ContentHash> {
        self.active.into_iter().chain(self.canary.map(|canary| canary.version))
    }

    /// Whether nothing is on.
    pub fn is_off(&self) -> bool {
        self.active.is_none() && self.canary.is_none()
    }
}

impl Default for Catalog {
    fn default() -> Self {
        Self { schema: SCHEMA, plugins: BTreeMap::new(), stages: Vec::new() }
    }
}

impl Catalog {
    /// A catalog as it was stored.
    ///
    /// # Errors
    /// Where it was written by a later version of this program, or by none.
    pub fn parse(bytes: &[u8]) -> Result<Self, CatalogError> {
        #[derive(Deserialize)]
        struct Schema {
            schema: u32,
        }
        let damaged = |error: serde_json::Error| CatalogError::Damaged(error.to_string().into());
        let Schema { schema } = serde_json::from_slice(bytes).map_err(damaged)?;
        if schema > SCHEMA {
            return Err(CatalogError::Newer { schema });
        }
        let catalog: Self = serde_json::from_slice(bytes).map_err(damaged)?;
        // What a stage names and is not there would be a hook that nobody asks.
        let slots = || catalog.stages.iter().flat_map(|stage| &stage.slots);
        let missing = slots()
            .find(|slot| slot.on.versions().any(|version| catalog.version(&slot.plugin, version).is_none()));
        if let Some(slot) = missing {
            let what = format!("a version of `{}` is on that it does not have", slot.plugin);
            return Err(CatalogError::Damaged(what.into()));
        }
        if !catalog.stages.is_sorted_by(|a, b| a.from_ms < b.from_ms) {
            return Err(CatalogError::Damaged("stages are not in their order".into()));
        }
        Ok(catalog)
    }

    /// As it is stored.
    ///
    /// # Errors
    /// Where it has too much in it to be stored.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CatalogError> {
        let bytes = serde_json::to_vec(self).expect("a catalog has nothing but string keys");
        if bytes.len() > BYTES { Err(CatalogError::TooLarge) } else { Ok(bytes) }
    }

    /// The plugins by name.
    pub fn plugins(&self) -> &BTreeMap<PluginName, Entry> {
        &self.plugins
    }

    /// The stages, in their order.
    pub fn stages(&self) -> &[StagePlan] {
        &self.stages
    }

    /// What of a plugin is on in the newest stage.
    pub fn on(&self, name: &PluginName) -> On {
        let slots = self.stages.last().map_or(&[][..], |stage| &stage.slots);
        slots.iter().find(|slot| slot.plugin == *name).map(|slot| slot.on).unwrap_or_default()
    }

    /// A version of a plugin.
    pub fn version(&self, name: &PluginName, version: ContentHash) -> Option<&Version> {
        self.plugins.get(name)?.versions.iter().find(|known| known.version == version)
    }

    /// The version that somebody means: by the first digits of its hash, or the candidate.
    ///
    /// # Errors
    /// Where there is none, or more than one.
    pub fn find(&self, name: &PluginName, prefix: Option<&str>) -> Result<&Version, CatalogError> {
        let entry = self.plugins.get(name).ok_or_else(|| CatalogError::NoPlugin(name.clone()))?;
        let Some(prefix) = prefix else {
            let candidate = entry.candidate.and_then(|candidate| self.version(name, candidate));
            return candidate.ok_or_else(|| CatalogError::NoCandidate(name.clone()));
        };
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if prefix.len() < PREFIX || !prefix.bytes().all(digit) {
            return Err(CatalogError::Prefix);
        }
        let mut found = entry.versions.iter().filter(|known| known.version.to_string().starts_with(prefix));
        match (found.next(), found.next()) {
            (Some(version), None) => Ok(version),
            (None, _) => Err(CatalogError::NoVersion { plugin: name.clone(), prefix: prefix.into() }),
            _ => Err(CatalogError::Ambiguous { plugin: name.clone(), prefix: prefix.into() }),
        }
    }

    /// The versions that every node is to have ready: those that entries meet, those that a rollback brings
    /// back, and candidates.
    pub fn wanted(&self) -> Vec<(&PluginName, &Version)> {
        let mut wanted = BTreeSet::new();
        for slot in self.stages.iter().flat_map(|stage| &stage.slots) {
            wanted.extend(slot.on.versions().map(|version| (&slot.plugin, version)));
        }
        for (name, entry) in &self.plugins {
            let last = entry.before.last().copied().unwrap_or_default();
            let fallback = self.fallback(name).and_then(|at| entry.before[at].active);
            let versions = last.versions().chain(fallback).chain(entry.candidate);
            wanted.extend(versions.map(|version| (name, version)));
        }
        wanted.into_iter().filter_map(|(name, version)| Some((name, self.version(name, version)?))).collect()
    }

    /// The contents that are to be kept, with how many bytes they have.
    pub fn contents(&self) -> BTreeMap<ContentHash, u64> {
        let versions = self.plugins.values().flat_map(|entry| &entry.versions);
        versions.map(|version| (version.content, version.bytes)).collect()
    }

    /// Where among what was on before stands another version than the active one.
    fn fallback(&self, name: &PluginName) -> Option<usize> {
        let now = self.on(name).active;
        let before = &self.plugins.get(name)?.before;
        before.iter().rposition(|on| on.active.is_some() && on.active != now)
    }
}
