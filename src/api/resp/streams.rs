//! Entries: adding, counting, reading by range, withdrawing, trimming.

use bytes::Bytes;

use super::args::wrong_arity;
use super::args::{
    Args, Refusal, SYNTAX, amount, id, id_of_millisecond, ids, integer, is, range_end, range_start,
};
use super::commands::{Answer, Call};
use crate::backbone::embedded::log::{Keep, NewId};
use crate::backbone::embedded::store::Addition;
use crate::backbone::resp::Value;
use crate::domain::{Offset, RawEntry};

/// What `~` drops at most in one command, as in Redis with its default node size.
const ABOUT_LIMIT: usize = 10_000;

/// `XADD key [NOMKSTREAM] [trim] id field value …`
pub(super) fn xadd(call: &mut Call<'_>) -> Answer {
    let key = &call.args[1];
    let mut args = Args(&call.args[2..]);
    let (mut trim, mut make) = (TrimOptions::default(), true);
    let new_id = loop {
        let arg = args.next().ok_or_else(|| wrong_arity("xadd"))?;
        if is(arg, "NOMKSTREAM") {
            make = false;
        } else if !trim.take(arg, &mut args)? {
            break new_id(arg)?;
        }
    };
    let trim = trim.finish()?;
    let fields = args.0;
    if fields.is_empty() || fields.len() % 2 != 0 {
        return Err(wrong_arity("xadd"));
    }
    let fields: Vec<(Bytes, Bytes)> =
        fields.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
    let addition = Addition { id: new_id, fields: &fields, make, trim };
    let added = call.store.add(key, &addition, call.now_ms)?;
    Ok(added.map_or(Value::Null, id_value))
}

fn new_id(arg: &[u8]) -> Result<NewId, Refusal> {
    match arg {
        b"*" => Ok(NewId::Auto),
        _ => match id_of_millisecond(arg) {
            Some(ms) => ms.map(NewId::AutoSequence),
            None => id(arg, 0).map(NewId::Exact),
        },
    }
}

pub(super) fn xlen(call: &mut Call<'_>) -> Answer {
    Ok(Value::count(call.store.stream(&call.args[1]).map_or(0, |stream| stream.log.len())))
}

pub(super) fn xrange(call: &mut Call<'_>) -> Answer {
    range(call, &call.args[2], &call.args[3], false)
}

pub(super) fn xrevrange(call: &mut Call<'_>) -> Answer {
    range(call, &call.args[3], &call.args[2], true)
}

fn range(call: &Call<'_>, start: &[u8], end: &[u8], newest_first: bool) -> Answer {
    let (start, end) = (range_start(start)?, range_end(end)?);
    let mut count = usize::MAX;
    let mut args = Args(&call.args[4..]);
    while let Some(arg) = args.next() {
        if !is(arg, "COUNT") {
            return Err(SYNTAX);
        }
        count = amount(args.need()?)?;
    }
    let Some(stream) = call.store.stream(&call.args[1]) else { return Ok(Value::Array(Vec::new())) };
    if count == 0 {
        return Ok(Value::NullArray);
    }
    let entries = stream.log.range(start..=end);
    Ok(Value::Array(if newest_first {
        entries.rev().take(count).map(entry_value).collect()
    } else {
        entries.take(count).map(entry_value).collect()
    }))
}

pub(super) fn xdel(call: &mut Call<'_>) -> Answer {
    let ids = ids(&call.args[2..])?;
    let remove =
        |log: &mut crate::backbone::embedded::log::Log| ids.iter().filter(|id| log.remove(**id)).count();
    let removed = call.store.change(&call.args[1], |stream| remove(&mut stream.log));
    Ok(Value::count(removed.unwrap_or(0) as u64))
}

/// `XTRIM key trim`
pub(super) fn xtrim(call: &mut Call<'_>) -> Answer {
    let mut args = Args(&call.args[2..]);
    let mut trim = TrimOptions::default();
    while let Some(arg) = args.next() {
        if !trim.take(arg, &mut args)? {
            return Err(SYNTAX);
        }
    }
    let (keep, limit) = trim
        .finish()?
        .ok_or("ERR syntax error, XTRIM must be called with one of the following options: MAXLEN, MINID")?;
    let trimmed = call.store.change(&call.args[1], |stream| stream.log.trim(keep, limit));
    Ok(Value::count(trimmed.unwrap_or(0) as u64))
}

/// `MAXLEN|MINID [=|~] threshold [LIMIT count]`. With `~` Redis may keep some more; here it keeps as
/// many as were asked for.
#[derive(Default)]
struct TrimOptions {
    keep: Option<Keep>,
    about: bool,
    limit: Option<usize>,
}

impl TrimOptions {
    /// Takes an option and its values; whether it was one of these.
    fn take(&mut self, option: &[u8], args: &mut Args<'_>) -> Result<bool, Refusal> {
        let by_length = is(option, "MAXLEN");
        if by_length || is(option, "MINID") {
            if self.keep.is_some_and(|keep| matches!(keep, Keep::Newest(_)) != by_length) {
                return Err(
                    "ERR syntax error, MAXLEN and MINID options at the same time are not compatible".into()
                );
            }
            let mut value = args.need()?;
            self.about = value == "~";
            if self.about || value == "=" {
                value = args.need()?;
            }
            self.keep = Some(if by_length {
                let most = u64::try_from(integer(value)?);
                Keep::Newest(most.map_err(|_| "ERR The MAXLEN argument must be >= 0.")?)
            } else {
                Keep::From(id(value, 0)?)
            });
        } else if is(option, "LIMIT") {
            let limit = usize::try_from(args.integer()?);
            self.limit = Some(limit.map_err(|_| "ERR The LIMIT argument must be >= 0.")?);
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    fn finish(self) -> Result<Option<(Keep, usize)>, Refusal> {
        if self.limit.is_some() && self.keep.is_none() {
            return Err(
                "ERR syntax error, LIMIT cannot be used without specifying a trimming strategy".into()
            );
        }
        if self.limit.is_some() && !self.about {
            return Err("ERR syntax error, LIMIT cannot be used without the special ~ option".into());
        }
        let limit = match self.limit {
            Some(0) => usize::MAX,
            Some(limit) => limit,
            None if self.about => ABOUT_LIMIT,
            None => usize::MAX,
        };
        Ok(self.keep.map(|keep| (keep, limit)))
    }
}

/// An id as clients read it.
pub(super) fn id_value(offset: Offset) -> Value {
    Value::text(offset.to_string())
}

/// An entry as clients read it: its id, and its fields in turn.
pub(super) fn entry_value(entry: RawEntry) -> Value {
    let fields = entry.fields.into_iter().flat_map(|(name, value)| [Value::Bulk(name), Value::Bulk(value)]);
    Value::Array(vec![id_value(entry.offset), Value::Array(fields.collect())])
}
