//! A client of protocol v1 for programs: connects, subscribes, acknowledges, comes back.
//!
//! ```no_run
//! # async fn example() -> Result<(), tidegate::client::ClientError> {
//! use tidegate::client::{Client, Event, Options, Subscription};
//!
//! let options = Options::new("http://127.0.0.1:8080", "demo").subscribe(Subscription::acking("room:1"));
//! let mut client = Client::new(options);
//! loop {
//!     if let Event::Message(message) = client.next().await? {
//!         println!("{} {}", message.offset, String::from_utf8_lossy(&message.data));
//!         client.ack(&message.channel, message.offset).await?;
//!     }
//! }
//! # }
//! ```
//!
//! Invariants: one connection at a time; after a lost one the pause before the next is full-jitter
//! exponential back-off, as close codes allow; every subscription is asked for again from its position.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::Message as Ws;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::domain::Offset;
use crate::protocol::Codec;

pub use wire::{Event, Message};

mod backoff;
mod wire;

use backoff::Backoff;

/// How to connect, and to what.
#[derive(Debug, Clone)]
pub struct Options {
    url: String,
    tenant: String,
    token: Option<String>,
    device: Option<String>,
    codec: Codec,
    subscriptions: Vec<Subscription>,
    reconnect: bool,
}

/// What to subscribe to, and how.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// The channel.
    pub channel: String,
    /// Whether messages are acknowledged.
    pub ack: bool,
    /// Start after this offset; `None`: where the node says.
    pub since: Option<Offset>,
}

impl Subscription {
    /// Without acknowledgements.
    pub fn listening(channel: impl Into<String>) -> Self {
        Self { channel: channel.into(), ack: false, since: None }
    }

    /// With acknowledgements.
    pub fn acking(channel: impl Into<String>) -> Self {
        Self { ack: true, ..Self::listening(channel) }
    }
}

impl Options {
    /// `url` is the node's `http://` or `ws://` address, without a path.
    pub fn new(url: impl Into<String>, tenant: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            tenant: tenant.into(),
            token: None,
            device: None,
            codec: Codec::Json,
            subscriptions: Vec::new(),
            reconnect: true,
        }
    }

    /// The token; without one the tenant must let anonymous clients in.
    pub fn token(self, token: Option<String>) -> Self {
        Self { token, ..self }
    }

    /// Names the device, so that its cursors outlive the session.
    pub fn device(self, device: Option<String>) -> Self {
        Self { device, ..self }
    }

    /// The encoding of frames.
    pub fn codec(self, codec: Codec) -> Self {
        Self { codec, ..self }
    }

    /// Adds a subscription.
    pub fn subscribe(mut self, subscription: Subscription) -> Self {
        self.subscriptions.push(subscription);
        self
    }

    /// Gives up at the first lost connection.
    pub fn once(self) -> Self {
        Self { reconnect: false, ..self }
    }

    fn endpoint(&self) -> Result<String, ClientError> {
        let base = self.url.trim_end_matches('/');
        let base = match base.split_once("://") {
            Some(("http" | "ws", rest)) => format!("ws://{rest}"),
            Some(("https" | "wss", _)) => {
                return Err(ClientError::Address(format!(
                    "{base}: this client speaks no TLS; use http:// or ws://"
                )));
            }
            _ => return Err(ClientError::Address(format!("{base} does not start with http:// or ws://"))),
        };
        Ok(format!("{base}/v1/{}/ws", self.tenant))
    }
}

/// Why a client gave up.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address cannot be used.
    #[error("{0}")]
    Address(String),
    /// Nobody listens there, or the handshake was refused; only with [`Options::once`] or for refusals
    /// that trying again does not mend.
    #[error("cannot connect to {url}: {why}")]
    Connect {
        /// Where to.
        url: String,
        /// Why not.
        why: String,
    },
    /// The node closed the connection and says that coming back is of no use.
    #[error("the node closed the connection for good: {code} {reason}{}", hint(*code))]
    Refused {
        /// The close code.
        code: u16,
        /// Its reason.
        reason: String,
    },
    /// The node says something that is not protocol v1.
    #[error("the node said something that is not protocol v1: {0}")]
    Protocol(String),
    /// The request was sent while there was no connection.
    #[error("there is no connection now")]
    NotConnected,
}

fn hint(code: u16) -> &'static str {
    match code {
        4002 => " (the token is missing, wrong, expired or refused)",
        4003 => " (there is no such tenant)",
        4005 => " (the same device connected elsewhere)",
        _ => "",
    }
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A client. Nothing happens but in [`Client::next`] and while its other methods are awaited.
pub struct Client {
    options: Options,
    socket: Option<Socket>,
    resume: Option<String>,
    positions: BTreeMap<String, Place>,
    backoff: Backoff,
    next_id: u64,
    /// What the node asked for, until the next connection.
    pause: Option<Duration>,
}

/// Where a subscription stands.
struct Place {
    offset: Offset,
    epoch: String,
}

impl Client {
    /// Connects at the first [`Client::next`].
    pub fn new(options: Options) -> Self {
        Self {
            options,
            socket: None,
            resume: None,
            positions: BTreeMap::new(),
            backoff: Backoff::default(),
            next_id: 1,
            pause: None,
        }
    }

