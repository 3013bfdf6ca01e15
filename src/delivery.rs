//! Delivery: from the backbone's logs to the shards.
//!
//! *Invariant*: the log is the truth. The feed keeps where each watched channel was read to; ring and
//! page cache only spare reads. Nothing here knows a session or a socket.

pub mod batch;
pub mod dead_letters;
pub mod feed;
pub mod ingress;
mod outlet;
mod pages;
mod ring;
pub mod upstream;

pub use batch::{Batch, Channel, Item};
pub use feed::{Feed, FeedHandle, FeedOptions, Request};
pub use ingress::{Ingress, IngressOptions};
pub use outlet::{Delivery, ShardId};
pub use upstream::{SessionEvent, Upstream, Who};
