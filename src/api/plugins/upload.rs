//! `POST /v1/<tenant>/plugins/<name>`: a new version. Read, looked at, compiled, started, and then stored.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{RawQuery, Request};
use axum::http::header::{CONTENT_LENGTH, LOCATION};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::places::Places;
use super::settings::settings;
use super::{Caller, Outcome, Refused, Shared, State, ok, show};
use crate::backbone::backoff::Backoff;
use crate::domain::{PluginName, TenantId};
use crate::plugin::catalog::Version;
use crate::plugin::catalog::readiness::check;
use crate::plugin::inspect::inspect;
use crate::plugin::rollout::{Rollout, Served};
use crate::plugin::{ContentHash, Rejection};

/// Uploads on one node at a time, and of one tenant: each may be of 64 MiB.
const AT_ONCE: usize = 2;
const AT_ONCE_OF_TENANT: usize = 1;
/// How long a body may take to come.
const BODY: Duration = Duration::from_secs(300);
/// An answer waits so long for the version to be ready everywhere.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often one looks meanwhile.
const LOOK: Duration = Duration::from_millis(100);
/// How often storing is tried, where the backbone was at fault.
const STORED: usize = 10;
/// How long, and how many of each tenant, failed uploads are remembered.
const KEPT: Duration = Duration::from_secs(600);
const KEPT_MOST: usize = 16;

/// The uploads of one node. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Uploads(Arc<Inner>);

