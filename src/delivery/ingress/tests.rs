//! Readers over an embedded backbone that fails, and answers late.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::*;
use crate::backbone::Addition;
use crate::backbone::embedded::Embedded;
use crate::backbone::overlay::Overlay;
use crate::config::Config;
use crate::domain::RawEntry;
use crate::plugin::Plugins;

/// Every answer comes some turns later; of the commands that write, some fail, done or not done.
struct Shaky {
    embedded: Arc<Embedded>,
    random: AtomicU64,
    /// One in so many fails; 0: none.
    failing: u64,
    /// Keys that hold no stream.
    wrong: Mutex<Vec<String>>,
    /// Nothing is written at all.
    away: AtomicBool,
}

impl Shaky {
    fn new(embedded: Arc<Embedded>, seed: u64, failing: u64) -> Arc<Self> {
        let (wrong, away) = Default::default();
        Arc::new(Self { embedded, random: AtomicU64::new(seed), failing, wrong, away })
    }

    /// A number below `below` (splitmix64, so that a failing run can be made again).
    fn draw(&self, below: u64) -> u64 {
        let mut z = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    fn fails(&self) -> Option<BackboneError> {
        if self.away.load(Ordering::Relaxed) {
            return Some(BackboneError::Away("gone".into()));
        }
        let fails = self.failing > 0 && self.draw(self.failing) == 0;
        fails.then(|| BackboneError::ReadOnly("now and then".into()))
    }

    async fn turns(&self) {
        for _ in 0..self.draw(6) {
            tokio::task::yield_now().await;
        }
    }
}

#[async_trait]
impl Overlay for Shaky {
    fn under(&self) -> &Arc<Embedded> {
        &self.embedded
    }

    async fn append_all(&self, additions: &[Addition]) -> Vec<Result<Offset, BackboneError>> {
        let mut answers = Vec::new();
        for addition in additions {
            let wrong = self.wrong.lock().unwrap().iter().any(|key| key == addition.stream.as_str());
            let answer = match self.fails() {
                _ if wrong => Err(BackboneError::WrongType(addition.stream.to_string())),
                Some(error) if self.draw(2) == 0 => Err(error),
                // It is there, and nobody knows.
                Some(error) if !self.away.load(Ordering::Relaxed) => {
                    self.embedded.append_all(std::slice::from_ref(addition)).await.remove(0).and(Err(error))
                }
                Some(error) => Err(error),
                None => self.embedded.append_all(std::slice::from_ref(addition)).await.remove(0),
            };
            answers.push(answer);
            if self.draw(4) == 0 {
                self.turns().await;
            }
        }
        self.turns().await;
        answers
    }

    async fn take(&self, take: &Take) -> Result<Vec<Work>, BackboneError> {
        self.turns().await;
        let taken = self.embedded.take(take).await;
        self.turns().await;
        // The answer is lost; the entries were given out.
        self.fails().map_or(taken, Err)
    }

    async fn finish(&self, group: &Group, offsets: &[Offset]) -> Result<(), BackboneError> {
        self.turns().await;
        match self.fails() {
            Some(error) => Err(error),
            None => self.embedded.finish(group, offsets).await,
        }
    }
}

struct Rig {
    embedded: Arc<Embedded>,
    dirty: Arc<DirtySet>,
    tenants: Arc<Tenants>,
    tenant: TenantId,
}

impl Rig {
    fn new() -> Self {
        let toml = "[tenants.acme.namespaces.room]\n\
                    [tenants.acme.namespaces.jobs]\nkind = \"queue\"\nretention_max_len = 2";
        let config = Config::from_toml(toml, &|_| None).unwrap();
        let dirty = Arc::new(DirtySet::default());
        let embedded = Embedded::new(dirty.clone());
        let tenants = Arc::new(Tenants::from_config(&config));
        Self { embedded, dirty, tenants, tenant: TenantId::parse("acme").unwrap() }
    }

    fn upstream(&self) -> Upstream {
        let node = NodeId::parse("up").unwrap();
        let stop = CancellationToken::new();
        Upstream::spawn(self.embedded.clone(), node, self.tenants.clone(), Metrics::default(), stop).0
    }

