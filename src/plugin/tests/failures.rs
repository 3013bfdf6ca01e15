//! Hooks that do not answer.

use super::super::contract::Incoming;
use super::guests::{self, session};
use super::*;
use crate::domain::SessionId;
use tokio_util::sync::CancellationToken;

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

/// Fills all but the places that are kept for batches with calls that do not end.
fn hogs<'r>(rig: &'r Rig, probe: &'r Plugin) -> impl Future<Output = ()> + 'r {
    let limits = TenantPlugins { concurrency: 100, ..settings("hog").limits };
    let hog = rig.host.bind(Arc::clone(probe.prepared()), Settings { limits, ..settings("hog") });
    async move {
        let spin = || rig.host.on_publish(&hog, publication("spin"), Facts::default());
        let ended = futures_util::future::select_all((0..50).map(|_| Box::pin(spin()))).await;
        panic!("a loop ended: {:?}", ended.0);
    }
}

#[tokio::test]
async fn messages_have_their_turn_however_many_calls_do_not_end() {
    let rig = Rig::new();
    let probe = rig.probe().await;
    let answers = async {
        // The calls are under way.
        while rig.metrics.node().plugin_instances.get() < 14 {
            tokio::task::yield_now().await;
        }
        for _ in 0..10 {
            assert_eq!(rig.host.deliver(&probe, vec![message("plain")]).await, [Ok(DeliverVerdict::Accept)]);
        }
    };
    tokio::select! {
        () = hogs(&rig, &probe) => {}
        () = answers => {}
    }
}

#[tokio::test]
async fn messages_wait_where_the_engine_has_no_room() {
    // The engine has room for eight instances of one memory each, the workers for more.
    let workers = NonZeroUsize::new(8).unwrap();
    let rig = Rig::with(PluginsConfig { workers, instances: 8, ..config() }, NodeKey::random());
    let probe = rig.probe().await;
    let batches = (0..40).map(|n| {
        let limits = TenantPlugins { concurrency: 8, ..settings("acme").limits };
        let tenant = format!("tenant-{n}");
        let plugin = rig.host.bind(Arc::clone(probe.prepared()), Settings { limits, ..settings(&tenant) });
        let host = &rig.host;
        async move { host.deliver(&plugin, vec![message("plain"); 3]).await }
    });
    for answers in futures_util::future::join_all(batches).await {
        assert_eq!(answers, vec![Ok(DeliverVerdict::Accept); 3]);
    }
}

#[tokio::test]
async fn news_of_a_tenant_whose_plugin_hangs_keeps_no_others_waiting() {
    let rig = Rig::new();
    let endless = session("(func (export \"f\") (param i32 i32 i32 i32 i32) (loop $l (br $l)))");
    let (hangs, other) = (rig.plugin(&endless, settings("acme")).await, settings("other"));
    let other = rig.plugin(&session(guests::NOTHING), other).await;
    let cancel = CancellationToken::new();
    let (desk, task) = NewsDesk::open(cancel.clone());
    let id = SessionId::random();
    let hand_in = |plugin: &Arc<Plugin>| {
        let plugin = (Arc::clone(&rig.host), Arc::clone(plugin));
        desk.hand_in(id, plugin, guests::news(), Facts::default());
    };
    (0..2_000).for_each(|_| hand_in(&hangs));
    assert!(rig.count(Hook::OnSession, PluginOutcome::Overloaded) > 0, "what waits is bounded");
    hand_in(&other);
    let told = &rig.metrics.tenant(other.tenant()).plugin_calls;
    while told.of(Hook::OnSession).of(PluginOutcome::Answered).get() == 0 {
        tokio::task::yield_now().await;
    }
    cancel.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn who_writes_more_than_an_output_takes_traps() {
    let rig = Rig::new();
    let limits =
        TenantPlugins { http_hosts: vec!["api.example.com".parse().unwrap()], ..settings("acme").limits };
    // Without WASI as it is elsewhere, and with it.
    for imports in ["", "(import \"wasi:http/types@0.2.3\" (instance))"] {
        for method in ["write", "blocking-write-and-flush"] {
            for (bytes, takes) in [(4_096, true), (4_097, false)] {
                let guest = guests::output(imports, method, bytes, "\\n");
                let plugin =
                    rig.plugin(&guest, Settings { limits: limits.clone(), ..settings("acme") }).await;
                let done = rig.host.on_session(&plugin, guests::news(), Facts::default()).await;
                assert_eq!(done.is_ok(), takes, "{imports} {method} {bytes}: {done:?}");
                if let Err(failure) = done {
                    assert_eq!(failure.label(), PluginOutcome::Trap);
                }
            }
        }
    }
    assert_eq!(rig.output(), ["hello"; 4], "what traps is not said");
}
