//! Key-value stores with quotas that hold on all nodes together: one a tenant for its plugins to use, and those in
//! which nodes keep the plugins themselves.
//!
//! A store is one hash, so that a single-key script sees all that a quota is about.

use bytes::Bytes;

/// Bytes of the longest key.
pub const KV_KEY_BYTES: usize = 256;

/// A tenant's store and what it may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvStore {
    /// Where it is, as [`crate::domain::keys`] makes it.
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
    /// Reads a value, and asks the backbone's clock just before.
    GetTimed(Box<str>),
    /// Puts a value in place of the one that is expected.
    Replace(Box<Replace>),
}

/// Puts a value in place of the one that is expected, and sets a mark, in one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replace {
    /// The key.
    pub key: Box<str>,
    /// What is there; `None`: nothing.
    pub expected: Option<Bytes>,
    /// What is to be there.
    pub value: Bytes,
    /// Another key of the store and its new value, by which readers learn that something has changed.
    pub mark: (Box<str>, Bytes),
    /// Not if it is later than this by the backbone's clock: a command that was held up on its way does
    /// nothing then.
    pub by_ms: u64,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvAnswer {
    /// The value, for `Get`.
    Value(Option<Bytes>),
    /// The value, and a moment of the backbone's clock: whatever was set before it is in the value.
    Timed(Option<Bytes>, u64),
    /// It is done, for `Set`, `Delete` and `Replace`.
    Done,
    /// There is something else than what is expected.
    Changed,
    /// It is too late for it.
    Late,
    /// The sum, for `Increment`.
    Sum(i64),
    /// Keys, and the cursor to go on with, 0 at the end. A key may come twice.
    Keys(Vec<String>, u64),
    /// There is no room for it.
    OverQuota,
    /// There is something else than a number, or the sum would be none.
    NotANumber,
}
