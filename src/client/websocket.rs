//! The transport WebSocket (RFC 6455), over TLS where the address says so.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::header::{HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_PROTOCOL};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message as Ws, WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::codec::{self, MAX_FRAME};
use super::connection::Heard;
use super::error::Failure;
use super::tls::Trust;
use super::{ClientError, route::Candidate};
use crate::protocol::Codec;

/// How long the server may take to answer a goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// One connection.
pub(super) struct WebSocket {
    socket: WebSocketStream<Box<dyn Io>>,
    codec: Codec,
}

impl WebSocket {
    /// Makes a connection. Cancel-safe: nothing is sent that outlives the socket.
    pub(super) async fn open(way: &Candidate, codec: Codec, trust: &Trust) -> Result<Self, Failure> {
        let url = way.url.as_str();
        let unusable = |error: Error| Failure::lasting(url, error.to_string());
        let mut request = url.into_client_request().map_err(unusable)?;
        let subprotocol = match codec {
            Codec::Json => "tidegate.v1.json",
            Codec::Cbor => "tidegate.v1.cbor",
        };
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
        let uri = request.uri();
        let host = uri.host().ok_or_else(|| Failure::lasting(url, "the address names no host"))?.to_owned();
        let is_secure = uri.scheme_str() == Some("wss");
        let port = uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
        let bare = host.trim_matches(['[', ']']);
        let tcp = TcpStream::connect((bare, port)).await.map_err(|error| Failure::from_error(url, &error))?;
        // Without it a small frame waits for the last one's acknowledgement; what cannot be set is left.
        let _ = tcp.set_nodelay(true);
        let io: Box<dyn Io> = if is_secure {
            let name = ServerName::try_from(bare.to_owned());
            let name = name.map_err(|_| Failure::lasting(url, "no certificate can name such a host"))?;
            let connector = TlsConnector::from(std::sync::Arc::new(trust.config(&way.hashes)));
            let tls = connector.connect(name, tcp).await;
            Box::new(tls.map_err(|error| Failure::from_error(url, &error))?)
        } else {
            Box::new(tcp)
        };
        let config =
            WebSocketConfig::default().max_message_size(Some(MAX_FRAME)).max_frame_size(Some(MAX_FRAME));
        match client_async_with_config(request, io, Some(config)).await {
            Ok((socket, _)) => Ok(Self { socket, codec }),
            Err(Error::Http(answer)) => {
                let body = answer.body().as_deref().unwrap_or_default();
                let after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
                Err(Failure::from_status(url, answer.status(), body, after))
            }
            Err(error) => Err(Failure::from_error(url, &error)),
        }
    }

    /// What comes next. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Heard, ClientError> {
        match self.socket.next().await {
            Some(Ok(Ws::Text(text))) => codec::decode(Codec::Json, text.as_bytes()).map(Heard::Frame),
            Some(Ok(Ws::Binary(bytes))) => codec::decode(Codec::Cbor, &bytes).map(Heard::Frame),
            Some(Ok(Ws::Close(close))) => {
                let close = close.map(|close| (close.code.into(), close.reason.to_string()));
                let (code, reason) = close.unwrap_or((1005, String::new()));
                Ok(Heard::Closed { code, reason })
            }
            Some(Ok(_)) => Ok(Heard::Heartbeat),
            Some(Err(error)) => Ok(Heard::broken(&error)),
            None => Ok(Heard::broken(&"the connection ended")),
        }
    }

    /// Sends a frame. Dropping the future may leave it sent or not; it is never sent by half.
    pub(super) async fn send(&mut self, frame: &Value) -> Result<(), ClientError> {
        let bytes = codec::encode(self.codec, frame);
        let message = match self.codec {
            Codec::Json => Ws::text(String::from_utf8(bytes).expect("JSON is UTF-8")),
            Codec::Cbor => Ws::binary(bytes),
        };
        self.socket.send(message).await.map_err(|_| ClientError::NotConnected)
    }

    /// Says goodbye, and waits a little for the answer: it tells that everything sent before was read.
    pub(super) async fn close(mut self) {
        let goodbye = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        // The node learns of a lost connection as well, only later.
        if self.socket.close(Some(goodbye)).await.is_ok() {
            let answered = async { while let Some(Ok(_)) = self.socket.next().await {} };
            let _ = tokio::time::timeout(GOODBYE, answered).await;
        }
    }
}
