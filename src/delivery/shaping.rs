//! Shaping: what plugins make of messages on their way out.
//!
//! Every message passes here before a client gets it, live, recovered, sent again, from history or a queue.
//! Ring and pages hold what is in the log; what a plugin made of it is kept here beside the version that made
//! it, so that whoever else is of the same audience costs no call.
//!
//! *Invariants*: an entry meets the version that its offset says, or waits until this is known. What has no
//! answer goes by the tenant's policy, never by chance.

use std::sync::Arc;
use std::time::Duration;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::batch::{Channel, Item};
use super::dead_letters::DeadLetter;
use super::view::Audience;
use crate::backbone::Backbone;
use crate::config::OnFailure;
use crate::domain::keys::letter_lease;
use crate::domain::{Offset, Publication, StreamKey, TenantId};
use crate::plugin::answers::Replacement;
use crate::plugin::contract::Recipient;
use crate::plugin::{DeliverVerdict, Delivery, Facts, Failure, Plugin, Plugins, Scope};
use crate::quota::Quotas;
use crate::telemetry::{DeadLetterOutcome, Skip, events};

/// Bytes of what plugins made, kept for others of the same audience.
const CACHE_BYTES: u64 = 32 << 20;
/// Dead letters that a node writes in a second of messages of one tenant whose plugin failed; more are lost and
/// counted.
const LETTERS_A_SECOND: u32 = 200;
/// For how long no second letter is written of a message, whichever node's plugin fails.
const ONE_LETTER: Duration = Duration::from_secs(3_600);

/// Shows messages to plugins. Shared by all that bring messages to clients.
pub struct Shaper {
    plugins: Plugins,
    backbone: Arc<dyn Backbone>,
    made: Cache<Key, Made, Weigh>,
    quotas: Quotas,
}

/// What was made, by which plugin, of what, for whom.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    plugin: u64,
    stream: StreamKey,
    offset: Offset,
    audience: Audience,
}

/// What a plugin made of a message.
#[derive(Debug, Clone)]
enum Made {
    Same,
    Nothing,
    Other(Arc<Publication>),
}

#[derive(Debug, Clone)]
struct Weigh;

impl Weighter<Key, Made> for Weigh {
    fn weight(&self, _: &Key, made: &Made) -> u64 {
        const AROUND: u64 = 160;
        match made {
            Made::Same | Made::Nothing => AROUND,
            Made::Other(message) => 2 * AROUND + message.bytes() as u64,
        }
    }
}

/// The messages of a batch that one plugin is to see.
struct Group<'t> {
    plugin: &'t Arc<Plugin>,
    /// Where they stand in the batch, and how they are remembered.
    places: Vec<(usize, Key)>,
    messages: Vec<Delivery>,
}

impl Shaper {
    /// Shows messages to these plugins.
    pub fn new(plugins: Plugins, backbone: Arc<dyn Backbone>) -> Self {
        const TYPICAL: u64 = 512;
        let made = Cache::with_weighter((CACHE_BYTES / TYPICAL) as usize, CACHE_BYTES, Weigh);
        Self { plugins, backbone, made, quotas: Quotas::default() }
    }

    /// Whether these entries of a tenant meet no plugin, which needs no waiting to tell.
    pub fn passes(&self, tenant: &TenantId, items: &[Item]) -> bool {
        let tables = &self.plugins.tables;
        let Some(last) = items.last() else { return true };
        if self.moment(last.offset) > tables.known_until_ms() {
            return false;
        }
        let Some(table) = tables.of(tenant) else { return true };
        !items.iter().any(|item| item.message.is_some() && table.for_delivery(item.offset).is_some())
    }

    /// What an audience gets of these entries. `None`: nothing can be said, because the audience is not as fine
    /// as a plugin wants it, which it will be soon, or because the node ends. Cancelled it has done nothing.
    pub async fn shape(&self, channel: &Channel, audience: &Audience, items: &[Item]) -> Option<Vec<Item>> {
        let Some(last) = items.last() else { return Some(Vec::new()) };
        if !self.plugins.tables.known(self.moment(last.offset)).await {
            return None;
        }
        let Some(host) = &self.plugins.host else { return Some(items.to_vec()) };
        loop {
            let Some(table) = self.plugins.tables.of(&channel.tenant) else { return Some(items.to_vec()) };
            let mut shaped = items.to_vec();
            let mut groups: Vec<Group<'_>> = Vec::new();
            let name: Arc<str> = channel.name.as_str().into();
            for (at, item) in shaped.iter_mut().enumerate() {
                let Some(message) = item.message.clone() else { continue };
                let Some((plugin, scope)) = table.for_delivery(item.offset) else { continue };
                let audience = narrowed(audience, scope)?;
                let (stream, offset) = (channel.view.stream.clone(), item.offset);
                let key = Key { plugin: plugin.number(), stream, offset, audience };
                if let Some(made) = self.made.get(&key) {
                    made.put(item);
                    continue;
                }
                let delivery = delivery(&message, &name, &key.audience);
                let known = groups.iter_mut().find(|group| Arc::ptr_eq(group.plugin, plugin));
                match known {
                    Some(group) => {
                        group.places.push((at, key));
                        group.messages.push(delivery);
                    }
                    None => {
                        groups.push(Group { plugin, places: vec![(at, key)], messages: vec![delivery] });
                    }
                }
            }
            let mut answered = Vec::with_capacity(items.len());
            for Group { plugin, places, messages } in groups {
                let answers = host.deliver(plugin, messages).await;
                answered
                    .extend(places.into_iter().zip(answers).map(|(place, answer)| (plugin, place, answer)));
            }
            let is_missing = |answer: &Result<_, Failure>| *answer == Err(Failure::Unavailable);
            if answered.iter().any(|(.., answer)| is_missing(answer))
                && !self.plugins.tables.of(&channel.tenant).is_some_and(|now| Arc::ptr_eq(&now, &table))
            {
                // It was taken out of use meanwhile: the table says what is on instead.
                continue;
            }
            for (plugin, (at, key), answer) in answered {
                self.settle(channel, plugin, &mut shaped[at], key, answer).await;
            }
            return Some(shaped);
        }
    }

