//! The records and variants of `wit/` as the host sees them. What is wrong here against the WIT shows when a
//! plugin built from the WIT is prepared, because every hook's types are compared then.

// The derives implement wasmtime's unsafe traits, and compute the layouts that these promise.
#![allow(unsafe_code)]

use bytes::Bytes;
use wasmtime::component::{ComponentType, Lift, Lower};

/// `types.offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct EntryOffset {
    /// Milliseconds since 1970.
    pub ms: u64,
    /// Which one of that millisecond.
    pub seq: u64,
}

impl From<crate::domain::Offset> for EntryOffset {
    fn from(offset: crate::domain::Offset) -> Self {
        Self { ms: offset.ms, seq: offset.seq }
    }
}

/// `types.replacement`, as a guest answered it.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift)]
#[component(record)]
pub struct RawReplacement {
    /// The payload.
    pub data: Bytes,
    /// Headers, if they change.
    pub headers: Option<Vec<(Box<str>, Box<str>)>>,
}

/// `types.refusal`, as a guest answered it.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift)]
#[component(record)]
pub struct RawRefusal {
    /// For the client's developer.
    pub reason: Box<str>,
    /// When to ask again.
    #[component(name = "retry-after-ms")]
    pub retry_after_ms: Option<u32>,
}

/// `authenticate.credentials`.
#[derive(Debug, Clone, ComponentType, Lower)]
#[component(record)]
pub struct Credentials {
    /// The token.
    pub token: Option<Box<str>>,
    /// The user whose token this refreshes.
    pub refreshes: Option<Box<str>>,
}

/// `authenticate.identity`, as a guest answered it.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift)]
#[component(record)]
pub struct RawIdentity {
    /// The user.
    pub user: Box<str>,
    /// Its class.
    pub class: Option<Box<str>>,
    /// Patterns of channels.
    pub channels: Option<Vec<Box<str>>>,
    /// A JSON object.
    pub claims: Option<Box<str>>,
    /// Seconds since 1970.
    pub expires: Option<u64>,
}

/// `on-subscribe.request`.
#[derive(Debug, Clone, ComponentType, Lower)]
#[component(record)]
pub struct SubscribeRequest {
    /// Who asks.
    pub user: Box<str>,
    /// For which channel.
    pub channel: Box<str>,
}

/// `on-subscribe.verdict`, as a guest answered it.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift)]
#[component(variant)]
pub enum RawSubscribeVerdict {
    /// Yes.
    #[component(name = "allow")]
    Allow,
    /// No.
    #[component(name = "deny")]
    Deny(RawRefusal),
    /// To another channel.
    #[component(name = "rewrite")]
    Rewrite(Box<str>),
}

/// `on-publish.publication`.
#[derive(Debug, Clone, ComponentType, Lower)]
#[component(record)]
pub struct Incoming {
    /// Who publishes.
    pub user: Box<str>,
    /// To which channel.
    pub channel: Box<str>,
    /// The payload.
    pub data: Bytes,
}

/// `on-publish.redirection`, and `route.routing`, which has the same shape.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift)]
#[component(record)]
pub struct RawTargets {
    /// Channels.
    pub channels: Vec<Box<str>>,
    /// What goes there.
    pub replacement: Option<RawReplacement>,
}

/// `on-publish.verdict`, as a guest answered it.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift)]
#[component(variant)]
pub enum RawPublishVerdict {
    /// As it is.
    #[component(name = "accept")]
    Accept,
    /// In silence.
    #[component(name = "drop")]
    Drop,
    /// Aloud.
    #[component(name = "refuse")]
    Refuse(RawRefusal),
    /// Changed.
    #[component(name = "replace")]
    Replace(RawReplacement),
    /// Elsewhere.
    #[component(name = "redirect")]
    Redirect(RawTargets),
}

/// `route.entry`.
#[derive(Debug, Clone, ComponentType, Lower)]
#[component(record)]
pub struct IngressEntry {
    /// Its offset.
    pub offset: EntryOffset,
    /// The channels that the backend named.
    pub to: Vec<Box<str>>,
    /// The payload.
    pub data: Bytes,
}

