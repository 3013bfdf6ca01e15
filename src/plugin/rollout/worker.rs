//! The task that keeps a node's tables.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::kept::{Held, Kept, Need};
use super::preparing::{AT_ONCE, Hope, Outcome, Unready, prepare};
use super::{AllServed, LOOK, Served, Shared, give_up};
use crate::backbone::BackboneError;
use crate::backbone::backoff::Backoff;
use crate::domain::{PluginName, TenantId};
use crate::plugin::catalog::readiness::{Readiness, Report};
use crate::plugin::catalog::{Catalog, Version};
use crate::plugin::hooks::{Hook, Hooks};
use crate::plugin::log::Level;
use crate::plugin::prepare::ContentHash;
use crate::plugin::store::{Marked, SETTLED_MS, parse};
use crate::plugin::tables::{Slot, Stage, Table, TablesKeeper};
use crate::telemetry::{Label as _, events};

/// How long one look may take, and one round of reports.
const PATIENCE: Duration = Duration::from_secs(3);
/// Catalogs that are read at the same time, and reports that are written.
const AT_A_TIME: usize = 32;
/// How often a node repeats what it has ready.
const REPEAT: Duration = Duration::from_secs(60);
/// When a version is tried again that did not work for a reason that may pass, at first and at most.
const AGAIN: Duration = Duration::from_secs(10);
const AGAIN_MOST: Duration = Duration::from_secs(600);
/// When it is tried again while the backbone is away, at first and at most.
const AWAY: Duration = Duration::from_millis(100);
const AWAY_MOST: Duration = Duration::from_secs(5);
/// How often a node that starts says how far it is.
const PROGRESS: Duration = Duration::from_secs(5);
/// Rollbacks under way.
const ROLLBACKS: usize = 64;

