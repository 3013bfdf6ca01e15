//! The plugins' key-value store: one a tenant, with quotas that hold on all nodes together.
//!
//! A store is one hash, `tg:<tenant>:kv:<bucket>`, so that a single-key script sees all that a quota is about.

use bytes::Bytes;

/// Bytes of the longest key.
pub const KV_KEY_BYTES: usize = 256;

/// A tenant's store and what it may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvStore {
    /// Where it is: [`crate::domain::kv_key`].
    pub key: Box<str>,
    /// Keys it may have.
    pub max_keys: u64,
    /// Bytes of keys and values that it may have.
    pub max_bytes: u64,
}

/// What is to be done. Keys have 1 to [`KV_KEY_BYTES`] bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvOp {
    /// Reads a value.
    Get(Box<str>),
    /// Sets a value.
    Set(Box<str>, Bytes),
    /// Removes a key.
    Delete(Box<str>),
    /// Adds to a number, from 0 where there is none.
    Increment(Box<str>, i64),
    /// Some keys from a cursor on, 0 at first.
    Keys(u64),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvAnswer {
    /// The value, for `Get`.
    Value(Option<Bytes>),
    /// It is done, for `Set` and `Delete`.
    Done,
    /// The sum, for `Increment`.
    Sum(i64),
    /// Keys, and the cursor to go on with, 0 at the end. A key may come twice.
    Keys(Vec<String>, u64),
    /// There is no room for it.
    OverQuota,
    /// There is something else than a number, or the sum would be none.
    NotANumber,
}
