//! A client of protocol v1 for programs: connects over whatever transport works, subscribes, acknowledges, comes
//! back.
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
//! exponential back-off, as close codes allow; every subscription is asked for again from its position. Events are
//! the same over every transport.
//!
//! Cancellation: [`Client::next`] may be dropped at any time and loses nothing. A request that is dropped may have
//! been sent or not, and is never sent by half.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::domain::Offset;

pub use error::ClientError;
pub use event::{Event, Message};
pub use options::{CertificateHash, Options, Subscription, Transport};

mod attempt;
mod backoff;
mod codec;
mod connection;
mod error;
mod event;
mod framing;
mod http;
mod lines;
mod options;
mod route;
mod tls;
mod websocket;
mod webtransport;

use attempt::Ways;
use backoff::Backoff;
use connection::{Connection, Heard};
use error::Failure;

/// How long a connection must have lasted for the next pause to begin small again.
const STABLE: Duration = Duration::from_secs(10);
/// Half of how long `connected` may take.
const UNTIL_CONNECTED: Duration = Duration::from_secs(10);
/// What a runtime that was busy may need to notice bytes that have come.
const GRACE: Duration = Duration::from_millis(200);

type Attempt = Pin<Box<dyn Future<Output = (Ways, Result<Connection, Failure>)> + Send>>;

enum Link {
    Down(Ways),
    /// It goes on where it stood when [`Client::next`] is called again.
    Connecting(Attempt),
    Up(Connection, Ways),
}

