//! The settings by which a server says that it speaks WebTransport. Each draft has its own; h3 writes those
//! of the second draft, which Chromium wants.

use bytes::Bytes;

use super::varint;

/// `SETTINGS_WEBTRANSPORT_MAX_SESSIONS` of drafts 7 to 12 of draft-ietf-webtrans-http3.
const MAX_SESSIONS_07: u64 = 0xc671_706a;

/// `SETTINGS_WT_MAX_SESSIONS` of drafts 13 and 14.
const MAX_SESSIONS_13: u64 = 0x14e9_cd29;

/// A connection carries one session.
const SESSIONS: u64 = 1;

/// The stream's type and the type of its first frame (RFC 9114 sections 6.2.1 and 7.2.4).
const BEGINNING: [u8; 2] = [0x00, 0x04];

/// Adds the settings of the later drafts to the beginning of the stream for control. What is no beginning
/// of such a stream stays as it is.
pub(super) fn complete(beginning: Bytes) -> Bytes {
    let Some(frame) = beginning.strip_prefix(&BEGINNING) else { return beginning };
    let Some((length, header)) = varint::read(frame) else { return beginning };
    let settings = &frame[header..];
    if length != settings.len() as u64 {
        return beginning;
    }
    let mut all = settings.to_vec();
    for id in [MAX_SESSIONS_07, MAX_SESSIONS_13] {
        all.extend_from_slice(varint::Encoded::new(id).as_bytes());
        all.extend_from_slice(varint::Encoded::new(SESSIONS).as_bytes());
    }
    let mut out = BEGINNING.to_vec();
    out.extend_from_slice(varint::Encoded::new(all.len() as u64).as_bytes());
    out.extend_from_slice(&all);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_drafts_find_their_settings_behind_the_others() {
        let all = complete(Bytes::from_static(&[0x00, 0x04, 0x02, 0x08, 0x01]));
        assert_eq!(
            &all[..],
            b"\x00\x04\x10\x08\x01\xc0\x00\x00\x00\xc6\x71\x70\x6a\x01\x94\xe9\xcd\x29\x01".as_slice()
        );
    }

    #[test]
    fn anything_else_stays_as_it_is() {
        for other in [&b""[..], b"\x00", b"\x02", b"\x00\x04", b"\x00\x04\x40", b"\x00\x04\x05\x08\x01"] {
            assert_eq!(complete(Bytes::copy_from_slice(other)), other);
        }
    }
}
