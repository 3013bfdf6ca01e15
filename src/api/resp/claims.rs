//! Pending entries: looking at them and taking them over.

use super::args::{Args, Refusal, SYNTAX, amount, id, integer, is, no_key_or_group, range_end, range_start};
use super::commands::{Answer, Call};
use super::streams::{entry_value, id_value};
use crate::backbone::embedded::group::{Claim, Group, Pending};
use crate::backbone::resp::Value;
use crate::domain::{Offset, RawEntry};

/// `XPENDING key group [[IDLE ms] start end count [consumer]]`
pub(super) fn xpending(call: &mut Call<'_>) -> Answer {
    let (key, name) = (&call.args[1], &call.args[2]);
    let wanted = Wanted::parse(&call.args[3..])?;
    let group = call.store.stream(key).and_then(|stream| stream.groups.get(name));
    let group = group.ok_or_else(|| no_key_or_group(key, name))?;
    Ok(match wanted {
        None => summary(group),
        Some(wanted) => wanted.find(group, call.now_ms),
    })
}

fn summary(group: &Group) -> Value {
    let pending = group.pending();
    let (Some((first, _)), Some((last, _))) = (pending.first_key_value(), pending.last_key_value()) else {
        return Value::Array(vec![Value::Integer(0), Value::Null, Value::Null, Value::NullArray]);
    };
    let busy = group.consumers().filter(|(_, consumer)| !consumer.pending().is_empty());
    let busy = busy.map(|(name, consumer)| {
        Value::Array(vec![Value::Bulk(name.clone()), Value::text(consumer.pending().len().to_string())])
    });
    Value::Array(vec![
        Value::count(pending.len() as u64),
        id_value(*first),
        id_value(*last),
        Value::Array(busy.collect()),
    ])
}

/// Which pending entries are to be listed.
struct Wanted<'a> {
    min_idle_ms: u64,
    start: Offset,
    end: Offset,
    count: usize,
    consumer: Option<&'a [u8]>,
}

impl<'a> Wanted<'a> {
    fn parse(args: &'a [bytes::Bytes]) -> Result<Option<Self>, Refusal> {
        let mut args = Args(args);
        if args.0.is_empty() {
            return Ok(None);
        }
        let mut min_idle_ms = 0;
        if is(&args.0[0], "IDLE") {
            args.next();
            min_idle_ms = amount(args.need()?)? as u64;
        }
        if !matches!(args.0.len(), 3 | 4) {
            return Err(SYNTAX);
        }
        let (start, end, count) = (args.need()?, args.need()?, args.need()?);
        let count = amount(count)?;
        let (start, end) = (range_start(start)?, range_end(end)?);
        Ok(Some(Self { min_idle_ms, start, end, count, consumer: args.next().map(|name| &**name) }))
    }

    fn find(&self, group: &Group, now_ms: u64) -> Value {
        let idle_ms = |pending: &Pending| now_ms.saturating_sub(pending.delivered_ms);
        if self.start > self.end {
            return Value::Array(Vec::new());
        }
        let listed = group
            .pending()
            .range(self.start..=self.end)
            .filter(|(_, pending)| self.consumer.is_none_or(|name| pending.consumer == name))
            .filter(|(_, pending)| idle_ms(pending) >= self.min_idle_ms)
            .take(self.count);
        Value::Array(
            listed
                .map(|(offset, pending)| {
                    Value::Array(vec![
                        id_value(*offset),
                        Value::Bulk(pending.consumer.clone()),
                        Value::count(idle_ms(pending)),
                        Value::count(pending.count),
                    ])
                })
                .collect(),
        )
    }
}

/// `XCLAIM key group consumer min-idle id … [options]`
pub(super) fn xclaim(call: &mut Call<'_>) -> Answer {
    let args = call.args;
    let now_ms = call.now_ms;
    // As in Redis the group is looked for first, and the first argument that is no id begins the options.
    find_group(call)?;
    let mut how = Claim { min_idle_ms: min_idle(&args[4], "XCLAIM")?, ..Claim::default() };
    let mut ids = Vec::new();
    let mut rest = Args(&args[5..]);
    while let Some(offset) = rest.0.first().and_then(|arg| id(arg, 0).ok()) {
        ids.push(offset);
        rest.next();
    }
    let last = claim_options(&mut how, rest, now_ms)?;
    if ids.is_empty() {
        return Err("ERR Invalid stream ID specified as stream command argument".into());
    }
    let claimed = call.store.change(&args[1], |stream| {
        let group = stream.groups.get_mut(&args[2])?;
        group.see(&args[3], now_ms);
        group.advance_to(last);
        let claim = |offset| group.claim(&stream.log, &args[3], offset, &how, now_ms);
        Some(ids.into_iter().filter_map(claim).collect::<Vec<_>>())
    });
    Ok(entries(claimed.flatten().unwrap_or_default(), how.just_id))
}

