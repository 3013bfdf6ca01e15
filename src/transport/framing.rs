//! How frames of the protocol stand on a connection. The frames themselves are the same on every transport.

use super::webtransport::frames;
use super::{lines, sse, websocket};
use crate::protocol::Codec;

/// What is put around each frame that goes to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// A message of a WebSocket (RFC 6455 section 5.6).
    WebSocket(Codec),
    /// The frame's length, then the frame, on a stream of WebTransport.
    Stream(Codec),
    /// A server-sent event.
    Sse,
    /// A line of its own (NDJSON).
    Lines,
}

impl Framing {
    /// How many there are.
    pub const COUNT: usize = 6;

    /// A number below [`Self::COUNT`], each framing's own.
    pub fn index(self) -> usize {
        match self {
            Self::WebSocket(Codec::Json) => 0,
            Self::WebSocket(Codec::Cbor) => 1,
            Self::Stream(Codec::Json) => 2,
            Self::Stream(Codec::Cbor) => 3,
            Self::Sse => 4,
            Self::Lines => 5,
        }
    }

    /// The encoding of the frames. What comes in events and lines is text, so JSON.
    pub fn codec(self) -> Codec {
        match self {
            Self::WebSocket(codec) | Self::Stream(codec) => codec,
            Self::Sse | Self::Lines => Codec::Json,
        }
    }

    /// Appends one frame of this kind, its `type`: `write` appends what it is encoded as.
    ///
    /// # Panics
    /// If `write` takes away bytes that were in `out` before it.
    pub fn frame(self, kind: &str, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
        match self {
            Self::WebSocket(codec) => websocket::encode::message(codec, out, write),
            Self::Stream(_) => frames::frame(out, write),
            Self::Sse => sse::event(kind, out, write),
            Self::Lines => lines::line(out, write),
        }
    }

    /// Appends what keeps a quiet connection alive. Nothing where the transport does that beside the frames.
    pub fn heartbeat(self, out: &mut Vec<u8>) {
        match self {
            Self::WebSocket(_) => websocket::encode::ping(&[], out),
            Self::Stream(_) => {}
            Self::Sse => out.extend_from_slice(sse::HEARTBEAT),
            Self::Lines => out.extend_from_slice(lines::HEARTBEAT),
        }
    }

    /// Appends what closes a connection, where that stands among the frames.
    pub fn close(self, code: u16, reason: &str, out: &mut Vec<u8>) {
        if let Self::WebSocket(_) = self {
            websocket::encode::close(code, reason, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_framing_has_its_own_number() {
        let codecs = [Codec::Json, Codec::Cbor];
        let mut all: Vec<_> = codecs.map(Framing::WebSocket).into();
        all.extend(codecs.map(Framing::Stream));
        all.extend([Framing::Sse, Framing::Lines]);
        let numbers: Vec<_> = all.iter().map(|framing| framing.index()).collect();
        assert_eq!(numbers, (0..Framing::COUNT).collect::<Vec<_>>());
    }

    #[test]
    fn a_frame_stands_as_its_transport_wants_it() {
        let framed = |framing: Framing| {
            let mut out = b"before".to_vec();
            framing.frame("pong", &mut out, |out| out.extend_from_slice(br#"{"type":"pong"}"#));
            out.split_off(6)
        };
        assert_eq!(framed(Framing::Sse), b"event: pong\ndata: {\"type\":\"pong\"}\n\n");
        assert_eq!(framed(Framing::Lines), b"{\"type\":\"pong\"}\n");
        assert_eq!(framed(Framing::Stream(Codec::Json)), b"\x0f{\"type\":\"pong\"}");
        assert!(framed(Framing::WebSocket(Codec::Json)).ends_with(b"{\"type\":\"pong\"}"));
    }
}
