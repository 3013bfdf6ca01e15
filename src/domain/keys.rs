//! Redis keys. They are public API (`docs/redis.md`): every key is made here and nowhere else.

use std::fmt;
use std::sync::Arc;

use super::names::{ChannelName, DeviceId, TenantId, UserId};
use super::position::Offset;

/// The number of the key layout. A node that meets a larger one in the backbone refuses to start.
pub const SCHEMA: u32 = 1;

/// Key of the schema number.
pub const SCHEMA_KEY: &str = "tg:sys:schema";
/// Key of the epoch.
pub const EPOCH_KEY: &str = "tg:sys:epoch";
/// Hash of the nodes: id → record as JSON.
pub const NODES_KEY: &str = "tg:sys:nodes";
/// Key of the secret that signs resume tokens where none is configured.
pub const SECRET_KEY: &str = "tg:sys:secret";

/// Lease of the node that looks after the streams.
pub const JANITOR_LEASE_KEY: &str = "tg:sys:lease:janitor";
/// What every stream's key begins with.
pub const STREAM_PREFIX: &str = "tg:";

/// Key of the lease under which one node reads a tenant's ingress.
pub fn ingress_lease(tenant: &TenantId) -> String {
    format!("tg:sys:lease:in:{tenant}")
}

/// Key of the lease under which one node writes the dead letter of a message whose plugin failed.
pub fn letter_lease(stream: &StreamKey, offset: Offset, user: &str) -> String {
    format!("tg:sys:lease:letter:{stream}:{offset}:{user}")
}

/// Lease of the node that redeemed a ticket, which nobody redeems again.
pub fn ticket_lease(tenant: &TenantId, ticket: &str) -> String {
    format!("tg:sys:lease:ticket:{tenant}:{ticket}")
}

/// Key of a tenant's key-value store for plugins: a hash.
pub fn kv_key(tenant: &TenantId) -> String {
    format!("tg:{tenant}:kv:default")
}

/// Hash of what plugins each tenant has: tenant → catalog as JSON, and a mark of the last change.
pub const PLUGINS_KEY: &str = "tg:sys:plugins";

/// Key of what is said of a tenant's plugins: a hash of what each node has ready, and of the components that
/// are stored.
pub fn plugin_state_key(tenant: &TenantId) -> String {
    format!("{PLUGINS_KEY}:{tenant}")
}

/// Key of the bytes of a tenant's components: a hash of pieces.
pub fn plugin_code_key(tenant: &TenantId) -> String {
    format!("{PLUGINS_KEY}:{tenant}:code")
}

/// Lease of the node that stores a plugin of a tenant.
pub fn plugin_upload_lease(tenant: &TenantId) -> String {
    format!("tg:sys:lease:plugins:{tenant}")
}

/// What a stream is to its tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamRole {
    /// A channel's log.
    Channel(ChannelName),
    /// Entries for many targets.
    Ingress,
    /// What clients send to the backends.
    Upstream,
    /// Dead letters.
    DeadLetters,
}

/// The key of a stream: a channel's log, or a tenant's `in`, `up` or `dlq`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamKey(Arc<str>);

impl StreamKey {
    /// `tg:<tenant>:ch:<channel>`, a channel's log.
    pub fn channel(tenant: &TenantId, channel: &ChannelName) -> Self {
        Self(format!("tg:{tenant}:ch:{channel}").into())
    }

    /// `tg:<tenant>:up`, what clients send to the backends.
    pub fn upstream(tenant: &TenantId) -> Self {
        Self(format!("tg:{tenant}:up").into())
    }

    /// `tg:<tenant>:in`, entries for many targets.
    pub fn ingress(tenant: &TenantId) -> Self {
        Self(format!("tg:{tenant}:in").into())
    }

    /// `tg:<tenant>:dlq`, dead letters.
    pub fn dead_letters(tenant: &TenantId) -> Self {
        Self(format!("tg:{tenant}:dlq").into())
    }

    /// A key taken from the backbone, as it is.
    pub fn from_raw(key: &str) -> Self {
        Self(key.into())
    }

    /// Whose stream it is and what for; `None` for a key that is made otherwise.
    pub fn parse(&self) -> Option<(TenantId, StreamRole)> {
        let (tenant, rest) = self.0.strip_prefix(STREAM_PREFIX)?.split_once(':')?;
        let role = match rest {
            "in" => StreamRole::Ingress,
            "up" => StreamRole::Upstream,
            "dlq" => StreamRole::DeadLetters,
            _ => StreamRole::Channel(ChannelName::parse(rest.strip_prefix("ch:")?).ok()?),
        };
        Some((TenantId::parse(tenant).ok()?, role))
    }

    /// The key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for StreamKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The key of a device's cursors: `tg:<tenant>:cur:<user>/<device>`, both parts percent-encoded.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CursorKey(Arc<str>);

impl CursorKey {
    /// The key for one device of one user.
    pub fn new(tenant: &TenantId, user: &UserId, device: &DeviceId) -> Self {
        Self(format!("tg:{tenant}:cur:{}/{}", user.encoded(), device.encoded()).into())
    }

    /// The key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_as_documented() {
        let tenant = TenantId::parse("acme").unwrap();
        let channel = ChannelName::parse("room:1").unwrap();
        assert_eq!(StreamKey::channel(&tenant, &channel).as_str(), "tg:acme:ch:room:1");
        assert_eq!(StreamKey::upstream(&tenant).as_str(), "tg:acme:up");
        for (key, role) in [
            (StreamKey::channel(&tenant, &channel), StreamRole::Channel(channel)),
            (StreamKey::upstream(&tenant), StreamRole::Upstream),
            (StreamKey::ingress(&tenant), StreamRole::Ingress),
            (StreamKey::dead_letters(&tenant), StreamRole::DeadLetters),
        ] {
            assert_eq!(key.parse(), Some((tenant.clone(), role)));
        }
        for foreign in ["tg:sys:up", "tg:acme:other", "tg:acme:ch:no channel", "acme:up", "tg:acme"] {
            assert_eq!(StreamKey::from_raw(foreign).parse(), None);
        }
        let user = UserId::parse("a/b").unwrap();
        let device = DeviceId::parse("phone 1").unwrap();
        assert_eq!(CursorKey::new(&tenant, &user, &device).as_str(), "tg:acme:cur:a%2Fb/phone%201");
    }
}
