//! One client: a socket and where its stream of frames stands.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result, bail};
use mio::net::TcpStream;
use socket2::{Domain, Socket, Type};

use super::Kind;
use super::tokens::token;

/// A client.
pub struct Client {
    /// Its connection.
    pub stream: TcpStream,
    /// What it is.
    pub kind: Kind,
    number: usize,
    address: SocketAddr,
    resume: Option<Box<str>>,
    /// The beginning of a frame, or of the handshake's answer, whose end is to come.
    rest: Vec<u8>,
    upgraded: bool,
    /// `subscribed` frames that came.
    subscribed: usize,
    /// Whether it got all it waits for before messages.
    pub begun: bool,
}

/// What came from the node in one look at a socket.
#[derive(Debug, Default)]
pub struct Seen {
    /// Messages.
    pub messages: u64,
    /// Bytes of frames.
    pub bytes: u64,
    /// Gaps.
    pub gaps: u64,
    /// Whether it came back to its session.
    pub home: bool,
    /// Times of sending of the messages, if asked for.
    pub sent_ns: Vec<u64>,
}

const TEXT: u8 = 1;
const PING: u8 = 9;

impl Client {
    /// Connects and asks for the upgrade.
    pub fn connect(kind: Kind, number: usize, address: SocketAddr, resume: Option<Box<str>>) -> Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        // Many addresses: one has ports for only some 28,000 connections.
        let source = Ipv4Addr::new(127, 0, 0, 1 + (number % 8) as u8);
        socket.bind(&SocketAddr::from((source, 0)).into())?;
        socket.connect(&address.into()).context("connecting")?;
        socket.set_tcp_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let stream = TcpStream::from_std(socket.into());
        let bare = kind == Kind::Bare;
        let (rest, subscribed) = (Vec::new(), 0);
        let mut client =
            Self { stream, kind, number, address, resume, rest, upgraded: bare, subscribed, begun: bare };
        if !bare {
            let request = format!(
                "GET /v1/demo/ws HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                 Sec-WebSocket-Protocol: tidegate.v1.json\r\n\r\n"
            );
            client.stream.write_all(request.as_bytes())?;
        }
        Ok(client)
    }

    /// The same client with a new connection and its resume token.
    pub fn again(&self) -> Result<Self> {
        let resume = self.resume.clone().context("a client has no resume token")?;
        Self::connect(self.kind, self.number, self.address, Some(resume))
    }

    /// Reads what came. `buffer` is shared by all clients; `sample` asks for times of sending.
    pub fn read(&mut self, buffer: &mut [u8], sample: bool) -> Result<Seen> {
        let mut seen = Seen::default();
        loop {
            match self.stream.read(buffer) {
                Ok(0) => bail!("the node hung up on client {}", self.number),
                Ok(got) => {
                    self.on_bytes(&buffer[..got], sample, &mut seen)?;
                    // A read that leaves room took everything: the next event tells of more.
                    if got < buffer.len() {
                        return Ok(seen);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(seen),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
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
            if !whole.starts_with(b"HTTP/1.1 101") {
                bail!("the node answers {}", String::from_utf8_lossy(&whole));
            }
            self.upgraded = true;
            taken = end + 4;
            self.say(&self.hello())?;
        }
        taken += self.on_frames(&whole[taken..], sample, seen)?;
        self.rest.extend_from_slice(&whole[taken..]);
        Ok(())
    }

    /// Takes whole frames; how many bytes they had.
    fn on_frames(&mut self, bytes: &[u8], sample: bool, seen: &mut Seen) -> Result<usize> {
        let mut at = 0;
        while let Some((header, length)) = frame(&bytes[at..]) {
            let Some(payload) = bytes.get(at + header..at + header + length) else { break };
            match bytes[at] & 0xF {
                TEXT => self.on_text(payload, sample, header, seen)?,
                PING => self.write_frame(0x8A, payload)?,
                _ => bail!("the node closes: {}", String::from_utf8_lossy(payload)),
            }
            at += header + length;
        }
        Ok(at)
    }

    fn on_text(&mut self, text: &[u8], sample: bool, header: usize, seen: &mut Seen) -> Result<()> {
        // Every frame begins with its type.
        match text.get(br#"{"type":""#.len()..).unwrap_or_default() {
            [b'm', ..] => {
                seen.messages += 1;
                seen.bytes += (header + text.len()) as u64;
                if sample && let Some(sent) = field(text, br#""data":""#, 20) {
                    seen.sent_ns.extend(sent.parse::<u64>());
                }
                if matches!(self.kind, Kind::Acking | Kind::Device) {
                    self.acknowledge(text)?;
                }
            }
            [b's', ..] => {
                self.subscribed += 1;
                self.begun |= self.subscribed == self.subscriptions();
            }
            [b'g', ..] => seen.gaps += 1,
            [b'c', ..] => {
                let text = String::from_utf8_lossy(text);
                let resume = text.split_once(r#""resume":""#).and_then(|(_, rest)| rest.split_once('"'));
                let again = self.resume.take().is_some();
                self.resume = resume.filter(|_| self.kind == Kind::Device).map(|(token, _)| token.into());
                seen.home = text.contains(r#""resumed":"home""#);
                self.begun |= again;
            }
            [b'e' | b'd', ..] => bail!("the node says {}", String::from_utf8_lossy(text)),
            _ => {}
        }
        Ok(())
    }

    fn acknowledge(&mut self, message: &[u8]) -> Result<()> {
        let channel = field(message, br#""channel":""#, 0).context("a message names its channel")?;
        let offset = field(message, br#""offset":""#, 0).context("a message has an offset")?;
        let ack = format!(r#"{{"type":"ack","channel":"{channel}","offset":"{offset}"}}"#);
        self.say(&ack)
    }

    /// The first frame.
    fn hello(&self) -> String {
        let user = format!("u{}", self.number);
        match (self.kind, &self.resume) {
            (Kind::Bare, _) => String::new(),
            (Kind::Room, _) => r#"{"type":"connect","subs":[{"channel":"room:1"}]}"#.to_owned(),
            (Kind::Stalled, _) => {
                r#"{"type":"connect","subs":[{"channel":"room:1"},{"channel":"room:noise"}]}"#.to_owned()
            }
            (Kind::Own, _) => format!(r#"{{"type":"connect","token":"{}"}}"#, token(&user)),
            (Kind::Acking, _) => format!(
                r#"{{"type":"connect","token":"{}","subs":[{{"channel":"user:{user}","ack":true}}]}}"#,
                token(&user)
            ),
            (Kind::Device, None) => format!(
                r#"{{"type":"connect","token":"{}","device":"d","subs":[{{"channel":"room:1","ack":true}}]}}"#,
                token(&user)
            ),
            (Kind::Device, Some(resume)) => {
                format!(r#"{{"type":"connect","token":"{}","device":"d","resume":"{resume}"}}"#, token(&user))
            }
        }
    }

    /// Subscriptions of a new session.
    fn subscriptions(&self) -> usize {
        match self.kind {
            Kind::Bare => 0,
            Kind::Own | Kind::Acking => 1,
            Kind::Room | Kind::Device => 2,
            Kind::Stalled => 3,
        }
    }

    fn say(&mut self, text: &str) -> Result<()> {
        self.write_frame(0x81, text.as_bytes())
    }

    /// A whole frame. Its mask is zero, which leaves the payload as it is.
    fn write_frame(&mut self, first: u8, payload: &[u8]) -> Result<()> {
        let mut out = vec![first];
        match payload.len() {
            length @ 0..126 => out.push(0x80 | length as u8),
            length => {
                out.push(0x80 | 126);
                out.extend_from_slice(&u16::try_from(length)?.to_be_bytes());
            }
        }
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(payload);
        // These few bytes fit into an empty socket, or else the client is far too slow.
        self.stream.write_all(&out).context("a client's own frame does not fit into its socket")
    }
}

/// The bytes of a server frame's header and payload, once the header is whole.
fn frame(bytes: &[u8]) -> Option<(usize, usize)> {
    match *bytes.get(1)? {
        126 => Some((4, u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?).into())),
        127 => Some((10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize)),
        length => Some((2, length.into())),
    }
}

/// What stands after a name, up to the closing quote or for so many bytes.
fn field<'t>(text: &'t [u8], name: &[u8], bytes: usize) -> Option<&'t str> {
    let from = find(text, name)? + name.len();
    let length = match bytes {
        0 => text[from..].iter().position(|byte| *byte == b'"')?,
        bytes => bytes,
    };
    std::str::from_utf8(text.get(from..from + length)?).ok()
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}
