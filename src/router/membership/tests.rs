use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use tokio::time::{Instant, advance, sleep};

use super::*;
use crate::backbone::embedded::Embedded;
use crate::backbone::overlay::Overlay;
use crate::domain::TenantId;

/// A backbone that knows nothing but nodes.
struct Nodes {
    embedded: Arc<Embedded>,
    records: Mutex<Vec<(NodeId, String)>>,
    away: Mutex<bool>,
    hangs: Mutex<bool>,
    beats: AtomicUsize,
}

impl Nodes {
    fn new() -> Self {
        let (records, away, hangs, beats) = Default::default();
        Self { embedded: Embedded::new(Arc::default()), records, away, hangs, beats }
    }

    fn put(&self, node: &NodeId, record: &str) {
        let mut records = self.records.lock().unwrap();
        records.retain(|(id, _)| id != node);
        records.push((node.clone(), record.to_owned()));
    }
}

#[async_trait]
impl Overlay for Nodes {
    fn under(&self) -> &Arc<Embedded> {
        &self.embedded
    }

    async fn heartbeat(
        &self,
        node: &NodeId,
        record: &str,
        lease: Duration,
    ) -> Result<Vec<(NodeId, String)>, BackboneError> {
        assert_eq!(lease, LEASE);
        self.beats.fetch_add(1, Ordering::Relaxed);
        if *self.hangs.lock().unwrap() {
            sleep(Duration::from_secs(3600)).await;
        }
        if *self.away.lock().unwrap() {
            return Err(BackboneError::Away("gone".into()));
        }
        self.put(node, record);
        Ok(self.records.lock().unwrap().clone())
    }

    async fn forget_node(&self, node: &NodeId) -> Result<(), BackboneError> {
        self.records.lock().unwrap().retain(|(id, _)| id != node);
        Ok(())
    }
}

