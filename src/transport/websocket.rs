//! The server side of WebSocket (RFC 6455) without I/O, made for many idle sockets: between frames a
//! connection keeps no buffer, and whole frames are handed out of the buffer they were read into.
//!
//! No extensions are negotiated; `permessage-deflate` would cost tens of kilobytes a connection.

use crate::domain::CloseReason;

pub mod decode;
pub mod encode;
pub mod handshake;

pub use decode::Decoder;
pub use handshake::{Accepted, Refusal, accept};

/// What a client said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole text message. It is valid UTF-8: JSON parsers do not look at strings they skip, so
    /// validity is settled here.
    Text(&'a str),
    /// A whole binary message.
    Binary(&'a [u8]),
    /// A ping, to be answered by a pong with the same bytes, at most 125.
    Ping(&'a [u8]),
    /// A pong, asked for or not, at most 125 bytes.
    Pong(&'a [u8]),
    /// The client closes; nothing after it is read. The code and the reason, where it gave them.
    Close(Option<(u16, &'a str)>),
}

/// A client broke RFC 6455 or sent more than is taken. The connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A frame without a mask (section 5.1).
    #[error("client frames must be masked")]
    Unmasked,
    /// A reserved bit without an extension that gives it a meaning (section 5.2).
    #[error("reserved bits are set, but no extension was negotiated")]
    ReservedBits,
    /// An opcode without a meaning (section 5.2).
    #[error("opcode {0:#x} is reserved")]
    ReservedOpcode(u8),
    /// A control frame in fragments, or longer than 125 bytes (section 5.5).
    #[error("a control frame must be whole and at most 125 bytes long")]
    BadControl,
    /// A continuation of nothing (section 5.4).
    #[error("a continuation frame without a message that it continues")]
    UnexpectedContinuation,
    /// A new message inside a fragmented one (section 5.4).
    #[error("a new message began before the last one ended")]
    Interleaved,
    /// A length with its highest bit set, or written longer than need be (section 5.2).
    #[error("the payload length must be written in the fewest bytes")]
    BadLength,
    /// A message longer than is taken; said by the header, before the payload came.
    #[error("a message of at least {declared} bytes; at most {limit} are taken")]
    TooLarge {
        /// Bytes of the message so far, with those that the last header announced.
        declared: u64,
        /// Bytes that are taken.
        limit: usize,
    },
    /// A close frame of one byte, or with a code that must not be sent (section 7.4).
    #[error("a close frame with an invalid code")]
    BadClose,
    /// A text message or a close reason that is no UTF-8 (section 8.1).
    #[error("text that is not valid UTF-8")]
    NotUtf8,
}

impl FrameError {
    /// What the protocol of Tidegate calls it; its code is what the close frame should carry.
    pub fn close_reason(&self) -> CloseReason {
        match self {
            Self::TooLarge { .. } => CloseReason::FrameTooLarge,
            _ => CloseReason::Protocol,
        }
    }

    /// The status code of RFC 6455 section 7.4.1, for peers that know nothing of Tidegate.
    pub fn status(&self) -> u16 {
        match self {
            Self::TooLarge { .. } => 1009,
            Self::NotUtf8 => 1007,
            _ => 1002,
        }
    }
}

/// Opcodes (RFC 6455 section 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Opcode {
    Continuation = 0x0,
    Text = 0x1,
    Binary = 0x2,
    Close = 0x8,
    Ping = 0x9,
    Pong = 0xA,
}

impl Opcode {
    fn parse(nibble: u8) -> Result<Self, FrameError> {
        Ok(match nibble {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            other => return Err(FrameError::ReservedOpcode(other)),
        })
    }

    fn is_control(self) -> bool {
        self as u8 >= 0x8
    }
}

/// Longest payload of a control frame (RFC 6455 section 5.5).
const CONTROL_MAX: usize = 125;

/// The final-fragment bit of a frame's first byte.
const FIN: u8 = 0x80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_a_code_for_either_kind_of_peer() {
        let large = FrameError::TooLarge { declared: 9, limit: 8 };
        assert_eq!((large.close_reason(), large.status()), (CloseReason::FrameTooLarge, 1009));
        assert_eq!(
            (FrameError::NotUtf8.close_reason(), FrameError::NotUtf8.status()),
            (CloseReason::Protocol, 1007)
        );
        assert_eq!(FrameError::Unmasked.status(), 1002);
    }
}
