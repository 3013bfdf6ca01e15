//! Sends: publish requests that are too wide to be answered at once, carried out in the background.
//!
//! A send is paced twice: by its own pace, and by the rate that all sends of a tenant share. While the
//! backbone is away it waits. It lives in this node's memory: when the node dies, its publisher posts it
//! again with the same `id`, and the channels that have it already answer with the entry they have.
//!
//! Invariants: a tenant has a bounded number of sends, running and ended; each task is owned by [`Sends`]
//! and joined by [`Sends::finish`]; a send looks at its cancellation between two calls of the backbone, so
//! that what it says it added is what is in the logs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Method, Request, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::json;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::append::Ready;
use super::error::PublishError;
use super::parse::PublishRequest;
use crate::api::answer::{self, Answer};
use crate::backbone::Backbone;
use crate::delivery::Upstream;
use crate::domain::{NodeId, TenantId};
use crate::quota::Quotas;
use crate::telemetry::{Metrics, Traceparent, events, publish_span};
use crate::tenants::Tenant;

mod job;
mod run;

use job::Job;

/// How long a send can be looked at once it has ended.
const KEPT: Duration = Duration::from_secs(600);
/// Ended sends of one tenant that are kept; each takes up to about 30 KB for its errors.
const KEPT_MOST: usize = 100;
/// How long sends that are cut may take to notice.
const CUT: Duration = Duration::from_secs(2);
/// When a tenant that has as many sends as it may comes back.
const FULL: Duration = Duration::from_secs(5);

/// The sends of one node. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Sends(Arc<Shared>);

struct Shared {
    node: NodeId,
    backbone: Arc<dyn Backbone>,
    metrics: Metrics,
    upstream: Upstream,
    quotas: Quotas,
    runtime: Handle,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// In the order of their start.
    tenants: Mutex<HashMap<TenantId, Vec<Arc<Job>>>>,
}

/// A send that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Accepted {
    pub(super) id: String,
    pub(super) targets: usize,
    pub(super) pace_per_s: u32,
}

impl Sends {
    /// Sends run on the runtime that this is called on.
    pub(super) fn new(
        node: NodeId,
        backbone: Arc<dyn Backbone>,
        metrics: Metrics,
        upstream: Upstream,
        quotas: Quotas,
    ) -> Self {
        let (tasks, stop, tenants) = (TaskTracker::new(), CancellationToken::new(), Mutex::default());
        let runtime = Handle::current();
        Self(Arc::new(Shared { node, backbone, metrics, upstream, quotas, runtime, tasks, stop, tenants }))
    }

    /// Takes a request and carries it out in the background.
    pub(super) fn start(
        &self,
        tenant: &Arc<Tenant>,
        request: PublishRequest,
        caller: Option<Traceparent>,
    ) -> Result<Accepted, PublishError> {
        let shared = &self.0;
        let targets = request.targets();
        if shared.tasks.is_closed() {
            return Err(PublishError::Leaving);
        }
        let pace_per_s = request.pace_per_s.unwrap_or(tenant.limits.send_per_s);
        let id = format!("{:016x}~{}", rand::random::<u64>(), shared.node);
        let started_ms = shared.backbone.clock().now_ms();
        let job = Job::new(id.clone(), targets, pace_per_s, started_ms, shared.stop.child_token());
        let job = Arc::new(job);
        {
            let mut tenants = shared.tenants();
            let jobs = tenants.entry(tenant.id.clone()).or_default();
            let running = jobs.iter().filter(|job| job.ended().is_none()).count();
            if running >= tenant.limits.sends {
                let why = format!(
                    "{running} sends of this tenant run on this node, the most there may be: wait for one to end, \
                     or cancel one"
                );
                return Err(PublishError::Limited { why, targets, wait: FULL });
            }
            jobs.push(job.clone());
        }
        let span = publish_span(&tenant.id, request.messages.len(), caller);
        let traceparent = span.traceparent.map(|own| own.to_string());
        let messages = request.messages.into_iter().enumerate().map(|(place, mut message)| {
            // A send is tried again while the backbone is away: with an id that adds nothing twice.
            let own = || format!("{id}/{place}").into();
            message.publication.id.get_or_insert_with(own);
            Ready::new(message, traceparent.as_deref())
        });
        let messages = messages.collect();
        let metrics = shared.metrics.tenant(&tenant.id);
        events::send_started(&metrics, &tenant.id, &id, targets, pace_per_s);
        let task = run::run(self.clone(), tenant.clone(), metrics, job, messages);
        shared.tasks.spawn_on(tracing::Instrument::instrument(task, span.span), &shared.runtime);
        Ok(Accepted { id, targets, pace_per_s })
    }

