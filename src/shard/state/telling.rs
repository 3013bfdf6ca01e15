//! What backends are told of this shard's sessions.

use super::super::hub::HubChannel;
use super::super::seat::Link;
use super::State;
use crate::delivery::{SessionEvent, Who};
use crate::domain::{ChannelName, CloseReason, EventKind, Offset};
use crate::session::Session;

/// Messages of the own channel that an ended session had not handled: after the first offset, up to the
/// second.
pub(in crate::shard) type LeftOver = (Offset, Offset);

impl State {
    /// Tells an event of a session, where its tenant wants to know.
    pub(in crate::shard) fn tell(&self, at: usize, event: SessionEvent) {
        let session = &self.seats[at].session;
        self.upstream.tell(&session.tenant, event, || who(session));
    }

    /// What a session that ends leaves of its user's own channel. Without acknowledgements whatever was
    /// sent counts as handled.
    pub(super) fn left_over(&self, at: usize, reason: CloseReason, link: Option<&Link>) -> Option<LeftOver> {
        use CloseReason::{Drain, Kicked, Moved, Replaced, TooManySessions};
        let session = &self.seats[at].session;
        let is_away = match reason {
            // Its client goes on with another session, or is to be told no more.
            Kicked | Moved | Replaced | TooManySessions => false,
            // A connected client comes back elsewhere.
            Drain => link.is_none(),
            _ => true,
        };
        if !is_away || !session.tenant.events.has(EventKind::Undelivered) {
            return None;
        }
        let number = session.number_of(&ChannelName::personal(&session.identity.user))?;
        let personal = session.sub(number)?;
        let until = self.hub.get(&personal.channel.view).and_then(HubChannel::position)?;
        let after = personal.last_cursor()?.position.offset;
        (after < until).then_some((after, until))
    }
}

/// Whom a session's events are about.
pub(in crate::shard) fn who(session: &Session) -> Who {
    Who {
        user: session.identity.user.clone(),
        session: Some(session.id),
        device: session.attached.as_ref().map(|attached| attached.device.clone()),
    }
}
