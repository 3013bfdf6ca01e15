//! The task of one send.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::Sends;
use super::job::Job;
use crate::api::publish::append::{Ready, TargetError, count};
use crate::backbone::backoff::Backoff;
use crate::backbone::{Addition, BackboneError};
use crate::domain::Offset;
use crate::quota::Rate;
use crate::telemetry::{TenantMetrics, events};
use crate::tenants::Tenant;

/// Targets that go to the backbone together, at most.
const CHUNK: usize = 500;
/// A chunk is what the pace allows in a twentieth of a second.
const CHUNKS_A_SECOND: u32 = 20;
/// How long to wait while the backbone is away: at first, and at most.
const AWAY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Was cancelled, by its publisher or with the node.
struct Cancelled;

/// Carries a send out. It ends by itself or when it is cancelled, and says so either way.
pub(super) async fn run(
    sends: Sends,
    tenant: Arc<Tenant>,
    metrics: Arc<TenantMetrics>,
    job: Arc<Job>,
    messages: Vec<Ready>,
) {
    let run = Run { sends: &sends, tenant: &tenant, metrics: &metrics, job: &job };
    // What ends early is told by its counts.
    let _ = run.all(&messages).await;
}

struct Run<'a> {
    sends: &'a Sends,
    tenant: &'a Tenant,
    metrics: &'a TenantMetrics,
    job: &'a Job,
}

/// Also after a panic a send has an end.
impl Drop for Run<'_> {
    fn drop(&mut self) {
        let status = self.job.end(self.sends.0.backbone.clock().now_ms());
        let left = status.targets - status.added - status.failed;
        let (id, state) = (self.job.id(), status.state.word());
        events::send_ended(self.metrics, &self.tenant.id, id, state, status.added, status.failed, left);
    }
}

impl Run<'_> {
    async fn all(&self, messages: &[Ready]) -> Result<(), Cancelled> {
        let (shared, pace) = (&self.sends.0, self.job.pace_per_s());
        let (own, tenant) = (Rate::default(), shared.quotas.of(&self.tenant.id));
        let size = CHUNK.min((pace / CHUNKS_A_SECOND).max(1) as usize);
        let mut targets = Targets { messages, at: (0, 0) };
        loop {
            let chunk: Vec<(&Ready, &str)> = targets.by_ref().take(size).collect();
            if chunk.is_empty() {
                return Ok(());
            }
            let now = shared.quotas.now();
            let wait = own.pace(now, chunk.len(), pace);
            let wait = wait.max(tenant.sends.pace(now, chunk.len(), self.tenant.limits.send_per_s));
            self.pause(wait).await?;
            self.add(chunk).await?;
        }
    }

    /// Adds a chunk, however long the backbone is away.
    async fn add(&self, chunk: Vec<(&Ready, &str)>) -> Result<(), Cancelled> {
        let (mut channels, mut additions) = (Vec::new(), Vec::new());
        for (ready, channel) in chunk {
            match ready.addition(self.tenant, channel) {
                Ok(addition) => {
                    channels.push(channel);
                    additions.push(addition);
                }
                Err(error) => self.settle(channel, Err(error)),
            }
        }
        let mut backoff = Backoff::new(AWAY.0, AWAY.1);
        while !additions.is_empty() {
            let answers = self.sends.0.backbone.append_all(&additions).await;
            let mut away = None;
            let (mut left_channels, mut left) = (Vec::new(), Vec::<Addition>::new());
            for ((channel, addition), answer) in channels.into_iter().zip(additions).zip(answers) {
                match answer {
                    Err(error @ (BackboneError::Away(_) | BackboneError::ReadOnly(_))) => {
                        away.get_or_insert(error);
                        left_channels.push(channel);
                        left.push(addition);
                    }
                    answer => self.settle(channel, answer.map_err(TargetError::from)),
                }
            }
            (channels, additions) = (left_channels, left);
            self.job.wait_for(away.as_ref().map(ToString::to_string));
            if away.is_some() {
                self.pause(backoff.delay()).await?;
            }
        }
        Ok(())
    }

    fn settle(&self, channel: &str, outcome: Result<Offset, TargetError>) {
        count(self.metrics, &self.sends.0.upstream, self.tenant, channel, &outcome);
        self.job.settle(channel, outcome.map(drop));
    }

    /// Waits; also without a wait it looks whether it is cancelled.
    async fn pause(&self, wait: Duration) -> Result<(), Cancelled> {
        tokio::select! {
            biased;
            () = self.job.cancelled() => Err(Cancelled),
            () = sleep(wait) => Ok(()),
        }
    }
}

/// Every channel of every message, in order.
struct Targets<'a> {
    messages: &'a [Ready],
    /// Places of the next message and channel.
    at: (usize, usize),
}

impl<'a> Iterator for Targets<'a> {
    type Item = (&'a Ready, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let ready = self.messages.get(self.at.0)?;
            match ready.channels.get(self.at.1) {
                Some(channel) => {
                    self.at.1 += 1;
                    return Some((ready, channel));
                }
                None => self.at = (self.at.0 + 1, 0),
            }
        }
    }
}
