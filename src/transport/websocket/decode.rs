//! Client bytes to events (RFC 6455 section 5).

use std::mem;

use super::{CONTROL_MAX, Event, FIN, FrameError, Opcode};

/// Decodes what one client sends.
///
/// A frame that is whole in the input is unmasked where it lies and handed out without a copy. Only a
/// frame that is cut off, or a message that comes in fragments, is gathered in memory of the decoder,
/// which grows with the bytes that really came and is given back once they were handed out.
#[derive(Debug, Default)]
pub struct Decoder {
    partial: Option<Box<Partial>>,
    /// A close frame or an error was met: the rest is not read (section 7.1.7).
    ended: bool,
}

/// What is gathered until it is whole.
#[derive(Debug, Default)]
struct Partial {
    /// The beginning of a frame as it was received, header and mask included.
    frame: Vec<u8>,
    /// Fragments so far, unmasked.
    message: Vec<u8>,
    /// What the fragments are of, while there are any.
    kind: Option<Opcode>,
    /// What the last event was borrowed from, to be forgotten by the next call.
    lent: Option<Lent>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lent {
    Frame,
    Message,
}

/// Where a whole payload lies, unmasked.
enum Place<'i> {
    Input(&'i mut [u8]),
    /// In `Partial::frame`, after so many bytes of header.
    Frame(usize),
    Message,
}

impl Decoder {
    /// Takes the next event off `input`. `None` says that all of it was taken; call again with what
    /// the socket gives next. Only after `None` is the decoder's memory as small as it can be.
    ///
    /// `max_message` is the most bytes of a message that are taken, fragments together; a header that
    /// announces more is refused at once. After an error or [`Event::Close`] input is ignored.
    ///
    /// The input is changed: payloads are unmasked in it.
    ///
    /// # Errors
    /// [`FrameError`] when the client broke the protocol; the connection is to be closed.
    pub fn next<'a, 'i: 'a>(
        &'a mut self,
        input: &mut &'i mut [u8],
        max_message: usize,
    ) -> Result<Option<Event<'a>>, FrameError> {
        self.forget_lent();
        if self.ended {
            *input = &mut [];
            return Ok(None);
        }
        let found = match self.advance(input, max_message) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            Err(error) => {
                self.end();
                return Err(error);
            }
        };
        let (opcode, place) = found;
        let payload: &'a [u8] = match (place, &self.partial) {
            (Place::Input(payload), _) => payload,
            (Place::Frame(header), Some(partial)) => &partial.frame[header..],
            (Place::Message, Some(partial)) => &partial.message,
            // Those two places are only ever named while there is a partial.
            (Place::Frame(_) | Place::Message, None) => &[],
        };
        let event = event(opcode, payload);
        self.ended = matches!(event, Err(_) | Ok(Event::Close(_)));
        event.map(Some)
    }

    fn end(&mut self) {
        self.ended = true;
        self.partial = None;
    }

    /// Forgets what the last event was borrowed from, and gives memory back once nothing is gathered.
    fn forget_lent(&mut self) {
        let Some(partial) = &mut self.partial else { return };
        match partial.lent.take() {
            None => return,
            Some(Lent::Frame) => partial.frame.clear(),
            Some(Lent::Message) => {
                partial.frame.clear();
                partial.message = Vec::new();
                partial.kind = None;
            }
        }
        if partial.kind.is_none() {
            self.partial = None;
        }
    }

    /// Goes on to the next whole control frame or whole message.
    fn advance<'i>(
        &mut self,
        input: &mut &'i mut [u8],
        max: usize,
    ) -> Result<Option<(Opcode, Place<'i>)>, FrameError> {
        while let Some((head, place)) = self.next_frame(input, max)? {
            if let Place::Frame(_) = place {
                self.partial().lent = Some(Lent::Frame);
            }
            if head.opcode.is_control() || (head.fin && head.opcode != Opcode::Continuation) {
                return Ok(Some((head.opcode, place)));
            }
            if let Some(kind) = self.gather(head, place) {
                return Ok(Some((kind, Place::Message)));
            }
        }
        Ok(None)
    }

    /// Adds a fragment to the message; the message's kind once it is whole.
    fn gather(&mut self, head: Head, place: Place<'_>) -> Option<Opcode> {
        let partial = self.partial();
        match place {
            Place::Input(payload) => partial.message.extend_from_slice(payload),
            Place::Frame(header) => partial.message.extend_from_slice(&partial.frame[header..]),
            Place::Message => {}
        }
        partial.frame.clear();
        partial.lent = None;
        let kind = *partial.kind.get_or_insert(head.opcode);
        head.fin.then(|| {
            partial.lent = Some(Lent::Message);
            kind
        })
    }

    /// Takes one frame off the input, unmasked; `None` when the input ends before the frame does.
    fn next_frame<'i>(
        &mut self,
        input: &mut &'i mut [u8],
        max: usize,
    ) -> Result<Option<(Head, Place<'i>)>, FrameError> {
        if self.partial.as_ref().is_some_and(|partial| !partial.frame.is_empty()) {
            return self.complete_frame(input, max);
        }
        if input.is_empty() {
            return Ok(None);
        }
        if let Some(head) = Head::parse(input)? {
            self.admit(&head, max)?;
            if head.total() <= input.len() {
                let (frame, rest) = mem::take(input).split_at_mut(head.total());
                *input = rest;
                let payload = &mut frame[head.header..];
                unmask(payload, head.key);
                return Ok(Some((head, Place::Input(payload))));
            }
        }
        let cut_off = mem::take(input);
        self.partial().frame.extend_from_slice(cut_off);
        Ok(None)
    }

    /// Goes on with a frame whose beginning came earlier.
    fn complete_frame<'i>(
        &mut self,
        input: &mut &'i mut [u8],
        max: usize,
    ) -> Result<Option<(Head, Place<'i>)>, FrameError> {
        let head = loop {
            match Head::parse(&self.partial().frame)? {
                Some(head) => break head,
                // A header has at most 14 bytes, and how many is not known before the second.
                None if input.is_empty() => return Ok(None),
                None => self.partial().take_from(input, 1),
            }
        };
        self.admit(&head, max)?;
        let partial = self.partial();
        partial.take_from(input, head.total() - partial.frame.len());
        if partial.frame.len() < head.total() {
            return Ok(None);
        }
        unmask(&mut partial.frame[head.header..], head.key);
        Ok(Some((head, Place::Frame(head.header))))
    }

    /// Checks a frame against what came before and against the limit, before its payload is waited for.
    fn admit(&self, head: &Head, max: usize) -> Result<(), FrameError> {
        if head.opcode.is_control() {
            return Ok(());
        }
        let begun = self.partial.as_ref().filter(|partial| partial.kind.is_some());
        match (head.opcode, begun) {
            (Opcode::Continuation, None) => return Err(FrameError::UnexpectedContinuation),
            (Opcode::Text | Opcode::Binary, Some(_)) => return Err(FrameError::Interleaved),
            _ => {}
        }
        let gathered = begun.map_or(0, |partial| partial.message.len());
        let declared = (head.payload as u64).saturating_add(gathered as u64);
        if declared > max as u64 {
            return Err(FrameError::TooLarge { declared, limit: max });
        }
        Ok(())
    }

    fn partial(&mut self) -> &mut Partial {
        self.partial.get_or_insert_default()
    }
}

