//! The Lua scripts: each touches one key, so that each fits a Redis Cluster.

use std::sync::LazyLock;

use redis::{Cmd, Pipeline};

/// A script and its SHA-1, by which the server knows it once loaded.
pub(super) struct Script {
    code: &'static str,
    sha: String,
}

impl Script {
    fn new(code: &'static str) -> Self {
        use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
        let sha = digest(&SHA1_FOR_LEGACY_USE_ONLY, code.as_bytes());
        Self { code, sha: sha.as_ref().iter().map(|byte| format!("{byte:02x}")).collect() }
    }

    /// `EVALSHA` on one key; arguments are to be added.
    pub(super) fn call(&self, key: &str) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(self.sha.as_str()).arg(1).arg(key);
        command
    }
}

/// Finds an entry by its idempotency key, or adds it.
pub(super) static APPEND: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/append.lua")));
/// Begins a generation of a device.
pub(super) static CLAIM: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/claim.lua")));
/// Stores cursors of a device.
pub(super) static STORE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/store.lua")));
/// Writes a node's record and lists the living.
pub(super) static HEARTBEAT: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/heartbeat.lua")));
/// Reads a string or stores one.
pub(super) static GET_OR_SET: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/get_or_set.lua")));
/// Changes the epoch, once however many nodes ask.
pub(super) static RENEW_EPOCH: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/renew_epoch.lua")));

/// Loads every script: sent at each connect, since a restart forgets them, and again when the server
/// says that it does not know one (`SCRIPT FLUSH`).
pub(super) fn load_all() -> Pipeline {
    let mut pipe = redis::pipe();
    for script in [&APPEND, &CLAIM, &STORE, &HEARTBEAT, &GET_OR_SET, &RENEW_EPOCH] {
        pipe.cmd("SCRIPT").arg("LOAD").arg(script.code);
    }
    pipe
}
