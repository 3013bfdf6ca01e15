//! With a real host and a real component.

use std::time::Duration;

use tokio::time::timeout;

use super::*;
use crate::backbone::Range;
use crate::delivery::View;
use crate::domain::{ChannelName, NamespaceRules, SessionId, UserId};
use crate::plugin::tables::{Slot, Stage, TablesKeeper};
use crate::plugin::tests::Rig;
use crate::plugin::{Table, Tables};
use crate::telemetry::Metrics;

/// Long ago, so that it is known what is on then.
const THEN: u64 = 1_700_000_000_000;

fn channel() -> Channel {
    let (tenant, name) = (TenantId::parse("acme").unwrap(), ChannelName::parse("room:1").unwrap());
    let view = View::shared(StreamKey::channel(&tenant, &name));
    let rules = Arc::new(NamespaceRules::log("room"));
    let metrics = Metrics::default().tenant(&tenant);
    Channel { tenant, name, view, rules, max_payload: 1_000, metrics }
}

fn items(texts: &[&str]) -> Vec<Item> {
    let item = |(n, text): (usize, &&str)| {
        let offset = Offset { ms: THEN + n as u64, seq: 0 };
        let data = bytes::Bytes::copy_from_slice(text.as_bytes());
        Item::new(offset, Some(Arc::new(Publication { offset, data, ..Publication::default() })))
    };
    texts.iter().enumerate().map(item).collect()
}

fn seen(items: &[Item]) -> Vec<Option<&str>> {
    items
        .iter()
        .map(|item| item.message.as_ref().map(|message| std::str::from_utf8(&message.data).unwrap()))
        .collect()
}

/// A shaper of one tenant, with this plugin from a moment on.
fn shaper(rig: &Rig, plugin: &Arc<Plugin>, from_ms: u64) -> (TablesKeeper, Shaper) {
    let (keeper, tables) = Tables::new(THEN + 1_000);
    let slots = vec![Slot { active: Some(plugin.clone()), canary: None }];
    keeper.set(plugin.tenant().clone(), Table::new(vec![Stage { from_ms, slots }]));
    let plugins = Plugins { tables, host: Some(rig.host.clone()) };
    (keeper, Shaper::new(plugins, rig.backbone.clone()))
}

#[tokio::test]
async fn messages_are_what_the_plugin_says_from_its_moment_on() {
    let rig = Rig::new();
    let (_keeper, shaper) = shaper(&rig, &rig.probe().await, THEN + 1);
    let (channel, items) = (channel(), items(&["upper before", "upper after", "drop this", "plain"]));
    assert!(shaper.passes(&channel.tenant, &items[..1]), "no version is on yet");
    assert!(!shaper.passes(&channel.tenant, &items));
    let shaped = shaper.shape(&channel, &Audience::Everyone, &items).await.unwrap();
    assert_eq!(seen(&shaped), [Some("upper before"), Some("UPPER AFTER"), None, Some("plain")]);
    let changed = shaped[1].message.as_ref().unwrap();
    assert_eq!((changed.header("x-by"), changed.offset), (Some("probe"), items[1].offset));
    assert_eq!(&*shaped[1].original.as_ref().unwrap().data, b"upper after");
    assert!(shaped[3].original.is_none() && shaped[2].offset == items[2].offset);
}

#[tokio::test]
async fn what_was_made_once_is_shown_again() {
    let rig = Rig::new();
    let (_keeper, shaper) = shaper(&rig, &rig.probe().await, 0);
    let (channel, items) = (channel(), items(&["calls"]));
    let first = shaper.shape(&channel, &Audience::Everyone, &items).await.unwrap();
    for audience in [Audience::Everyone, Audience::Class("gold".into())] {
        let again = shaper.shape(&channel, &audience, &items).await.unwrap();
        assert_eq!(seen(&again), seen(&first), "one call for everybody");
    }
}

#[tokio::test]
async fn an_entry_waits_until_it_is_known_what_it_meets() {
    let rig = Rig::new();
    let probe = rig.probe().await;
    let (keeper, tables) = Tables::new(THEN - 1);
    let plugins = Plugins { tables, host: Some(rig.host.clone()) };
    let shaper = Shaper::new(plugins, rig.backbone.clone());
    let (channel, items) = (channel(), items(&["upper"]));
    assert!(!shaper.passes(&channel.tenant, &items), "a version may be on that nobody here knows");
    let shaping = shaper.shape(&channel, &Audience::Everyone, &items);
    tokio::pin!(shaping);
    assert!(timeout(Duration::from_millis(50), &mut shaping).await.is_err());
    let slots = vec![Slot { active: Some(probe.clone()), canary: None }];
    keeper.set(probe.tenant().clone(), Table::new(vec![Stage { from_ms: THEN, slots }]));
    keeper.known_until(THEN);
    assert_eq!(seen(&shaping.await.unwrap()), [Some("UPPER")]);
}

#[tokio::test]
async fn the_tenant_says_what_becomes_of_a_message_whose_plugin_fails() {
    let channel = channel();
    let letters = StreamKey::dead_letters(&channel.tenant);
    for (policy, becomes, written) in [
        (OnFailure::Open, Some("trap here"), 0),
        (OnFailure::Drop, None, 0),
        (OnFailure::DeadLetter, None, 1),
    ] {
        let rig = Rig::new();
        let plugin = rig.probe_that_fails(policy).await;
        // Two nodes have subscribers.
        for _ in 0..2 {
            let (_keeper, shaper) = shaper(&rig, &plugin, 0);
            let items = items(&["plain", "trap here", "upper"]);
            let shaped = shaper.shape(&channel, &Audience::Everyone, &items).await.unwrap();
            assert_eq!(seen(&shaped), [Some("plain"), becomes, Some("UPPER")], "{policy:?}");
        }
        let range = Range { before: None, after: None, limit: 10 };
        let letters = rig.backbone.history(&letters, range).await.unwrap();
        assert_eq!(letters.len(), written, "{policy:?}");
        if let Some(letter) = letters.first() {
            let field = |name: &str| {
                letter.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
            };
            assert_eq!(field("reason").unwrap(), "plugin");
            assert_eq!(field("data").unwrap(), "trap here");
            assert!(field("error").unwrap().starts_with(b"the plugin trapped"));
        }
    }
}

#[tokio::test]
async fn the_letters_of_one_tenant_leave_others_theirs() {
    let rig = Rig::new();
    let (_keeper, shaper) = shaper(&rig, &rig.probe().await, 0);
    let (acme, other) = (TenantId::parse("acme").unwrap(), TenantId::parse("other").unwrap());
    while shaper.may_bury(&acme) {}
    assert!(shaper.may_bury(&other));
}

#[test]
fn an_audience_is_narrowed_as_far_as_the_plugin_looks() {
    let class = Audience::Class("gold".into());
    let (session, user) = (SessionId::random(), UserId::parse("ada").unwrap());
    let subscriber = crate::delivery::Subscriber { session, user, class: Some("gold".into()) };
    let one = Audience::Session(Arc::new(subscriber));
    for (audience, scope, narrow) in [
        (&one, Scope::Message, Some(Audience::Everyone)),
        (&one, Scope::Class, Some(class.clone())),
        (&one, Scope::Session, Some(one.clone())),
        (&class, Scope::Class, Some(class.clone())),
        (&class, Scope::Session, None),
        (&Audience::Everyone, Scope::Message, Some(Audience::Everyone)),
        (&Audience::Everyone, Scope::Class, None),
    ] {
        assert_eq!(narrowed(audience, scope), narrow, "{audience:?} {scope:?}");
    }
}
