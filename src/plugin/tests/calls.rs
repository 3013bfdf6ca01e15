//! Hooks that answer.

use super::super::contract::{Credentials, Incoming, SessionChange, SessionNews, SubscribeRequest};
use super::*;
use crate::domain::{ChannelName, Publication};

fn credentials(token: &str) -> Credentials {
    Credentials { token: Some(token.into()), refreshes: None }
}

fn publication(data: &str) -> Incoming {
    Incoming { user: "ada".into(), channel: "room:1".into(), data: Bytes::copy_from_slice(data.as_bytes()) }
}

fn request(pairs: &[(&str, &str)]) -> Facts {
    let pairs = pairs.iter().map(|(name, value)| ((*name).into(), (*value).into()));
    Facts::about(About::Request(pairs.collect()))
}

#[tokio::test]
async fn a_client_is_somebody_or_is_refused() {
    let rig = Rig::new();
    let probe = rig.probe().await;
    assert_eq!(probe.hooks().iter().count(), 6);
    assert_eq!(probe.hooks().scope(), Some(Scope::Message));
    let facts = request(&[("x-claims", r#"{"team":7}"#)]);
    let Ok(Admission::Admitted(ada)) = rig.host.authenticate(&probe, credentials("ada/gold"), facts).await
    else {
        panic!("refused")
    };
    assert_eq!((ada.user.as_str(), ada.class.as_deref()), ("ada", Some("gold")));
    assert_eq!(ada.claims.as_deref(), Some(r#"{"team":7}"#));
    assert!(ada.expires_ms.unwrap() > 1_700_000_000_000);
    let facts = Facts::default().with("address", "192.0.2.1");
    let refused = rig.host.authenticate(&probe, credentials("nobody"), facts).await;
    let Ok(Admission::Refused(refusal)) = refused else { panic!("{refused:?}") };
    assert_eq!(&*refusal.reason, "not from 192.0.2.1");
    assert_eq!(rig.count(Hook::Authenticate, PluginOutcome::Answered), 1);
    assert_eq!(rig.count(Hook::Authenticate, PluginOutcome::Refused), 1);
}

#[tokio::test]
async fn subscriptions_and_publications_are_judged() {
    let rig = Rig::new();
    let probe = rig.probe().await;
    let subscribe = async |channel: &str, facts| {
        let request = SubscribeRequest { user: "ada".into(), channel: channel.into() };
        rig.host.on_subscribe(&probe, request, facts).await.unwrap()
    };
    assert_eq!(subscribe("room:1", Facts::default()).await, SubscribeVerdict::Allow);
    let new = ChannelName::parse("room:new").unwrap();
    assert_eq!(subscribe("room:old", Facts::default()).await, SubscribeVerdict::Rewrite(new));
    let denied = subscribe("room:closed", Facts::default().with("class", "free")).await;
    assert!(matches!(denied, SubscribeVerdict::Deny(refusal) if &*refusal.reason == "closed to free"));

    let publish =
        async |data: &str| rig.host.on_publish(&probe, publication(data), Facts::default()).await.unwrap();
    assert_eq!(publish("hello").await, PublishVerdict::Accept);
    assert_eq!(publish("drop it").await, PublishVerdict::Drop);
    assert!(matches!(publish("refuse").await, PublishVerdict::Refuse(_)));
    let PublishVerdict::Redirect(channels, None) = publish("elsewhere").await else { panic!() };
    assert_eq!(channels.len(), 2);
}

#[tokio::test]
async fn entries_are_routed() {
    let rig = Rig::new();
    let probe = rig.probe().await;
    let to = [ChannelName::parse("room:1").unwrap()];
    let route = async |data: &'static str| {
        let offset = Offset { ms: 5, seq: 6 };
        rig.host.route(&probe, offset, &to, data.into(), Facts::default()).await.unwrap()
    };
    assert_eq!(route("any").await, RouteVerdict::Accept);
    assert_eq!(route("drop").await, RouteVerdict::Drop);
    let RouteVerdict::To(channels, None) = route("all").await else { panic!() };
    assert_eq!(channels.last().unwrap().as_str(), "room:log");
    let RouteVerdict::To(_, Some(changed)) = route("change").await else { panic!() };
    assert_eq!(changed.data, "5-6");
}

#[tokio::test]
async fn a_batch_is_answered_in_order() {
    let rig = Rig::new();
    let probe = rig.probe().await;
    let mut batch: Vec<Delivery> = (0..2_000).map(|n| message(&format!("upper {n} a"))).collect();
    batch.push(message("drop"));
    batch.push(message("plain"));
    batch.push(message("setting"));
    let headers = Some(vec![("x".into(), "from the message".into())]);
    let facts = Facts::of(Arc::new(Publication { headers, ..Publication::default() }));
    batch.push(Delivery { facts, ..message("header") });
    let answers = rig.host.deliver(&probe, batch).await;
    for (n, answer) in answers[..2_000].iter().enumerate() {
        assert_eq!(text(answer), format!("UPPER {n} A"));
    }
    assert_eq!(answers[2_000], Ok(DeliverVerdict::Drop));
    assert_eq!(answers[2_001], Ok(DeliverVerdict::Accept));
    assert_eq!((text(&answers[2_002]), text(&answers[2_003])), ("hello", "from the message"));
    assert_eq!(rig.count(Hook::OnDeliver, PluginOutcome::Answered), 2_004);
    assert!(rig.host.deliver(&probe, Vec::new()).await.is_empty());
}

#[tokio::test]
async fn what_is_delivered_depends_on_the_message_alone() {
    let rig = Rig::new();
    let probe = rig.probe().await;
    let ask = async |data: &str| rig.host.deliver(&probe, vec![message(data)]).await;
    assert_eq!(text(&ask("now").await[0]), "1700000000", "the message's time");
    let random = text(&ask("random").await[0]).to_owned();
    assert_eq!(text(&ask("random").await[0]), random);
    let other = Delivery { offset: Offset { ms: 1_700_000_000_123, seq: 5 }, ..message("random") };
    assert_ne!(text(&rig.host.deliver(&probe, vec![other]).await[0]), random);
    assert!(text(&ask("count").await[0]).contains("AccessDenied"));
}

#[tokio::test]
async fn numbers_are_kept_for_the_tenant_and_counted_against_its_quota() {
    let rig = Rig::new();
    let acme = rig.probe().await;
    let limits = TenantPlugins { kv_keys: 0, ..settings("other").limits };
    let other = rig.plugin(PROBE, Settings { limits, ..settings("other") }).await;
    let count = async |plugin| rig.host.on_publish(plugin, publication("count"), Facts::default()).await;
    for expected in ["1", "2", "3"] {
        let Ok(PublishVerdict::Replace(sum)) = count(&acme).await else { panic!() };
        assert_eq!(sum.data, expected);
    }
    let Ok(PublishVerdict::Refuse(refusal)) = count(&other).await else { panic!() };
    assert!(refusal.reason.contains("full"), "{}", refusal.reason);
}

#[tokio::test]
async fn what_plugins_say_is_in_the_tenants_log() {
    let rig = Rig::new();
    let probe = rig.probe().await;
    let news = SessionNews { change: SessionChange::Connected, user: "ada".into(), session: "s".into() };
    rig.host.on_session(&probe, news, Facts::default()).await.unwrap();
    let acme = TenantId::parse("acme").unwrap();
    let log = rig.host.log(&acme, &settings("acme").limits);
    let (lines, next) = log.read(0);
    assert_eq!((&*lines[0].message, &*lines[0].context, &*lines[0].plugin), ("ada came", "session", "probe"));
    rig.host.on_publish(&probe, publication("flood"), Facts::default()).await.unwrap();
    let (kept, after) = log.read(next);
    assert_eq!(after - next, 10_000);
    assert!(kept.len() < 5_000, "bounded, not {}", kept.len());
}

#[tokio::test]
async fn an_instance_is_used_again_but_not_for_ever() {
    let rig = Rig::new();
    let limits = TenantPlugins { instance_calls: 3, ..settings("acme").limits };
    let probe = rig.plugin(PROBE, Settings { limits, ..settings("acme") }).await;
    let answers = rig.host.deliver(&probe, vec![message("calls"); 7]).await;
    let calls: Vec<&str> = answers.iter().map(text).collect();
    assert_eq!(calls, ["1", "2", "3", "1", "2", "3", "1"]);
}

#[tokio::test]
async fn a_retired_plugin_is_not_called_and_leaves_no_instance() {
    let rig = Rig::new();
    let probe = rig.probe().await;
    rig.host.deliver(&probe, vec![message("plain")]).await;
    rig.host.retire(&probe);
    assert_eq!(rig.host.deliver(&probe, vec![message("plain")]).await, [Err(Failure::Unavailable)]);
    while rig.metrics.node().plugin_instances.get() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_rehearsal_is_counted_nowhere_and_leaves_no_instance() {
    let rig = Rig::new();
    let probe = rig.probe().await;
    let rehearsal = rig.host.rehearse(&probe);
    assert_eq!(text(&rehearsal.deliver(message("upper")).await), "UPPER");
    assert!(matches!(rehearsal.deliver(message("trap")).await, Err(Failure::Trap(_))));
    assert!(rehearsal.deliver(message("plain")).await.is_ok());
    let outcomes = [PluginOutcome::Answered, PluginOutcome::Trap];
    assert_eq!(outcomes.map(|outcome| rig.count(Hook::OnDeliver, outcome)), [0, 0]);
    drop(rehearsal);
    while rig.metrics.node().plugin_instances.get() > 0 {
        tokio::task::yield_now().await;
    }
}
