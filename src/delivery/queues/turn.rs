//! What the queues say to the backbone: one turn a queue at a time, in which everything goes that has
//! gathered since the last one. So commands become fewer, not more, as work comes faster.

use std::sync::Arc;
use std::time::Duration;

use crate::backbone::backoff::Backoff;
use crate::backbone::{Addition, Backbone, BackboneError, Group, Held, Take, Work, one};
use crate::domain::{Epoch, Offset, StreamKey};
use crate::telemetry::{Metrics, events};

/// A task to be given up: what is written about it, and which it is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Letter {
    pub(super) offset: Offset,
    pub(super) addition: Addition,
}

/// What is to be said, in this order.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// Written, and done then.
    pub(super) letters: Vec<Letter>,
    pub(super) done: Vec<Offset>,
    pub(super) back: Vec<Held>,
    pub(super) keep: Vec<Held>,
    /// Take at most so many.
    pub(super) take: usize,
    /// Consumers that are long gone are removed.
    pub(super) tidy: bool,
}

/// What became of a plan.
#[derive(Debug, Default)]
pub(super) struct Turned {
    /// What is still to be said, because the backbone did not hear it.
    pub(super) left: Plan,
    pub(super) finished: Vec<Offset>,
    pub(super) returned: Vec<Offset>,
    /// Somebody else's by now, or gone.
    pub(super) lost: Vec<Offset>,
    /// What was taken, of how many asked.
    pub(super) taken: Option<(usize, Vec<Work>)>,
    /// Dead letters that are written.
    pub(super) buried: Vec<Offset>,
    /// Why others are not.
    pub(super) unburied: Option<BackboneError>,
    /// What else went wrong.
    pub(super) error: Option<BackboneError>,
}

/// Entries named in one command.
const AT_ONCE: usize = 256;
/// How long a consumer is unseen until it is removed.
const LONG_GONE: Duration = Duration::from_secs(3600);

/// One turn.
pub(super) struct Turn {
    backbone: Arc<dyn Backbone>,
    group: Group,
    consumer: Box<str>,
    idle: Duration,
}

impl Turn {
    pub(super) fn new(backbone: Arc<dyn Backbone>, group: Group, consumer: &str, idle: Duration) -> Self {
        Self { backbone, group, consumer: consumer.into(), idle }
    }

    /// Says what is to be said, until the backbone goes away.
    pub(super) async fn run(self, mut plan: Plan) -> Turned {
        let mut turned = Turned::default();
        if let Err(error) = self.say(&mut plan, &mut turned).await {
            turned.error = Some(error);
        }
        turned.left = plan;
        turned
    }

    async fn say(&self, plan: &mut Plan, turned: &mut Turned) -> Result<(), BackboneError> {
        self.bury(plan, turned).await;
        while !plan.done.is_empty() {
            let some = plan.done.len().min(AT_ONCE);
            let finished = self.backbone.finish(&self.group, &plan.done[..some]).await;
            heard(finished, turned)?;
            turned.finished.extend(plan.done.drain(..some));
        }
        while !plan.back.is_empty() {
            let some = plan.back.len().min(AT_ONCE);
            let given = self.backbone.give_back(&self.group, &self.consumer, &plan.back[..some]).await;
            heard(given, turned)?;
            turned.returned.extend(plan.back.drain(..some).map(|held| held.offset));
        }
        while !plan.keep.is_empty() {
            let some = plan.keep.len().min(AT_ONCE);
            let kept = self.backbone.keep(&self.group, &self.consumer, &plan.keep[..some]).await;
            let kept = heard(kept, turned)?;
            let asked = plan.keep.drain(..some).map(|held| held.offset);
            turned
                .lost
                .extend(asked.filter(|offset| kept.as_ref().is_some_and(|kept| !kept.contains(offset))));
        }
        if plan.take > 0 {
            let (group, consumer) = (self.group.clone(), self.consumer.clone());
            let take = Take { group, consumer, count: plan.take, idle: self.idle };
            let work = self.backbone.take(&take).await;
            turned.taken = Some((plan.take, heard(work, turned)?.unwrap_or_default()));
            plan.take = 0;
        }
        if std::mem::take(&mut plan.tidy) {
            heard(self.backbone.tidy(&self.group, LONG_GONE).await, turned)?;
        }
        Ok(())
    }

    /// Writes the dead letters. One that is not written stays, and holds up nothing else.
    async fn bury(&self, plan: &mut Plan, turned: &mut Turned) {
        if plan.letters.is_empty() {
            return;
        }
        let additions: Vec<_> = plan.letters.iter().map(|letter| letter.addition.clone()).collect();
        let answers = self.backbone.append_all(&additions).await;
        let mut answers = answers.into_iter();
        plan.letters.retain(|letter| match answers.next() {
            Some(Ok(_)) => {
                turned.buried.push(letter.offset);
                plan.done.push(letter.offset);
                false
            }
            failed => {
                turned.unburied = failed.and_then(Result::err).or(turned.unburied.take());
                true
            }
        });
    }
}

/// Goes on after an error that no later try mends: what was said is then as good as said, and nothing
/// but the lease ends what is held.
fn heard<T>(answer: Result<T, BackboneError>, turned: &mut Turned) -> Result<Option<T>, BackboneError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.is_retryable() => Err(error),
        Err(error) => {
            turned.error = Some(error);
            Ok(None)
        }
    }
}

/// A queue that is watched, or why it cannot be.
pub(super) type Opening = (StreamKey, Result<Epoch, BackboneError>);

/// Watches a queue, and looks whether it is a stream. Tries again while the backbone is away.
pub(super) async fn open(backbone: Arc<dyn Backbone>, metrics: Metrics, stream: StreamKey) -> Opening {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    let streams = std::slice::from_ref(&stream);
    loop {
        let opened = match backbone.watch(streams).await {
            Ok(()) => one(backbone.tails(streams).await),
            Err(error) => Err(error),
        };
        match opened {
            Err(error) if error.is_retryable() => {
                events::backbone_error(metrics.node(), (&error).into(), "open a queue", &error);
                tokio::time::sleep(backoff.delay()).await;
            }
            opened => return (stream, opened.map(|tail| tail.epoch)),
        }
    }
}
