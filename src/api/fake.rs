//! A backbone for tests of this floor: it shows what is added, and can go away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use crate::backbone::embedded::Embedded;
use crate::backbone::overlay::Overlay;
use crate::backbone::{Addition, Backbone as _, BackboneError};
use crate::domain::{Offset, Publication, StreamKey};

/// Answers after a few turns of the scheduler, so that calls overlap if they can.
pub(super) struct Fake {
    embedded: Arc<Embedded>,
    away: AtomicBool,
}

impl Default for Fake {
    fn default() -> Self {
        Self { embedded: Embedded::new(Arc::default()), away: AtomicBool::default() }
    }
}

impl Fake {
    /// From now on nothing answers.
    pub(super) fn leave(&self) {
        self.away.store(true, Ordering::Relaxed);
    }

    /// From now on everything answers again.
    pub(super) fn come_back(&self) {
        self.away.store(false, Ordering::Relaxed);
    }

    /// What was added to a channel of tenant `acme`, in order.
    pub(super) fn log(&self, channel: &str) -> Vec<Publication> {
        self.embedded.with_store(|store| {
            let stream = store.stream(format!("tg:acme:ch:{channel}").as_bytes());
            let entries = stream.into_iter().flat_map(|stream| stream.log.range(Offset::ZERO..=Offset::MAX));
            entries.map(|entry| Publication::from_entry(&entry, usize::MAX).unwrap()).collect()
        })
    }

    /// The key that holds something else than a stream.
    fn is_list(stream: &StreamKey) -> bool {
        stream.as_str().ends_with("room:list")
    }
}

#[async_trait]
impl Overlay for Fake {
    fn under(&self) -> &Arc<Embedded> {
        &self.embedded
    }

    async fn append_all(&self, additions: &[Addition]) -> Vec<Result<Offset, BackboneError>> {
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        let mut answers = Vec::with_capacity(additions.len());
        for addition in additions {
            answers.push(if self.away.load(Ordering::Relaxed) {
                Err(BackboneError::Away("connection refused".to_owned()))
            } else if Self::is_list(&addition.stream) {
                Err(BackboneError::WrongType(addition.stream.to_string()))
            } else {
                self.embedded.append_all(std::slice::from_ref(addition)).await.remove(0)
            });
        }
        answers
    }

    fn is_connected(&self) -> bool {
        !self.away.load(Ordering::Relaxed)
    }
}
