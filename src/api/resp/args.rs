//! Arguments of commands, and the words in which they are refused. The texts are Redis's.

use std::borrow::Cow;
use std::fmt::Write as _;

use bytes::Bytes;

use crate::backbone::embedded::store::Refused;
use crate::backbone::resp::Value;
use crate::domain::Offset;

/// Why a command was refused: an error reply, beginning with its code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal(pub Cow<'static, str>);

pub(super) const SYNTAX: Refusal = Refusal(Cow::Borrowed("ERR syntax error"));
const NOT_AN_INTEGER: Refusal = Refusal(Cow::Borrowed("ERR value is not an integer or out of range"));
const BAD_ID: Refusal = Refusal(Cow::Borrowed("ERR Invalid stream ID specified as stream command argument"));

impl From<&'static str> for Refusal {
    fn from(text: &'static str) -> Self {
        Self(Cow::Borrowed(text))
    }
}

impl From<String> for Refusal {
    fn from(text: String) -> Self {
        Self(Cow::Owned(text))
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        refused.to_string().into()
    }
}

impl From<Refusal> for Value {
    fn from(refusal: Refusal) -> Self {
        Self::error(refusal.0)
    }
}

/// `name` is a command, or `command|subcommand`.
pub(super) fn wrong_arity(name: &str) -> Refusal {
    format!("ERR wrong number of arguments for '{name}' command").into()
}

/// Quotes the start of what was sent, as Redis does.
pub(super) fn unknown_command(args: &[Bytes]) -> Refusal {
    const MOST: usize = 128;
    let mut quoted = String::new();
    for arg in args.iter().skip(1) {
        if quoted.len() >= MOST {
            break;
        }
        // Writing to a string cannot fail.
        let _ = write!(quoted, "'{}' ", start_of(arg, MOST - quoted.len()));
    }
    let name = args.first().map(|name| start_of(name, MOST)).unwrap_or_default();
    format!("ERR unknown command '{name}', with args beginning with: {quoted}").into()
}

pub(super) fn unknown_subcommand(command: &str, given: &[u8]) -> Refusal {
    format!("ERR unknown subcommand '{}'. Try {command} HELP.", start_of(given, 128)).into()
}

/// A subcommand has options that it does not know.
pub(super) fn wrong_options(command: &str, given: &[u8]) -> Refusal {
    let given = start_of(given, 128);
    format!("ERR unknown subcommand or wrong number of arguments for '{given}'. Try {command} HELP.").into()
}

/// The group of a command that names one is not there.
pub(super) fn no_group(key: &[u8], group: &[u8]) -> Refusal {
    let (key, group) = (String::from_utf8_lossy(key), String::from_utf8_lossy(group));
    format!("NOGROUP No such consumer group '{group}' for key name '{key}'").into()
}

/// Key or group of a command that needs both is not there.
pub(super) fn no_key_or_group(key: &[u8], group: &[u8]) -> Refusal {
    let (key, group) = (String::from_utf8_lossy(key), String::from_utf8_lossy(group));
    format!("NOGROUP No such key '{key}' or consumer group '{group}'").into()
}

fn start_of(text: &[u8], most: usize) -> Cow<'_, str> {
    String::from_utf8_lossy(&text[..text.len().min(most)])
}

/// Whether an argument is this word, in any case.
pub(super) fn is(arg: &[u8], word: &str) -> bool {
    arg.eq_ignore_ascii_case(word.as_bytes())
}

/// Walks over arguments.
pub(super) struct Args<'a>(pub &'a [Bytes]);

impl<'a> Args<'a> {
    /// The next argument, if there is one.
    pub fn next(&mut self) -> Option<&'a Bytes> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    /// The next argument; a syntax error where there is none.
    pub fn need(&mut self) -> Result<&'a Bytes, Refusal> {
        self.next().ok_or(SYNTAX)
    }

    /// The next argument as an integer.
    pub fn integer(&mut self) -> Result<i64, Refusal> {
        integer(self.need()?)
    }
}

/// An integer as Redis reads it: no sign but `-`, no leading zeros.
pub(super) fn integer(arg: &[u8]) -> Result<i64, Refusal> {
    let text = std::str::from_utf8(arg).map_err(|_| NOT_AN_INTEGER)?;
    let number: i64 = text.parse().map_err(|_| NOT_AN_INTEGER)?;
    if text.starts_with('+') || (text.len() > 1 && number.to_string().len() != text.len()) {
        return Err(NOT_AN_INTEGER);
    }
    Ok(number)
}

/// An amount where everything below zero means zero.
pub(super) fn amount(arg: &[u8]) -> Result<usize, Refusal> {
    Ok(usize::try_from(integer(arg)?.max(0)).unwrap_or(usize::MAX))
}

/// A stream id; one without a sequence number gets this one.
pub(super) fn id(arg: &[u8], missing_seq: u64) -> Result<Offset, Refusal> {
    let text = std::str::from_utf8(arg).map_err(|_| BAD_ID)?;
    let whole = match text.contains('-') {
        true => text.parse().ok(),
        false => format!("{text}-{missing_seq}").parse().ok(),
    };
    whole.ok_or(BAD_ID)
}

/// The millisecond part of `<ms>-*`.
pub(super) fn id_of_millisecond(arg: &[u8]) -> Option<Result<u64, Refusal>> {
    let ms = arg.strip_suffix(b"-*")?;
    Some(if ms.contains(&b'-') { Err(BAD_ID) } else { id(ms, 0).map(|id| id.ms) })
}

/// The lower bound of a range, included: `-`, an id, or `(` and an id.
pub(super) fn range_start(arg: &[u8]) -> Result<Offset, Refusal> {
    match arg {
        b"-" => Ok(Offset::ZERO),
        b"+" => Ok(Offset::MAX),
        [b'(', rest @ ..] => match id(rest, 0)? {
            Offset::MAX => Err("ERR invalid start ID for the interval".into()),
            start => Ok(start.next()),
        },
        _ => id(arg, 0),
    }
}

/// The upper bound of a range, included: `+`, an id, or `(` and an id.
pub(super) fn range_end(arg: &[u8]) -> Result<Offset, Refusal> {
    match arg {
        b"+" => Ok(Offset::MAX),
        b"-" => Ok(Offset::ZERO),
        [b'(', rest @ ..] => match id(rest, u64::MAX)? {
            Offset::ZERO => Err("ERR invalid end ID for the interval".into()),
            end => Ok(end.prev()),
        },
        _ => id(arg, u64::MAX),
    }
}

/// Ids, all of which must parse before anything is done.
pub(super) fn ids(args: &[Bytes]) -> Result<Vec<Offset>, Refusal> {
    args.iter().map(|arg| id(arg, 0)).collect()
}
