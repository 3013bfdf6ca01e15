//! Performing what sessions ask for.

use super::errands::Errand;
use super::state::{Shared, State};
use crate::delivery::SessionEvent;
use crate::protocol::ServerFrame;
use crate::session::Effect;
use crate::telemetry::events;

impl State {
    /// Performs the effects that a call into a session left behind, and those that they bring about.
    /// `shared` is the batch that their indices mean.
    pub(super) fn perform(&mut self, at: usize, mut shared: Option<&mut Shared<'_>>) {
        let place = self.place(at);
        while !self.fx.is_empty() {
            // Two lists take turns, so that neither is allocated again.
            let spare = std::mem::take(&mut self.fx_spare);
            let mut effects = std::mem::replace(&mut self.fx, spare);
            for effect in effects.drain(..) {
                // An effect may end the session; what was still to be done then is void.
                if self.at(place).is_some() {
                    self.perform_one(at, effect, shared.as_deref_mut());
                }
            }
            self.fx_spare = effects;
        }
    }

    fn perform_one(&mut self, at: usize, effect: Effect, shared: Option<&mut Shared<'_>>) {
        match effect {
            Effect::Deliver { index } => self.deliver(at, index as usize, shared),
            Effect::Redeliver { index, attempt } => {
                let Some(shared) = shared else { return };
                let item = &shared.batch.items[index as usize];
                let Some(message) = item.message.clone() else { return };
                shared.sent += 1;
                shared.bytes += message.data.len() as u64;
                shared.channel.metrics.redeliveries.inc();
                let channel = shared.channel.name.clone();
                self.send(at, &ServerFrame::Message { channel, message, attempt });
            }
            Effect::DeadLetter { sub, index, attempts } => {
                let Some(shared) = shared else { return };
                let item = &shared.batch.items[index as usize];
                // As it is in the log: whoever puts it back puts it there.
                if let Some(message) = item.original.clone().or_else(|| item.message.clone()) {
                    let place = self.place(at);
                    self.errands.push_back(Errand::DeadLetter { place, sub, message, attempts });
                }
            }
            Effect::Send(frame) => {
                self.note(at, &frame);
                self.send(at, &frame);
            }
            Effect::Join { sub } => self.join(at, sub),
            Effect::Leave { sub } => self.leave(at, sub),
            Effect::JoinQueue { worker } => self.join_queue(at, worker),
            Effect::LeaveQueue { worker } => self.leave_queue(at, worker),
            Effect::Tell { worker, word } => self.worker_says(at, worker, word),
            Effect::Read { sub, after } => self.read(at, sub, after),
            Effect::Pursue { sub } => self.pursue(at, sub),
            Effect::CursorMoved { .. } => self.mark_unstored(at),
            Effect::StoreStart { sub } => {
                let place = self.place(at);
                self.errands.push_back(Errand::StoreStart { place, sub });
            }
            Effect::Publish { id, channel, payload, key, msg_id } => {
                let place = self.place(at);
                self.errands.push_back(Errand::Publish { place, id, channel, payload, key, msg_id });
            }
            Effect::SendUp { id, payload, topic } => {
                let place = self.place(at);
                self.errands.push_back(Errand::SendUp { place, id, payload, topic });
            }
            Effect::History { id, channel, range } => {
                let place = self.place(at);
                self.errands.push_back(Errand::History { place, id, channel, range });
            }
            Effect::Refresh { id, token } => {
                let place = self.place(at);
                self.errands.push_back(Errand::Refresh { place, id, token });
            }
            Effect::Close { reason, message } => self.close(at, reason, &message),
        }
    }

    /// Queues the shared frame of an item: the one thing that happens once a subscriber and message.
    fn deliver(&mut self, at: usize, index: usize, shared: Option<&mut Shared<'_>>) {
        let (Some(shared), Some(link)) = (shared, &mut self.seats[at].link) else { return };
        let Some(message) = &shared.batch.items[index].message else { return };
        let channel = &shared.channel.name;
        shared.sent += 1;
        shared.bytes += message.data.len() as u64;
        let (framing, frames, scratch) = (link.framing, &mut shared.frames, &mut self.scratch);
        if shared.channel.rules.unreliable
            && link.socket.send_datagram(|| frames.datagram(framing, index, channel, message, scratch))
        {
            return;
        }
        let frame = frames.get(framing, index, channel, message, scratch);
        link.push_message(frame, channel, message.offset, scratch);
        self.touch(at);
    }

    /// Counts what a frame tells, or tells it to the backends.
    fn note(&self, at: usize, frame: &ServerFrame) {
        let session = &self.seats[at].session;
        match frame {
            ServerFrame::Gap { channel, after, reason, .. } => {
                let tenant = &session.tenant.id;
                events::gap(&self.metrics.tenant(tenant), tenant, channel, *after, (*reason).into());
            }
            ServerFrame::Subscribed { channel, .. } => {
                self.tell(at, SessionEvent::Subscribed(channel.clone()));
            }
            // Messages that come this way are a queue's.
            ServerFrame::Message { channel, message, attempt } => {
                let Some(worker) = session.worker_of(channel).and_then(|at| session.worker(at)) else {
                    return;
                };
                let metrics = &worker.channel.metrics;
                metrics.messages_delivered.inc();
                metrics.message_bytes_delivered.inc_by(message.data.len() as u64);
                metrics.redeliveries.inc_by(u64::from(*attempt > 1));
            }
            _ => {}
        }
    }
}
