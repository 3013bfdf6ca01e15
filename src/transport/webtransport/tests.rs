use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::rc::Rc;
use std::time::Instant;

use http::{Method, StatusCode};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, LocalSet};

use super::client::{self, Client, Http3};
use super::*;
use crate::transport::quic::{Endpoint, Incoming};
use crate::transport::tls::{CertificateHash, Certificates};

mod ending;
mod greedy;
mod opening;
mod talking;

/// Longer than anything takes here.
const PATIENCE: Duration = Duration::from_secs(20);

/// A node's side: one endpoint, one shard.
struct Server {
    endpoint: Option<Endpoint>,
    incoming: mpsc::Receiver<Incoming>,
    address: SocketAddr,
    hashes: Vec<CertificateHash>,
}

impl Server {
    fn start() -> Self {
        let certificates = Certificates::development(&[]).unwrap();
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        let (to, incoming) = mpsc::channel(16);
        let endpoint = Endpoint::spawn(socket, &certificates, vec![to]).unwrap();
        Self { endpoint: Some(endpoint), incoming, address, hashes: certificates.hashes().unwrap() }
    }

    async fn request(&mut self) -> Result<Request, AcceptError> {
        self.request_within(PATIENCE).await
    }

    async fn request_within(&mut self, patience: Duration) -> Result<Request, AcceptError> {
        let incoming = self.incoming.recv().await.unwrap();
        accept(incoming, patience).await
    }

    /// A connection up to HTTP/3, and what waits for its request on this side.
    async fn meet(&mut self, endpoint: &quinn::Endpoint, patience: Duration) -> (Http3, Accepting) {
        let hashes = self.hashes.clone();
        tokio::join!(Http3::connect(endpoint, self.address, &hashes), self.accepting(patience))
    }

    /// Begins to accept the next connection.
    async fn accepting(&mut self, patience: Duration) -> Accepting {
        let incoming = self.incoming.recv().await.unwrap();
        tokio::task::spawn_local(accept(incoming, patience))
    }
}

impl Drop for Server {
    /// An endpoint that is dropped waits a moment for its connections, which end with this thread's runtime:
    /// so not on this thread.
    fn drop(&mut self) {
        let endpoint = self.endpoint.take();
        std::thread::spawn(|| drop(endpoint));
    }
}

type Accepting = JoinHandle<Result<Request, AcceptError>>;

fn connect_request(server: &Server) -> http::Request<()> {
    http::Request::builder()
        .method(Method::CONNECT)
        .uri(format!("https://{}/v1/demo/wt?codec=json", server.address))
        .header("origin", "https://example.test")
        .body(())
        .unwrap()
}

/// Both ends of a session.
struct Pair {
    client: Client,
    session: Rc<Session>,
    driver: JoinHandle<()>,
    endpoint: quinn::Endpoint,
    _server: Server,
}

async fn pair() -> Pair {
    let mut server = Server::start();
    let endpoint = client::endpoint();
    let request = connect_request(&server);
    let (http3, accepting) = server.meet(&endpoint, PATIENCE).await;
    let accepted = async {
        let (session, driver) = accepting.await.unwrap().unwrap().accept().await.unwrap();
        (Rc::new(session), tokio::task::spawn_local(driver))
    };
    let (client, (session, driver)) = tokio::join!(http3.session(request), accepted);
    let client = client.unwrap_or_else(|refused| panic!("{refused:?}"));
    Pair { client, session, driver, endpoint, _server: server }
}

/// Runs a test on one thread, as a shard does.
fn local(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(PATIENCE * 2, test).await.expect("it hangs");
    });
}

async fn read_exact(session: &Session, count: usize) -> Vec<u8> {
    let mut read = vec![0; count];
    let mut at = 0;
    while at < count {
        match session.try_read(&mut read[at..]) {
            Ok(0) => panic!("the end after {at} of {count} bytes"),
            Ok(more) => at += more,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => session.readable().await.unwrap(),
            Err(error) => panic!("{error}"),
        }
    }
    read
}

fn write(session: &Session, bytes: &[u8]) {
    let written = session.try_write_vectored(&[std::io::IoSlice::new(bytes)]).unwrap();
    assert_eq!(written, bytes.len());
}

/// A request for a session as it stands on its stream. Names are those of the static table (RFC 9204
/// appendix A), all but one.
fn raw_request(protocol: &str) -> Vec<u8> {
    let text = |out: &mut Vec<u8>, text: &str| {
        out.push(text.len() as u8);
        out.extend_from_slice(text.as_bytes());
    };
    // :method CONNECT and :scheme https, then :authority and :path.
    let mut block = vec![0x00, 0x00, 0xCF, 0xD7, 0x50];
    text(&mut block, "localhost");
    block.push(0x51);
    text(&mut block, "/v1/demo/wt");
    block.extend_from_slice(b"\x27\x02:protocol");
    text(&mut block, protocol);
    let mut frame = vec![0x01];
    frame.extend_from_slice(varint::Encoded::new(block.len() as u64).as_bytes());
    frame.extend(block);
    frame
}
