//! What `tidegate plugin test` does not show: several instances, many messages at once, classes and sessions.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use tidegate::backbone::embedded::Embedded;
use tidegate::backbone::wake::DirtySet;
use tidegate::config::{PluginsConfig, TenantPlugins};
use tidegate::domain::{Offset, TenantId};
use tidegate::plugin::answers::AnswerLimits;
use tidegate::plugin::compile::{CompileCommand, NodeKey};
use tidegate::plugin::contract::{Incoming, Recipient};
use tidegate::plugin::{
    DeliverVerdict, Delivery, Facts, HostConfig, Plugin, PluginHost, PublishVerdict, Services, Settings,
};
use tidegate::telemetry::Metrics;

use super::{CODE_KEY, code, committed, guests, path};
use crate::harness::TIDEGATE;

fn host() -> PluginHost {
    let plugins = PluginsConfig {
        workers: NonZeroUsize::new(2).unwrap(),
        instances: 16,
        folder: Some(code()),
        folder_bytes: 1 << 40,
        compile_timeout: Duration::from_secs(600),
        compile_memory: 2 << 30,
    };
    let compiler = CompileCommand { program: TIDEGATE.into(), arguments: vec!["compile-plugin".into()] };
    let services =
        Services { backbone: Embedded::new(Arc::new(DirtySet::default())), metrics: Metrics::default() };
    let key = NodeKey::new(&CODE_KEY);
    PluginHost::start(HostConfig { plugins, compiler, key }, services).unwrap()
}

async fn bound(host: &PluginHost, component: &std::path::Path, settings: &[(&str, &str)]) -> Arc<Plugin> {
    let second = Duration::from_secs(1);
    let limits = TenantPlugins { deadline: 20 * second, ..TenantPlugins::default() };
    let settings = Settings {
        tenant: TenantId::parse("acme").unwrap(),
        name: "example".into(),
        settings: settings.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        limits,
        answers: AnswerLimits { payload_bytes: 64 << 10, targets: 100 },
    };
    let bytes = Bytes::from(std::fs::read(component).unwrap());
    let prepared = host.prepare(bytes, &settings).await.unwrap_or_else(|why| panic!("{why}"));
    host.bind(prepared, settings)
}

fn message(n: u64, data: &Value) -> Delivery {
    Delivery {
        offset: Offset { ms: 1_763_769_600_000 + n, seq: 0 },
        channel: "room:1".into(),
        data: data.to_string().into(),
        facts: Facts::default(),
        class: None,
        recipient: None,
    }
}

fn replaced(verdict: &DeliverVerdict) -> Value {
    match verdict {
        DeliverVerdict::Replace(with) => serde_json::from_slice(&with.data).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_rate_holds_for_all_instances_of_all_bindings_together() {
    let host = host();
    let settings = [("messages", "10"), ("per_s", "4000000000")];
    let component = committed("live-room-filter");
    // Two bindings have no instance in common, as two nodes have none.
    let both = [bound(&host, &component, &settings).await, bound(&host, &component, &settings).await];
    let publish = |plugin, user: &str| {
        let message = Incoming { user: user.into(), channel: "room:1".into(), data: "hi".into() };
        host.on_publish(plugin, message, Facts::default())
    };
    let calls = (0..30).map(|n| publish(&both[n % 2], "ada"));
    let verdicts = futures_util::future::join_all(calls).await;
    let accepted = verdicts.iter().filter(|verdict| **verdict == Ok(PublishVerdict::Accept)).count();
    assert_eq!(accepted, 10, "{verdicts:?}");
    assert_eq!(
        publish(&both[0], "bob").await,
        Ok(PublishVerdict::Accept),
        "everybody has a rate of their own"
    );
}

#[tokio::test]
async fn a_message_is_shown_once_for_each_class() {
    let host = host();
    let plugin = bound(&host, &committed("price-by-class"), &[("fallback", "basic")]).await;
    let data = json!({"item": "lamp", "prices": {"gold": 1, "basic": 3}});
    let classes = ["gold", "", "silver", "basic"];
    let batch = (0..100).flat_map(|n| {
        let data = &data;
        classes.iter().map(move |class| Delivery { class: Some((*class).into()), ..message(n, data) })
    });
    let answers = host.deliver(&plugin, batch.collect()).await;
    assert_eq!(answers.len(), 400);
    for (answer, price) in answers.iter().zip([1, 3, 3, 3].iter().cycle()) {
        assert_eq!(replaced(answer.as_ref().unwrap()), json!({"item": "lamp", "price": price}));
    }
}

#[tokio::test]
async fn a_message_is_shown_once_for_each_session() {
    let host = host();
    let plugin = bound(&host, &committed("personal-view"), &[]).await;
    let data = json!({"text": "psst", "to": ["user-7", "user-8"]});
    let batch = (0..100).map(|n| Delivery {
        recipient: Some(Recipient {
            session: format!("session-{n}").into(),
            user: format!("user-{n}").into(),
            class: "gold".into(),
        }),
        facts: Facts::default().with("user", "user-3"),
        ..message(1, &data)
    });
    let answers = host.deliver(&plugin, batch.collect()).await;
    for (n, answer) in answers.into_iter().enumerate() {
        match (n, answer.unwrap()) {
            (3, mine) => assert_eq!(replaced(&mine)["mine"], true),
            (7 | 8, verdict) => assert_eq!(verdict, DeliverVerdict::Accept),
            (_, verdict) => assert_eq!(verdict, DeliverVerdict::Drop, "user-{n}"),
        }
    }
}

/// Runtimes of languages keep state of their own; many calls of one instance must not make them differ.
#[tokio::test]
async fn javascript_and_python_answer_thousands_of_messages() {
    let host = host();
    for name in ["transformer-js", "transformer-py"] {
        let component = guests::built(&path(&format!("plugins/{name}")), name);
        let plugin = bound(&host, &component, &[]).await;
        let batch =
            (0..2_000).map(|n| message(n, &json!({"n": n, "text": "ada@example.com", "internal": 1})));
        let began = Instant::now();
        let answers = host.deliver(&plugin, batch.collect()).await;
        println!("{name}: {:.0} µs a message", began.elapsed().as_secs_f64() * 1e6 / 2_000.0);
        for (n, answer) in answers.iter().enumerate() {
            let shown = replaced(answer.as_ref().unwrap());
            assert_eq!((&shown["n"], &shown["text"]), (&json!(n), &json!("•••")));
            assert!(shown.get("internal").is_none() && shown["sent_at"].is_string());
        }
        println!("{name}: {} KiB after 2,000 messages", plugin.memory_bytes() >> 10);
    }
}