/// A client. Nothing happens but in [`Client::next`] and while its other methods are awaited.
pub struct Client {
    options: Arc<Options>,
    subscriptions: Vec<Subscription>,
    token: Option<String>,
    link: Link,
    resume: Option<String>,
    positions: BTreeMap<String, Place>,
    backoff: Backoff,
    next_id: u64,
    /// Not before this moment a connection is made.
    not_before: Option<Instant>,
    /// What the node asked for before the connection ended.
    pause: Option<Duration>,
    /// What `disconnect` said, for transports whose end has no code.
    goodbye: Option<(u16, String)>,
    /// When `connected` came, on this connection.
    since: Option<Instant>,
    heard: Instant,
    ping: Duration,
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
            subscriptions: options.subscriptions.clone(),
            token: options.token.clone(),
            options: Arc::new(options),
            link: Link::Down(Ways::default()),
            resume: None,
            positions: BTreeMap::new(),
            backoff: Backoff::default(),
            next_id: 1,
            not_before: None,
            pause: None,
            goodbye: None,
            since: None,
            heard: Instant::now(),
            ping: UNTIL_CONNECTED,
        }
    }

    /// What carries the frames now; `None` without a connection.
    pub fn transport(&self) -> Option<Transport> {
        match &self.link {
            Link::Up(connection, _) => Some(connection.transport()),
            _ => None,
        }
    }

    /// What happens next; connects first where there is no connection.
    ///
    /// Cancel-safe: dropping the future loses no event, and a connection that is being made goes on being made by
    /// the next call.
    ///
    /// # Errors
    /// Those after which trying again is of no use, and with [`Options::once`] every end of the connection.
    pub async fn next(&mut self) -> Result<Event, ClientError> {
        loop {
            let Link::Up(connection, _) = &mut self.link else {
                match self.connect().await? {
                    Some(event) => return Ok(event),
                    None => continue,
                }
            };
            let silent = (self.heard + 2 * self.ping).max(Instant::now() + GRACE);
            let heard = match tokio::time::timeout_at(silent, connection.next()).await {
                Ok(heard) => heard?,
                Err(_) => Heard::broken(&"nothing was heard for too long"),
            };
            self.heard = Instant::now();
            match heard {
                Heard::Heartbeat => {}
                Heard::Closed { code, reason } => return self.ended(code, reason),
                Heard::Frame(frame) => {
                    let event = event::event(frame)?;
                    self.remember(&event);
                    return Ok(event);
                }
            }
        }
    }

    /// Acknowledges everything up to `offset` of a log, or one message of a queue. A connection that is lost
    /// meanwhile loses the acknowledgement: the message comes again.
    pub async fn ack(&mut self, channel: &str, offset: Offset) -> Result<(), ClientError> {
        if let Some(place) = self.positions.get_mut(channel) {
            place.offset = place.offset.max(offset);
        }
        self.say(json!({"type": "ack", "channel": channel, "offset": offset.to_string()})).await
    }

    /// Asks for one message again after `delay`, in whole milliseconds.
    pub async fn nack(&mut self, channel: &str, offset: Offset, delay: Duration) -> Result<(), ClientError> {
        let delay = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        let offset = offset.to_string();
        self.say(json!({"type": "nack", "channel": channel, "offset": offset, "delay_ms": delay})).await
    }

    /// Subscribes, on this connection and on those after it; the answer comes as [`Event::Subscribed`], or as
    /// [`Event::Error`] with the id returned here.
    pub async fn subscribe(&mut self, subscription: Subscription) -> Result<u64, ClientError> {
        let mut frame = self.wish(&subscription);
        frame["type"] = "subscribe".into();
        let id = self.request(frame).await?;
        self.subscriptions.retain(|known| known.channel != subscription.channel);
        self.subscriptions.push(subscription);
        Ok(id)
    }

    /// Unsubscribes; messages on their way may still come before [`Event::Done`].
    pub async fn unsubscribe(&mut self, channel: &str) -> Result<u64, ClientError> {
        let id = self.request(json!({"type": "unsubscribe", "channel": channel})).await?;
        self.subscriptions.retain(|known| known.channel != channel);
        self.positions.remove(channel);
        Ok(id)
    }

    /// Publishes; the answer comes as [`Event::Done`] or [`Event::Error`] with the id returned here. An object or
    /// array is JSON, a string is text.
    pub async fn publish(&mut self, channel: &str, data: Value) -> Result<u64, ClientError> {
        self.request(json!({"type": "publish", "channel": channel, "data": data})).await
    }

    /// Sends to the tenant's backends; the answer comes as [`Event::Done`] or [`Event::Error`].
    pub async fn send(&mut self, topic: &str, data: Value) -> Result<u64, ClientError> {
        self.request(json!({"type": "send", "topic": topic, "data": data})).await
    }

    /// Asks for the newest `limit` messages; they come in [`Event::Done`].
    pub async fn history(&mut self, channel: &str, limit: u32) -> Result<u64, ClientError> {
        self.request(json!({"type": "history", "channel": channel, "limit": limit})).await
    }

    /// Asks who is in a channel; the answer is in the frame of [`Event::Done`].
    pub async fn presence(&mut self, channel: &str) -> Result<u64, ClientError> {
        self.request(json!({"type": "presence", "channel": channel})).await
    }

    /// Replaces the token, on this connection and for those after it.
    pub async fn refresh(&mut self, token: &str) -> Result<u64, ClientError> {
        let id = self.request(json!({"type": "refresh", "token": token})).await?;
        self.token = Some(token.to_owned());
        Ok(id)
    }

    /// Asks for an [`Event::Pong`].
    pub async fn ping(&mut self) -> Result<(), ClientError> {
        self.say(json!({"type": "ping"})).await
    }

    /// Goes on from another UDP port of this machine, as a client does whose network changed: the session stays.
    ///
    /// # Errors
    /// [`ClientError::Rebind`] over all transports but WebTransport, and where no port is to be had.
    pub fn rebind(&mut self) -> Result<SocketAddr, ClientError> {
        let Link::Up(connection, _) = &self.link else { return Err(ClientError::NotConnected) };
        let moved = connection.rebind().ok_or_else(|| {
            ClientError::Rebind(format!("{} has no such thing, WebTransport has", connection.transport()))
        })?;
        moved.map_err(|error| ClientError::Rebind(error.to_string()))
    }

    /// Says goodbye where the transport has one: over SSE and NDJSON the session waits for its client as after
    /// any break. Takes a few seconds at most.
    pub async fn close(self) {
        if let Link::Up(connection, _) = self.link {
            connection.close().await;
        }
    }

    async fn request(&mut self, mut frame: Value) -> Result<u64, ClientError> {
        let id = self.next_id;
        self.next_id += 1;
        frame["id"] = id.into();
        self.say(frame).await?;
        Ok(id)
    }

    async fn say(&mut self, frame: Value) -> Result<(), ClientError> {
        match &mut self.link {
            Link::Up(connection, _) => connection.send(&frame).await,
            _ => Err(ClientError::NotConnected),
        }
    }

    /// Takes a step towards a connection. An event says why that led to none.
    async fn connect(&mut self) -> Result<Option<Event>, ClientError> {
        if let Some(at) = self.not_before {
            tokio::time::sleep_until(at).await;
            self.not_before = None;
        }
        if let Link::Down(ways) = &mut self.link {
            let ways = std::mem::take(ways);
            self.link =
                Link::Connecting(Box::pin(ways.connect(Arc::clone(&self.options), self.connect_frame())));
        }
        let Link::Connecting(attempt) = &mut self.link else { return Ok(None) };
        let (ways, outcome) = attempt.await;
        match outcome {
            Ok(connection) => {
                self.link = Link::Up(connection, ways);
                (self.since, self.goodbye, self.pause) = (None, None, None);
                (self.heard, self.ping) = (Instant::now(), UNTIL_CONNECTED);
                Ok(None)
            }
            Err(failure) => {
                self.link = Link::Down(ways);
                if failure.is_final || !self.options.reconnect {
                    return Err(failure.into_error());
                }
                // The node's word counts, where it has one; back-off keeps those apart that it told the same.
                let pause = failure.retry_after.unwrap_or_default() + self.backoff.next();
                self.wait(pause);
                Ok(Some(Event::Unreachable { url: failure.url, why: failure.why, pause }))
            }
        }
    }

    fn wait(&mut self, pause: Duration) {
        self.not_before = Some(Instant::now() + pause);
    }

    fn connect_frame(&self) -> Value {
        let mut frame = json!({"type": "connect"});
        let named = [("token", &self.token), ("device", &self.options.device), ("resume", &self.resume)];
        for (name, value) in named {
            if let Some(value) = value {
                frame[name] = value.as_str().into();
            }
        }
        if let Some(ping) = self.options.ping {
            frame["ping_ms"] = u64::try_from(ping.as_millis()).unwrap_or(u64::MAX).into();
        }
        frame["subs"] = self.subscriptions.iter().map(|subscription| self.wish(subscription)).collect();
        frame
    }

    fn wish(&self, subscription: &Subscription) -> Value {
        let mut wish = json!({"channel": subscription.channel, "ack": subscription.ack});
        if let Some(window) = subscription.window {
            wish["window"] = window.into();
        }
        if let Some(place) = self.positions.get(&subscription.channel) {
            wish["offset"] = place.offset.to_string().into();
            wish["epoch"] = place.epoch.as_str().into();
        } else if let Some(since) = subscription.since {
            wish["offset"] = since.to_string().into();
        }
        wish
    }

    /// Keeps what the next connection needs.
    fn remember(&mut self, event: &Event) {
        match event {
            Event::Connected { resume, ping, .. } => {
                self.resume = Some(resume.clone());
                self.ping = *ping;
                self.since = Some(Instant::now());
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
            Event::Drain { retry_after, url } => self.sent_away(Some(*retry_after), url.as_deref()),
            Event::Disconnect { code, reason, retry_after, url, .. } => {
                self.goodbye = Some((*code, reason.clone()));
                self.sent_away(*retry_after, url.as_deref());
            }
            _ => {}
        }
    }

    fn sent_away(&mut self, pause: Option<Duration>, url: Option<&str>) {
        self.pause = pause.or(self.pause);
        if let (Some(url), Link::Up(_, ways)) = (url, &mut self.link) {
            ways.go_to(url, &self.options);
        }
    }

    fn acks(&self, channel: &str) -> bool {
        self.subscriptions.iter().any(|wish| wish.channel == channel && wish.ack)
    }

    /// What a close means for this client (`domain/close.rs` has the ranges).
    fn ended(&mut self, code: u16, reason: String) -> Result<Event, ClientError> {
        let (code, reason) = match self.goodbye.take() {
            // The end of a streamed body has no code, and a close frame may be lost.
            Some(said) if !(4000..5000).contains(&code) => said,
            _ => (code, reason),
        };
        if let Link::Up(connection, ways) = &mut self.link {
            let (transport, mut ways) = (connection.transport(), std::mem::take(ways));
            // A proxy that lets a handshake through, and then nothing.
            if self.since.is_none() && !(4000..5000).contains(&code) {
                ways.failed(transport);
            }
            self.link = Link::Down(ways);
        }
        if (4000..4100).contains(&code) || !self.options.reconnect {
            return Err(ClientError::Refused { code, reason });
        }
        let was_stable = self.since.is_some_and(|since| since.elapsed() >= STABLE);
        if was_stable {
            self.backoff = Backoff::default();
        }
        let asked = self.pause.take();
        let pause = match code {
            4200..4300 if was_stable || asked.is_some() => asked.unwrap_or_default(),
            _ => asked.unwrap_or_default() + self.backoff.next(),
        };
        self.wait(pause);
        Ok(Event::Closed { code, reason })
    }
}