    /// Does with an entry what its plugin says, or what the tenant wants where that says nothing.
    async fn settle(
        &self,
        channel: &Channel,
        plugin: &Plugin,
        item: &mut Item,
        key: Key,
        answer: Result<DeliverVerdict, Failure>,
    ) {
        let failure = match answer {
            Ok(verdict) => {
                let made = made(item, verdict);
                if let Made::Nothing = made {
                    note_dropped(channel, item.offset, &"its plugin dropped it");
                }
                made.put(item);
                return self.made.insert(key, made);
            }
            Err(failure) => failure,
        };
        match plugin.on_failure().on_deliver {
            OnFailure::Open => return,
            OnFailure::DeadLetter => self.bury(channel, &key.audience, item, failure).await,
            OnFailure::Drop | OnFailure::Refuse => {}
        }
        note_dropped(channel, item.offset, &failure);
        Made::Nothing.put(item);
    }

    /// Writes a dead letter of a message whose plugin failed, one for all nodes.
    async fn bury(&self, channel: &Channel, audience: &Audience, item: &Item, failure: Failure) {
        let Some(message) = &item.message else { return };
        let user = match audience {
            Audience::Session(subscriber) => Some(subscriber.user.as_str()),
            Audience::Everyone | Audience::Class(_) => None,
        };
        let outcome = if self.may_bury(&channel.tenant) {
            let who = format!("{:032x}", rand::random::<u128>());
            let lease = letter_lease(&channel.view.stream, item.offset, user.unwrap_or_default());
            match self.backbone.lease(&lease, &who, ONE_LETTER).await {
                Ok(true) => {}
                Ok(false) => return,
                // Rather one too many than none.
                Err(error) => tracing::debug!(%error, "whether there is a letter already is not known"),
            }
            let error = failure.to_string();
            let letter = DeadLetter {
                channel: channel.name.as_str(),
                offset: item.offset,
                user,
                reason: "plugin",
                error: Some(&error),
                ..DeadLetter::default()
            };
            let fields = letter.into_fields((**message).clone().into_fields());
            let stream = StreamKey::dead_letters(&channel.tenant);
            match self.backbone.append(&stream, fields, None).await {
                Ok(_) => DeadLetterOutcome::Stored,
                Err(_) => DeadLetterOutcome::Failed,
            }
        } else {
            DeadLetterOutcome::Dropped
        };
        events::dead_letter(&channel.metrics, &channel.tenant, &channel.name, item.offset, outcome);
    }

    fn may_bury(&self, tenant: &TenantId) -> bool {
        self.quotas.of(tenant).letters.take(self.quotas.now(), 1, LETTERS_A_SECOND).is_ok()
    }

    /// The moment by which it is known what an entry meets. A backend that makes up offsets of the future does
    /// not make its readers wait for it.
    fn moment(&self, offset: Offset) -> u64 {
        offset.ms.min(self.backbone.clock().now_ms())
    }
}

impl Made {
    fn put(&self, item: &mut Item) {
        match self {
            Self::Same => {}
            Self::Nothing => item.message = None,
            Self::Other(message) => item.original = item.message.replace(message.clone()),
        }
    }
}

fn made(item: &Item, verdict: DeliverVerdict) -> Made {
    match (verdict, &item.message) {
        (DeliverVerdict::Accept, _) | (_, None) => Made::Same,
        (DeliverVerdict::Drop, _) => Made::Nothing,
        (DeliverVerdict::Replace(replacement), Some(message)) => {
            Made::Other(Arc::new(replaced(message, replacement)))
        }
    }
}

/// A message with another payload.
pub(crate) fn replaced(message: &Publication, replacement: Replacement) -> Publication {
    let Replacement { data, headers } = replacement;
    let headers = headers.or_else(|| message.headers.clone());
    Publication { data, headers, ..message.clone() }
}

/// Who of an audience gets the same by a plugin of this scope; `None` where it is not as fine.
fn narrowed(audience: &Audience, scope: Scope) -> Option<Audience> {
    match (scope, audience) {
        (Scope::Message, _) => Some(Audience::Everyone),
        (Scope::Class, audience) => audience.class().map(|class| Audience::Class(class.into())),
        (Scope::Session, Audience::Session(_)) => Some(audience.clone()),
        (Scope::Session, _) => None,
    }
}

fn delivery(message: &Arc<Publication>, channel: &Arc<str>, audience: &Audience) -> Delivery {
    let (class, recipient) = match audience {
        Audience::Everyone => (None, None),
        Audience::Class(class) => (Some(class.clone()), None),
        Audience::Session(subscriber) => {
            let recipient = Recipient {
                session: subscriber.session.to_string().into(),
                user: subscriber.user.as_str().into(),
                class: subscriber.class.as_deref().unwrap_or_default().into(),
            };
            (None, Some(recipient))
        }
    };
    Delivery {
        offset: message.offset,
        channel: channel.clone(),
        data: message.data.clone(),
        facts: Facts::of(message.clone()),
        class,
        recipient,
    }
}

fn note_dropped(channel: &Channel, offset: Offset, why: &dyn std::fmt::Display) {
    events::entry_skipped(&channel.metrics, &channel.tenant, &channel.name, offset, Skip::Plugin, why);
}

#[cfg(test)]
mod tests;
