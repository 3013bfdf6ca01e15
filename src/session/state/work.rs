//! The queues that a session works at.

use std::sync::Arc;
use std::time::Instant;

use super::{Refusal, Session, done, fail, give_up};
use crate::delivery::Channel;
use crate::delivery::queues::Word;
use crate::domain::{ChannelName, Offset, StreamKey};
use crate::protocol::{ErrorCode, RequestId};
use crate::session::effect::{Effect, Effects};
use crate::session::worker::Worker;

impl Session {
    /// A worker by its number.
    pub fn worker(&self, worker: usize) -> Option<&Worker> {
        self.workers.get(worker)?.as_deref()
    }

    /// A worker by its number.
    pub fn worker_mut(&mut self, worker: usize) -> Option<&mut Worker> {
        self.workers.get_mut(worker)?.as_deref_mut()
    }

    /// All workers with their numbers.
    pub fn workers_mut(&mut self) -> impl Iterator<Item = (usize, &mut Worker)> {
        self.workers.iter_mut().enumerate().filter_map(|(at, worker)| Some((at, worker.as_deref_mut()?)))
    }

    /// The number of the worker at a queue.
    pub fn worker_at(&self, stream: &StreamKey) -> Option<usize> {
        let is_it = |worker: &Option<Box<Worker>>| {
            worker.as_ref().is_some_and(|worker| worker.channel.view.stream == *stream)
        };
        self.workers.iter().position(is_it)
    }

    /// The number of the worker at a channel.
    pub fn worker_of(&self, channel: &ChannelName) -> Option<usize> {
        let is_it = |worker: &Option<Box<Worker>>| {
            worker.as_ref().is_some_and(|worker| worker.channel.name == *channel)
        };
        self.workers.iter().position(is_it)
    }

    /// How many queues it works at.
    pub(super) fn worker_count(&self) -> usize {
        self.workers.iter().flatten().count()
    }

    /// Takes a worker out; its last words.
    pub fn remove_worker(&mut self, worker: usize) -> Option<(Arc<Channel>, Word)> {
        let mut removed = self.workers.get_mut(worker)?.take()?;
        Some((removed.channel.clone(), removed.leave()))
    }

    /// Begins to work at a queue. Positions mean nothing there, and everything is acknowledged.
    pub(super) fn work(
        &mut self,
        id: Option<RequestId>,
        channel: Arc<Channel>,
        window: Option<usize>,
        fx: &mut Effects,
    ) {
        let most = self.tenant.limits.window;
        let window = window.unwrap_or(most).min(most);
        let new = Some(Box::new(Worker::new(channel, window, &self.tenant.limits, id)));
        let worker = match self.workers.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                self.workers.reserve_exact(1);
                self.workers.push(None);
                self.workers.len() - 1
            }
        };
        self.workers[worker] = new;
        fx.push(Effect::JoinQueue { worker });
    }

    /// Ends the work at a queue, if it is that channel; everything goes back.
    pub(super) fn stop_work(&mut self, id: RequestId, channel: &ChannelName, fx: &mut Effects) -> bool {
        let Some(worker) = self.worker_of(channel) else { return false };
        give_up(self.worker(worker).and_then(Worker::waiting_request), channel, fx);
        fx.push(Effect::LeaveQueue { worker });
        fx.push(Effect::Send(done(id)));
        true
    }

    /// An `ack` of one task.
    pub(super) fn ack_task(&mut self, at: usize, offset: Offset, fx: &mut Effects) {
        let Some(worker) = self.worker_mut(at) else { return };
        if worker.ack(at, offset, fx).is_err() {
            not_held("ack", &worker.channel.name.clone(), offset, fx);
        }
    }

    /// A `nack` of one task.
    pub(super) fn nack_task(
        &mut self,
        at: usize,
        offset: Offset,
        due: Instant,
        now: Instant,
        fx: &mut Effects,
    ) {
        let Some(worker) = self.worker_mut(at) else { return };
        if worker.nack(at, offset, due, now, fx).is_err() {
            not_held("nack", &worker.channel.name.clone(), offset, fx);
        }
    }

    /// Numbers of workers that the identity, as it is now, does not allow.
    pub(super) fn forbidden_work(&self) -> Vec<(usize, ChannelName)> {
        let all = self.workers.iter().enumerate();
        let workers = all.filter_map(|(at, worker)| Some((at, &worker.as_ref()?.channel)));
        let refused =
            workers.filter(|(_, channel)| !self.identity.may_subscribe(&channel.rules, &channel.name));
        refused.map(|(at, channel)| (at, channel.name.clone())).collect()
    }

    /// Ends all work of a session that sits nowhere, or that part of it which a new token does not allow;
    /// the last words to each queue.
    pub fn give_work_up(&mut self, only_forbidden: bool) -> Vec<(Arc<Channel>, Word)> {
        let workers: Vec<usize> = match only_forbidden {
            true => self.forbidden_work().into_iter().map(|(at, _)| at).collect(),
            false => (0..self.workers.len()).collect(),
        };
        workers.into_iter().filter_map(|at| self.remove_worker(at)).collect()
    }
}

fn not_held(what: &str, channel: &ChannelName, offset: Offset, fx: &mut Effects) {
    let message = format!("{what}: {offset} of {channel} is not with this session");
    let (code, message): Refusal = (ErrorCode::BadRequest, message);
    fail(None, code, message, fx);
}
