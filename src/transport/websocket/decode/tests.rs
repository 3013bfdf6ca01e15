use std::io::{Cursor, Read, Write};

use proptest::prelude::*;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocket};

use super::*;

/// An event that owns its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Owned {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

impl From<Event<'_>> for Owned {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Text(text) => Self::Text(text.to_owned()),
            Event::Binary(bytes) => Self::Binary(bytes.to_vec()),
            Event::Ping(bytes) => Self::Ping(bytes.to_vec()),
            Event::Pong(bytes) => Self::Pong(bytes.to_vec()),
            Event::Close(close) => Self::Close(close.map(|(code, reason)| (code, reason.to_owned()))),
        }
    }
}

/// Feeds `bytes` in pieces that end at `cuts`; the events and how it ended.
fn decode(bytes: &[u8], cuts: &[usize], max: usize) -> (Vec<Owned>, Result<(), FrameError>, Decoder) {
    let mut bytes = bytes.to_vec();
    let mut decoder = Decoder::default();
    let mut events = Vec::new();
    let mut rest = &mut bytes[..];
    let mut at = 0;
    for &cut in cuts.iter().chain([&usize::MAX]) {
        let (mut piece, later) = rest.split_at_mut(cut.saturating_sub(at).min(rest.len()));
        at += piece.len();
        rest = later;
        loop {
            match decoder.next(&mut piece, max) {
                Ok(Some(event)) => events.push(event.into()),
                Ok(None) => break,
                Err(error) => return (events, Err(error), decoder),
            }
        }
        assert!(piece.is_empty(), "None says that all of the input was taken");
    }
    (events, Ok(()), decoder)
}

