//! Assembles what runs tenants' plugins.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Stages, StartError};
use crate::api::admin::{AdminToken, Routes};
use crate::api::plugins::{self, Live, PluginsApi, Uploads};
use crate::backbone::BackboneError;
use crate::plugin::answers::AnswerLimits;
use crate::plugin::compile::CompileCommand;
use crate::plugin::rollout::{AllServed, Rollout, RolloutParts, Served};
use crate::plugin::store::PluginStore;
use crate::plugin::{HostConfig, NewsDesk, PluginHost, Plugins, Services, Tables};
use crate::router::{ClusterSecret, NodeRecord, membership};
use crate::tenants::Tenants;

/// What a node has of its tenants' plugins.
pub(super) struct PluginStage {
    /// For whoever calls hooks.
    pub(super) hooks: Plugins,
    pub(super) rollout: Rollout,
    uploads: Uploads,
    live: Live,
}

impl PluginStage {
    /// The routes for tenants' developers.
    pub(super) fn routes(
        &self,
        tenants: &Arc<Tenants>,
        token: Option<Arc<AdminToken>>,
        stop: CancellationToken,
    ) -> Routes {
        plugins::router(PluginsApi {
            rollout: self.rollout.clone(),
            tables: self.hooks.tables.clone(),
            tenants: Arc::clone(tenants),
            token,
            live: self.live.clone(),
            uploads: self.uploads.clone(),
            stop,
        })
    }
}

impl Stages<'_> {
    /// Tenants' plugins: where they run, and what keeps them as their catalogs say.
    pub(super) async fn plugins(
        &mut self,
        secret: &ClusterSecret,
        record: watch::Receiver<NodeRecord>,
    ) -> Result<PluginStage, StartError> {
        let (backbone, node, stop) = (self.backbone.clone(), self.node(), self.stop.clone());
        // Before it looks what is on: whoever switches something on from now on asks this node too.
        let nodes = membership::ask(&*backbone, &node, &record.borrow().clone()).await?;
        let is_alone = nodes.iter().all(|(id, _)| *id == node);
        let live: Live = Arc::new(move |tenant| {
            let (backbone, node, record) = (backbone.clone(), node.clone(), record.borrow().clone());
            let is_over = stop.is_cancelled();
            Box::pin(async move {
                // To ask is to be known: a node that takes its record away must not put it there again.
                if is_over {
                    return Err(BackboneError::Away("this node ends".into()));
                }
                let mut nodes = membership::ask(&*backbone, &node, &record).await?;
                nodes.retain(|(_, record)| record.may_serve(&tenant));
                Ok(nodes.into_iter().map(|(node, _)| node).collect())
            })
        });
        let services = Services { backbone: self.backbone.clone(), metrics: self.metrics.clone() };
        let host = HostConfig {
            plugins: self.config.plugins.clone(),
            compiler: CompileCommand::this_program()?,
            key: secret.signing_key("compiled plugins").into(),
        };
        let host = Arc::new(PluginHost::start(host, services)?);
        let served: AllServed = self
            .config
            .tenants
            .iter()
            .map(|(id, tenant)| {
                let answers = AnswerLimits {
                    payload_bytes: tenant.limits.payload_bytes,
                    targets: tenant.limits.publish_targets,
                };
                (id.clone(), Served { limits: tenant.plugins.clone(), answers })
            })
            .collect();
        // The tenants of a node stay as they are until its end.
        let (_, served) = watch::channel(Arc::new(served));
        let store = PluginStore::new(self.backbone.clone());
        let parts = RolloutParts { host: Arc::clone(&host), store, node: self.node(), is_alone, served };
        let (keeper, tables) = Tables::new(0);
        let (rollout, task) = Rollout::spawn(parts, keeper, self.stop.clone());
        self.own(task);
        let uploads = Uploads::new(self.stop.clone());
        self.tasks.spawn(uploads.clone().end());
        Ok(PluginStage { hooks: Plugins { tables, host: Some(host) }, rollout, uploads, live })
    }

    /// Where plugins are told of sessions.
    pub(super) fn news(&mut self) -> NewsDesk {
        let (news, task) = NewsDesk::open(self.stop.clone());
        self.own(task);
        news
    }
}
