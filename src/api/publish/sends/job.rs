//! How far one send is.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::publish::append::{TargetError, shown};

/// Errors of targets that are kept; the rest is counted.
const ERRORS: usize = 100;

/// One send. Its task writes it, whoever asks reads it.
pub(super) struct Job {
    id: String,
    targets: usize,
    pace_per_s: u32,
    started_ms: u64,
    cancel: CancellationToken,
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    state: State,
    added: usize,
    failed: usize,
    errors: Vec<Failure>,
    waiting: Option<String>,
    ended: Option<(Instant, u64)>,
}

/// Where a send stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    #[default]
    Running,
    /// Every target was tried, and some have the message.
    Done,
    /// No target has the message, or the node went away meanwhile.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
}

impl State {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A target without the message, and why.
#[derive(Debug, Clone, Serialize)]
struct Failure {
    channel: String,
    error: TargetError,
}

/// How far a send is, as it is answered.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    send: String,
    pub(super) state: State,
    pub(super) targets: usize,
    pub(super) added: usize,
    pub(super) failed: usize,
    pace_per_s: u32,
    started_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_ms: Option<u64>,
    /// Seconds that are left at this pace.
    #[serde(skip_serializing_if = "Option::is_none")]
    eta_s: Option<usize>,
    /// What the send waits for, while it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) waiting: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<Vec<Failure>>,
}

impl Job {
    pub(super) fn new(
        id: String,
        targets: usize,
        pace_per_s: u32,
        started_ms: u64,
        cancel: CancellationToken,
    ) -> Self {
        Self { id, targets, pace_per_s, started_ms, cancel, progress: Mutex::default() }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn pace_per_s(&self) -> u32 {
        self.pace_per_s
    }

    /// When it ended.
    pub(super) fn ended(&self) -> Option<Instant> {
        self.progress().ended.map(|(at, _)| at)
    }

    /// Asks it to stop. What is on its way to the backbone arrives.
    pub(super) fn cancel(&self) {
        let mut progress = self.progress();
        if progress.state == State::Running {
            progress.state = State::Cancelled;
            self.cancel.cancel();
        }
    }

    /// Ends when it is cancelled.
    pub(super) async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    /// What became of a target.
    pub(super) fn settle(&self, channel: &str, outcome: Result<(), TargetError>) {
        let mut progress = self.progress();
        match outcome {
            Ok(()) => progress.added += 1,
            Err(error) => {
                progress.failed += 1;
                if progress.errors.len() < ERRORS {
                    progress.errors.push(Failure { channel: shown(channel.to_owned()), error });
                }
            }
        }
    }

    /// Says what it waits for; `None`: it goes on.
    pub(super) fn wait_for(&self, what: Option<String>) {
        self.progress().waiting = what;
    }

    /// Its task is over. Targets that were not tried are left.
    pub(super) fn end(&self, now_ms: u64) -> Status {
        {
            let mut progress = self.progress();
            let all = progress.added + progress.failed == self.targets;
            progress.state = match progress.state {
                State::Cancelled if !all => State::Cancelled,
                _ if all && progress.added > 0 => State::Done,
                _ => State::Failed,
            };
            progress.waiting = None;
            progress.ended = Some((Instant::now(), now_ms));
        }
        self.status(false)
    }

    pub(super) fn status(&self, with_errors: bool) -> Status {
        let progress = self.progress();
        let left = self.targets - progress.added - progress.failed;
        let runs = progress.state == State::Running;
        Status {
            send: self.id.clone(),
            state: progress.state,
            targets: self.targets,
            added: progress.added,
            failed: progress.failed,
            pace_per_s: self.pace_per_s,
            started_ms: self.started_ms,
            ended_ms: progress.ended.map(|(_, ms)| ms),
            eta_s: runs.then(|| left.div_ceil(self.pace_per_s as usize)),
            waiting: progress.waiting.clone(),
            errors: with_errors.then(|| progress.errors.clone()),
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        // Counts are right after every line that writes them.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
