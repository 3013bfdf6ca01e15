//! Delivery: from the backbone's logs to the shards.
//!
//! *Invariant*: the log is the truth. The feed keeps where each watched channel was read to; ring and
//! page cache only spare reads. Nothing here knows a session or a socket.

pub mod batch;
pub mod dead_letters;
pub mod feed;
pub mod ingress;
pub mod janitor;
mod outlet;
mod pages;
pub mod queues;
mod ring;
pub mod shaping;
pub mod upstream;
pub mod view;

pub use batch::{Batch, Channel, Item};
pub use feed::{Feed, FeedHandle, FeedOptions, Links, Request, Trims};
pub use ingress::{Ingress, IngressOptions};
pub use janitor::{Janitor, JanitorOptions};
pub use outlet::{Delivery, ShardId};
pub use shaping::Shaper;
pub use upstream::{SessionEvent, Upstream, Who};
pub use view::{Audience, Subscriber, View};
