//! The store over a backbone in memory, and one whose answers get lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::*;
use crate::backbone::embedded::Embedded;
use crate::backbone::overlay::Overlay;
use crate::backbone::wake::DirtySet;
use crate::domain::{NodeId, PluginName};
use crate::plugin::catalog::readiness::{Readiness, Report};
use crate::plugin::catalog::{CatalogError, Version};
use crate::plugin::hooks::{Hook, Hooks};
use crate::plugin::prepare::ContentHash;

fn acme() -> TenantId {
    TenantId::parse("acme").unwrap()
}

fn name() -> PluginName {
    PluginName::parse("filter").unwrap()
}

fn version(bytes: &Bytes) -> Version {
    let content = ContentHash::of(bytes);
    let (hooks, settings) = (Hooks::default().with(Hook::Route), BTreeMap::new());
    Version { version: content, content, bytes: bytes.len() as u64, hooks, uploaded_ms: 0, settings }
}

fn code(seed: u8, length: usize) -> Bytes {
    (0..length).map(|n| (n % 251) as u8 ^ seed).collect()
}

fn store() -> PluginStore {
    PluginStore::new(Embedded::new(Arc::new(DirtySet::default())))
}

async fn push(store: &PluginStore, bytes: &Bytes, quota: u64) -> Result<Catalog, StoreError> {
    store.push(&acme(), &name(), version(bytes), bytes, quota).await
}

#[tokio::test]
async fn bytes_come_back_as_they_went_in() {
    let store = store();
    let before = store.mark().await.unwrap();
    for length in [0, 1, 512 * 1024, 512 * 1024 + 1, 3 << 20] {
        let bytes = code(7, length);
        push(&store, &bytes, 1 << 30).await.unwrap();
        assert_eq!(store.code(&acme(), &version(&bytes)).await.unwrap(), bytes);
    }
    let after = store.mark().await.unwrap();
    assert!(after.mark != before.mark && after.at_ms >= before.at_ms);
    let other = version(&code(8, 1_000));
    assert_eq!(store.code(&acme(), &other).await, Err(StoreError::Damaged));
    let short = Version { bytes: 1 << 20, ..version(&code(7, 3 << 20)) };
    assert_eq!(store.code(&acme(), &short).await, Err(StoreError::Damaged));
}

#[tokio::test]
async fn what_nobody_names_makes_room() {
    let store = store();
    let (one, two) = (code(1, 600_000), code(2, 600_000));
    push(&store, &one, 1_000_000).await.unwrap();
    push(&store, &one, 1_000_000).await.unwrap();
    assert_eq!(push(&store, &two, 1_000_000).await, Err(StoreError::OverQuota { limit: 1_000_000 }));
    // Pieces of an upload that was cut off.
    let lost = ContentHash::of(b"lost");
    let (state, pieces) = (code::state_store(&acme()), code::code_store(&acme()));
    for (hash, field) in [(&state, format!("code:{lost}")), (&pieces, format!("{lost}:0"))] {
        store.backbone.kv(hash, KvOp::Set(field.into(), "7".into())).await.unwrap();
    }
    let digits = version(&one).version.to_string();
    let catalog = store.remove(&acme(), &name(), &digits[..6]).await.unwrap();
    assert!(catalog.plugins().is_empty());
    for hash in [&state, &pieces] {
        assert!(store.fields(hash).await.unwrap().is_empty(), "{hash:?}");
    }
    push(&store, &two, 1_000_000).await.unwrap();
}

#[tokio::test]
async fn old_stages_make_room() {
    let (store, acme) = (store(), acme());
    for n in 0..12 {
        let bytes = code(n, 100_000);
        push(&store, &bytes, 1 << 30).await.unwrap();
        let id = version(&bytes).version;
        let changed = store.change(&acme, |catalog, now_ms| {
            let at_ms = now_ms - 3_600_000 + u64::from(n) * 1_000;
            catalog.activate(&name(), id, at_ms).map_err(StoreError::from)
        });
        changed.await.unwrap();
    }
    let stages = async || store.catalog(&acme).await.unwrap().stages().len();
    assert_eq!(stages().await, 12);
    push(&store, &code(100, 100_000), 1_100_000).await.unwrap();
    assert_eq!(stages().await, 10);
    let refused = push(&store, &code(101, 100_000), 700_000).await;
    assert_eq!(refused, Err(StoreError::OverQuota { limit: 700_000 }), "the last ones are kept");
}

#[tokio::test]
async fn one_upload_of_a_tenant_is_stored_at_a_time() {
    let store = store();
    let lease = crate::domain::keys::plugin_upload_lease(&acme());
    store.backbone.lease(&lease, "other", std::time::Duration::from_secs(60)).await.unwrap();
    let refused = push(&store, &code(1, 10), 1_000).await.unwrap_err();
    assert!(refused == StoreError::Uploading && refused.is_retryable());
    store.backbone.release(&lease, "other").await.unwrap();
    push(&store, &code(1, 10), 1_000).await.unwrap();
}

#[tokio::test]
async fn changes_at_the_same_time_are_all_made() {
    let store = store();
    let versions: Vec<_> = (0..6).map(|n| version(&code(n, 10))).collect();
    let acme = acme();
    let pushes = versions.iter().map(|version| {
        store.change(&acme, |catalog, _| catalog.push(&name(), version.clone()).map_err(StoreError::from))
    });
    for pushed in futures_util::future::join_all(pushes).await {
        pushed.unwrap();
    }
    assert_eq!(store.catalog(&acme).await.unwrap().plugins()[&name()].versions.len(), 6);
}

