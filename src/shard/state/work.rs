//! Sessions at queues: they join and leave, and take the tasks that come for them.

use std::sync::Arc;
use std::time::Instant;

use super::super::errands::Errand;
use super::{State, subscriber};
use crate::backbone::{BackboneError, Held};
use crate::delivery::Channel;
use crate::delivery::queues::{Request, Task, Word, WorkerId};
use crate::domain::{Epoch, Offset, StreamKey};
use crate::protocol::{ErrorCode, ServerFrame};
use crate::session::Session;

impl State {
    /// A worker takes part in its queue.
    pub(in crate::shard) fn join_queue(&mut self, at: usize, worker: usize) {
        let session = &self.seats[at].session;
        let id = worker_id(session);
        let Some(worker) = session.worker(worker) else { return };
        worker.channel.metrics.subscriptions.inc();
        let (channel, attempts) = (worker.channel.clone(), worker.attempts());
        let subscriber = Arc::new(subscriber(session));
        let join = Request::Join { channel, worker: id, shard: self.shard, subscriber, attempts };
        self.errands.push_back(Errand::Tell(join));
    }

    /// Ends a worker; what it holds goes back.
    pub(in crate::shard) fn leave_queue(&mut self, at: usize, worker: usize) {
        let session = &mut self.seats[at].session;
        let id = worker_id(session);
        if let Some((channel, word)) = session.remove_worker(worker) {
            channel.metrics.subscriptions.dec();
            self.tell_queue(channel.view.stream.clone(), id, word);
        }
    }

    /// A worker tells its queue something.
    pub(in crate::shard) fn worker_says(&mut self, at: usize, worker: usize, word: Word) {
        let session = &mut self.seats[at].session;
        let id = worker_id(session);
        if let Some(worker) = session.worker_mut(worker) {
            let stream = worker.channel.view.stream.clone();
            self.tell_queue(stream, id, word);
        }
    }

    fn tell_queue(&mut self, stream: StreamKey, worker: WorkerId, word: Word) {
        self.errands.push_back(Errand::Tell(Request::Tell { stream, worker, word }));
    }

    /// The connection is gone: no more tasks are to come, and those that were sent are kept.
    pub(super) fn pause_work(&mut self, at: usize, heard: Instant) {
        let session = &mut self.seats[at].session;
        let id = worker_id(session);
        let paused = session.workers_mut().map(|(_, worker)| {
            let word = worker.interrupt(heard);
            (worker.channel.view.stream.clone(), word)
        });
        for (stream, word) in paused.collect::<Vec<_>>() {
            self.tell_queue(stream, id, word);
        }
    }

    /// The session leaves this shard.
    pub(super) fn release_work(&mut self, at: usize) {
        for (_, worker) in self.seats[at].session.workers_mut() {
            worker.channel.metrics.subscriptions.dec();
        }
    }

    /// Lets a worker send again what waits for that, and ask for more, where the outbox has room.
    pub(super) fn pursue_work(&mut self, at: usize, worker: usize) {
        let seat = &mut self.seats[at];
        let room = seat.room();
        seat.held |= room == 0;
        if let Some(working) = seat.session.worker_mut(worker) {
            working.pursue(worker, Instant::now(), room, &mut self.fx);
        }
    }

    /// A queue that was joined is open, or cannot be opened.
    pub(super) fn on_queue_opened(
        &mut self,
        stream: &StreamKey,
        id: WorkerId,
        opened: Result<(Arc<Channel>, Epoch), BackboneError>,
    ) {
        let Some((at, worker)) = self.connected_worker(stream, id) else { return };
        let Some(working) = self.seats[at].session.worker_mut(worker) else { return };
        match opened {
            Ok((channel, epoch)) => {
                working.on_opened(channel, epoch, &mut self.fx);
                self.pursue_work(at, worker);
                self.perform(at, None);
                self.schedule(at);
            }
            Err(error) => {
                let message = format!("{} cannot be read: {error}", working.channel.name).into();
                let (id, code) = (working.waiting_request(), ErrorCode::Unavailable);
                self.send(at, &ServerFrame::Error { id, code, message });
                self.leave_queue(at, worker);
            }
        }
    }

    /// A task came. If its session is not here any more, or has no connection, it goes back.
    pub(super) fn on_task(&mut self, stream: StreamKey, id: WorkerId, task: Task) {
        let Some((at, worker)) = self.connected_worker(&stream, id) else {
            let held = Held { offset: task.message.offset, attempts: task.attempts };
            let word = match self.find(id.session) {
                Some(_) => Word::Return(held),
                // Nobody there says that it leaves.
                None => Word::Leave(vec![held]),
            };
            return self.tell_queue(stream, id, word);
        };
        let now = Instant::now();
        let seat = &mut self.seats[at];
        let room = seat.room();
        seat.held |= room == 0;
        let Some(working) = seat.session.worker_mut(worker) else { return };
        working.on_task(worker, task, now, room, &mut self.fx);
        let due = working.due_soon(now);
        self.perform(at, None);
        if self.seats.contains(at) {
            self.schedule_by(at, due);
        }
    }

    /// Another node has a task that was given to a session here.
    pub(super) fn on_task_lost(&mut self, stream: &StreamKey, id: WorkerId, offset: Offset) {
        let Some(at) = self.find(id.session) else { return };
        let session = &mut self.seats[at].session;
        if let Some(worker) = session.worker_at(stream).and_then(|worker| session.worker_mut(worker)) {
            worker.on_lost(offset);
        }
    }

    fn connected_worker(&self, stream: &StreamKey, id: WorkerId) -> Option<(usize, usize)> {
        let at = self.find(id.session)?;
        let seat = &self.seats[at];
        let is_it = seat.link.is_some() && seat.session.connections == id.attach;
        Some((at, seat.session.worker_at(stream).filter(|_| is_it)?))
    }
}

/// Who a session is to its queues, on its present connection.
pub(in crate::shard) fn worker_id(session: &Session) -> WorkerId {
    WorkerId { session: session.id, attach: session.connections }
}
