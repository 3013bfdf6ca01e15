//! Capsules on the stream of a session's CONNECT request (RFC 9297 section 3.2).

use super::varint;

/// `WT_CLOSE_SESSION` (draft-ietf-webtrans-http3 section 6).
const CLOSE_SESSION: u64 = 0x2843;

/// Bytes of a reason, at most (the same section).
const MAX_REASON: usize = 1024;

/// Bytes of the code before the reason.
const CODE: usize = 4;

const MAX_CLOSE: usize = CODE + MAX_REASON;

/// A session was closed, with this code and reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseSession {
    /// The application's code.
    pub code: u32,
    /// Why, in its words; at most 1,024 bytes.
    pub reason: String,
}

/// A capsule breaks the standard. The session cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CapsuleError {
    /// A close without a code, or with a reason that is too long.
    #[error("a closing capsule of {0} bytes; it has 4 to 1028")]
    BadLength(u64),
    /// A reason that is no UTF-8.
    #[error("the reason in a closing capsule is not valid UTF-8")]
    NotUtf8,
}

/// Decodes capsules. Those that are not known are skipped as they come, however long; nothing of them
/// is kept (RFC 9297 section 3.2).
#[derive(Debug, Default)]
pub struct CapsuleDecoder {
    /// Type and length of a capsule until both are there, at most 16 bytes; then a closing capsule's
    /// content, at most 1,028.
    kept: Vec<u8>,
    state: State,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    /// So many bytes are still to be skipped.
    Skipping(u64),
    /// A closing capsule of so many bytes.
    Closing(usize),
    Ended,
}

impl CapsuleDecoder {
    /// Takes what came next on the stream; a close as soon as it is whole. Nothing after it is read.
    ///
    /// # Errors
    /// [`CapsuleError`]; input after it is ignored.
    pub fn feed(&mut self, mut input: &[u8]) -> Result<Option<CloseSession>, CapsuleError> {
        loop {
            match self.state {
                State::Head if input.is_empty() => return Ok(None),
                State::Head => self.head(&mut input)?,
                State::Skipping(left) => {
                    let taken = input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    input = &input[taken..];
                    let left = left - taken as u64;
                    if left > 0 {
                        self.state = State::Skipping(left);
                        return Ok(None);
                    }
                    self.state = State::Head;
                }
                State::Closing(length) => {
                    let taken = input.len().min(length - self.kept.len());
                    self.kept.extend_from_slice(&input[..taken]);
                    if self.kept.len() < length {
                        return Ok(None);
                    }
                    return self.close().map(Some);
                }
                State::Ended => return Ok(None),
            }
        }
    }

    /// Takes one byte of a capsule's type and length.
    fn head(&mut self, input: &mut &[u8]) -> Result<(), CapsuleError> {
        let Some((byte, rest)) = input.split_first() else { return Ok(()) };
        *input = rest;
        self.kept.push(*byte);
        let Some((kind, read)) = varint::read(&self.kept) else { return Ok(()) };
        let Some((length, _)) = varint::read(&self.kept[read..]) else { return Ok(()) };
        self.kept.clear();
        self.state = match usize::try_from(length) {
            _ if kind != CLOSE_SESSION => State::Skipping(length),
            Ok(length @ CODE..=MAX_CLOSE) => State::Closing(length),
            _ => {
                self.state = State::Ended;
                return Err(CapsuleError::BadLength(length));
            }
        };
        Ok(())
    }

    fn close(&mut self) -> Result<CloseSession, CapsuleError> {
        self.state = State::Ended;
        let content = std::mem::take(&mut self.kept);
        let (code, reason) = content.split_first_chunk().ok_or(CapsuleError::BadLength(0))?;
        let reason = std::str::from_utf8(reason).map_err(|_| CapsuleError::NotUtf8)?;
        Ok(CloseSession { code: u32::from_be_bytes(*code), reason: reason.to_owned() })
    }
}

/// The capsule that closes a session. The reason is cut at a character to the bytes that fit.
pub fn close_session(code: u32, reason: &str) -> Vec<u8> {
    let reason = &reason.as_bytes()[..reason.floor_char_boundary(MAX_REASON)];
    let mut out = varint::Encoded::new(CLOSE_SESSION).as_bytes().to_vec();
    out.extend_from_slice(varint::Encoded::new((CODE + reason.len()) as u64).as_bytes());
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn capsule(kind: u64, content: &[u8]) -> Vec<u8> {
        let mut out = varint::Encoded::new(kind).as_bytes().to_vec();
        out.extend_from_slice(varint::Encoded::new(content.len() as u64).as_bytes());
        out.extend_from_slice(content);
        out
    }

    fn feed(bytes: &[u8], piece: usize) -> Result<Option<CloseSession>, CapsuleError> {
        let mut decoder = CapsuleDecoder::default();
        for piece in bytes.chunks(piece) {
            if let Some(close) = decoder.feed(piece)? {
                return Ok(Some(close));
            }
            assert!(decoder.kept.len() <= MAX_CLOSE);
        }
        Ok(None)
    }

    #[test]
    fn a_close_is_found_behind_capsules_that_are_not_known() {
        let mut bytes = capsule(0x21, b"");
        bytes.extend(capsule(0x1f * 9 + 0x21, &[9; 5_000]));
        bytes.extend(close_session(4200, "drain"));
        bytes.extend(close_session(1, "never read"));
        for piece in [1, 2, 3, 100, bytes.len()] {
            let close = CloseSession { code: 4200, reason: "drain".into() };
            assert_eq!(feed(&bytes, piece), Ok(Some(close)), "{piece}");
        }
    }

    #[test]
    fn an_endless_capsule_keeps_nothing() {
        let mut decoder = CapsuleDecoder::default();
        let mut head = varint::Encoded::new(0x78ae).as_bytes().to_vec();
        head.extend_from_slice(varint::Encoded::new(varint::MAX).as_bytes());
        assert_eq!(decoder.feed(&head), Ok(None));
        for _ in 0..100 {
            assert_eq!(decoder.feed(&[0x28; 10_000]), Ok(None));
        }
        assert!(decoder.kept.capacity() <= 32);
    }

    #[test]
    fn a_broken_close_is_an_error_and_the_end() {
        let long = vec![b'x'; MAX_REASON + 1];
        let cases = [
            (vec![0; 3], CapsuleError::BadLength(3)),
            ([vec![0; 4], long].concat(), CapsuleError::BadLength(1_029)),
            (vec![0, 0, 0, 1, 0xFF], CapsuleError::NotUtf8),
        ];
        for (content, error) in cases {
            let mut decoder = CapsuleDecoder::default();
            assert_eq!(decoder.feed(&capsule(CLOSE_SESSION, &content)), Err(error));
            assert_eq!(decoder.feed(&close_session(1, "")), Ok(None));
        }
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let bytes = close_session(7, &"é".repeat(600));
        let close = feed(&bytes, 50).unwrap().unwrap();
        assert_eq!((close.code, close.reason.len()), (7, MAX_REASON));
        let bytes = close_session(7, &format!("x{}", "é".repeat(600)));
        assert_eq!(feed(&bytes, 50).unwrap().unwrap().reason.len(), MAX_REASON - 1);
    }

    proptest! {
        #[test]
        fn any_bytes_are_the_same_however_they_are_cut(
            bytes in prop::collection::vec(any::<u8>(), 0..200), piece in 1_usize..50,
        ) {
            prop_assert_eq!(feed(&bytes, piece), feed(&bytes, 1));
        }
    }
}
