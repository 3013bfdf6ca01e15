//! The transport WebTransport: one session on a QUIC connection of its own, frames on one stream.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream, VarInt};
use tokio::task::JoinHandle;

use super::http3::{self, put_varint, take_tagged, take_varint};
use super::{Codec, Event, Frame, Options, Refusal};
use crate::{DEADLINE, http, tls};

/// How much is read at once.
const CHUNK: usize = 64 << 10;

/// One session.
pub(super) struct WebTransport {
    codec: Codec,
    endpoint: Endpoint,
    connection: Connection,
    /// The CONNECT stream: capsules, both ways.
    control: (SendStream, RecvStream),
    /// HTTP/3 frames of the CONNECT stream that are not whole yet, and capsules out of them.
    unread: (Vec<u8>, Vec<u8>),
    /// The stream with the protocol's frames.
    frames: (SendStream, RecvStream),
    /// Bytes of it that make no whole frame yet.
    partial: Vec<u8>,
    is_finished: bool,
    closed: Option<(u16, String)>,
    seen: Datagrams,
    /// Reads the server's unidirectional streams, which must not be stopped (RFC 9114 section 6.2.1).
    others: JoinHandle<()>,
}

/// How many datagrams came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Datagrams {
    /// Those that held a frame.
    pub frames: u64,
    /// Those that held a line feed alone.
    pub heartbeats: u64,
}

