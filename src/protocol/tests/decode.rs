//! What clients send.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::*;
use super::{channel, offset};
use crate::domain::{DeviceId, Epoch};

/// A CBOR frame with the same fields.
fn cbor(frame: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    ciborium::into_writer(frame, &mut out).unwrap();
    out
}

fn plain(text: &'static str) -> Payload {
    Payload { data: Bytes::from(text), json_scalar: false }
}

#[allow(clippy::too_many_lines, reason = "a table")]
pub(super) fn client_frames() -> Vec<(Value, ClientFrame)> {
    let room = || channel("room:1");
    let epoch = Epoch(0xab);
    vec![
        (json!({"type": "connect"}), ClientFrame::Connect(Connect::default())),
        (
            json!({"type": "connect", "token": "t", "resume": "r", "device": "d 1", "ping_ms": 9000, "subs": [
                {"channel": "room:1"},
                {"channel": "room:1", "offset": "5-7", "epoch": "00000000000000ab", "ack": true, "window": 3},
            ]}),
            ClientFrame::Connect(Connect {
                token: Some("t".into()),
                resume: Some("r".into()),
                device: Some(DeviceId::parse("d 1").unwrap()),
                ping_ms: Some(9000),
                subs: vec![
                    Subscribe { channel: room(), offset: None, epoch: None, ack: false, window: None },
                    Subscribe {
                        channel: room(),
                        offset: Some(offset("5-7")),
                        epoch: Some(epoch),
                        ack: true,
                        window: Some(3),
                    },
                ],
            }),
        ),
        (
            json!({"type": "subscribe", "id": 1, "channel": "room:1", "offset": null, "ack": false}),
            ClientFrame::Subscribe {
                id: 1,
                subscribe: Subscribe { channel: room(), offset: None, epoch: None, ack: false, window: None },
            },
        ),
        (
            json!({"type": "unsubscribe", "id": 2, "channel": "room:1", "unknown": {"a": [1, {}]}}),
            ClientFrame::Unsubscribe { id: 2, channel: room() },
        ),
        (
            json!({"type": "publish", "id": 3, "channel": "room:1", "data": "hi ☺\n"}),
            ClientFrame::Publish {
                id: 3,
                channel: room(),
                payload: plain("hi ☺\n"),
                key: None,
                msg_id: None,
            },
        ),
        (
            json!({"type": "publish", "id": 3, "channel": "room:1", "data": "", "key": "k", "msg_id": "m\"1"}),
            ClientFrame::Publish {
                id: 3,
                channel: room(),
                payload: plain(""),
                key: Some("k".into()),
                msg_id: Some("m\"1".into()),
            },
        ),
        (
            json!({"type": "send", "id": u64::MAX, "data": "x", "topic": "orders"}),
            ClientFrame::Send { id: u64::MAX, payload: plain("x"), topic: Some("orders".into()) },
        ),
        (
            json!({"type": "ack", "channel": "room:1", "offset": "5-7"}),
            ClientFrame::Ack { channel: room(), offset: offset("5-7") },
        ),
        (
            json!({"type": "nack", "channel": "room:1", "offset": "5-7"}),
            ClientFrame::Nack { channel: room(), offset: offset("5-7"), delay_ms: 0 },
        ),
        (
            json!({"type": "nack", "channel": "room:1", "offset": "5-7", "delay_ms": 300}),
            ClientFrame::Nack { channel: room(), offset: offset("5-7"), delay_ms: 300 },
        ),
        (
            json!({"type": "history", "id": 4, "channel": "room:1", "limit": 10, "before": "9-0"}),
            ClientFrame::History {
                id: 4,
                channel: room(),
                limit: 10,
                before: Some(offset("9-0")),
                after: None,
            },
        ),
        (
            json!({"type": "history", "id": 4, "channel": "room:1", "limit": 10, "after": "9-0"}),
            ClientFrame::History {
                id: 4,
                channel: room(),
                limit: 10,
                before: None,
                after: Some(offset("9-0")),
            },
        ),
        (
            json!({"type": "presence", "id": 5, "channel": "room:1"}),
            ClientFrame::Presence { id: 5, channel: room() },
        ),
        (
            json!({"type": "refresh", "id": 6, "token": "t"}),
            ClientFrame::Refresh { id: 6, token: "t".into() },
        ),
        (json!({"type": "ping", "id": "ignored"}), ClientFrame::Ping),
    ]
}

