//! Changes of a catalog: each makes a new one, or says why not. `now_ms` is the backbone's clock at the time of the
//! decision.

use std::collections::BTreeSet;

use super::{
    BEFORE, CanaryPlan, Catalog, CatalogError, LEAD_MS, MOST_STAGES, On, PLUGINS, STAGE_KEPT_MS, STAGES,
    SlotPlan, StagePlan, VERSIONS, Version,
};
use crate::domain::PluginName;
use crate::plugin::hooks::{Hook, Hooks};
use crate::plugin::prepare::ContentHash;

impl Catalog {
    /// Adds a version. What is there already stays as it is, and is what was uploaded last.
    pub fn push(&self, name: &PluginName, version: Version) -> Result<Self, CatalogError> {
        let mut next = self.clone();
        if !next.plugins.contains_key(name) && next.plugins.len() >= PLUGINS {
            return Err(CatalogError::TooMany);
        }
        let entry = next.plugins.entry(name.clone()).or_default();
        entry.candidate = Some(version.version);
        if entry.versions.iter().all(|known| known.version != version.version) {
            entry.versions.push(version);
        }
        next.prune_versions();
        next.to_bytes()?;
        Ok(next)
    }

    /// Forgets old stages, with the versions that only they name, as far as it takes for all components to have no
    /// more than so many bytes; those apart that are kept however old they are.
    pub fn within(mut self, stored_bytes: u64, now_ms: u64) -> Self {
        while self.contents().values().sum::<u64>() > stored_bytes && self.drop_stage(STAGES, now_ms) {
            self.prune_versions();
        }
        self
    }

    /// Has nodes prepare a version that they may have let go, so that it can be switched on.
    pub fn ask_for(&self, name: &PluginName, version: ContentHash) -> Result<Self, CatalogError> {
        self.known(name, version)?;
        let mut next = self.clone();
        if let Some(entry) = next.plugins.get_mut(name) {
            entry.candidate = Some(version);
        }
        Ok(next)
    }

    /// Whether every node is to have this version ready.
    pub fn is_wanted(&self, name: &PluginName, version: ContentHash) -> bool {
        self.wanted().iter().any(|(plugin, wanted)| *plugin == name && wanted.version == version)
    }

    /// Gives everything to a version.
    pub fn activate(
        &self,
        name: &PluginName,
        version: ContentHash,
        now_ms: u64,
    ) -> Result<Self, CatalogError> {
        self.known(name, version)?;
        self.change(name, On { active: Some(version), canary: None }, now_ms)
    }

    /// Gives a part to a version, and leaves the rest to the one that is active, if one is.
    pub fn canary(
        &self,
        name: &PluginName,
        version: ContentHash,
        percent: u64,
        now_ms: u64,
    ) -> Result<Self, CatalogError> {
        let part = u8::try_from(percent).ok().filter(|percent| (1..=99).contains(percent));
        let percent = part.ok_or(CatalogError::Percent(percent))?;
        self.known(name, version)?;
        let active = self.on(name).active;
        if active == Some(version) {
            return Err(CatalogError::InUse { plugin: name.clone(), version });
        }
        self.change(name, On { active, canary: Some(CanaryPlan { version, percent }) }, now_ms)
    }

    /// Switches a plugin off.
    pub fn deactivate(&self, name: &PluginName, now_ms: u64) -> Result<Self, CatalogError> {
        self.plugin(name)?;
        self.change(name, On::default(), now_ms)
    }

    /// Brings back what was on before the last change of a plugin. Done again it goes one change further
    /// back, so that it never brings back what it took away.
    pub fn roll_back(&self, name: &PluginName, now_ms: u64) -> Result<Self, CatalogError> {
        let at = self.plugin(name)?.before.len().checked_sub(1);
        self.go_back(name, at.ok_or_else(|| CatalogError::NothingBefore(name.clone()))?, now_ms)
    }

    /// Takes a version off that keeps failing, if it is on: a candidate loses its part, and in place of an active
    /// version the one comes back that was active before it. `None`: it is not on, or there is none before it.
    ///
    /// # Errors
    /// Where there is one that cannot come back: another plugin has its hook by now, or it was too many changes at
    /// once.
    pub fn give_up(
        &self,
        name: &PluginName,
        failed: ContentHash,
        now_ms: u64,
    ) -> Result<Option<Self>, CatalogError> {
        let on = self.on(name);
        let before = self.plugins.get(name).map_or(&[][..], |entry| &entry.before);
        if on.canary.is_some_and(|canary| canary.version == failed) {
            let without = On { canary: None, ..on };
            let next = match before.iter().rposition(|before| *before == without) {
                Some(at) => self.go_back(name, at, now_ms)?,
                None => self.switch(name, without, now_ms)?,
            };
            return Ok(Some(next));
        }
        let Some(at) = self.fallback(name).filter(|_| on.active == Some(failed)) else { return Ok(None) };
        let to = On { canary: None, ..before[at] };
        let mut next = self.switch(name, to, now_ms)?;
        next.forget_from(name, at);
        Ok(Some(next))
    }

