//! What a plugin would make of messages, beside what is made of them: counted nowhere, and after all that is live.

use std::sync::Arc;

use super::{Delivery, Plugin, PluginHost};
use crate::plugin::answers::DeliverVerdict;
use crate::plugin::outcome::Failure;

/// A plugin that is bound once more. Its calls are in nobody's metrics, and what fails cuts nobody off. Dropping it
/// takes it out of use, and its instances go.
pub struct Rehearsal {
    host: Arc<PluginHost>,
    plugin: Arc<Plugin>,
}

impl Rehearsal {
    pub(super) fn new(host: Arc<PluginHost>, plugin: Arc<Plugin>) -> Self {
        Self { host, plugin }
    }

    /// What would become of this message? It waits behind all calls of the tenant that wait already; there is no way
    /// to show several at once, since those that came meanwhile would wait for all of them. Cancelled, a message that
    /// was not shown yet is not.
    pub async fn deliver(&self, message: Delivery) -> Result<DeliverVerdict, Failure> {
        let mut answers = self.host.deliver(&self.plugin, vec![message]).await;
        answers.pop().unwrap_or(Err(Failure::Unavailable))
    }
}

impl Drop for Rehearsal {
    fn drop(&mut self) {
        self.host.retire(&self.plugin);
    }
}
