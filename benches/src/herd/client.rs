//! One client over TCP: a socket and where its stream of frames stands.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use mio::net::TcpStream;
use rustls::{ClientConfig, ClientConnection};
use socket2::{Domain, Socket, Type};

use super::counts::Seen;
use super::events::Body;
use super::talk::{Talk, find};
use super::websocket::{self, PING, PONG, SAY, TEXT};
use super::{Kind, Transport};

/// Where and how a client connects.
#[derive(Clone)]
pub struct Line {
    /// The node.
    pub address: SocketAddr,
    /// What is spoken.
    pub transport: Transport,
    /// Needed over TLS.
    pub tls: Option<Arc<ClientConfig>>,
}

/// A client.
pub struct Client {
    /// Its connection.
    pub stream: TcpStream,
    /// What it says and hears.
    pub talk: Talk,
    line: Line,
    tls: Option<Box<ClientConnection>>,
    /// The beginning of a frame, or of the handshake's answer, whose end is to come.
    rest: Vec<u8>,
    upgraded: bool,
    /// The answer's body, where frames come in one.
    body: Option<Body>,
}

impl Client {
    /// Connects and asks for the upgrade, or for the stream of events.
    pub fn connect(line: Line, kind: Kind, number: usize, resume: Option<Box<str>>) -> Result<Self> {
        Self::begin(line, Talk::new(kind, number, resume))
    }

    /// The same client with a new connection and its resume token.
    pub fn again(&self) -> Result<Self> {
        Self::begin(self.line.clone(), self.talk.again()?)
    }

    fn begin(line: Line, talk: Talk) -> Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        // Many addresses: one has ports for only some 28,000 connections.
        let source = Ipv4Addr::new(127, 0, 0, 1 + (talk.number() % 8) as u8);
        socket.bind(&SocketAddr::from((source, 0)).into())?;
        socket.connect(&line.address.into()).context("connecting")?;
        socket.set_tcp_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let stream = TcpStream::from_std(socket.into());
        let tls = match &line.tls {
            Some(config) => Some(Box::new(ClientConnection::new(config.clone(), "localhost".try_into()?)?)),
            None => None,
        };
        let body = (line.transport == Transport::Sse).then(Body::default);
        let upgraded = talk.kind == Kind::Bare;
        let mut client = Self { stream, talk, line, tls, rest: Vec::new(), upgraded, body };
        if !upgraded {
            let request = client.request()?;
            client.write(request.as_bytes())?;
        }
        Ok(client)
    }

    fn request(&self) -> Result<String> {
        let address = self.line.address;
        if self.body.is_some() {
            let (query, header) = self.talk.request()?;
            return Ok(format!("GET /v1/demo/sse{query} HTTP/1.1\r\nHost: {address}\r\n{header}\r\n"));
        }
        Ok(format!(
            "GET /v1/demo/ws HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: tidegate.v1.json\r\n\r\n"
        ))
    }

    /// Reads what came. `buffer` is shared by all clients; `sample` asks for times of sending.
    pub fn read(&mut self, buffer: &mut [u8], sample: bool) -> Result<Seen> {
        let mut seen = Seen::default();
        loop {
            match self.read_once(buffer) {
                Ok(0) => bail!("the node hung up on client {}", self.talk.number()),
                Ok(got) => {
                    self.on_bytes(&buffer[..got], sample, &mut seen)?;
                    // A read that leaves room took everything: the next event tells of more. Over TLS a
                    // record ends a read.
                    if got < buffer.len() && self.tls.is_none() {
                        return Ok(seen);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(seen),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn read_once(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.stream.read(buffer) };
        loop {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return read,
            }
            tls.read_tls(&mut self.stream)?;
            tls.process_new_packets().map_err(std::io::Error::other)?;
            while tls.wants_write() {
                tls.write_tls(&mut self.stream)?;
            }
        }
    }

    fn on_bytes(&mut self, bytes: &[u8], sample: bool, seen: &mut Seen) -> Result<()> {
        if self.rest.is_empty() && self.upgraded {
            let taken = self.on_frames(bytes, sample, seen)?;
            self.rest.extend_from_slice(&bytes[taken..]);
            return Ok(());
        }
        let mut whole = std::mem::take(&mut self.rest);
        whole.extend_from_slice(bytes);
        let mut taken = 0;
        if !self.upgraded {
            let Some(end) = find(&whole, b"\r\n\r\n") else {
                self.rest = whole;
                return Ok(());
            };
            let expected: &[u8] = if self.body.is_some() { b"HTTP/1.1 200" } else { b"HTTP/1.1 101" };
            if !whole.starts_with(expected) {
                bail!("the node answers {}", String::from_utf8_lossy(&whole));
            }
            self.upgraded = true;
            taken = end + 4;
            if self.body.is_none() {
                let hello = self.talk.hello();
                self.write_frame(SAY, hello.as_bytes())?;
            }
        }
        taken += self.on_frames(&whole[taken..], sample, seen)?;
        self.rest.extend_from_slice(&whole[taken..]);
        Ok(())
    }

    /// Takes whole frames; how many bytes they had.
    fn on_frames(&mut self, bytes: &[u8], sample: bool, seen: &mut Seen) -> Result<usize> {
        if let Some(body) = &mut self.body {
            let talk = &mut self.talk;
            // Nothing can be said on this connection.
            return body.take(bytes, |text| talk.hear(text, text.len(), sample, seen).map(drop));
        }
        let mut at = 0;
        while let Some((header, length)) = websocket::frame(&bytes[at..]) {
            let Some(payload) = bytes.get(at + header..at + header + length) else { break };
            match bytes[at] & 0xF {
                TEXT => {
                    if let Some(answer) = self.talk.hear(payload, header + length, sample, seen)? {
                        self.write_frame(SAY, answer.as_bytes())?;
                    }
                }
                PING => self.write_frame(PONG, payload)?,
                _ => bail!("the node closes: {}", String::from_utf8_lossy(payload)),
            }
            at += header + length;
        }
        Ok(at)
    }

    fn write_frame(&mut self, first: u8, payload: &[u8]) -> Result<()> {
        self.write(&websocket::encode(first, payload)?)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        // These few bytes fit into an empty socket, or else the client is far too slow.
        let fits = "what a client says does not fit into its socket";
        let Some(tls) = &mut self.tls else { return self.stream.write_all(bytes).context(fits) };
        tls.writer().write_all(bytes)?;
        while tls.wants_write() {
            tls.write_tls(&mut self.stream).context(fits)?;
        }
        Ok(())
    }
}
