//! The backbone's contract: one suite, run over every backbone, and what only a server over the
//! network can do to a node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tidegate::backbone::Backbone;
use tidegate::backbone::wake::DirtySet;
use tidegate::domain::{Offset, StreamKey};

mod contract;
mod failover;
mod in_process;
mod over_redis;

/// No condition waited for in this module takes nearly so long on a healthy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// A backbone under test.
pub struct Subject {
    /// It.
    pub backbone: Arc<dyn Backbone>,
    /// What it marks.
    pub dirty: Arc<DirtySet>,
    /// Somebody else who uses the same streams.
    pub backend: Box<dyn Backend>,
    /// It wakes up by polling, and nobody knows who watches what.
    pub polls: bool,
}

/// What backends do to streams behind the node's back.
#[async_trait]
pub trait Backend: Send + Sync {
    /// `XADD <stream> <id> data <data>`; without an id `*`.
    async fn add_at(&self, stream: &StreamKey, id: Option<Offset>, data: &str) -> Offset;
    /// `XTRIM <stream> MAXLEN = <length>`.
    async fn trim_to(&self, stream: &StreamKey, length: u64);
    /// `XDEL <stream> <offset>`.
    async fn withdraw(&self, stream: &StreamKey, offset: Offset);
    /// `DEL <stream>`.
    async fn delete(&self, stream: &StreamKey);
    /// Puts something at the key that is no stream; false where the backbone holds nothing else, so
    /// that no key can have a wrong type.
    async fn spoil(&self, stream: &StreamKey) -> bool;
}

impl Subject {
    /// Adds `count` entries; returns their offsets.
    pub async fn add(&self, stream: &StreamKey, count: usize) -> Vec<Offset> {
        let mut offsets = Vec::with_capacity(count);
        for n in 0..count {
            offsets.push(self.backend.add_at(stream, None, &n.to_string()).await);
        }
        offsets
    }

    /// Waits until the stream is marked; returns all that was marked until then, it included.
    pub async fn marked(&self, stream: &StreamKey) -> Vec<StreamKey> {
        let mut seen = Vec::new();
        let waiting = async {
            loop {
                seen.extend(self.dirty.take(1_000));
                if seen.contains(stream) {
                    return;
                }
                self.dirty.marked().await;
            }
        };
        let in_time = tokio::time::timeout(DEADLINE, waiting).await;
        assert!(in_time.is_ok(), "{stream} was not marked; {seen:?} were");
        seen
    }
}

/// Asks again and again until the answer is there.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    while Instant::now() < deadline {
        if let Some(answer) = ask().await {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it did not happen: {what}");
}

/// A stream of the test tenant.
pub fn stream(name: &str) -> StreamKey {
    StreamKey::from_raw(&format!("tg:test:ch:room:{name}"))
}
