//! Leaves messages of a crowded live channel out, for all its subscribers alike.

use tokio::time::Instant;

use crate::delivery::{Batch, Channel};
use crate::domain::Offset;
use crate::telemetry::{Skip, events};

/// A bucket of as many messages as a second brings, filled over time.
#[derive(Debug)]
pub(super) struct Thinning {
    a_second: f64,
    left: f64,
    since: Instant,
}

impl Thinning {
    /// Delivers so many messages a second, and as many at once after a quiet second.
    pub(super) fn new(a_second: u32, now: Instant) -> Self {
        let a_second = f64::from(a_second);
        Self { a_second, left: a_second, since: now }
    }

    /// Takes the messages above the rate out of a batch. Their places stay: they are no gap.
    pub(super) fn thin(&mut self, channel: &Channel, batch: &mut Batch, now: Instant) {
        let filled = now.duration_since(self.since).as_secs_f64() * self.a_second;
        (self.left, self.since) = ((self.left + filled).min(self.a_second), now);
        for item in batch.items.iter_mut().filter(|item| item.message.is_some()) {
            if self.left >= 1.0 {
                self.left -= 1.0;
            } else {
                item.message = None;
                note(channel, item.offset);
            }
        }
    }
}

fn note(channel: &Channel, offset: Offset) {
    let why = &"the channel has more than its namespace delivers";
    events::entry_skipped(&channel.metrics, &channel.tenant, &channel.name, offset, Skip::Thinned, why);
}
