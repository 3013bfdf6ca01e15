//! Upstream: what a tenant's backends are told of its sessions, in `tg:<tenant>:up`.
//!
//! Shards, feed and publishers note what happened and never wait; one task a node writes it in batches
//! and in order. While the backbone is away it tries again, notes gather in a bounded queue, and what
//! does not fit is dropped and counted. Nothing that delivers messages depends on any of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::batch::Channel;
use crate::backbone::Backbone;
use crate::backbone::clock::Clock;
use crate::domain::{ChannelName, EventKind, NodeId, Offset, Publication, StreamKey, TenantId};
use crate::telemetry::{Metrics, events};
use crate::tenants::{Tenant, Tenants};

mod entry;
mod writer;

pub use entry::{SessionEvent, Who};
use writer::Writer;

/// Notes that wait for the writer, at most. Each takes some hundred bytes.
const QUEUE: usize = 16_384;

/// The way upstream. Cheap to clone; its calls return at once.
#[derive(Clone)]
pub struct Upstream(Arc<Shared>);

struct Shared {
    notes: mpsc::Sender<Note>,
    node: NodeId,
    tenants: Arc<Tenants>,
    metrics: Metrics,
    clock: Clock,
    /// Ids of events are this, a dash, and a number that counts them: unique over nodes and restarts.
    run: u64,
    told: AtomicU64,
    /// Events were dropped since the writer last wrote one: said once.
    losing: Arc<AtomicBool>,
}

/// What waits for the writer.
enum Note {
    /// An event as it is to be written.
    Told(Told),
    /// Messages that may have found nobody.
    Maybe(Maybe),
}

/// An event.
struct Told {
    tenant: Arc<Tenant>,
    id: Box<str>,
    /// When it happened, by the backbone's time.
    ms: u64,
    who: Who,
    event: SessionEvent,
}

/// Messages after an offset of a user's own channel; the writer finds out whether they are undelivered.
struct Maybe {
    tenant: Arc<Tenant>,
    id: Box<str>,
    ms: u64,
    who: Who,
    channel: ChannelName,
    after: Offset,
    found: Found,
}

/// How they came to notice.
#[derive(Clone, Copy)]
enum Found {
    /// The user's last session here ended and had not handled what goes up to this offset.
    LeftOver(Offset),
    /// One was added, at this offset: undelivered if no node watches the channel.
    Added(Offset),
    /// This node watched the channel to its end without a reader: undelivered if no other node does.
    Unread,
}

impl Upstream {
    /// Starts the writer. It ends some seconds after `stop` fires at the latest, once all that was noted
    /// before is written.
    pub fn spawn(
        backbone: Arc<dyn Backbone>,
        node: NodeId,
        tenants: Arc<Tenants>,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> (Self, JoinHandle<()>) {
        let (notes, queue) = mpsc::channel(QUEUE);
        let losing = Arc::new(AtomicBool::new(false));
        let (clock, run, told) = (backbone.clock(), rand::random(), AtomicU64::new(0));
        let writer =
            Writer { backbone, node: node.clone(), metrics: metrics.clone(), losing: losing.clone() };
        let shared = Shared { notes, node, tenants, metrics, clock, run, told, losing };
        (Self(Arc::new(shared)), tokio::spawn(writer.run(queue, stop)))
    }

    /// Tells an event, if the tenant wants its kind. Events of one session keep their order.
    pub fn tell(&self, tenant: &Arc<Tenant>, event: SessionEvent, who: impl FnOnce() -> Who) {
        if tenant.events.has(event.kind()) {
            let (id, ms) = (self.id(), self.0.clock.now_ms());
            self.note(Note::Told(Told { tenant: tenant.clone(), id, ms, who: who(), event }));
        }
    }

    /// The user's last session on this node ended, and had not handled the messages of the own channel
    /// after `after`, up to `until`.
    pub fn note_left_over(&self, tenant: &Arc<Tenant>, who: Who, after: Offset, until: Offset) {
        let channel = ChannelName::personal(&who.user);
        self.maybe(tenant.clone(), who, channel, after, Found::LeftOver(until));
    }

    /// A message was added to a channel through this node. Where it is a user's own channel and no node
    /// watches it, that is `undelivered`; for all others this does nothing.
    pub fn note_unwatched(&self, tenant: &TenantId, channel: &ChannelName, offset: Offset) {
        self.of_person(tenant, channel, offset.prev(), Found::Added(offset));
    }

    /// This node stopped watching a channel that nobody here read after `after`.
    pub(super) fn note_unread(&self, channel: &Channel, after: Offset) {
        self.of_person(&channel.tenant, &channel.name, after, Found::Unread);
    }

    /// The fields of what a client sends to the backends.
    pub fn of_client(
        &self,
        tenant: &Tenant,
        who: &Who,
        message: Publication,
        topic: Option<&str>,
    ) -> Vec<(Bytes, Bytes)> {
        let (id, ms) = (self.id(), self.0.clock.now_ms());
        let origin = entry::Origin { tenant: &tenant.id, node: &self.0.node, id: &id, ms };
        entry::of_client(tenant.events.format, origin, who, message, topic)
    }

    fn of_person(&self, tenant: &TenantId, channel: &ChannelName, after: Offset, found: Found) {
        // A channel whose name is no user's belongs to nobody.
        let Some(user) = channel.person() else { return };
        if let Some(tenant) = self.0.tenants.get(tenant.as_str()) {
            let who = Who { user, session: None, device: None };
            self.maybe(tenant, who, channel.clone(), after, found);
        }
    }

    fn maybe(&self, tenant: Arc<Tenant>, who: Who, channel: ChannelName, after: Offset, found: Found) {
        if tenant.events.has(EventKind::Undelivered) {
            let (id, ms) = (self.id(), self.0.clock.now_ms());
            self.note(Note::Maybe(Maybe { tenant, id, ms, who, channel, after, found }));
        }
    }

    fn note(&self, note: Note) {
        if let Err(error) = self.0.notes.try_send(note) {
            let note = error.into_inner();
            let first = !self.0.losing.swap(true, Ordering::Relaxed);
            let tenant = &note.tenant().id;
            events::session_event_dropped(&self.0.metrics.tenant(tenant), tenant, first);
        }
    }

    fn id(&self) -> Box<str> {
        let number = self.0.told.fetch_add(1, Ordering::Relaxed);
        format!("{:016x}-{number}", self.0.run).into()
    }
}

impl Note {
    fn tenant(&self) -> &Arc<Tenant> {
        match self {
            Self::Told(told) => &told.tenant,
            Self::Maybe(maybe) => &maybe.tenant,
        }
    }
}

impl Maybe {
    fn stream(&self) -> StreamKey {
        StreamKey::channel(&self.tenant.id, &self.channel)
    }

    /// The event, of messages up to `until`.
    fn undelivered(self, until: Offset, count: Option<u64>) -> Told {
        let Self { tenant, id, ms, who, channel, after, .. } = self;
        Told { tenant, id, ms, who, event: SessionEvent::Undelivered { channel, after, until, count } }
    }
}

#[cfg(test)]
mod tests;
