//! The epoch: one life of a master's data, kept in one key and renewed on evidence of loss.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use redis::Value;
use redis::aio::MultiplexedConnection;

use super::connection::{Link, ask};
use super::scripts::RENEW_EPOCH;
use super::{errors, values};
use crate::backbone::BackboneError;
use crate::domain::Epoch;
use crate::domain::keys::EPOCH_KEY;

/// Holds the epoch and what tells whether a promoted replica lacks data.
#[derive(Default)]
pub(super) struct EpochKeeper {
    current: AtomicU64,
    /// The master's history and how far it had come when last asked.
    seen: Mutex<Option<(String, u64)>>,
}

impl EpochKeeper {
    /// The epoch as last read.
    pub(super) fn current(&self) -> Epoch {
        Epoch(self.current.load(Ordering::Acquire))
    }

    /// Checks that the server is a master, reads its epoch (a missing key begins a new one) and renews
    /// it where a promoted replica lacks what its master had. At every connect and every few seconds.
    pub(super) async fn check(&self, connection: &mut MultiplexedConnection) -> Result<(), BackboneError> {
        let mut pipe = redis::pipe();
        pipe.cmd("INFO").arg("replication");
        pipe.cmd("GET").arg(EPOCH_KEY);
        let mut answers = ask(connection, &pipe).await?.into_iter();
        let (info, stored) = (answers.next(), answers.next());
        // A user without the right to INFO loses only this evidence.
        let replication = info.and_then(|info| values::text(info).ok()).map(|text| Replication::parse(&text));
        if replication.as_ref().is_some_and(|replication| replication.is_replica) {
            return Err(BackboneError::Away("the server is a replica, not a master".into()));
        }
        let epoch = match errors::checked(stored.unwrap_or_default())? {
            Value::Nil => begun(ask(connection, &beginning()).await?)?,
            stored => parse(stored)?,
        };
        let lacking = replication.is_some_and(|replication| self.note(replication));
        if lacking && self.current() == epoch {
            tracing::warn!(%epoch, "the promoted Redis lacks data of its master: a new epoch begins");
            let mut pipe = redis::pipe();
            pipe.cmd("EVAL").arg(include_str!("scripts/renew_epoch.lua")).arg(1).arg(EPOCH_KEY);
            pipe.arg(epoch.to_string()).arg(Epoch::random().to_string());
            let answer = ask(connection, &pipe).await?.pop().unwrap_or_default();
            self.take(parse(errors::checked(answer)?)?);
        } else {
            self.take(epoch);
        }
        Ok(())
    }

    /// Renews the epoch in which loss was seen, unless another node did already; returns the epoch
    /// that counts now.
    pub(super) async fn renew(&self, link: &Link, lossy: Epoch) -> Result<Epoch, BackboneError> {
        let mut call = RENEW_EPOCH.call(EPOCH_KEY);
        call.arg(lossy.to_string()).arg(Epoch::random().to_string());
        let mut pipe = redis::pipe();
        pipe.add_command(call);
        let answer = link.run_scripts(&pipe).await?.pop().unwrap_or_default();
        let epoch = parse(errors::checked(answer)?)?;
        self.take(epoch);
        Ok(epoch)
    }

    /// Whether another connection, which answered this to `INFO replication`, leads to the master that
    /// was checked last.
    pub(super) fn is_of_master(&self, info: &str) -> bool {
        let found = Replication::parse(info);
        let seen = self.seen.lock().expect("no holder of this lock panics");
        !found.is_replica && seen.as_ref().is_none_or(|(id, _)| *id == found.id)
    }

    /// Reads the epoch again: a stream that is gone may have gone with all others, and what it held is then told
    /// as a loss of all, not only up to where somebody stood.
    pub(super) async fn confirm(&self, link: &Link) -> Result<Epoch, BackboneError> {
        let mut pipe = redis::pipe();
        pipe.cmd("GET").arg(EPOCH_KEY);
        let stored = link.run(&pipe).await?.pop().unwrap_or_default();
        let epoch = match errors::checked(stored)? {
            Value::Nil => begun(link.run(&beginning()).await?)?,
            stored => parse(stored)?,
        };
        self.take(epoch);
        Ok(epoch)
    }

