//! What this node does for plugins to be on everywhere at one moment: a task that looks for changes, has ready what
//! the catalogs name, keeps the tables, and says so.
//!
//! Between two looks a node knows all stages for longer than the time until the next look ([`super::store`] says
//! why), so nobody who calls hooks waits while the backbone answers.
//!
//! A version that entries meet and that is not ready here has a place in the tables all the same: its hooks fail as
//! [`super::Failure::Unavailable`], and the tenant's policy says what happens then. To hold back the moment up to
//! which stages are known would stop *all* tenants for the sake of one whose plugin this node cannot compile. It
//! does not happen in the ordinary course: a version is switched on when all live nodes have it ready, and a node
//! that starts takes no traffic, and knows no stage, before it has tried to prepare all that is on.
//!
//! *Invariants*: one task changes the tables. They are set before the moment up to which they are known moves on.
//! Every task is owned by it and ends with it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::answers::AnswerLimits;
use super::catalog::Version;
use super::host::{Plugin, PluginHost, Settings};
use super::prepare::ContentHash;
use super::store::{PluginStore, pairs};
use super::tables::TablesKeeper;
use crate::config::TenantPlugins;
use crate::domain::{NodeId, PluginName, TenantId};

mod give_up;
mod kept;
mod preparing;
mod worker;

#[cfg(test)]
mod tests;

/// How often one looks for changes. It is less than the time for which stages are known by half.
const LOOK: Duration = Duration::from_millis(150);

/// A tenant whose plugins this node runs, and what they may take.
#[derive(Debug, Clone)]
pub struct Served {
    /// What they may take.
    pub limits: TenantPlugins,
    /// What their answers may have.
    pub answers: AnswerLimits,
}

/// All of them.
pub type AllServed = BTreeMap<TenantId, Served>;

/// What a rollout is made of.
pub struct RolloutParts {
    /// Where plugins run.
    pub host: Arc<PluginHost>,
    /// Where they are kept.
    pub store: PluginStore,
    /// This node.
    pub node: NodeId,
    /// Whether no other node lived when this one made itself known.
    pub is_alone: bool,
    /// The tenants of this node.
    pub served: watch::Receiver<Arc<AllServed>>,
}

/// What others may ask of a node's rollout. Cheap to clone.
#[derive(Clone)]
pub struct Rollout(Arc<Shared>);

struct Shared {
    host: Arc<PluginHost>,
    store: PluginStore,
    node: NodeId,
    served: watch::Receiver<Arc<AllServed>>,
    ready: Mutex<HashMap<Key, Arc<Plugin>>>,
    joined: watch::Sender<bool>,
}

/// A version of a plugin of a tenant.
type Key = (TenantId, PluginName, ContentHash);

impl Rollout {
    /// Starts the task; the caller owns and joins it, and it ends at `stop`. To be called within a Tokio runtime.
    pub fn spawn(
        parts: RolloutParts,
        keeper: TablesKeeper,
        stop: CancellationToken,
    ) -> (Self, JoinHandle<()>) {
        let RolloutParts { host, store, node, is_alone, served } = parts;
        let (ready, joined) = (Mutex::default(), watch::channel(false).0);
        let shared = Arc::new(Shared { host, store, node, served, ready, joined });
        let worker = worker::Worker::new(Arc::clone(&shared), keeper, is_alone);
        (Self(shared), tokio::spawn(worker.run(stop)))
    }

    /// Resolves once every version that is on is ready here, or was found not to work here, one that may work after
    /// a while a minute later; false where the node ends before. Cancel-safe.
    pub async fn joined(&self) -> bool {
        self.0.joined.subscribe().wait_for(|joined| *joined).await.is_ok()
    }

    /// Where plugins run.
    pub fn host(&self) -> &Arc<PluginHost> {
        &self.0.host
    }

    /// Where they are kept.
    pub fn store(&self) -> &PluginStore {
        &self.0.store
    }

    /// This node.
    pub fn node(&self) -> &NodeId {
        &self.0.node
    }

    /// What a tenant's plugins may take; `None`: the node does not know it.
    pub fn served(&self, tenant: &TenantId) -> Option<Served> {
        self.0.served.borrow().get(tenant).cloned()
    }

    /// A version, if it is ready on this node.
    pub fn ready(&self, tenant: &TenantId, name: &PluginName, version: ContentHash) -> Option<Arc<Plugin>> {
        self.0.ready().get(&(tenant.clone(), name.clone(), version)).cloned()
    }
}

impl Shared {
    fn ready(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Arc<Plugin>>> {
        // Holders only look up, put in or take out.
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Served {
    /// What a version of a plugin is bound with.
    pub fn settings(&self, tenant: &TenantId, name: &PluginName, version: &Version) -> Settings {
        Settings {
            tenant: tenant.clone(),
            name: name.as_str().into(),
            settings: pairs(&version.settings),
            limits: self.limits.clone(),
            answers: self.answers,
        }
    }
}
