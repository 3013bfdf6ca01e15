//! As much of HTTP/3 (RFC 9114) and of WebTransport over it as a client of a herd takes, byte by byte.

use anyhow::{Result, ensure};

/// Frame types (RFC 9114 section 7.2).
const HEADERS: u64 = 0x01;
const SETTINGS: u64 = 0x04;
/// The type of a control stream (RFC 9114 section 6.2.1).
const CONTROL_STREAM: u8 = 0x00;
/// What a bidirectional stream of the session on stream 0 begins with (draft-ietf-webtrans-http3 section 4.3).
pub const SESSION_STREAM: [u8; 3] = [0x40, 0x41, 0x00];
/// What a datagram of that session begins with.
pub const SESSION_DATAGRAM: u8 = 0x00;

/// Appends a variable-length integer (RFC 9000 section 16) below 2^30.
pub fn put_varint(out: &mut Vec<u8>, value: u64) {
    match value {
        0..=0x3f => out.push(value as u8),
        0x40..=0x3fff => out.extend_from_slice(&(value as u16 | 0x4000).to_be_bytes()),
        _ => out.extend_from_slice(&(value as u32 | 0x8000_0000).to_be_bytes()),
    }
}

/// Takes a variable-length integer off the front; `None` while it is not whole.
pub fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let length = 1_usize << (bytes.first()? >> 6);
    let (head, rest) = bytes.split_at_checked(length)?;
    let value = head.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
    *bytes = rest;
    // The first two bits told the length.
    Some(value & (u64::MAX >> (66 - 8 * length)))
}

/// The beginning of a client's control stream: datagrams (RFC 9297), and WebTransport as Chromium says it.
pub fn control_stream() -> Vec<u8> {
    let mut settings = Vec::new();
    for (setting, value) in [(0x33, 1), (0x2b60_3742, 1)] {
        put_varint(&mut settings, setting);
        put_varint(&mut settings, value);
    }
    let mut out = vec![CONTROL_STREAM];
    put_tagged(&mut out, SETTINGS, &settings);
    out
}

/// The request for a session (RFC 9220), every field written out (RFC 9204 section 4.5.6).
pub fn request(authority: &str) -> Vec<u8> {
    // No dynamic table: neither the required insert count nor the base is anything but 0.
    let mut block = vec![0, 0];
    for (name, value) in [
        (":method", "CONNECT"),
        (":scheme", "https"),
        (":authority", authority),
        (":path", "/v1/demo/wt"),
        (":protocol", "webtransport"),
        ("sec-webtransport-http3-draft02", "1"),
    ] {
        // Prefixes of 3 and 7 bits (RFC 7541 section 5.1); no name or value here is longer than 134 bytes.
        match name.len() as u8 {
            short @ 0..7 => block.push(0x20 | short),
            long => block.extend_from_slice(&[0x27, long - 7]),
        }
        block.extend_from_slice(name.as_bytes());
        block.push(value.len() as u8);
        block.extend_from_slice(value.as_bytes());
    }
    let mut out = Vec::new();
    put_tagged(&mut out, HEADERS, &block);
    out
}

/// Whether a session was granted, once the head of the answer is whole.
pub fn is_granted(mut answer: &[u8]) -> Result<bool> {
    /// 200, as the static table has it (RFC 9204 appendix A).
    const OK: u8 = 0xc0 | 25;
    let (Some(kind), Some(length)) = (take_varint(&mut answer), take_varint(&mut answer)) else {
        return Ok(false);
    };
    let Some(block) = answer.get(..length as usize) else { return Ok(false) };
    ensure!(kind == HEADERS && block.get(2) == Some(&OK), "the node refuses a session: {block:02x?}");
    Ok(true)
}

fn put_tagged(out: &mut Vec<u8>, kind: u64, value: &[u8]) {
    put_varint(out, kind);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}
