//! As much of WebSocket (RFC 6455) as a client of a herd takes.

use anyhow::Result;

/// Opcodes.
pub const TEXT: u8 = 1;
/// The same.
pub const PING: u8 = 9;
/// The first byte of a whole frame with text, and of an answer to a ping.
pub const SAY: u8 = 0x80 | TEXT;
/// The same.
pub const PONG: u8 = 0x8A;

/// The bytes of a server frame's header and payload, once the header is whole.
pub fn frame(bytes: &[u8]) -> Option<(usize, usize)> {
    match *bytes.get(1)? {
        126 => Some((4, u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?).into())),
        127 => Some((10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize)),
        length => Some((2, length.into())),
    }
}

/// A whole frame of a client. Its mask is zero, which leaves the payload as it is.
pub fn encode(first: u8, payload: &[u8]) -> Result<Vec<u8>> {
    let mut out = vec![first];
    match payload.len() {
        length @ 0..126 => out.push(0x80 | length as u8),
        length => {
            out.push(0x80 | 126);
            out.extend_from_slice(&u16::try_from(length)?.to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
    Ok(out)
}
