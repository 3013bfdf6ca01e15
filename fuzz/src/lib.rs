//! What each decoder promises of any input: one function a fuzz target. The fuzzer calls them with what
//! it invents, and `tests/promises/corpora.rs` with the inputs that it found and that are kept.

use bytes::{Buf as _, Bytes, BytesMut};
use tidegate::api::publish::{PublishError, PublishLimits, PublishRequest};
use tidegate::backbone::resp::{Limits, RequestDecoder, Scanner};
use tidegate::domain::{ChannelName, Offset, Publication, RawEntry};
use tidegate::protocol::{ClientFrame, Codec, Payload, ServerFrame, encode_message};
use tidegate::transport::websocket::{Decoder, Event};
use tidegate::transport::webtransport::frames::{self, StreamDecoder};
use tidegate::transport::webtransport::{CapsuleDecoder, close_session};

/// A client's frame in JSON.
pub fn json_frame(input: &[u8]) {
    frame(Codec::Json, input);
}

/// A client's frame in CBOR.
pub fn cbor_frame(input: &[u8]) {
    frame(Codec::Cbor, input);
}

/// A frame is understood or refused in words that can be sent back; a payload that is taken is a message
/// that both codecs can write.
fn frame(codec: Codec, input: &[u8]) {
    match codec.decode(input) {
        Ok(ClientFrame::Publish { payload, .. } | ClientFrame::Send { payload, .. }) => {
            let Payload { data, json_scalar } = payload;
            let headers = json_scalar.then(|| vec![("content-type".into(), "application/json".into())]);
            can_be_written(&Publication { data, headers, ..Publication::default() });
        }
        Ok(_) => {}
        Err(bad) => {
            assert!(!bad.message.is_empty());
            let code = tidegate::protocol::ErrorCode::BadRequest;
            parses(&ServerFrame::Error { id: bad.id, code, message: bad.message });
        }
    }
}

/// An entry as anybody may add it: it is a message or it is not. A message survives being written again,
/// and both codecs can write it.
pub fn stream_entry(input: &[u8]) {
    let entry = RawEntry::new(Offset { ms: 1_763_769_600_000, seq: 7 }, pairs(input));
    let Ok(message) = Publication::from_entry(&entry, 64 * 1024) else { return };
    can_be_written(&message);
    let again = RawEntry::new(entry.offset, message.clone().into_fields());
    assert_eq!(Publication::from_entry(&again, 64 * 1024).as_ref(), Ok(&message));
}

/// Fields out of any bytes: lines `name=value`, where a name is one of those that are known or itself.
fn pairs(input: &[u8]) -> Vec<(Bytes, Bytes)> {
    const NAMES: [&str; 10] =
        ["data", "headers", "id", "key", "ttl_ms", "spread_ms", "user", "session", "in", "traceparent"];
    let pair = |line: &[u8]| {
        let (name, value) = line.split_at_checked(line.iter().position(|byte| *byte == b'=')?)?;
        let known = name.first().filter(|_| name.len() == 1).and_then(|byte| {
            let digit = char::from(*byte).to_digit(10)?;
            NAMES.get(digit as usize)
        });
        let name =
            known.map_or_else(|| Bytes::copy_from_slice(name), |name| Bytes::from_static(name.as_bytes()));
        Some((name, Bytes::copy_from_slice(&value[1..])))
    };
    input.split(|byte| *byte == b'\n').filter_map(pair).collect()
}

/// Requests of a Redis client: the same ones, or the same error, however the bytes are cut.
pub fn resp_request(input: &[u8]) {
    let decode = |decoder: &mut RequestDecoder, bytes: &mut BytesMut| decoder.decode(bytes);
    same_when_cut(input, || RequestDecoder::new(LIMITS), decode);
}

/// Replies of a Redis server, which may be anything that listens on its port.
pub fn resp_reply(input: &[u8]) {
    let scan = |scanner: &mut Scanner, bytes: &mut BytesMut| {
        let mut rest = &bytes[..];
        // Told apart by what it shows, because it borrows from the input.
        let token =
            scanner.next(&mut rest, LIMITS.max_bulk).map(|token| token.map(|token| format!("{token:?}")));
        let taken = bytes.len() - rest.len();
        bytes.advance(taken);
        token
    };
    same_when_cut(input, Scanner::default, scan);
}

const LIMITS: Limits = Limits { max_bulk: 4_096, max_items: 64, max_bytes: 16_384 };

/// What `decode` finds in all of the input must be what it finds byte by byte.
fn same_when_cut<D, T: PartialEq + std::fmt::Debug, E: PartialEq + std::fmt::Debug>(
    input: &[u8],
    decoder: impl Fn() -> D,
    decode: impl Fn(&mut D, &mut BytesMut) -> Result<Option<T>, E>,
) {
    let found = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let (mut decoder, mut bytes, mut found) = (decoder(), BytesMut::new(), Vec::new());
        for piece in pieces {
            bytes.extend_from_slice(piece);
            loop {
                match decode(&mut decoder, &mut bytes) {
                    Ok(Some(value)) => found.push(value),
                    Ok(None) => break,
                    Err(error) => return (found, Some(error)),
                }
            }
        }
        (found, None)
    };
    assert_eq!(found(&mut std::iter::once(input)), found(&mut input.chunks(1)));
}