    /// Removes a version that is not on. Entries of the time when it was meet what was on after it.
    pub fn remove(&self, name: &PluginName, version: ContentHash, now_ms: u64) -> Result<Self, CatalogError> {
        self.known(name, version)?;
        if self.on(name).versions().any(|on| on == version) {
            return Err(CatalogError::InUse { plugin: name.clone(), version });
        }
        let mut next = self.clone();
        let names = |stage: &StagePlan| {
            let mut slots = stage.slots.iter().filter(|slot| slot.plugin == *name);
            slots.any(|slot| slot.on.versions().any(|on| on == version))
        };
        if let Some(last) = next.stages.iter().rposition(names) {
            // The newest stage does not name it, so one is left. It must not begin earlier than was decided.
            next.stages.drain(..=last);
            if next.stages[0].from_ms > now_ms {
                return Err(CatalogError::Switching);
            }
            next.stages[0].from_ms = 0;
        }
        if let Some(entry) = next.plugins.get_mut(name) {
            entry.versions.retain(|known| known.version != version);
            entry.before.retain(|on| on.versions().all(|before| before != version));
            entry.candidate = entry.candidate.filter(|candidate| *candidate != version);
            if entry.versions.is_empty() {
                next.plugins.remove(name);
            }
        }
        Ok(next)
    }

    fn plugin(&self, name: &PluginName) -> Result<&super::Entry, CatalogError> {
        self.plugins.get(name).ok_or_else(|| CatalogError::NoPlugin(name.clone()))
    }

    fn known(&self, name: &PluginName, version: ContentHash) -> Result<&Version, CatalogError> {
        self.plugin(name)?;
        self.version(name, version).ok_or_else(|| CatalogError::NoVersion {
            plugin: name.clone(),
            prefix: version.to_string().into(),
        })
    }

    /// A change that can be rolled back. What is so already is no change.
    fn change(&self, name: &PluginName, on: On, now_ms: u64) -> Result<Self, CatalogError> {
        let was = self.on(name);
        if was == on {
            return Ok(self.clone());
        }
        let mut next = self.switch(name, on, now_ms)?;
        if let Some(entry) = next.plugins.get_mut(name) {
            entry.before.push(was);
            let too_many = entry.before.len().saturating_sub(BEFORE);
            entry.before.drain(..too_many);
        }
        next.prune_versions();
        Ok(next)
    }

    /// Brings back what was on, and forgets the changes since.
    fn go_back(&self, name: &PluginName, at: usize, now_ms: u64) -> Result<Self, CatalogError> {
        let on = self.plugin(name)?.before[at];
        if let Some(version) = on.versions().find(|version| self.version(name, *version).is_none()) {
            return Err(CatalogError::Gone { plugin: name.clone(), version });
        }
        let mut next = self.switch(name, on, now_ms)?;
        next.forget_from(name, at);
        Ok(next)
    }

    fn forget_from(&mut self, name: &PluginName, at: usize) {
        if let Some(entry) = self.plugins.get_mut(name) {
            entry.before.truncate(at);
        }
        self.prune_versions();
    }

    /// Adds the stage from which on this is so.
    fn switch(&self, name: &PluginName, on: On, now_ms: u64) -> Result<Self, CatalogError> {
        let mut next = self.clone();
        let last = next.stages.last();
        let mut slots = last.map(|stage| stage.slots.clone()).unwrap_or_default();
        slots.retain(|slot| slot.plugin != *name);
        if !on.is_off() {
            next.no_hook_twice(name, on, &slots)?;
            slots.push(SlotPlan { plugin: name.clone(), on });
        }
        // Another node's decision may have come a moment before.
        let from_ms = last.map_or(0, |stage| stage.from_ms + 1).max(now_ms + LEAD_MS);
        next.stages.push(StagePlan { from_ms, slots });
        let old_ms = now_ms.saturating_sub(STAGE_KEPT_MS);
        while next.drop_stage(MOST_STAGES, now_ms) || next.drop_stage(STAGES, old_ms) {}
        if next.stages.len() > MOST_STAGES { Err(CatalogError::TooFast) } else { Ok(next) }
    }

    /// Drops the oldest stage if there are more than so many and the next one began by that moment.
    fn drop_stage(&mut self, most: usize, by_ms: u64) -> bool {
        let drops = self.stages.len() > most && self.stages[1].from_ms <= by_ms;
        if drops {
            self.stages.remove(0);
            self.stages[0].from_ms = 0;
        }
        drops
    }

    fn no_hook_twice(&self, name: &PluginName, on: On, others: &[SlotPlan]) -> Result<(), CatalogError> {
        let own = self.hooks(name, on);
        for other in others {
            let theirs = self.hooks(&other.plugin, other.on);
            let mut hooks = own.iter().filter(|hook| theirs.has(*hook));
            let (plugin, other) = (name.clone(), other.plugin.clone());
            if let Some(hook) = hooks.next().map(Hook::interface) {
                return Err(CatalogError::SameHook { plugin, other, hook });
            }
            // Messages are shown to one plugin, in whatever scope.
            if own.scope().is_some() && theirs.scope().is_some() {
                return Err(CatalogError::SameHook { plugin, other, hook: "on-deliver" });
            }
        }
        Ok(())
    }

    fn hooks(&self, name: &PluginName, on: On) -> Hooks {
        let versions = on.versions().filter_map(|version| self.version(name, version));
        versions.flat_map(|version| version.hooks.iter()).fold(Hooks::default(), Hooks::with)
    }

    /// Drops the oldest versions that nothing names.
    fn prune_versions(&mut self) {
        let mut named = BTreeSet::new();
        for slot in self.stages.iter().flat_map(|stage| &stage.slots) {
            named.extend(slot.on.versions().map(|version| (slot.plugin.clone(), version)));
        }
        for (name, entry) in &mut self.plugins {
            let before: Vec<_> = entry.before.iter().flat_map(On::versions).chain(entry.candidate).collect();
            let mut too_many = entry.versions.len().saturating_sub(VERSIONS);
            entry.versions.retain(|known| {
                let is_named =
                    before.contains(&known.version) || named.contains(&(name.clone(), known.version));
                let drop = too_many > 0 && !is_named;
                too_many -= usize::from(drop);
                !drop
            });
        }
    }
}
