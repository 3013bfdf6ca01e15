//! Rollouts of one node over a backbone in memory, with real components. Nothing here depends on how long
//! anything takes.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::*;
use crate::backbone::embedded::Embedded;
use crate::backbone::kv::{KvAnswer, KvOp, KvStore};
use crate::backbone::overlay::Overlay;
use crate::backbone::wake::DirtySet;
use crate::backbone::{Backbone, BackboneError};
use crate::domain::Offset;
use crate::domain::keys::{PLUGINS_KEY, plugin_state_key};
use crate::plugin::catalog::readiness::Readiness;
use crate::plugin::catalog::{Catalog, CatalogError};
use crate::plugin::compile::{CompileCommand, NodeKey};
use crate::plugin::store::{SETTLED_MS, StoreError};
use crate::plugin::tables::Tables;
use crate::plugin::tests::{PROBE, compiler, config, message, settings};
use crate::plugin::{DeliverVerdict, Failure, Hook, HostConfig, Services};
use crate::telemetry::Metrics;

/// No condition waited for here takes nearly so long.
const DEADLINE: Duration = Duration::from_secs(120);

struct Rig {
    backbone: Arc<Embedded>,
    store: PluginStore,
    rollout: Rollout,
    tables: Tables,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Rig {
    fn new() -> Self {
        Self::over(Embedded::new(Arc::new(DirtySet::default())), "one")
    }

    fn over(backbone: Arc<Embedded>, node: &str) -> Self {
        Self::with(backbone.clone(), backbone, node, compiler())
    }

    /// A node that sees `backbone` as `seen`.
    fn with(backbone: Arc<Embedded>, seen: Arc<dyn Backbone>, node: &str, compiler: CompileCommand) -> Self {
        let services = Services { backbone: seen.clone(), metrics: Metrics::default() };
        let host = HostConfig { plugins: config(), compiler, key: NodeKey::random() };
        let host = Arc::new(PluginHost::start(host, services).unwrap());
        let store = PluginStore::new(seen);
        let Settings { limits, answers, .. } = settings("acme");
        let served = [acme(), other()].map(|tenant| (tenant, Served { limits: limits.clone(), answers }));
        let (_, served) = watch::channel(Arc::new(AllServed::from(served)));
        let is_alone = node == "one";
        let node = NodeId::parse(node).unwrap();
        let parts = RolloutParts { host, store: store.clone(), node, is_alone, served };
        let (keeper, tables) = Tables::new(0);
        let stop = CancellationToken::new();
        let (rollout, task) = Rollout::spawn(parts, keeper, stop.clone());
        Self { backbone, store, rollout, tables, stop, task }
    }

    /// Adds a version of the probe; the setting makes it another one than those before.
    async fn push(&self, greeting: &str) -> ContentHash {
        let version = version(greeting);
        let bytes = Bytes::from_static(PROBE);
        self.store.push(&acme(), &name(), version.clone(), &bytes, 1 << 30).await.unwrap();
        version.version
    }

    async fn change(
        &self,
        change: impl Fn(&Catalog, u64) -> Result<Catalog, CatalogError> + Send + Sync,
    ) -> Catalog {
        let acme = acme();
        let changed =
            self.store.change(&acme, |catalog, now_ms| change(catalog, now_ms).map_err(StoreError::from));
        changed.await.unwrap()
    }

    async fn activate(&self, version: ContentHash) -> u64 {
        let catalog = self.change(|catalog, now_ms| catalog.activate(&name(), version, now_ms)).await;
        catalog.stages().last().unwrap().from_ms
    }

    /// What an entry of that moment becomes.
    async fn delivered(&self, at_ms: u64, data: &str) -> Result<DeliverVerdict, Failure> {
        assert!(self.tables.known(at_ms).await);
        let offset = Offset { ms: at_ms, seq: 0 };
        let table = self.tables.of(&acme()).unwrap();
        let plugin = table.for_entry(Hook::OnDeliver, offset).expect("a plugin is on").clone();
        let delivery = crate::plugin::Delivery { offset, ..message(data) };
        self.rollout.host().deliver(&plugin, vec![delivery]).await.remove(0)
    }

    async fn is_ready(&self, version: ContentHash) {
        until("the version is ready", async || self.rollout.ready(&acme(), &name(), version).is_some()).await;
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
        let mut tables = self.tables;
        while tables.changed().await {}
    }
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, waiting).await.is_ok(), "it did not happen: {what}");
}

