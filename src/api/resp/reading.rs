//! `XREAD` and `XREADGROUP`: reading on from positions, waiting where there is nothing.

use std::time::Duration;

use bytes::Bytes;

use super::args::{Args, Refusal, SYNTAX, amount, id, integer, is};
use super::commands::Call;
use super::streams::{entry_value, id_value};
use crate::backbone::embedded::store::Store;
use crate::backbone::resp::{Protocol, Value};
use crate::domain::Offset;

const DOLLAR_IN_GROUP: &str = "ERR The $ ID is meaningless in the context of XREADGROUP: you want to read \
    the history of this consumer by specifying a proper ID, or use the > ID to get new messages. The $ ID would \
    just return an empty result set.";
const NEW_WITHOUT_GROUP: &str = "ERR The > ID can be specified only when calling XREADGROUP using the GROUP \
    <group> <consumer> option.";
const UNBALANCED: &str =
    "ERR Unbalanced XREAD list of streams: for each stream key an ID or '$' must be specified.";

/// A read that can be tried again until there is something.
#[derive(Debug)]
pub(super) struct ReadPlan {
    streams: Vec<(Bytes, Start)>,
    count: usize,
    block: Option<Duration>,
    reader: Option<Reader>,
}

/// Where reading begins.
#[derive(Debug, Clone, Copy)]
enum Start {
    After(Offset),
    /// `>`: what nobody of the group was given.
    Undelivered,
}

#[derive(Debug)]
struct Reader {
    group: Bytes,
    consumer: Bytes,
    no_ack: bool,
}

/// `XREAD [COUNT n] [BLOCK ms] STREAMS key … id …`
pub(super) fn plan_xread(call: &mut Call<'_>) -> Result<ReadPlan, Refusal> {
    plan(call, false)
}

/// `XREADGROUP GROUP group consumer [COUNT n] [BLOCK ms] [NOACK] STREAMS key … id …`
pub(super) fn plan_xreadgroup(call: &mut Call<'_>) -> Result<ReadPlan, Refusal> {
    plan(call, true)
}

fn plan(call: &mut Call<'_>, grouped: bool) -> Result<ReadPlan, Refusal> {
    let (mut count, mut block, mut names, mut no_ack) = (usize::MAX, None, None, false);
    let mut args = Args(&call.args[1..]);
    loop {
        let arg = args.need()?;
        if is(arg, "BLOCK") {
            block = Some(timeout(args.need()?)?);
        } else if is(arg, "COUNT") {
            let most = amount(args.need()?)?;
            count = if most == 0 { usize::MAX } else { most };
        } else if is(arg, "STREAMS") {
            break;
        } else if is(arg, "GROUP") {
            if !grouped {
                return Err(
                    "ERR The GROUP option is only supported by XREADGROUP. You called XREAD instead.".into(),
                );
            }
            names = Some((args.need()?, args.need()?));
        } else if is(arg, "NOACK") {
            if !grouped {
                return Err(
                    "ERR The NOACK option is only supported by XREADGROUP. You called XREAD instead.".into(),
                );
            }
            no_ack = true;
        } else {
            return Err(SYNTAX);
        }
    }
    let pairs = args.0;
    if pairs.is_empty() {
        return Err(SYNTAX);
    }
    if pairs.len() % 2 != 0 {
        // Redis 7.0 says XREAD for both.
        return Err(UNBALANCED.into());
    }
    if grouped && names.is_none() {
        return Err("ERR Missing GROUP option for XREADGROUP".into());
    }
    let (keys, starts) = pairs.split_at(pairs.len() / 2);
    let copied = |name: &Bytes| Bytes::copy_from_slice(name);
    let reader =
        names.map(|(group, consumer)| Reader { group: copied(group), consumer: copied(consumer), no_ack });
    let start = |(key, arg): (&Bytes, &Bytes)| Ok((copied(key), start(call.store, key, arg, grouped)?));
    let streams = keys.iter().zip(starts).map(start).collect::<Result<_, Refusal>>()?;
    Ok(ReadPlan { streams, count, block, reader })
}

