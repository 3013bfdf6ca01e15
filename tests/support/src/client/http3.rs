//! As much of HTTP/3 (RFC 9114) and of WebTransport over it as one session takes: written here, because the
//! node is built on `h3`, and what checks it should not be.
//!
//! Only what a client needs is understood: header blocks without the dynamic table (RFC 9204), and of an
//! answer only its status.

use anyhow::{Context as _, Result, bail, ensure};

/// Frame types (RFC 9114 section 7.2).
pub(super) const DATA: u64 = 0x00;
const HEADERS: u64 = 0x01;
const SETTINGS: u64 = 0x04;
/// The type of a control stream (RFC 9114 section 6.2.1).
pub(super) const CONTROL_STREAM: u64 = 0x00;
/// What a bidirectional stream of a WebTransport session begins with (draft-ietf-webtrans-http3 section 4.2).
pub(super) const WEBTRANSPORT_STREAM: u64 = 0x41;
/// The capsule that ends a session (section 5 there).
const CLOSE_SESSION: u64 = 0x2843;

/// Settings: extended CONNECT (RFC 9220), datagrams (RFC 9297), and WebTransport as Chromium wants it.
const ENABLE_CONNECT_PROTOCOL: u64 = 0x08;
const H3_DATAGRAM: u64 = 0x33;
const ENABLE_WEBTRANSPORT: u64 = 0x2b60_3742;

/// Appends a variable-length integer (RFC 9000 section 16).
pub(super) fn put_varint(out: &mut Vec<u8>, value: u64) {
    match value {
        0..=0x3f => out.push(value as u8),
        0x40..=0x3fff => out.extend_from_slice(&(value as u16 | 0x4000).to_be_bytes()),
        0x4000..=0x3fff_ffff => out.extend_from_slice(&(value as u32 | 0x8000_0000).to_be_bytes()),
        _ => out.extend_from_slice(&(value | 0xc000_0000_0000_0000).to_be_bytes()),
    }
}

/// Takes a variable-length integer off the front; `None` while it is not whole.
pub(super) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let length = 1_usize << (bytes.first()? >> 6);
    let (head, rest) = bytes.split_at_checked(length)?;
    let value = head.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
    *bytes = rest;
    // The first two bits told the length.
    Some(value & (u64::MAX >> (66 - 8 * length)))
}

/// Takes type, length and value off the front; `None` while it is not whole. HTTP/3 frames and capsules
/// (RFC 9297 section 3.2) look the same.
pub(super) fn take_tagged(bytes: &mut Vec<u8>) -> Option<(u64, Vec<u8>)> {
    let mut rest = &bytes[..];
    let kind = take_varint(&mut rest)?;
    let length = usize::try_from(take_varint(&mut rest)?).ok()?;
    let value = rest.get(..length)?.to_vec();
    let taken = bytes.len() - rest.len() + length;
    bytes.drain(..taken);
    Some((kind, value))
}

/// Type, length and value.
pub(super) fn tagged(kind: u64, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 16);
    put_varint(&mut out, kind);
    put_varint(&mut out, value.len() as u64);
    out.extend_from_slice(value);
    out
}

/// The beginning of a client's control stream: its type and its settings, as Chromium sends them, one that
/// nobody knows among them (RFC 9114 section 7.2.4.1).
pub(super) fn control_stream() -> Vec<u8> {
    let mut settings = Vec::new();
    for (setting, value) in [(H3_DATAGRAM, 1), (ENABLE_WEBTRANSPORT, 1), (0x1f * 7 + 0x21, 3)] {
        put_varint(&mut settings, setting);
        put_varint(&mut settings, value);
    }
    let mut out = Vec::new();
    put_varint(&mut out, CONTROL_STREAM);
    out.extend(tagged(SETTINGS, &settings));
    out
}

/// Whether a server's SETTINGS frame lets a browser begin a WebTransport session.
pub(super) fn check_settings(kind: u64, mut settings: &[u8]) -> Result<()> {
    ensure!(kind == SETTINGS, "the server's control stream begins with a frame {kind:#x}");
    let mut wanted = vec![ENABLE_CONNECT_PROTOCOL, H3_DATAGRAM, ENABLE_WEBTRANSPORT];
    while !settings.is_empty() {
        let setting = take_varint(&mut settings).context("half a setting")?;
        let value = take_varint(&mut settings).context("a setting without a value")?;
        wanted.retain(|name| !(*name == setting && value == 1));
    }
    ensure!(wanted.is_empty(), "the server's settings do not say {wanted:#x?} = 1");
    Ok(())
}