#[test]
fn every_client_frame_is_understood_in_both_codecs() {
    for (frame, expected) in client_frames() {
        assert_eq!(Codec::Json.decode(frame.to_string().as_bytes()).as_ref(), Ok(&expected), "{frame}");
        let pretty = format!("\n{} ", serde_json::to_string_pretty(&frame).unwrap());
        assert_eq!(Codec::Json.decode(pretty.as_bytes()).as_ref(), Ok(&expected), "{frame}");
        assert_eq!(Codec::Cbor.decode(&cbor(&frame)).as_ref(), Ok(&expected), "{frame}");
    }
}

#[test]
fn a_frame_cut_short_is_refused_and_keeps_the_id_once_read() {
    let frame = br#"{"id":7,"type":"subscribe","channel":"room:1"}"#;
    for end in 0..frame.len() {
        let error = Codec::Json.decode(&frame[..end]).unwrap_err();
        assert_eq!(error.id, (end >= 7).then_some(7), "{error}");
    }
    let frame = cbor(&json!({"id": 7, "type": "subscribe", "channel": "room:1"}));
    for end in 0..frame.len() {
        // The keys stand in alphabetical order: channel, id, type.
        let error = Codec::Cbor.decode(&frame[..end]).unwrap_err();
        let read = end > frame.iter().position(|byte| *byte == 7).unwrap();
        assert_eq!(error.id, read.then_some(7), "{error}");
    }
}