impl WebTransport {
    /// Asks the node that serves WebSockets at `url` where it serves WebTransport, and opens a session there.
    pub(super) async fn open(url: &str, options: &Options) -> Result<Result<Self, Refusal>> {
        let (authority, tenant) = super::place(url)?;
        let place = match Place::ask(&authority, &tenant).await? {
            Ok(place) => place,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let opening = Self::open_at(&place, options);
        tokio::time::timeout(DEADLINE, opening).await.context("no answer to the WebTransport handshake")?
    }

    async fn open_at(place: &Place, options: &Options) -> Result<Result<Self, Refusal>> {
        let (endpoint, connection) = place.connect().await?;
        let (control, others) = greet(&connection).await?;
        // Dropping it would close a stream that must stay open.
        let others = tokio::spawn(async move {
            let _control = control;
            others.await;
        });
        let mut control = connection.open_bi().await?;
        let session = VarInt::from(control.0.id()).into_inner();
        ensure!(session == 0, "the first request is on stream {session}");
        control.0.write_all(&place.request(options)).await?;
        let mut unread = Vec::new();
        let (kind, block) = loop {
            if let Some(frame) = take_tagged(&mut unread) {
                break frame;
            }
            let chunk = control.1.read_chunk(CHUNK, true).await?;
            unread.extend_from_slice(&chunk.context("the CONNECT stream ended without an answer")?.bytes);
        };
        match http3::status(kind, &block)? {
            200 => {}
            status => return Ok(Err(Refusal::Handshake(status))),
        }
        let mut frames = connection.open_bi().await?;
        let mut head = Vec::new();
        put_varint(&mut head, http3::WEBTRANSPORT_STREAM);
        put_varint(&mut head, session);
        frames.0.write_all(&head).await?;
        Ok(Ok(Self {
            codec: options.wire.codec,
            endpoint,
            connection,
            control,
            unread: (unread, Vec::new()),
            frames,
            partial: Vec::new(),
            is_finished: false,
            closed: None,
            seen: Datagrams::default(),
            others,
        }))
    }

    /// Sends a frame.
    pub(super) async fn send(&mut self, frame: &[u8]) -> Result<()> {
        let mut bytes = Vec::with_capacity(frame.len() + 8);
        put_varint(&mut bytes, frame.len() as u64);
        bytes.extend_from_slice(frame);
        self.send_bytes(&bytes).await
    }

    /// Sends bytes on the stream as they are, without a length in front.
    pub(super) async fn send_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.frames.0.write_all(bytes).await?)
    }

    /// What happens next. Cancel-safe.
    pub(super) async fn read(&mut self) -> Result<Event> {
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(Event::Frame(frame));
            }
            self.take_capsules()?;
            // What was said on the stream comes before the close.
            if let (true, Some((code, reason))) = (self.is_finished, self.closed.clone()) {
                // The server keeps the connection until it has this.
                let _ = self.control.0.finish();
                return Ok(Event::Closed { code, reason });
            }
            tokio::select! {
                biased;
                chunk = self.frames.1.read_chunk(CHUNK, true), if !self.is_finished => match chunk {
                    Ok(Some(chunk)) => self.partial.extend_from_slice(&chunk.bytes),
                    Ok(None) => {
                        ensure!(self.partial.is_empty(), "the stream ended within a frame");
                        self.is_finished = true;
                    }
                    Err(quinn::ReadError::ConnectionLost(error)) => return Ok(Event::Lost(error.to_string())),
                    // Reset: nothing more comes.
                    Err(_) => self.is_finished = true,
                },
                chunk = self.control.1.read_chunk(CHUNK, true), if self.closed.is_none() => match chunk {
                    Ok(Some(chunk)) => self.unread.0.extend_from_slice(&chunk.bytes),
                    Ok(None) => return Ok(Event::Lost("the session ended without a close".into())),
                    Err(error) => return Ok(Event::Lost(error.to_string())),
                },
                datagram = self.connection.read_datagram() => match datagram {
                    Ok(datagram) => if let Some(frame) = self.datagram(&datagram)? {
                        return Ok(Event::Frame(frame));
                    },
                    Err(error) => return Ok(Event::Lost(error.to_string())),
                },
            }
        }
    }

    fn take_frame(&mut self) -> Result<Option<Frame>> {
        let mut rest = &self.partial[..];
        let Some(length) = take_varint(&mut rest) else { return Ok(None) };
        let length = usize::try_from(length)?;
        let Some(frame) = rest.get(..length) else { return Ok(None) };
        let decoded = Frame::decode(self.codec, frame)?;
        let taken = self.partial.len() - rest.len() + length;
        self.partial.drain(..taken);
        Ok(Some(decoded))
    }

    fn take_capsules(&mut self) -> Result<()> {
        while let Some((kind, payload)) = take_tagged(&mut self.unread.0) {
            // Frames of unknown kinds are ignored (RFC 9114 section 9).
            if kind == http3::DATA {
                self.unread.1.extend(payload);
            }
        }
        while let Some((kind, value)) = take_tagged(&mut self.unread.1) {
            if let Some(closed) = http3::closed(kind, &value)? {
                self.closed = Some(closed);
            }
        }
        Ok(())
    }

    /// The frame in a datagram; a line feed alone is a heartbeat.
    fn datagram(&mut self, datagram: &[u8]) -> Result<Option<Frame>> {
        let mut rest = datagram;
        let session = take_varint(&mut rest).context("a datagram without a session")?;
        ensure!(session == 0, "a datagram of a session {session} that nobody opened");
        if rest == b"\n" {
            self.seen.heartbeats += 1;
            return Ok(None);
        }
        self.seen.frames += 1;
        Frame::decode(self.codec, rest).map(Some)
    }

    /// What came in datagrams so far.
    pub(super) fn datagrams(&self) -> Datagrams {
        self.seen
    }

    /// Goes on from another UDP port, as a client does whose network changed. The answer is the new address.
    pub(super) fn rebind(&self) -> Result<SocketAddr> {
        self.endpoint.rebind(UdpSocket::bind("127.0.0.1:0")?)?;
        Ok(self.endpoint.local_addr()?)
    }

    /// Says goodbye and waits until the server has closed the connection.
    pub(super) async fn close(mut self) -> Result<()> {
        self.control.0.write_all(&http3::close_session(1000, "")).await?;
        self.control.0.finish()?;
        let closed = tokio::time::timeout(DEADLINE, self.connection.closed()).await;
        closed.context("the server did not close the connection").map(drop)
    }

    /// Ends the QUIC connection at once and without a goodbye.
    pub(super) fn reset(self) {
        // H3_INTERNAL_ERROR.
        self.connection.close(VarInt::from_u32(0x102), b"");
    }
}

impl Drop for WebTransport {
    fn drop(&mut self) {
        self.others.abort();
    }
}