fn node(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

/// A member "a" in a cluster of fakes.
struct Cluster {
    backbone: Arc<Nodes>,
    record: watch::Sender<NodeRecord>,
    members: watch::Receiver<Arc<Members>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

fn cluster() -> Cluster {
    let backbone = Arc::new(Nodes::new());
    let (record, seen) = watch::channel(NodeRecord::new(Some("wss://a.example".into())));
    let stop = CancellationToken::new();
    let (members, task) = start(backbone.clone(), node("a"), seen, stop.clone());
    Cluster { backbone, record, members, stop, task }
}

impl Cluster {
    fn names(&mut self) -> Vec<String> {
        self.members.borrow_and_update().nodes().iter().map(|member| member.id.to_string()).collect()
    }

    async fn changed(&mut self) {
        timeout(Duration::from_secs(60), self.members.changed()).await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_is_its_own_home_before_the_backbone_answers() {
    let mut cluster = cluster();
    assert_eq!(cluster.names(), ["a"]);
    let key = AffinityKey::new(&TenantId::parse("demo").unwrap(), b"alice");
    assert_eq!(cluster.members.borrow().home(key), Some(&node("a")));
}

#[tokio::test(start_paused = true)]
async fn nodes_come_and_go() {
    let mut cluster = cluster();
    cluster.backbone.put(&node("b"), r#"{"v":7,"weight":5,"of_the_future":{"x":1}}"#);
    cluster.backbone.put(&node("broken"), "no json");
    cluster.changed().await;
    assert_eq!(cluster.names(), ["a", "b"]);
    let members = cluster.members.borrow().clone();
    assert_eq!(members.get(&node("b")).unwrap().weight, 5);
    assert_eq!(members.get(&node("a")).unwrap().url.as_deref(), Some("wss://a.example"));
    assert_eq!(members.get(&node("broken")), None);
    Backbone::forget_node(&*cluster.backbone, &node("b")).await.unwrap();
    cluster.changed().await;
    assert_eq!(cluster.names(), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn the_last_known_stay_while_the_backbone_is_away_or_hangs() {
    let mut cluster = cluster();
    cluster.backbone.put(&node("b"), "{}");
    cluster.changed().await;
    *cluster.backbone.away.lock().unwrap() = true;
    Backbone::forget_node(&*cluster.backbone, &node("b")).await.unwrap();
    advance(LEASE * 3).await;
    assert_eq!(cluster.names(), ["a", "b"]);
    *cluster.backbone.hangs.lock().unwrap() = true;
    sleep(PERIOD + PATIENCE / 2).await;
    *cluster.backbone.away.lock().unwrap() = false;
    *cluster.backbone.hangs.lock().unwrap() = false;
    cluster.changed().await;
    assert_eq!(cluster.names(), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_changed_record_is_sent_at_once() {
    let mut cluster = cluster();
    cluster.backbone.put(&node("b"), "{}");
    cluster.changed().await;
    let asked = Instant::now();
    cluster.record.send_modify(|record| record.draining = true);
    cluster.changed().await;
    assert!(asked.elapsed() < PERIOD / 2);
    let stored = cluster.backbone.records.lock().unwrap().clone();
    assert!(stored.iter().any(|(id, json)| id.as_str() == "a" && json.contains(r#""draining":true"#)));
    let key = |n: u8| AffinityKey::new(&TenantId::parse("demo").unwrap(), &[n]);
    let members = cluster.members.borrow().clone();
    assert!((0..50).all(|n| members.home(key(n)) == Some(&node("b"))));
    assert_eq!(members.ranked(key(1)), [&node("b")]);
}

#[tokio::test(start_paused = true)]
async fn heartbeats_come_every_two_seconds_and_only_changes_wake() {
    let mut cluster = cluster();
    sleep(PERIOD * 5 + PERIOD / 2).await;
    assert_eq!(cluster.backbone.beats.load(Ordering::Relaxed), 6);
    assert!(!cluster.members.has_changed().unwrap());
    // Without anybody to change the record the task neither ends nor spins.
    drop(std::mem::replace(&mut cluster.record, watch::channel(NodeRecord::new(None)).0));
    sleep(PERIOD * 5).await;
    assert_eq!(cluster.backbone.beats.load(Ordering::Relaxed), 11);
}

#[tokio::test(start_paused = true)]
async fn a_clean_stop_takes_the_record_away_even_while_a_heartbeat_hangs() {
    for hangs in [false, true] {
        let cluster = cluster();
        sleep(PERIOD / 2).await;
        assert_eq!(cluster.backbone.records.lock().unwrap().len(), 1);
        *cluster.backbone.hangs.lock().unwrap() = hangs;
        sleep(PERIOD).await;
        cluster.stop.cancel();
        cluster.task.await.unwrap();
        assert!(cluster.backbone.records.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn who_is_asked_names_all_that_live_and_whom_they_may_serve() {
    let backbone = Nodes::new();
    backbone.put(&node("acme-only"), r#"{"tenants": ["acme"]}"#);
    backbone.put(&node("older"), "{}");
    backbone.put(&node("newer"), r#"{"tenants": "all"}"#);
    let record = NodeRecord { tenants: Some(BTreeSet::new()), ..NodeRecord::new(None) };
    let other = TenantId::parse("other").unwrap();
    let asked = ask(&backbone, &node("none"), &record).await.unwrap();
    let may_serve: Vec<_> =
        asked.iter().map(|(id, record)| (id.as_str(), record.may_serve(&other))).collect();
    assert_eq!(may_serve, [("acme-only", false), ("older", true), ("newer", true), ("none", false)]);
}

#[test]
fn a_record_survives_its_json() {
    let record = NodeRecord { draining: true, weight: 7, ..NodeRecord::new(Some("wss://x".into())) };
    let json = serde_json::to_string(&record).unwrap();
    assert_eq!(json, r#"{"v":1,"url":"wss://x","weight":7,"draining":true}"#);
    let tenants = Some(BTreeSet::from([TenantId::parse("acme").unwrap()]));
    let saying = NodeRecord { tenants, ..record.clone() };
    assert_eq!(serde_json::from_str::<NodeRecord>(&serde_json::to_string(&saying).unwrap()).unwrap(), saying);
    assert_eq!(serde_json::from_str::<NodeRecord>(&json).unwrap(), record);
    assert_eq!(serde_json::from_str::<NodeRecord>("{}").unwrap(), NodeRecord::new(None));
}