struct Inner {
    places: Places,
    jobs: Mutex<HashMap<(TenantId, PluginName, ContentHash), Job>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// One upload that is being compiled, or was not taken.
#[derive(Clone)]
struct Job {
    since: Instant,
    stage: watch::Receiver<Stage>,
}

/// Where an upload stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is compiled, tried or stored.
    Working,
    /// It is in the catalog.
    Stored,
    /// It is not taken, and this is why.
    Failed { status: u16, why: Box<str> },
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Holders only look up, put in or take out.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Uploads {
    /// None yet. Those under way are cut at `stop`.
    pub fn new(stop: CancellationToken) -> Self {
        let places = Places::new("uploads", AT_ONCE, AT_ONCE_OF_TENANT);
        let (jobs, tasks) = (Mutex::default(), TaskTracker::new());
        Self(Arc::new(Inner { places, jobs, tasks, stop }))
    }

    /// Resolves after `stop` once every upload has ended.
    pub async fn end(self) {
        self.0.stop.cancelled().await;
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Where an upload stands that this node took, and for how long it has been at it.
    pub(super) fn stage(
        &self,
        tenant: &TenantId,
        name: &PluginName,
        version: &str,
    ) -> Option<(ContentHash, Stage, Duration)> {
        let jobs = lock(&self.0.jobs);
        let mut found = jobs.iter().filter(|((whose, plugin, id), _)| {
            whose == tenant && plugin == name && id.to_string().starts_with(version)
        });
        let ((_, _, id), job) = found.next()?;
        Some((*id, job.stage.borrow().clone(), job.since.elapsed()))
    }

    fn remember(&self, key: (TenantId, PluginName, ContentHash), job: Job) {
        let mut jobs = lock(&self.0.jobs);
        jobs.retain(|_, job| *job.stage.borrow() == Stage::Working || job.since.elapsed() < KEPT);
        let of_tenant = jobs.iter().filter(|((tenant, ..), _)| *tenant == key.0);
        if of_tenant.clone().count() >= KEPT_MOST {
            let oldest = of_tenant.min_by_key(|(_, job)| job.since).map(|(key, _)| key.clone());
            oldest.and_then(|oldest| jobs.remove(&oldest));
        }
        jobs.insert(key, job);
    }
}

pub(super) async fn upload(
    axum::extract::State(shared): State,
    caller: Caller,
    RawQuery(query): RawQuery,
    request: Request,
) -> Outcome {
    let name = caller.name()?.clone();
    let settings = settings(request.headers(), query.as_deref())?;
    let api = &shared.api;
    let place = api.uploads.0.places.take(&caller.tenant.id)?;
    let most = caller.served.limits.code_bytes;
    let (head, body) = request.into_parts();
    let body = timeout(BODY, read(&head.headers, body, most)).await;
    let bytes =
        body.map_err(|_| Refused::new(StatusCode::REQUEST_TIMEOUT, "the component did not come in time"))??;
    let whole = bytes.clone();
    let looked = tokio::task::spawn_blocking(move || {
        inspect(&whole, most).map(|inspected| (inspected, ContentHash::of(&whole)))
    });
    let (inspected, content) =
        looked.await.map_err(|error| Refused::new(StatusCode::INTERNAL_SERVER_ERROR, error))??;
    inspected.permitted(&caller.served.limits)?;
    let hooks = inspected.hooks;
    let id = Version::id(content, &settings);
    let version =
        Version { version: id, content, bytes: bytes.len() as u64, hooks, uploaded_ms: 0, settings };
    let (stage, mut seen) = watch::channel(Stage::Working);
    let key = (caller.tenant.id.clone(), name.clone(), id);
    api.uploads.remember(key, Job { since: Instant::now(), stage: seen.clone() });
    let until = Instant::now() + PATIENCE;
    let work =
        Work { rollout: api.rollout.clone(), served: caller.served.clone(), name: name.clone(), version };
    let (stop, tenant) = (api.uploads.0.stop.clone(), caller.tenant.id.clone());
    api.uploads.0.tasks.spawn(async move {
        let end = tokio::select! {
            () = stop.cancelled() => {
                Stage::Failed { status: 503, why: "the node ended before it was done: push it again".into() }
            }
            end = work.run(&place.tenant, bytes) => end,
        };
        drop(place);
        stage.send_replace(end);
    });
    let waited = timeout(PATIENCE, seen.wait_for(|stage| *stage != Stage::Working)).await;
    let stage = waited.ok().and_then(Result::ok).map_or(Stage::Working, |stage| stage.clone());
    if let Stage::Failed { status, why } = stage {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let is_nodes = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
        return Err(if is_nodes { Refused::later(status, why) } else { Refused::new(status, why) });
    }
    if stage == Stage::Stored {
        await_ready(&shared, &tenant, &name, id, until).await;
    }
    answer(&shared, &caller, &name, id).await
}

/// Waits until a version is ready everywhere, or known not to work somewhere, but not past `until`.
async fn await_ready(shared: &Shared, tenant: &TenantId, name: &PluginName, id: ContentHash, until: Instant) {
    while Instant::now() < until {
        if let (Ok(reports), Ok(live)) =
            (shared.api.rollout.store().reports(tenant).await, shared.live(tenant).await)
            && check(&reports, &live, name, id).err().is_none_or(|error| !error.is_retryable())
        {
            return;
        }
        sleep(LOOK).await;
    }
}

async fn answer(shared: &Shared, caller: &Caller, name: &PluginName, id: ContentHash) -> Outcome {
    let about = show::about(shared, caller, name, &id.to_string()).await?;
    let status = if about["state"] == "preparing" { StatusCode::ACCEPTED } else { StatusCode::CREATED };
    let mut response: Response = ok(status, &about);
    let place = format!("/v1/{}/plugins/{name}/{id}", caller.tenant.id);
    if let Ok(place) = HeaderValue::from_str(&place) {
        response.headers_mut().insert(LOCATION, place);
    }
    Ok(response)
}

/// Reads a body. One that is too large is read on and dropped, so that its sender gets to read why.
async fn read(headers: &HeaderMap, mut body: Body, most: usize) -> Result<Bytes, Refused> {
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let mut got = 0;
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|_| Refused::new(StatusCode::BAD_REQUEST, "the connection was lost in the middle"))?;
        let Ok(data) = frame.into_data() else { continue };
        got += data.len();
        if got > most {
            bytes = BytesMut::new();
            // What is beyond any limit is cut off.
            if got > most.saturating_mul(4) {
                break;
            }
        } else {
            bytes.extend_from_slice(&data);
        }
    }
    if got > most {
        return Err(Rejection::TooLarge { got: length.unwrap_or(got).max(got), limit: most }.into());
    }
    Ok(bytes.freeze())
}

/// What is done with a component.
struct Work {
    rollout: Rollout,
    served: Served,
    name: PluginName,
    version: Version,
}

impl Work {
    async fn run(self, tenant: &TenantId, bytes: Bytes) -> Stage {
        let settings = self.served.settings(tenant, &self.name, &self.version);
        if let Err(rejection) = self.rollout.host().prepare(bytes.clone(), &settings).await {
            return failed(rejection.into());
        }
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let stored_bytes = self.served.limits.stored_bytes;
        for left in (0..STORED).rev() {
            let pushing =
                self.rollout.store().push(tenant, &self.name, self.version.clone(), &bytes, stored_bytes);
            match pushing.await {
                Ok(_) => return Stage::Stored,
                Err(error) if error.is_retryable() && left > 0 => sleep(backoff.delay()).await,
                Err(error) => return failed(error.into()),
            }
        }
        Stage::Working
    }
}

fn failed(refused: Refused) -> Stage {
    let body: serde_json::Value = serde_json::from_slice(refused.0.body()).unwrap_or_default();
    let why = body["error"].as_str().unwrap_or("it failed").into();
    Stage::Failed { status: refused.0.status().as_u16(), why }
}
