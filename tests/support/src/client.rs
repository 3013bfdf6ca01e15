//! A small client of protocol v1 over every transport, independent of the node's code.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::Message as Ws;

pub use frame::{Codec, Frame, Message};
pub use options::{Options, Transport, Wire};
pub use webtransport::Datagrams;

use crate::DEADLINE;
use crate::offset::Offset;
use event_stream::EventStream;
use websocket::WebSocket;
use webtransport::WebTransport;

mod event_stream;
mod frame;
mod http3;
mod options;
mod websocket;
mod webtransport;

/// What happened on a connection.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A frame came.
    Frame(Frame),
    /// The server closed.
    Closed {
        /// The close code.
        code: u16,
        /// The reason beside it.
        reason: String,
    },
    /// The connection broke without a close.
    Lost(String),
}

/// A connection over one of the transports.
enum Link {
    WebSocket(Box<WebSocket>),
    WebTransport(Box<WebTransport>),
    EventStream(Box<EventStream>),
}

/// One connection.
pub struct Client {
    link: Link,
    codec: Codec,
    next_id: u64,
    /// Frames that came while a reply was awaited, in order.
    waiting: VecDeque<Event>,
    /// The `connected` frame.
    pub connected: Frame,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("connected", &self.connected).finish_non_exhaustive()
    }
}

/// Why there is no session.
#[derive(Debug, Clone)]
pub enum Refusal {
    /// The handshake was refused with this status.
    Handshake(u16),
    /// The connection was closed with this code and reason, after these frames.
    Closed(u16, String, Vec<Frame>),
}

impl Client {
    /// Connects to the node that serves WebSockets at `ws://host:port/v1/<tenant>/ws`, over whatever transport
    /// the options say, and opens a session.
    pub async fn connect(url: &str, options: &Options) -> Result<Self> {
        match Self::try_connect(url, options).await? {
            Ok(client) => Ok(client),
            Err(refusal) => bail!("no session at {url}: {refusal:?}"),
        }
    }

