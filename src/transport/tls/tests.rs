use std::fs;
use std::net::{Ipv4Addr, SocketAddr};

use pki_types::pem::PemObject as _;
use pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

/// A folder with `cert.pem` and `key.pem`.
struct Pem(TempDir);

impl Pem {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn certificate(&self) -> PathBuf {
        self.0.path().join("cert.pem")
    }

    fn key(&self) -> PathBuf {
        self.0.path().join("key.pem")
    }

    fn load(&self) -> Result<Certificates, TlsError> {
        Certificates::from_files(&self.certificate(), &self.key())
    }

    /// Writes a certificate for localhost and its key; the certificate.
    fn write(&self, key: &KeyPair) -> CertificateDer<'static> {
        self.write_until(key, SystemTime::now() + Duration::from_secs(1_000_000))
    }

    fn write_until(&self, key: &KeyPair, expires: SystemTime) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = expires.into();
        let certificate = params.self_signed(key).unwrap().der().clone();
        fs::write(self.certificate(), pem("CERTIFICATE", &certificate)).unwrap();
        fs::write(self.key(), pem("PRIVATE KEY", &key.serialize_der())).unwrap();
        certificate
    }

    fn refused(&self) -> String {
        self.load().unwrap_err().to_string()
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn ecdsa() -> KeyPair {
    KeyPair::generate().unwrap()
}

/// A client that trusts this certificate and nothing else.
fn client(
    trusted: &CertificateDer<'static>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(config))
}

const TLS13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];
const TLS12: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];

/// A server that answers each connection with what it reads, until the test ends.
async fn echo(certificates: &Certificates) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(certificates.tcp());
    tokio::spawn(async move {
        let mut served = tokio::task::JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            served.spawn(async move {
                // A client that does not trust the certificate goes away.
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let (mut reader, mut writer) = tokio::io::split(stream);
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
    });
    address
}

async fn connect(client: &TlsConnector, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await.unwrap();
    client.connect(ServerName::try_from("localhost").unwrap(), stream).await
}

async fn says(stream: &mut TlsStream<TcpStream>, text: &[u8]) {
    stream.write_all(text).await.unwrap();
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, text);
}

#[tokio::test]
async fn keys_of_every_algorithm_serve() {
    let rsa = PrivatePkcs8KeyDer::from_pem_slice(include_bytes!("tests/rsa.pem")).unwrap();
    let keys = [
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap(),
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap(),
        KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(),
        KeyPair::from_pkcs8_der_and_sign_algo(&rsa, &rcgen::PKCS_RSA_SHA256).unwrap(),
    ];
    for key in keys {
        let pem = Pem::new();
        let certificate = pem.write(&key);
        let address = echo(&pem.load().unwrap()).await;
        for versions in [TLS12, TLS13] {
            let mut stream = connect(&client(&certificate, versions), address).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"http/1.1".as_slice()));
            says(&mut stream, b"hello").await;
        }
    }
}

#[tokio::test]
async fn sessions_are_resumed_by_ticket_over_tcp() {
    let pem = Pem::new();
    let certificate = pem.write(&ecdsa());
    let certificates = pem.load().unwrap();
    // Every shard's listener has the same tickets.
    let addresses = [echo(&certificates).await, echo(&certificates).await];
    for versions in [TLS12, TLS13] {
        let client = client(&certificate, versions);
        let mut kinds = Vec::new();
        for address in addresses {
            let mut stream = connect(&client, address).await.unwrap();
            // Tickets of TLS 1.3 come after the handshake.
            says(&mut stream, b"ticket, please").await;
            kinds.push(stream.get_ref().1.handshake_kind().unwrap());
        }
        assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed]);
    }
}

