//! Frames on a stream: each is preceded by its length, a variable-length integer (RFC 9000 section 16).

use std::mem;

use super::varint;
use crate::domain::CloseReason;

/// A client announced a frame that is longer than what is taken. The connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {declared} bytes; at most {limit} are taken")]
pub struct TooLarge {
    /// Bytes that the length announced.
    pub declared: u64,
    /// Bytes that are taken.
    pub limit: usize,
}

impl TooLarge {
    /// What the protocol of Tidegate calls it.
    pub fn close_reason(&self) -> CloseReason {
        CloseReason::FrameTooLarge
    }
}

/// Decodes what one client sends on its stream.
///
/// A frame that is whole in the input is handed out where it lies. Only one that is cut off is gathered
/// in memory of the decoder, which grows with the bytes that really came and is given back once the
/// frame was handed out.
#[derive(Debug, Default)]
pub struct StreamDecoder {
    /// A frame's length and what came of the frame.
    #[expect(clippy::box_collection, reason = "a pointer a connection, not three words")]
    partial: Option<Box<Vec<u8>>>,
    /// `partial` holds the frame that was handed out last.
    lent: bool,
    /// An error was met: the rest is not read.
    ended: bool,
}

impl StreamDecoder {
    /// Takes the next frame off `input`, without its length. `None` says that all of it was taken; call
    /// again with what the stream gives next. Only after `None` is the decoder's memory as small as it
    /// can be.
    ///
    /// `limit` is the most bytes of a frame that are taken; a length above it is refused at once. After
    /// an error input is ignored.
    ///
    /// # Errors
    /// [`TooLarge`]: the connection is to be closed, because where the next frame begins is not known.
    pub fn next<'a, 'i: 'a>(
        &'a mut self,
        input: &mut &'i mut [u8],
        limit: usize,
    ) -> Result<Option<&'a [u8]>, TooLarge> {
        if mem::take(&mut self.lent) {
            self.partial = None;
        }
        if self.ended {
            *input = &mut [];
            return Ok(None);
        }
        let found = match self.partial {
            None => Self::next_whole(input, limit),
            Some(ref mut partial) => Self::complete(partial, input, limit),
        };
        match found {
            Ok(Some(Place::Input(frame))) => Ok(Some(frame)),
            Ok(Some(Place::Partial(header))) => {
                self.lent = true;
                Ok(self.partial.as_ref().map(|partial| &partial[header..]))
            }
            Ok(None) => {
                if !input.is_empty() {
                    self.partial = Some(Box::new(mem::take(input).to_vec()));
                }
                Ok(None)
            }
            Err(error) => {
                *self = Self { ended: true, ..Self::default() };
                Err(error)
            }
        }
    }

    fn next_whole<'i>(input: &mut &'i mut [u8], limit: usize) -> Result<Option<Place<'i>>, TooLarge> {
        let Some(head) = Head::parse(input, limit)? else { return Ok(None) };
        if input.len() < head.total() {
            return Ok(None);
        }
        let (whole, rest) = mem::take(input).split_at_mut(head.total());
        *input = rest;
        Ok(Some(Place::Input(&whole[head.header..])))
    }

    fn complete<'i>(
        partial: &mut Vec<u8>,
        input: &mut &'i mut [u8],
        limit: usize,
    ) -> Result<Option<Place<'i>>, TooLarge> {
        let head = loop {
            match Head::parse(partial, limit)? {
                Some(head) => break head,
                None if input.is_empty() => return Ok(None),
                // How long a length is its first byte says; there are at most eight.
                None => take_into(partial, input, 1),
            }
        };
        take_into(partial, input, head.total() - partial.len());
        Ok((partial.len() == head.total()).then_some(Place::Partial(head.header)))
    }
}

/// Where a whole frame lies.
enum Place<'i> {
    Input(&'i [u8]),
    /// In the partial frame, after so many bytes of length.
    Partial(usize),
}

struct Head {
    /// Bytes of the length.
    header: usize,
    /// Bytes of the frame.
    frame: usize,
}

impl Head {
    fn parse(bytes: &[u8], limit: usize) -> Result<Option<Self>, TooLarge> {
        let Some((declared, header)) = varint::read(bytes) else { return Ok(None) };
        match usize::try_from(declared) {
            Ok(frame) if frame <= limit => Ok(Some(Self { header, frame })),
            _ => Err(TooLarge { declared, limit }),
        }
    }

    fn total(&self) -> usize {
        self.header.saturating_add(self.frame)
    }
}

fn take_into(partial: &mut Vec<u8>, input: &mut &mut [u8], count: usize) {
    let whole = mem::take(input);
    let (taken, rest) = whole.split_at_mut(count.min(whole.len()));
    partial.extend_from_slice(taken);
    *input = rest;
}

/// Bytes of the length of a frame of 64 to 16,383 bytes, which most are: room for it is left in advance.
const USUAL_HEADER: usize = 2;

