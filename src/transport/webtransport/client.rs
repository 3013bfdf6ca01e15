//! The client side of WebTransport, as far as tests need it: HTTP/3 by h3, streams and datagrams by quinn.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use h3::client::{RequestStream, SendRequest};
use h3::ext::Protocol;
use http::{Request, Response};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream, VarInt};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};

use super::backend::{self, BidiStream, Opener};
use super::capsule::{CapsuleDecoder, CloseSession, close_session};
use super::{Closed, varint};
use crate::transport::tls::CertificateHash;

/// A session, seen from the client.
pub(super) struct Client {
    pub(crate) quinn: Connection,
    /// Closing it is closing the connection.
    _http: h3::client::Connection<backend::Connection, Bytes>,
    _requests: SendRequest<Opener, Bytes>,
    connect: RequestStream<BidiStream, Bytes>,
    id: u64,
}

/// HTTP/3 over QUIC, before there is a session.
pub(super) struct Http3 {
    pub(crate) quinn: Connection,
    http: h3::client::Connection<backend::Connection, Bytes>,
    pub(super) requests: SendRequest<Opener, Bytes>,
}

/// A client's socket, which may be moved to another.
pub(crate) fn endpoint() -> Endpoint {
    Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port")
}

/// QUIC to a server with one of these certificates, for one application protocol.
pub(crate) async fn quic(
    endpoint: &Endpoint,
    server: SocketAddr,
    hashes: &[CertificateHash],
    protocol: &[u8],
) -> Result<Connection, quinn::ConnectionError> {
    let config = config(hashes, protocol);
    endpoint.connect_with(config, server, "localhost").expect("a valid address and name").await
}

/// Settings of such a connection.
pub(crate) fn config(hashes: &[CertificateHash], protocol: &[u8]) -> ClientConfig {
    let provider = Arc::new(ring::default_provider());
    let known = Arc::new(Known { hashes: hashes.to_vec(), provider: provider.clone() });
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring has TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(known)
        .with_no_client_auth();
    tls.alpn_protocols = vec![protocol.to_vec()];
    let tls = QuicClientConfig::try_from(tls).expect("ring has the suite of initial packets");
    ClientConfig::new(Arc::new(tls))
}

impl Http3 {
    pub(crate) async fn connect(endpoint: &Endpoint, server: SocketAddr, hashes: &[CertificateHash]) -> Self {
        let quinn = quic(endpoint, server, hashes, b"h3").await.expect("a handshake");
        let mut builder = h3::client::builder();
        let builder = builder.enable_datagram(true).enable_extended_connect(true);
        let (http, requests) =
            builder.build(backend::Connection::new(quinn.clone())).await.expect("streams of HTTP/3");
        Self { quinn, http, requests }
    }

    /// Asks for a session; the status where it is refused.
    pub(crate) async fn session(mut self, mut request: Request<()>) -> Result<Client, Response<()>> {
        request.extensions_mut().insert(Protocol::WEB_TRANSPORT);
        let mut connect = self.requests.send_request(request).await.expect("a request that is sent");
        let response = connect.recv_response().await.expect("an answer");
        if !response.status().is_success() {
            return Err(response);
        }
        let id = connect.id().into_inner();
        Ok(Client { quinn: self.quinn, _http: self.http, _requests: self.requests, connect, id })
    }
}

impl Client {
    /// Opens a bidirectional stream of the session.
    pub(crate) async fn open(&self) -> (SendStream, RecvStream) {
        self.open_for(self.id).await
    }

    /// Opens a bidirectional stream that says it belongs to this session.
    pub(crate) async fn open_for(&self, session: u64) -> (SendStream, RecvStream) {
        let (mut send, recv) = self.quinn.open_bi().await.expect("a stream");
        for number in [0x41, session] {
            send.write_all(varint::Encoded::new(number).as_bytes()).await.expect("a stream that is taken");
        }
        (send, recv)
    }

    /// The frame of the next datagram.
    pub(crate) async fn datagram(&self) -> Bytes {
        let mut datagram = self.quinn.read_datagram().await.expect("a datagram");
        let (session, read) = varint::read(&datagram).expect("the number of a session");
        assert_eq!(session * 4, self.id);
        datagram.advance(read);
        datagram
    }

    /// Sends bytes as they are on the stream of capsules.
    pub(crate) async fn say(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        self.connect.send_data(bytes.into()).await.map_err(io::Error::other)
    }

    /// Ends the stream of capsules.
    pub(crate) async fn finish(&mut self) {
        self.connect.finish().await.expect("a stream that is taken");
    }

    /// Closes the session.
    pub(crate) async fn close(&mut self, code: u32, reason: &str) {
        self.say(close_session(code, reason)).await.expect("a stream that is taken");
        self.finish().await;
    }

    /// Waits for what the server says at the end, and agrees.
    pub(crate) async fn closed(&mut self) -> Closed {
        let mut capsules = CapsuleDecoder::default();
        let closed = loop {
            match self.connect.recv_data().await {
                Ok(Some(mut data)) => {
                    let data = data.copy_to_bytes(data.remaining());
                    if let Some(CloseSession { code, reason }) = capsules.feed(&data).expect("valid capsules")
                    {
                        break Closed { code: Some(code), reason };
                    }
                }
                Ok(None) => break Closed { code: Some(0), reason: String::new() },
                Err(error) => return Closed { code: None, reason: error.to_string() },
            }
        };
        // The server may have hung up.
        let _ = self.connect.finish().await;
        closed
    }

    /// Ends the connection without a word of WebTransport.
    pub(crate) fn vanish(self) {
        self.quinn.close(VarInt::from_u32(0x10c), b"gone");
    }
}

/// Trusts certificates by their hash, as browsers do (W3C WebTransport, `serverCertificateHashes`).
#[derive(Debug)]
struct Known {
    hashes: Vec<CertificateHash>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let hash = ::ring::digest::digest(&::ring::digest::SHA256, certificate);
        if self.hashes.iter().any(|known| known == hash.as_ref()) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::UnknownIssuer.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
