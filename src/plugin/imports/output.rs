//! What a guest writes to its output: lines of the tenant's log.

use super::super::log::Level;
use super::Environment;

/// What an output takes at once, and tells guests that it takes. One that writes more in one go traps, as `wasi:io`
/// has it.
pub(super) const WRITE_BYTES: usize = 4096;
/// Output without an end of line that counts as a line.
const LINE_BYTES: usize = 4096;

/// Which output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// Output that is no whole line yet.
#[derive(Debug, Default)]
pub(super) struct Unsaid(Vec<u8>);

impl Unsaid {
    /// Output becomes lines of the log: where a line ends, where it is too long, and where the instance ends.
    /// Runtimes write a traceback piece by piece.
    pub(super) fn say(&mut self, environment: &Environment, stream: Stream, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        let line_end = self.0.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let end = if self.0.len() - line_end < LINE_BYTES { line_end } else { self.0.len() };
        let rest = self.0.split_off(end);
        log(environment, stream, &std::mem::replace(&mut self.0, rest));
    }

    /// Says what is left.
    pub(super) fn end(&mut self, environment: &Environment, stream: Stream) {
        log(environment, stream, &std::mem::take(&mut self.0));
    }
}

fn log(environment: &Environment, stream: Stream, bytes: &[u8]) {
    let (level, context) = match stream {
        Stream::Stdout => (Level::Info, "stdout"),
        Stream::Stderr => (Level::Warn, "stderr"),
    };
    let text = String::from_utf8_lossy(bytes);
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        environment.log(level, context, line);
    }
}
