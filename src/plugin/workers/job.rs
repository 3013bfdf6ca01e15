//! What workers are asked to do.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::domain::Offset;
use crate::plugin::answers::DeliverVerdict;
use crate::plugin::contract::{Message, Recipient};
use crate::plugin::engine::ticks;
use crate::plugin::facts::Facts;
use crate::plugin::hooks::{Hook, HookCall, OnDeliver, OnDeliverClass, OnDeliverSession};
use crate::plugin::host::Plugin;
use crate::plugin::imports::CallContext;
use crate::plugin::instance::{Instance, is_reusable};
use crate::plugin::outcome::Failure;
use crate::plugin::prepare::Tried;
use crate::plugin::turns::Turns;

/// How long a batch runs before others have their turn.
const SLICE: Duration = Duration::from_millis(2);

/// Something for a worker.
pub(in crate::plugin) enum Job {
    /// One call that may wait.
    Call(Arc<Plugin>, Box<dyn Ask>),
    /// Pure calls.
    Batch(Batch),
    /// Finds out whether a component starts.
    Trial(Trial),
}

/// The plugin's first start. It is bound to a tenant already, because starting may log.
pub(in crate::plugin) struct Trial {
    pub(in crate::plugin) plugin: Arc<Plugin>,
    pub(in crate::plugin) reply: oneshot::Sender<Result<Tried, Failure>>,
}

/// A call, whichever hook it is of.
pub(in crate::plugin) trait Ask: Send {
    /// Whether nobody waits for the answer any more.
    fn is_moot(&self) -> bool;
    fn since(&self) -> Instant;
    fn run(self: Box<Self>, plugin: Arc<Plugin>, instance: Instance, turns: Turns) -> Running;
    fn fail(self: Box<Self>, plugin: &Plugin, failure: Failure);
}

/// A call that runs. In the end it has its instance back, or none.
pub(super) type Running = Pin<Box<dyn Future<Output = Option<Instance>>>>;

impl Job {
    pub(in crate::plugin) fn plugin(&self) -> &Arc<Plugin> {
        match self {
            Self::Call(plugin, _) => plugin,
            Self::Batch(batch) => &batch.plugin,
            Self::Trial(trial) => &trial.plugin,
        }
    }

    pub(in crate::plugin) fn fail(self, failure: Failure) {
        match self {
            Self::Call(plugin, call) => call.fail(&plugin, failure),
            Self::Batch(batch) => batch.fail_rest(failure),
            // Whoever waited is gone.
            Self::Trial(trial) => drop(trial.reply.send(Err(failure))),
        }
    }
}

/// A call of one hook.
pub(in crate::plugin) struct Call<H: HookCall> {
    pub(in crate::plugin) args: H::Args,
    pub(in crate::plugin) facts: Facts,
    pub(in crate::plugin) since: Instant,
    pub(in crate::plugin) reply: oneshot::Sender<Result<H::Answer, Failure>>,
}

impl<H: HookCall> Ask for Call<H> {
    fn is_moot(&self) -> bool {
        self.reply.is_closed()
    }

    fn since(&self) -> Instant {
        self.since
    }

    fn run(self: Box<Self>, plugin: Arc<Plugin>, instance: Instance, turns: Turns) -> Running {
        let Self { args, facts, reply, .. } = *self;
        let context = CallContext { facts, ..CallContext::default() };
        let deadline = plugin.deadline(H::HOOK);
        Box::pin(async move {
            let called = instance.call_free::<H>(args, context, deadline, plugin.answers, &turns).await;
            let (result, instance) = called;
            plugin.settle(H::HOOK, &result, H::is_refusal);
            // Whoever waited is gone.
            let _ = reply.send(result);
            instance
        })
    }

    fn fail(self: Box<Self>, plugin: &Plugin, failure: Failure) {
        let result = Err(failure);
        plugin.settle(H::HOOK, &result, H::is_refusal);
        let _ = self.reply.send(result);
    }
}