fn timeout(arg: &[u8]) -> Result<Duration, Refusal> {
    let ms = integer(arg).map_err(|_| "ERR timeout is not an integer or out of range")?;
    let ms = u64::try_from(ms).map_err(|_| "ERR timeout is negative")?;
    Ok(Duration::from_millis(ms))
}

fn start(store: &Store, key: &[u8], arg: &[u8], grouped: bool) -> Result<Start, Refusal> {
    match arg {
        b"$" if grouped => Err(DOLLAR_IN_GROUP.into()),
        b"$" => Ok(Start::After(store.stream(key).map_or(Offset::ZERO, |stream| stream.log.last()))),
        b">" if grouped => Ok(Start::Undelivered),
        b">" => Err(NEW_WITHOUT_GROUP.into()),
        _ => id(arg, 0).map(Start::After),
    }
}

impl ReadPlan {
    /// How long to wait where there is nothing: not at all, for a time, or (zero) for ever.
    pub fn block(&self) -> Option<Duration> {
        self.block
    }

    /// The streams to wait for.
    pub fn keys(&self) -> Vec<Bytes> {
        self.streams.iter().map(|(key, _)| key.clone()).collect()
    }

    /// Reads; `None` where there is nothing.
    pub fn attempt(
        &self,
        store: &mut Store,
        protocol: Protocol,
        now_ms: u64,
    ) -> Result<Option<Value>, Refusal> {
        if let Some(reader) = &self.reader {
            self.check_groups(store, reader)?;
        }
        let mut found = Vec::new();
        for (key, start) in &self.streams {
            let entries = match &self.reader {
                None => self.entries_after(store, key, *start),
                Some(reader) => self.entries_of_group(store, key, *start, reader, now_ms),
            };
            if let Some(entries) = entries {
                found.push((Value::Bulk(key.clone()), Value::Array(entries)));
            }
        }
        Ok(match protocol {
            _ if found.is_empty() => None,
            Protocol::Resp3 => Some(Value::Map(found)),
            Protocol::Resp2 => {
                let pair = |(key, entries)| Value::Array(vec![key, entries]);
                Some(Value::Array(found.into_iter().map(pair).collect()))
            }
        })
    }

    /// All groups must be there before anything is given out.
    fn check_groups(&self, store: &Store, reader: &Reader) -> Result<(), Refusal> {
        for (key, _) in &self.streams {
            if !store.stream(key).is_some_and(|stream| stream.groups.contains_key(&reader.group)) {
                let (key, group) = (String::from_utf8_lossy(key), String::from_utf8_lossy(&reader.group));
                let text = format!(
                    "NOGROUP No such key '{key}' or consumer group '{group}' in XREADGROUP with GROUP option"
                );
                return Err(text.into());
            }
        }
        Ok(())
    }

    fn entries_after(&self, store: &Store, key: &[u8], start: Start) -> Option<Vec<Value>> {
        let (Start::After(after), Some(stream)) = (start, store.stream(key)) else { return None };
        if stream.log.last() <= after {
            return None;
        }
        let entries: Vec<Value> =
            stream.log.range(after.next()..=Offset::MAX).take(self.count).map(entry_value).collect();
        (!entries.is_empty()).then_some(entries)
    }

    /// A consumer's own history is an answer even where it is empty.
    fn entries_of_group(
        &self,
        store: &mut Store,
        key: &[u8],
        start: Start,
        reader: &Reader,
        now_ms: u64,
    ) -> Option<Vec<Value>> {
        store.change(key, |stream| {
            let (log, group) = (&stream.log, stream.groups.get_mut(&reader.group)?);
            group.see(&reader.consumer, now_ms);
            match start {
                Start::Undelivered => {
                    let new = group.deliver(log, &reader.consumer, self.count, reader.no_ack, now_ms);
                    (!new.is_empty()).then(|| new.into_iter().map(entry_value).collect())
                }
                Start::After(after) => {
                    let pending = group.history(log, &reader.consumer, after, self.count, now_ms);
                    let value = |(offset, entry): (Offset, Option<_>)| match entry {
                        Some(entry) => entry_value(entry),
                        None => Value::Array(vec![id_value(offset), Value::NullArray]),
                    };
                    Some(pending.into_iter().map(value).collect())
                }
            }
        })?
    }
}
