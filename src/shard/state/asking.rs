//! Subscriptions that a plugin is asked about first.

use super::super::turns::{NextTurn, Turn};
use super::{State, views};
use crate::domain::ChannelName;
use crate::plugin::Hook;
use crate::protocol::{ClientFrame, RequestId, ServerFrame, Subscribe};

impl State {
    /// Whether a plugin is asked whether the session may subscribe, which the rules allow: not about its own
    /// channels, nor about those it has.
    pub(in crate::shard) fn is_to_ask(&mut self, at: usize, wish: &Subscribe) -> bool {
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

    /// Of what a `connect` wishes, what a plugin is asked about first, and the rest. Nobody is asked twice about a
    /// channel, nor about more of them than the session may have.
    pub(super) fn split_asked(
        &mut self,
        at: usize,
        wishes: Vec<Subscribe>,
    ) -> (Vec<(Subscribe, Turn)>, Vec<Subscribe>) {
        if !self.asks(at) {
            return (Vec::new(), wishes);
        }
        let (to_ask, rest): (Vec<_>, Vec<_>) = wishes.into_iter().partition(|wish| self.is_to_ask(at, wish));
        let most = self.seats[at].session.channels_left();
        let mut asked = Vec::new();
        for wish in to_ask {
            if self.seats[at].turns.is_busy(&wish.channel) {
                continue;
            }
            if asked.len() == most {
                let (code, message) = self.seats[at].session.too_many_channels();
                self.send(at, &ServerFrame::Error { id: None, code, message: message.into() });
                continue;
            }
            asked.extend(self.seats[at].turns.take(&wish.channel).map(|turn| (wish, turn)));
        }
        (asked, rest)
    }

    /// The turn that a frame waits for: of one about a channel that a plugin is asked about, or has to be.
    pub(super) fn turn_for(&mut self, at: usize, frame: &ClientFrame) -> Option<(RequestId, NextTurn)> {
        let (id, channel, wish) = match frame {
            ClientFrame::Subscribe { id, subscribe } => (*id, &subscribe.channel, Some(subscribe)),
            ClientFrame::Unsubscribe { id, channel } => (*id, channel, None),
            _ => return None,
        };
        let waits =
            self.seats[at].turns.is_busy(channel) || wish.is_some_and(|wish| self.is_to_ask(at, wish));
        waits.then(|| (id, self.seats[at].turns.next(channel)))
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