/// For whom a message is shown to the plugin.
#[derive(Debug, Clone)]
pub(in crate::plugin) enum Audience {
    Everyone,
    Class(Arc<str>),
    Session(Recipient),
}

/// One message of a batch.
pub(in crate::plugin) struct Item {
    pub(in crate::plugin) message: Message,
    pub(in crate::plugin) facts: Facts,
    pub(in crate::plugin) audience: Audience,
}

/// Messages on their way out, answered together.
pub(in crate::plugin) struct Batch {
    pub(in crate::plugin) plugin: Arc<Plugin>,
    pub(in crate::plugin) items: std::vec::IntoIter<Item>,
    pub(in crate::plugin) answers: Vec<Result<DeliverVerdict, Failure>>,
    pub(in crate::plugin) reply: oneshot::Sender<Vec<Result<DeliverVerdict, Failure>>>,
    /// The breaker has let the next message through.
    pub(in crate::plugin) admitted: bool,
}

/// How far a batch came.
pub(super) enum Step {
    /// All is answered.
    Done,
    /// Its slice is over.
    Later,
    /// It needs another instance.
    Fresh,
}

impl Batch {
    pub(super) fn is_moot(&self) -> bool {
        self.reply.is_closed()
    }

    /// Finds the next message that the breaker lets through, so that no instance is started for others; those have
    /// their answer. Whether there is one.
    pub(super) fn admit(&mut self) -> bool {
        while self.items.len() > 0 && !self.admitted {
            self.admitted = self.plugin.lets_through();
            if !self.admitted {
                self.fail_next(Failure::CutOff);
            }
        }
        self.admitted
    }

    /// Calls the hook for one message after the other until the slice is over or the instance is spent.
    pub(super) fn step(&mut self, instance: &mut Instance, began: Instant) -> Step {
        let deadline = ticks(self.plugin.deadline(Hook::OnDeliver));
        while let Some(item) = self.items.next() {
            let result = if std::mem::take(&mut self.admitted) || self.plugin.lets_through() {
                self.call(instance, item, deadline)
            } else {
                Err(Failure::CutOff)
            };
            let reusable = is_reusable(&result) && instance.calls() < self.plugin.limits.instance_calls;
            self.settle(&result);
            self.answers.push(result);
            if !reusable {
                return if self.items.len() == 0 { Step::Done } else { Step::Fresh };
            }
            if self.items.len() > 0 && began.elapsed() >= SLICE {
                return Step::Later;
            }
        }
        Step::Done
    }

    fn settle(&self, result: &Result<DeliverVerdict, Failure>) {
        let hook = self.plugin.hooks().iter().find(|hook| hook.scope().is_some());
        self.plugin.settle(hook.unwrap_or(Hook::OnDeliver), result, |_| false);
    }

    fn call(&self, instance: &mut Instance, item: Item, deadline: u64) -> Result<DeliverVerdict, Failure> {
        let Item { message, facts, audience } = item;
        let at = Offset { ms: message.offset.ms, seq: message.offset.seq };
        let context = CallContext { facts, at: Some(at), drawn: 0 };
        let limits = self.plugin.answers;
        match audience {
            Audience::Everyone => instance.call_pure::<OnDeliver>((message,), context, deadline, limits),
            Audience::Class(class) => {
                instance.call_pure::<OnDeliverClass>((message, class), context, deadline, limits)
            }
            Audience::Session(to) => {
                instance.call_pure::<OnDeliverSession>((message, to), context, deadline, limits)
            }
        }
    }

    /// Answers the next message with a failure: no instance could be had for it.
    pub(super) fn fail_next(&mut self, failure: Failure) {
        if self.items.next().is_some() {
            self.admitted = false;
            let result = Err(failure);
            self.settle(&result);
            self.answers.push(result);
        }
    }

    pub(super) fn fail_rest(mut self, failure: Failure) {
        while self.items.len() > 0 {
            self.fail_next(failure);
        }
        self.answer();
    }

    pub(super) fn answer(self) {
        // Whoever waited is gone.
        let _ = self.reply.send(self.answers);
    }
}
