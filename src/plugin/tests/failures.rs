//! Hooks that do not answer.

use super::super::contract::Incoming;
use super::guests::{self, session};
use super::*;

fn publication(data: &str) -> Incoming {
    Incoming { user: "ada".into(), channel: "room:1".into(), data: Bytes::copy_from_slice(data.as_bytes()) }
}

#[tokio::test]
async fn trap_timeout_and_memory_are_told_apart() {
    let rig = Rig::new();
    let probe = rig.plugin(PROBE, impatient()).await;
    for (word, outcome) in [
        ("trap", PluginOutcome::Trap),
        ("spin", PluginOutcome::Timeout),
        ("bloat", PluginOutcome::OutOfMemory),
    ] {
        // A machine that is busy may be late with anything but an endless loop.
        let limits = if word == "spin" { impatient() } else { settings("acme") };
        let plugin = rig.host.bind(Arc::clone(probe.prepared()), limits);
        let delivered = rig.host.deliver(&plugin, vec![message(word), message("calls")]).await;
        assert_eq!(delivered[0].as_ref().unwrap_err().label(), outcome, "{word}");
        if word != "spin" {
            assert_eq!(text(&delivered[1]), "1", "{word}: another instance");
        }
        let published = rig.host.on_publish(&plugin, publication(word), Facts::default()).await;
        assert_eq!(published.unwrap_err().label(), outcome, "{word}");
        assert!(rig.count(Hook::OnDeliver, outcome) >= 1 && rig.count(Hook::OnPublish, outcome) >= 1);
    }
}

#[tokio::test]
async fn a_loop_of_one_tenant_leaves_the_other_its_turn() {
    let rig = Rig::new();
    let hog = rig.probe().await;
    let other = rig.plugin(PROBE, settings("other")).await;
    let limits = TenantPlugins { concurrency: 2, ..settings("acme").limits };
    let hog = rig.host.bind(Arc::clone(hog.prepared()), Settings { limits, ..settings("acme") });
    let spin = async || rig.host.on_publish(&hog, publication("spin"), Facts::default()).await;
    // As many loops as there are workers, with deadlines of 20 s: they make room at each tick.
    let loops = futures_util::future::join(spin(), spin());
    let answers = async {
        for _ in 0..20 {
            let published = rig.host.on_publish(&other, publication("plain"), Facts::default()).await;
            assert_eq!(published, Ok(PublishVerdict::Accept));
        }
    };
    tokio::select! {
        both = loops => panic!("the loops ended first: {both:?}"),
        () = answers => {}
    }
}

#[tokio::test]
async fn too_many_calls_are_turned_away() {
    let rig = Rig::new();
    let limits = TenantPlugins { concurrency: 1, queue: 1, ..settings("acme").limits };
    let probe = rig.plugin(PROBE, Settings { limits, ..settings("acme") }).await;
    let calls = (0..50).map(|_| rig.host.on_publish(&probe, publication("plain"), Facts::default()));
    let outcomes = futures_util::future::join_all(calls).await;
    let turned_away = outcomes.iter().filter(|outcome| **outcome == Err(Failure::Overloaded)).count();
    assert!((1..=49).contains(&turned_away), "{turned_away}");
    // Messages on their way out wait instead.
    let batches = (0..20).map(|_| rig.host.deliver(&probe, vec![message("plain")]));
    for answers in futures_util::future::join_all(batches).await {
        assert_eq!(answers, [Ok(DeliverVerdict::Accept)]);
    }
}

#[tokio::test]
async fn a_component_waits_for_its_start_while_there_is_much_to_do() {
    let rig = Rig::new();
    let limits = TenantPlugins { concurrency: 1, queue: 1, ..settings("acme").limits };
    let patient = Settings { limits, ..settings("acme") };
    let limits = TenantPlugins { deadline: Duration::from_millis(100), ..patient.limits.clone() };
    let probe = rig.plugin(PROBE, Settings { limits, ..settings("acme") }).await;
    let busy = (0..10).map(|_| rig.host.deliver(&probe, vec![message("loop"); 2]));
    let starts = rig.host.prepare(Bytes::from_static(PROBE), &patient);
    let (started, _) = tokio::join!(starts, futures_util::future::join_all(busy));
    started.unwrap();
}

#[tokio::test]
async fn a_plugin_that_keeps_failing_is_cut_off() {
    let rig = Rig::new();
    let probe = rig.probe().await;
    let answers = rig.host.deliver(&probe, vec![message("trap"); 30]).await;
    assert!(answers[..20].iter().all(|answer| matches!(answer, Err(Failure::Trap(_)))), "{answers:?}");
    assert!(answers[20..].contains(&Err(Failure::CutOff)), "{answers:?}");
    assert!(probe.is_cut_off() && probe.cut_offs() == 1);
    // A new binding, which a rollback is, begins anew.
    let again = rig.host.bind(Arc::clone(probe.prepared()), settings("acme"));
    assert_eq!(rig.host.deliver(&again, vec![message("plain")]).await, [Ok(DeliverVerdict::Accept)]);
}

#[tokio::test]
async fn a_stack_without_end_is_a_trap() {
    let rig = Rig::new();
    let deep = session(
        "(func $f (export \"f\") (param i32 i32 i32 i32 i32) \
        (call $f (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4)))",
    );
    let plugin = rig.plugin(&deep, settings("acme")).await;
    let failure = rig.host.on_session(&plugin, guests::news(), Facts::default()).await.unwrap_err();
    assert_eq!(failure.label(), PluginOutcome::Trap);
    assert!(failure.to_string().contains("stack"), "{failure}");
}

#[tokio::test]
async fn runtimes_find_what_they_ask_for_and_it_does_nothing() {
    let rig = Rig::new();
    let plugin = rig.plugin(&guests::runtime("\\n"), settings("acme")).await;
    rig.host.on_session(&plugin, guests::news(), Facts::default()).await.unwrap();
    assert_eq!(rig.output(), ["hello"]);
}

#[tokio::test]
async fn output_is_logged_by_lines_however_it_is_written() {
    // One worker, so that one instance answers.
    let rig = Rig::with(PluginsConfig { workers: NonZeroUsize::MIN, ..config() }, NodeKey::random());
    let plugin = rig.plugin(&guests::runtime("!"), settings("acme")).await;
    for _ in 0..2 {
        rig.host.on_session(&plugin, guests::news(), Facts::default()).await.unwrap();
    }
    assert!(rig.output().is_empty(), "no line has ended");
    rig.host.retire(&plugin);
    while rig.metrics.node().plugin_instances.get() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(rig.output(), ["hello!hello!"], "the instance has");
    let plugin = rig.plugin(&guests::runtime("!"), settings("acme")).await;
    for _ in 0..700 {
        rig.host.on_session(&plugin, guests::news(), Facts::default()).await.unwrap();
    }
    assert_eq!(rig.output().len(), 2, "a line has 4 KiB at most");
}