    fn take(&self, epoch: Epoch) {
        let before = self.current.swap(epoch.0, Ordering::AcqRel);
        if before != 0 && before != epoch.0 {
            tracing::warn!(before = %Epoch(before), %epoch, "the backbone's epoch changed");
        }
    }

    /// Remembers how far the master has come; whether this one continues the history last seen from
    /// an earlier point.
    fn note(&self, now: Replication) -> bool {
        let mut seen = self.seen.lock().expect("no holder of this lock panics");
        let lacking = seen.as_ref().is_some_and(|(id, offset)| {
            // `second_repl_offset` is the first byte that the old history may not have had.
            now.second_id == *id && now.second_offset.is_some_and(|second| second.saturating_sub(1) < *offset)
        });
        *seen = Some((now.id, now.offset));
        lacking
    }
}

/// Begins the first epoch of this life, or learns the one that another node began just now.
fn beginning() -> redis::Pipeline {
    let mut pipe = redis::pipe();
    pipe.cmd("SET").arg(EPOCH_KEY).arg(Epoch::random().to_string()).arg("NX");
    pipe.cmd("GET").arg(EPOCH_KEY);
    pipe
}

/// Which one it is, by the answers to that.
fn begun(answers: Vec<Value>) -> Result<Epoch, BackboneError> {
    errors::all_checked(&answers)?;
    parse(answers.into_iter().next_back().unwrap_or_default())
}

fn parse(value: Value) -> Result<Epoch, BackboneError> {
    let text = values::text(value)?;
    text.parse().map_err(|_| BackboneError::Refused(format!("{EPOCH_KEY} holds {text:?}, which is no epoch")))
}

/// What `INFO replication` says.
#[derive(Debug, PartialEq, Eq)]
struct Replication {
    is_replica: bool,
    id: String,
    offset: u64,
    second_id: String,
    /// `None` without a second history.
    second_offset: Option<u64>,
}

impl Replication {
    fn parse(info: &str) -> Self {
        let field = |name| values::info_field(info, name);
        Self {
            is_replica: field("role") == Some("slave"),
            id: field("master_replid").unwrap_or_default().to_owned(),
            offset: field("master_repl_offset").and_then(|text| text.parse().ok()).unwrap_or(0),
            second_id: field("master_replid2").unwrap_or_default().to_owned(),
            // `-1` where there is none, which does not parse.
            second_offset: field("second_repl_offset").and_then(|text| text.parse().ok()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(id: &str, offset: u64, second: &str, second_offset: i64) -> Replication {
        Replication::parse(&format!(
            "# Replication\r\nrole:master\r\nmaster_replid:{id}\r\nmaster_replid2:{second}\r\n\
             master_repl_offset:{offset}\r\nsecond_repl_offset:{second_offset}\r\n"
        ))
    }

    #[test]
    fn a_connection_to_another_master_is_told() {
        let keeper = EpochKeeper::default();
        let info = |id| format!("role:master\r\nmaster_replid:{id}\r\n");
        assert!(keeper.is_of_master(&info("a")), "nothing is known as yet");
        keeper.note(Replication::parse(&info("a")));
        assert!(keeper.is_of_master(&info("a")) && !keeper.is_of_master(&info("b")));
        assert!(!keeper.is_of_master("role:slave\r\nmaster_replid:a\r\n"));
    }

    #[test]
    fn a_promoted_replica_that_lacks_data_is_told_from_one_that_does_not() {
        let keeper = EpochKeeper::default();
        assert!(!keeper.note(info("a", 100, "0", -1)));
        assert!(!keeper.note(info("b", 105, "a", 101)), "it had everything");
        assert!(!keeper.note(info("b", 200, "a", 101)));
        assert!(keeper.note(info("c", 190, "b", 181)), "it lacks 180 to 200");
        assert!(!keeper.note(info("d", 5, "0", -1)), "another history says nothing");
    }
}