/// The state of the task.
pub(super) struct Worker {
    shared: Arc<Shared>,
    keeper: TablesKeeper,
    served: Arc<AllServed>,
    /// The mark that goes with what was read; `None`: not all was read.
    mark: Option<Option<Bytes>>,
    /// Up to which moment stages are known.
    known_ms: u64,
    is_alone: bool,
    /// The moment of the first look, and whether all is known that was decided without this node.
    first_ms: Option<u64>,
    is_settled: bool,
    tenants: BTreeMap<TenantId, Kept>,
    preparations: JoinSet<Outcome>,
    rollbacks: JoinSet<()>,
    has_joined: bool,
    told: Instant,
    is_answered: bool,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, keeper: TablesKeeper, is_alone: bool) -> Self {
        Self {
            shared,
            keeper,
            served: Arc::default(),
            mark: None,
            known_ms: 0,
            is_alone,
            first_ms: None,
            is_settled: false,
            tenants: BTreeMap::new(),
            preparations: JoinSet::new(),
            rollbacks: JoinSet::new(),
            has_joined: false,
            told: Instant::now(),
            is_answered: true,
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = looks.tick() => tokio::select! {
                    () = stop.cancelled() => break,
                    () = self.turn() => {}
                },
                Some(done) = self.preparations.join_next() => {
                    // One that was cancelled is not wanted any more.
                    if let Ok(outcome) = done {
                        self.prepared(outcome);
                    }
                    self.prepare_next();
                }
                Some(_) = self.rollbacks.join_next() => {}
            }
        }
        self.preparations.shutdown().await;
        self.rollbacks.shutdown().await;
    }

    /// One look, and what follows from it.
    async fn turn(&mut self) {
        match timeout(PATIENCE, self.look()).await.unwrap_or_else(|_| Err(no_answer())) {
            Ok(()) => self.is_answered = true,
            Err(error) => {
                if std::mem::replace(&mut self.is_answered, false) {
                    events::plugins_unknown(&error);
                }
            }
        }
        self.prepare_next();
        self.join();
        self.roll_back();
        // What is not said now is said at the next turn.
        let _ = timeout(PATIENCE, self.report()).await;
    }

    /// Learns what has changed. Cut off, nothing is known beyond what was.
    async fn look(&mut self) -> Result<(), BackboneError> {
        let marked = self.shared.store.mark().await?;
        let served = Arc::clone(&self.shared.served.borrow());
        if self.mark.as_ref() != Some(&marked.mark) || !Arc::ptr_eq(&served, &self.served) {
            self.mark = None;
            self.read_all(&served).await?;
            self.served = served;
        }
        let known_ms = marked.known_ms();
        let Marked { mark, at_ms } = marked;
        self.is_settled = self.is_alone || at_ms > *self.first_ms.get_or_insert(at_ms) + SETTLED_MS;
        self.mark = Some(mark);
        self.known_ms = known_ms;
        if self.has_joined {
            self.keeper.known_until(known_ms);
        }
        Ok(())
    }

    /// Reads the catalogs of all tenants, and applies those that are others than before.
    async fn read_all(&mut self, served: &AllServed) -> Result<(), BackboneError> {
        let all: Vec<_> = served.iter().map(|(tenant, served)| (tenant.clone(), served.clone())).collect();
        let mut read = Vec::with_capacity(all.len());
        for some in all.chunks(AT_A_TIME) {
            let raws = some.iter().map(|(tenant, _)| raw(Arc::clone(&self.shared), tenant.clone()));
            for ((tenant, served), raw) in some.iter().zip(join_all(raws).await) {
                read.push((tenant.clone(), served.clone(), raw?));
            }
        }
        for (tenant, served, raw) in read {
            self.apply(tenant, served, raw);
        }
        let gone: Vec<_> =
            self.tenants.keys().filter(|tenant| !served.contains_key(*tenant)).cloned().collect();
        for tenant in gone {
            let Some(mut kept) = self.tenants.remove(&tenant) else { continue };
            self.keeper.set(tenant.clone(), Table::default());
            let all = std::mem::take(&mut kept.versions);
            self.let_go(&tenant, all);
        }
        Ok(())
    }

    fn apply(&mut self, tenant: TenantId, served: Served, raw: Option<Bytes>) {
        let known = self.tenants.get(&tenant);
        if known.map_or(raw.is_none(), |kept| kept.raw == raw) {
            return;
        }
        let catalog = match parse(raw.as_ref()) {
            Ok(catalog) => catalog,
            Err(error) => {
                events::plugins_not_understood(&tenant, &error);
                return self.refuse_all(tenant, served, raw);
            }
        };
        let mut kept = self.tenants.remove(&tenant).unwrap_or_else(|| Kept::new(served));
        let before = std::mem::replace(&mut kept.catalog, catalog);
        (kept.raw, kept.is_news) = (raw, true);
        let mut old = std::mem::take(&mut kept.versions);
        let wanted: Vec<_> = kept
            .catalog
            .wanted()
            .into_iter()
            .map(|(name, version)| (name.clone(), version.clone()))
            .collect();
        for (name, version) in wanted {
            let key = (name, version.version);
            let need = kept.need(&key.0, key.1);
            let held = old.remove(&key).unwrap_or_else(|| self.hold(&tenant, &kept.served, &key.0, version));
            kept.versions.insert(key, Held { need, ..held });
        }
        for key in kept.newly_on(&before) {
            self.anew(&tenant, &mut kept, &key);
        }
        if self.has_joined {
            self.tell(&tenant, &kept, &before);
        }
        self.keeper.set(tenant.clone(), kept.table());
        self.let_go(&tenant, old);
        self.tenants.insert(tenant, kept);
    }

    /// A version that was cut off, and is switched on again, begins anew.
    fn anew(&self, tenant: &TenantId, kept: &mut Kept, key: &(PluginName, ContentHash)) {
        let Kept { served, versions, .. } = kept;
        let Some(held) = versions.get_mut(key).filter(|held| held.plugin.is_cut_off()) else { return };
        let prepared = Arc::clone(held.plugin.prepared());
        let again = self.shared.host.bind(prepared, served.settings(tenant, &key.0, &held.version));
        let was = std::mem::replace(&mut held.plugin, again);
        held.cut_offs = 0;
        self.shared.host.retire(&was);
        let plugin = Arc::clone(&held.plugin);
        self.shared.ready().insert((tenant.clone(), key.0.clone(), key.1), plugin);
    }

    /// Puts lines into the tenant's log about what begins.
    fn tell(&self, tenant: &TenantId, kept: &Kept, before: &Catalog) {
        let log = self.shared.host.log(tenant, &kept.served.limits);
        let now_ms = self.shared.store.backbone().clock().now_ms();
        for name in kept.catalog.plugins().keys() {
            let on = kept.catalog.on(name);
            if on == before.on(name) {
                continue;
            }
            let active =
                on.active.map_or_else(|| "nothing".to_owned(), |version| format!("version {version}"));
            let canary = on.canary.map_or_else(String::new, |canary| {
                format!(", and {} % get version {}", canary.percent, canary.version)
            });
            let from_ms = kept.catalog.stages().last().map_or(0, |stage| stage.from_ms);
            let line = format!("from {from_ms} on {active} is active{canary}");
            log.add(now_ms, &name.as_str().into(), Level::Info, "tidegate", &line);
        }
    }

    /// Every hook of a tenant fails whose catalog is not understood: what a plugin would have refused must not pass.
    fn refuse_all(&mut self, tenant: TenantId, served: Served, raw: Option<Bytes>) {
        let hooks = Hook::ALL.iter().fold(Hooks::default(), |hooks, hook| hooks.with(*hook));
        let nothing = ContentHash::of(&[]);
        let name = PluginName::parse("unknown").expect("a literal name is valid");
        let settings = BTreeMap::new();
        let version =
            Version { version: nothing, content: nothing, bytes: 0, hooks, uploaded_ms: 0, settings };
        let absent = self.shared.host.absent(nothing, hooks, served.settings(&tenant, &name, &version));
        let slots = vec![Slot { active: Some(absent), canary: None }];
        self.keeper.set(tenant.clone(), Table::new(vec![Stage { from_ms: 0, slots }]));
        let mut kept = self.tenants.remove(&tenant).unwrap_or_else(|| Kept::new(served));
        let old = std::mem::take(&mut kept.versions);
        self.let_go(&tenant, old);
        let served = kept.served;
        self.tenants.insert(tenant, Kept { raw, is_news: true, ..Kept::new(served) });
    }

    /// A version that is to be prepared.
    fn hold(&self, tenant: &TenantId, served: &Served, name: &PluginName, version: Version) -> Held {
        let settings = served.settings(tenant, name, &version);
        let plugin = self.shared.host.absent(version.content, version.hooks, settings);
        let since_ms = self.shared.store.backbone().clock().now_ms();
        let now = Instant::now();
        Held {
            version,
            readiness: Readiness::Preparing { since_ms },
            plugin,
            need: Need::Staged,
            cut_offs: 0,
            task: None,
            began: now,
            due: Some(now),
            failing: None,
            backoff: Backoff::new(AGAIN, AGAIN_MOST),
            pause: Backoff::new(AWAY, AWAY_MOST),
        }
    }

    /// Begins preparations that are due, the most urgent first, as long as few are under way.
    fn prepare_next(&mut self) {
        let now = Instant::now();
        while self.preparations.len() < AT_ONCE {
            let held = self.tenants.iter_mut().flat_map(|(tenant, kept)| {
                let served = &kept.served;
                kept.versions.iter_mut().map(move |((name, _), held)| (tenant, served, name, held))
            });
            let due = held.filter(|(.., held)| held.due.is_some_and(|due| due <= now));
            let Some((tenant, served, name, held)) = due.min_by_key(|(.., held)| (held.need, held.due))
            else {
                return;
            };
            let key = (tenant.clone(), name.clone(), held.version.version);
            let settings = served.settings(tenant, name, &held.version);
            let task = prepare(Arc::clone(&self.shared), key, held.version.clone(), settings);
            (held.began, held.due) = (now, None);
            held.task = Some(self.preparations.spawn(task));
        }
    }

    /// A preparation has ended.
    fn prepared(&mut self, outcome: Outcome) {
        let Outcome { key, prepared } = outcome;
        let (tenant, name, version) = &key;
        let Some(kept) = self.tenants.get_mut(tenant) else { return };
        let Some(held) = kept.versions.get_mut(&(name.clone(), *version)) else { return };
        held.task = None;
        // Of two that ran, because it was let go and wanted again, one counts.
        if held.readiness == Readiness::Ready {
            return;
        }
        let now = Instant::now();
        match prepared {
            Err(Unready::Away) => {
                held.due = Some(now + held.pause.delay());
                return;
            }
            Ok(prepared) => {
                held.due = None;
                let settings = kept.served.settings(tenant, name, &held.version);
                held.plugin = self.shared.host.bind(prepared, settings);
                held.readiness = Readiness::Ready;
                events::plugin_ready(tenant, name.as_str(), version, held.began.elapsed());
                self.shared.ready().insert(key.clone(), Arc::clone(&held.plugin));
            }
            Err(Unready::Failed { why, hope }) => {
                held.due = (hope != Hope::None).then(|| now + held.backoff.delay());
                held.failing = (hope == Hope::Time).then(|| held.failing.unwrap_or(now));
                // It is told once, however often it is tried.
                let failed = Readiness::Failed { why: why.clone() };
                if held.readiness == failed {
                    return;
                }
                events::plugin_not_ready(tenant, name.as_str(), version, &why);
                held.readiness = failed;
            }
        }
        kept.is_news = true;
        self.keeper.set(tenant.clone(), kept.table());
        self.join();
    }

    /// Takes versions out of use.
    fn let_go(&self, tenant: &TenantId, versions: BTreeMap<(PluginName, ContentHash), Held>) {
        for ((name, version), held) in versions {
            if let Some(task) = &held.task {
                task.abort();
            }
            self.shared.ready().remove(&(tenant.clone(), name, version));
            self.shared.host.retire(&held.plugin);
        }
    }

    /// The node joins once all that is on was read and is ready, or known not to work here.
    fn join(&mut self) {
        if self.has_joined || self.mark.is_none() || !self.is_settled {
            return;
        }
        let now = Instant::now();
        let awaited = self.tenants.values().map(|kept| kept.awaited(now));
        let (all, open) = awaited.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        if open == 0 {
            self.has_joined = true;
            self.keeper.known_until(self.known_ms);
            self.shared.joined.send_replace(true);
        } else if self.told.elapsed() >= PROGRESS {
            self.told = Instant::now();
            events::plugins_awaited(all - open, all);
        }
    }

    /// Says what is ready here, where that has changed, and now and then.
    async fn report(&mut self) {
        let now_ms = self.shared.store.backbone().clock().now_ms();
        let is_due = |kept: &Kept| {
            let repeats = !kept.versions.is_empty();
            kept.is_news || repeats && kept.reported.is_none_or(|at| at.elapsed() >= REPEAT)
        };
        let due: Vec<_> = self.tenants.iter().filter(|(_, kept)| is_due(kept)).take(AT_A_TIME).collect();
        if due.is_empty() {
            return;
        }
        let said = due
            .into_iter()
            .map(|(tenant, kept)| say(Arc::clone(&self.shared), tenant.clone(), kept.report(now_ms)));
        let said: Vec<_> = said.collect();
        let said: BTreeSet<TenantId> = join_all(said).await.into_iter().flatten().collect();
        for (tenant, kept) in &mut self.tenants {
            if said.contains(tenant) {
                (kept.reported, kept.is_news) = (Some(Instant::now()), false);
            }
        }
    }

    /// Rolls back what was cut off since it was last looked at.
    fn roll_back(&mut self) {
        for (tenant, Kept { served, versions, .. }) in &mut self.tenants {
            for ((name, version), held) in versions {
                let cut_offs = held.plugin.cut_offs();
                if cut_offs == held.cut_offs || self.rollbacks.len() >= ROLLBACKS {
                    continue;
                }
                held.cut_offs = cut_offs;
                let (shared, key) = (Arc::clone(&self.shared), (tenant.clone(), name.clone(), *version));
                let plugin = Arc::clone(&held.plugin);
                self.rollbacks.spawn(give_up::give_up(shared, key, served.clone(), plugin));
            }
        }
    }
}

async fn raw(shared: Arc<Shared>, tenant: TenantId) -> Result<Option<Bytes>, BackboneError> {
    shared.store.raw(&tenant).await
}

/// Whether it was said.
async fn say(shared: Arc<Shared>, tenant: TenantId, report: Report) -> Option<TenantId> {
    shared.store.report(&tenant, &shared.node, &report).await.ok()?;
    Some(tenant)
}

fn no_answer() -> BackboneError {
    BackboneError::Away("no answer in time".into())
}