impl Partial {
    /// Moves up to `count` bytes of the input to the frame.
    fn take_from(&mut self, input: &mut &mut [u8], count: usize) {
        let input_len = input.len();
        let (taken, rest) = mem::take(input).split_at_mut(count.min(input_len));
        self.frame.extend_from_slice(taken);
        *input = rest;
    }
}

/// A frame's header.
#[derive(Debug, Clone, Copy)]
struct Head {
    fin: bool,
    opcode: Opcode,
    key: [u8; 4],
    /// Bytes of the header, mask included.
    header: usize,
    /// Bytes of the payload.
    payload: usize,
}

impl Head {
    /// Reads a header; `None` while it is cut off. What is wrong is said as early as it is seen.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, FrameError> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(FrameError::ReservedBits);
        }
        let (fin, opcode) = (first & FIN != 0, Opcode::parse(first & 0x0F)?);
        if opcode.is_control() && !fin {
            return Err(FrameError::BadControl);
        }
        let Some(&second) = bytes.get(1) else { return Ok(None) };
        if second & 0x80 == 0 {
            return Err(FrameError::Unmasked);
        }
        let short = usize::from(second & 0x7F);
        if opcode.is_control() && short > CONTROL_MAX {
            return Err(FrameError::BadControl);
        }
        let (length_bytes, least) = match short {
            126 => (2, 126),
            127 => (8, 0x1_0000),
            _ => (0, 0),
        };
        let Some(length) = bytes.get(2..2 + length_bytes) else { return Ok(None) };
        let long = length.iter().fold(0_u64, |sum, &byte| sum << 8 | u64::from(byte));
        let payload = if length_bytes == 0 { short as u64 } else { long };
        if payload < least || payload > i64::MAX as u64 {
            return Err(FrameError::BadLength);
        }
        let Some(&key) = bytes[2 + length_bytes..].first_chunk() else { return Ok(None) };
        // Where a usize is shorter than the length, no limit allows such a payload either.
        let payload = usize::try_from(payload).unwrap_or(usize::MAX);
        Ok(Some(Self { fin, opcode, key, header: 2 + length_bytes + 4, payload }))
    }

    fn total(&self) -> usize {
        self.header.saturating_add(self.payload)
    }
}

/// Applies the mask (RFC 6455 section 5.3), eight bytes at a time.
fn unmask(payload: &mut [u8], key: [u8; 4]) {
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, tail) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

fn event(opcode: Opcode, payload: &[u8]) -> Result<Event<'_>, FrameError> {
    Ok(match opcode {
        Opcode::Text => Event::Text(text(payload)?),
        Opcode::Binary => Event::Binary(payload),
        Opcode::Ping => Event::Ping(payload),
        Opcode::Pong => Event::Pong(payload),
        // A message is known by its first fragment, which is none.
        Opcode::Continuation => return Err(FrameError::UnexpectedContinuation),
        Opcode::Close => Event::Close(match payload.split_first_chunk() {
            Some((code, reason)) => Some((close_code(u16::from_be_bytes(*code))?, text(reason)?)),
            None if payload.is_empty() => None,
            None => return Err(FrameError::BadClose),
        }),
    })
}

fn text(bytes: &[u8]) -> Result<&str, FrameError> {
    std::str::from_utf8(bytes).map_err(|_| FrameError::NotUtf8)
}

/// Codes that may stand in a close frame (RFC 6455 section 7.4 and IANA's registry).
fn close_code(code: u16) -> Result<u16, FrameError> {
    match code {
        1000..=1003 | 1007..=1014 | 3000..=4999 => Ok(code),
        _ => Err(FrameError::BadClose),
    }
}

#[cfg(test)]
mod tests;