fn acme() -> TenantId {
    TenantId::parse("acme").unwrap()
}

fn other() -> TenantId {
    TenantId::parse("other").unwrap()
}

fn name() -> PluginName {
    PluginName::parse("probe").unwrap()
}

fn version(greeting: &str) -> Version {
    let content = ContentHash::of(PROBE);
    let settings = BTreeMap::from([("greeting".to_owned(), greeting.to_owned())]);
    let hooks = crate::plugin::inspect::inspect(PROBE, PROBE.len()).unwrap().hooks;
    let version = Version::id(content, &settings);
    Version { version, content, bytes: PROBE.len() as u64, hooks, uploaded_ms: 0, settings }
}

fn greeted(text: &str) -> Result<DeliverVerdict, Failure> {
    let data = Bytes::copy_from_slice(text.as_bytes());
    Ok(DeliverVerdict::Replace(crate::plugin::answers::Replacement { data, headers: None }))
}

#[tokio::test]
async fn an_entry_meets_the_version_that_was_on_at_its_offset() {
    let rig = Rig::new();
    assert!(rig.rollout.joined().await);
    let (one, two) = (rig.push("one").await, rig.push("two").await);
    for version in [one, two] {
        rig.change(|catalog, _| catalog.ask_for(&name(), version)).await;
        rig.is_ready(version).await;
        rig.activate(version).await;
    }
    let stages: Vec<u64> =
        rig.store.catalog(&acme()).await.unwrap().stages().iter().map(|s| s.from_ms).collect();
    for (at_ms, greeting) in [(stages[0], "one"), (stages[1] - 1, "one"), (stages[1], "two")] {
        assert_eq!(rig.delivered(at_ms, "setting").await, greeted(greeting), "{at_ms}");
    }
    let before = Offset { ms: stages[0] - 1, seq: 7 };
    assert!(rig.tables.of(&acme()).unwrap().for_entry(Hook::OnDeliver, before).is_none());
    assert!(rig.tables.of(&other()).is_none(), "what has no plugins has no table");
    rig.end().await;
}

#[tokio::test]
async fn a_stage_is_known_before_it_begins() {
    let rig = Rig::new();
    assert!(rig.rollout.joined().await);
    let version = rig.push("one").await;
    rig.is_ready(version).await;
    for n in 0..5 {
        rig.change(|catalog, now_ms| catalog.deactivate(&name(), now_ms)).await;
        let known_ms = rig.tables.known_until_ms();
        let from_ms = rig.activate(version).await;
        assert!(known_ms < from_ms, "round {n}: {known_ms} was known, and {from_ms} is new");
    }
    rig.end().await;
}

#[tokio::test]
async fn a_node_joins_when_what_is_on_is_ready() {
    let rig = Rig::new();
    assert!(rig.rollout.joined().await);
    let version = rig.push("hello").await;
    rig.is_ready(version).await;
    let from_ms = rig.activate(version).await;
    let late = Rig::over(rig.backbone.clone(), "late");
    assert_eq!(late.tables.known_until_ms(), 0);
    assert!(late.rollout.joined().await);
    assert!(late.rollout.ready(&acme(), &name(), version).is_some());
    assert_eq!(late.delivered(from_ms, "setting").await, greeted("hello"));
    until("both nodes say so", async || {
        let reports = rig.store.reports(&acme()).await.unwrap();
        reports.len() == 2 && reports.values().all(|r| r.versions.get(&version) == Some(&Readiness::Ready))
    })
    .await;
    late.end().await;
    rig.end().await;
}

