//! Subscriptions that a plugin is asked about first.

use super::{State, views};
use crate::domain::ChannelName;
use crate::plugin::Hook;
use crate::protocol::{RequestId, Subscribe};

impl State {
    /// Whether a plugin is asked whether the session may subscribe, which the rules allow: not about its own
    /// channels, nor about those it has.
    pub(super) fn is_to_ask(&mut self, at: usize, wish: &Subscribe) -> bool {
        let name = &wish.channel;
        if name.is_personal() || name.is_of_session() || !self.asks(at) {
            return false;
        }
        let session = &mut self.seats[at].session;
        let (tenant, hub, metrics) = (session.tenant.clone(), &self.hub, &self.metrics);
        let audience = Default::default();
        let mut channel_of = |name: &ChannelName| views::channel(hub, metrics, &tenant, name, &audience);
        session.may_subscribe(name, &mut channel_of).is_ok()
    }

    fn asks(&self, at: usize) -> bool {
        let session = &self.seats[at].session;
        let (tenant, id) = (&session.tenant.id, session.id.part());
        self.plugins.for_client(tenant, Hook::OnSubscribe, self.clock.now_ms(), &id).is_some()
    }

    /// Of what a `connect` wishes, what a plugin is asked about first, and the rest.
    pub(super) fn split_asked(
        &mut self,
        at: usize,
        wishes: Vec<Subscribe>,
    ) -> (Vec<Subscribe>, Vec<Subscribe>) {
        if !self.asks(at) {
            return (Vec::new(), wishes);
        }
        wishes.into_iter().partition(|wish| self.is_to_ask(at, wish))
    }

    /// Subscribes a session, where nobody is to be asked any more. The rules hold all the same.
    pub(in crate::shard) fn subscribe(&mut self, at: usize, id: Option<RequestId>, wish: Subscribe) {
        let audience = self.audience(&self.seats[at].session);
        let session = &mut self.seats[at].session;
        let (tenant, hub, metrics) = (session.tenant.clone(), &self.hub, &self.metrics);
        let mut channel_of = |name: &ChannelName| views::channel(hub, metrics, &tenant, name, &audience);
        session.subscribe(id, wish, &mut channel_of, &mut self.fx);
        self.perform(at, None);
        self.schedule(at);
    }
}