    fn ingress(&self, node: &str, backbone: Arc<dyn Backbone>) -> Ingress {
        Ingress {
            backbone,
            dirty: self.dirty.clone(),
            tenants: self.tenants.clone(),
            metrics: Metrics::default(),
            plugins: Plugins::none(),
            upstream: self.upstream(),
            node: NodeId::parse(node).unwrap(),
            options: IngressOptions::default(),
        }
    }

    async fn add(&self, to: &str, data: &str) -> Offset {
        let fields = [("to", to), ("data", data)];
        let fields = fields.map(|(name, value)| (name.into(), value.to_owned().into())).to_vec();
        self.embedded.append(&StreamKey::ingress(&self.tenant), fields, None).await.unwrap()
    }

    fn stream(&self, key: &str) -> Vec<RawEntry> {
        self.embedded.with_store(|store| {
            let stream = store.stream(format!("tg:acme:{key}").as_bytes());
            stream.map(|stream| stream.log.range(Offset::ZERO..=Offset::MAX).collect()).unwrap_or_default()
        })
    }

    fn data(&self, key: &str) -> Vec<String> {
        self.stream(key).iter().map(|entry| text(entry, "data")).collect()
    }

    async fn worked_off(&self) {
        while !self.stream("in").is_empty() {
            sleep(Duration::from_millis(50)).await;
        }
    }
}

fn text(entry: &RawEntry, name: &str) -> String {
    let value = entry.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.clone());
    String::from_utf8(value.unwrap_or_else(Bytes::new).to_vec()).unwrap()
}

