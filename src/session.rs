//! Sessions: what survives connections.
//!
//! *Invariant*: pure. A session is changed by frames, batches and time handed to it, and answers with
//! effects that its shard performs; it does no I/O and reads no clock, so it can be tested on made-up
//! time and moved between threads.

pub mod effect;
pub mod state;
pub mod subscription;
pub mod window;
pub mod worker;

pub use effect::{Effect, Effects};
pub use state::{Attached, Session};
pub use subscription::{From, Subscription, Wish};
pub use worker::Worker;
