//! What a client is told: where to connect, over what, as whom, and whom to trust.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::ClientError;
use crate::domain::Offset;
use crate::protocol::Codec;

/// What carries the frames. They are the same on all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// A session on a QUIC connection of its own; needs UDP and TLS.
    WebTransport,
    /// RFC 6455, over TLS where the address is `https` or `wss`.
    WebSocket,
    /// Server-sent events; what the client says goes in requests. JSON only.
    Sse,
    /// JSON lines; what the client says goes in requests. JSON only.
    Ndjson,
}

impl Transport {
    /// As the command line and error messages name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::WebTransport => "webtransport",
            Self::WebSocket => "websocket",
            Self::Sse => "sse",
            Self::Ndjson => "ndjson",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The SHA-256 hash of a certificate in DER.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CertificateHash(pub [u8; 32]);

impl FromStr for CertificateHash {
    type Err = String;

    /// 64 hexadecimal digits, with or without colons between the bytes, as `openssl x509 -fingerprint` prints them.
    fn from_str(text: &str) -> Result<Self, String> {
        let digits: Vec<u32> = text
            .chars()
            .filter(|c| *c != ':')
            .map(|c| c.to_digit(16))
            .collect::<Option<_>>()
            .ok_or_else(wrong)?;
        let bytes: Vec<u8> =
            digits.chunks(2).map(|pair| pair.iter().fold(0, |n, d| n << 4 | *d) as u8).collect();
        if digits.len() != 64 {
            return Err(wrong());
        }
        bytes.try_into().map(Self).map_err(|_| wrong())
    }
}

fn wrong() -> String {
    "must be the SHA-256 hash of a certificate: 64 hexadecimal digits, with or without colons".into()
}

/// What to subscribe to, and how.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// The channel.
    pub channel: String,
    /// Whether messages are acknowledged.
    pub ack: bool,
    /// The most unacknowledged messages in flight; `None`: what the tenant allows.
    pub window: Option<u32>,
    /// Start after this offset; `None`: where the node says.
    pub since: Option<Offset>,
}

impl Subscription {
    /// Without acknowledgements.
    pub fn listening(channel: impl Into<String>) -> Self {
        Self { channel: channel.into(), ack: false, window: None, since: None }
    }

    /// With acknowledgements.
    pub fn acking(channel: impl Into<String>) -> Self {
        Self { ack: true, ..Self::listening(channel) }
    }
}

/// How to connect, and to what.
#[derive(Debug, Clone)]
pub struct Options {
    pub(super) url: String,
    pub(super) tenant: String,
    pub(super) token: Option<String>,
    pub(super) device: Option<String>,
    pub(super) codec: Codec,
    pub(super) transport: Option<Transport>,
    pub(super) ping: Option<Duration>,
    pub(super) ca: Option<PathBuf>,
    pub(super) hashes: Vec<CertificateHash>,
    pub(super) subscriptions: Vec<Subscription>,
    pub(super) reconnect: bool,
}

impl Options {
    /// `url` is the node's `http://`, `https://`, `ws://` or `wss://` address, without a path.
    pub fn new(url: impl Into<String>, tenant: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            tenant: tenant.into(),
            token: None,
            device: None,
            codec: Codec::Json,
            transport: None,
            ping: None,
            ca: None,
            hashes: Vec::new(),
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

    /// The encoding of frames, where the transport has a choice; JSON unless this is called.
    pub fn codec(self, codec: Codec) -> Self {
        Self { codec, ..self }
    }

    /// Connects over this alone. `None`, as it is unless this is called: over WebTransport where the node offers
    /// it, else over a WebSocket, else over SSE; what does not work is tried last from then on.
    pub fn transport(self, transport: Option<Transport>) -> Self {
        Self { transport, ..self }
    }

    /// How often the node is asked to say that it is there, in milliseconds on the wire; it may agree on another
    /// interval. After twice the interval in silence a connection counts as broken.
    pub fn ping(self, interval: Duration) -> Self {
        Self { ping: Some(interval), ..self }
    }

    /// Trusts the authorities in this file (PEM) besides those that the system trusts.
    pub fn ca(self, file: Option<PathBuf>) -> Self {
        Self { ca: file, ..self }
    }

    /// Trusts certificates with these hashes, whatever name and dates they have, and no others. For development:
    /// who renews the certificate must tell every client.
    pub fn certificate_hashes(self, hashes: Vec<CertificateHash>) -> Self {
        Self { hashes, ..self }
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
}

/// A node's address without a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Base {
    pub(super) is_secure: bool,
    /// Host, and port where it is given.
    authority: String,
}

impl Base {
    pub(super) fn parse(url: &str) -> Result<Self, ClientError> {
        let wrong = |what: &str| Err(ClientError::Address(format!("{url}: {what}")));
        let Some((scheme, rest)) = url.split_once("://") else {
            return wrong("an address begins with http://, https://, ws:// or wss://");
        };
        let is_secure = match scheme {
            "http" | "ws" => false,
            "https" | "wss" => true,
            _ => return wrong("an address begins with http://, https://, ws:// or wss://"),
        };
        let authority = rest.trim_end_matches('/').to_owned();
        if authority.is_empty() || authority.contains(['/', '?', '#', '@']) {
            return wrong("name the node's host and port alone; the client adds the path");
        }
        match authority.parse::<http::uri::Authority>() {
            Ok(_) => Ok(Self { is_secure, authority }),
            Err(_) => wrong("this is no host with or without a port"),
        }
    }

    /// Where HTTP requests go.
    pub(super) fn http(&self, path: &str) -> String {
        format!("{}://{}{path}", if self.is_secure { "https" } else { "http" }, self.authority)
    }

    /// Where WebSockets connect.
    pub(super) fn ws(&self, path: &str) -> String {
        format!("{}://{}{path}", if self.is_secure { "wss" } else { "ws" }, self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_nodes() {
        let base = Base::parse("wss://node.example:8443/").unwrap();
        assert_eq!(base.http("/v1/a/sse"), "https://node.example:8443/v1/a/sse");
        assert_eq!(Base::parse("http://[::1]:80").unwrap().ws("/x"), "ws://[::1]:80/x");
        for wrong in
            ["", "node:80", "ftp://node", "http://", "http://node/v1", "http://a@node", "http://no de"]
        {
            let error = Base::parse(wrong).unwrap_err().to_string();
            assert!(error.starts_with(wrong), "{error}");
        }
    }

    #[test]
    fn hashes_are_read_as_tools_print_them() {
        let plain = "ab".repeat(32);
        let colons = ["AB"; 32].join(":");
        assert_eq!(plain.parse(), Ok(CertificateHash([0xab; 32])));
        assert_eq!(colons.parse(), Ok(CertificateHash([0xab; 32])));
        for wrong in ["", "abc", &"zz".repeat(32), &"ab".repeat(33), &plain[1..]] {
            assert!(wrong.parse::<CertificateHash>().is_err(), "{wrong}");
        }
    }
}