#[tokio::test]
async fn a_node_waits_for_what_may_work_after_a_while() {
    let rig = Rig::new();
    let version = rig.push("hello").await;
    rig.is_ready(version).await;
    rig.activate(version).await;
    // There is no compiler yet.
    let folder = tempfile::tempdir().unwrap();
    let compiler = CompileCommand { program: folder.path().join("compiler"), ..compiler() };
    let program = compiler.program.clone();
    let late = Rig::with(rig.backbone.clone(), rig.backbone.clone(), "late", compiler);
    until("it is told", async || {
        let reports = rig.store.reports(&acme()).await.unwrap();
        let late = reports.get(&NodeId::parse("late").unwrap());
        let said = late.and_then(|report| report.versions.get(&version));
        matches!(said, Some(Readiness::Failed { why }) if why.contains("cannot be started"))
    })
    .await;
    std::os::unix::fs::symlink(std::env::current_exe().unwrap(), program).unwrap();
    assert!(late.rollout.joined().await);
    assert!(late.rollout.ready(&acme(), &name(), version).is_some(), "it has joined with its plugin");
    late.end().await;
    rig.end().await;
}

#[tokio::test]
async fn what_is_on_is_prepared_before_what_may_come() {
    let rig = Rig::new();
    let version = rig.push("hello").await;
    rig.is_ready(version).await;
    rig.activate(version).await;
    // Two more that are but staged; the compiler of the other node is never done with them.
    for plugin in ["a", "b"] {
        let section = [&[0, 2, 1], plugin.as_bytes()].concat();
        let bytes = Bytes::from([PROBE, &section[..]].concat());
        let content = ContentHash::of(&bytes);
        let (version, settings, length) = (content, BTreeMap::new(), bytes.len() as u64);
        let staged = Version { version, content, bytes: length, settings, ..self::version("staged") };
        let plugin = PluginName::parse(plugin).unwrap();
        rig.store.push(&acme(), &plugin, staged, &bytes, 1 << 30).await.unwrap();
    }
    let script = format!(
        r#"for word; do [ "$last" = --input ] && input=$word; last=$word; done
        [ $(wc -c < "$input") -eq {} ] || exec sleep 1000
        exec "$@""#,
        PROBE.len()
    );
    let CompileCommand { program, arguments } = compiler();
    let before = ["-c".into(), script.into(), "sh".into(), program.into()];
    let arguments = before.into_iter().chain(arguments).collect();
    let slow = CompileCommand { program: "/bin/sh".into(), arguments };
    let late = Rig::with(rig.backbone.clone(), rig.backbone.clone(), "late", slow);
    until("it has joined", async || *late.rollout.0.joined.borrow()).await;
    assert!(late.rollout.ready(&acme(), &name(), version).is_some());
    late.end().await;
    rig.end().await;
}

/// Tells when a node has looked for the first time.
struct Looked {
    under: Arc<Embedded>,
    looked: Notify,
}

#[async_trait]
impl Overlay for Looked {
    fn under(&self) -> &Arc<Embedded> {
        &self.under
    }

    async fn kv(&self, store: &KvStore, op: KvOp) -> Result<KvAnswer, BackboneError> {
        let is_look = matches!(&op, KvOp::GetTimed(key) if **key == *"~");
        let answer = self.under.kv(store, op).await;
        if is_look {
            self.looked.notify_one();
        }
        answer
    }
}

