//! NDJSON: one frame a line, for programs.

/// An empty line, which readers of NDJSON pass over.
pub const HEARTBEAT: &[u8] = b"\n";

/// Appends one line. JSON as the codec writes it has no line breaks of its own.
pub fn line(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    write(out);
    out.push(b'\n');
}
