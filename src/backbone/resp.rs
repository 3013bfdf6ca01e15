//! RESP, the Redis wire protocol, without I/O: a listener's side in RESP2 and RESP3, requests in and
//! replies out, and a client's side in RESP2, requests out and replies in.
//!
//! Source: <https://redis.io/docs/latest/develop/reference/protocol-spec/>. Of requests only arrays of
//! bulk strings are understood; inline commands are refused, because a browser can be made to send
//! them. Declared lengths are checked against [`Limits`] and never allocated ahead of the bytes.

use bytes::Bytes;

mod decode;
mod encode;
mod scan;

pub use decode::RequestDecoder;
pub use encode::{encode_array_header, encode_command};
pub use scan::{Scanner, Token};

/// The version a connection speaks, chosen with `HELLO`. It decides how maps and nulls are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// What every connection starts with.
    #[default]
    Resp2,
    /// After `HELLO 3`.
    Resp3,
}

/// A reply to be written, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `+OK`: a status.
    Simple(Bytes),
    /// `-ERR …`: the code is the first word.
    Error(Bytes),
    /// `:7`
    Integer(i64),
    /// `$…`: any bytes.
    Bulk(Bytes),
    /// No value: `$-1`, in RESP3 `_`.
    Null,
    /// No list: `*-1`, in RESP3 `_`.
    NullArray,
    /// `*…`
    Array(Vec<Value>),
    /// `%…`, in RESP2 an array of keys and values in turn.
    Map(Vec<(Value, Value)>),
    /// `~…`, in RESP2 an array.
    Set(Vec<Value>),
    /// `=…`: text of the kind `txt`; in RESP2 a bulk string.
    Verbatim(Bytes),
}

impl Value {
    /// A status.
    pub fn simple(text: &'static str) -> Self {
        Self::Simple(Bytes::from_static(text.as_bytes()))
    }

    /// An error; `text` starts with its code.
    pub fn error(text: impl Into<String>) -> Self {
        Self::Error(Bytes::from(text.into()))
    }

    /// A bulk string of text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Bulk(Bytes::from(text.into()))
    }

    /// A count; beyond `i64` it stays at the largest.
    pub fn count(count: u64) -> Self {
        Self::Integer(i64::try_from(count).unwrap_or(i64::MAX))
    }

    /// A map with text keys.
    pub fn map<const N: usize>(pairs: [(&'static str, Value); N]) -> Self {
        Self::Map(
            pairs
                .into_iter()
                .map(|(key, value)| (Self::Bulk(Bytes::from_static(key.as_bytes())), value))
                .collect(),
        )
    }
}

/// What a [`RequestDecoder`] takes before it refuses the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in one bulk string.
    pub max_bulk: usize,
    /// Arguments of a request; each costs some 40 bytes of bookkeeping.
    pub max_items: usize,
    /// Bytes of all strings of one request.
    pub max_bytes: usize,
}

impl Limits {
    /// For requests of a client that has said who it is, or need not.
    pub const REQUEST: Self = Self { max_bulk: 1 << 20, max_items: 1 << 16, max_bytes: 4 << 20 };

    /// For requests before the password: enough for `HELLO 3 AUTH … SETNAME …`.
    pub const UNAUTHENTICATED: Self = Self { max_bulk: 16 << 10, max_items: 10, max_bytes: 64 << 10 };
}

/// Why bytes are no RESP. The connection cannot be used any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RespError {
    /// A request does not begin with `*`: an inline command, or another protocol.
    #[error("expected an array of bulk strings; inline commands are not served")]
    NotARequest,
    /// An argument of a request is no bulk string.
    #[error("expected '$'")]
    NotABulk,
    /// A length or number does not parse.
    #[error("invalid number or length")]
    BadNumber,
    /// A string's end is not where its length says.
    #[error("a string does not end with CRLF")]
    BadEnd,
    /// The first byte of a reply names no type of RESP2.
    #[error("unknown type")]
    UnknownType,
    /// A line without end.
    #[error("a line is too long")]
    LineTooLong,
    /// A bulk string beyond [`Limits::max_bulk`].
    #[error("invalid bulk length")]
    BulkTooLong,
    /// More than [`Limits::max_items`].
    #[error("invalid multibulk length")]
    TooManyItems,
    /// More than [`Limits::max_bytes`].
    #[error("too many bytes in one message")]
    TooManyBytes,
}
