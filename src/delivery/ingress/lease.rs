//! The lease under which one node reads a tenant's ingress.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::backbone::Backbone;

/// A lease that this node wants or has.
pub(super) struct Lease {
    pub(super) backbone: Arc<dyn Backbone>,
    pub(super) key: String,
    pub(super) holder: String,
    pub(super) ttl: Duration,
}

/// Why a lease is no longer this node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// It could not be renewed in time.
    Ended,
    /// Another node has it.
    Taken,
}

impl Lost {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::Taken => "taken",
        }
    }
}

impl Lease {
    /// Takes the lease, if nobody has it, and says until when it surely is this node's.
    pub(super) async fn take(&self) -> Option<Instant> {
        let asked = Instant::now();
        let until = self.until(asked);
        match timeout_at(until, self.backbone.lease(&self.key, &self.holder, self.ttl)).await {
            Ok(Ok(true)) => Some(until),
            Ok(Ok(false)) => None,
            Ok(Err(error)) => {
                tracing::debug!(key = self.key, %error, "a lease cannot be asked for");
                None
            }
            Err(_) => None,
        }
    }

    /// Renews the lease for as long as that works.
    pub(super) async fn keep(&self, mut until: Instant) -> Lost {
        loop {
            sleep(self.ttl / 3).await;
            until = loop {
                if Instant::now() >= until {
                    return Lost::Ended;
                }
                let asked = Instant::now();
                match timeout_at(until, self.backbone.lease(&self.key, &self.holder, self.ttl)).await {
                    Ok(Ok(true)) => break self.until(asked),
                    Ok(Ok(false)) => return Lost::Taken,
                    Ok(Err(_)) => sleep_until(until.min(Instant::now() + self.ttl / 20)).await,
                    Err(_) => return Lost::Ended,
                }
            };
        }
    }

    /// Gives it up.
    pub(super) async fn release(&self) {
        if let Err(error) = self.backbone.release(&self.key, &self.holder).await {
            tracing::debug!(key = self.key, %error, "a lease is not released; it ends by itself");
        }
    }

    /// How long to leave a lease alone that another node has: nodes do not come together, and a dead
    /// node's lease is not free for long.
    pub(super) fn pause(&self) -> Duration {
        self.ttl.mul_f64(rand::random_range(0.25..=0.5))
    }

    /// By this node's clock, from before it asked: earlier than the backbone thinks, and a little more.
    fn until(&self, asked: Instant) -> Instant {
        asked + self.ttl.mul_f64(0.9)
    }
}
