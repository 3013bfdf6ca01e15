//! What the server sends.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ciborium::Value as Cbor;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::*;
use super::{channel, offset};
use crate::domain::{CloseReason, DeviceId, Epoch, Headers, NodeId, Offset, SessionId, UserId};

/// A CBOR item as JSON; byte strings become strings.
fn as_json(item: Cbor) -> Value {
    match item {
        Cbor::Bytes(bytes) => String::from_utf8(bytes).unwrap().into(),
        Cbor::Array(items) => items.into_iter().map(as_json).collect(),
        Cbor::Map(entries) => {
            let entries = entries.into_iter().map(|(key, value)| (key.into_text().unwrap(), as_json(value)));
            Value::Object(entries.collect())
        }
        other => other.deserialized().unwrap(),
    }
}

fn encoded(codec: Codec, frame: &ServerFrame) -> Vec<u8> {
    // What is in the buffer already stays.
    let mut out = b"x".to_vec();
    codec.encode(frame, &mut out);
    assert_eq!(out.remove(0), b'x');
    out
}

fn encoded_json(frame: &ServerFrame) -> Value {
    serde_json::from_slice(&encoded(Codec::Json, frame)).unwrap()
}

fn encoded_cbor(frame: &ServerFrame) -> Value {
    as_json(ciborium::from_reader(&*encoded(Codec::Cbor, frame)).unwrap())
}

fn publication() -> Publication {
    Publication { offset: offset("5-7"), data: Bytes::from_static(b"hi"), ..Publication::default() }
}

/// Server frames and how they stand in JSON; in CBOR the same but for `enc`.
#[allow(clippy::too_many_lines, reason = "a table")]
pub(super) fn server_frames() -> Vec<(ServerFrame, Value)> {
    let (room, epoch) = (channel("room:1"), Epoch(0xab));
    let session = SessionId::from_bytes([7; 16]);
    let full = Publication {
        headers: Some(vec![("ce-type".into(), "a \"b\"".into()), ("x".into(), "".into())]),
        id: Some("m\n1".into()),
        key: Some("k".into()),
        user: Some("not for others".into()),
        ..publication()
    };
    vec![
        (
            ServerFrame::Connected {
                session,
                user: UserId::parse("a \"b\"").unwrap(),
                device: Some(DeviceId::parse("d").unwrap()),
                resume: "r".into(),
                resumed: Resumed::Home,
                node: NodeId::parse("n1").unwrap(),
                ping_ms: 25_000,
            },
            json!({"type": "connected", "session": session.to_string(), "user": "a \"b\"", "device": "d", "resume": "r", "resumed": "home", "node": "n1", "ping_ms": 25_000}),
        ),
        (
            ServerFrame::Subscribed {
                id: Some(1),
                channel: room.clone(),
                offset: offset("5-7"),
                epoch,
                recovered: Some(true),
            },
            json!({"type": "subscribed", "id": 1, "channel": "room:1", "offset": "5-7", "epoch": "00000000000000ab", "recovered": true}),
        ),
        (
            ServerFrame::Subscribed {
                id: None,
                channel: room.clone(),
                offset: Offset::ZERO,
                epoch,
                recovered: None,
            },
            json!({"type": "subscribed", "channel": "room:1", "offset": "0-0", "epoch": "00000000000000ab"}),
        ),
        (
            ServerFrame::Message { channel: room.clone(), message: Arc::new(publication()), attempt: 1 },
            json!({"type": "message", "channel": "room:1", "offset": "5-7", "data": "hi", "enc": "text", "attempt": 1}),
        ),
        (
            ServerFrame::Message { channel: room.clone(), message: Arc::new(full.clone()), attempt: 200 },
            json!({"type": "message", "channel": "room:1", "offset": "5-7", "data": "hi", "enc": "text", "attempt": 200, "headers": {"ce-type": "a \"b\"", "x": ""}, "key": "k", "msg_id": "m\n1"}),
        ),
        (
            ServerFrame::Position { channel: room.clone(), offset: offset("5-7"), epoch },
            json!({"type": "position", "channel": "room:1", "offset": "5-7", "epoch": "00000000000000ab"}),
        ),
        (
            ServerFrame::Gap {
                channel: room,
                after: offset("5-7"),
                until: offset("9-0"),
                epoch,
                reason: GapReason::Trimmed,
            },
            json!({"type": "gap", "channel": "room:1", "after": "5-7", "until": "9-0", "epoch": "00000000000000ab", "reason": "trimmed"}),
        ),
        (
            ServerFrame::Ok { id: 70_000, offset: None, messages: None, epoch: None },
            json!({"type": "ok", "id": 70_000}),
        ),
        (
            ServerFrame::Ok { id: 300, offset: Some(offset("5-7")), messages: None, epoch: None },
            json!({"type": "ok", "id": 300, "offset": "5-7"}),
        ),
        (
            ServerFrame::Ok {
                id: u64::MAX,
                offset: None,
                messages: Some(vec![Arc::new(publication()), Arc::new(full)]),
                epoch: Some(epoch),
            },
            json!({"type": "ok", "id": u64::MAX, "epoch": "00000000000000ab", "messages": [
                {"offset": "5-7", "data": "hi", "enc": "text"},
                {"offset": "5-7", "data": "hi", "enc": "text", "headers": {"ce-type": "a \"b\"", "x": ""}, "key": "k", "msg_id": "m\n1"},
            ]}),
        ),
        (
            ServerFrame::Ok { id: 1, offset: None, messages: Some(vec![]), epoch: Some(epoch) },
            json!({"type": "ok", "id": 1, "epoch": "00000000000000ab", "messages": []}),
        ),
        (
            ServerFrame::Error { id: None, code: ErrorCode::BadRequest, message: "\"no\"".into() },
            json!({"type": "error", "code": "bad_request", "message": "\"no\""}),
        ),
        (
            ServerFrame::Error { id: Some(24), code: ErrorCode::Unavailable, message: "later".into() },
            json!({"type": "error", "id": 24, "code": "unavailable", "message": "later"}),
        ),
        (
            ServerFrame::Drain { retry_after_ms: 1 << 33, url: None },
            json!({"type": "drain", "retry_after_ms": 1_u64 << 33}),
        ),
        (
            ServerFrame::Drain { retry_after_ms: 0, url: Some("wss://b/".into()) },
            json!({"type": "drain", "retry_after_ms": 0, "url": "wss://b/"}),
        ),
        (
            ServerFrame::Disconnect {
                reason: CloseReason::Kicked,
                message: "bye".into(),
                retry_after_ms: None,
                url: None,
            },
            json!({"type": "disconnect", "code": 4006, "reason": "kicked", "message": "bye", "reconnect": false}),
        ),
        (
            ServerFrame::Disconnect {
                reason: CloseReason::Moved,
                message: "".into(),
                retry_after_ms: Some(5),
                url: Some("u".into()),
            },
            json!({"type": "disconnect", "code": 4201, "reason": "moved", "message": "", "reconnect": true, "retry_after_ms": 5, "url": "u"}),
        ),
        (ServerFrame::Pong, json!({"type": "pong"})),
    ]
}

