//! What is checked once, before a node takes this server for its backbone.

use redis::Value;

use super::connection::Link;
use super::values::{self, info_field};
use crate::backbone::BackboneError;
use crate::domain::keys::{SCHEMA, SCHEMA_KEY};

/// Oldest server: `XTRIM MINID` and exclusive ranges came with it.
const OLDEST: (u32, u32) = (6, 2);
/// Below this a `client-output-buffer-limit pubsub` cuts off nodes that a burst of events meets.
const PUBSUB_BUFFER: u64 = 64 << 20;

/// Refuses servers that cannot keep the contract, and warns about settings that endanger it.
pub(super) async fn check(link: &Link) -> Result<(), BackboneError> {
    let mut pipe = redis::pipe();
    pipe.cmd("INFO");
    let info = link.run(&pipe).await?.pop().unwrap_or_default();
    match values::text(info) {
        Ok(info) => {
            supported(&info)?;
            if info_field(&info, "redis_version").is_some_and(|version| version.starts_with("6.")) {
                tracing::warn!(
                    "Redis before 7 does not count a stream's entries: less can be proven, so clients are \
                     told of gaps where none is, at the first message of each new channel among them"
                );
            }
        }
        Err(error) => tracing::warn!(%error, "Redis does not tell its version: it is not checked"),
    }
    schema(link).await?;
    for warning in settings(link).await? {
        tracing::warn!("Redis setting: {warning}");
    }
    Ok(())
}

fn supported(info: &str) -> Result<(), BackboneError> {
    // Valkey reports the Redis version that it is compatible with, 7.2.4, in the same field.
    let version = info_field(info, "redis_version").unwrap_or_default();
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < OLDEST {
        let (major, minor) = OLDEST;
        return Err(BackboneError::Refused(format!(
            "Redis {version} is too old: {major}.{minor} or newer, or Valkey, is needed"
        )));
    }
    if info_field(info, "cluster_enabled") == Some("1") {
        return Err(BackboneError::Refused(
            "this server is a node of a Redis Cluster, which is not supported yet: use a single master"
                .into(),
        ));
    }
    Ok(())
}

async fn schema(link: &Link) -> Result<(), BackboneError> {
    let mut pipe = redis::pipe();
    pipe.cmd("SET").arg(SCHEMA_KEY).arg(SCHEMA).arg("NX");
    pipe.cmd("GET").arg(SCHEMA_KEY);
    let mut answers = link.run(&pipe).await?;
    let stored = values::text(answers.pop().unwrap_or_default())?;
    match stored.parse::<u32>() {
        Ok(stored) if stored <= SCHEMA => Ok(()),
        _ => Err(BackboneError::Refused(format!(
            "the data in Redis has schema {stored:?} ({SCHEMA_KEY}), this version knows {SCHEMA}: \
             run a newer Tidegate"
        ))),
    }
}

async fn settings(link: &Link) -> Result<Vec<String>, BackboneError> {
    const NAMES: [&str; 5] = [
        "maxmemory-policy",
        "appendonly",
        "client-output-buffer-limit",
        "proto-max-bulk-len",
        "stream-node-max-bytes",
    ];
    let mut pipe = redis::pipe();
    for name in NAMES {
        pipe.cmd("CONFIG").arg("GET").arg(name);
    }
    let answers = link.run(&pipe).await?;
    let mut warnings = Vec::new();
    for (name, answer) in NAMES.into_iter().zip(answers) {
        match setting(answer) {
            Ok(Some(value)) => warnings.extend(advice(name, &value)),
            Ok(None) => {}
            Err(error) => {
                warnings.push(format!("cannot be read ({error}), so none is checked"));
                break;
            }
        }
    }
    Ok(warnings)
}

/// The value that one `CONFIG GET` found.
pub(super) fn setting(answer: Value) -> Result<Option<String>, BackboneError> {
    let pair = values::pairs(answer, "CONFIG GET")?.into_iter().next();
    pair.map(|(_, value)| values::text(value)).transpose()
}

fn advice(name: &str, value: &str) -> Option<String> {
    let number = value.parse::<u64>().unwrap_or(0);
    match name {
        "maxmemory-policy" if value != "noeviction" => {
            Some(format!("maxmemory-policy is {value}: Redis may evict messages and cursors; set noeviction"))
        }
        "appendonly" if value != "yes" => {
            Some("appendonly is no: a restart loses messages since the last snapshot; set it to yes".into())
        }
        "client-output-buffer-limit" => {
            // The value lists all classes: `normal 0 0 0 slave … pubsub <hard> <soft> <seconds>`.
            let hard = value.split(' ').skip_while(|word| *word != "pubsub").nth(1)?.parse::<u64>().ok()?;
            (hard != 0 && hard < PUBSUB_BUFFER).then(|| {
                format!("client-output-buffer-limit pubsub is {hard} bytes: a burst cuts nodes off; use 256mb 64mb 60")
            })
        }
        "proto-max-bulk-len" if number > 1 << 20 => Some(format!(
            "proto-max-bulk-len is {number}: a backend can add entries far larger than any payload limit; 1mb will do"
        )),
        "stream-node-max-bytes" if number > 512 => Some(format!(
            "stream-node-max-bytes is {number}: each short stream takes some 4 KB; 512 makes it 0.8 KB"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_servers_and_clusters_are_refused() {
        let info = |version, cluster| format!("redis_version:{version}\r\ncluster_enabled:{cluster}\r\n");
        assert!(supported(&info("6.2.0", 0)).is_ok());
        assert!(supported(&info("10.0.1", 0)).is_ok());
        assert!(supported(&info("6.0.16", 0)).is_err());
        assert!(supported(&info("7.0.15", 1)).is_err());
    }

    #[test]
    fn advice_is_given_where_a_promise_is_in_danger() {
        assert!(advice("maxmemory-policy", "allkeys-lru").is_some());
        assert!(advice("maxmemory-policy", "noeviction").is_none());
        let limits = "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60";
        assert!(advice("client-output-buffer-limit", limits).is_some());
        let limits = "normal 0 0 0 slave 268435456 67108864 60 pubsub 268435456 67108864 60";
        assert!(advice("client-output-buffer-limit", limits).is_none());
    }
}
