//! Switching versions on and off, and removing them.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::State as Extract;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{BODY_BYTES, Caller, Outcome, Refused, Shared, State, compact, no_such_action, ok, replay};
use crate::domain::{PluginName, TenantId};
use crate::plugin::ContentHash;
use crate::plugin::catalog::readiness::check;
use crate::plugin::catalog::{Catalog, CatalogError};
use crate::plugin::store::{ASKED_MS, StoreError};

/// How often a change is begun anew because others came between looking and changing.
const ATTEMPTS: usize = 4;
/// How long an answer waits for a stage to begin. It is some hundreds of milliseconds ahead.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a change is about.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    /// The version; the one that was uploaded last where it is missing.
    version: Option<String>,
    /// The part that a candidate gets.
    percent: Option<u64>,
}

pub(super) async fn act(Extract(shared): State, caller: Caller, body: Body) -> Outcome {
    let name = caller.name()?;
    let what = caller.what.as_deref().unwrap_or_default();
    if !["activate", "canary", "rollback", "deactivate", "replay"].contains(&what) {
        return Err(no_such_action(what));
    }
    let body = to_bytes(body, BODY_BYTES).await.map_err(|_| {
        Refused::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {BODY_BYTES} bytes"))
    })?;
    if what == "replay" {
        return replay::replay(&shared, &caller, name, &body).await;
    }
    let ask = match &body[..] {
        [] => Ask::default(),
        body => serde_json::from_slice(body).map_err(|error| {
            Refused::new(StatusCode::BAD_REQUEST, format!("the body is not understood: {error}"))
        })?,
    };
    let tenant = &caller.tenant.id;
    let takes_version = ["activate", "canary"].contains(&what);
    if (!takes_version && ask.version.is_some()) || (what != "canary" && ask.percent.is_some()) {
        let why = format!("`version` goes with activate and canary, `percent` with canary; this is {what}");
        return Err(Refused::new(StatusCode::BAD_REQUEST, why));
    }
    let prefix = ask.version.as_deref();
    let catalog = match what {
        "activate" => {
            switch(&shared, tenant, name, |catalog, now_ms| {
                catalog.activate(name, catalog.find(name, prefix)?.version, now_ms)
            })
            .await?
        }
        "canary" => {
            let percent = ask.percent.ok_or_else(|| {
                Refused::new(StatusCode::BAD_REQUEST, "say `percent`, the candidate's part: 1 to 99")
            })?;
            switch(&shared, tenant, name, |catalog, now_ms| {
                catalog.canary(name, catalog.find(name, prefix)?.version, percent, now_ms)
            })
            .await?
        }
        "rollback" => {
            switch(&shared, tenant, name, |catalog, now_ms| catalog.roll_back(name, now_ms)).await?
        }
        _ => switch(&shared, tenant, name, |catalog, now_ms| catalog.deactivate(name, now_ms)).await?,
    };
    let from_ms = catalog.stages().last().map_or(0, |stage| stage.from_ms);
    begun(&shared, from_ms).await?;
    let on = catalog.on(name);
    let body = json!({ "plugin": name, "active": on.active, "canary": on.canary, "from_ms": from_ms });
    Ok(ok(StatusCode::OK, &compact(body)))
}

pub(super) async fn remove(Extract(shared): State, caller: Caller) -> Outcome {
    let (name, prefix) = (caller.name()?, caller.what.as_deref().unwrap_or_default());
    let store = shared.api.rollout.store();
    let version = store.catalog(&caller.tenant.id).await?.find(name, Some(prefix))?.version;
    store.remove(&caller.tenant.id, name, &version.to_string()).await?;
    Ok(ok(StatusCode::OK, &json!({ "plugin": name, "removed": version })))
}

/// Makes a change if every node that lives has ready what it switches on, in the catalog that was looked at.
async fn switch(
    shared: &Shared,
    tenant: &TenantId,
    name: &PluginName,
    change: impl Fn(&Catalog, u64) -> Result<Catalog, CatalogError> + Send + Sync,
) -> Result<Catalog, Refused> {
    let store = shared.api.rollout.store();
    for _ in 0..ATTEMPTS {
        let asked_ms = store.mark().await.map_err(StoreError::from)?.at_ms;
        let catalog = store.catalog(tenant).await?;
        for version in change(&catalog, asked_ms)?.on(name).versions() {
            prepared(shared, tenant, name, &catalog, version).await?;
        }
        let changed = store.change(tenant, |current, now_ms| {
            if *current != catalog || now_ms > asked_ms + ASKED_MS {
                return Err(Stopped::Other);
            }
            Ok(change(current, now_ms)?)
        });
        match changed.await {
            Ok(catalog) => return Ok(catalog),
            Err(Stopped::Store(error)) => return Err(error.into()),
            Err(Stopped::Other) => {}
        }
    }
    Err(StoreError::Busy.into())
}

/// Whether a version is ready on all live nodes. One that they have let go they are asked to prepare.
async fn prepared(
    shared: &Shared,
    tenant: &TenantId,
    name: &PluginName,
    catalog: &Catalog,
    version: ContentHash,
) -> Result<(), Refused> {
    let store = shared.api.rollout.store();
    if !catalog.is_wanted(name, version) {
        let asked =
            store.change(tenant, |catalog, _| catalog.ask_for(name, version).map_err(StoreError::from));
        asked.await?;
        let (plugin, node) = (name.clone(), shared.api.rollout.node().clone());
        return Err(CatalogError::Preparing { plugin, version, node }.into());
    }
    let reports = store.reports(tenant).await?;
    Ok(check(&reports, &shared.live(tenant).await?, name, version)?)
}

/// Waits until a stage has begun by the backbone's clock: what is added after the answer meets it.
async fn begun(shared: &Shared, from_ms: u64) -> Result<(), Refused> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        let now_ms = shared.api.rollout.store().mark().await.map_err(StoreError::from)?.at_ms;
        let Some(left_ms) = from_ms.checked_sub(now_ms).filter(|left_ms| *left_ms > 0) else { break };
        sleep(Duration::from_millis(left_ms.min(1_000))).await;
    }
    Ok(())
}

/// Why a change was not made.
enum Stopped {
    Store(StoreError),
    /// The catalog is another one than was looked at, or a node may have joined since that was not asked.
    Other,
}

impl From<StoreError> for Stopped {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<CatalogError> for Stopped {
    fn from(error: CatalogError) -> Self {
        Self::Store(error.into())
    }
}
