//! The transport WebSocket.

use anyhow::{Context as _, Result, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::header::{AUTHORIZATION, ORIGIN, SEC_WEBSOCKET_PROTOCOL};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message as Ws, WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::{Codec, Event, Frame, Options, Refusal};
use crate::DEADLINE;

/// One connection.
pub(super) struct WebSocket {
    ws: WebSocketStream<TcpStream>,
    codec: Codec,
}

impl WebSocket {
    /// Performs the handshake.
    pub(super) async fn open(url: &str, options: &Options) -> Result<Result<Self, Refusal>> {
        let codec = options.wire.codec;
        let mut request = options.with_query(url).into_client_request()?;
        let headers = request.headers_mut();
        headers.insert(SEC_WEBSOCKET_PROTOCOL, codec.subprotocol().parse()?);
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
            Ok((ws, _)) => Ok(Ok(Self { ws, codec })),
            Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => {
                Ok(Err(Refusal::Handshake(answer.status().as_u16())))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a frame, as text or binary by its codec; what is no text goes as binary.
    pub(super) async fn send(&mut self, frame: Vec<u8>) -> Result<()> {
        self.send_raw(match (self.codec, String::from_utf8(frame)) {
            (Codec::Json, Ok(text)) => Ws::text(text),
            (Codec::Cbor, Ok(text)) => Ws::binary(text.into_bytes()),
            (_, Err(bytes)) => Ws::binary(bytes.into_bytes()),
        })
        .await
    }

    /// Sends any WebSocket message.
    pub(super) async fn send_raw(&mut self, message: Ws) -> Result<()> {
        Ok(self.ws.send(message).await?)
    }

    /// What happens next. Cancel-safe.
    pub(super) async fn read(&mut self) -> Result<Event> {
        loop {
            return Ok(match self.ws.next().await {
                Some(Ok(Ws::Text(text))) => {
                    ensure!(self.codec == Codec::Json, "text on a CBOR connection: {text}");
                    Event::Frame(Frame::decode(self.codec, text.as_bytes())?)
                }
                Some(Ok(Ws::Binary(bytes))) => {
                    ensure!(self.codec == Codec::Cbor, "binary on a JSON connection");
                    Event::Frame(Frame::decode(self.codec, &bytes)?)
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

    /// Says goodbye and waits until the server agrees.
    pub(super) async fn close(mut self) -> Result<()> {
        let goodbye = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        self.ws.close(Some(goodbye)).await?;
        let drained = async { while let Some(Ok(_)) = self.ws.next().await {} };
        tokio::time::timeout(DEADLINE, drained).await.context("the server did not answer the close")
    }

    /// The bare socket.
    pub(super) fn into_socket(self) -> TcpStream {
        self.ws.into_inner()
    }
}
