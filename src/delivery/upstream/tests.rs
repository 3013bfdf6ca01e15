//! The writer over an embedded backbone.

use super::*;
use crate::backbone::embedded::Embedded;
use crate::backbone::{BackboneError, Range};
use crate::config::Config;
use crate::domain::{EventRules, RawEntry, UserId};

struct Rig {
    backbone: Arc<Embedded>,
    upstream: Upstream,
    metrics: Metrics,
    tenant: Arc<Tenant>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

fn rig() -> Rig {
    let config =
        Config::from_toml("[tenants.acme.events]\nkinds = ['subscribed', 'undelivered']", &|_| None).unwrap();
    let tenants = Arc::new(Tenants::from_config(&config));
    let tenant = tenants.get("acme").unwrap();
    let (backbone, metrics, stop) =
        (Embedded::new(Arc::default()), Metrics::default(), CancellationToken::new());
    let node = NodeId::parse("edge-1").unwrap();
    let (upstream, task) = Upstream::spawn(backbone.clone(), node, tenants, metrics.clone(), stop.clone());
    Rig { backbone, upstream, metrics, tenant, stop, task }
}

impl Rig {
    fn who() -> Who {
        Who { user: UserId::parse("alice").unwrap(), session: None, device: None }
    }

    async fn add(&self, fields: &[(&'static str, &'static str)]) -> Offset {
        let stream = StreamKey::channel(&self.tenant.id, &ChannelName::personal(&Self::who().user));
        let field = |(name, value): &(&'static str, &'static str)| (Bytes::from(*name), Bytes::from(*value));
        self.backbone.append(&stream, fields.iter().map(field).collect(), None).await.unwrap()
    }

    /// Ends the writer; what it has written.
    async fn written(self) -> Vec<RawEntry> {
        self.stop.cancel();
        self.task.await.unwrap();
        let range = Range { before: None, after: Some(Offset::ZERO), limit: usize::MAX };
        let up: Result<_, BackboneError> =
            self.backbone.history(&StreamKey::upstream(&self.tenant.id), range).await;
        up.unwrap()
    }
}

fn text(entry: &RawEntry, name: &str) -> Option<String> {
    let field = entry.fields.iter().find(|(field, _)| field == name)?;
    Some(String::from_utf8_lossy(&field.1).into_owned())
}

#[tokio::test]
async fn what_finds_no_room_is_counted_and_the_rest_is_written_in_order() {
    let rig = rig();
    for n in 0..QUEUE + 3 {
        let channel = ChannelName::parse(&format!("room:{n}")).unwrap();
        // The writer is on this thread and has not run yet.
        rig.upstream.tell(&rig.tenant, SessionEvent::Subscribed(channel), Rig::who);
    }
    let metrics = rig.metrics.tenant(&rig.tenant.id);
    assert_eq!(metrics.session_events_dropped.get(), 3);
    let written = rig.written().await;
    assert_eq!(written.len(), QUEUE);
    assert_eq!(metrics.session_events.of(EventKind::Subscribed).get(), QUEUE as u64);
    let in_order = |(n, entry): (usize, &RawEntry)| text(entry, "channel") == Some(format!("room:{n}"));
    assert!(written.iter().enumerate().all(in_order));
}

#[tokio::test]
async fn only_what_a_client_would_have_got_is_undelivered() {
    let rig = rig();
    let before = rig.add(&[("data", "handled")]).await;
    let expired = rig.add(&[("data", "late"), ("ttl_ms", "0")]).await;
    let malformed = rig.add(&[("nothing", "of use")]).await;
    // Times to live are told in milliseconds.
    while rig.backbone.clock().now_ms() <= expired.ms {
        tokio::task::yield_now().await;
    }
    rig.upstream.note_left_over(&rig.tenant, Rig::who(), before, malformed);
    let first = rig.add(&[("data", "one")]).await;
    let second = rig.add(&[("data", "two")]).await;
    let later = rig.add(&[("data", "after the session's end")]).await;
    rig.upstream.note_left_over(&rig.tenant, Rig::who(), before, second);
    let written = rig.written().await;
    let [entry] = &written[..] else { panic!("{written:?}") };
    assert_eq!(text(entry, "count").as_deref(), Some("2"), "{first} and {second}, not {later}");
    assert_eq!(text(entry, "after"), Some(before.to_string()));
    assert_eq!(text(entry, "until"), Some(second.to_string()));
}

#[tokio::test]
async fn a_count_is_told_where_it_is_certain() {
    let rig = rig();
    let mut last = Offset::ZERO;
    for _ in 0..150 {
        last = rig.add(&[("data", "x")]).await;
    }
    rig.upstream.note_left_over(&rig.tenant, Rig::who(), Offset::ZERO, last);
    let written = rig.written().await;
    assert_eq!((text(&written[0], "count"), text(&written[0], "until")), (None, Some(last.to_string())));
}

#[tokio::test]
async fn a_channel_that_is_watched_has_somebody() {
    let rig = rig();
    let channel = ChannelName::personal(&Rig::who().user);
    let stream = StreamKey::channel(&rig.tenant.id, &channel);
    let offset = rig.add(&[("data", "x")]).await;
    rig.backbone.watch(std::slice::from_ref(&stream)).await.unwrap();
    rig.upstream.note_unwatched(&rig.tenant.id, &channel, offset);
    let other = ChannelName::parse("user:bob").unwrap();
    rig.upstream.note_unwatched(&rig.tenant.id, &other, offset);
    for nobody_s in ["room:1", "user:%zz"] {
        rig.upstream.note_unwatched(&rig.tenant.id, &ChannelName::parse(nobody_s).unwrap(), offset);
    }
    let written = rig.written().await;
    let channels: Vec<_> = written.iter().map(|entry| text(entry, "channel").unwrap()).collect();
    assert_eq!(channels, ["user:bob"]);
}

#[test]
fn by_default_nothing_is_told() {
    assert!(EventKind::ALL.iter().all(|kind| !EventRules::default().has(*kind)));
}
