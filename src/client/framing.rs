//! Bytes of a WebTransport session: variable-length integers (RFC 9000 section 16), frames behind their length,
//! and capsules (RFC 9297 section 3.2).

use bytes::{Buf as _, Bytes, BytesMut};

use super::ClientError;
use super::codec::MAX_FRAME;

/// The capsule that closes a session (draft-ietf-webtrans-http3 section 5).
const CLOSE_SESSION: u64 = 0x2843;
/// A code, and a reason of at most 1024 bytes.
const CLOSE_MAX: u64 = 4 + 1024;

/// Appends an integer below 2^62.
pub(super) fn put_varint(out: &mut BytesMut, value: u64) {
    match value {
        0..=0x3f => out.extend_from_slice(&[value as u8]),
        0x40..=0x3fff => out.extend_from_slice(&(value as u16 | 0x4000).to_be_bytes()),
        0x4000..=0x3fff_ffff => out.extend_from_slice(&(value as u32 | 0x8000_0000).to_be_bytes()),
        _ => out.extend_from_slice(&(value | 0xc000_0000_0000_0000).to_be_bytes()),
    }
}

/// The integer in front, and how many bytes it takes; `None` while it is not whole.
pub(super) fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let length = 1 << (bytes.first()? >> 6);
    let value = bytes.get(..length)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
    // The first two bits told the length.
    Some((value & (u64::MAX >> (66 - 8 * length)), length))
}

/// Frames out of the bytes of a stream. Holds what came of the one that is not whole.
#[derive(Debug, Default)]
pub(super) struct Frames {
    buffer: BytesMut,
}

impl Frames {
    /// Takes what the stream gave.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        let Some((length, head)) = varint(&self.buffer) else { return Ok(None) };
        let too_large = || ClientError::Protocol(format!("a frame of {length} bytes, more than {MAX_FRAME}"));
        let length =
            usize::try_from(length).ok().filter(|length| *length <= MAX_FRAME).ok_or_else(too_large)?;
        if self.buffer.len() < head + length {
            return Ok(None);
        }
        self.buffer.advance(head);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}

/// How a session was closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Close {
    pub(super) code: u32,
    pub(super) reason: String,
}

/// The close out of the capsules of a CONNECT stream; others are passed over, however long they are.
#[derive(Debug, Default)]
pub(super) struct Capsules {
    buffer: BytesMut,
    /// Bytes of a capsule that is passed over.
    skip: u64,
}

impl Capsules {
    /// Takes what the stream gave. The answer is the close, once it is whole.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Result<Option<Close>, ClientError> {
        while !bytes.is_empty() || !self.buffer.is_empty() {
            let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
            self.skip -= skipped as u64;
            bytes = &bytes[skipped..];
            // As much as the longest capsule that is looked at.
            let room = (CLOSE_MAX as usize + 16).saturating_sub(self.buffer.len()).min(bytes.len());
            self.buffer.extend_from_slice(&bytes[..room]);
            bytes = &bytes[room..];
            let Some((kind, first)) = varint(&self.buffer) else { return Ok(None) };
            let Some((length, second)) = varint(&self.buffer[first..]) else { return Ok(None) };
            let head = first + second;
            if kind == CLOSE_SESSION {
                if !(4..=CLOSE_MAX).contains(&length) {
                    return Err(ClientError::Protocol(format!("a close of {length} bytes")));
                }
                if self.buffer.len() < head + length as usize {
                    return Ok(None);
                }
                self.buffer.advance(head);
                let code = self.buffer.get_u32();
                let reason = String::from_utf8_lossy(&self.buffer[..length as usize - 4]).into_owned();
                return Ok(Some(Close { code, reason }));
            }
            self.buffer.advance(head);
            let here = (self.buffer.len() as u64).min(length);
            self.buffer.advance(here as usize);
            self.skip = length - here;
        }
        Ok(None)
    }
}

/// The capsule that says goodbye with this code and no reason.
pub(super) fn close_session(code: u32) -> Bytes {
    let mut out = BytesMut::new();
    put_varint(&mut out, CLOSE_SESSION);
    put_varint(&mut out, 4);
    out.extend_from_slice(&code.to_be_bytes());
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 9000 appendix A.1.
    #[test]
    fn varints_are_those_of_the_rfc() {
        for (bytes, value) in [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
        ] {
            assert_eq!(varint(bytes), Some((value, bytes.len())));
            assert_eq!(varint(&bytes[..bytes.len() - 1]), None);
            let mut written = BytesMut::new();
            put_varint(&mut written, value);
            assert_eq!(written, bytes);
        }
    }

    #[test]
    fn frames_come_out_however_they_are_cut() {
        let mut stream = BytesMut::new();
        let frames = [b"{}".to_vec(), Vec::new(), vec![b'x'; 300]];
        for frame in &frames {
            put_varint(&mut stream, frame.len() as u64);
            stream.extend_from_slice(frame);
        }
        for size in 1..=stream.len() {
            let (mut decoder, mut got) = (Frames::default(), Vec::new());
            for piece in stream.chunks(size) {
                decoder.feed(piece);
                while let Some(frame) = decoder.next().unwrap() {
                    got.push(frame.to_vec());
                }
            }
            assert_eq!(got, frames, "by {size}");
        }
        let mut endless = Frames::default();
        endless.feed(&[0xff; 8]);
        assert!(endless.next().is_err());
    }

    #[test]
    fn a_close_is_found_behind_capsules_that_nobody_knows() {
        let mut stream = BytesMut::new();
        for (kind, length) in [(0x17, 3), (0x29, 5000)] {
            put_varint(&mut stream, kind);
            put_varint(&mut stream, length);
            stream.extend_from_slice(&vec![1; length as usize]);
        }
        put_varint(&mut stream, CLOSE_SESSION);
        put_varint(&mut stream, 9);
        stream.extend_from_slice(b"\0\0\x10\x68drain");
        let close = Close { code: 4200, reason: "drain".into() };
        for size in 1..=stream.len() {
            let mut capsules = Capsules::default();
            let found = stream.chunks(size).find_map(|piece| capsules.feed(piece).unwrap());
            assert_eq!(found, Some(close.clone()), "by {size}");
        }
        assert_eq!(Capsules::default().feed(&close_session(1000)).unwrap().unwrap().code, 1000);
        let mut long = BytesMut::new();
        put_varint(&mut long, CLOSE_SESSION);
        put_varint(&mut long, 1 << 40);
        assert!(Capsules::default().feed(&long).is_err());
    }
}
