//! Server frames (RFC 6455 section 5.2). They carry no mask, so one encoded frame serves every socket.

use super::{CONTROL_MAX, FIN, Opcode};
use crate::protocol::Codec;

/// Header bytes of a message of 126 to 65,535 bytes, which most are: room for it is left in advance.
const USUAL_HEADER: usize = 4;

/// Appends one message: `write` appends the payload, and the header is put before it. Text for
/// [`Codec::Json`], binary for [`Codec::Cbor`].
///
/// The payload is written once, where it stays; only one shorter than 126 bytes or longer than 65,535
/// is moved to fit its header. What `write` returns is returned; if that is a failure, the caller
/// cuts `out` back to its former length.
///
/// # Panics
/// If `write` takes away bytes that were in `out` before it.
pub fn message<R>(codec: Codec, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    let start = out.len();
    out.extend_from_slice(&[0; USUAL_HEADER]);
    let answer = write(out);
    let opcode = match codec {
        Codec::Json => Opcode::Text,
        Codec::Cbor => Opcode::Binary,
    };
    let length = out.len().saturating_sub(start + USUAL_HEADER);
    let mut header = [0; 10];
    let header = header_into(&mut header, opcode, length);
    out.splice(start..start + USUAL_HEADER, header.iter().copied());
    answer
}

/// Appends a ping. At most 125 bytes of `payload` are sent.
pub fn ping(payload: &[u8], out: &mut Vec<u8>) {
    control(Opcode::Ping, &[payload], out);
}

/// Appends a pong that answers a ping with this payload. At most 125 bytes of it are sent.
pub fn pong(payload: &[u8], out: &mut Vec<u8>) {
    control(Opcode::Pong, &[payload], out);
}

/// Appends a close frame. The reason is cut at a character to the 123 bytes that fit.
pub fn close(code: u16, reason: &str, out: &mut Vec<u8>) {
    let fits = reason.floor_char_boundary(CONTROL_MAX - 2);
    control(Opcode::Close, &[&code.to_be_bytes(), &reason.as_bytes()[..fits]], out);
}

fn control(opcode: Opcode, parts: &[&[u8]], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[FIN | opcode as u8, 0]);
    for part in parts {
        let room = CONTROL_MAX - (out.len() - start - 2);
        out.extend_from_slice(&part[..part.len().min(room)]);
    }
    // At most CONTROL_MAX, which is below the marks for longer lengths.
    out[start + 1] = (out.len() - start - 2) as u8;
}

fn header_into(header: &mut [u8; 10], opcode: Opcode, length: usize) -> &[u8] {
    header[0] = FIN | opcode as u8;
    match length {
        0..=125 => {
            header[1] = length as u8;
            &header[..2]
        }
        126..=0xFFFF => {
            header[1] = 126;
            header[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            &header[..4]
        }
        _ => {
            header[1] = 127;
            header[2..10].copy_from_slice(&(length as u64).to_be_bytes());
            &header[..10]
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocket, WebSocketConfig};

    use super::*;

    /// What tungstenite's client reads out of these bytes.
    fn read_by_peer(bytes: Vec<u8>) -> Vec<Message> {
        let config = WebSocketConfig::default().max_frame_size(None).max_message_size(None);
        // A client answers pings and closes, so the stream takes what it writes.
        let mut peer = WebSocket::from_raw_socket(Duplex(Cursor::new(bytes)), Role::Client, Some(config));
        std::iter::from_fn(|| peer.read().ok()).collect()
    }

    struct Duplex(Cursor<Vec<u8>>);

    impl std::io::Read for Duplex {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(into)
        }
    }

    impl std::io::Write for Duplex {
        fn write(&mut self, from: &[u8]) -> std::io::Result<usize> {
            Ok(from.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_peer_reads_messages_of_every_header_length() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 200_000] {
            let text = "x".repeat(length);
            let mut out = b"before".to_vec();
            message(Codec::Json, &mut out, |out| out.extend_from_slice(text.as_bytes()));
            message(Codec::Cbor, &mut out, |out| out.extend_from_slice(text.as_bytes()));
            let read = read_by_peer(out.split_off(6));
            assert_eq!(out, b"before");
            assert_eq!(read, [Message::text(text.clone()), Message::binary(text.into_bytes())], "{length}");
        }
    }

    #[test]
    fn the_peer_reads_control_frames() {
        let mut out = Vec::new();
        ping(b"are you there", &mut out);
        pong(&[7; 200], &mut out);
        close(4200, "drain", &mut out);
        let read = read_by_peer(out);
        assert_eq!(read[0], Message::Ping(b"are you there".to_vec().into()));
        assert_eq!(read[1], Message::Pong(vec![7; 125].into()));
        let Message::Close(Some(frame)) = &read[2] else { panic!("{read:?}") };
        assert_eq!((u16::from(frame.code), frame.reason.as_str()), (4200, "drain"));
    }

    #[test]
    fn a_long_close_reason_is_cut_at_a_character() {
        let mut out = Vec::new();
        close(4000, &"é".repeat(100), &mut out);
        assert_eq!(out.len(), 2 + 2 + 122);
        assert!(std::str::from_utf8(&out[4..]).is_ok());
    }

    #[test]
    fn what_the_writer_says_comes_back() {
        let mut out = Vec::new();
        let said: Result<(), &str> = message(Codec::Json, &mut out, |_| Err("no"));
        assert_eq!(said, Err("no"));
    }
}
