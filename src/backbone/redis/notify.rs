//! Making the server send keyspace events, and proving that it does.

use std::time::Duration;

use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::time::timeout;

use super::connection::ask;
use super::errors;
use super::start::setting;
use super::watched::Watched;
use crate::backbone::BackboneError;

const FLAGS: &str = "notify-keyspace-events";

/// How long a probe's event may take. It follows its `XADD` at once on another connection's queue.
const PROBE_TIMEOUT: Duration = Duration::from_millis(800);

/// What a probe has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// The event came.
    Heard,
    /// It did not, or may not be listened to.
    Silent,
    /// The server took no entry to notify of (no memory, no right), so nothing is shown.
    Unknown,
}

/// Adds the flags for key events of streams to those that are set; whether they are set now, as far
/// as the server lets us see. An error means that the connection is dead.
pub(super) async fn add_flags(connection: &mut MultiplexedConnection) -> Result<bool, BackboneError> {
    let mut pipe = redis::pipe();
    pipe.cmd("CONFIG").arg("GET").arg(FLAGS);
    let answer = ask(connection, &pipe).await?.pop().unwrap_or_default();
    let flags = match setting(answer) {
        Ok(flags) => flags.unwrap_or_default(),
        Err(error) => {
            tracing::debug!(%error, "{FLAGS} cannot be read");
            return Ok(false);
        }
    };
    let Some(wanted) = with_stream_events(&flags) else { return Ok(true) };
    let mut pipe = redis::pipe();
    pipe.cmd("CONFIG").arg("SET").arg(FLAGS).arg(&wanted);
    let answers = ask(connection, &pipe).await?;
    match errors::all_checked(&answers) {
        Ok(()) => {
            tracing::info!(before = flags, now = wanted, "{FLAGS} set");
            Ok(true)
        }
        Err(error) => {
            tracing::debug!(%error, "{FLAGS} cannot be set");
            Ok(false)
        }
    }
}

/// The flags with `K` and `t` among them; `None` if they are.
fn with_stream_events(flags: &str) -> Option<String> {
    let mut wanted = flags.to_owned();
    if !flags.contains('K') {
        wanted.push('K');
    }
    // `A` stands for all classes of events, streams included.
    if !flags.contains(['t', 'A']) {
        wanted.push('t');
    }
    (wanted != flags).then_some(wanted)
}

/// Adds an entry to this node's probe stream and waits for the event. An error means that the
/// connection is dead.
pub(super) async fn probe(
    connection: &mut MultiplexedConnection,
    watched: &Watched,
) -> Result<Proof, BackboneError> {
    let key = watched.probe_key();
    if let Err(error) = connection.subscribe(watched.event_channel(key)).await {
        return match errors::failed(&error) {
            BackboneError::Away(why) => Err(BackboneError::Away(why)),
            refusal => {
                tracing::debug!(error = %refusal, "keyspace events may not be subscribed to");
                Ok(Proof::Silent)
            }
        };
    }
    let heard = watched.probe_heard();
    tokio::pin!(heard);
    heard.as_mut().enable();
    let mut pipe = redis::pipe();
    pipe.cmd("XADD").arg(key).arg("MAXLEN").arg(1).arg("*").arg("probe").arg(1);
    // A node that dies here leaves nothing behind.
    pipe.cmd("PEXPIRE").arg(key).arg(60_000);
    pipe.cmd("DEL").arg(key);
    let answers = ask(connection, &pipe).await?;
    if let Some(Value::ServerError(error)) = answers.first() {
        tracing::debug!(error = %errors::answered(error), "the probe could not be added");
        return Ok(Proof::Unknown);
    }
    match timeout(PROBE_TIMEOUT, heard).await {
        Ok(()) => Ok(Proof::Heard),
        Err(_) => Ok(Proof::Silent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_added_and_none_is_lost() {
        assert_eq!(with_stream_events("").as_deref(), Some("Kt"));
        assert_eq!(with_stream_events("Ex").as_deref(), Some("ExKt"));
        assert_eq!(with_stream_events("AE").as_deref(), Some("AEK"));
        assert_eq!(with_stream_events("AK"), None);
        assert_eq!(with_stream_events("tK"), None);
    }
}
