//! Wire protocol v1: frames and their two encodings. No I/O, no clock; input never panics.

pub mod frames;

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
