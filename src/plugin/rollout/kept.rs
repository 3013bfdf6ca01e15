//! What a node keeps of one tenant: its catalog, and each version that it is to have ready.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::Served;
use crate::backbone::backoff::Backoff;
use crate::domain::PluginName;
use crate::plugin::catalog::readiness::{Readiness, Report};
use crate::plugin::catalog::{Catalog, SlotPlan, StagePlan, Version};
use crate::plugin::host::Plugin;
use crate::plugin::prepare::ContentHash;
use crate::plugin::tables::{Canary, Slot, Stage, Table};

/// How long a node that starts waits for a version that failed and may work after a while.
const HOLDS: Duration = Duration::from_secs(60);

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
    pub(super) need: Need,
    /// How often it had been cut off when somebody last saw to it.
    pub(super) cut_offs: u32,
    /// What prepares it.
    pub(super) task: Option<AbortHandle>,
    pub(super) began: Instant,
    /// When it is to be prepared; `None`: it is being prepared, is ready, or does not work here.
    pub(super) due: Option<Instant>,
    /// Since when it has failed for reasons that may pass by themselves.
    pub(super) failing: Option<Instant>,
    /// How long to wait after a failure, and while the backbone is away.
    pub(super) backoff: Backoff,
    pub(super) pause: Backoff,
}

/// What a version is needed for, the most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Need {
    /// New entries and clients meet it, or will in a moment.
    On,
    /// Entries meet it that are older than the newest stage.
    Past,
    /// Somebody may switch it on.
    Staged,
}

impl Held {
    /// Whether a node that starts need not wait for it: it is ready, or known not to work here.
    pub(super) fn is_settled(&self, now: Instant) -> bool {
        match self.readiness {
            Readiness::Preparing { .. } => false,
            Readiness::Ready => true,
            Readiness::Failed { .. } => self.failing.is_none_or(|since| now >= since + HOLDS),
        }
    }
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

    /// Versions that entries or clients meet, and how many of them a node that starts waits for.
    pub(super) fn awaited(&self, now: Instant) -> (usize, usize) {
        let met = self.versions.values().filter(|held| held.need != Need::Staged);
        (met.clone().count(), met.filter(|held| !held.is_settled(now)).count())
    }

    /// What a version is needed for.
    pub(super) fn need(&self, name: &PluginName, version: ContentHash) -> Need {
        let names = |stage: &StagePlan| {
            let mut slots = stage.slots.iter().filter(|slot| slot.plugin == *name);
            slots.any(|slot| slot.on.versions().any(|on| on == version))
        };
        match self.catalog.stages().iter().rev().position(names) {
            Some(0) => Need::On,
            Some(_) => Need::Past,
            None => Need::Staged,
        }
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