    /// `GET /v1/<tenant>/sends`, and `GET` and `DELETE` of one of them.
    pub fn handle<B>(&self, tenant: &Tenant, id: Option<&str>, request: &Request<B>) -> Answer {
        let allow = if id.is_some() { "GET, HEAD, DELETE" } else { "GET, HEAD" };
        let cancels = request.method() == Method::DELETE && id.is_some();
        if !cancels && request.method() != Method::GET && request.method() != Method::HEAD {
            return answer::method_not_allowed(allow);
        }
        if !answer::has_key(tenant, request.headers()) {
            return answer::unauthorized();
        }
        if request.uri().query().is_some_and(|query| !query.is_empty()) {
            return answer::error(StatusCode::BAD_REQUEST, "there are no parameters here");
        }
        let Some(id) = id else {
            let sends: Vec<_> = self.0.of(&tenant.id).iter().map(|job| job.status(false)).collect();
            return answer::json(StatusCode::OK, &json!({ "sends": sends }));
        };
        let id = percent_decode_str(id).decode_utf8_lossy();
        let Some(job) = self.0.of(&tenant.id).into_iter().find(|job| job.id() == id) else {
            return answer::error(StatusCode::NOT_FOUND, self.0.unknown(&id));
        };
        if cancels {
            job.cancel();
        }
        answer::json(StatusCode::OK, &job.status(true))
    }

    /// Waits until every send has ended, no longer than `deadline`, and cuts those that have not: the log
    /// says what was left of each. From now on no new ones are taken.
    pub async fn finish(&self, deadline: Duration) {
        self.0.tasks.close();
        if timeout(deadline, self.0.tasks.wait()).await.is_err() {
            self.0.stop.cancel();
            if timeout(CUT, self.0.tasks.wait()).await.is_err() {
                tracing::error!("sends wait for the backbone, and are cut with it");
            }
        }
    }
}

impl Shared {
    /// The sends of all tenants, without those that ended long ago.
    fn tenants(&self) -> MutexGuard<'_, HashMap<TenantId, Vec<Arc<Job>>>> {
        // A holder that panicked has left whole lists behind.
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        tenants.retain(|_, jobs| {
            let ended = jobs.iter().filter(|job| job.ended().is_some()).count();
            let mut too_many = ended.saturating_sub(KEPT_MOST);
            jobs.retain(|job| {
                let Some(ended) = job.ended() else { return true };
                let drop = too_many > 0 || now.duration_since(ended) >= KEPT;
                too_many = too_many.saturating_sub(1);
                !drop
            });
            !jobs.is_empty()
        });
        tenants
    }

    fn of(&self, tenant: &TenantId) -> Vec<Arc<Job>> {
        self.tenants().get(tenant).cloned().unwrap_or_default()
    }

    /// Why there is no send of that name.
    fn unknown(&self, id: &str) -> String {
        match id.split_once('~').map(|(_, node)| NodeId::parse(node)) {
            Some(Ok(node)) if node != self.node => {
                format!("that send is at the node {node}: ask it there; this is the node {}", self.node)
            }
            _ => "there is no such send: a send is kept for 10 minutes after its end, and goes with its node"
                .to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