/// Two nodes that both believe for the whole time that they have the lease, over a backbone that fails:
/// worse than anything that a lease lets happen. Real time, because the backbone's offsets are.
#[tokio::test]
async fn first_writes_are_in_order_and_each_is_made_once_whoever_reads() {
    for seed in 0..12 {
        let rig = Rig::new();
        let mut wanted: HashMap<String, Vec<String>> = HashMap::new();
        let mut readers = JoinSet::new();
        let stop = CancellationToken::new();
        for node in ["one", "two"] {
            let shaky = Shaky::new(rig.embedded.clone(), seed * 7 + node.len() as u64, 60);
            let mut reader = Reader::new(rig.ingress(node, shaky), rig.tenant.clone(), stop.child_token());
            readers.spawn(async move { reader.read().await });
        }
        for n in 0..150_u64 {
            let to: Vec<_> =
                (0..5).filter(|c| (n * 31 + c * 17 + seed) % 3 != 0).map(|c| format!("room:{c}")).collect();
            rig.add(&to.join(","), &n.to_string()).await;
            for channel in to {
                wanted.entry(channel).or_default().push(n.to_string());
            }
            if n % 10 == 0 {
                tokio::task::yield_now().await;
            }
        }
        tokio::time::timeout(Duration::from_secs(60), rig.worked_off()).await.expect("it is worked off");
        stop.cancel();
        while readers.join_next().await.is_some() {}
        for (channel, wanted) in wanted {
            assert_eq!(rig.data(&format!("ch:{channel}")), wanted, "{channel}, seed {seed}");
        }
        assert!(rig.stream("dlq").is_empty(), "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_target_s_end_is_not_another_s() {
    let rig = Rig::new();
    let shaky = Shaky::new(rig.embedded.clone(), 1, 0);
    shaky.wrong.lock().unwrap().push("tg:acme:ch:room:wrong".into());
    let first = rig.add("room:1,room:wrong,room,nowhere:1", "a").await;
    let poison = rig.add("", "b").await;
    rig.add("room:1", "c").await;
    let stop = CancellationToken::new();
    let mut reader = Reader::new(rig.ingress("one", shaky), rig.tenant.clone(), stop.clone());
    let metrics = reader.metrics.clone();
    let reading = tokio::spawn(async move { reader.read().await });
    rig.worked_off().await;
    assert_eq!(rig.data("ch:room:1"), ["a", "c"]);
    let letters: Vec<_> = rig
        .stream("dlq")
        .iter()
        .map(|letter| {
            [text(letter, "reason"), text(letter, "channel"), text(letter, "in"), text(letter, "data")]
        })
        .collect();
    let (first, poison) = (first.to_string(), poison.to_string());
    for wanted in [
        ["bad_channel", "room", &first, "a"],
        ["unknown_namespace", "nowhere:1", &first, "a"],
        ["wrong_type", "room:wrong", &first, "a"],
        ["bad_entry", "", &poison, "b"],
    ] {
        assert!(letters.iter().any(|letter| letter == &wanted), "{wanted:?} of {letters:?}");
    }
    assert_eq!(letters.len(), 4, "{letters:?}");
    let counted = |outcome| metrics.publishes.of(crate::telemetry::Via::Ingress).of(outcome).get();
    use crate::telemetry::PublishOutcome::{Accepted, Failed, Invalid};
    assert_eq!((counted(Accepted), counted(Invalid), counted(Failed)), (2, 3, 1));
    stop.cancel();
    reading.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_is_waited_for_once_and_then_no_more() {
    let rig = Rig::new();
    let shaky = Shaky::new(rig.embedded.clone(), 1, 0);
    for n in 0..6 {
        rig.add("jobs:1,room:1", &n.to_string()).await;
    }
    let stop = CancellationToken::new();
    let mut reader = Reader::new(rig.ingress("one", shaky), rig.tenant.clone(), stop.clone());
    let patience = reader.ingress.options.patience;
    let began = Instant::now();
    let reading = tokio::spawn(async move { reader.read().await });
    rig.worked_off().await;
    assert!((patience..2 * patience).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert_eq!(rig.data("ch:jobs:1"), ["0", "1"]);
    assert_eq!(rig.data("ch:room:1").len(), 6);
    assert_eq!(rig.data("dlq"), ["2", "3", "4", "5"]);
    rig.embedded.with_store(|store| store.delete(b"tg:acme:ch:jobs:1"));
    rig.add("jobs:1", "again").await;
    rig.worked_off().await;
    assert_eq!(rig.data("ch:jobs:1"), ["again"], "a queue that takes something is waited for again");
    stop.cancel();
    reading.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn with_the_backbone_away_nothing_is_given_up_and_the_end_is_not_held_up() {
    let rig = Rig::new();
    let shaky = Shaky::new(rig.embedded.clone(), 1, 0);
    rig.add("room:1", "a").await;
    shaky.away.store(true, Ordering::Relaxed);
    let stop = CancellationToken::new();
    let reading = rig.ingress("one", shaky.clone()).spawn(stop.clone());
    sleep(Duration::from_secs(120)).await;
    assert_eq!((rig.stream("in").len(), rig.stream("dlq").len()), (1, 0));
    shaky.away.store(false, Ordering::Relaxed);
    rig.worked_off().await;
    assert_eq!(rig.data("ch:room:1"), ["a"]);
    shaky.away.store(true, Ordering::Relaxed);
    rig.add("room:1", "b").await;
    sleep(Duration::from_secs(20)).await;
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(3), reading).await.expect("it ends").unwrap();
    assert_eq!(rig.stream("in").len(), 1, "what was not written is left to whoever reads next");
}

#[tokio::test(start_paused = true)]
async fn one_node_reads_and_the_next_one_follows() {
    let rig = Rig::new();
    let (one, two) = (Shaky::new(rig.embedded.clone(), 1, 0), Shaky::new(rig.embedded.clone(), 2, 0));
    let (first_stop, second_stop) = (CancellationToken::new(), CancellationToken::new());
    let first = rig.ingress("one", one.clone());
    let (first_metrics, second) = (first.metrics.tenant(&rig.tenant), rig.ingress("two", two.clone()));
    let second_metrics = second.metrics.tenant(&rig.tenant);
    let held = || (first_metrics.ingress_held.get(), second_metrics.ingress_held.get());
    let first = first.spawn(first_stop.clone());
    sleep(Duration::from_millis(100)).await;
    let second = second.spawn(second_stop.clone());
    sleep(Duration::from_secs(60)).await;
    assert_eq!(held(), (1, 0));
    rig.add("room:1", "a").await;
    rig.worked_off().await;
    first_stop.cancel();
    first.await.unwrap();
    rig.add("room:1", "b").await;
    // The lease was released: nobody waits for its end.
    tokio::time::timeout(Duration::from_secs(6), rig.worked_off()).await.expect("the next one reads");
    assert_eq!(held(), (0, 1));
    assert_eq!(rig.data("ch:room:1"), ["a", "b"]);
    second_stop.cancel();
    second.await.unwrap();
}
