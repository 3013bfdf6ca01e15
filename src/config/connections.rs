//! How many connections a node takes, from the limit of open files.

use std::io;
use std::num::NonZeroUsize;

use super::NodeConfig;

/// Files that a node opens for other things than connections: listeners, the backbone, relays,
/// telemetry, the plugins' cache.
const RESERVE: u64 = 256;

/// Files that each shard opens for itself.
const RESERVE_PER_SHARD: u64 = 16;

/// The limit of open files leaves too little room.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this process may open {file_limit} files; {reserve} of them are for itself and {wanted} are wanted for \
     connections. Raise the limit to {} (ulimit -n, LimitNOFILE= in a systemd unit, --ulimit nofile= in \
     Docker), or lower node.max_connections",
    reserve + wanted
)]
pub struct TooFewFiles {
    /// Files that the process may open.
    pub file_limit: u64,
    /// Files kept for other things than connections.
    pub reserve: u64,
    /// Connections asked for.
    pub wanted: u64,
}

/// Raises the limit of open files as far as the system lets this process, and returns it.
pub fn raise_file_limit() -> io::Result<u64> {
    rlimit::increase_nofile_limit(u64::MAX)
}

/// How many connections a node serves at once when it may open `file_limit` files: what is configured,
/// where that fits, or else what is left beside a reserve.
pub fn connection_limit(node: &NodeConfig, file_limit: u64) -> Result<NonZeroUsize, TooFewFiles> {
    let reserve = RESERVE + RESERVE_PER_SHARD * node.shards.get() as u64;
    let left = file_limit.saturating_sub(reserve);
    let wanted = node.max_connections.unwrap_or(NonZeroUsize::MIN);
    if wanted.get() as u64 > left {
        return Err(TooFewFiles { file_limit, reserve, wanted: wanted.get() as u64 });
    }
    let most = NonZeroUsize::new(usize::try_from(left).unwrap_or(usize::MAX)).unwrap_or(NonZeroUsize::MIN);
    Ok(node.max_connections.unwrap_or(most))
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn node(toml: &str) -> NodeConfig {
        Config::from_toml(&format!("[node]\nshards = 4\n{toml}"), &|_| None).unwrap().node
    }

    #[test]
    fn what_the_limit_leaves_is_taken() {
        assert_eq!(connection_limit(&node(""), 1_320), Ok(NonZeroUsize::new(1_000).unwrap()));
        assert_eq!(
            connection_limit(&node("max_connections = 10"), 1_320),
            Ok(NonZeroUsize::new(10).unwrap())
        );
    }

    #[test]
    fn too_few_files_say_what_to_raise() {
        let error = connection_limit(&node("max_connections = 5000"), 1_024).unwrap_err().to_string();
        assert!(error.contains("may open 1024 files") && error.contains("to 5320"), "{error}");
        assert!(connection_limit(&node(""), 320).is_err());
    }
}
