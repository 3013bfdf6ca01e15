//! Requests as plugins make them, without a plugin, to real servers on loopback.

use std::sync::atomic::{AtomicU16, Ordering};

use http_body_util::{BodyExt as _, Empty};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tidegate_support::eventually;
use tidegate_support::server::{Server, serve_one};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::domain::TenantId;
use crate::telemetry::Metrics;

/// The key and the certificate of a server that nobody vouches for: it is `localhost` and 127.0.0.1.
const LOCALHOST: &[u8] = include_bytes!("tests/localhost.pem");
/// Nothing here takes as long, unless the machine is very busy.
const DEADLINE: Duration = Duration::from_secs(20);

fn access(hosts: &[&str], tls: Tls, limits: TenantPlugins) -> HttpAccess {
    let hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
    let limits = TenantPlugins { http_hosts: hosts, ..limits };
    let metrics = Metrics::default().tenant(&TenantId::parse("acme").unwrap());
    let client = HttpClient { runtime: Handle::current(), tls, resolver: Resolver::default() };
    HttpAccess::new(client, &limits, Arc::new(Semaphore::new(limits.http_requests)), metrics)
}

/// What may ask one server.
fn access_to(server: &Server) -> HttpAccess {
    access(&[&server.authority], Tls::default(), TenantPlugins::default())
}

fn get(url: &str) -> Request<WasiBody> {
    let body = Empty::new().map_err(Error::from).boxed_unsync();
    Request::builder().uri(url).header("x-mine", "yes").body(body).unwrap()
}

/// The status and the body of an answer.
async fn asked(access: &HttpAccess, request: Request<WasiBody>) -> Result<(u16, Vec<u8>), Error> {
    asked_within(access, request, None, DEADLINE).await
}

async fn asked_within(
    access: &HttpAccess,
    request: Request<WasiBody>,
    options: Option<RequestOptions>,
    deadline: Duration,
) -> Result<(u16, Vec<u8>), Error> {
    let response = access.send(request, options, deadline).map_err(|(error, _)| error)?.await?;
    let (status, body) = (response.status().as_u16(), response.into_body());
    Ok((status, body.collect().await?.to_bytes().to_vec()))
}

fn count(access: &HttpAccess, outcome: PluginHttpOutcome) -> u64 {
    access.metrics.plugin_http_requests.of(outcome).get()
}

#[tokio::test]
async fn a_request_goes_where_its_url_says_and_nowhere_else() {
    let server = Server::start().await.unwrap();
    let access = access_to(&server);
    let mut request = get(&server.url("/nothing?q=1"));
    request.headers_mut().insert(header::HOST, HeaderValue::from_static("other.example"));
    assert_eq!(asked(&access, request).await.unwrap(), (404, Vec::new()));
    let seen = server.seen().pop().unwrap().head;
    assert!(seen.starts_with("GET /nothing?q=1 HTTP/1.1\r\n"), "{seen}");
    assert!(seen.contains("x-mine: yes") && seen.contains(&format!("host: {}", server.authority)), "{seen}");
    assert!(!seen.contains("other.example"), "{seen}");
    assert_eq!(count(&access, PluginHttpOutcome::Answered), 1);
    // No redirect is followed.
    let (status, _) = asked(&access, get(&server.url("/redirect"))).await.unwrap();
    assert_eq!((status, server.seen().len()), (302, 2));
}

#[tokio::test]
async fn urls_that_mislead_or_name_others_are_refused() {
    let access = access(&["127.0.0.1:9", "api.example.com"], Tls::default(), TenantPlugins::default());
    let refused = |url: &str| access.send(get(url), None, DEADLINE).err().unwrap();
    for url in
        ["http://api.example.com@evil.example/", "http://x@127.0.0.1:9/", "ftp://api.example.com/", "/path"]
    {
        let (error, denied) = refused(url);
        assert!(matches!(error, Error::HttpRequestUriInvalid) && denied.is_none(), "{url}: {error}");
    }
    for (url, host) in [
        ("http://127.0.0.1/", "127.0.0.1:80"),
        ("http://127.0.0.1:10/", "127.0.0.1:10"),
        ("http://localhost:9/", "localhost:9"),
        ("https://API.example.com:80/", "api.example.com:80"),
        ("http://[::1]:9/", "[::1]:9"),
    ] {
        let (error, denied) = refused(url);
        assert!(matches!(error, Error::HttpRequestDenied), "{url}: {error}");
        let denied = denied.unwrap();
        assert!(&*denied.host == host && denied.is_news, "{url}");
        assert!(!refused(url).1.unwrap().is_news, "{url}: said once");
    }
    assert_eq!(count(&access, PluginHttpOutcome::Denied), 10);
    let mut tunnel = get("http://127.0.0.1:9/");
    *tunnel.method_mut() = Method::CONNECT;
    let (error, _) = access.send(tunnel, None, DEADLINE).err().unwrap();
    assert!(matches!(error, Error::HttpRequestMethodInvalid), "{error}");
}