    /// What happens next; connects first where there is no connection.
    ///
    /// Cancel-safe: dropping the future loses no message; a connection being made is made anew.
    pub async fn next(&mut self) -> Result<Event, ClientError> {
        loop {
            let Some(socket) = &mut self.socket else {
                self.connect().await?;
                continue;
            };
            let event = match socket.next().await {
                Some(Ok(Ws::Text(text))) => wire::from_json(text.as_str())?,
                Some(Ok(Ws::Binary(bytes))) => wire::from_cbor(&bytes)?,
                Some(Ok(Ws::Close(close))) => {
                    let (code, reason) = close
                        .map_or((1005, String::new()), |close| (close.code.into(), close.reason.to_string()));
                    return self.ended(code, reason);
                }
                Some(Ok(_)) => continue,
                // Without a close frame nothing speaks against coming back.
                Some(Err(_)) | None => return self.ended(1006, "the connection broke".into()),
            };
            self.remember(&event);
            return Ok(event);
        }
    }

    /// Acknowledges everything up to `offset` of a log. A connection that is lost meanwhile loses the
    /// acknowledgement: the message comes again.
    pub async fn ack(&mut self, channel: &str, offset: Offset) -> Result<(), ClientError> {
        if let Some(place) = self.positions.get_mut(channel) {
            place.offset = place.offset.max(offset);
        }
        self.send(json!({"type": "ack", "channel": channel, "offset": offset.to_string()})).await
    }

    /// Publishes; the answer comes as [`Event::Done`] or [`Event::Error`] with the id returned here.
    pub async fn publish(&mut self, channel: &str, data: Value) -> Result<u64, ClientError> {
        let id = self.next_id;
        self.next_id += 1;
        self.send(json!({"type": "publish", "id": id, "channel": channel, "data": data})).await?;
        Ok(id)
    }

    /// Says goodbye.
    pub async fn close(mut self) {
        if let Some(mut socket) = self.socket.take() {
            // The node learns of a lost connection as well, only later.
            let _ = socket.close(None).await;
        }
    }

    async fn send(&mut self, frame: Value) -> Result<(), ClientError> {
        let socket = self.socket.as_mut().ok_or(ClientError::NotConnected)?;
        let message = match self.options.codec {
            Codec::Json => Ws::text(frame.to_string()),
            Codec::Cbor => Ws::binary(wire::to_cbor(&frame)),
        };
        socket.send(message).await.map_err(|_| ClientError::NotConnected)
    }

    async fn connect(&mut self) -> Result<(), ClientError> {
        if let Some(pause) = self.pause.take() {
            tokio::time::sleep(pause).await;
        }
        let url = self.options.endpoint()?;
        match wire::handshake(&url, self.options.codec).await {
            Ok(socket) => self.socket = Some(socket),
            Err(failure) if failure.is_final || !self.options.reconnect => {
                return Err(ClientError::Connect { url, why: failure.why });
            }
            Err(failure) => {
                tracing::info!(url, why = failure.why, "cannot connect; trying again");
                // The node's word counts, where it has one; back-off keeps those apart that it told the same.
                let pause = failure.retry_after.unwrap_or_default();
                self.pause = Some(pause + self.backoff.next());
                return Ok(());
            }
        }
        let frame = self.connect_frame();
        // A connection that breaks here says so at the next read.
        let _ = self.send(frame).await;
        Ok(())
    }

    fn connect_frame(&self) -> Value {
        let mut frame = json!({"type": "connect"});
        let named =
            [("token", &self.options.token), ("device", &self.options.device), ("resume", &self.resume)];
        for (name, value) in named {
            if let Some(value) = value {
                frame[name] = value.as_str().into();
            }
        }
        let wish = |subscription: &Subscription| {
            let mut wish = json!({"channel": subscription.channel, "ack": subscription.ack});
            if let Some(place) = self.positions.get(&subscription.channel) {
                wish["offset"] = place.offset.to_string().into();
                wish["epoch"] = place.epoch.as_str().into();
            } else if let Some(since) = subscription.since {
                wish["offset"] = since.to_string().into();
            }
            wish
        };
        frame["subs"] = self.options.subscriptions.iter().map(wish).collect();
        frame
    }

    /// Keeps what the next connection needs.
    fn remember(&mut self, event: &Event) {
        match event {
            Event::Connected { resume, .. } => {
                self.resume = Some(resume.clone());
                self.backoff = Backoff::default();
            }
            Event::Subscribed { channel, offset, epoch, .. } | Event::Position { channel, offset, epoch } => {
                self.positions.insert(channel.clone(), Place { offset: *offset, epoch: epoch.clone() });
            }
            Event::Gap { channel, until, epoch, .. } => {
                self.positions.insert(channel.clone(), Place { offset: *until, epoch: epoch.clone() });
            }
            // With acknowledgements the place is the last one acknowledged: what is open comes again.
            Event::Message(message) if !self.acks(&message.channel) => {
                if let Some(place) = self.positions.get_mut(&message.channel) {
                    place.offset = place.offset.max(message.offset);
                }
            }
            Event::Drain { retry_after } => self.pause = Some(*retry_after),
            Event::Disconnect { retry_after: Some(pause) } => self.pause = Some(*pause),
            _ => {}
        }
    }

    fn acks(&self, channel: &str) -> bool {
        self.options.subscriptions.iter().any(|wish| wish.channel == channel && wish.ack)
    }

    /// What a close means for this client (`domain/close.rs` has the ranges).
    fn ended(&mut self, code: u16, reason: String) -> Result<Event, ClientError> {
        self.socket = None;
        let is_final = (4000..4100).contains(&code);
        if is_final || !self.options.reconnect {
            return Err(ClientError::Refused { code, reason });
        }
        let now = (4200..4300).contains(&code);
        if !now && self.pause.is_none() {
            self.pause = Some(self.backoff.next());
        }
        Ok(Event::Closed { code, reason })
    }
}
