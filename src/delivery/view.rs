//! Views: a channel as its readers are shown it. All see the same, unless a plugin shapes messages for classes
//! of subscribers or for each session.

use std::sync::Arc;

use indexmap::IndexMap;

use super::outlet::ShardId;
use crate::domain::{SessionId, StreamKey, UserId};
use crate::plugin::Scope;

/// One view of a channel's log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct View {
    /// The log.
    pub stream: StreamKey,
    /// Who sees it so.
    pub audience: Audience,
}

/// Who sees a view.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum Audience {
    /// All alike.
    #[default]
    Everyone,
    /// The subscribers of a class; of none where it is empty.
    Class(Arc<str>),
    /// One session.
    Session(Arc<Subscriber>),
}

/// A session as plugins know it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subscriber {
    /// Which.
    pub session: SessionId,
    /// Whose.
    pub user: UserId,
    /// Its class.
    pub class: Option<Box<str>>,
}

impl View {
    /// The one that all share.
    pub fn shared(stream: StreamKey) -> Self {
        Self { stream, audience: Audience::Everyone }
    }
}

impl Subscriber {
    /// To which audience it belongs where messages are shaped so often; `None`: they are not shaped.
    pub fn audience(self, scope: Option<Scope>) -> Audience {
        match scope {
            None | Some(Scope::Message) => Audience::Everyone,
            Some(Scope::Class) => Audience::Class(self.class.unwrap_or_default().into()),
            Some(Scope::Session) => Audience::Session(Arc::new(self)),
        }
    }
}

#[cfg(test)]
impl Subscriber {
    /// Somebody.
    pub(crate) fn somebody() -> Arc<Self> {
        let user = UserId::parse("somebody").unwrap();
        Arc::new(Self { session: SessionId::random(), user, class: None })
    }
}

impl Audience {
    /// The class of whoever is in it, where one can be told; empty for those who have none.
    pub fn class(&self) -> Option<&str> {
        match self {
            Self::Everyone => None,
            Self::Class(class) => Some(class),
            Self::Session(subscriber) => Some(subscriber.class.as_deref().unwrap_or_default()),
        }
    }
}

/// Which shards take part in which views of one log. Nearly always there is only the view that all share; where
/// each session has its own there are as many as subscribers.
#[derive(Debug, Default)]
pub(super) struct Views {
    everyone: u64,
    others: IndexMap<Audience, u64>,
}

impl Views {
    /// A shard takes part.
    pub(super) fn join(&mut self, audience: &Audience, shard: ShardId) {
        if *audience == Audience::Everyone {
            self.everyone |= shard.bit();
        } else if let Some(shards) = self.others.get_mut(audience) {
            *shards |= shard.bit();
        } else {
            self.others.insert(audience.clone(), shard.bit());
        }
    }

    /// A shard takes no part any more.
    pub(super) fn part(&mut self, audience: &Audience, shard: ShardId) {
        if *audience == Audience::Everyone {
            self.everyone &= !shard.bit();
        } else if let Some(shards) = self.others.get_mut(audience) {
            *shards &= !shard.bit();
            if *shards == 0 {
                self.others.swap_remove(audience);
            }
        }
    }

    /// Whether no shard takes part in any.
    pub(super) fn is_empty(&self) -> bool {
        self.everyone == 0 && self.others.is_empty()
    }

    /// Each audience with its shards.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Audience, u64)> {
        let everyone = (self.everyone != 0).then_some((&Audience::Everyone, self.everyone));
        everyone.into_iter().chain(self.others.iter().map(|(audience, shards)| (audience, *shards)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_take_part_in_views_and_leave_them() {
        let mut views = Views::default();
        let gold = Audience::Class("gold".into());
        for (audience, shard) in [(&Audience::Everyone, 0), (&gold, 0), (&gold, 3), (&gold, 3)] {
            views.join(audience, ShardId(shard));
        }
        assert_eq!(views.iter().collect::<Vec<_>>(), [(&Audience::Everyone, 0b1), (&gold, 0b1001)]);
        views.part(&Audience::Everyone, ShardId(0));
        views.part(&gold, ShardId(0));
        assert_eq!(views.iter().collect::<Vec<_>>(), [(&gold, 0b1000)]);
        views.part(&gold, ShardId(3));
        assert!(views.is_empty() && views.iter().next().is_none());
    }

    #[test]
    fn an_audience_is_as_fine_as_the_scope_asks() {
        let subscriber = |class: Option<&str>| Subscriber {
            session: SessionId::from_bytes([7; 16]),
            user: UserId::parse("ada").unwrap(),
            class: class.map(Into::into),
        };
        assert_eq!(subscriber(Some("gold")).audience(None), Audience::Everyone);
        assert_eq!(subscriber(Some("gold")).audience(Some(Scope::Message)), Audience::Everyone);
        assert_eq!(subscriber(Some("gold")).audience(Some(Scope::Class)).class(), Some("gold"));
        assert_eq!(subscriber(None).audience(Some(Scope::Class)).class(), Some(""));
        assert_eq!(subscriber(Some("gold")).audience(Some(Scope::Session)).class(), Some("gold"));
    }
}
