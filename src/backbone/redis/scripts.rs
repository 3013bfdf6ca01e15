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

    /// `SCRIPT LOAD`.
    pub(super) fn load(&self) -> Cmd {
        let mut command = redis::cmd("SCRIPT");
        command.arg("LOAD").arg(self.code);
        command
    }
}

/// The scripts by name, and all of them.
macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident = $file:literal;)*) => {
        $(
            $(#[$doc])*
            pub(super) static $name: LazyLock<Script> =
                LazyLock::new(|| Script::new(include_str!(concat!("scripts/", $file, ".lua"))));
        )*
        static ALL: &[&LazyLock<Script>] = &[$(&$name),*];
    };
}

scripts! {
    /// Adds an entry, unless one like it is there or the stream is full.
    APPEND = "append";
    /// Begins a generation of a device.
    CLAIM = "claim";
    /// Notes the session of a device's generation.
    BEGIN_SESSION = "begin_session";
    /// Forgets it.
    END_SESSION = "end_session";
    /// Stores cursors of a device.
    STORE = "store";
    /// Writes a node's record and lists the living.
    HEARTBEAT = "heartbeat";
    /// Reads a string or stores one.
    GET_OR_SET = "get_or_set";
    /// Changes the epoch, once however many nodes ask.
    RENEW_EPOCH = "renew_epoch";
    /// Takes work of a group.
    TAKE = "take";
    /// Keeps entries of a group, or gives them back, where they still are the consumer's.
    KEEP = "keep";
    /// Takes entries out of a group and their stream.
    FINISH = "finish";
    /// Removes a group's consumers that hold nothing.
    TIDY = "tidy";
    /// Takes or renews a lease.
    LEASE = "lease";
    /// Gives a lease up.
    RELEASE = "release";
    /// Removes a stream that has neither entries nor groups.
    REMOVE_EMPTY = "remove_empty";
    /// Trims a stream by its memory.
    TRIM_BYTES = "trim_bytes";
    /// Sets a key of a key-value store.
    KV_SET = "kv_set";
    /// Removes a key of a key-value store.
    KV_DELETE = "kv_delete";
    /// Adds to a number of a key-value store.
    KV_INCREMENT = "kv_increment";
    /// Lists keys of a key-value store.
    KV_KEYS = "kv_keys";
    /// Puts a value of a key-value store in place of another.
    KV_REPLACE = "kv_replace";
}

/// Loads every script: sent at each connect, since a restart forgets them, and again when the server
/// says that it does not know one (`SCRIPT FLUSH`).
pub(super) fn load_all() -> Pipeline {
    let mut pipe = redis::pipe();
    for script in ALL {
        pipe.add_command(script.load());
    }
    pipe
}
