//! Cursors: one hash a device, `gen`, `session`, `ttl` and channel → `<offset> <epoch> <attempts> [<head>]`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indexmap::IndexMap;
use redis::Value;

use super::connection::Link;
use super::scripts::{BEGIN_SESSION, CLAIM, END_SESSION, STORE};
use super::{errors, values};
use crate::backbone::{BackboneError, CursorWrite, Stored};
use crate::domain::{ChannelName, Cursor, CursorKey, Generation, Position, SessionId};

/// Devices in one pipeline: 10,000 hashes cost the server some 10 ms, so others wait for a twentieth.
const CHUNK: usize = 500;
/// Cursors in one script call: Lua's stack takes no more than some thousands of values.
const CURSORS_A_CALL: usize = 500;
/// How long cursors live when their hash is gone and no device was claimed here yet.
const FALLBACK_TTL_MS: u64 = 7 * 24 * 3_600 * 1_000;

/// Remembers the time to live last asked for, for hashes that have lost theirs.
pub(super) struct Cursors {
    ttl_ms: AtomicU64,
}

impl Default for Cursors {
    fn default() -> Self {
        Self { ttl_ms: AtomicU64::new(FALLBACK_TTL_MS) }
    }
}

impl Cursors {
    /// Begins a generation and reads what is stored.
    pub(super) async fn claim(
        &self,
        link: &Link,
        device: &CursorKey,
        ttl: Duration,
    ) -> Result<(Generation, Vec<(ChannelName, Cursor)>), BackboneError> {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).clamp(1, 1 << 50);
        self.ttl_ms.store(ttl_ms, Ordering::Relaxed);
        let mut pipe = redis::pipe();
        pipe.add_command(CLAIM.call(device.as_str())).arg(ttl_ms);
        let hash = link.run_scripts(&pipe).await?.pop().unwrap_or_default();
        let mut generation = None;
        let mut cursors = Vec::new();
        for (field, value) in values::pairs(hash, "HGETALL")? {
            let (Ok(field), Ok(value)) = (values::text(field), values::text(value)) else { continue };
            match field.as_str() {
                "gen" => generation = value.parse().ok().map(Generation),
                "ttl" | "session" => {}
                // What does not parse was written by nobody we know: a missing cursor is the safe
                // reading of it, since the subscription then starts as its rules say.
                channel => cursors.extend(ChannelName::parse(channel).ok().zip(parse(&value))),
            }
        }
        let generation = generation.ok_or_else(|| errors::unexpected("HGETALL"))?;
        Ok((generation, cursors))
    }

    /// Stores cursors, all of one device and generation in as few calls as may be.
    pub(super) async fn store(
        &self,
        link: &Link,
        writes: &[CursorWrite],
    ) -> Vec<Result<Stored, BackboneError>> {
        let mut devices: IndexMap<(&CursorKey, Generation), Vec<usize>> = IndexMap::new();
        for (index, write) in writes.iter().enumerate() {
            devices.entry((&write.device, write.generation)).or_default().push(index);
        }
        let calls: Vec<(&CursorKey, Generation, &[usize])> = devices
            .iter()
            .flat_map(|((device, generation), indexes)| {
                indexes.chunks(CURSORS_A_CALL).map(|chunk| (*device, *generation, chunk))
            })
            .collect();
        let mut answers: Vec<Result<Stored, BackboneError>> = vec![Ok(Stored::Yes); writes.len()];
        for chunk in calls.chunks(CHUNK) {
            let mut pipe = redis::Pipeline::with_capacity(chunk.len());
            for (device, generation, indexes) in chunk {
                pipe.add_command(self.call(device, *generation, indexes.iter().map(|i| &writes[*i])));
            }
            let stored = match link.run_scripts(&pipe).await {
                Ok(values) => values.into_iter().map(stored).collect(),
                Err(error) => vec![Err(error); chunk.len()],
            };
            for ((_, _, indexes), stored) in chunk.iter().zip(stored) {
                for index in *indexes {
                    answers[*index] = stored.clone();
                }
            }
        }
        answers
    }

    fn call<'a>(
        &self,
        device: &CursorKey,
        generation: Generation,
        writes: impl Iterator<Item = &'a CursorWrite>,
    ) -> redis::Cmd {
        let mut call = STORE.call(device.as_str());
        call.arg(generation.0).arg(self.ttl_ms.load(Ordering::Relaxed));
        for CursorWrite { channel, cursor: Cursor { position, attempts, head }, .. } in writes {
            call.arg(channel.as_str()).arg(position.offset.to_string()).arg(position.epoch.to_string());
            match head {
                // The script takes what follows the offset as it is.
                Some(head) => call.arg(format!("{attempts} {head}")),
                None => call.arg(*attempts),
            };
        }
        call
    }
}

/// Notes the session of a generation; the one noted before.
pub(super) async fn begin(
    link: &Link,
    device: &CursorKey,
    generation: Generation,
    session: SessionId,
) -> Result<Option<SessionId>, BackboneError> {
    let mut pipe = redis::pipe();
    pipe.add_command(BEGIN_SESSION.call(device.as_str())).arg(generation.0).arg(session.to_string());
    match errors::checked(link.run_scripts(&pipe).await?.pop().unwrap_or_default())? {
        Value::Nil => Ok(None),
        noted => Ok(values::text(noted)?.parse().ok()),
    }
}

/// Whether a session is over that ends under this generation.
pub(super) async fn end(
    link: &Link,
    device: &CursorKey,
    generation: Generation,
    session: SessionId,
) -> Result<bool, BackboneError> {
    let mut pipe = redis::pipe();
    pipe.add_command(END_SESSION.call(device.as_str())).arg(generation.0).arg(session.to_string());
    match errors::checked(link.run_scripts(&pipe).await?.pop().unwrap_or_default())? {
        Value::Int(over) => Ok(over == 1),
        _ => Err(errors::unexpected("the script that ends sessions")),
    }
}

fn stored(value: Value) -> Result<Stored, BackboneError> {
    match errors::checked(value)? {
        Value::Int(1) => Ok(Stored::Yes),
        Value::Int(0) => Ok(Stored::Stale),
        _ => Err(errors::unexpected("the script that stores cursors")),
    }
}

fn parse(value: &str) -> Option<Cursor> {
    let mut parts = value.split(' ');
    let offset = parts.next()?.parse().ok()?;
    let epoch = parts.next()?.parse().ok()?;
    let attempts = parts.next()?.parse().ok()?;
    let head = parts.next().map(str::parse).transpose().ok()?;
    Some(Cursor { position: Position { offset, epoch }, attempts, head })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Epoch, Offset};

    #[test]
    fn cursors_are_read_with_and_without_the_message_that_was_tried() {
        let position = Position { offset: Offset { ms: 5, seq: 1 }, epoch: Epoch(0x12ab) };
        let head = Some(Offset { ms: 7, seq: 0 });
        let with_head = Cursor { position, attempts: 2, head };
        assert_eq!(parse("5-1 00000000000012ab 2 7-0"), Some(with_head));
        assert_eq!(parse("5-1 00000000000012ab 2"), Some(Cursor { head: None, ..with_head }));
        assert_eq!(parse("5-1 00000000000012ab 2 seven"), None);
    }
}