    /// Like [`Client::connect`], for tests that expect to be refused.
    pub async fn try_connect(url: &str, options: &Options) -> Result<Result<Self, Refusal>> {
        let mut client = match Self::open(url, options).await? {
            Ok(client) => client,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if let Err(error) = client.send_frame(&options.connect_frame()).await {
            // Where `connect` is a request of its own, it is what is refused.
            return error
                .downcast::<event_stream::Refused>()
                .map(|refused| Err(Refusal::Handshake(refused.0)));
        }
        let mut before = Vec::new();
        loop {
            match client.next().await? {
                Event::Frame(frame) if frame.kind() == "connected" => {
                    client.connected = frame;
                    return Ok(Ok(client));
                }
                Event::Frame(frame) => before.push(frame),
                Event::Closed { code, reason } => return Ok(Err(Refusal::Closed(code, reason, before))),
                Event::Lost(why) => bail!("lost before `connected`: {why}"),
            }
        }
    }

    /// Performs the handshake alone; `connect` is still to be sent.
    pub async fn open(url: &str, options: &Options) -> Result<Result<Self, Refusal>> {
        let link = match options.wire.transport {
            Transport::WebSocket => {
                WebSocket::open(url, options).await?.map(|socket| Link::WebSocket(Box::new(socket)))
            }
            Transport::WebTransport => {
                WebTransport::open(url, options).await?.map(|session| Link::WebTransport(Box::new(session)))
            }
            Transport::Sse | Transport::Ndjson => {
                Ok(Link::EventStream(Box::new(EventStream::new(url, options)?)))
            }
        };
        Ok(link.map(|link| Self {
            link,
            codec: options.wire.codec,
            next_id: 1,
            waiting: VecDeque::new(),
            connected: Frame(Value::Null),
        }))
    }

    /// The resume token.
    pub fn resume_token(&self) -> &str {
        self.connected.text("resume")
    }

    /// The user the node knows.
    pub fn user(&self) -> &str {
        self.connected.text("user")
    }

    /// What the resume brought back: `new`, `home`, `moved` or `lost`.
    pub fn resumed(&self) -> &str {
        self.connected.text("resumed")
    }

    /// Sends a frame as it is, in the connection's codec.
    pub async fn send_frame(&mut self, frame: &Value) -> Result<()> {
        self.send_bytes(self.codec.encode(frame)?).await
    }

    /// Sends what need be no frame as if it were one.
    pub async fn send_bytes(&mut self, bytes: Vec<u8>) -> Result<()> {
        let sending = async {
            match &mut self.link {
                Link::WebSocket(socket) => socket.send(bytes).await,
                Link::WebTransport(session) => session.send(&bytes).await,
                Link::EventStream(stream) => stream.send(&bytes).await,
            }
        };
        tokio::time::timeout(DEADLINE, sending).await.context("sending took too long")?
    }

    /// Sends any WebSocket message.
    pub async fn send_raw(&mut self, message: Ws) -> Result<()> {
        let Link::WebSocket(socket) = &mut self.link else { bail!("this is no WebSocket") };
        tokio::time::timeout(DEADLINE, socket.send_raw(message)).await.context("sending took too long")?
    }

    /// Sends bytes on the stream of a WebTransport session as they are.
    pub async fn send_on_stream(&mut self, bytes: &[u8]) -> Result<()> {
        self.session()?.send_bytes(bytes).await
    }

    /// What came in datagrams of a WebTransport session so far.
    pub fn datagrams(&mut self) -> Result<Datagrams> {
        Ok(self.session()?.datagrams())
    }

    /// Goes on with a WebTransport session from another UDP port; the answer is the new address.
    pub fn rebind(&mut self) -> Result<SocketAddr> {
        self.session()?.rebind()
    }

    fn session(&mut self) -> Result<&mut WebTransport> {
        let Link::WebTransport(session) = &mut self.link else { bail!("this is no WebTransport") };
        Ok(session)
    }

    /// What happens next, pings left out. Fails when nothing does in [`DEADLINE`].
    pub async fn next(&mut self) -> Result<Event> {
        self.next_within(DEADLINE).await?.context("the server said nothing")
    }

    /// What happens next, or `None` when nothing has happened after `wait`. Cancel-safe: dropping the
    /// future loses no event.
    pub async fn next_within(&mut self, wait: Duration) -> Result<Option<Event>> {
        if let Some(event) = self.waiting.pop_front() {
            return Ok(Some(event));
        }
        match tokio::time::timeout(wait, self.read()).await {
            Ok(event) => event.map(Some),
            Err(_) => Ok(None),
        }
    }

    async fn read(&mut self) -> Result<Event> {
        match &mut self.link {
            Link::WebSocket(socket) => socket.read().await,
            Link::WebTransport(session) => session.read().await,
            Link::EventStream(stream) => stream.read().await,
        }
    }

    /// The next frame of this kind; others that come before it are dropped, except that a close fails.
    pub async fn expect(&mut self, kind: &str) -> Result<Frame> {
        loop {
            match self.next().await.with_context(|| format!("while waiting for `{kind}`"))? {
                Event::Frame(frame) if frame.kind() == kind => return Ok(frame),
                Event::Frame(_) => {}
                ended => bail!("{ended:?} while waiting for `{kind}`"),
            }
        }
    }

    /// The next message; `subscribed`, `position` and the like before it are dropped, a `gap` fails.
    pub async fn message(&mut self) -> Result<Message> {
        loop {
            match self.next().await.context("while waiting for a message")? {
                Event::Frame(frame) if frame.kind() == "message" => return frame.message(),
                Event::Frame(frame) if frame.kind() == "gap" => {
                    bail!("a gap instead of a message: {}", frame.0)
                }
                Event::Frame(_) => {}
                ended => bail!("{ended:?} while waiting for a message"),
            }
        }
    }

    /// The `subscribed` of a channel; everything else stays for later.
    pub async fn subscribed(&mut self, channel: &str) -> Result<Frame> {
        self.pick(&format!("`subscribed` to {channel}"), |frame| {
            frame.kind() == "subscribed" && frame.text("channel") == channel
        })
        .await
    }

    /// The close that ends this connection; frames before it are dropped.
    pub async fn closed(&mut self) -> Result<(u16, String)> {
        loop {
            match self.next().await.context("while waiting for the close")? {
                Event::Closed { code, reason } => return Ok((code, reason)),
                Event::Lost(why) => bail!("lost without a close: {why}"),
                Event::Frame(_) => {}
            }
        }
    }

    /// Sends a request and waits for its reply, `ok`, `subscribed` or `error`; what comes before stays
    /// for later.
    pub async fn request(&mut self, mut frame: Value) -> Result<Frame> {
        let id = self.next_id;
        self.next_id += 1;
        frame["id"] = id.into();
        self.send_frame(&frame).await?;
        self.pick(&format!("the reply to {frame}"), |reply| reply.number("id") == Some(id)).await
    }

    /// Waits for a frame; what comes before stays for later.
    async fn pick(&mut self, what: &str, wanted: impl Fn(&Frame) -> bool) -> Result<Frame> {
        let place = self.waiting.iter().position(|event| matches!(event, Event::Frame(f) if wanted(f)));
        if let Some(Event::Frame(frame)) = place.and_then(|place| self.waiting.remove(place)) {
            return Ok(frame);
        }
        loop {
            let event = tokio::time::timeout(DEADLINE, self.read())
                .await
                .with_context(|| format!("waited in vain for {what}"))??;
            match event {
                Event::Frame(frame) if wanted(&frame) => return Ok(frame),
                Event::Frame(_) => self.waiting.push_back(event),
                ended => bail!("{ended:?} while waiting for {what}"),
            }
        }
    }

    /// A request that must succeed.
    async fn done(&mut self, frame: Value) -> Result<Frame> {
        let reply = self.request(frame).await?;
        ensure!(reply.kind() != "error", "refused: {}", reply.0);
        Ok(reply)
    }

    /// Subscribes; the reply is `subscribed`.
    pub async fn subscribe(&mut self, channel: &str, ack: bool) -> Result<Frame> {
        self.done(json!({"type": "subscribe", "channel": channel, "ack": ack})).await
    }

    /// Publishes; the answer is the offset.
    pub async fn publish(&mut self, channel: &str, data: Value) -> Result<Offset> {
        self.done(json!({"type": "publish", "channel": channel, "data": data})).await?.offset("offset")
    }

    /// Sends to the backends.
    pub async fn send(&mut self, topic: &str, data: Value) -> Result<Frame> {
        self.done(json!({"type": "send", "topic": topic, "data": data})).await
    }

    /// The newest messages of a channel.
    pub async fn history(&mut self, channel: &str, limit: usize) -> Result<Vec<Message>> {
        self.done(json!({"type": "history", "channel": channel, "limit": limit})).await?.messages()
    }

    /// Replaces the token.
    pub async fn refresh(&mut self, token: &str) -> Result<Frame> {
        self.request(json!({"type": "refresh", "token": token})).await
    }

    /// Acknowledges everything up to an offset.
    pub async fn ack(&mut self, channel: &str, offset: Offset) -> Result<()> {
        self.send_frame(&json!({"type": "ack", "channel": channel, "offset": offset.to_string()})).await
    }

    /// Asks for one message again.
    pub async fn nack(&mut self, channel: &str, offset: Offset, delay_ms: u64) -> Result<()> {
        let offset = offset.to_string();
        self.send_frame(&json!({"type": "nack", "channel": channel, "offset": offset, "delay_ms": delay_ms}))
            .await
    }

    /// Drops what came while replies were awaited: for a client that only publishes.
    pub fn forget_waiting(&mut self) {
        self.waiting.clear();
    }

    /// Proves that the server has read everything sent so far; what comes before stays for later.
    pub async fn settle(&mut self) -> Result<()> {
        self.send_frame(&json!({"type": "ping"})).await?;
        self.pick("`pong`", |frame| frame.kind() == "pong").await.map(drop)
    }

    /// Closes as a well-behaved client does, and waits until the server agrees. Over SSE and NDJSON nobody can
    /// say goodbye: the connection just ends.
    pub async fn close(self) -> Result<()> {
        match self.link {
            Link::WebSocket(socket) => socket.close().await,
            Link::WebTransport(session) => session.close().await,
            Link::EventStream(_) => Ok(()),
        }
    }

    /// Resets the connection (TCP RST, CONNECTION_CLOSE), as a crashing client or a broken network path does.
    pub fn reset(self) -> Result<()> {
        match self.link {
            Link::WebSocket(socket) => socket.into_socket().set_zero_linger().context("SO_LINGER"),
            Link::WebTransport(session) => {
                session.reset();
                Ok(())
            }
            Link::EventStream(stream) => stream.into_socket()?.set_zero_linger().context("SO_LINGER"),
        }
    }

    /// The bare socket: nothing reads it, answers its pings or closes it from here on.
    ///
    /// # Panics
    /// Over WebTransport, where there is no such socket.
    pub fn into_stalled(self) -> TcpStream {
        match self.link {
            Link::WebSocket(socket) => socket.into_socket(),
            Link::EventStream(stream) => stream.into_socket().expect("a stream that was opened"),
            Link::WebTransport(_) => panic!("a WebTransport session has no socket of its own"),
        }
    }
}

/// Host with port, and tenant, of `ws://host:port/v1/<tenant>/ws`.
fn place(url: &str) -> Result<(String, String)> {
    let parts: Vec<&str> = url.split('/').collect();
    let ["ws:", "", authority, "v1", tenant, "ws"] = parts[..] else { bail!("{url} is no node's WebSocket") };
    Ok((authority.into(), tenant.into()))
}
