//! Work shared by consumer groups. An entry's delivery count is its attempts and one more.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use redis::{Cmd, Pipeline, Value};
use tokio::time::Instant;

use super::connection::Link;
use super::scripts::{FINISH, KEEP, TAKE, TIDY};
use super::values::{self, milliseconds};
use super::{errors, scripts::Script};
use crate::backbone::{BackboneError, GIVEN_BACK, Group, Held, Take, Work};
use crate::domain::Offset;

/// Entries in one command.
const CHUNK: usize = 500;
/// How often a group's pending entries are all looked at for stale ones: a walk over all of them.
const SWEEP_PERIOD: Duration = Duration::from_secs(1);
/// Groups whose last sweep is remembered, until they are looked through for old ones.
const MIN_FORGET: usize = 1_024;

/// When which group was looked through. Who is forgotten is looked through once more, so this may be
/// as short as it likes.
#[derive(Default)]
pub(super) struct Sweeps {
    swept: Mutex<HashMap<Group, Instant>>,
}

impl Sweeps {
    /// Whether it is time to look through the group; then it counts as done.
    fn is_due(&self, group: &Group, period: Duration) -> bool {
        let now = Instant::now();
        let mut swept = self.swept.lock().expect("no holder of this lock panics");
        if swept.get(group).is_some_and(|last| now.duration_since(*last) < period) {
            return false;
        }
        if swept.len() == swept.capacity() && swept.len() >= MIN_FORGET {
            swept.retain(|_, last| now.duration_since(*last) < SWEEP_PERIOD);
        }
        swept.insert(group.clone(), now);
        true
    }

    /// The group was not looked through to its end.
    fn go_on(&self, group: &Group) {
        self.swept.lock().expect("no holder of this lock panics").remove(group);
    }
}

/// Takes work.
pub(super) async fn take(link: &Link, sweeps: &Sweeps, take: &Take) -> Result<Vec<Work>, BackboneError> {
    let most = take.count.min(CHUNK);
    if most == 0 {
        return Ok(Vec::new());
    }
    let sweeping = sweeps.is_due(&take.group, SWEEP_PERIOD.min(take.idle / 10));
    let mut call = call(&TAKE, &take.group);
    call.arg(&*take.consumer).arg(GIVEN_BACK).arg(most).arg(milliseconds(take.idle)).arg(i32::from(sweeping));
    let answer = run(link, [call]).await.and_then(|mut answers| {
        let mut answer = values::array(answers.pop().unwrap_or_default(), "the take script")?.into_iter();
        let stale = values::count(answer.next().unwrap_or_default(), "the take script")?;
        let mut work = Vec::with_capacity(answer.len() / 2);
        while let (Some(count), Some(entry)) = (answer.next(), answer.next()) {
            let attempts = values::count(count, "the take script")?.saturating_sub(1);
            let entry = values::entry(entry).ok_or_else(|| errors::unexpected("the take script"))?;
            work.push(Work { entry, attempts: u8::try_from(attempts).unwrap_or(u8::MAX) });
        }
        Ok((stale, work))
    });
    // More may be stale than fitted, and after an error nobody knows.
    if sweeping && answer.as_ref().map_or(true, |(stale, _)| *stale > 0) {
        sweeps.go_on(&take.group);
    }
    answer.map(|(_, work)| work)
}

/// Goes on holding entries, and says which were held.
pub(super) async fn keep(
    link: &Link,
    group: &Group,
    consumer: &str,
    held: &[Held],
) -> Result<Vec<Offset>, BackboneError> {
    hand_on(link, group, consumer, consumer, held).await
}

/// Gives entries back.
pub(super) async fn give_back(
    link: &Link,
    group: &Group,
    consumer: &str,
    held: &[Held],
) -> Result<(), BackboneError> {
    hand_on(link, group, consumer, GIVEN_BACK, held).await.map(drop)
}

async fn hand_on(
    link: &Link,
    group: &Group,
    from: &str,
    to: &str,
    held: &[Held],
) -> Result<Vec<Offset>, BackboneError> {
    let calls = held.chunks(CHUNK).map(|chunk| {
        let mut call = call(&KEEP, group);
        call.arg(from).arg(to);
        for Held { offset, attempts } in chunk {
            call.arg(offset.to_string()).arg(u16::from(*attempts) + 1);
        }
        call
    });
    let mut kept = Vec::with_capacity(held.len());
    for answer in run(link, calls).await? {
        for offset in values::array(answer, "the keep script")? {
            kept.push(values::offset(&offset).ok_or_else(|| errors::unexpected("the keep script"))?);
        }
    }
    Ok(kept)
}

/// Takes entries out of the group and the stream.
pub(super) async fn finish(link: &Link, group: &Group, offsets: &[Offset]) -> Result<(), BackboneError> {
    let calls = offsets.chunks(CHUNK).map(|chunk| {
        let mut call = call(&FINISH, group);
        chunk.iter().for_each(|offset| {
            call.arg(offset.to_string());
        });
        call
    });
    errors::all_checked(&run(link, calls).await?)
}

/// Removes consumers.
pub(super) async fn tidy(link: &Link, group: &Group, idle: Duration) -> Result<u64, BackboneError> {
    let mut call = call(&TIDY, group);
    call.arg(milliseconds(idle));
    values::count(run(link, [call]).await?.pop().unwrap_or_default(), "the tidy script")
}

fn call(script: &Script, group: &Group) -> Cmd {
    let mut call = script.call(group.stream.as_str());
    call.arg(group.name);
    call
}

async fn run(link: &Link, calls: impl IntoIterator<Item = Cmd>) -> Result<Vec<Value>, BackboneError> {
    let mut pipe = Pipeline::new();
    for call in calls {
        pipe.add_command(call);
    }
    if pipe.is_empty() { Ok(Vec::new()) } else { link.run_scripts(&pipe).await }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::StreamKey;

    fn group(n: usize) -> Group {
        Group { stream: StreamKey::from_raw(&n.to_string()), name: "g" }
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_is_looked_through_once_a_period_and_old_ones_are_forgotten() {
        let sweeps = Sweeps::default();
        assert!(sweeps.is_due(&group(0), SWEEP_PERIOD));
        assert!(!sweeps.is_due(&group(0), SWEEP_PERIOD) && sweeps.is_due(&group(0), Duration::ZERO));
        sweeps.go_on(&group(0));
        assert!(sweeps.is_due(&group(0), SWEEP_PERIOD));
        for n in 0..20 * MIN_FORGET {
            sweeps.is_due(&group(n), SWEEP_PERIOD);
            tokio::time::advance(SWEEP_PERIOD / 100).await;
        }
        assert!(sweeps.swept.lock().unwrap().capacity() <= 4 * MIN_FORGET);
    }
}
