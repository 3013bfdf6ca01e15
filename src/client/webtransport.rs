//! The transport WebTransport (draft-ietf-webtrans-http3): one session on a QUIC connection of its own.

use std::fmt::Display;
use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use h3::ConnectionState as _;
use h3::client::{RequestStream, SendRequest};
use h3::ext::Protocol;
use http::{Method, Request};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream, TransportConfig, VarInt,
};
use serde_json::Value;

use super::ClientError;
use super::codec;
use super::connection::Heard;
use super::error::{Cause, Failure};
use super::framing::{Capsules, Close, Frames, close_session, put_varint, varint};
use super::route::Candidate;
use super::tls::Trust;
use crate::protocol::Codec;

/// What a bidirectional stream of a session begins with (section 4.2 of the draft).
const WEBTRANSPORT_STREAM: u64 = 0x41;
/// A datagram that holds this alone is a heartbeat.
const HEARTBEAT: &[u8] = b"\n";
/// How much is read at once.
const CHUNK: usize = 64 << 10;
/// How long the server may take to agree with a goodbye.
const GOODBYE: Duration = Duration::from_secs(2);
/// HTTP/3 takes three of the server's streams; a few more are let in and never read.
const MAX_UNI_STREAMS: u32 = 8;

/// One session.
pub(super) struct Session {
    codec: Codec,
    endpoint: Endpoint,
    quic: Connection,
    http: h3::client::Connection<h3_quinn::Connection, Bytes>,
    /// Dropping it would close the connection.
    _requests: SendRequest<h3_quinn::OpenStreams, Bytes>,
    control: RequestStream<h3_quinn::BidiStream<Bytes>, Bytes>,
    capsules: Capsules,
    send: SendStream,
    recv: RecvStream,
    /// Bytes that the stream has not taken yet.
    unsent: BytesMut,
    frames: Frames,
    is_finished: bool,
    closed: Option<Close>,
}

impl Session {
    /// Opens a session. Cancel-safe: a connection that is not used ends with its handles.
    pub(super) async fn open(way: &Candidate, codec: Codec, trust: &Trust) -> Result<Self, Failure> {
        let url = with_codec(&way.url, codec);
        let uri: http::Uri = url.parse().map_err(|_| Failure::lasting(&url, "this is no address"))?;
        let (endpoint, quic) = connect(&url, &uri, way, trust).await?;
        let failed = |error: &dyn Display| Failure::passing(&url, format!("HTTP/3: {error}"));
        let mut builder = h3::client::builder();
        let building = builder.enable_extended_connect(true).enable_datagram(true);
        let (mut http, mut requests) =
            building.build(h3_quinn::Connection::new(quic.clone())).await.map_err(|error| failed(&error))?;
        // A session must not be asked for before the server says that it takes them (section 3.1 of the draft).
        poll_fn(|cx| match http.poll_close(cx) {
            Poll::Ready(error) => Poll::Ready(Err(failed(&error))),
            Poll::Pending if http.settings().enable_extended_connect() => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        })
        .await?;
        let mut request = Request::builder()
            .method(Method::CONNECT)
            .uri(uri)
            .header("sec-webtransport-http3-draft02", "1")
            .body(())
            .map_err(|error| failed(&error))?;
        request.extensions_mut().insert(Protocol::WEB_TRANSPORT);
        let mut control = requests.send_request(request).await.map_err(|error| failed(&error))?;
        let answer = tokio::select! {
            answer = control.recv_response() => answer.map_err(|error| failed(&error))?,
            error = poll_fn(|cx| http.poll_close(cx)) => return Err(failed(&error)),
        };
        if !answer.status().is_success() {
            let after = answer.headers().get(http::header::RETRY_AFTER).and_then(|value| value.to_str().ok());
            return Err(Failure::from_status(&url, answer.status(), b"", after));
        }
        let (send, recv) = quic.open_bi().await.map_err(|error| failed(&error))?;
        let mut unsent = BytesMut::new();
        put_varint(&mut unsent, WEBTRANSPORT_STREAM);
        put_varint(&mut unsent, control.id().into_inner());
        Ok(Self {
            codec,
            endpoint,
            quic,
            http,
            _requests: requests,
            control,
            capsules: Capsules::default(),
            send,
            recv,
            unsent,
            frames: Frames::default(),
            is_finished: false,
            closed: None,
        })
    }

