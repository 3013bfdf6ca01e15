//! Key-value stores: one hash each, whose field without a name holds how many bytes it has.

use bytes::Bytes;
use redis::Value;

use super::connection::Link;
use super::scripts::{KV_DELETE, KV_INCREMENT, KV_KEYS, KV_REPLACE, KV_SET};
use super::{errors, values};
use crate::backbone::BackboneError;
use crate::backbone::kv::{KvAnswer, KvOp, KvStore, Replace};

/// Keys that the server looks at for one answer.
const LISTED: usize = 100;

/// Does one thing. The scripts answer an array: a word, and what belongs to it.
pub(super) async fn apply(link: &Link, store: &KvStore, op: KvOp) -> Result<KvAnswer, BackboneError> {
    let mut pipe = redis::pipe();
    let quotas = [store.max_keys, store.max_bytes];
    match &op {
        KvOp::Get(key) => pipe.cmd("HGET").arg(&*store.key).arg(&**key),
        KvOp::Set(key, value) => {
            pipe.add_command(KV_SET.call(&store.key)).arg(&**key).arg(value.as_ref()).arg(&quotas)
        }
        KvOp::Delete(key) => pipe.add_command(KV_DELETE.call(&store.key)).arg(&**key),
        KvOp::Increment(key, delta) => {
            pipe.add_command(KV_INCREMENT.call(&store.key)).arg(&**key).arg(*delta).arg(&quotas)
        }
        KvOp::Keys(cursor) => pipe.add_command(KV_KEYS.call(&store.key)).arg(*cursor).arg(LISTED),
        // The server carries out one command after the other.
        KvOp::GetTimed(key) => pipe.cmd("TIME").cmd("HGET").arg(&*store.key).arg(&**key),
        KvOp::Replace(replace) => {
            pipe.add_command(KV_REPLACE.call(&store.key)).arg(arguments(replace, quotas))
        }
    };
    let mut answers = link.run_scripts(&pipe).await?;
    let answer = answers.pop().unwrap_or_default();
    match op {
        KvOp::Get(_) => Ok(KvAnswer::Value(value(answer)?)),
        KvOp::GetTimed(_) => {
            let now_ms = values::time_ms(answers.pop().unwrap_or_default())?;
            Ok(KvAnswer::Timed(value(answer)?, now_ms))
        }
        KvOp::Keys(_) => keys(answer),
        KvOp::Set(..) | KvOp::Delete(_) | KvOp::Increment(..) | KvOp::Replace(_) => {
            changed(&values::text(answer)?)
        }
    }
}

fn arguments(replace: &Replace, [keys, bytes]: [u64; 2]) -> Vec<Vec<u8>> {
    let Replace { key, expected, value, mark, by_ms } = replace;
    let number = |number: u64| number.to_string().into_bytes();
    vec![
        key.as_bytes().to_vec(),
        value.to_vec(),
        number(keys),
        number(bytes),
        number(expected.is_some().into()),
        expected.as_deref().unwrap_or_default().to_vec(),
        mark.0.as_bytes().to_vec(),
        mark.1.to_vec(),
        number(*by_ms),
    ]
}

fn value(answer: Value) -> Result<Option<Bytes>, BackboneError> {
    match errors::checked(answer)? {
        Value::Nil => Ok(None),
        Value::BulkString(value) => Ok(Some(value.into())),
        _ => Err(errors::unexpected("HGET")),
    }
}

fn changed(word: &str) -> Result<KvAnswer, BackboneError> {
    match word {
        "done" => Ok(KvAnswer::Done),
        "quota" => Ok(KvAnswer::OverQuota),
        "number" => Ok(KvAnswer::NotANumber),
        "changed" => Ok(KvAnswer::Changed),
        "late" => Ok(KvAnswer::Late),
        sum => {
            sum.parse().map(KvAnswer::Sum).map_err(|_| errors::unexpected("a change of a key-value store"))
        }
    }
}

fn keys(answer: Value) -> Result<KvAnswer, BackboneError> {
    let mut parts = values::array(answer, "HSCAN")?.into_iter();
    let cursor = values::text(parts.next().unwrap_or_default())?;
    let cursor = cursor.parse().map_err(|_| errors::unexpected("HSCAN"))?;
    let names = values::array(parts.next().unwrap_or_default(), "HSCAN")?.into_iter();
    let names = names.filter_map(|name| values::text(name).ok());
    Ok(KvAnswer::Keys(names.filter(|name| !name.is_empty()).collect(), cursor))
}