/// A HEADERS frame with every field written out (RFC 9204 section 4.5.6).
pub(super) fn request(fields: &[(&str, &str)]) -> Vec<u8> {
    // Neither the required insert count nor the base is anything but 0: no dynamic table.
    let mut block = vec![0, 0];
    for (name, value) in fields {
        put_prefixed(&mut block, 0x20, 3, name.len());
        block.extend_from_slice(name.as_bytes());
        put_prefixed(&mut block, 0, 7, value.len());
        block.extend_from_slice(value.as_bytes());
    }
    tagged(HEADERS, &block)
}

/// An integer with a prefix of so many bits (RFC 7541 section 5.1).
fn put_prefixed(out: &mut Vec<u8>, flags: u8, bits: u32, value: usize) {
    let most = (1_usize << bits) - 1;
    if value < most {
        out.push(flags | value as u8);
        return;
    }
    out.push(flags | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// The status of an answer. One that is not written as a number of the static table (RFC 9204 appendix A) is
/// taken to be a refusal nobody foresaw.
pub(super) fn status(kind: u64, block: &[u8]) -> Result<u16> {
    ensure!(kind == HEADERS, "the answer begins with a frame {kind:#x}");
    let first = *block.get(2).context("an answer without fields")?;
    // An indexed field line of the static table: 1, 1, and an index of 6 bits.
    let index = match first {
        0xff => 63 + u16::from(*block.get(3).context("half an index")?),
        0xc0.. => u16::from(first & 0x3f),
        _ => bail!("an answer that does not begin with a known status: {block:02x?}"),
    };
    let known = [
        (24, 103),
        (25, 200),
        (26, 304),
        (27, 404),
        (28, 503),
        (63, 100),
        (64, 204),
        (65, 206),
        (66, 302),
        (67, 400),
        (68, 403),
        (69, 421),
        (70, 425),
        (71, 500),
    ];
    known.iter().find(|(place, _)| *place == index).map(|(_, status)| *status).context("no status")
}

/// The DATA frame with the capsule that closes a session.
pub(super) fn close_session(code: u32, reason: &str) -> Vec<u8> {
    let mut value = code.to_be_bytes().to_vec();
    value.extend_from_slice(reason.as_bytes());
    tagged(DATA, &tagged(CLOSE_SESSION, &value))
}

/// The code and reason of a capsule that closes a session; `None` for capsules of other kinds.
pub(super) fn closed(kind: u64, value: &[u8]) -> Result<Option<(u16, String)>> {
    if kind != CLOSE_SESSION {
        return Ok(None);
    }
    let (code, reason) = value.split_first_chunk().context("a close without a code")?;
    let code = u32::from_be_bytes(*code).try_into().context("a close code of more than 16 bits")?;
    Ok(Some((code, String::from_utf8(reason.to_vec())?)))
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
            assert_eq!(take_varint(&mut &*bytes), Some(value));
            assert_eq!(take_varint(&mut &bytes[..bytes.len() - 1]), None);
            let mut written = Vec::new();
            put_varint(&mut written, value);
            assert_eq!(written, bytes);
        }
    }

    #[test]
    fn tagged_values_are_taken_once_they_are_whole() {
        let mut bytes = tagged(0x2843, b"abc");
        bytes.truncate(5);
        assert_eq!(take_tagged(&mut bytes), None);
        bytes.extend_from_slice(b"cde");
        assert_eq!(take_tagged(&mut bytes), Some((0x2843, b"abc".to_vec())));
        assert_eq!(bytes, b"de");
    }

    #[test]
    fn an_answers_status_is_read() {
        let answer = |block: &[u8]| status(HEADERS, block);
        assert_eq!(answer(&[0, 0, 0xd9]).unwrap(), 200);
        assert_eq!(answer(&[0, 0, 0xff, 0x05]).unwrap(), 403);
        assert!(answer(&[0, 0]).is_err());
        assert!(answer(&[0, 0, 0x5f, 0x09, 0x03, b'4', b'2', b'9']).is_err());
    }
}