/// Reads the options of `XCLAIM`; answers `LASTID`.
fn claim_options(how: &mut Claim, mut args: Args<'_>, now_ms: u64) -> Result<Offset, Refusal> {
    let mut last = Offset::ZERO;
    while let Some(arg) = args.next() {
        if is(arg, "FORCE") {
            how.force = true;
        } else if is(arg, "JUSTID") {
            how.just_id = true;
        } else if is(arg, "IDLE") {
            let idle = integer(args.need()?).map_err(|_| "ERR Invalid IDLE option argument for XCLAIM")?;
            how.delivered_ms = Some(now_ms.saturating_sub(u64::try_from(idle).unwrap_or(0)));
        } else if is(arg, "TIME") {
            let time = integer(args.need()?).map_err(|_| "ERR Invalid TIME option argument for XCLAIM")?;
            // A time to come, or before all time, is now.
            how.delivered_ms = Some(u64::try_from(time).unwrap_or(now_ms).min(now_ms));
        } else if is(arg, "RETRYCOUNT") {
            let count =
                integer(args.need()?).map_err(|_| "ERR Invalid RETRYCOUNT option argument for XCLAIM")?;
            how.count = Some(u64::try_from(count).unwrap_or(0));
        } else if is(arg, "LASTID") {
            last = id(args.need()?, 0)?;
        } else {
            return Err(format!("ERR Unrecognized XCLAIM option '{}'", String::from_utf8_lossy(arg)).into());
        }
    }
    Ok(last)
}

/// `XAUTOCLAIM key group consumer min-idle start [COUNT n] [JUSTID]`
pub(super) fn xautoclaim(call: &mut Call<'_>) -> Answer {
    let args = call.args;
    let now_ms = call.now_ms;
    let mut how = Claim { min_idle_ms: min_idle(&args[4], "XAUTOCLAIM")?, ..Claim::default() };
    let start = range_start(&args[5])?;
    let mut count = 100;
    let mut rest = Args(&args[6..]);
    while let Some(arg) = rest.next() {
        if is(arg, "COUNT") && !rest.0.is_empty() {
            count = amount(rest.need()?)?;
            if count == 0 {
                return Err("ERR COUNT must be > 0".into());
            }
        } else if is(arg, "JUSTID") {
            how.just_id = true;
        } else {
            return Err(SYNTAX);
        }
    }
    find_group(call)?;
    let swept = call.store.change(&args[1], |stream| {
        let group = stream.groups.get_mut(&args[2])?;
        group.see(&args[3], now_ms);
        Some(group.sweep(&stream.log, &args[3], start, count, &how, now_ms))
    });
    let swept = swept.flatten().ok_or_else(|| no_key_or_group(&args[1], &args[2]))?;
    Ok(Value::Array(vec![
        id_value(swept.next),
        entries(swept.claimed, how.just_id),
        Value::Array(swept.gone.into_iter().map(id_value).collect()),
    ]))
}

fn find_group(call: &Call<'_>) -> Result<(), Refusal> {
    let (key, group) = (&call.args[1], &call.args[2]);
    let found = call.store.stream(key).is_some_and(|stream| stream.groups.contains_key(group));
    if found { Ok(()) } else { Err(no_key_or_group(key, group)) }
}

fn min_idle(arg: &[u8], command: &str) -> Result<u64, Refusal> {
    let ms = integer(arg).map_err(|_| format!("ERR Invalid min-idle-time argument for {command}"))?;
    Ok(u64::try_from(ms).unwrap_or(0))
}

fn entries(entries: Vec<RawEntry>, just_id: bool) -> Value {
    let value = |entry: RawEntry| if just_id { id_value(entry.offset) } else { entry_value(entry) };
    Value::Array(entries.into_iter().map(value).collect())
}
