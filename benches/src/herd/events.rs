//! As much of an answer with server-sent events as a client of a herd takes.

use anyhow::{Context as _, Result};

/// Where a body stands, in chunks (RFC 9112 section 7.1).
#[derive(Default)]
pub struct Body {
    /// Bytes of the chunk that are to come, and of the line end after it.
    chunk: usize,
    /// The beginning of a line whose end is to come.
    line: Vec<u8>,
}

const LINE_END: usize = 2;

impl Body {
    /// Takes bytes of the body and hands out each frame; how many bytes were taken.
    pub fn take(&mut self, bytes: &[u8], mut frame: impl FnMut(&[u8]) -> Result<()>) -> Result<usize> {
        let mut rest = bytes;
        loop {
            if self.chunk == 0 {
                let Some(end) = rest.windows(LINE_END).position(|two| two == b"\r\n") else { break };
                let size = std::str::from_utf8(&rest[..end])?;
                let size =
                    usize::from_str_radix(size, 16).with_context(|| format!("a chunk of {size:?} bytes"))?;
                anyhow::ensure!(size > 0, "the node ended the stream");
                self.chunk = size + LINE_END;
                rest = &rest[end + LINE_END..];
            }
            // The line end after a chunk is taken at once.
            if rest.len() < self.chunk.min(LINE_END + 1) {
                break;
            }
            let count = rest.len().min(self.chunk);
            let of_data = count.min(self.chunk - LINE_END);
            self.lines(&rest[..of_data], &mut frame)?;
            let taken = if count == self.chunk { count } else { of_data };
            self.chunk -= taken;
            rest = &rest[taken..];
        }
        Ok(bytes.len() - rest.len())
    }

    fn lines(&mut self, data: &[u8], frame: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut parts = data.split(|byte| *byte == b'\n').peekable();
        while let Some(part) = parts.next() {
            self.line.extend_from_slice(part);
            if parts.peek().is_some() {
                if let Some(text) = self.line.strip_prefix(b"data: ") {
                    frame(text)?;
                }
                self.line.clear();
            }
        }
        Ok(())
    }
}