/// A body for `POST /v1/<tenant>/publish`.
pub fn publish_body(input: &[u8]) {
    refused_in_words(PublishRequest::parse(input, &publish_limits()));
}

/// A request that publishes CloudEvents: lines of headers, an empty line, and a body.
pub fn cloudevents(input: &[u8]) {
    let mut request = http::Request::builder().uri("/v1/demo/publish?channel=room:1");
    let mut rest = input;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let (line, after) = (&rest[..end], &rest[end + 1..]);
        rest = after;
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { break };
        request = request.header(&line[..colon], line[colon + 1..].trim_ascii());
    }
    let Ok(request) = request.body(()) else { return };
    let body = Bytes::copy_from_slice(rest);
    refused_in_words(PublishRequest::from_http(&request.into_parts().0, body, &publish_limits()));
}

fn publish_limits() -> PublishLimits {
    PublishLimits::of(&tidegate::domain::Limits::default())
}

fn refused_in_words(outcome: Result<PublishRequest, PublishError>) {
    if let Err(error) = outcome {
        assert!(!error.to_string().is_empty() && error.status().is_client_error());
    }
}

/// What a client sends after its handshake: the same events, or the same error, however it is cut.
pub fn websocket(input: &[u8]) {
    let events = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let (mut decoder, mut events) = (Decoder::default(), Vec::new());
        for piece in pieces {
            let mut bytes = piece.to_vec();
            let mut rest = &mut bytes[..];
            loop {
                match decoder.next(&mut rest, 1_024) {
                    Ok(None) => break,
                    Ok(Some(event)) => events.push(told(&event)),
                    Err(error) => {
                        events.push(error.to_string());
                        return events;
                    }
                }
            }
        }
        events
    };
    assert_eq!(events(&mut std::iter::once(input)), events(&mut input.chunks(1)));
}

fn told(event: &Event<'_>) -> String {
    format!("{event:?}")
}

/// What a client sends on its stream of WebTransport: the same frames, or the same error, however it is cut.
/// Written again they are frames that are read the same.
pub fn stream_frames(input: &[u8]) {
    let decode = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let (mut decoder, mut found, mut error) = (StreamDecoder::default(), Vec::new(), None);
        for piece in pieces {
            let mut bytes = piece.to_vec();
            let mut rest = &mut bytes[..];
            loop {
                match decoder.next(&mut rest, 1_024) {
                    Ok(None) => break,
                    Ok(Some(frame)) => found.push(frame.to_vec()),
                    Err(refused) => error = Some(refused),
                }
            }
            assert!(rest.is_empty());
        }
        (found, error)
    };
    let (found, error) = decode(&mut std::iter::once(input));
    assert_eq!(decode(&mut input.chunks(1)), (found.clone(), error));
    assert!(found.iter().all(|frame| frame.len() <= 1_024));
    let mut again = Vec::new();
    found.iter().for_each(|frame| frames::frame(&mut again, |out| out.extend_from_slice(frame)));
    assert_eq!(decode(&mut std::iter::once(&again[..])), (found, None));
}

/// Capsules beside a session: the same close, or the same error, however they are cut. A close that is
/// written again is read the same.
pub fn capsules(input: &[u8]) {
    let decode = |input: &[u8], piece: usize| {
        let mut decoder = CapsuleDecoder::default();
        input.chunks(piece).find_map(|piece| decoder.feed(piece).transpose())
    };
    let found = decode(input, usize::MAX);
    assert_eq!(decode(input, 1), found);
    if let Some(Ok(close)) = found {
        let again = close_session(close.code, &close.reason);
        assert_eq!(decode(&again, usize::MAX), Some(Ok(close)));
    }
}

/// Both codecs write the message so that any reader of theirs understands it.
fn can_be_written(message: &Publication) {
    let channel = ChannelName::parse("room:1").expect("the name is valid");
    let mut out = Vec::new();
    encode_message(Codec::Json, &channel, message, 1, &mut out);
    reads_as_json(&out);
    out.clear();
    encode_message(Codec::Cbor, &channel, message, 1, &mut out);
    reads_as_cbor(&out);
}

fn parses(frame: &ServerFrame) {
    let mut out = Vec::new();
    Codec::Json.encode(frame, &mut out);
    reads_as_json(&out);
    out.clear();
    Codec::Cbor.encode(frame, &mut out);
    reads_as_cbor(&out);
}

fn reads_as_json(bytes: &[u8]) {
    let value: Result<serde_json::Value, _> = serde_json::from_slice(bytes);
    assert!(value.is_ok(), "{:?}: {}", value, String::from_utf8_lossy(bytes));
}

fn reads_as_cbor(bytes: &[u8]) {
    let value: Result<ciborium::Value, _> = ciborium::from_reader(bytes);
    assert!(value.is_ok(), "{value:?}: {bytes:?}");
}