#[tokio::test]
async fn what_is_told_of_other_hosts_is_bounded() {
    let access = access(&["127.0.0.1:9"], Tls::default(), TenantPlugins::default());
    let next = AtomicU16::new(10);
    let news = (0..100).filter(|_| {
        let port = next.fetch_add(1, Ordering::Relaxed);
        access
            .send(get(&format!("http://127.0.0.1:{port}/")), None, DEADLINE)
            .err()
            .unwrap()
            .1
            .unwrap()
            .is_news
    });
    assert_eq!(news.count(), TOLD);
    assert_eq!(count(&access, PluginHttpOutcome::Denied), 100);
}

#[tokio::test]
async fn servers_that_fail_are_told_apart() {
    let server = Server::start().await.unwrap();
    let access = access_to(&server);
    let error = async |path: &str| asked(&access, get(&server.url(path))).await.unwrap_err();
    assert!(matches!(error("/nonsense").await, Error::HttpProtocolError));
    assert!(matches!(error("/half").await, Error::HttpResponseIncomplete));
    let gone = server.url("/");
    let authority = server.authority.clone();
    drop(server);
    let closed = eventually("a port that nobody listens at", || async {
        let access = access_of(&authority);
        asked(&access, get(&gone)).await.err().filter(|error| matches!(error, Error::ConnectionRefused))
    });
    closed.await.unwrap();
    assert_eq!(count(&access, PluginHttpOutcome::Failed), 2);
    let nowhere = access_of("name.invalid:80");
    let error = asked(&nowhere, get("http://name.invalid/")).await.unwrap_err();
    assert!(matches!(error, Error::DnsError { .. }), "{error}");
}

fn access_of(authority: &str) -> HttpAccess {
    access(&[authority], Tls::default(), TenantPlugins::default())
}

#[tokio::test]
async fn endless_bytes_end_at_the_limit() {
    let server = Server::start().await.unwrap();
    let limits = TenantPlugins { http_response_bytes: 100_000, ..TenantPlugins::default() };
    let access = access(&[&server.authority], Tls::default(), limits);
    let response = access.send(get(&server.url("/endless")), None, DEADLINE).ok().unwrap().await.unwrap();
    let (mut body, mut bytes) = (response.into_body(), 0);
    let error = loop {
        match body.frame().await.unwrap() {
            Ok(frame) => bytes += frame.into_data().unwrap().len(),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::HttpResponseBodySize(Some(100_000))), "{error}");
    assert!((1..=100_000).contains(&bytes), "{bytes}");
    assert!(body.frame().await.is_none());
    assert_eq!(count(&access, PluginHttpOutcome::TooLarge), 1);
}

#[tokio::test]
async fn each_step_has_its_time_and_no_more_than_the_call() {
    let server = Server::start().await.unwrap();
    let access = access_to(&server);
    let short = Some(Duration::from_millis(20));
    let first_byte = RequestOptions { first_byte_timeout: short, ..RequestOptions::default() };
    let between_bytes = RequestOptions { between_bytes_timeout: short, ..RequestOptions::default() };
    let error = async |path: &str, options, deadline| {
        asked_within(&access, get(&server.url(path)), options, deadline).await.unwrap_err()
    };
    assert!(matches!(error("/hang", Some(first_byte), DEADLINE).await, Error::ConnectionReadTimeout));
    assert!(matches!(error("/stall", Some(between_bytes), DEADLINE).await, Error::ConnectionReadTimeout));
    for path in ["/hang", "/stall"] {
        let late = RequestOptions { first_byte_timeout: Some(DEADLINE), ..RequestOptions::default() };
        let error = error(path, Some(late), Duration::from_millis(100)).await;
        assert!(
            matches!(error, Error::ConnectionReadTimeout | Error::HttpResponseTimeout),
            "{path}: {error}"
        );
    }
    assert_eq!(count(&access, PluginHttpOutcome::Timeout), 4);
}

#[tokio::test]
async fn so_many_are_in_flight_and_what_is_dropped_is_over() {
    let server = Server::start().await.unwrap();
    let limits = TenantPlugins { http_requests: 2, ..TenantPlugins::default() };
    let access = access(&[&server.authority], Tls::default(), limits);
    let send = |path: &str| access.send(get(&server.url(path)), None, DEADLINE);
    let waiting = send("/hang").ok().unwrap();
    // A body that nobody reads holds its place, too.
    let stalled = send("/stall").ok().unwrap().await.unwrap();
    let (error, _) = send("/who").err().unwrap();
    assert!(matches!(error, Error::ConnectionLimitReached), "{error}");
    assert_eq!(count(&access, PluginHttpOutcome::Overloaded), 1);
    drop((waiting, stalled));
    eventually("two places that are free again", || async {
        (access.in_flight.available_permits() == 2).then_some(())
    })
    .await
    .unwrap();
    assert_eq!(count(&access, PluginHttpOutcome::Abandoned), 1);
    assert_eq!(count(&access, PluginHttpOutcome::Answered), 1, "its head came");
    assert_eq!(asked(&access, get(&server.url("/nothing"))).await.unwrap().0, 404);
}

