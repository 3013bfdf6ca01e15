//! Plugins over HTTP, on the admin listener and with the *tenant's* key: upload, switch, look, follow, try.
//!
//! `/v1/<tenant>/plugins` lists them, `POST …/<name>` uploads a version, `POST …/<name>/activate`, `canary`,
//! `rollback`, `deactivate` and `replay` do what they say, `GET` and `DELETE …/<name>/<version>` are about one
//! version, `GET …/logs` is what plugins said on this node.
//!
//! *Invariants*: nothing is stored before it was compiled and started here. What is switched on is ready on all
//! nodes that live, and an answer says so once it is on. Uploads, long polls and replays are bounded: each tenant has
//! its share of a node's.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::future::BoxFuture;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use self::places::Places;
use super::admin::{AdminToken, bearer};
use super::answer::{self, Answer};
use crate::backbone::BackboneError;
use crate::domain::{NodeId, PluginName, TenantId};
use crate::plugin::catalog::CatalogError;
use crate::plugin::rollout::{Rollout, Served};
use crate::plugin::store::StoreError;
use crate::plugin::{Rejection, Tables};
use crate::tenants::{Tenant, Tenants};

mod change;
mod logs;
mod places;
mod query;
mod replay;
mod settings;
mod show;
mod upload;

pub use upload::Uploads;

/// When to come back after a node or its backbone was to blame.
const COME_BACK: Duration = Duration::from_secs(2);
/// Requests that wait for lines of a log, on a node and of one tenant.
const FOLLOWERS: usize = 64;
const FOLLOWERS_OF_TENANT: usize = 8;
/// Replays, on a node and of one tenant: each has a page of entries in memory, and instances of plugins.
const REPLAYS: usize = 4;
const REPLAYS_OF_TENANT: usize = 1;
/// Bytes of a body that is no upload.
const BODY_BYTES: usize = 64 * 1024;

/// Asks which nodes live now that serve a tenant, or may.
pub type Live = Arc<dyn Fn(TenantId) -> BoxFuture<'static, Result<Vec<NodeId>, BackboneError>> + Send + Sync>;

/// What the routes are answered by.
pub struct PluginsApi {
    /// This node's plugins.
    pub rollout: Rollout,
    /// Which versions are on.
    pub tables: Tables,
    /// Whose keys open what.
    pub tenants: Arc<Tenants>,
    /// Opens everything.
    pub token: Option<Arc<AdminToken>>,
    /// Which nodes have to be ready.
    pub live: Live,
    /// Uploads under way.
    pub uploads: Uploads,
    /// Ends what waits.
    pub stop: CancellationToken,
}

struct Shared {
    api: PluginsApi,
    followers: Places,
    replays: Places,
}

type State = axum::extract::State<Arc<Shared>>;

/// The routes, for the admin listener.
pub fn router(api: PluginsApi) -> Router {
    let followers = Places::new("requests that wait for lines", FOLLOWERS, FOLLOWERS_OF_TENANT);
    let replays = Places::new("replays", REPLAYS, REPLAYS_OF_TENANT);
    let shared = Arc::new(Shared { api, followers, replays });
    Router::new()
        .route("/v1/{tenant}/plugins", get(show::list))
        .route("/v1/{tenant}/plugins/logs", get(logs::read))
        .route("/v1/{tenant}/plugins/{name}", post(upload::upload))
        .route(
            "/v1/{tenant}/plugins/{name}/{what}",
            get(show::version).post(change::act).delete(change::remove),
        )
        .with_state(shared)
}

/// Whoever has a key of the tenant, or the operators' token.
struct Caller {
    tenant: Arc<Tenant>,
    served: Served,
    /// The plugin that the path names.
    name: Option<PluginName>,
    /// What stands behind it.
    what: Option<String>,
}