/// Exchanges settings. A client must not ask for a session before it has the server's (draft-ietf-webtrans-http3
/// section 3.1). The future keeps the server's streams open and has no end.
async fn greet(connection: &Connection) -> Result<(SendStream, impl Future<Output = ()> + Send + use<>)> {
    let mut control = connection.open_uni().await?;
    control.write_all(&http3::control_stream()).await?;
    let mut kept = Vec::new();
    let settings = loop {
        let mut stream = connection.accept_uni().await.context("the server opens no control stream")?;
        let mut bytes = Vec::new();
        while take_varint(&mut &bytes[..]).is_none() {
            let chunk = stream.read_chunk(CHUNK, true).await?.context("a stream without a type")?;
            bytes.extend_from_slice(&chunk.bytes);
        }
        let mut rest = &bytes[..];
        if take_varint(&mut rest) == Some(http3::CONTROL_STREAM) {
            let mut rest = rest.to_vec();
            let settings = loop {
                if let Some(frame) = take_tagged(&mut rest) {
                    break frame;
                }
                let chunk = stream.read_chunk(CHUNK, true).await?.context("the control stream ended")?;
                rest.extend_from_slice(&chunk.bytes);
            };
            kept.push(stream);
            break settings;
        }
        kept.push(stream);
    };
    http3::check_settings(settings.0, &settings.1)?;
    let connection = connection.clone();
    Ok((control, async move {
        while let Ok(stream) = connection.accept_uni().await {
            kept.push(stream);
        }
    }))
}

/// Where a node serves WebTransport.
struct Place {
    authority: String,
    path: String,
    hashes: Vec<Vec<u8>>,
}

impl Place {
    async fn ask(authority: &str, tenant: &str) -> Result<Result<Self, Refusal>> {
        let answer = http::get(authority, &format!("/v1/{tenant}/route"), None).await?;
        if answer.status != 200 {
            return Ok(Err(Refusal::Handshake(answer.status)));
        }
        let route = answer.json()?;
        let offer = &route["nodes"][0]["transports"]["webtransport"];
        let url = offer["url"].as_str().with_context(|| format!("no WebTransport in {route}"))?;
        let rest = url.strip_prefix("https://").with_context(|| format!("{url} is not https"))?;
        let (authority, path) = rest.split_once('/').with_context(|| format!("{url} has no path"))?;
        let hashes = offer["certificate_hashes"].as_array().map_or(&[][..], Vec::as_slice);
        let hash = |entry: &serde_json::Value| {
            ensure!(entry["algorithm"] == "sha-256", "a hash nobody knows: {entry}");
            Ok(STANDARD.decode(entry["value"].as_str().context("a hash without a value")?)?)
        };
        let hashes = hashes.iter().map(hash).collect::<Result<Vec<_>>>()?;
        ensure!(!hashes.is_empty(), "the route names no certificate: {route}");
        Ok(Ok(Self { authority: authority.into(), path: format!("/{path}"), hashes }))
    }

    async fn connect(&self) -> Result<(Endpoint, Connection)> {
        let mut config = tls::pinned(self.hashes.clone())?;
        config.alpn_protocols = vec![b"h3".to_vec()];
        let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(config)?));
        let mut addresses = tokio::net::lookup_host(&self.authority).await?;
        let Some(address) = addresses.find(SocketAddr::is_ipv4) else {
            bail!("{} has no IPv4 address", self.authority)
        };
        let (host, _) = self.authority.rsplit_once(':').context("no port")?;
        let endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let connection = endpoint.connect_with(config, address, host)?.await?;
        Ok((endpoint, connection))
    }

    fn request(&self, options: &Options) -> Vec<u8> {
        let codec = match options.wire.codec {
            Codec::Json => "json",
            Codec::Cbor => "cbor",
        };
        let path = options.with_query(&format!("{}?codec={codec}", self.path));
        let bearer = options.bearer.as_ref().map(|token| format!("Bearer {token}"));
        let mut fields = vec![
            (":method", "CONNECT"),
            (":scheme", "https"),
            (":authority", &self.authority),
            (":path", &path),
            (":protocol", "webtransport"),
            ("sec-webtransport-http3-draft02", "1"),
        ];
        fields.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
        fields.extend(options.origin.as_deref().map(|origin| ("origin", origin)));
        http3::request(&fields)
    }
}
