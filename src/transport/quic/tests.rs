use std::net::Ipv4Addr;
use std::time::Instant;

use tokio::task::JoinSet;

use super::*;
use crate::transport::tls::CertificateHash;
use crate::transport::webtransport::client;

/// Longer than anything takes here.
const PATIENCE: Duration = Duration::from_secs(20);

struct Node {
    endpoint: Endpoint,
    shards: Vec<mpsc::Receiver<Incoming>>,
    address: SocketAddr,
    hashes: Vec<CertificateHash>,
}

/// A node with so many shards, each with a queue so long.
fn node(shards: usize, queue: usize) -> Node {
    let certificates = Certificates::development(&[]).unwrap();
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    let (to, shards) = (0..shards).map(|_| mpsc::channel(queue)).unzip();
    let endpoint = Endpoint::spawn(socket, &certificates, to).unwrap();
    Node { endpoint, shards, address, hashes: certificates.hashes().unwrap() }
}

impl Node {
    /// So many clients that begin a handshake; what becomes of them.
    fn clients(&self, count: usize) -> JoinSet<Result<quinn::Connection, quinn::ConnectionError>> {
        let (client, address) = (client::endpoint(), self.address);
        (0..count)
            .map(|_| {
                let (client, hashes) = (client.clone(), self.hashes.clone());
                async move { client::quic(&client, address, &hashes, b"h3").await }
            })
            .collect()
    }
}

async fn accepted(incoming: Incoming) -> quinn::Connection {
    incoming.accept().unwrap().0.await.unwrap()
}

#[tokio::test]
async fn connections_are_handed_out_in_turn_and_passed_on_by_full_shards() {
    let mut node = node(2, 2);
    let mut clients = node.clients(5);
    // Two each fit; the fifth is refused.
    let refused = clients.join_next().await.unwrap().unwrap().unwrap_err();
    assert!(matches!(refused, quinn::ConnectionError::ConnectionClosed(_)), "{refused}");
    let counts = node.endpoint.counts();
    assert_eq!((counts.handed(), counts.refused(), counts.retried()), (4, 1, 0));
    let mut connections = Vec::new();
    for shard in &mut node.shards {
        for _ in 0..2 {
            connections.push(accepted(shard.recv().await.unwrap()).await);
        }
        assert!(shard.try_recv().is_err());
    }
    // A shard that is gone is passed over.
    drop(node.shards.remove(0));
    clients.spawn({
        let (client, address, hashes) = (client::endpoint(), node.address, node.hashes.clone());
        async move { client::quic(&client, address, &hashes, b"h3").await }
    });
    connections.push(accepted(node.shards[0].recv().await.unwrap()).await);
    while let Some(client) = clients.join_next().await {
        client.unwrap().unwrap();
    }
}

#[tokio::test]
async fn an_incoming_connection_may_be_refused() {
    let mut node = node(1, 2);
    let mut clients = node.clients(2);
    let first = node.shards[0].recv().await.unwrap();
    assert!(first.remote_address().ip().is_loopback());
    first.refuse();
    drop(node.shards[0].recv().await.unwrap());
    while let Some(client) = clients.join_next().await {
        let error = client.unwrap().unwrap_err();
        assert!(matches!(error, quinn::ConnectionError::ConnectionClosed(_)), "{error}");
    }
}

#[tokio::test]
async fn with_many_handshakes_under_way_clients_prove_their_address_first() {
    let mut node = node(1, RETRY_FROM + 10);
    let mut clients = node.clients(RETRY_FROM + 5);
    let mut waiting = Vec::new();
    while waiting.len() < RETRY_FROM + 5 {
        waiting.push(node.shards[0].recv().await.unwrap());
    }
    assert_eq!(node.endpoint.counts().retried(), 5);
    let proven = waiting.iter().filter(|incoming| incoming.quinn.remote_address_validated()).count();
    assert_eq!(proven, 5);
    // They go on like all others.
    let mut connections = Vec::new();
    for incoming in waiting.split_off(RETRY_FROM) {
        connections.push(accepted(incoming).await);
        connections.push(clients.join_next().await.unwrap().unwrap().unwrap());
    }
}

#[tokio::test]
async fn a_close_waits_for_connections_that_end_and_takes_no_more() {
    let mut node = node(1, 2);
    let mut clients = node.clients(1);
    let server = accepted(node.shards[0].recv().await.unwrap()).await;
    let client = clients.join_next().await.unwrap().unwrap().unwrap();
    let late = (client::endpoint(), node.address, node.hashes.clone());
    let counts = node.endpoint.counts();
    let closing = tokio::spawn(node.endpoint.close(PATIENCE));
    tokio::task::yield_now().await;
    // Whether the close has begun by then or its client waits in the queue: it is no connection.
    node.shards.clear();
    let late = client::quic(&late.0, late.1, &late.2, b"h3").await.unwrap_err();
    assert!(matches!(late, quinn::ConnectionError::ConnectionClosed(_)), "{late}");
    assert_eq!(counts.refused(), 1);
    assert!(!closing.is_finished());
    // What stands goes on.
    client.send_datagram(b"still here".as_slice().into()).unwrap();
    assert_eq!(server.read_datagram().await.unwrap(), b"still here".as_slice());
    client.close(7_u32.into(), b"done");
    server.closed().await;
    closing.await.unwrap();
}

#[tokio::test]
async fn a_close_ends_what_is_left_at_its_deadline() {
    let mut node = node(1, 2);
    let mut clients = node.clients(1);
    let server = accepted(node.shards[0].recv().await.unwrap()).await;
    let client = clients.join_next().await.unwrap().unwrap().unwrap();
    let begun = Instant::now();
    node.endpoint.close(Duration::from_millis(100)).await;
    assert!(begun.elapsed() >= Duration::from_millis(100));
    let lost = client.closed().await;
    let quinn::ConnectionError::ApplicationClosed(close) = lost else { panic!("{lost}") };
    assert_eq!(close.reason, b"the node ends".as_slice());
    server.closed().await;
}

#[tokio::test]
async fn a_dropped_endpoint_closes_at_once() {
    let mut node = node(1, 2);
    let mut clients = node.clients(1);
    let _server = accepted(node.shards[0].recv().await.unwrap()).await;
    let client = clients.join_next().await.unwrap().unwrap().unwrap();
    tokio::task::spawn_blocking(|| drop(node.endpoint)).await.unwrap();
    client.closed().await;
}