/// Frames that both codecs refuse, with the request they name and what is said.
const BAD: &[(&str, Option<u64>, &str)] = &[
    (
        "{}",
        None,
        "a frame needs `type`: one of connect, subscribe, unsubscribe, publish, send, ack, nack, history, presence, refresh, ping",
    ),
    (
        r#"{"type":"jump","id":1}"#,
        Some(1),
        "unknown `type` \"jump\": it is one of connect, subscribe, unsubscribe, publish, send, ack, nack, history, presence, refresh, ping",
    ),
    (r#"{"type":7}"#, None, "`type` must be the kind of frame as a string, not a number"),
    (
        r#"{"type":"subscribe","id":1}"#,
        Some(1),
        "`subscribe` needs `channel`: the name of the channel as a string",
    ),
    (
        r#"{"type":"subscribe","channel":"room:1"}"#,
        None,
        "`subscribe` needs `id`: a whole number, which the reply carries",
    ),
    (
        r#"{"type":"subscribe","id":"1","channel":"room:1"}"#,
        None,
        "`id` must be a whole number, which the reply carries, not a string",
    ),
    (
        r#"{"type":"subscribe","id":-1,"channel":"room:1"}"#,
        None,
        "`id` must be a whole number, which the reply carries, not a negative or fractional number",
    ),
    (
        r#"{"type":"subscribe","channel":["room:1"],"id":1}"#,
        Some(1),
        "`channel` must be the name of the channel as a string, not a list",
    ),
    (
        r#"{"type":"subscribe","id":1,"channel":"room"}"#,
        Some(1),
        "channel \"room\" is not valid: a namespace (1 to 32 of a-z, 0-9, '_', '-'), ':', then 1 to 200 of A-Z, a-z, 0-9 and . _ ~ : @ % + = / -",
    ),
    (
        r#"{"type":"subscribe","id":1,"channel":"room:1","offset":"5"}"#,
        Some(1),
        "`offset`: \"5\" is not an offset: write it as milliseconds-sequence, for example \"1763769600000-0\"",
    ),
    (
        r#"{"type":"subscribe","id":1,"channel":"room:1","offset":5}"#,
        Some(1),
        "`offset` must be an offset as a string, not a number",
    ),
    (
        r#"{"type":"subscribe","id":1,"channel":"room:1","epoch":"e"}"#,
        Some(1),
        "`epoch`: \"e\" is not an epoch: use the 16 hexadecimal digits that the server sent",
    ),
    (
        r#"{"type":"subscribe","id":1,"channel":"room:1","ack":"yes"}"#,
        Some(1),
        "`ack` must be true or false, not a string",
    ),
    (
        r#"{"type":"subscribe","id":1,"channel":"room:1","window":0}"#,
        Some(1),
        "`window` must be a whole number from 1 up, not 0",
    ),
    (
        r#"{"type":"subscribe","id":1,"channel":"room:1","window":1.5}"#,
        Some(1),
        "`window` must be a whole number from 1 up, not a negative or fractional number",
    ),
    (r#"{"type":"publish","id":1,"channel":"room:1"}"#, Some(1), "`publish` needs `data`: the payload"),
    (
        r#"{"type":"publish","id":1,"channel":"room:1","data":"x","key":""}"#,
        Some(1),
        "`key` must be a string of 1 to 256 bytes, not of 0",
    ),
    (
        r#"{"type":"publish","id":1,"channel":"room:1","data":"x","msg_id":{}}"#,
        Some(1),
        "`msg_id` must be a string of 1 to 256 bytes, not an object",
    ),
    (r#"{"type":"ack","channel":"room:1"}"#, None, "`ack` needs `offset`: an offset as a string"),
    (
        r#"{"type":"nack","channel":"room:1","offset":"1-1","delay_ms":true}"#,
        None,
        "`delay_ms` must be a whole number of milliseconds, not true or false",
    ),
    (
        r#"{"type":"history","id":1,"channel":"room:1"}"#,
        Some(1),
        "`history` needs `limit`: the most messages to read, a whole number from 1 up",
    ),
    (
        r#"{"type":"history","id":1,"channel":"room:1","limit":5,"before":"1-0","after":"2-0"}"#,
        Some(1),
        "`history` takes `before` or `after`, not both",
    ),
    (r#"{"type":"refresh","id":1}"#, Some(1), "`refresh` needs `token`: the token as a string"),
    (
        r#"{"type":"connect","device":""}"#,
        None,
        "device \"\" is not valid: 1 to 200 bytes once percent-encoded, without control characters",
    ),
    (r#"{"type":"connect","subs":{}}"#, None, "`subs` must be a list of subscriptions"),
    (r#"{"type":"connect","subs":[7]}"#, None, "each entry of `subs` must be an object"),
    (
        r#"{"type":"connect","subs":[{"channel":"room:1"},{"offset":"1-0"}]}"#,
        None,
        "entry 2 of `subs`: it needs `channel`: the name of the channel as a string",
    ),
];

#[test]
fn what_is_wrong_is_said_in_the_same_words_by_both_codecs() {
    for (frame, id, message) in BAD {
        let expected = BadFrame { id: *id, message: (*message).into() };
        assert_eq!(Codec::Json.decode(frame.as_bytes()), Err(expected.clone()), "{frame}");
        let frame: Value = serde_json::from_str(frame).unwrap();
        assert_eq!(Codec::Cbor.decode(&cbor(&frame)), Err(expected), "{frame}");
    }
}

#[test]
fn bad_json_is_refused() {
    for (frame, id, message) in [
        ("", None, "a frame is a JSON object, for example {\"type\":\"ping\"}"),
        ("[]", None, "a frame is a JSON object, for example {\"type\":\"ping\"}"),
        (r#"{"type":"ping","type":"ping"}"#, None, "`type` is given twice"),
        (r#"{"ack":null,"ack":true,"id":3,"type":"ping"}"#, Some(3), "`ack` is given twice"),
        (
            r#"{"type":"ping"} {}"#,
            None,
            "the frame is not valid JSON: trailing characters at line 1 column 17",
        ),
        (
            r#"{"id":2,"type":"pi}"#,
            Some(2),
            "the frame is not valid JSON: EOF while parsing a string at line 1 column 19",
        ),
        (
            r#"{"type":"\ud800"}"#,
            None,
            "`type` is not a valid string: unexpected end of hex escape at line 1 column 8",
        ),
        (
            r#"{"type":"send","id":1,"data":"Zm9=v","enc":"base64"}"#,
            Some(1),
            "`data` is not valid base64 (alphabet of RFC 4648 section 4): Invalid symbol 61, offset 3.",
        ),
        (r#"{"type":"send","id":1,"data":"x","enc":"hex"}"#, Some(1), "`enc` must be \"text\" or \"base64\""),
        (
            r#"{"type":"send","id":1,"data":{},"enc":"text"}"#,
            Some(1),
            "`enc` goes with a `data` that is a string: leave it out for other JSON values",
        ),
        (
            r#"{"type":"connect","subs":[{"channel":"room:1","channel":"room:2"}]}"#,
            None,
            "entry 1 of `subs`: `channel` is given twice",
        ),
    ] {
        let expected = BadFrame { id, message: message.into() };
        assert_eq!(Codec::Json.decode(frame.as_bytes()), Err(expected), "{frame}");
    }
    assert_eq!(&*Codec::Json.decode(b"{\"\xff\"}").unwrap_err().message, "the frame is not UTF-8");
}

#[test]
fn bad_cbor_is_refused() {
    let ping = cbor(&json!({"type": "ping"}));
    let trailing = [&ping[..], b"\x00\x00"].concat();
    let twice = [b"\xa2", &ping[1..], &ping[1..]].concat();
    let mut object = cbor(&json!({"type": "send", "id": 1, "data": {}}));
    let cases: [(&[u8], &str); 10] = [
        (b"", "the frame is not valid CBOR: it ends too early"),
        (b"\x80", "a frame is a CBOR map, for example {\"type\": \"ping\"}"),
        (&trailing, "2 bytes follow the frame: send one frame a message"),
        (&twice, "`type` is given twice"),
        (&object, "`data` must be a byte string or a text string, not an object"),
        (b"\xa1\x61\xff\x01", "the frame is not valid CBOR: a text string is not UTF-8"),
        (b"\xa1\x61x\x1c", "the frame is not valid CBOR: an item has a form that RFC 8949 does not allow"),
        (
            b"\xa1\x61x\xf8\x10",
            "the frame is not valid CBOR: an item has a form that RFC 8949 does not allow",
        ),
        (b"\xa1\x61x\xff", "the frame is not valid CBOR: an item has a form that RFC 8949 does not allow"),
        (b"\xbf\xc1\xff", "the frame is not valid CBOR: an item has a form that RFC 8949 does not allow"),
    ];
    for (frame, message) in cases {
        assert_eq!(&*Codec::Cbor.decode(frame).unwrap_err().message, message, "{frame:02x?}");
    }
    object = cbor(&json!({"type": "send", "id": 1, "data": "x", "enc": "text"}));
    let error = Codec::Cbor.decode(&object).unwrap_err();
    assert!(error.message.starts_with("`enc` is for JSON frames"), "{error}");
}

#[test]
fn cbor_takes_what_encoders_write() {
    let send = |data: &'static [u8], id: u64| ClientFrame::Send {
        id,
        payload: Payload { data: Bytes::from_static(data), json_scalar: false },
        topic: None,
    };
    // An indefinite map, a chunked text and a chunked byte string, a tag, an undefined, a key that is no text.
    let loose = b"\xbf\x64type\x7f\x62se\x62nd\xff\x62id\xc1\x03\x65topic\xf7\x01\x9f\x02\xff\x64data\x5f\x41\x00\x41\xff\xff\xff";
    assert_eq!(Codec::Cbor.decode(loose), Ok(send(b"\x00\xff", 3)));
    // Whole numbers as 64-bit and 32-bit floats.
    let double = [b"\xa3\x64type\x64send\x64data\x40\x62id\xfb", &1e12_f64.to_be_bytes()[..]].concat();
    assert_eq!(Codec::Cbor.decode(&double), Ok(send(b"", 1_000_000_000_000)));
    let single = [b"\xa3\x64type\x64send\x64data\x40\x62id\xfa", &8_f32.to_be_bytes()[..]].concat();
    assert_eq!(Codec::Cbor.decode(&single), Ok(send(b"", 8)));
    for number in [1.5, -1.0, f64::NAN, f64::INFINITY, 9_007_199_254_740_992.0] {
        let frame = [b"\xa3\x64type\x64send\x64data\x40\x62id\xfb", &number.to_be_bytes()[..]].concat();
        assert_eq!(Codec::Cbor.decode(&frame).unwrap_err().id, None);
    }
}

#[test]
fn a_client_payload_becomes_bytes() {
    for (fields, data, json_scalar) in [
        (r#""data": { "a" : [ 1 , "x y" ] }"#, r#"{"a":[1,"x y"]}"#, false),
        (r#""data": [ ]"#, "[]", false),
        (r#""data": "a b""#, "a b", false),
        (r#""data": "\u0061\n", "enc": "text""#, "a\n", false),
        (r#""enc": "base64", "data": "aGk=""#, "hi", false),
        (r#""enc": "base64", "data": "aGk""#, "hi", false),
        (r#""data": null"#, "null", true),
        (r#""data": -1.50e3"#, "-1.50e3", true),
        (r#""data": true"#, "true", true),
    ] {
        let frame = format!(r#"{{"type":"send","id":1,{fields}}}"#);
        let payload = Payload { data: Bytes::from(data), json_scalar };
        let expected = ClientFrame::Send { id: 1, payload, topic: None };
        assert_eq!(Codec::Json.decode(frame.as_bytes()), Ok(expected), "{frame}");
    }
}

#[test]
fn depth_bombs_are_refused() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    for field in ["data", "unknown", "channel", "subs"] {
        let frame = |depth| format!(r#"{{"type":"send","id":1,"{field}":{}}}"#, nested(depth));
        let at_limit = Codec::Json.decode(frame(64).as_bytes());
        let message = at_limit.map_or_else(|error| error.message, |_| "".into());
        assert!(!message.contains("deeper"), "{message}");
        for depth in [65, 100_000] {
            let error = Codec::Json.decode(frame(depth).as_bytes()).unwrap_err();
            assert_eq!(error.id, Some(1));
            assert!(error.message.contains("deeper") || field == "subs", "{error}");
        }

        let frame = |depth: usize| {
            let mut frame = b"\xa3\x64type\x64send\x62id\x01".to_vec();
            frame.extend(cbor(&json!(field)));
            frame.extend(std::iter::repeat_n(0x81, depth - 1).chain([0x80]));
            frame
        };
        let at_limit = Codec::Cbor.decode(&frame(64)).unwrap_err();
        assert!(!at_limit.message.contains("deeper"), "{at_limit}");
        for depth in [65, 100_000] {
            let error = Codec::Cbor.decode(&frame(depth)).unwrap_err();
            assert_eq!(error.id, Some(1));
            assert!(error.message.contains("deeper"), "{error}");
        }
    }
}

#[test]
fn declared_lengths_are_checked_against_the_bytes() {
    for major in [0x5b_u8, 0x7b, 0x9b, 0xbb] {
        let huge = [&[major][..], &(1_u64 << 60).to_be_bytes()].concat();
        let field = [b"\xa1\x64data", &huge[..]].concat();
        let chunk = [b"\xa1\x64data\x5f", &huge[..]].concat();
        let subs = [b"\xa1\x64subs", &huge[..]].concat();
        for frame in [huge, field, chunk, subs] {
            let error = Codec::Cbor.decode(&frame).unwrap_err();
            assert_eq!(&*error.message, "the frame is not valid CBOR: it declares more than it holds");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Codec::Json.decode(&bytes);
        let _ = Codec::Cbor.decode(&bytes);
    }

    /// Damaged frames go deeper into the readers than noise does.
    #[test]
    fn damaged_frames_never_panic(
        which in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let frames = client_frames();
        let frame = &which.get(&frames).0;
        for (codec, mut bytes) in [(Codec::Json, frame.to_string().into_bytes()), (Codec::Cbor, cbor(frame))] {
            for (place, byte) in &damage {
                let place = place.index(bytes.len());
                bytes[place] = *byte;
            }
            let _ = codec.decode(&bytes);
        }
    }
}