#[tokio::test]
async fn a_node_that_joins_knows_what_was_decided_without_it() {
    let rig = Rig::new();
    let version = rig.push("hello").await;
    rig.is_ready(version).await;
    loop {
        let seen = Arc::new(Looked { under: rig.backbone.clone(), looked: Notify::new() });
        let late = Rig::with(rig.backbone.clone(), seen.clone(), "late", compiler());
        let known_ms = rig.backbone.clock().now_ms();
        seen.looked.notified().await;
        // By somebody who asked who lives before this node was known.
        rig.activate(version).await;
        let is_in_time = rig.backbone.clock().now_ms() <= known_ms + SETTLED_MS;
        assert!(late.rollout.joined().await);
        let is_ready = late.rollout.ready(&acme(), &name(), version).is_some();
        late.end().await;
        if is_in_time {
            assert!(is_ready);
            break;
        }
        // The machine is slow: nobody would have been let do that so late.
        rig.change(|catalog, now_ms| catalog.deactivate(&name(), now_ms)).await;
    }
    rig.end().await;
}

#[tokio::test]
async fn what_cannot_be_prepared_fails_and_holds_up_nobody() {
    let rig = Rig::new();
    assert!(rig.rollout.joined().await);
    // Named by the catalog, and nowhere to be found.
    let lost = version("lost");
    let from_ms = {
        let catalog = rig.change(|catalog, now_ms| {
            catalog.push(&name(), lost.clone())?.activate(&name(), lost.version, now_ms)
        });
        catalog.await.stages()[0].from_ms
    };
    assert_eq!(rig.delivered(from_ms, "plain").await, Err(Failure::Unavailable));
    until("it is told", async || {
        let reports = rig.store.reports(&acme()).await.unwrap();
        let said = reports.values().next().and_then(|report| report.versions.get(&lost.version).cloned());
        matches!(said, Some(Readiness::Failed { why }) if why.contains("push it again"))
    })
    .await;
    // A node that starts with it takes traffic all the same.
    let late = Rig::over(rig.backbone.clone(), "late");
    assert!(late.rollout.joined().await);
    assert_eq!(late.delivered(from_ms, "plain").await, Err(Failure::Unavailable));
    late.end().await;
    rig.end().await;
}

#[tokio::test]
async fn a_catalog_that_is_not_understood_lets_nothing_pass() {
    let rig = Rig::new();
    assert!(rig.rollout.joined().await);
    let all = KvStore { key: PLUGINS_KEY.into(), max_keys: 1 << 20, max_bytes: 1 << 30 };
    rig.backbone.kv(&all, KvOp::Set("acme".into(), "{\"schema\":99}".into())).await.unwrap();
    rig.backbone.kv(&all, KvOp::Set("~".into(), "changed".into())).await.unwrap();
    until("it is read", async || rig.tables.of(&acme()).is_some()).await;
    let now_ms = rig.backbone.clock().now_ms();
    assert_eq!(rig.delivered(now_ms, "plain").await, Err(Failure::Unavailable));
    // And once it is mended, all is well.
    rig.backbone.kv(&all, KvOp::Delete("acme".into())).await.unwrap();
    rig.backbone.kv(&all, KvOp::Set("~".into(), "mended".into())).await.unwrap();
    until("it is read again", async || {
        let table = rig.tables.of(&acme()).unwrap();
        table.plugins().next().is_none()
    })
    .await;
    rig.end().await;
}

#[tokio::test]
async fn a_version_that_keeps_failing_is_rolled_back_and_begins_anew_when_switched_on_again() {
    let rig = Rig::new();
    assert!(rig.rollout.joined().await);
    let (one, two) = (rig.push("one").await, rig.push("two").await);
    rig.change(|catalog, _| catalog.ask_for(&name(), one)).await;
    rig.is_ready(one).await;
    rig.activate(one).await;
    rig.change(|catalog, _| catalog.ask_for(&name(), two)).await;
    rig.is_ready(two).await;
    for round in 1..=2 {
        let from_ms = rig.activate(two).await;
        assert_eq!(rig.delivered(from_ms, "setting").await, greeted("two"), "round {round}");
        for _ in 0..25 {
            rig.delivered(from_ms, "trap").await.unwrap_err();
        }
        until("it is rolled back", async || {
            rig.store.catalog(&acme()).await.unwrap().on(&name()).active == Some(one)
        })
        .await;
    }
    until("the log says so", async || {
        let Settings { limits, .. } = settings("acme");
        let (lines, _) = rig.rollout.host().log(&acme(), &limits).read(0);
        lines.iter().filter(|line| line.message.contains("rolled back")).count() == 2
    })
    .await;
    // The first version has nothing before it, and stays.
    let from_ms = rig.store.catalog(&acme()).await.unwrap().stages().last().unwrap().from_ms;
    for _ in 0..25 {
        rig.delivered(from_ms, "trap").await.unwrap_err();
    }
    until("the log says that too", async || {
        let Settings { limits, .. } = settings("acme");
        let (lines, _) = rig.rollout.host().log(&acme(), &limits).read(0);
        lines.iter().any(|line| line.message.contains("no earlier version"))
    })
    .await;
    assert_eq!(rig.store.catalog(&acme()).await.unwrap().on(&name()).active, Some(one));
    rig.end().await;
}