    /// What comes next. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Heard, ClientError> {
        loop {
            if let Some(frame) = self.frames.next()? {
                return codec::decode(self.codec, &frame).map(Heard::Frame);
            }
            // What was said on the stream comes before the close.
            if let (true, Some(Close { code, reason })) = (self.is_finished, self.closed.clone()) {
                // The server keeps the connection until it has this.
                let _ = self.control.finish().await;
                return Ok(Heard::Closed { code: code.try_into().unwrap_or(1006), reason });
            }
            tokio::select! {
                biased;
                chunk = self.recv.read_chunk(CHUNK, true), if !self.is_finished => match chunk {
                    Ok(Some(chunk)) => self.frames.feed(&chunk.bytes),
                    Err(quinn::ReadError::ConnectionLost(error)) => return Ok(Heard::broken(&error)),
                    // Finished or reset: nothing more comes.
                    Ok(None) | Err(_) => self.is_finished = true,
                },
                data = self.control.recv_data(), if self.closed.is_none() => match data {
                    Ok(Some(mut data)) => {
                        self.closed = self.capsules.feed(&data.copy_to_bytes(data.remaining()))?;
                    }
                    Ok(None) => self.closed = Some(Close { code: 0, reason: String::new() }),
                    Err(error) => return Ok(Heard::broken(&error)),
                },
                datagram = self.quic.read_datagram() => match datagram {
                    Ok(datagram) => return self.datagram(&datagram),
                    Err(error) => return Ok(Heard::broken(&error)),
                },
                error = poll_fn(|cx| self.http.poll_close(cx)) => return Ok(Heard::broken(&error)),
                // What a dropped `send` left behind.
                sent = self.send.write(&self.unsent), if !self.unsent.is_empty() => match sent {
                    Ok(taken) => self.unsent.advance(taken),
                    Err(error) => return Ok(Heard::broken(&error)),
                },
            }
        }
    }

    fn datagram(&self, datagram: &[u8]) -> Result<Heard, ClientError> {
        let Some((quarter, head)) = varint(datagram) else {
            return Err(ClientError::Protocol("a datagram without a session".into()));
        };
        match &datagram[head..] {
            // Of a session that is not ours: nobody knows what it says.
            _ if quarter.checked_mul(4) != Some(self.control.id().into_inner()) => Ok(Heard::Heartbeat),
            HEARTBEAT | b"" => Ok(Heard::Heartbeat),
            frame => codec::decode(self.codec, frame).map(Heard::Frame),
        }
    }

    /// Sends a frame. Dropping the future leaves what was not sent for later calls; no frame is sent by half.
    pub(super) async fn send(&mut self, frame: &Value) -> Result<(), ClientError> {
        let bytes = codec::encode(self.codec, frame);
        put_varint(&mut self.unsent, bytes.len() as u64);
        self.unsent.extend_from_slice(&bytes);
        while !self.unsent.is_empty() {
            let taken = self.send.write(&self.unsent).await.map_err(|_| ClientError::NotConnected)?;
            self.unsent.advance(taken);
        }
        Ok(())
    }

    /// Goes on from another UDP port.
    pub(super) fn rebind(&self) -> io::Result<SocketAddr> {
        self.endpoint.rebind(UdpSocket::bind(any(self.quic.remote_address()))?)?;
        self.endpoint.local_addr()
    }

    /// Says goodbye, and waits a little until the server has ended the connection.
    pub(super) async fn close(mut self) {
        // A stream that is not read to its end must not hold up what is said.
        let goodbye = async {
            let _ = self.control.send_data(close_session(1000)).await;
            let _ = self.control.finish().await;
            self.quic.closed().await
        };
        let _ = tokio::time::timeout(GOODBYE, goodbye).await;
        self.quic.close(VarInt::from_u32(0), b"");
        let _ = tokio::time::timeout(GOODBYE, self.endpoint.wait_idle()).await;
    }
}

fn with_codec(url: &str, codec: Codec) -> String {
    let codec = match codec {
        Codec::Json => "json",
        Codec::Cbor => "cbor",
    };
    format!("{url}{}codec={codec}", if url.contains('?') { '&' } else { '?' })
}

/// Any address of the family of this one.
fn any(peer: SocketAddr) -> SocketAddr {
    match peer {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// QUIC to the first address of the host that answers.
async fn connect(
    url: &str,
    uri: &http::Uri,
    way: &Candidate,
    trust: &Trust,
) -> Result<(Endpoint, Connection), Failure> {
    if uri.scheme_str() != Some("https") {
        return Err(Failure::lasting(url, "WebTransport needs TLS: the address begins with https://"));
    }
    let host = uri.host().ok_or_else(|| Failure::lasting(url, "the address names no host"))?;
    let host = host.trim_matches(['[', ']']);
    let mut tls = trust.config(&way.hashes);
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let tls = QuicClientConfig::try_from(tls).expect("ring has the suite of initial packets");
    let mut transport = TransportConfig::default();
    // The server opens no bidirectional streams.
    transport.max_concurrent_bidi_streams(VarInt::from_u32(0));
    transport.max_concurrent_uni_streams(VarInt::from_u32(MAX_UNI_STREAMS));
    let mut config = ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport));
    let addresses = tokio::net::lookup_host((host, uri.port_u16().unwrap_or(443))).await;
    let mut failure = Failure::passing(url, "the host has no address");
    for address in addresses.map_err(|error| Failure::from_error(url, &error))? {
        let endpoint = Endpoint::client(any(address)).map_err(|error| Failure::from_error(url, &error))?;
        let connecting = endpoint.connect_with(config.clone(), address, host);
        match connecting.map_err(|error| Failure::lasting(url, error.to_string()))?.await {
            Ok(connection) => return Ok((endpoint, connection)),
            Err(error) => failure = refused(url, &error),
        }
    }
    Err(failure)
}

/// TLS alerts about certificates: 42 to 46, an authority nobody knows, and 49 for one that has another hash
/// (RFC 8446 section 6).
fn refused(url: &str, error: &ConnectionError) -> Failure {
    match error {
        ConnectionError::TransportError(inner) => {
            let alert = u64::from(inner.code).checked_sub(0x100);
            match alert {
                Some(42..=46 | 48 | 49) => {
                    Failure { cause: Cause::Certificate, ..Failure::lasting(url, &*inner.reason) }
                }
                _ => Failure::passing(url, error.to_string()),
            }
        }
        ConnectionError::TimedOut => unanswered(url),
        _ => Failure::passing(url, error.to_string()),
    }
}

/// Nothing came back in time.
pub(super) fn unanswered(url: &str) -> Failure {
    let why = "nothing serves WebTransport at that UDP port, or a firewall stops UDP";
    Failure { cause: Cause::Unanswered, ..Failure::passing(url, why) }
}
