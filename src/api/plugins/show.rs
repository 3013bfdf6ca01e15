//! `GET /v1/<tenant>/plugins`, and of one version: what there is, what is on, and which nodes are ready.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::upload::Stage;
use super::{Caller, Outcome, Refused, Shared, State, compact, ok};
use crate::domain::{NodeId, PluginName};
use crate::plugin::ContentHash;
use crate::plugin::catalog::readiness::{Readiness, Reports};
use crate::plugin::catalog::{Catalog, Version};
use crate::plugin::hooks::Hook;

pub(super) async fn list(axum::extract::State(shared): State, caller: Caller) -> Outcome {
    let store = shared.api.rollout.store();
    let catalog = store.catalog(&caller.tenant.id).await?;
    let (reports, live) = (store.reports(&caller.tenant.id).await?, shared.live(&caller.tenant.id).await?);
    let plugins = catalog.plugins().iter().map(|(name, entry)| {
        let versions = entry.versions.iter().map(|version| {
            let mut about = described(&catalog, name, version);
            about["nodes"] = nodes(&shared, &catalog, (&reports, &live), name, version.version).into();
            about
        });
        json!({ "name": name, "versions": versions.collect::<Vec<_>>() })
    });
    let body = json!({
        "node": shared.api.rollout.node(),
        "plugins": plugins.collect::<Vec<_>>(),
        "stages": catalog.stages(),
        "stored_bytes": catalog.contents().values().sum::<u64>(),
        "stored_bytes_limit": caller.served.limits.stored_bytes,
    });
    Ok(ok(StatusCode::OK, &body))
}

pub(super) async fn version(axum::extract::State(shared): State, caller: Caller) -> Outcome {
    let name = caller.name()?;
    let about = about(&shared, &caller, name, caller.what.as_deref().unwrap_or_default()).await?;
    Ok(ok(StatusCode::OK, &about))
}

/// One version, with where all live nodes together stand: preparing, ready or failed.
pub(super) async fn about(
    shared: &Shared,
    caller: &Caller,
    name: &PluginName,
    prefix: &str,
) -> Result<Value, Refused> {
    let tenant = &caller.tenant.id;
    let upload = shared.api.uploads.stage(tenant, name, prefix);
    if let Some((version, Stage::Working, took)) = &upload {
        let (seconds, state) = (took.as_secs(), "preparing");
        return Ok(json!({
            "plugin": name, "version": version, "stored": false, "state": state, "seconds": seconds,
        }));
    }
    let store = shared.api.rollout.store();
    let catalog = store.catalog(tenant).await?;
    let version = match (catalog.find(name, Some(prefix)), upload) {
        (Ok(version), _) => version,
        (Err(_), Some((version, Stage::Failed { why, .. }, _))) => {
            return Ok(json!({
                "plugin": name, "version": version, "stored": false, "state": "failed", "why": why,
            }));
        }
        (Err(error), _) => return Err(error.into()),
    };
    let (reports, live) = (store.reports(tenant).await?, shared.live(tenant).await?);
    let nodes = nodes(shared, &catalog, (&reports, &live), name, version.version);
    let mut about = described(&catalog, name, version);
    let is = |state: &str| nodes.values().find(|node| node["state"] == state);
    let state = ["failed", "preparing", "idle"].into_iter().find(|state| is(state).is_some());
    about["state"] = state.unwrap_or("ready").into();
    if let Some(failed) = is("failed") {
        about["why"] = failed["why"].clone();
    }
    let seconds = nodes.values().filter_map(|node| node["seconds"].as_u64()).max();
    about["seconds"] = seconds.into();
    about["nodes"] = nodes.into();
    about["plugin"] = json!(name);
    about["stored"] = true.into();
    Ok(compact(about))
}

fn described(catalog: &Catalog, name: &PluginName, version: &Version) -> Value {
    let on = catalog.on(name);
    let canary = on.canary.filter(|canary| canary.version == version.version);
    let hooks: Vec<_> = version.hooks.iter().map(Hook::interface).collect();
    let candidate = catalog.plugins().get(name).and_then(|entry| entry.candidate);
    // Some of them are secrets. Who has a value can tell by its hash whether it is this one.
    let settings: BTreeMap<_, _> =
        version.settings.iter().map(|(name, value)| (name, ContentHash::of(value.as_bytes()))).collect();
    compact(json!({
        "version": version.version,
        "content": (version.content != version.version).then_some(version.content),
        "bytes": version.bytes,
        "hooks": hooks,
        "uploaded_ms": version.uploaded_ms,
        "settings_sha256": (!settings.is_empty()).then_some(settings),
        "active": on.active == Some(version.version),
        "canary_percent": canary.map(|canary| canary.percent),
        "latest": candidate == Some(version.version),
    }))
}

/// What each node that lives says of a version. `idle`: it has let it go, because nothing of it is on.
fn nodes(
    shared: &Shared,
    catalog: &Catalog,
    (reports, live): (&Reports, &[NodeId]),
    name: &PluginName,
    version: ContentHash,
) -> Map<String, Value> {
    let now_ms = shared.api.rollout.store().backbone().clock().now_ms();
    let wanted = catalog.is_wanted(name, version);
    let said = live.iter().map(|node| {
        let readiness = reports.get(node).and_then(|report| report.versions.get(&version));
        let said = match readiness {
            _ if !wanted => json!({ "state": "idle" }),
            Some(Readiness::Ready) => json!({ "state": "ready" }),
            Some(Readiness::Failed { why }) => json!({ "state": "failed", "why": why }),
            Some(Readiness::Preparing { since_ms }) => {
                json!({ "state": "preparing", "seconds": now_ms.saturating_sub(*since_ms) / 1_000 })
            }
            None => json!({ "state": "preparing" }),
        };
        (node.to_string(), said)
    });
    said.collect()
}
