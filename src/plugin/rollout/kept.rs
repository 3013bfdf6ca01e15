//! What a node keeps of one tenant: its catalog, and each version that it is to have ready.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::Served;
use crate::backbone::backoff::Backoff;
use crate::domain::PluginName;
use crate::plugin::catalog::readiness::{Readiness, Report};
use crate::plugin::catalog::{Catalog, SlotPlan, Version};
use crate::plugin::host::Plugin;
use crate::plugin::prepare::ContentHash;
use crate::plugin::tables::{Canary, Slot, Stage, Table};

/// One tenant.
pub(super) struct Kept {
    pub(super) served: Served,
    /// The catalog as it was read.
    pub(super) raw: Option<Bytes>,
    pub(super) catalog: Catalog,
    pub(super) versions: BTreeMap<(PluginName, ContentHash), Held>,
    /// When this node last said what it has ready, and whether it has to say it anew.
    pub(super) reported: Option<Instant>,
    pub(super) is_news: bool,
}

/// One version.
pub(super) struct Held {
    pub(super) version: Version,
    pub(super) readiness: Readiness,
    /// What is called: what fails, until it is ready.
    pub(super) plugin: Arc<Plugin>,
    /// What prepares it.
    pub(super) task: Option<AbortHandle>,
    pub(super) began: Instant,
    /// When to try once more, and how long to wait after that.
    pub(super) again: Option<Instant>,
    pub(super) backoff: Backoff,
}

impl Kept {
    pub(super) fn new(served: Served) -> Self {
        let (raw, catalog, versions) = Default::default();
        Self { served, raw, catalog, versions, reported: None, is_news: false }
    }

    /// Its stages with the plugins that are called.
    pub(super) fn table(&self) -> Table {
        let plugin = |name: &PluginName, version| {
            // A catalog that was understood has every version that is on, and each of those is held.
            self.versions.get(&(name.clone(), version)).map(|held| Arc::clone(&held.plugin))
        };
        let stages = self.catalog.stages().iter().map(|stage| {
            let slots = stage.slots.iter().map(|slot| Slot {
                active: slot.on.active.and_then(|version| plugin(&slot.plugin, version)),
                canary: slot.on.canary.and_then(|canary| {
                    let plugin = plugin(&slot.plugin, canary.version)?;
                    Some(Canary { plugin, percent: canary.percent })
                }),
            });
            Stage { from_ms: stage.from_ms, slots: slots.collect() }
        });
        Table::new(stages.collect())
    }

    /// What this node says of it.
    pub(super) fn report(&self, at_ms: u64) -> Report {
        let said = self.versions.values().map(|held| (held.version.version, held.readiness.clone()));
        let mut versions = BTreeMap::new();
        for (version, readiness) in said {
            // Two plugins of one version: the one that is behind counts.
            let known = versions.entry(version).or_insert(Readiness::Ready);
            if readiness != Readiness::Ready {
                *known = readiness;
            }
        }
        Report { at_ms, versions }
    }

    /// Versions that entries or clients meet, and how many of them are neither ready nor known not to work.
    pub(super) fn awaited(&self) -> (usize, usize) {
        let slots = self.catalog.stages().iter().flat_map(|stage| &stage.slots);
        let on: BTreeSet<_> =
            slots.flat_map(|slot| slot.on.versions().map(|version| (slot.plugin.clone(), version))).collect();
        let is_open = |key: &(PluginName, ContentHash)| {
            let held = self.versions.get(key);
            held.is_some_and(|held| matches!(held.readiness, Readiness::Preparing { .. }))
        };
        (on.len(), on.iter().filter(|key| is_open(key)).count())
    }

    /// Versions that a stage switches on which `before` had not: perhaps after they had been switched off.
    pub(super) fn newly_on(&self, before: &Catalog) -> Vec<(PluginName, ContentHash)> {
        let known_ms = before.stages().last().map_or(0, |stage| stage.from_ms);
        let mut newly = Vec::new();
        let mut was: &[SlotPlan] = &[];
        for stage in self.catalog.stages() {
            let slots = stage.slots.iter().filter(|_| stage.from_ms > known_ms);
            for SlotPlan { plugin, on } in slots {
                let mut old = was.iter().filter(|slot| slot.plugin == *plugin).map(|slot| slot.on);
                let old = old.next().unwrap_or_default();
                let new = on.versions().filter(|version| old.versions().all(|old| old != *version));
                newly.extend(new.map(|version| (plugin.clone(), version)));
            }
            was = &stage.slots;
        }
        newly
    }
}
