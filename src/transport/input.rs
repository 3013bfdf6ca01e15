//! What clients send, from bytes to frames of the protocol, whatever carries them.

use super::framing::Framing;
use super::websocket;
use super::webtransport::frames::{StreamDecoder, TooLarge};
use crate::domain::CloseReason;
use crate::protocol::Codec;

/// Decodes what one client sends.
#[derive(Debug)]
pub enum Decoder {
    /// Messages of a WebSocket.
    WebSocket(websocket::Decoder),
    /// Frames behind their length.
    Stream(StreamDecoder, Codec),
    /// Nothing comes this way: what the client says comes by requests.
    Nothing,
}

/// Something that a client sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A frame of the protocol, not decoded yet.
    Frame(Codec, &'a [u8]),
    /// It wants a pong with this payload.
    Ping(&'a [u8]),
    /// It answers a ping.
    Pong,
    /// It closes the connection, with this code where it says one.
    Close(Option<u16>),
}

/// Why a connection is to be closed: its client broke the rules of the transport.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// Of WebSocket.
    #[error(transparent)]
    WebSocket(#[from] websocket::FrameError),
    /// Of frames behind their length.
    #[error(transparent)]
    Stream(#[from] TooLarge),
}

impl InputError {
    /// What the client is told.
    pub fn close_reason(&self) -> CloseReason {
        match self {
            Self::WebSocket(error) => error.close_reason(),
            Self::Stream(error) => error.close_reason(),
        }
    }
}

impl Decoder {
    /// A decoder for what comes over a connection whose frames stand like this.
    pub fn of(framing: Framing) -> Self {
        match framing {
            Framing::WebSocket(_) => Self::WebSocket(websocket::Decoder::default()),
            Framing::Stream(codec) => Self::Stream(StreamDecoder::default(), codec),
            Framing::Sse | Framing::Lines => Self::Nothing,
        }
    }

    /// Takes the next event off `input`. `None`: all of it was taken. `limit` is the most bytes of a frame.
    ///
    /// # Errors
    /// [`InputError`]; the connection is to be closed.
    pub fn next<'a, 'i: 'a>(
        &'a mut self,
        input: &mut &'i mut [u8],
        limit: usize,
    ) -> Result<Option<Event<'a>>, InputError> {
        match self {
            Self::WebSocket(decoder) => Ok(decoder.next(input, limit)?.map(|event| match event {
                websocket::Event::Text(text) => Event::Frame(Codec::Json, text.as_bytes()),
                websocket::Event::Binary(bytes) => Event::Frame(Codec::Cbor, bytes),
                websocket::Event::Ping(payload) => Event::Ping(payload),
                websocket::Event::Pong(_) => Event::Pong,
                websocket::Event::Close(close) => Event::Close(close.map(|(code, _)| code)),
            })),
            Self::Stream(decoder, codec) => {
                Ok(decoder.next(input, limit)?.map(|frame| Event::Frame(*codec, frame)))
            }
            Self::Nothing => {
                *input = &mut [];
                Ok(None)
            }
        }
    }
}
