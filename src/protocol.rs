//! Wire protocol v1: frames and their two encodings. No I/O, no clock; input never panics.

mod cbor;
mod compact;
mod encode;
mod fields;
pub mod frames;
mod json;
mod payload;

use crate::domain::{ChannelName, Publication};

pub use frames::{
    ClientFrame, Connect, ErrorCode, GapReason, Payload, RequestId, Resumed, ServerFrame, Subscribe,
};

/// An encoding of frames, named by the WebSocket subprotocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// `tidegate.v1.json`, text.
    Json,
    /// `tidegate.v1.cbor`, binary.
    Cbor,
}

impl Codec {
    /// Understands a frame. Fields that no frame has are ignored; a field given twice, bytes after
    /// the frame and values nested deeper than 64 are refused.
    pub fn decode(self, bytes: &[u8]) -> Result<ClientFrame, BadFrame> {
        match self {
            Self::Json => json::decode(bytes),
            Self::Cbor => cbor::decode(bytes),
        }
    }

    /// Appends a frame to `out`.
    pub fn encode(self, frame: &ServerFrame, out: &mut Vec<u8>) {
        match self {
            Self::Json => json::write(out, |to| encode::frame(to, frame)),
            Self::Cbor => cbor::write(out, |to| encode::frame(to, frame)),
        }
    }
}

/// Appends a `message` frame to `out`: what [`Codec::encode`] writes for [`ServerFrame::Message`],
/// from its parts. Called once for each message and codec, whatever the number of subscribers.
pub fn encode_message(
    codec: Codec,
    channel: &ChannelName,
    message: &Publication,
    attempt: u8,
    out: &mut Vec<u8>,
) {
    // Names, offset and channel take about a hundred bytes, so most messages need one allocation.
    out.reserve(message.data.len() + channel.as_str().len() + 128);
    match codec {
        Codec::Json => json::write(out, |to| encode::message(to, channel, message, attempt)),
        Codec::Cbor => cbor::write(out, |to| encode::message(to, channel, message, attempt)),
    }
}

/// A frame that cannot be understood. The request id is there where it could be read, so that the
/// client learns which request it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BadFrame {
    /// The request, where it could be read.
    pub id: Option<RequestId>,
    /// What is wrong and what to send instead.
    pub message: Box<str>,
}

#[cfg(test)]
mod tests;
