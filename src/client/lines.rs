//! Bytes of a streamed body to lines, and lines to events (WHATWG HTML, section 9.2.6).

use std::mem;

use super::ClientError;
use super::codec::MAX_FRAME;

/// Cuts a body into lines, which end in CR, LF or both. Holds at most one line of the largest frame's size.
#[derive(Debug, Default)]
pub(super) struct Lines {
    line: Vec<u8>,
    /// The last line ended in CR: a LF right after it belongs to its end.
    after_cr: bool,
    has_begun: bool,
}

impl Lines {
    /// Takes `bytes` and hands each line that they complete to `take`, without its end.
    pub(super) fn feed(
        &mut self,
        mut bytes: &[u8],
        mut take: impl FnMut(String) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        loop {
            if mem::take(&mut self.after_cr) {
                bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
            }
            let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else { break };
            self.keep(&bytes[..end])?;
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            take(self.whole()?)?;
            if bytes.is_empty() {
                // Whether a LF follows is told by what comes next.
                return Ok(());
            }
        }
        self.keep(bytes)
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        // Room for the name of the field before the frame.
        if self.line.len() + bytes.len() > MAX_FRAME + 64 {
            return Err(ClientError::Protocol(format!("a line of more than {MAX_FRAME} bytes")));
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn whole(&mut self) -> Result<String, ClientError> {
        let line = String::from_utf8(mem::take(&mut self.line))
            .map_err(|_| ClientError::Protocol("a line that is not UTF-8".into()))?;
        // One byte order mark may stand before everything.
        let is_first = !mem::replace(&mut self.has_begun, true);
        match line.strip_prefix('\u{feff}') {
            Some(rest) if is_first => Ok(rest.to_owned()),
            _ => Ok(line),
        }
    }
}

/// The event that is being told. Only its data is of use here: frames name their own type, and positions are kept
/// by channel and not as the last event's id.
#[derive(Debug, Default)]
pub(super) struct EventLines {
    data: Option<String>,
}

/// What a line of an event stream came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// The event is not whole yet, or had nothing to say.
    Nothing,
    /// A comment.
    Comment,
    /// The data of an event.
    Data(String),
}

impl EventLines {
    /// Takes a line.
    pub(super) fn take(&mut self, line: &str) -> Result<Told, ClientError> {
        if line.is_empty() {
            return Ok(self.data.take().map_or(Told::Nothing, Told::Data));
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => return Ok(Told::Comment),
            "data" => match &mut self.data {
                None => self.data = Some(value.to_owned()),
                Some(data) if data.len() + value.len() >= MAX_FRAME => {
                    return Err(ClientError::Protocol(format!("an event of more than {MAX_FRAME} bytes")));
                }
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
            },
            _ => {}
        }
        Ok(Told::Nothing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a stream tells, cut into pieces of `size` bytes.
    fn told(stream: &[u8], size: usize) -> Result<Vec<Told>, ClientError> {
        let (mut lines, mut event, mut all) = (Lines::default(), EventLines::default(), Vec::new());
        for piece in stream.chunks(size) {
            lines.feed(piece, |line| {
                match event.take(&line)? {
                    Told::Nothing => {}
                    something => all.push(something),
                }
                Ok(())
            })?;
        }
        Ok(all)
    }

    #[test]
    fn streams_are_read_as_the_standard_says() {
        let data = |text: &str| Told::Data(text.into());
        for (stream, expected) in [
            ("data: a\n\n", vec![data("a")]),
            ("\u{feff}data: a\r\n\r\ndata: b\r\rdata:c\n\n", vec![data("a"), data("b"), data("c")]),
            ("event: message\nid: 1\ndata: {\ndata:  }\n\n", vec![data("{\n }")]),
            (":\n\n: hello\r\n\r\ndata\n\n", vec![Told::Comment, Told::Comment, data("")]),
            ("event: none\n\nretry: 5\nnonsense\ndata: x\n\n", vec![data("x")]),
            ("data: cut off\n", vec![]),
            ("data: a\n\n\u{feff}data: b\n\n", vec![data("a")]),
        ] {
            for size in 1..=stream.len() {
                assert_eq!(told(stream.as_bytes(), size).unwrap(), expected, "{stream:?} by {size}");
            }
        }
    }

    #[test]
    fn what_has_no_end_is_refused() {
        let line = vec![b'x'; MAX_FRAME / 4];
        let mut lines = Lines::default();
        let outcome = (0..6).try_for_each(|_| lines.feed(&line, |_| Ok(())));
        assert!(outcome.is_err());
        let mut event = EventLines::default();
        let part = format!("data:{}", "x".repeat(MAX_FRAME / 4));
        assert!((0..6).try_for_each(|_| event.take(&part).map(drop)).is_err());
        assert!(told(b"data: \xff\n\n", 3).is_err());
    }
}
