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

/// What a node has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Places {
    /// Connections served at once.
    pub connections: usize,
    /// How many of these may have no session: in their handshake, or used for HTTP requests.
    pub handshakes: usize,
    /// Connections beside them that are told why they are not served; more are closed unheard.
    pub refusals: usize,
}

/// What a node has room for when it may open `file_limit` files: what is configured, where that fits, or
/// else what is left beside a reserve.
pub fn places(node: &NodeConfig, file_limit: u64) -> Result<Places, TooFewFiles> {
    const REFUSALS: usize = 4_096;
    const REFUSALS_AT_LEAST: usize = 16;
    let reserve = RESERVE + RESERVE_PER_SHARD * node.shards.get() as u64;
    let left = file_limit.saturating_sub(reserve);
    let wanted = node.max_connections.unwrap_or(NonZeroUsize::MIN);
    if wanted.get() as u64 > left {
        return Err(TooFewFiles { file_limit, reserve, wanted: wanted.get() as u64 });
    }
    let left = usize::try_from(left).unwrap_or(usize::MAX);
    let (connections, refusals) = match node.max_connections {
        Some(wanted) => (wanted.get(), (left - wanted.get()).min(REFUSALS)),
        None => {
            let refusals = (left / 8).min(REFUSALS);
            (left - refusals, refusals)
        }
    };
    // A few always find room in the reserve.
    let refusals = refusals.max(REFUSALS_AT_LEAST);
    let handshakes = node.max_handshakes.map_or((connections / 4).max(64), NonZeroUsize::get);
    Ok(Places { connections, handshakes: handshakes.min(connections), refusals })
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
        let room = |toml: &str| {
            let Places { connections, handshakes, refusals } = places(&node(toml), 1_320).unwrap();
            [connections, handshakes, refusals]
        };
        assert_eq!(room(""), [875, 218, 125]);
        assert_eq!(room("max_connections = 10"), [10, 10, 990]);
        assert_eq!(room("max_connections = 1000"), [1000, 250, 16]);
        assert_eq!(room("max_connections = 500\nmax_handshakes = 20"), [500, 20, 500]);
    }

    #[test]
    fn too_few_files_say_what_to_raise() {
        let error = places(&node("max_connections = 5000"), 1_024).unwrap_err().to_string();
        assert!(error.contains("may open 1024 files") && error.contains("to 5320"), "{error}");
        assert!(places(&node(""), 320).is_err());
    }
}
