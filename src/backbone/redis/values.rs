//! From the client library's values to the words of the contract.

use std::time::Duration;

use bytes::Bytes;
use redis::Value;

use super::errors::{checked, unexpected};
use crate::backbone::BackboneError;
use crate::domain::{Offset, RawEntry};

/// A text of any of the kinds that the protocol knows.
pub(super) fn text(value: Value) -> Result<String, BackboneError> {
    match checked(value)? {
        Value::BulkString(bytes) => String::from_utf8(bytes).map_err(|_| unexpected("a text")),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Ok(text),
        Value::Okay => Ok("OK".into()),
        _ => Err(unexpected("a text")),
    }
}

/// An array.
pub(super) fn array(value: Value, command: &str) -> Result<Vec<Value>, BackboneError> {
    match checked(value)? {
        Value::Array(items) => Ok(items),
        _ => Err(unexpected(command)),
    }
}

/// Names and values of a map, which is an array of both before RESP3 and from Lua.
pub(super) fn pairs(value: Value, command: &str) -> Result<Vec<(Value, Value)>, BackboneError> {
    match checked(value)? {
        Value::Map(pairs) => Ok(pairs),
        Value::Array(items) => Ok(two_by_two(items).collect()),
        _ => Err(unexpected(command)),
    }
}

fn two_by_two(items: Vec<Value>) -> impl Iterator<Item = (Value, Value)> {
    let mut items = items.into_iter();
    std::iter::from_fn(move || Some((items.next()?, items.next()?)))
}

/// A whole number.
pub(super) fn count(value: Value, command: &str) -> Result<u64, BackboneError> {
    match checked(value)? {
        Value::Int(number) => u64::try_from(number).map_err(|_| unexpected(command)),
        _ => Err(unexpected(command)),
    }
}

/// What `TIME` answers, in milliseconds since 1970.
pub(super) fn time_ms(value: Value) -> Result<u64, BackboneError> {
    let (seconds, micros): (u64, u64) =
        redis::from_redis_value(checked(value)?).map_err(|_| unexpected("TIME"))?;
    Ok(seconds.saturating_mul(1_000).saturating_add(micros / 1_000))
}

/// A length of time as Redis wants it.
pub(super) fn milliseconds(time: Duration) -> u64 {
    // Beyond a signed number Redis takes it for an error.
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).min(1 << 52)
}

/// A stream id.
pub(super) fn offset(value: &Value) -> Option<Offset> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        Value::SimpleString(text) => text.parse().ok(),
        _ => None,
    }
}

/// One entry: its id and its fields.
pub(super) fn entry(value: Value) -> Option<RawEntry> {
    let Value::Array(parts) = value else { return None };
    let mut parts = parts.into_iter();
    let offset = offset(&parts.next()?)?;
    let Value::Array(fields) = parts.next()? else { return None };
    let bytes = |value| match value {
        Value::BulkString(bytes) => Some(Bytes::from(bytes)),
        _ => None,
    };
    let fields =
        two_by_two(fields).map(|(name, value)| Some((bytes(name)?, bytes(value)?))).collect::<Option<_>>()?;
    Some(RawEntry::new(offset, fields))
}

/// What `XINFO STREAM` says of a stream that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StreamInfo {
    /// Entries in the log.
    pub(super) length: u64,
    /// The last offset ever given out.
    pub(super) last: Offset,
    /// Entries ever added; Redis before 7 does not tell.
    pub(super) added: Option<u64>,
    /// The first entry in the log.
    pub(super) first_entry: Option<Offset>,
    /// The last entry in the log.
    pub(super) last_entry: Option<Offset>,
}

/// A field of an `INFO` text.
pub(super) fn info_field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':'))
}