fn without_enc(frame: &mut Value) {
    if let Some(object) = frame.as_object_mut() {
        object.remove("enc");
        object.values_mut().for_each(without_enc);
    }
    frame.as_array_mut().into_iter().flatten().for_each(without_enc);
}

#[test]
fn every_server_frame_is_written_in_both_codecs() {
    for (frame, mut expected) in server_frames() {
        assert_eq!(encoded_json(&frame), expected);
        without_enc(&mut expected);
        assert_eq!(encoded_cbor(&frame), expected);
    }
}

#[test]
fn a_message_in_parts_is_the_same_frame() {
    let (room, message) = (channel("room:1"), Arc::new(publication()));
    for codec in [Codec::Json, Codec::Cbor] {
        let mut out = Vec::new();
        encode_message(codec, &room, &message, 3, &mut out);
        let frame = ServerFrame::Message { channel: room.clone(), message: message.clone(), attempt: 3 };
        assert_eq!(out, encoded(codec, &frame));
    }
}

#[test]
fn a_payload_stands_in_json_as_it_deserves() {
    let json = "application/json";
    let deep = "[".repeat(65) + &"]".repeat(65);
    for (data, content_type, stands) in [
        (&b" { \"a\" : 1 } "[..], None, r#"{"a":1}"#),
        (b"[1, 2]", Some("text/plain"), "[1,2]"),
        (b"{\"a\":", None, r#""{\"a\":","enc":"text""#),
        (b"{\"a\":", Some(json), r#""{\"a\":","enc":"text""#),
        (b" 7 ", Some(json), "7"),
        (b"\"x\"", Some("Application/JSON; charset=utf-8"), "\"x\""),
        (b"7", None, r#""7","enc":"text""#),
        (b"7", Some("application/json-seq"), r#""7","enc":"text""#),
        (b"", Some(json), r#""","enc":"text""#),
        (b"\xff\x00", Some(json), r#""/wA=","enc":"base64""#),
        (b"{\xff", None, r#""e/8=","enc":"base64""#),
        (b"\x00\"\\", None, r#""\u0000\"\\","enc":"text""#),
        (deep.as_bytes(), Some(json), &format!(r#""{deep}","enc":"text""#)),
    ] {
        let headers = content_type.map(|value| vec![("content-type".into(), value.into())]);
        let message = Publication { data: Bytes::copy_from_slice(data), headers, ..publication() };
        let mut out = Vec::new();
        encode_message(Codec::Json, &channel("room:1"), &message, 1, &mut out);
        let out = String::from_utf8(out).unwrap();
        let (_, rest) = out.split_once("\"data\":").unwrap();
        let rest = rest.split_once(",\"headers\"").map_or(&rest[..rest.len() - 1], |(before, _)| before);
        assert_eq!(rest, stands);
    }
}

/// Any bytes, with JSON and nearly JSON among them.
fn any_data() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
    ];
    let tree = leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(".{0,4}", inner, 0..4).prop_map(|map| map.into_iter().collect()),
        ]
    });
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..64),
        ".{0,40}".prop_map(String::into_bytes),
        tree.clone().prop_map(|tree| serde_json::to_vec_pretty(&tree).unwrap()),
        (tree, 1..20_usize).prop_map(|(tree, cut)| {
            let mut text = tree.to_string().into_bytes();
            text.truncate(cut);
            text
        }),
    ]
}

fn any_publication() -> impl Strategy<Value = Publication> {
    let name = prop_oneof![Just("content-type".to_owned()), ".{0,9}"];
    let value = prop_oneof![Just("application/json".to_owned()), ".{0,9}"];
    let headers = prop::collection::btree_map(name, value, 0..30).prop_map(|map| {
        map.into_iter().map(|(name, value)| (name.into(), value.into())).collect::<Headers>()
    });
    let text = || prop::option::of(".{0,40}".prop_map(String::into_boxed_str));
    (any_data(), prop::option::of(headers), text(), text(), any::<u64>(), any::<u64>()).prop_map(
        |(data, headers, id, key, ms, seq)| Publication {
            offset: Offset { ms, seq },
            data: data.into(),
            headers,
            id,
            key,
            ..Publication::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn publications_survive_json(message in any_publication(), attempt in any::<u8>()) {
        let mut out = Vec::new();
        encode_message(Codec::Json, &channel("room:1"), &message, attempt, &mut out);
        let frame: Value = serde_json::from_slice(&out).unwrap();
        prop_assert_eq!(&frame["offset"], &json!(message.offset.to_string()));
        prop_assert_eq!(&frame["attempt"], &json!(attempt));
        prop_assert_eq!(frame.get("key").map(|key| key.as_str().unwrap()), message.key.as_deref());
        prop_assert_eq!(frame.get("msg_id").map(|id| id.as_str().unwrap()), message.id.as_deref());
        let data = match frame.get("enc").map(|enc| enc.as_str().unwrap()) {
            Some("text") => frame["data"].as_str().unwrap().as_bytes().to_vec(),
            Some(_) => STANDARD.decode(frame["data"].as_str().unwrap()).unwrap(),
            None => {
                prop_assert_eq!(&frame["data"], &serde_json::from_slice::<Value>(&message.data).unwrap());
                message.data.to_vec()
            }
        };
        prop_assert_eq!(data, &message.data[..]);
        let headers = frame.get("headers").map(|headers| headers.as_object().unwrap().len());
        prop_assert_eq!(headers, message.headers.as_ref().map(Vec::len));
        for (name, value) in message.headers.iter().flatten() {
            prop_assert_eq!(frame["headers"][&**name].as_str(), Some(&**value));
        }
    }

    #[test]
    fn publications_survive_cbor(message in any_publication(), attempt in any::<u8>()) {
        let mut out = Vec::new();
        encode_message(Codec::Cbor, &channel("room:1"), &message, attempt, &mut out);
        let mut rest = &out[..];
        let frame: Cbor = ciborium::from_reader(&mut rest).unwrap();
        prop_assert!(rest.is_empty());
        let field = |name: &str| {
            let entries = frame.as_map().unwrap();
            entries.iter().find(|(key, _)| key.as_text() == Some(name)).map(|(_, value)| value)
        };
        prop_assert_eq!(field("data").unwrap().as_bytes().unwrap(), &message.data[..]);
        prop_assert_eq!(field("offset").unwrap().as_text().unwrap(), message.offset.to_string());
        prop_assert_eq!(field("key").map(|key| key.as_text().unwrap()), message.key.as_deref());
        let headers = field("headers").map(|headers| {
            let text = |value: &Cbor| value.as_text().unwrap().into();
            headers.as_map().unwrap().iter().map(|(name, value)| (text(name), text(value))).collect::<Headers>()
        });
        prop_assert_eq!(headers, message.headers);
    }
}