/// A client frame, masked with a fixed key.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let key = [0x12, 0xFE, 0x80, 0x07];
    let mut out = vec![first];
    match payload.len() {
        length @ 0..126 => out.push(0x80 | length as u8),
        length @ 126..0x1_0000 => {
            out.push(0x80 | 126);
            out.extend((length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend((length as u64).to_be_bytes());
        }
    }
    out.extend(key);
    out.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    out
}

fn error_of(bytes: &[u8]) -> FrameError {
    let (_, ended, decoder) = decode(bytes, &[], 1_000);
    assert!(decoder.partial.is_none());
    ended.unwrap_err()
}

#[test]
fn an_idle_decoder_is_tiny() {
    assert!(size_of::<Decoder>() <= 16, "{}", size_of::<Decoder>());
}

#[test]
fn memory_is_given_back_once_everything_was_handed_out() {
    let bytes =
        [frame(0x01, b"frag"), frame(0x89, b"ping"), frame(0x80, b"mented"), frame(0x82, &[1; 300])].concat();
    for cut in 0..bytes.len() {
        let (events, ended, decoder) = decode(&bytes, &[cut], 1_000);
        assert_eq!((events.len(), ended), (3, Ok(())));
        assert!(decoder.partial.is_none(), "{cut}");
    }
}

#[test]
fn a_whole_frame_is_handed_out_of_the_input() {
    let mut bytes = frame(0x81, b"no copy");
    let range = bytes.as_ptr_range();
    let mut input = &mut bytes[..];
    let mut decoder = Decoder::default();
    let Ok(Some(Event::Text(text))) = decoder.next(&mut input, 100) else { panic!() };
    assert!(range.contains(&text.as_ptr()));
    assert!(decoder.partial.is_none());
}

#[test]
fn control_frames_pass_between_fragments() {
    let bytes = [
        frame(0x01, "h\u{e9}".as_bytes().split_at(2).0),
        frame(0x89, b"?"),
        frame(0x00, &[0xA9]),
        frame(0x80, b"!"),
    ]
    .concat();
    let expected = [Owned::Ping(b"?".to_vec()), Owned::Text("h\u{e9}!".into())];
    for cut in 0..bytes.len() {
        assert_eq!(decode(&bytes, &[cut], 100).0, expected);
    }
}

#[test]
fn what_breaks_the_protocol_is_refused() {
    assert_eq!(error_of(&[0x81, 0x01, b'x']), FrameError::Unmasked);
    assert_eq!(error_of(&[0xC1]), FrameError::ReservedBits);
    assert_eq!(error_of(&[0x83]), FrameError::ReservedOpcode(3));
    assert_eq!(error_of(&[0x8B]), FrameError::ReservedOpcode(0xB));
    assert_eq!(error_of(&[0x09]), FrameError::BadControl);
    assert_eq!(error_of(&[0x89, 0xFE]), FrameError::BadControl);
    assert_eq!(error_of(&frame(0x80, b"")), FrameError::UnexpectedContinuation);
    assert_eq!(error_of(&[frame(0x01, b"a"), frame(0x81, b"b")].concat()), FrameError::Interleaved);
    assert_eq!(error_of(&[0x82, 0xFE, 0, 125]), FrameError::BadLength);
    assert_eq!(error_of(&[0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF]), FrameError::BadLength);
    assert_eq!(error_of(&[0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0]), FrameError::BadLength);
    assert_eq!(error_of(&frame(0x81, &[0xFF])), FrameError::NotUtf8);
    assert_eq!(error_of(&frame(0x88, &[3])), FrameError::BadClose);
    assert_eq!(error_of(&frame(0x88, &[0x03, 0xED])), FrameError::BadClose);
    assert_eq!(error_of(&frame(0x88, &[0x03, 0xE8, 0xFF])), FrameError::NotUtf8);
}

#[test]
fn too_much_is_refused_by_the_header_alone() {
    let mut bytes = frame(0x82, &[0; 200]);
    bytes.truncate(8);
    assert_eq!(decode(&bytes, &[], 199).1, Err(FrameError::TooLarge { declared: 200, limit: 199 }));
    assert_eq!(decode(&bytes, &[], 200).1, Ok(()));
    let huge = [0x82, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3, 4];
    assert!(matches!(decode(&huge, &[3], 1 << 30).1, Err(FrameError::TooLarge { .. })));
    let fragments = [frame(0x02, &[0; 60]), frame(0x00, &[0; 60])].concat();
    assert_eq!(decode(&fragments, &[], 119).1, Err(FrameError::TooLarge { declared: 120, limit: 119 }));
}

#[test]
fn a_declared_length_reserves_nothing() {
    let mut bytes = frame(0x82, &vec![0; 1 << 20]);
    bytes.truncate(100);
    let (_, _, decoder) = decode(&bytes, &[7], 1 << 21);
    let partial = decoder.partial.unwrap();
    assert!(partial.frame.capacity() <= 200, "{}", partial.frame.capacity());
}

#[test]
fn nothing_is_read_after_a_close() {
    let bytes = [frame(0x88, &[0x03, 0xE8, b'b', b'y', b'e']), frame(0x81, b"late"), vec![0xFF]].concat();
    for cut in 0..bytes.len() {
        let (events, ended, _) = decode(&bytes, &[cut], 100);
        assert_eq!(events, [Owned::Close(Some((1000, "bye".into())))]);
        assert_eq!(ended, Ok(()));
    }
    assert_eq!(decode(&frame(0x88, b""), &[], 100).0, [Owned::Close(None)]);
}

/// Collects what tungstenite's client writes.
struct Sink(Vec<u8>);

impl Read for Sink {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        Cursor::new([]).read(into)
    }
}