/// What may ask a server by names that lead where `lookup` says.
fn access_by(lookup: Resolver, server: &Server, limits: TenantPlugins) -> HttpAccess {
    let port = server.authority.rsplit(':').next().unwrap();
    let hosts = [format!("*.example.com:{port}"), server.authority.clone()];
    let mut access = access(&hosts.each_ref().map(String::as_str), Tls::default(), limits);
    access.client.resolver = lookup;
    access
}

#[tokio::test]
async fn a_name_leads_to_the_node_itself_only_where_the_operator_says_so() {
    let server = Server::start().await.unwrap();
    let looked_up = Arc::new(AtomicU16::new(0));
    let count_up = Arc::clone(&looked_up);
    let lookup = Resolver::new(move |_, port| {
        // Who rebinds a name says something else the second time.
        let nth = count_up.fetch_add(1, Ordering::Relaxed);
        Ok(vec![([if nth == 0 { 127 } else { 0 }, 0, 0, 1], port).into()])
    });
    let url = server.url("/nothing").replace("127.0.0.1", "a.example.com");
    let access = access_by(lookup.clone(), &server, TenantPlugins::default());
    let error = asked(&access, get(&url)).await.unwrap_err();
    assert!(matches!(error, Error::DestinationIpProhibited), "{error}");
    assert_eq!((server.seen().len(), count(&access, PluginHttpOutcome::Denied)), (0, 1));
    // The address is listed as it stands, and not looked up.
    assert_eq!(asked(&access, get(&server.url("/nothing"))).await.unwrap().0, 404);
    assert_eq!(looked_up.swap(0, Ordering::Relaxed), 1);
    // What is connected to is what was looked up, once.
    let limits = TenantPlugins { http_local_addresses: true, ..TenantPlugins::default() };
    let access = access_by(lookup, &server, limits);
    assert_eq!(asked(&access, get(&url)).await.unwrap().0, 404);
    assert_eq!(looked_up.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_lookup_that_nobody_waits_for_keeps_its_place_until_it_ends() {
    let server = Server::start().await.unwrap();
    let (begin, mut begun) = tokio::sync::mpsc::channel(1);
    let (end, ended) = tokio::sync::mpsc::channel::<()>(1);
    let ended = Mutex::new(ended);
    let lookup = Resolver::new(move |_, _| {
        begin.blocking_send(()).unwrap();
        // Ends with the test at the latest.
        let _ = ended.lock().unwrap().blocking_recv();
        Ok(Vec::new())
    });
    let limits = TenantPlugins { http_requests: 1, ..TenantPlugins::default() };
    let access = access_by(lookup, &server, limits);
    let url = server.url("/").replace("127.0.0.1", "a.example.com");
    let waiting = access.send(get(&url), None, DEADLINE).ok().unwrap();
    begun.recv().await.unwrap();
    drop(waiting);
    eventually("a request that is over", || async {
        (count(&access, PluginHttpOutcome::Abandoned) == 1).then_some(())
    })
    .await
    .unwrap();
    let (error, _) = access.send(get(&url), None, DEADLINE).err().unwrap();
    assert!(matches!(error, Error::ConnectionLimitReached), "{error}");
    end.send(()).await.unwrap();
    eventually("its place", || async { (access.in_flight.available_permits() == 1).then_some(()) })
        .await
        .unwrap();
}

/// The port of a server with the certificate of [`LOCALHOST`], for as long as the test runs.
async fn tls_server() -> u16 {
    let certificate = CertificateDer::from_pem_slice(LOCALHOST).unwrap();
    let key = PrivateKeyDer::from_pem_slice(LOCALHOST).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.unwrap().with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            // A client that does not trust the server goes away.
            if let Ok(mut stream) = acceptor.accept(socket).await {
                let _ = serve_one(&mut stream).await;
            }
        }
    });
    port
}

#[tokio::test]
async fn https_is_for_servers_that_prove_who_they_are() {
    let port = tls_server().await;
    let hosts = [format!("localhost:{port}"), format!("127.0.0.1:{port}"), format!("127.0.0.2:{port}")];
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let limits = TenantPlugins { http_local_addresses: true, ..TenantPlugins::default() };
    let stranger = access(&hosts, Tls::default(), limits.clone());
    let url = |host: &str| format!("https://{host}:{port}/nothing");
    let error = asked(&stranger, get(&url("localhost"))).await.unwrap_err();
    assert!(matches!(error, Error::TlsCertificateError), "{error}");

    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(LOCALHOST).unwrap()).unwrap();
    let friend = access(&hosts, Tls::trusting(roots), limits);
    for host in ["localhost", "127.0.0.1"] {
        assert_eq!(asked(&friend, get(&url(host))).await.unwrap().0, 404, "{host}");
    }
    // Without TLS nobody is reached at the same port, and no other way either.
    assert!(asked(&friend, get(&url("localhost").replace("https", "http"))).await.is_err());
}
