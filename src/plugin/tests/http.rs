//! A plugin that asks a server, and servers of all kinds.

use std::time::Instant;

use tidegate_support::eventually;
use tidegate_support::server::Server;

use super::super::contract::Credentials;
use super::guests::surface;
use super::*;
use crate::telemetry::PluginHttpOutcome;

/// The plugin of `plugins/http-authenticator`.
const ASKS: &[u8] = include_bytes!("../../../plugins/http-authenticator/http-authenticator.wasm");

fn asking(hosts: &[&str], url: &str) -> Settings {
    let hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
    let limits = TenantPlugins { http_hosts: hosts, ..settings("acme").limits };
    Settings { settings: vec![("url".into(), url.into())], limits, ..settings("acme") }
}

/// One that asks a path of a server.
async fn door(rig: &Rig, server: &Server, path: &str) -> Arc<Plugin> {
    rig.plugin(ASKS, asking(&[&server.authority], &server.url(path))).await
}

async fn knock(rig: &Rig, door: &Arc<Plugin>, token: &str) -> Result<Admission, Failure> {
    let credentials = Credentials { token: Some(token.into()), refreshes: None };
    rig.host.authenticate(door, credentials, Facts::default().with("address", "192.0.2.7")).await
}

/// What the tenant's log has, line by line.
fn said(rig: &Rig) -> Vec<String> {
    let log = rig.host.log(&TenantId::parse("acme").unwrap(), &settings("acme").limits);
    log.read(0).0.iter().map(|line| format!("{}: {}", line.context, line.message)).collect()
}

fn requests(rig: &Rig, outcome: PluginHttpOutcome) -> u64 {
    let acme = TenantId::parse("acme").unwrap();
    rig.metrics.tenant(&acme).plugin_http_requests.of(outcome).get()
}

/// Asserts that nobody is let in, that clients are to come again, and that the log says why.
async fn in_vain(rig: &Rig, door: &Arc<Plugin>, why: &str) {
    let refused = knock(rig, door, "ada").await;
    let Ok(Admission::Refused(refusal)) = refused else { panic!("{refused:?}") };
    assert_eq!(refusal.retry_after_ms, Some(2_000), "{why}");
    assert!(said(rig).last().unwrap().contains(why), "{why}: {:?}", said(rig));
}

#[tokio::test]
async fn a_server_says_who_clients_are() {
    let rig = Rig::new();
    let server = Server::start().await.unwrap();
    let door = door(&rig, &server, "/who").await;
    // Instances are used again, and hold nothing of the calls before.
    for _ in 0..300 {
        let Ok(Admission::Admitted(ada)) = knock(&rig, &door, "ada").await else { panic!("refused") };
        assert_eq!((ada.user.as_str(), ada.class.as_deref()), ("ada", Some("gold")));
        assert_eq!(ada.claims.as_deref(), Some(r#"{"team":7}"#));
    }
    let Ok(Admission::Refused(refusal)) = knock(&rig, &door, "eve").await else { panic!("let in") };
    assert_eq!((&*refusal.reason, refusal.retry_after_ms), ("the token is not good", None));
    assert_eq!(requests(&rig, PluginHttpOutcome::Answered), 301);
    let seen = server.seen();
    assert!(seen[0].head.starts_with("POST /who HTTP/1.1"), "{}", seen[0].head);
    assert_eq!(seen[0].body, br#"{"address":"192.0.2.7","token":"ada"}"#);
}

#[tokio::test]
async fn no_answer_of_a_server_lets_anybody_in() {
    let rig = Rig::new();
    let server = Server::start().await.unwrap();
    for (path, why) in [
        ("/redirect", "answered 302"),
        ("/broken", "answered 500"),
        ("/nothing", "answered 404"),
        ("/nonsense", "HttpProtocolError"),
        ("/half", "incomplete HTTP response"),
        ("/endless", "body size exceeds limit: 1048576 bytes"),
    ] {
        in_vain(&rig, &door(&rig, &server, path).await, why).await;
    }
    assert_eq!(server.seen().len(), 6, "the redirect was not followed");
    assert_eq!(requests(&rig, PluginHttpOutcome::TooLarge), 1);
    let authority = server.authority.clone();
    drop(server);
    let door = rig.plugin(ASKS, asking(&[&authority], &format!("http://{authority}/who"))).await;
    eventually("a port that nobody listens at", || async {
        let _ = knock(&rig, &door, "ada").await;
        said(&rig).last().unwrap().contains("ConnectionRefused").then_some(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_server_that_hangs_costs_the_call_that_asked() {
    let rig = Rig::new();
    let server = Server::start().await.unwrap();
    let good = door(&rig, &server, "/who").await;
    let authenticate_deadline = Duration::from_millis(200);
    for path in ["/hang", "/stall"] {
        let settings = asking(&[&server.authority], &server.url(path));
        let limits = TenantPlugins { authenticate_deadline, ..settings.limits };
        let hung = rig.host.bind(Arc::clone(good.prepared()), Settings { limits, ..settings });
        // More than there are workers: others are asked about meanwhile.
        let calls = futures_util::future::join_all((0..6).map(|_| knock(&rig, &hung, "ada")));
        let others = async {
            for _ in 0..10 {
                assert!(matches!(knock(&rig, &good, "ada").await, Ok(Admission::Admitted(_))));
            }
        };
        let began = Instant::now();
        let (failed, ()) = futures_util::future::join(calls, others).await;
        assert!(began.elapsed() >= authenticate_deadline);
        assert!(failed.iter().all(|failed| *failed == Err(Failure::HostTimeout)), "{path}: {failed:?}");
    }
    assert_eq!(rig.count(Hook::Authenticate, PluginOutcome::HostTimeout), 12);
    eventually("requests that ended with their calls", || async {
        let over = [PluginHttpOutcome::Abandoned, PluginHttpOutcome::Timeout, PluginHttpOutcome::Answered];
        // 20 were answered at once, and of 6 the head came.
        (over.iter().map(|outcome| requests(&rig, *outcome)).sum::<u64>() == 32).then_some(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn other_hosts_are_not_asked() {
    let rig = Rig::new();
    let server = Server::start().await.unwrap();
    let door = rig.plugin(ASKS, asking(&["api.example.com"], &server.url("/who"))).await;
    for _ in 0..3 {
        in_vain(&rig, &door, "HttpRequestDenied").await;
    }
    assert_eq!(requests(&rig, PluginHttpOutcome::Denied), 3);
    let told = said(&rig).into_iter().filter(|line| line.starts_with("http: ")).collect::<Vec<_>>();
    assert!(told.len() == 1 && told[0].contains(&server.authority), "{told:?}");
    assert!(told[0].contains("http_hosts"), "{told:?}");
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn without_hosts_nothing_that_asks_is_taken() {
    let rig = Rig::new();
    let refused = rig.refused(ASKS).await;
    assert_eq!(refused, Rejection::NoHttpHosts);
    assert!(refused.to_string().contains("http_hosts"), "{refused}");
    let types = surface(&["wasi:http/types@0.2.4"], &["tidegate:plugin/on-session@0.1.0"]);
    assert_eq!(rig.refused(&types).await, Rejection::NoHttpHosts);
}