impl Write for Sink {
    fn write(&mut self, from: &[u8]) -> std::io::Result<usize> {
        self.0.write(from)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn any_event() -> impl Strategy<Value = Owned> {
    let small = prop::collection::vec(any::<u8>(), 0..=125);
    prop_oneof![
        ".{0,200}".prop_map(Owned::Text),
        prop::collection::vec(any::<u8>(), 0..400).prop_map(Owned::Binary),
        prop::collection::vec(any::<u8>(), 65_530..65_545).prop_map(Owned::Binary),
        small.clone().prop_map(Owned::Ping),
        small.prop_map(Owned::Pong),
    ]
}

/// A message as tungstenite has it.
fn peer_message(event: &Owned) -> Message {
    match event.clone() {
        Owned::Text(text) => Message::text(text),
        Owned::Binary(bytes) => Message::binary(bytes),
        Owned::Ping(bytes) => Message::Ping(bytes.into()),
        Owned::Pong(bytes) => Message::Pong(bytes.into()),
        Owned::Close(close) => Message::Close(
            close.map(|(code, reason)| CloseFrame { code: CloseCode::from(code), reason: reason.into() }),
        ),
    }
}

/// Text or bytes in fragments, with control frames between them.
fn fragmented(text: &str, cuts: &[usize], ping: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    for (index, cut) in cuts.iter().enumerate() {
        let (piece, later) = rest.split_at(*cut % (rest.len() + 1));
        out.extend(frame(if index == 0 { 0x01 } else { 0x00 }, piece));
        out.extend(frame(0x89, ping));
        rest = later;
    }
    out.extend(frame(if cuts.is_empty() { 0x81 } else { 0x80 }, rest));
    out
}

proptest! {
    #[test]
    fn what_the_peer_writes_is_what_is_read(
        mut events in prop::collection::vec(any_event(), 0..6),
        close in prop::option::of((3000_u16..5000, "[a-z]{0,100}")),
        mut cuts in prop::collection::vec(0_usize..140_000, 0..8),
    ) {
        events.push(Owned::Close(close));
        let mut peer = WebSocket::from_raw_socket(Sink(Vec::new()), Role::Client, None);
        for event in &events {
            // A client may hold pongs back; writing and flushing one by one keeps the order.
            peer.send(peer_message(event)).unwrap();
        }
        cuts.sort_unstable();
        let (read, ended, _) = decode(&peer.get_ref().0, &cuts, 1 << 20);
        prop_assert_eq!(ended, Ok(()));
        prop_assert_eq!(read, events);
    }

    #[test]
    fn a_split_changes_nothing(
        text in ".{0,60}",
        fragments in prop::collection::vec(any::<usize>(), 0..4),
        ping in prop::collection::vec(any::<u8>(), 0..20),
        mut cuts in prop::collection::vec(0_usize..400, 0..12),
    ) {
        let bytes = fragmented(&text, &fragments, &ping);
        cuts.sort_unstable();
        let (whole, ended, _) = decode(&bytes, &[], 1_000);
        prop_assert_eq!(ended, Ok(()));
        prop_assert_eq!(whole.last(), Some(&Owned::Text(text)));
        let (split, ended, decoder) = decode(&bytes, &cuts, 1_000);
        prop_assert_eq!(ended, Ok(()));
        prop_assert_eq!(split, whole);
        prop_assert!(decoder.partial.is_none());
    }

    #[test]
    fn any_bytes_are_read_or_refused_the_same_however_they_are_split(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(0x81), Just(0x80), Just(0x00), Just(0x88)], 0..200),
        mut cuts in prop::collection::vec(0_usize..200, 0..12),
    ) {
        cuts.sort_unstable();
        let (whole, ended, _) = decode(&bytes, &[], 64);
        let (split, ended_split, _) = decode(&bytes, &cuts, 64);
        prop_assert_eq!(split, whole);
        prop_assert_eq!(ended_split, ended);
    }

    #[test]
    fn unmasking_is_the_masks_definition(
        bytes in prop::collection::vec(any::<u8>(), 0..100),
        key: [u8; 4],
    ) {
        let expected: Vec<u8> = bytes.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        let mut unmasked = bytes;
        unmask(&mut unmasked, key);
        prop_assert_eq!(unmasked, expected);
    }
}
