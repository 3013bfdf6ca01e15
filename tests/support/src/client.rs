//! A small client of protocol v1, independent of the node's code.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::header::{AUTHORIZATION, ORIGIN, SEC_WEBSOCKET_PROTOCOL};
use tokio_tungstenite::tungstenite::protocol::{Message as Ws, WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

pub use frame::{Codec, Frame, Message};

use crate::DEADLINE;
use crate::offset::Offset;

mod frame;

/// How to connect.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The token, in the first frame.
    pub token: Option<String>,
    /// The token, in the header `Authorization` instead.
    pub bearer: Option<String>,
    /// The header `Origin`.
    pub origin: Option<String>,
    /// The device.
    pub device: Option<String>,
    /// A resume token.
    pub resume: Option<String>,
    /// Wished heartbeat interval.
    pub ping_ms: Option<u64>,
    /// Subscriptions to begin with, as they stand in the frame.
    pub subs: Vec<Value>,
    /// The codec.
    pub codec: Codec,
}

impl Options {
    /// With a token.
    pub fn token(token: impl Into<String>) -> Self {
        Self { token: Some(token.into()), ..Self::default() }
    }

    /// Names the device.
    pub fn device(self, device: &str) -> Self {
        Self { device: Some(device.into()), ..self }
    }

    /// Resumes.
    pub fn resume(self, resume: &str) -> Self {
        Self { resume: Some(resume.into()), ..self }
    }

    /// Subscribes without acks.
    pub fn listen(self, channel: &str) -> Self {
        self.sub_with(json!({"channel": channel}))
    }

    /// Subscribes with acks.
    pub fn ack(self, channel: &str) -> Self {
        self.sub_with(json!({"channel": channel, "ack": true}))
    }

    /// Subscribes as said.
    pub fn sub_with(mut self, sub: Value) -> Self {
        self.subs.push(sub);
        self
    }

    /// Speaks this codec.
    pub fn codec(self, codec: Codec) -> Self {
        Self { codec, ..self }
    }

    /// The `connect` frame.
    pub fn connect_frame(&self) -> Value {
        let mut frame = json!({"type": "connect"});
        for (name, value) in [("token", &self.token), ("device", &self.device), ("resume", &self.resume)] {
            if let Some(value) = value {
                frame[name] = value.as_str().into();
            }
        }
        if let Some(ping_ms) = self.ping_ms {
            frame["ping_ms"] = ping_ms.into();
        }
        if !self.subs.is_empty() {
            frame["subs"] = self.subs.clone().into();
        }
        frame
    }
}

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

/// One connection.
pub struct Client {
    ws: WebSocketStream<TcpStream>,
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
    /// The WebSocket handshake was refused with this status.
    Handshake(u16),
    /// The connection was closed with this code and reason, after these frames.
    Closed(u16, String, Vec<Frame>),
}

impl Client {
    /// Connects to `ws://host:port/v1/<tenant>/ws` and opens a session.
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
        client.send_frame(&options.connect_frame()).await?;
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

    /// Performs the WebSocket handshake alone; `connect` is still to be sent.
    pub async fn open(url: &str, options: &Options) -> Result<Result<Self, Refusal>> {
        let mut request = url.into_client_request()?;
        let headers = request.headers_mut();
        headers.insert(SEC_WEBSOCKET_PROTOCOL, options.codec.subprotocol().parse()?);
        if let Some(token) = &options.bearer {
            headers.insert(AUTHORIZATION, format!("Bearer {token}").parse()?);
        }
        if let Some(origin) = &options.origin {
            headers.insert(ORIGIN, origin.parse()?);
        }
        let authority = request.uri().authority().context("the url names no host")?.to_string();
        let handshake = async {
            let socket =
                TcpStream::connect(&authority).await.with_context(|| format!("connecting to {authority}"))?;
            socket.set_nodelay(true)?;
            // Small buffers: a checker holds a thousand of these.
            let config = WebSocketConfig::default().read_buffer_size(4 << 10).write_buffer_size(0);
            Ok::<_, anyhow::Error>(client_async_with_config(request, socket, Some(config)).await)
        };
        match tokio::time::timeout(DEADLINE, handshake).await.context("no answer to the handshake")?? {
            Ok((ws, _)) => Ok(Ok(Self {
                ws,
                codec: options.codec,
                next_id: 1,
                waiting: VecDeque::new(),
                connected: Frame(Value::Null),
            })),
            Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => {
                Ok(Err(Refusal::Handshake(answer.status().as_u16())))
            }
            Err(error) => Err(error.into()),
        }
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
        let message = match self.codec {
            Codec::Json => Ws::text(frame.to_string()),
            Codec::Cbor => Ws::binary(frame::to_cbor(frame)?),
        };
        self.send_raw(message).await
    }

    /// Sends any WebSocket message.
    pub async fn send_raw(&mut self, message: Ws) -> Result<()> {
        tokio::time::timeout(DEADLINE, self.ws.send(message)).await.context("sending took too long")??;
        Ok(())
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
        loop {
            return Ok(match self.ws.next().await {
                Some(Ok(Ws::Text(text))) => {
                    ensure!(self.codec == Codec::Json, "text on a CBOR connection: {text}");
                    Event::Frame(Frame::from_text(&text)?)
                }
                Some(Ok(Ws::Binary(bytes))) => {
                    ensure!(self.codec == Codec::Cbor, "binary on a JSON connection");
                    Event::Frame(Frame::from_cbor(&bytes)?)
                }
                Some(Ok(Ws::Close(Some(close)))) => {
                    Event::Closed { code: close.code.into(), reason: close.reason.to_string() }
                }
                Some(Ok(Ws::Close(None))) => Event::Closed { code: 1005, reason: String::new() },
                Some(Ok(_)) => continue,
                Some(Err(error)) => Event::Lost(error.to_string()),
                None => Event::Lost("the stream ended".into()),
            });
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

    /// Closes as a well-behaved client does, and waits until the server agrees.
    pub async fn close(mut self) -> Result<()> {
        self.ws.close(None).await?;
        let drained = async { while let Some(Ok(_)) = self.ws.next().await {} };
        tokio::time::timeout(DEADLINE, drained).await.context("the server did not answer the close")
    }

    /// Resets the connection (TCP RST), as a crashing client or a broken network path does.
    pub fn reset(self) -> Result<()> {
        self.ws.get_ref().set_zero_linger().context("SO_LINGER")
    }

    /// The bare socket: nothing reads it, answers its pings or closes it from here on.
    pub fn into_stalled(self) -> TcpStream {
        self.ws.into_inner()
    }
}
