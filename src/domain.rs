//! Words of the trade: names, positions, publications, rules. No I/O, no clock, no imports from above.

pub mod close;
pub mod cursor;
pub mod events;
pub mod keys;
pub mod names;
pub mod position;
pub mod publication;
pub mod rules;

pub use close::{CloseReason, Reconnect};
pub use cursor::{Cursor, Generation};
pub use events::{EventFormat, EventKind, EventRules, UnknownEvent};
pub use keys::{CursorKey, StreamKey, StreamRole, kv_key};
pub use names::{
    ChannelName, DeviceId, InvalidName, Namespace, NodeId, PluginName, SessionId, TenantId, UserId,
};
pub use position::{Epoch, Offset, Position};
pub use publication::{Headers, Malformed, Publication, RawEntry};
pub use rules::{
    Kind, Limits, NamespaceRules, OnSlow, PublishRight, Retention, Start, StreamRetention, SubscribeRight,
};
