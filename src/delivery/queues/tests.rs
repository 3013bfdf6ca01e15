//! The task over the embedded backbone.

use std::collections::BTreeMap;

use super::*;
use crate::backbone::embedded::Embedded;
use crate::backbone::{Group, Take};
use crate::delivery::View;
use crate::domain::{ChannelName, NamespaceRules, TenantId};
use crate::plugin::{Plugins, Tables};

struct Rig {
    backbone: Arc<Embedded>,
    channel: Arc<Channel>,
    queues: QueuesHandle,
    shard: mpsc::Receiver<Delivery>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Rig {
    /// One shard, whose queue takes so many.
    fn new(capacity: usize) -> Self {
        Self::with_plugins(capacity, Plugins::none())
    }

    fn with_plugins(capacity: usize, plugins: Plugins) -> Self {
        let dirty = Arc::new(DirtySet::default());
        let backbone = Embedded::new(dirty.clone());
        let metrics = Metrics::default();
        let shaper = Arc::new(Shaper::new(plugins, backbone.clone()));
        let tenant = TenantId::parse("acme").unwrap();
        let name = ChannelName::parse("queue:1").unwrap();
        let stream = StreamKey::channel(&tenant, &name);
        let rules = Arc::new(NamespaceRules::queue("queue"));
        let tenant_metrics = metrics.tenant(&tenant);
        let channel = Channel {
            tenant,
            name,
            view: View::shared(stream),
            rules,
            max_payload: 64,
            metrics: tenant_metrics,
        };
        let (to_shard, shard) = mpsc::channel(capacity);
        let (stop, node) = (CancellationToken::new(), NodeId::parse("one").unwrap());
        let options = QueueOptions::default();
        let shards = vec![to_shard];
        let links = QueueLinks { backbone: backbone.clone(), dirty, metrics, shaper, shards };
        let (queues, task) = Queues::spawn(links, node, options, stop.clone());
        Self { backbone, channel: Arc::new(channel), queues, shard, stop, task }
    }

    async fn add(&self, count: usize) -> Vec<Offset> {
        let mut added = Vec::new();
        for _ in 0..count {
            let fields = vec![("data".into(), "x".into())];
            added.push(self.backbone.append(&self.channel.view.stream, fields, None).await.unwrap());
        }
        added
    }

    async fn join(&mut self, worker: WorkerId) {
        let (channel, shard, attempts) = (self.channel.clone(), ShardId(0), 5);
        self.queues
            .send(Request::Join { channel, worker, shard, subscriber: Subscriber::somebody(), attempts })
            .await
            .unwrap();
        match self.shard.recv().await {
            Some(Delivery::QueueOpened { worker: opened, channel: Ok(_), .. }) => assert_eq!(opened, worker),
            other => panic!("{other:?}"),
        }
    }

    async fn tell(&self, worker: WorkerId, word: Word) {
        let stream = self.channel.view.stream.clone();
        self.queues.send(Request::Tell { stream, worker, word }).await.unwrap();
    }

    async fn task(&mut self) -> (WorkerId, Offset) {
        match self.shard.recv().await {
            Some(Delivery::Task { worker, task, .. }) => (worker, task.message.offset),
            other => panic!("{other:?}"),
        }
    }

    /// What another node gets now.
    async fn left(&self) -> Vec<Offset> {
        let group = Group { stream: self.channel.view.stream.clone(), name: GROUP };
        let idle = Duration::from_secs(600);
        let take = Take { group, consumer: "two".into(), count: 100, idle };
        let work = self.backbone.take(&take).await.unwrap();
        work.into_iter().map(|work| work.entry.offset).collect()
    }
}

fn worker() -> WorkerId {
    WorkerId { session: SessionId::random(), attach: 1 }
}

#[tokio::test]
async fn a_full_shard_loses_no_work() {
    let mut rig = Rig::new(1);
    let (ada, bob) = (worker(), worker());
    rig.join(ada).await;
    rig.join(bob).await;
    rig.tell(ada, Word::Want(10)).await;
    rig.tell(bob, Word::Want(10)).await;
    let added = rig.add(20).await;
    let mut got: BTreeMap<Offset, WorkerId> = BTreeMap::new();
    for _ in 0..added.len() {
        let (worker, offset) = rig.task().await;
        assert!(got.insert(offset, worker).is_none(), "{offset} came twice");
    }
    assert!(got.keys().copied().eq(added), "everything came");
    assert_eq!(got.values().filter(|worker| **worker == ada).count(), 10);
}

#[tokio::test]
async fn at_its_end_a_node_gives_back_what_is_not_done() {
    let mut rig = Rig::new(64);
    let ada = worker();
    rig.join(ada).await;
    let added = rig.add(6).await;
    rig.tell(ada, Word::Want(4)).await;
    for _ in 0..4 {
        rig.task().await;
    }
    assert_eq!(rig.left().await, added[4..], "the node has taken no more than was wanted");
    rig.tell(ada, Word::Done(added[1])).await;
    rig.stop.cancel();
    (&mut rig.task).await.unwrap();
    assert_eq!(rig.left().await, [added[0], added[2], added[3]]);
}

#[tokio::test]
async fn what_nobody_can_shape_any_more_is_left_to_other_nodes() {
    // Nobody says any more which version of a plugin a task meets: the node ends.
    let (keeper, tables) = Tables::new(0);
    drop(keeper);
    let mut rig = Rig::with_plugins(64, Plugins { tables, host: None });
    let ada = worker();
    rig.join(ada).await;
    rig.tell(ada, Word::Want(1)).await;
    let added = rig.add(1).await;
    let given_back = async {
        while rig.channel.metrics.work_returned.get() == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout_at(Instant::now() + GOODBYE, given_back).await.expect("the task is not given back");
    assert_eq!(rig.left().await, added);
}
