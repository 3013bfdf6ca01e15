//! The rules of a namespace and the limits of a tenant, as plain values. Configuration parses into them.

use super::names::Namespace;

/// What a channel of the namespace is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A log with readers: recovery, cursors, redelivery.
    Log,
    /// A short stream: no cursor, no replay, starts now.
    Live,
    /// Work shared among subscribers.
    Queue,
}

/// Where a subscription without position and cursor starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the next publication.
    Now,
    /// With the oldest that is retained.
    Oldest,
}

/// What happens to a subscriber that cannot keep up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnSlow {
    /// Delivery waits; the data stays in the log.
    Pause,
    /// The oldest waiting messages are left out, with a `gap`.
    DropOldest,
    /// Only the newest message of each key is kept.
    Conflate,
    /// The connection is closed.
    Disconnect,
}

/// Who may publish from a client connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishRight {
    /// Nobody: only backends publish.
    Nobody,
    /// Whoever is subscribed to the channel.
    Subscribers,
    /// Every connected client of the tenant.
    Anyone,
}

/// Who may subscribe to a channel. A token's `channels` claim, where it has one, restricts either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscribeRight {
    /// Every connected client of the tenant.
    Anyone,
    /// Only whose token lists the channel in its `channels` claim.
    Listed,
}

/// Retention of a log. Whatever limit is reached first trims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Entries kept.
    pub max_len: u64,
    /// Age kept, in milliseconds of the backbone's clock.
    pub max_age_ms: u64,
}

/// The rules of one namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceRules {
    /// Its name.
    pub name: Namespace,
    /// What its channels are.
    pub kind: Kind,
    /// Whether every subscription acknowledges, asked for or not.
    pub ack_always: bool,
    /// Where subscriptions start.
    pub start: Start,
    /// What happens to slow subscribers.
    pub on_slow: OnSlow,
    /// Whether exhausted messages go to the dead-letter stream.
    pub dead_letters: bool,
    /// Whether datagrams may carry its messages.
    pub unreliable: bool,
    /// How long and how much its logs keep.
    pub retention: Retention,
    /// Whether clients may read its history.
    pub history: bool,
    /// Who may publish from a client connection.
    pub publish: PublishRight,
    /// Who may subscribe.
    pub subscribe: SubscribeRight,
}

/// Limits of a tenant (DESIGN section 8); each is configuration with a default and a hard ceiling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one client frame.
    pub frame_bytes: usize,
    /// Bytes of one payload.
    pub payload_bytes: usize,
    /// Bytes waiting for one socket; at least one message is always taken.
    pub outbox_bytes: usize,
    /// Channels one session may be subscribed to.
    pub channels_per_session: usize,
    /// Sessions one user may have; the oldest is closed.
    pub sessions_per_user: usize,
    /// Unacknowledged messages in flight per subscription: the default and the most a client may ask.
    pub window: usize,
    /// Milliseconds until an unacknowledged message is sent again.
    pub ack_timeout_ms: u64,
    /// Deliveries of one message before it counts as undeliverable.
    pub attempts: u8,
    /// Milliseconds a session waits for its client to come back.
    pub resume_window_ms: u64,
    /// Milliseconds from the first packet to `connect`.
    pub connect_timeout_ms: u64,
    /// Milliseconds authentication may take.
    pub auth_timeout_ms: u64,
    /// Milliseconds between heartbeats if the client does not ask otherwise.
    pub ping_ms: u64,
    /// Shortest heartbeat interval a client may ask for, in milliseconds.
    pub ping_min_ms: u64,
    /// Longest heartbeat interval a client may ask for, in milliseconds.
    pub ping_max_ms: u64,
    /// Publications over HTTP in a second, once a target channel, on each node.
    pub publish_per_s: u32,
    /// Publish requests in flight, on each node.
    pub publish_in_flight: usize,
    /// Bytes of one publish request.
    pub publish_body_bytes: usize,
    /// Targets of one publish request; many make it a send, which is paced.
    pub publish_targets: usize,
    /// Publications of all sends together in a second, on each node.
    pub send_per_s: u32,
    /// Sends that run at the same time, on each node.
    pub sends: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes: 80 * 1024,
            payload_bytes: 64 * 1024,
            outbox_bytes: 256 * 1024,
            channels_per_session: 128,
            sessions_per_user: 10,
            window: 64,
            ack_timeout_ms: 30_000,
            attempts: 5,
            resume_window_ms: 120_000,
            connect_timeout_ms: 5_000,
            auth_timeout_ms: 5_000,
            ping_ms: 25_000,
            ping_min_ms: 5_000,
            ping_max_ms: 300_000,
            publish_per_s: 10_000,
            publish_in_flight: 256,
            publish_body_bytes: 8 * 1024 * 1024,
            publish_targets: 100_000,
            send_per_s: 5_000,
            sends: 16,
        }
    }
}

impl NamespaceRules {
    /// A log namespace with the defaults of DESIGN section 8.
    pub fn log(name: &str) -> Self {
        Self {
            name: Namespace::parse(name).expect("a literal namespace is valid"),
            kind: Kind::Log,
            ack_always: false,
            start: Start::Now,
            on_slow: OnSlow::Pause,
            dead_letters: false,
            unreliable: false,
            retention: Retention { max_len: 1_000, max_age_ms: 24 * 3600 * 1000 },
            history: true,
            publish: PublishRight::Subscribers,
            subscribe: SubscribeRight::Anyone,
        }
    }

    /// A queue namespace: every message is acknowledged by itself, none is left out, and what nobody
    /// handles goes to the dead letters.
    pub fn queue(name: &str) -> Self {
        Self {
            kind: Kind::Queue,
            ack_always: true,
            start: Start::Oldest,
            dead_letters: true,
            history: false,
            publish: PublishRight::Nobody,
            ..Self::log(name)
        }
    }

    /// A `live` namespace: the last 100 messages, 10 seconds.
    pub fn live(name: &str) -> Self {
        Self {
            kind: Kind::Live,
            on_slow: OnSlow::DropOldest,
            unreliable: true,
            retention: Retention { max_len: 100, max_age_ms: 10_000 },
            history: false,
            ..Self::log(name)
        }
    }

    /// The rules of the namespace `session`, whose channels carry replies to one session each.
    pub fn of_sessions() -> Self {
        Self {
            start: Start::Oldest,
            retention: Retention { max_len: 100, max_age_ms: 600_000 },
            history: false,
            publish: PublishRight::Nobody,
            ..Self::log("session")
        }
    }

    /// The rules of the namespace `user`, whose channels are personal.
    pub fn personal() -> Self {
        Self { start: Start::Oldest, dead_letters: true, publish: PublishRight::Nobody, ..Self::log("user") }
    }
}