#[test]
fn what_is_wrong_with_the_files_is_said_with_their_names() {
    let pem = Pem::new();
    let missing = pem.refused();
    assert!(missing.contains("cert.pem cannot be read"), "{missing}");
    pem.write(&ecdsa());
    let (certificate, key) = (fs::read(pem.certificate()).unwrap(), fs::read(pem.key()).unwrap());
    let cases: [(&[u8], &[u8], &str); 9] = [
        (b"", &key, "cert.pem holds no certificate"),
        (&key, &certificate, "cert.pem holds no certificate"),
        (&certificate, b"", "key.pem holds no private key"),
        (&certificate, &certificate, "key.pem holds no private key"),
        (&certificate[..200], &key, "cert.pem is not valid PEM"),
        (&certificate, &key[..100], "key.pem is not valid PEM"),
        (b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", &key, "cert.pem cannot be read"),
        (
            &certificate,
            b"-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n",
            "key.pem cannot be used",
        ),
        (
            &certificate,
            b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "key.pem is encrypted",
        ),
    ];
    for (certificate, key, expected) in cases {
        fs::write(pem.certificate(), certificate).unwrap();
        fs::write(pem.key(), key).unwrap();
        let said = pem.refused();
        assert!(said.contains(expected), "{said}");
    }
    fs::write(pem.certificate(), vec![b' '; (1 << 20) + 1]).unwrap();
    assert!(pem.refused().contains("larger than 1048576 bytes"));
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let pem = Pem::new();
    pem.write(&ecdsa());
    fs::write(pem.key(), super::tests::pem("PRIVATE KEY", &ecdsa().serialize_der())).unwrap();
    let said = pem.refused();
    assert!(said.contains("key.pem does not belong to the first certificate in"), "{said}");
}

#[test]
fn an_expired_certificate_is_taken_and_told() {
    let pem = Pem::new();
    let expired = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    pem.write_until(&ecdsa(), expired);
    let certificates = pem.load().unwrap();
    assert_eq!(certificates.expires(), expired);
    assert_eq!(certificates.hashes(), None);
}

#[tokio::test(start_paused = true)]
async fn a_new_pair_is_shown_to_new_connections_and_a_broken_one_is_not() {
    let pem = Pem::new();
    let first = pem.write(&ecdsa());
    let certificates = pem.load().unwrap();
    let (address, cancelled) = (echo(&certificates).await, CancellationToken::new());
    let keeper = tokio::spawn({
        let (certificates, cancelled) = (certificates.clone(), cancelled.clone());
        async move { certificates.keep_fresh(cancelled).await }
    });
    // Time stands still while a look is on: once it has passed, the look is over.
    let looked = || tokio::time::sleep(LOOK_EVERY + Duration::from_millis(1));
    let mut old = connect(&client(&first, TLS13), address).await.unwrap();
    looked().await;
    connect(&client(&first, TLS13), address).await.unwrap();

    let second = pem.write(&ecdsa());
    looked().await;
    connect(&client(&second, TLS13), address).await.unwrap();
    connect(&client(&first, TLS13), address).await.unwrap_err();
    says(&mut old, b"still here").await;

    fs::write(pem.key(), "no key").unwrap();
    looked().await;
    looked().await;
    connect(&client(&second, TLS13), address).await.unwrap();
    let third = pem.write(&ecdsa());
    looked().await;
    connect(&client(&third, TLS13), address).await.unwrap();

    cancelled.cancel();
    keeper.await.unwrap();
}

#[test]
fn what_stays_broken_is_told_once() {
    let error = |name: &str| TlsError::NoKey { file: name.into() };
    let mut broken = Broken::default();
    let told: Vec<bool> =
        ["a", "b", "b", "b", "a", "a"].map(|name| broken.is_to_be_told(&error(name))).into();
    assert_eq!(told, [false, false, true, false, false, true]);
}

#[tokio::test]
async fn a_certificate_for_development_is_one_that_browsers_take_by_hash() {
    let certificates = Certificates::development(&["edge.test".to_owned(), "192.0.2.7".to_owned()]).unwrap();
    let shown = certificates.0.shown.get();
    let der = shown.key.end_entity_cert().unwrap().clone();
    assert_eq!(certificates.hashes().unwrap()[0], sha256(&[&der]));
    assert_eq!(validity::not_after(&der).unwrap(), round(certificates.expires()));
    let left = certificates.expires().duration_since(SystemTime::now()).unwrap();
    assert!(left < 13 * DAY && left > 12 * DAY, "{left:?}");
    // The object identifiers of a public key on P-256 (RFC 5480 section 2.1.1.1).
    let p256 = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
    assert!(der.windows(p256.len()).any(|part| part == p256));

    let address = echo(&certificates).await;
    for name in ["localhost", "127.0.0.1", "::1", "edge.test", "192.0.2.7"] {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from(name).unwrap();
        client(&der.clone().into_owned(), TLS13).connect(name, stream).await.unwrap();
    }
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Certificates count in seconds.
fn round(time: SystemTime) -> SystemTime {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[test]
fn certificates_for_development_follow_each_other_and_are_told_ahead() {
    let development = Development::new(&[]);
    let begin = SystemTime::now();
    let first = development.begin(begin).unwrap();
    assert!(development.renew(begin + 6 * DAY).unwrap().is_none());
    let second = development.renew(begin + 7 * DAY).unwrap().unwrap();
    assert_eq!(second.hashes[0], first.hashes[1]);
    assert!(!first.hashes.contains(&second.hashes[1]));
    assert!(second.expires > begin + 18 * DAY && second.expires < begin + 20 * DAY);
    assert!(development.renew(begin + 8 * DAY).unwrap().is_none());
    // After a long sleep nothing that was made ahead is valid any more.
    let late = development.renew(begin + 60 * DAY).unwrap().unwrap();
    assert!(!second.hashes.contains(&late.hashes[0]));
    assert!(late.expires > begin + 72 * DAY);
}

#[test]
fn a_name_that_cannot_stand_in_a_certificate_is_named() {
    let said = Certificates::development(&["exämple".to_owned()]).unwrap_err().to_string();
    assert!(said.contains("exämple"), "{said}");
}

#[test]
fn keys_may_be_in_their_older_formats() {
    // RFC 5915: the key of a P-256 certificate as `openssl ecparam -genkey` writes it.
    let pem = Pem::new();
    let key = ecdsa();
    pem.write(&key);
    let pkcs8 = key.serialize_der();
    // The ECPrivateKey is the octet string at the end of the PKCS#8 structure.
    let start = pkcs8.windows(2).position(|part| part == [0x04, 0x6d]).unwrap() + 2;
    let sec1 = super::tests::pem("EC PRIVATE KEY", &pkcs8[start..]);
    fs::write(pem.key(), &sec1).unwrap();
    assert!(matches!(PrivateKeyDer::from_pem_slice(sec1.as_bytes()).unwrap(), PrivateKeyDer::Sec1(_)));
    pem.load().unwrap();
}

#[tokio::test]
async fn quic_shows_the_same_certificate_and_its_successor() {
    use crate::transport::quic::{Endpoint, Incoming};
    use crate::transport::webtransport::client;

    let pem = Pem::new();
    let first = sha256(&[&pem.write(&ecdsa())]);
    let certificates = pem.load().unwrap();
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    let (to, mut incoming) = tokio::sync::mpsc::channel::<Incoming>(4);
    let _endpoint = Endpoint::spawn(socket, &certificates, vec![to]).unwrap();
    tokio::spawn(async move {
        let mut connections = Vec::new();
        while let Some(incoming) = incoming.recv().await {
            // A client that does not trust the certificate goes away.
            connections.extend(incoming.accept().unwrap().0.await);
        }
    });
    let client = client::endpoint();
    let old = client::quic(&client, address, &[first], b"h3").await.unwrap();
    let second = sha256(&[&pem.write(&ecdsa())]);
    certificates.look(&mut Broken::default()).await;
    client::quic(&client, address, &[second], b"h3").await.unwrap();
    client::quic(&client, address, &[first], b"h3").await.unwrap_err();
    assert_eq!(old.close_reason(), None);
}
