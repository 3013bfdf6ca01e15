//! Commands on keys of any type, of which there is one.

use super::commands::{Answer, Call};
use crate::backbone::resp::Value;

pub(super) fn del(call: &mut Call<'_>) -> Answer {
    let deleted = call.args[1..].iter().filter(|key| call.store.delete(key)).count();
    Ok(Value::count(deleted as u64))
}

/// A key named twice counts twice.
pub(super) fn exists(call: &mut Call<'_>) -> Answer {
    let found = call.args[1..].iter().filter(|key| call.store.stream(key).is_some()).count();
    Ok(Value::count(found as u64))
}

pub(super) fn kind(call: &mut Call<'_>) -> Answer {
    let exists = call.store.stream(&call.args[1]).is_some();
    Ok(Value::simple(if exists { "stream" } else { "none" }))
}
