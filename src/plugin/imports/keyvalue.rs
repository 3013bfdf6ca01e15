//! `wasi:keyvalue`: the tenant's store over the backbone. Pure calls are denied.

use bytes::Bytes;
use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentNamedList, Lift, Lower, Resource};

use super::super::contract::{KvError, KvKeys};
use super::{HostState, Inert, Instance, Way};
use crate::backbone::kv::{KV_KEY_BYTES, KvAnswer, KvOp};

type Store<'s> = StoreContextMut<'s, HostState>;
type Bucket = Resource<Inert>;

pub(super) fn define_store(instance: &mut Instance<'_>, way: Way) -> wasmtime::Result<()> {
    instance.func_wrap("open", move |_: Store<'_>, (name,): (String,)| {
        let opened = match (way, name.as_str()) {
            (Way::Pure, _) => Err(KvError::AccessDenied),
            (Way::Free, "default" | "") => Ok(Bucket::new_own(0)),
            (Way::Free, _) => Err(KvError::NoSuchStore),
        };
        Ok((opened,))
    })?;
    operation(
        instance,
        way,
        "[method]bucket.get",
        |_, (_, key): (Bucket, Box<str>)| Ok(KvOp::Get(checked(key)?)),
        |answer| match answer {
            KvAnswer::Value(value) => Ok(value),
            other => Err(unexpected(other)),
        },
    )?;
    operation(
        instance,
        way,
        "[method]bucket.set",
        |state, (_, key, value): (Bucket, Box<str>, Bytes)| {
            let most = state.environment.kv_value_bytes;
            if value.len() > most {
                return Err(KvError::Other(format!("the value has more than {most} bytes")));
            }
            Ok(KvOp::Set(checked(key)?, value))
        },
        done,
    )?;
    operation(
        instance,
        way,
        "[method]bucket.delete",
        |_, (_, key): (Bucket, Box<str>)| Ok(KvOp::Delete(checked(key)?)),
        done,
    )?;
    operation(
        instance,
        way,
        "[method]bucket.exists",
        |_, (_, key): (Bucket, Box<str>)| Ok(KvOp::Get(checked(key)?)),
        |answer| match answer {
            KvAnswer::Value(value) => Ok(value.is_some()),
            other => Err(unexpected(other)),
        },
    )?;
    operation(
        instance,
        way,
        "[method]bucket.list-keys",
        |_, (_, cursor): (Bucket, Option<u64>)| Ok(KvOp::Keys(cursor.unwrap_or(0))),
        |answer| match answer {
            KvAnswer::Keys(keys, next) => Ok(KvKeys { keys, cursor: (next != 0).then_some(next) }),
            other => Err(unexpected(other)),
        },
    )
}

pub(super) fn define_atomics(instance: &mut Instance<'_>, way: Way) -> wasmtime::Result<()> {
    operation(
        instance,
        way,
        "increment",
        |_, (_, key, delta): (Bucket, Box<str>, u64)| {
            let delta = i64::try_from(delta).map_err(|_| unexpected(KvAnswer::NotANumber))?;
            Ok(KvOp::Increment(checked(key)?, delta))
        },
        |answer| match answer {
            // Another program may have stored a negative number.
            KvAnswer::Sum(sum) => u64::try_from(sum).map_err(|_| unexpected(KvAnswer::NotANumber)),
            other => Err(unexpected(other)),
        },
    )
}

/// A function that asks the backbone one thing.
fn operation<P, R>(
    instance: &mut Instance<'_>,
    way: Way,
    name: &str,
    ask: fn(&HostState, P) -> Result<KvOp, KvError>,
    read: fn(KvAnswer) -> Result<R, KvError>,
) -> wasmtime::Result<()>
where
    P: ComponentNamedList + Lift + Send + Sync + 'static,
    R: Lower + Send + Sync + 'static,
    (Result<R, KvError>,): ComponentNamedList + Lower,
{
    match way {
        // Without a future: pure instances are called synchronously.
        Way::Pure => instance.func_wrap(name, |_: Store<'_>, _: P| Ok((Err::<R, _>(KvError::AccessDenied),))),
        Way::Free => instance.func_wrap_async(name, move |store: Store<'_>, params: P| {
            let asked = ask(store.data(), params);
            let environment = std::sync::Arc::clone(&store.data().environment);
            Box::new(async move {
                let op = match asked {
                    Ok(op) => op,
                    Err(error) => return wasmtime::Result::Ok((Err(error),)),
                };
                let answer = environment.backbone.kv(&environment.kv, op).await;
                let answer = answer.map_err(|error| KvError::Other(error.to_string()));
                Ok((answer.and_then(read),))
            })
        }),
    }
}

fn checked(key: Box<str>) -> Result<Box<str>, KvError> {
    if (1..=KV_KEY_BYTES).contains(&key.len()) {
        Ok(key)
    } else {
        Err(KvError::Other(format!("a key has 1 to {KV_KEY_BYTES} bytes")))
    }
}

fn done(answer: KvAnswer) -> Result<(), KvError> {
    match answer {
        KvAnswer::Done => Ok(()),
        other => Err(unexpected(other)),
    }
}

fn unexpected(answer: KvAnswer) -> KvError {
    KvError::Other(
        match answer {
            KvAnswer::OverQuota => "the tenant's store is full (plugins.kv_keys, plugins.kv_bytes)",
            KvAnswer::NotANumber => "the value is no number, or the sum would be too large",
            _ => "the backbone gave another answer than was asked for",
        }
        .to_owned(),
    )
}
