//! `XGROUP` and `XACK`.

use bytes::Bytes;

use super::args::{Args, Refusal, id, ids, is, no_group, unknown_subcommand, wrong_arity, wrong_options};
use super::commands::{Answer, Call, fits};
use crate::backbone::embedded::group::Group;
use crate::backbone::embedded::store::{Refused, Stream};
use crate::backbone::resp::Value;

type Subcommand = fn(&mut Call<'_>) -> Answer;

const SUBCOMMANDS: [(&str, i32, Subcommand); 5] = [
    ("create", -5, create),
    ("setid", -5, set_id),
    ("destroy", 4, destroy),
    ("createconsumer", 5, create_consumer),
    ("delconsumer", 5, delete_consumer),
];

pub(super) fn xgroup(call: &mut Call<'_>) -> Answer {
    let given = &call.args[1];
    let Some((name, arity, run)) = SUBCOMMANDS.into_iter().find(|(name, ..)| is(given, name)) else {
        return Err(unknown_subcommand("XGROUP", given));
    };
    if !fits(arity, call.args.len()) {
        return Err(wrong_arity(&format!("xgroup|{name}")));
    }
    run(call)
}

/// `XGROUP CREATE key group id|$ [MKSTREAM] [ENTRIESREAD n]`
fn create(call: &mut Call<'_>) -> Answer {
    let (key, name) = (&call.args[2], Bytes::copy_from_slice(&call.args[3]));
    let options = PositionOptions::parse(call.args, true)?;
    if call.store.stream(key).is_none() {
        if !options.make {
            return Err(no_key());
        }
        // Where the id is wrong, no stream is to be left behind.
        start_of(&Stream::default(), &call.args[4])?;
    }
    if call.store.is_full() {
        return Err(Refused::Full.into());
    }
    call.store.make(key);
    change(call, |stream, args| {
        let start = start_of(stream, &args[4])?;
        if stream.groups.contains_key(&name) {
            return Err("BUSYGROUP Consumer Group name already exists".into());
        }
        stream.groups.insert(name, Group::new(start, options.read));
        Ok(Value::simple("OK"))
    })
}

/// `XGROUP SETID key group id|$ [ENTRIESREAD n]`
fn set_id(call: &mut Call<'_>) -> Answer {
    let options = PositionOptions::parse(call.args, false)?;
    let answer = change(call, |stream, args| {
        let start = start_of(stream, &args[4]);
        let group = stream.groups.get_mut(&args[3]).ok_or_else(|| no_group(&args[2], &args[3]))?;
        group.set_position(start?, options.read);
        Ok(Value::simple("OK"))
    })?;
    // A group that was moved back has something for who waits in it.
    call.store.wake(&call.args[2]);
    Ok(answer)
}

/// `XGROUP DESTROY key group`
fn destroy(call: &mut Call<'_>) -> Answer {
    let destroyed =
        change(call, |stream, args| Ok(Value::count(stream.groups.remove(&args[3]).is_some().into())))?;
    call.store.wake(&call.args[2]);
    Ok(destroyed)
}

/// `XGROUP CREATECONSUMER key group consumer`
fn create_consumer(call: &mut Call<'_>) -> Answer {
    let now_ms = call.now_ms;
    change_group(call, |group, name| {
        let new = group.consumer(name).is_none();
        if new {
            group.see(name, now_ms);
        }
        Value::count(new.into())
    })
}

/// `XGROUP DELCONSUMER key group consumer`
fn delete_consumer(call: &mut Call<'_>) -> Answer {
    change_group(call, |group, name| Value::count(group.remove_consumer(name) as u64))
}

/// `XACK key group id …`
pub(super) fn xack(call: &mut Call<'_>) -> Answer {
    let ids = ids(&call.args[3..])?;
    let group = &call.args[2];
    let acked = call.store.change(&call.args[1], |stream| {
        let Some(group) = stream.groups.get_mut(group) else { return 0 };
        ids.iter().filter(|id| group.ack(**id)).count()
    });
    Ok(Value::count(acked.unwrap_or(0) as u64))
}

fn change(call: &mut Call<'_>, change: impl FnOnce(&mut Stream, &[Bytes]) -> Answer) -> Answer {
    let args = call.args;
    call.store.change(&args[2], |stream| change(stream, args)).unwrap_or_else(|| Err(no_key()))
}

fn change_group(call: &mut Call<'_>, action: impl FnOnce(&mut Group, &Bytes) -> Value) -> Answer {
    change(call, |stream, args| {
        let group = stream.groups.get_mut(&args[3]).ok_or_else(|| no_group(&args[2], &args[3]))?;
        Ok(action(group, &args[4]))
    })
}

fn start_of(stream: &Stream, arg: &[u8]) -> Result<crate::domain::Offset, Refusal> {
    if arg == b"$" { Ok(stream.log.last()) } else { id(arg, 0) }
}

fn no_key() -> Refusal {
    "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use the \
     MKSTREAM option to create an empty stream automatically."
        .into()
}

struct PositionOptions {
    make: bool,
    read: Option<u64>,
}

impl PositionOptions {
    fn parse(all: &[Bytes], may_make: bool) -> Result<Self, Refusal> {
        let mut options = Self { make: false, read: None };
        let mut args = Args(&all[5..]);
        while let Some(arg) = args.next() {
            if may_make && is(arg, "MKSTREAM") {
                options.make = true;
            } else if is(arg, "ENTRIESREAD") && !args.0.is_empty() {
                options.read = match args.integer()? {
                    -1 => None,
                    read => Some(
                        u64::try_from(read)
                            .map_err(|_| "ERR value for ENTRIESREAD must be positive or -1")?,
                    ),
                };
            } else {
                return Err(wrong_options("XGROUP", &all[1]));
            }
        }
        Ok(options)
    }
}
