use bytes::BytesMut;
use proptest::prelude::*;

use super::*;
use crate::backbone::resp::{Protocol, Value};

fn at(ms: u64) -> Offset {
    Offset { ms, seq: 0 }
}

fn bulk(bytes: impl Into<Bytes>) -> Value {
    Value::Bulk(bytes.into())
}

/// An entry as a server sends it.
fn sent(ms: u64, fields: &[(&'static str, Bytes)]) -> Value {
    let strings = fields.iter().flat_map(|(name, value)| [bulk(*name), bulk(value.clone())]);
    Value::Array(vec![Value::text(at(ms).to_string()), Value::Array(strings.collect())])
}

fn data(ms: u64, length: usize) -> Value {
    sent(ms, &[("data", vec![b'x'; length].into())])
}

fn bytes(replies: &[Value]) -> Vec<u8> {
    let mut out = BytesMut::new();
    replies.iter().for_each(|reply| reply.encode(Protocol::Resp2, &mut out));
    out.to_vec()
}

/// Gathers from pieces; also the longest that had to wait for more.
fn gather(wants: &[Want], pieces: &[&[u8]]) -> Result<(Vec<Answer>, usize), ReplyError> {
    let (mut scanner, mut buffer, mut longest) = (Scanner::default(), Vec::new(), 0);
    let mut gathering = Gathering::new(wants.to_vec());
    let mut answers = None;
    for piece in pieces {
        buffer.extend_from_slice(piece);
        let mut rest = buffer.as_slice();
        if answers.is_none() {
            answers = gathering.take(&mut scanner, &mut rest)?;
        }
        scanner.drop_passed(&mut rest);
        let used = buffer.len() - rest.len();
        buffer.drain(..used);
        longest = longest.max(buffer.len());
    }
    assert!(buffer.is_empty(), "{} bytes are left", buffer.len());
    Ok((answers.expect("all bytes came"), longest))
}

fn answers(wants: &[Want], replies: &[Value]) -> Vec<Answer> {
    gather(wants, &[&bytes(replies)]).unwrap().0
}

fn entries(answer: &Answer) -> &Entries {
    match answer {
        Ok(Reply::Entries(entries)) => entries,
        other => panic!("{other:?}"),
    }
}

fn places(answer: &Answer) -> Vec<u64> {
    entries(answer).entries.iter().map(|entry| entry.offset.ms).collect()
}

#[test]
fn each_command_has_its_answer() {
    let wants = [Want::Entries(at(1)), Want::Entries(at(9)), Want::Stream, Want::Text, Want::Entries(at(1))];
    let found = answers(
        &wants,
        &[
            Value::Array(vec![data(1, 3), sent(2, &[("data", "hi".into()), ("own", "y".into())])]),
            Value::error("WRONGTYPE no stream"),
            Value::error("ERR no such key"),
            Value::simple("OK"),
            Value::Array(Vec::new()),
        ],
    );
    let first = entries(&found[0]);
    assert!(first.at_position && !first.cut);
    let fields = vec![("data".into(), "hi".into()), ("own".into(), "y".into())];
    assert_eq!(first.entries, [RawEntry::new(at(2), fields)]);
    assert!(matches!(&found[1], Err(BackboneError::WrongType(_))), "{:?}", found[1]);
    assert_eq!(found[2], Ok(Reply::Stream(None)));
    assert_eq!(found[3], Ok(Reply::Text("OK".into())));
    assert_eq!(*entries(&found[4]), Entries::default());
}

/// `XINFO STREAM` of Redis 7.
fn figures(length: i64) -> Value {
    let pairs = [
        ("length", Value::Integer(length)),
        ("radix-tree-keys", Value::Integer(1)),
        ("last-generated-id", Value::text("7-0")),
        ("entries-added", Value::Integer(5)),
        ("recorded-first-entry-id", Value::text("2-0")),
        ("groups", Value::Integer(0)),
        ("first-entry", if length > 0 { data(2, 100) } else { Value::Null }),
        ("last-entry", if length > 0 { sent(7, &[("length", "9".into())]) } else { Value::Null }),
    ];
    Value::Array(pairs.into_iter().flat_map(|(name, value)| [Value::text(name), value]).collect())
}

#[test]
fn figures_are_read_and_entries_among_them_passed_over() {
    let info = |length, first: Option<u64>, last: Option<u64>| StreamInfo {
        length,
        last: at(7),
        added: Some(5),
        first_entry: first.map(at),
        last_entry: last.map(at),
    };
    let found = answers(&[Want::Stream, Want::Stream], &[figures(3), figures(0)]);
    assert_eq!(found[0], Ok(Reply::Stream(Some(info(3, Some(2), Some(7))))));
    assert_eq!(found[1], Ok(Reply::Stream(Some(info(0, None, None)))));
    let incomplete = Value::Array(vec![Value::text("length"), Value::Integer(0)]);
    assert_eq!(gather(&[Want::Stream], &[&bytes(&[incomplete])]).unwrap_err(), ReplyError::Shape);
}

#[test]
fn another_shape_is_refused() {
    for (want, reply) in [
        (Want::Entries(at(1)), Value::Integer(1)),
        (Want::Entries(at(1)), Value::Array(vec![Value::Integer(1)])),
        (Want::Entries(at(1)), Value::Array(vec![Value::Array(vec![Value::text("x")])])),
        (Want::Entries(at(1)), Value::Array(vec![Value::Array(vec![Value::text("x"), Value::Null])])),
        (Want::Stream, Value::Array(Vec::new())),
        (Want::Stream, Value::Array(vec![Value::Integer(1), Value::Integer(1)])),
        (Want::Text, Value::Array(Vec::new())),
    ] {
        assert_eq!(
            gather(&[want], &[&bytes(std::slice::from_ref(&reply))]).unwrap_err(),
            ReplyError::Shape,
            "{reply:?}"
        );
    }
}

#[test]
fn an_entry_too_large_keeps_its_place_and_no_memory() {
    let huge = 100 << 20;
    let before = bytes(&[data(1, 10)]);
    let mut input = b"*3\r\n".to_vec();
    input.extend(before);
    input.extend(
        format!("*2\r\n$3\r\n2-0\r\n*4\r\n$1\r\nk\r\n$1\r\nv\r\n$4\r\ndata\r\n${huge}\r\n").as_bytes(),
    );
    let chunk = vec![b'\r'; 1 << 20];
    let mut pieces = vec![input.as_slice()];
    pieces.extend(std::iter::repeat_n(chunk.as_slice(), huge >> 20));
    let mut tail = b"\r\n".to_vec();
    tail.extend(bytes(&[data(3, 10)]));
    pieces.push(&tail);
    let (found, longest) = gather(&[Want::Entries(at(0))], &pieces).unwrap();
    assert!(longest < 100, "{longest} bytes waited");
    let oversize: Vec<_> = entries(&found[0]).entries.iter().map(|entry| entry.oversize).collect();
    assert_eq!(oversize, [None, Some(huge + 6), None]);
    assert_eq!((places(&found[0]), entries(&found[0]).cut), (vec![1, 2, 3], false));
    assert!(entries(&found[0]).entries[1].fields.is_empty());
}

#[test]
fn an_entry_of_too_many_fields_is_too_large() {
    let strings = std::iter::repeat_n(Value::text("f"), 2 * (MAX_ENTRY / FIELD_COST + 1));
    let entry = Value::Array(vec![Value::text("5-0"), Value::Array(strings.collect())]);
    let found = answers(&[Want::Entries(at(0))], &[Value::Array(vec![entry])]);
    let entry = &entries(&found[0]).entries[0];
    assert!(entry.fields.is_empty() && entry.oversize.is_some(), "{:?}", entry.oversize);
}

#[test]
fn the_largest_payloads_are_read_and_a_pipeline_keeps_only_so_many() {
    let size = MAX_ENTRY - 1_000;
    let many = Value::Array((1..=6).map(|ms| data(ms, size)).collect());
    let found = answers(&[Want::Entries(at(0)), Want::Entries(at(2))], &[many.clone(), many]);
    assert_eq!((places(&found[0]), entries(&found[0]).cut), (vec![1, 2, 3, 4, 5], true));
    assert_eq!(entries(&found[0]).entries[4].fields[0].1.len(), size);
    let second = entries(&found[1]);
    assert!(second.entries.is_empty() && second.cut && second.at_position, "left for the next read");
}

fn entry() -> impl Strategy<Value = Value> {
    let string = || prop::collection::vec(any::<u8>(), 0..20).prop_map(bulk);
    let fields = prop::collection::vec((string(), string()), 1..4);
    (0..6_u64, fields).prop_map(|(ms, fields)| {
        let strings = fields.into_iter().flat_map(|(name, value)| [name, value]).collect();
        Value::Array(vec![Value::text(at(ms).to_string()), Value::Array(strings)])
    })
}

proptest! {
    #[test]
    fn any_split_gives_the_same(
        pages in prop::collection::vec(prop::collection::vec(entry(), 0..4), 1..4),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let mut wants: Vec<Want> = pages.iter().map(|_| Want::Entries(at(3))).collect();
        wants.extend([Want::Stream, Want::Text]);
        let mut replies: Vec<Value> = pages.into_iter().map(Value::Array).collect();
        replies.extend([figures(2), Value::text("text")]);
        let input = bytes(&replies);
        let whole = gather(&wants, &[&input]).unwrap().0;
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
        cuts.extend([0, input.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &input[cut[0]..cut[1]]).collect();
        prop_assert_eq!(&gather(&wants, &pieces).unwrap().0, &whole);
        let single: Vec<&[u8]> = input.chunks(1).collect();
        prop_assert_eq!(&gather(&wants, &single).unwrap().0, &whole);
    }

    #[test]
    fn bytes_that_look_like_replies_never_panic(input in "([*$:+-]|-?[0-9]{1,3}|\r\n|[a-z]){0,60}") {
        let mut gathering = Gathering::new(vec![Want::Entries(at(1)), Want::Stream, Want::Text]);
        let _ = gathering.take(&mut Scanner::default(), &mut input.as_bytes());
    }
}