#[tokio::test]
async fn a_newer_layout_is_told_and_left_alone() {
    let store = store();
    let newer = KvOp::Set("acme".into(), Bytes::from_static(b"{\"schema\":99}"));
    store.backbone.kv(&store.catalogs, newer).await.unwrap();
    let refused = store.catalog(&acme()).await.unwrap_err();
    assert_eq!(refused, StoreError::Catalog(CatalogError::Newer { schema: 99 }));
    assert_eq!(push(&store, &code(1, 10), 1_000).await, Err(refused));
}

#[tokio::test]
async fn reports_of_nodes_that_are_gone_are_forgotten() {
    let store = store();
    let now_ms = store.backbone.clock().now_ms();
    let versions = BTreeMap::from([(ContentHash::of(b"a"), Readiness::Ready)]);
    for (node, at_ms) in [("here", now_ms), ("gone", now_ms - 3_600_000)] {
        let report = Report { at_ms, versions: versions.clone() };
        store.report(&acme(), &NodeId::parse(node).unwrap(), &report).await.unwrap();
    }
    let reports = store.reports(&acme()).await.unwrap();
    assert_eq!(reports.keys().map(NodeId::as_str).collect::<Vec<_>>(), ["here"]);
    assert_eq!(store.fields(&code::state_store(&acme())).await.unwrap().len(), 1);
}

/// Looks for changes in the moment before one is stored, as another node may, after it was on its way for long.
struct Watched {
    under: Arc<Embedded>,
    known_ms: AtomicU64,
}

#[async_trait]
impl Overlay for Watched {
    fn under(&self) -> &Arc<Embedded> {
        &self.under
    }

    async fn kv(&self, store: &KvStore, op: KvOp) -> Result<KvAnswer, BackboneError> {
        if matches!(op, KvOp::Replace(_)) {
            tokio::time::sleep(std::time::Duration::from_millis(SLACK_MS * 2 / 3)).await;
            let KvAnswer::Timed(mark, at_ms) = self.under.kv(store, KvOp::GetTimed(MARK.into())).await?
            else {
                panic!("no answer of that kind")
            };
            self.known_ms.store(Marked { mark, at_ms }.known_ms(), Ordering::SeqCst);
        }
        self.under.kv(store, op).await
    }
}

#[tokio::test]
async fn who_looked_just_before_a_change_was_stored_claims_nothing_of_its_stage() {
    let under = Embedded::new(Arc::new(DirtySet::default()));
    let watched = Arc::new(Watched { under, known_ms: AtomicU64::new(0) });
    let store = PluginStore::new(watched.clone());
    let bytes = code(1, 10);
    push(&store, &bytes, 1_000).await.unwrap();
    let (acme, id) = (acme(), version(&bytes).version);
    for _ in 0..3 {
        for is_on in [true, false] {
            let changed = store.change(&acme, |catalog, now_ms| {
                let next = if is_on {
                    catalog.activate(&name(), id, now_ms)
                } else {
                    catalog.deactivate(&name(), now_ms)
                };
                next.map_err(StoreError::from)
            });
            let from_ms = changed.await.unwrap().stages().last().unwrap().from_ms;
            let known_ms = watched.known_ms.load(Ordering::SeqCst);
            assert!(known_ms < from_ms, "{known_ms} {from_ms}");
        }
    }
}

/// Loses the answer to every second change, or holds changes up until it is too late for them.
struct Bad {
    under: Arc<Embedded>,
    changes: AtomicU32,
    is_slow: bool,
}

#[async_trait]
impl Overlay for Bad {
    fn under(&self) -> &Arc<Embedded> {
        &self.under
    }

    async fn kv(&self, store: &KvStore, op: KvOp) -> Result<KvAnswer, BackboneError> {
        let op = match op {
            KvOp::Replace(replace) if self.is_slow => {
                KvOp::Replace(Box::new(Replace { by_ms: replace.by_ms - 1_000, ..*replace }))
            }
            other => other,
        };
        let is_change = matches!(op, KvOp::Replace(_));
        let answer = self.under.kv(store, op).await;
        if is_change && self.changes.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) && !self.is_slow {
            return Err(BackboneError::Away("the answer was lost".into()));
        }
        answer
    }
}

fn bad(is_slow: bool) -> PluginStore {
    let under = Embedded::new(Arc::new(DirtySet::default()));
    PluginStore::new(Arc::new(Bad { under, changes: AtomicU32::new(0), is_slow }))
}

#[tokio::test]
async fn a_change_whose_answer_was_lost_is_made_once() {
    let store = bad(false);
    let (acme, mut asked) = (acme(), 0);
    let pushed = store.change(&acme, |catalog, _| {
        asked += 1;
        catalog.push(&name(), version(&code(1, 10))).map_err(StoreError::from)
    });
    pushed.await.unwrap();
    assert_eq!(asked, 1);
}

#[tokio::test]
async fn what_is_late_changes_nothing() {
    let store = bad(true);
    assert_eq!(push(&store, &code(1, 10), 1_000).await, Err(StoreError::Busy));
    assert!(store.catalog(&acme()).await.unwrap().plugins().is_empty());
}