/// Appends one frame: `write` appends it, and its length is put before it.
///
/// The frame is written once, where it stays; only one shorter than 64 bytes or longer than 16,383 is
/// moved to fit its length. What `write` returns is returned; if that is a failure, the caller cuts
/// `out` back to its former length.
///
/// # Panics
/// If `write` takes away bytes that were in `out` before it.
pub fn frame<R>(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    let start = out.len();
    out.extend_from_slice(&[0; USUAL_HEADER]);
    let answer = write(out);
    let length = out.len().saturating_sub(start + USUAL_HEADER) as u64;
    let header = varint::Encoded::new(length);
    out.splice(start..start + USUAL_HEADER, header.as_bytes().iter().copied());
    answer
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What comes out of these pieces, and whether an error ended it.
    fn decode(pieces: &[&[u8]], limit: usize) -> (Vec<Vec<u8>>, Option<TooLarge>) {
        let (mut decoder, mut frames) = (StreamDecoder::default(), Vec::new());
        for piece in pieces {
            let mut piece = piece.to_vec();
            let mut input = &mut piece[..];
            loop {
                match decoder.next(&mut input, limit) {
                    Ok(Some(frame)) => frames.push(frame.to_vec()),
                    Ok(None) => break,
                    Err(error) => return (frames, Some(error)),
                }
            }
            assert!(input.is_empty());
        }
        (frames, None)
    }

    fn encode(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        frames.iter().for_each(|bytes| frame(&mut out, |out| out.extend_from_slice(bytes)));
        out
    }

    #[test]
    fn a_whole_frame_is_handed_out_where_it_lies() {
        let mut bytes = encode(&[b"one".to_vec(), b"two".to_vec()]);
        let first = bytes[1..].as_ptr();
        let (mut decoder, mut input) = (StreamDecoder::default(), &mut bytes[..]);
        let frame = decoder.next(&mut input, 10).unwrap().unwrap();
        assert_eq!((frame, frame.as_ptr()), (b"one".as_slice(), first));
        assert_eq!(decoder.next(&mut input, 10).unwrap(), Some(b"two".as_slice()));
        assert_eq!(decoder.next(&mut input, 10).unwrap(), None);
        assert!(decoder.partial.is_none());
    }

    #[test]
    fn memory_grows_with_what_came_and_is_given_back() {
        let mut decoder = StreamDecoder::default();
        let declared = varint::Encoded::new(80_000);
        assert_eq!(decoder.next(&mut &mut declared.as_bytes().to_vec()[..], 81_920), Ok(None));
        assert!(decoder.partial.as_ref().unwrap().capacity() < 100);
        let mut rest = vec![7; 80_000];
        assert_eq!(decoder.next(&mut &mut rest[..], 81_920).unwrap().map(<[u8]>::len), Some(80_000));
        assert_eq!(decoder.next(&mut &mut [][..], 81_920), Ok(None));
        assert!(decoder.partial.is_none());
    }

    #[test]
    fn a_frame_above_the_limit_is_refused_by_its_length() {
        for cut in [false, true] {
            let mut decoder = StreamDecoder::default();
            let length = varint::Encoded::new(varint::MAX);
            let mut length = length.as_bytes().to_vec();
            let mut input = &mut length[..];
            if cut {
                let (mut first, rest) = input.split_at_mut(3);
                assert_eq!(decoder.next(&mut first, 100), Ok(None));
                input = rest;
            }
            let error = decoder.next(&mut input, 100).unwrap_err();
            assert_eq!(error, TooLarge { declared: varint::MAX, limit: 100 });
            assert_eq!(error.close_reason(), CloseReason::FrameTooLarge);
            assert_eq!(decoder.next(&mut &mut [1, b'x'][..], 100), Ok(None));
        }
        assert_eq!(decode(&[b"\x03abc"], 3).0, [b"abc"]);
        assert!(decode(&[b"\x04abcd"], 3).1.is_some());
    }

    #[test]
    fn an_empty_frame_is_a_frame_and_lengths_may_be_long() {
        assert_eq!(decode(&[b"\x00\x40\x00\x40\x01x"], 9).0, [b"".to_vec(), b"".to_vec(), b"x".to_vec()]);
    }

    #[test]
    fn what_the_writer_says_comes_back() {
        let mut out = Vec::new();
        let said: Result<(), &str> = frame(&mut out, |_| Err("no"));
        assert_eq!(said, Err("no"));
    }

    proptest! {
        /// However the bytes are cut, the frames that were written are the frames that are read.
        #[test]
        fn frames_come_out_as_they_went_in(
            frames in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(any::<u8>(), 0..80),
                    (16_300_usize..16_500).prop_map(|length| vec![5; length]),
                ],
                0..12,
            ),
            cuts in prop::collection::vec(1_usize..4_000, 0..60),
        ) {
            let bytes = encode(&frames);
            let (mut pieces, mut rest) = (Vec::new(), &bytes[..]);
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            pieces.push(rest);
            prop_assert_eq!(decode(&pieces, 16_500), (frames, None));
        }
    }
}