#[tokio::test]
async fn of_two_nodes_on_which_a_version_fails_one_rolls_it_back() {
    let rig = Rig::new();
    let two = Rig::over(rig.backbone.clone(), "two");
    let good = rig.push("good").await;
    for rig in [&rig, &two] {
        assert!(rig.rollout.joined().await);
        rig.is_ready(good).await;
    }
    rig.activate(good).await;
    let bad = rig.push("bad").await;
    rig.is_ready(bad).await;
    two.is_ready(bad).await;
    let from_ms = rig.activate(bad).await;
    for _ in 0..25 {
        for rig in [&rig, &two] {
            rig.delivered(from_ms, "trap").await.unwrap_err();
        }
    }
    let lines = || {
        let Settings { limits, .. } = settings("acme");
        let logs = [&rig, &two].map(|rig| rig.rollout.host().log(&acme(), &limits).read(0).0);
        let is_told = |line: &&crate::plugin::log::Line| line.message.contains("rolled back");
        logs.iter().flatten().filter(is_told).count()
    };
    until("one node says that it did", async || lines() == 1).await;
    // Both have seen it when both know what is on: then nobody has anything left to do.
    until("both know", async || {
        let now_ms = rig.backbone.clock().now_ms() + 1_000;
        let on = |rig: &Rig| {
            let plugin = rig.tables.of(&acme())?.for_client(Hook::OnPublish, now_ms, b"who").cloned();
            Some(Arc::ptr_eq(&plugin?, &rig.rollout.ready(&acme(), &name(), good)?))
        };
        on(&rig) == Some(true) && on(&two) == Some(true)
    })
    .await;
    let catalog = rig.store.catalog(&acme()).await.unwrap();
    assert_eq!((lines(), catalog.stages().len(), catalog.on(&name()).active), (1, 3, Some(good)));
    two.end().await;
    rig.end().await;
}

#[tokio::test]
async fn all_is_read_again_after_everything_was_lost() {
    let rig = Rig::new();
    assert!(rig.rollout.joined().await);
    let version = rig.push("one").await;
    rig.is_ready(version).await;
    rig.activate(version).await;
    let all = KvStore { key: PLUGINS_KEY.into(), max_keys: 1 << 20, max_bytes: 1 << 30 };
    for key in ["acme", "~"] {
        rig.backbone.kv(&all, KvOp::Delete(key.into())).await.unwrap();
    }
    until("the table is empty", async || {
        let table = rig.tables.of(&acme());
        table.is_none_or(|table| table.plugins().next().is_none())
    })
    .await;
    until("the version is let go", async || rig.rollout.ready(&acme(), &name(), version).is_none()).await;
    let again = rig.push("one").await;
    rig.is_ready(again).await;
    let state = KvStore { key: plugin_state_key(&acme()).into(), ..all };
    until("the node says so", async || {
        let report = rig.backbone.kv(&state, KvOp::Get("node:one".into())).await.unwrap();
        format!("{report:?}").contains("ready")
    })
    .await;
    rig.end().await;
}
