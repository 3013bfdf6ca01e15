//! How to connect, and over what.

use std::fmt;

use serde_json::{Value, json};

use super::Codec;

/// A transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// `GET /v1/<tenant>/ws`, RFC 6455.
    #[default]
    WebSocket,
    /// `CONNECT /v1/<tenant>/wt` over HTTP/3.
    WebTransport,
    /// `POST /v1/<tenant>/sse`, and `POST /v1/<tenant>/frames`.
    Sse,
    /// `POST /v1/<tenant>/stream`, and `POST /v1/<tenant>/frames`.
    Ndjson,
}

/// A transport and the codec spoken over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wire {
    /// The transport.
    pub transport: Transport,
    /// The codec.
    pub codec: Codec,
}

impl Wire {
    /// All that a node speaks.
    pub const ALL: [Self; 6] = [
        Self::new(Transport::WebSocket, Codec::Json),
        Self::new(Transport::WebSocket, Codec::Cbor),
        Self::new(Transport::WebTransport, Codec::Json),
        Self::new(Transport::WebTransport, Codec::Cbor),
        Self::new(Transport::Sse, Codec::Json),
        Self::new(Transport::Ndjson, Codec::Json),
    ];

    const fn new(transport: Transport, codec: Codec) -> Self {
        Self { transport, codec }
    }

    /// Whether each frame of the client is a request of its own, so that a goodbye cannot be said.
    pub fn is_http(self) -> bool {
        matches!(self.transport, Transport::Sse | Transport::Ndjson)
    }
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in {:?}", self.transport, self.codec)
    }
}

/// How to connect.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The token, in the first frame.
    pub token: Option<String>,
    /// The token, in the header `Authorization` instead.
    pub bearer: Option<String>,
    /// Added to the URL's query, as `ticket=…`.
    pub query: Option<String>,
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
    /// The transport and its codec.
    pub wire: Wire,
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
    pub fn codec(mut self, codec: Codec) -> Self {
        self.wire.codec = codec;
        self
    }

    /// Connects over this.
    pub fn over(self, wire: Wire) -> Self {
        Self { wire, ..self }
    }

    /// A URL or path with the further query in it.
    pub(super) fn with_query(&self, url: &str) -> String {
        match &self.query {
            None => url.into(),
            Some(query) if url.contains('?') => format!("{url}&{query}"),
            Some(query) => format!("{url}?{query}"),
        }
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
