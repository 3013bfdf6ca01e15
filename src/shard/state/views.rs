//! Which view of its channels a session takes part in: as fine as its tenant's plugins tell subscribers apart.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::hub::Hub;
use super::State;
use crate::delivery::queues::Word;
use crate::delivery::{Audience, Channel, Subscriber, View};
use crate::domain::{ChannelName, Kind, StreamKey, TenantId};
use crate::plugin::Scope;
use crate::session::Session;
use crate::telemetry::Metrics;
use crate::tenants::Tenant;

impl State {
    /// To which audience a session belongs now.
    pub(super) fn audience(&self, session: &Session) -> Audience {
        match self.scope(&session.tenant.id) {
            None => Audience::Everyone,
            scope => subscriber(session).audience(scope),
        }
    }

    pub(super) fn scope(&self, tenant: &TenantId) -> Option<Scope> {
        self.plugins.tables.of(tenant)?.finest_scope()
    }

    /// A channel as a session sees it.
    pub(in crate::shard) fn channel_of(&self, at: usize, name: &ChannelName) -> Option<Arc<Channel>> {
        let session = &self.seats[at].session;
        channel(&self.hub, &self.metrics, &session.tenant, name, &self.audience(session))
    }

    /// Lets subscriptions that a session brings along see what it is to see now.
    pub(super) fn adapt(&mut self, at: usize, subs: &[usize], audience: &Audience) {
        let session = &mut self.seats[at].session;
        let tenant = session.tenant.clone();
        for sub in subs {
            let Some(subscription) = session.sub_mut(*sub) else { continue };
            if subscription.channel.view.audience != *audience
                && let Some(channel) =
                    channel(&self.hub, &self.metrics, &tenant, &subscription.channel.name, audience)
            {
                subscription.see(channel);
            }
        }
    }

    /// Plugins came or went: where they tell subscribers apart otherwise than before, sessions take part in other
    /// views.
    pub(in crate::shard) fn regroup(&mut self) {
        let mut scopes: HashMap<TenantId, Option<Scope>> = HashMap::new();
        let seats: Vec<usize> = self.seats.iter().map(|(at, _)| at).collect();
        for at in seats {
            let Some(seat) = self.seats.get(at) else { continue };
            let tenant = &seat.session.tenant.id;
            let scope = match scopes.get(tenant) {
                Some(scope) => *scope,
                None => *scopes.entry(tenant.clone()).or_insert(self.scope(tenant)),
            };
            if seat.scope != scope {
                self.regroup_seat(at);
            }
        }
    }

    /// Has one session take part in the views that are right for it now. Its subscriptions read on there from
    /// where they stand.
    pub(in crate::shard) fn regroup_seat(&mut self, at: usize) {
        self.seats[at].scope = self.scope(&self.seats[at].session.tenant.id);
        let audience = self.audience(&self.seats[at].session);
        for sub in self.subs_of(at) {
            let subscription = self.seats[at].session.sub(sub);
            if subscription.is_none_or(|subscription| subscription.channel.view.audience == audience) {
                continue;
            }
            self.part(at, sub);
            self.release(at, sub);
            self.adapt(at, &[sub], &audience);
            match self.seats[at].link {
                Some(_) => self.join(at, sub),
                None => self.hold(at, sub),
            }
        }
        let is = Arc::new(subscriber(&self.seats[at].session));
        let workers: Vec<usize> = self.seats[at].session.workers_mut().map(|(worker, _)| worker).collect();
        for worker in workers {
            self.worker_says(at, worker, Word::Is(is.clone()));
        }
        self.perform(at, None);
    }
}

/// The shared description of a channel as an audience sees it: the hub's where it has one. `None`: the tenant has
/// no such namespace.
pub(super) fn channel(
    hub: &Hub,
    metrics: &Metrics,
    tenant: &Tenant,
    name: &ChannelName,
    audience: &Audience,
) -> Option<Arc<Channel>> {
    let rules = tenant.rules(name.namespace())?;
    // Tasks of a queue are shaped one by one, for whoever gets them.
    let audience = if rules.kind == Kind::Queue { Audience::Everyone } else { audience.clone() };
    let view = View { stream: StreamKey::channel(&tenant.id, name), audience };
    if let Some(held) = hub.get(&view) {
        return Some(held.channel.clone());
    }
    let (metrics, max_payload) = (metrics.tenant(&tenant.id), tenant.limits.payload_bytes);
    let (tenant, name) = (tenant.id.clone(), name.clone());
    Some(Arc::new(Channel { tenant, name, view, rules, max_payload, metrics }))
}

/// A session as plugins know it.
pub(in crate::shard) fn subscriber(session: &Session) -> Subscriber {
    let (user, class) = (session.identity.user.clone(), session.identity.class.clone());
    Subscriber { session: session.id, user, class }
}