/// `route.verdict`, as a guest answered it.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift)]
#[component(variant)]
pub enum RawRouteVerdict {
    /// As the backend says.
    #[component(name = "accept")]
    Accept,
    /// Nowhere.
    #[component(name = "drop")]
    Drop,
    /// There.
    #[component(name = "channels")]
    Channels(Vec<Box<str>>),
    /// There, changed.
    #[component(name = "replace")]
    Replace(RawTargets),
}

/// `delivery.message`.
#[derive(Debug, Clone, ComponentType, Lower)]
#[component(record)]
pub struct Message {
    /// Its offset.
    pub offset: EntryOffset,
    /// Its channel.
    pub channel: std::sync::Arc<str>,
    /// The payload.
    pub data: Bytes,
}

/// `on-deliver-session.recipient`.
#[derive(Debug, Clone, ComponentType, Lower)]
#[component(record)]
pub struct Recipient {
    /// The session's id.
    pub session: Box<str>,
    /// Its user.
    pub user: Box<str>,
    /// Its class, or nothing.
    pub class: std::sync::Arc<str>,
}

/// `delivery.verdict`, as a guest answered it.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift)]
#[component(variant)]
pub enum RawDeliverVerdict {
    /// As it is.
    #[component(name = "accept")]
    Accept,
    /// Not.
    #[component(name = "drop")]
    Drop,
    /// Changed.
    #[component(name = "replace")]
    Replace(RawReplacement),
}

/// `on-session.change`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lower)]
#[component(enum)]
#[repr(u8)]
pub enum SessionChange {
    /// It has begun.
    #[component(name = "connected")]
    Connected,
    /// It has ended.
    #[component(name = "disconnected")]
    Disconnected,
}

/// `on-session.event`.
#[derive(Debug, Clone, ComponentType, Lower)]
#[component(record)]
pub struct SessionNews {
    /// What happened.
    pub change: SessionChange,
    /// Whose session it is.
    pub user: Box<str>,
    /// The session's id.
    pub session: Box<str>,
}

/// `wasi:keyvalue/store.error`.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lower)]
#[component(variant)]
pub(super) enum KvError {
    #[component(name = "no-such-store")]
    NoSuchStore,
    #[component(name = "access-denied")]
    AccessDenied,
    #[component(name = "other")]
    Other(String),
}

/// `wasi:keyvalue/store.key-response`.
#[derive(Debug, Clone, ComponentType, Lower)]
#[component(record)]
pub(super) struct KvKeys {
    pub(super) keys: Vec<String>,
    pub(super) cursor: Option<u64>,
}

/// `wasi:config/store.error`, which never is answered.
#[derive(Debug, Clone, ComponentType, Lower)]
#[component(variant)]
#[allow(dead_code, reason = "the interface has these cases")]
pub(super) enum ConfigError {
    #[component(name = "upstream")]
    Upstream(String),
    #[component(name = "io")]
    Io(String),
}

/// `wasi:logging/logging.level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
#[allow(dead_code, reason = "guests make them")]
pub(super) enum LogLevel {
    #[component(name = "trace")]
    Trace,
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
    #[component(name = "critical")]
    Critical,
}

/// `wasi:clocks/wall-clock.datetime`.
#[derive(Debug, Clone, Copy, ComponentType, Lower)]
#[component(record)]
pub(super) struct Datetime {
    pub(super) seconds: u64,
    pub(super) nanoseconds: u32,
}

/// `wasi:io/streams.stream-error`, of which only the closed stream is answered.
#[derive(Debug, ComponentType, Lower)]
#[component(variant)]
#[allow(dead_code, reason = "the interface has these cases")]
pub(super) enum StreamError {
    #[component(name = "last-operation-failed")]
    LastOperationFailed(wasmtime::component::Resource<super::imports::Inert>),
    #[component(name = "closed")]
    Closed,
}
