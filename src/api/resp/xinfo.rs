//! `XINFO`: what is known of a stream, its groups and their consumers.

use super::args::{Refusal, is, no_group, unknown_subcommand, wrong_arity, wrong_options};
use super::commands::{Answer, Call, fits};
use super::streams::{entry_value, id_value};
use crate::backbone::embedded::group::{Consumer, Group};
use crate::backbone::embedded::store::Stream;
use crate::backbone::resp::Value;
use crate::domain::Offset;

type Subcommand = fn(&Call<'_>, &Stream) -> Answer;

const SUBCOMMANDS: [(&str, i32, Subcommand); 3] =
    [("stream", -3, stream), ("groups", 3, groups), ("consumers", 4, consumers)];

pub(super) fn xinfo(call: &mut Call<'_>) -> Answer {
    let given = &call.args[1];
    let Some((name, arity, run)) = SUBCOMMANDS.into_iter().find(|(name, ..)| is(given, name)) else {
        return Err(unknown_subcommand("XINFO", given));
    };
    if !fits(arity, call.args.len()) {
        return Err(wrong_arity(&format!("xinfo|{name}")));
    }
    let stream = call.store.stream(&call.args[2]).ok_or(Refusal::from("ERR no such key"))?;
    run(call, stream)
}

/// The radix tree that Redis tells of does not exist here; clients expect the fields.
fn stream(call: &Call<'_>, stream: &Stream) -> Answer {
    if call.args.len() > 3 {
        return Err(wrong_options("XINFO", &call.args[1]));
    }
    let log = &stream.log;
    let entry = |offset: Option<Offset>| offset.and_then(|at| log.get(at)).map_or(Value::Null, entry_value);
    Ok(Value::map([
        ("length", Value::count(log.len())),
        ("radix-tree-keys", Value::Integer(1)),
        ("radix-tree-nodes", Value::Integer(2)),
        ("last-generated-id", id_value(log.last())),
        ("max-deleted-entry-id", id_value(log.max_deleted())),
        ("entries-added", Value::count(log.added())),
        ("recorded-first-entry-id", id_value(log.first().unwrap_or_default())),
        ("groups", Value::count(stream.groups.len() as u64)),
        ("first-entry", entry(log.first())),
        ("last-entry", entry(log.newest())),
    ]))
}

fn groups(_: &Call<'_>, stream: &Stream) -> Answer {
    let known = |number: Option<u64>| number.map_or(Value::Null, Value::count);
    let group = |(name, group): (&bytes::Bytes, &Group)| {
        Value::map([
            ("name", Value::Bulk(name.clone())),
            ("consumers", Value::count(group.consumers().len() as u64)),
            ("pending", Value::count(group.pending().len() as u64)),
            ("last-delivered-id", id_value(group.last())),
            ("entries-read", known(group.read())),
            ("lag", known(group.lag(&stream.log))),
        ])
    };
    Ok(Value::Array(stream.groups.iter().map(group).collect()))
}

fn consumers(call: &Call<'_>, stream: &Stream) -> Answer {
    let (key, group) = (&call.args[2], &call.args[3]);
    let group = stream.groups.get(group).ok_or_else(|| no_group(key, group))?;
    let consumer = |(name, consumer): (&bytes::Bytes, &Consumer)| {
        Value::map([
            ("name", Value::Bulk(name.clone())),
            ("pending", Value::count(consumer.pending().len() as u64)),
            ("idle", Value::count(call.now_ms.saturating_sub(consumer.seen_ms))),
        ])
    };
    Ok(Value::Array(group.consumers().map(consumer).collect()))
}
