//! Which version of which plugin a tenant's entries and clients meet.
//!
//! A tenant's [`Table`] is a list of stages, each from a moment of the backbone's clock on. An entry's offset
//! is such a moment, so it meets the same version on every node and whenever it is delivered again.
//!
//! *Invariants*: a stage is in the tables of a node before its moment comes, or [`Tables::known_until_ms`] does
//! not reach that moment. Who asks for an entry beyond it waits.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;
use xxhash_rust::xxh3::xxh3_64;

use super::{Hook, Plugin, Scope};
use crate::domain::{Offset, TenantId};

/// One plugin of a tenant, as far as it is on.
#[derive(Clone)]
pub struct Slot {
    /// The version for all that the candidate does not get; `None`: those meet no plugin here.
    pub active: Option<Arc<Plugin>>,
    /// A version that is tried with a part of everything.
    pub canary: Option<Canary>,
}

/// A version that gets a part of entries and clients.
#[derive(Clone)]
pub struct Canary {
    /// The version.
    pub plugin: Arc<Plugin>,
    /// Its part, in hundredths.
    pub percent: u8,
}

/// What is on from a moment until the next stage begins.
#[derive(Clone)]
pub struct Stage {
    /// When it begins, in milliseconds since 1970 by the backbone's clock.
    pub from_ms: u64,
    /// The plugins; no two have a hook in common.
    pub slots: Vec<Slot>,
}

/// A tenant's stages. What came before the first one meets no plugin.
#[derive(Clone, Default)]
pub struct Table {
    stages: Vec<Stage>,
}

impl Table {
    /// A table of stages in any order.
    pub fn new(mut stages: Vec<Stage>) -> Self {
        stages.sort_by_key(|stage| stage.from_ms);
        Self { stages }
    }

    /// The plugin whose hook an entry meets.
    pub fn for_entry(&self, hook: Hook, offset: Offset) -> Option<&Arc<Plugin>> {
        self.find(offset.ms, || part_of(offset)).find(|plugin| plugin.hooks().has(hook))
    }

    /// The plugin that an entry meets on its way out, and how often that is to be asked.
    pub fn for_delivery(&self, offset: Offset) -> Option<(&Arc<Plugin>, Scope)> {
        self.find(offset.ms, || part_of(offset)).find_map(|plugin| Some((plugin, plugin.hooks().scope()?)))
    }

    /// The plugin whose hook a client meets now. `who` is what tells it from other clients and stays the same:
    /// a session's id, a token.
    pub fn for_client(&self, hook: Hook, now_ms: u64, who: &[u8]) -> Option<&Arc<Plugin>> {
        self.find(now_ms, || percent(xxh3_64(who))).find(|plugin| plugin.hooks().has(hook))
    }

    /// For whom views of channels are to be told apart, so that every stage finds what it needs.
    pub fn finest_scope(&self) -> Option<Scope> {
        self.plugins().filter_map(|plugin| plugin.hooks().scope()).max()
    }

    /// All plugins in it. One that is in several stages comes several times.
    pub fn plugins(&self) -> impl Iterator<Item = &Arc<Plugin>> {
        let slots = self.stages.iter().flat_map(|stage| &stage.slots);
        slots.flat_map(|slot| slot.active.iter().chain(slot.canary.as_ref().map(|canary| &canary.plugin)))
    }

    fn find(&self, at_ms: u64, part: impl Fn() -> u8) -> impl Iterator<Item = &Arc<Plugin>> {
        let stage = self.stages.partition_point(|stage| stage.from_ms <= at_ms).checked_sub(1);
        let slots = stage.map_or(&[][..], |stage| &self.stages[stage].slots);
        slots.iter().filter_map(move |slot| match &slot.canary {
            Some(canary) if part() < canary.percent => Some(&canary.plugin),
            _ => slot.active.as_ref(),
        })
    }
}

/// Where an entry stands among a hundred.
fn part_of(offset: Offset) -> u8 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&offset.ms.to_be_bytes());
    bytes[8..].copy_from_slice(&offset.seq.to_be_bytes());
    percent(xxh3_64(&bytes))
}

fn percent(hash: u64) -> u8 {
    (hash % 100) as u8
}

/// The tables of all tenants on this node, for whoever calls hooks. One task changes them, and says up to
/// which moment they are complete.
#[derive(Clone)]
pub struct Tables {
    tables: watch::Receiver<Arc<HashMap<TenantId, Arc<Table>>>>,
    known_until_ms: watch::Receiver<u64>,
}

/// The other end of [`Tables`].
pub struct TablesKeeper {
    tables: watch::Sender<Arc<HashMap<TenantId, Arc<Table>>>>,
    known_until_ms: watch::Sender<u64>,
}

impl Tables {
    /// Empty tables that are known up to a moment, and who keeps them.
    pub fn new(known_until_ms: u64) -> (TablesKeeper, Self) {
        let (tables, seen) = watch::channel(Arc::default());
        let (known, seen_known) = watch::channel(known_until_ms);
        let keeper = TablesKeeper { tables, known_until_ms: known };
        (keeper, Self { tables: seen, known_until_ms: seen_known })
    }

    /// Tables that stay empty, for ever.
    pub fn none() -> Self {
        Self::new(u64::MAX).1
    }

    /// The table of a tenant that has or had plugins.
    pub fn of(&self, tenant: &TenantId) -> Option<Arc<Table>> {
        self.tables.borrow().get(tenant).cloned()
    }

    /// Up to which moment of the backbone's clock all stages are known.
    pub fn known_until_ms(&self) -> u64 {
        *self.known_until_ms.borrow()
    }

    /// Waits until all stages up to a moment are known; at once, but for a backbone that does not answer. False
    /// where nobody keeps the tables any more: the node ends. Cancel-safe.
    pub async fn known(&self, at_ms: u64) -> bool {
        self.known_until_ms.clone().wait_for(|known| *known >= at_ms).await.is_ok()
    }

    /// Waits until a table has changed since this was last called, or made; false once the node ends. Cancel-safe.
    pub async fn changed(&mut self) -> bool {
        self.tables.changed().await.is_ok()
    }
}

impl TablesKeeper {
    /// Puts a tenant's table in place of the one it had.
    pub fn set(&self, tenant: TenantId, table: Table) {
        self.tables.send_modify(|tables| {
            Arc::make_mut(tables).insert(tenant, Arc::new(table));
        });
    }

    /// All stages up to this moment are in the tables. It does not go back.
    pub fn known_until(&self, at_ms: u64) {
        self.known_until_ms.send_if_modified(|known| {
            let later = at_ms > *known;
            *known = at_ms.max(*known);
            later
        });
    }
}