impl FromRequestParts<Arc<Shared>> for Caller {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Refused> {
        let params = RawPathParams::from_request_parts(parts, shared).await;
        let params = params.map_err(|error| Refused::new(StatusCode::BAD_REQUEST, error))?;
        let param = |wanted: &str| params.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value);
        let api = &shared.api;
        let key = parts.headers.get(AUTHORIZATION).and_then(bearer);
        let is_operator = || key.zip(api.token.as_ref()).is_some_and(|(key, token)| token.matches(key));
        let tenant = api.tenants.get(param("tenant").unwrap_or_default());
        // Who has no key learns nothing, not even which tenants there are.
        let allowed = tenant.as_ref().is_some_and(|tenant| answer::has_key(tenant, &parts.headers));
        if !allowed && !is_operator() {
            return Err(Refused(Box::new(answer::unauthorized())));
        }
        let served = tenant.as_ref().and_then(|tenant| api.rollout.served(&tenant.id));
        let (Some(tenant), Some(served)) = (tenant, served) else {
            return Err(Refused::new(StatusCode::NOT_FOUND, "there is no such tenant"));
        };
        let name = param("name").map(PluginName::parse).transpose();
        let name = name.map_err(|error| Refused::new(StatusCode::BAD_REQUEST, error))?;
        Ok(Self { tenant, served, name, what: param("what").map(str::to_owned) })
    }
}

impl Shared {
    async fn live(&self, tenant: &TenantId) -> Result<Vec<NodeId>, StoreError> {
        Ok((self.api.live)(tenant.clone()).await?)
    }
}

impl Caller {
    fn name(&self) -> Result<&PluginName, Refused> {
        // Routes without a name do not ask.
        self.name.as_ref().ok_or_else(|| Refused::new(StatusCode::NOT_FOUND, "no plugin is named"))
    }
}

/// A request that is not carried out, with its answer.
struct Refused(Box<Answer>);

impl Refused {
    fn new(status: StatusCode, why: impl Display) -> Self {
        Self(Box::new(answer::error(status, why)))
    }

    /// The same request may be carried out later.
    fn later(status: StatusCode, why: impl Display) -> Self {
        let ms = u64::try_from(COME_BACK.as_millis()).unwrap_or(u64::MAX);
        let body = json!({ "error": why.to_string(), "retry_after_ms": ms });
        Self(Box::new(answer::retry_after(answer::json(status, &body), COME_BACK)))
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        self.0.map(Body::from)
    }
}

impl From<CatalogError> for Refused {
    fn from(error: CatalogError) -> Self {
        let status = match &error {
            error if error.is_missing() => StatusCode::NOT_FOUND,
            CatalogError::Prefix | CatalogError::Percent(_) => StatusCode::BAD_REQUEST,
            CatalogError::Newer { .. } | CatalogError::Damaged(_) => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::CONFLICT,
        };
        if error.is_retryable() { Self::later(status, error) } else { Self::new(status, error) }
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Catalog(error) => error.into(),
            StoreError::Backbone(error) if error.is_retryable() => {
                Self::later(StatusCode::SERVICE_UNAVAILABLE, error)
            }
            StoreError::Backbone(error) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, error),
            StoreError::Busy => Self::later(StatusCode::CONFLICT, error),
            StoreError::Uploading => Self::later(StatusCode::TOO_MANY_REQUESTS, error),
            StoreError::OverQuota { .. } => Self::new(StatusCode::PAYLOAD_TOO_LARGE, error),
            StoreError::Damaged => Self::new(StatusCode::CONFLICT, error),
        }
    }
}

impl From<Rejection> for Refused {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::TooLarge { .. } => Self::new(StatusCode::PAYLOAD_TOO_LARGE, rejection),
            Rejection::Node(_) => Self::later(StatusCode::SERVICE_UNAVAILABLE, rejection),
            _ => Self::new(StatusCode::UNPROCESSABLE_ENTITY, rejection),
        }
    }
}

type Outcome = Result<Response, Refused>;

fn ok(status: StatusCode, body: &serde_json::Value) -> Response {
    answer::json(status, body).map(Body::from)
}

/// An object without what is null.
fn compact(mut value: serde_json::Value) -> serde_json::Value {
    if let Some(object) = value.as_object_mut() {
        object.retain(|_, value| !value.is_null());
    }
    value
}

fn no_such_action(what: &str) -> Refused {
    let why =
        format!("there is no {what:?} here: activate, canary, rollback, deactivate and replay there are");
    Refused::new(StatusCode::NOT_FOUND, why)
}
