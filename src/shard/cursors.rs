//! Cursors on their way to the backbone: what was acknowledged survives the node.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::sleep;

use super::Shard;
use super::state::Place;
use crate::backbone::backoff::Backoff;
use crate::backbone::{CursorWrite, Stored, one};
use crate::domain::CloseReason;
use crate::session::Session;
use crate::telemetry::{CursorWriteOutcome, events};

/// How often cursors that moved are stored.
pub(super) const STORE_EVERY: Duration = Duration::from_millis(250);
/// The longest pause between two tries while the backbone does not take them.
const STORE_AGAIN: Duration = Duration::from_secs(5);

impl Shard {
    /// Stores cursors that moved, in one batch, until a drain begins.
    pub(super) async fn keep_storing_cursors(self: Rc<Self>) {
        let mut backoff = Backoff::new(STORE_EVERY, STORE_AGAIN);
        let (mut pause, mut all_stored) = (STORE_EVERY, true);
        while !self.env.drain.is_begun() {
            // Whichever comes first; waiting on any loses nothing.
            tokio::select! {
                () = sleep(pause) => {}
                () = self.store_now.notified(), if all_stored => {}
                _ = self.env.drain.begun() => {}
            }
            let were_stored = std::mem::replace(&mut all_stored, self.store_cursors().await);
            match (were_stored, all_stored) {
                (true, false) => tracing::warn!("cursors cannot be stored; they are tried again"),
                (false, true) => tracing::info!("cursors are stored again"),
                _ => {}
            }
            pause = if all_stored {
                backoff.reset();
                STORE_EVERY
            } else {
                backoff.delay()
            };
        }
    }

    /// Stores the cursors that moved since the last time; false where some have to be tried again.
    pub(super) async fn store_cursors(self: &Rc<Self>) -> bool {
        let mut writes = Vec::new();
        let mut whose = Vec::new();
        self.with(|state| {
            for place in state.take_unstored() {
                let Some(at) = state.at(place) else { continue };
                let taken = unstored(&mut state.seats[at].session);
                whose.extend(taken.iter().map(|(sub, _)| (place, *sub)));
                writes.extend(taken.into_iter().map(|(_, write)| write));
            }
        });
        if writes.is_empty() {
            return true;
        }
        let answers = self.env.backbone.store_cursors(&writes).await;
        let (mut stored, mut stale, mut failed) = (0, 0, 0);
        for ((place, sub), answer) in whose.into_iter().zip(answers) {
            match answer {
                Ok(Stored::Yes) => stored += 1,
                Ok(Stored::Stale) => {
                    stale += 1;
                    self.taken_over(place);
                }
                Err(_) => {
                    failed += 1;
                    self.with(|state| state.store_again(place, sub));
                }
            }
        }
        let node = self.env.metrics.node();
        for (outcome, count) in [
            (CursorWriteOutcome::Stored, stored),
            (CursorWriteOutcome::Stale, stale),
            (CursorWriteOutcome::Failed, failed),
        ] {
            if count > 0 {
                events::cursors_written(node, outcome, count);
            }
        }
        failed == 0
    }

    /// Stores where a subscription starts; `subscribed` waits for it.
    pub(super) async fn store_start(self: Rc<Self>, place: Place, sub: usize) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            let write = self.with(|state| {
                let at = state.at(place)?;
                cursor_write(&state.seats[at].session, sub)
            });
            let Some(write) = write else { return };
            match one(self.env.backbone.store_cursors(std::slice::from_ref(&write)).await) {
                Ok(Stored::Yes) => break,
                Ok(Stored::Stale) => return self.taken_over(place),
                Err(error) => {
                    tracing::debug!(%error, "the start of a subscription is not stored yet");
                    sleep(backoff.delay()).await;
                }
            }
        }
        self.with(|state| {
            let Some(at) = state.at(place) else { return };
            let Some(tail) = state.tail_of(at, sub) else { return };
            if let Some(subscription) = state.seats[at].session.sub_mut(sub) {
                subscription.on_start_stored(sub, &tail, &mut state.fx);
                state.pursue(at, sub);
                state.perform(at, None);
            }
        });
    }

    /// Stores the cursors of a session that sits nowhere, and gives back what it works on.
    pub(super) async fn store_last(&self, session: &mut Session) {
        self.give_work_up(session, false);
        let writes: Vec<_> = unstored(session).into_iter().map(|(_, write)| write).collect();
        if !writes.is_empty() {
            let answers = self.env.backbone.store_cursors(&writes).await;
            if let Some(error) = answers.into_iter().find_map(Result::err) {
                tracing::debug!(%error, "the last cursors of a session are not stored");
            }
        }
    }

    /// Another node has a newer session of this device.
    pub(super) fn taken_over(self: &Rc<Self>, place: Place) {
        self.with(|state| {
            if let Some(at) = state.at(place) {
                state.close(at, CloseReason::Replaced, "the same device connected elsewhere");
            }
        });
    }
}

pub(super) fn cursor_write(session: &Session, sub: usize) -> Option<CursorWrite> {
    let device = session.cursor_key()?;
    let generation = session.attached.as_ref()?.generation;
    let subscription = session.sub(sub).filter(|sub| sub.acking)?;
    let (channel, cursor) = (subscription.channel.name.clone(), subscription.cursor());
    Some(CursorWrite { device, generation, channel, cursor })
}

/// The cursor of one subscription, if it moved since it was last taken.
pub(super) fn cursor_moved(session: &mut Session, sub: usize) -> Option<CursorWrite> {
    session.sub_mut(sub)?.take_unstored()?;
    cursor_write(session, sub)
}

/// Takes the cursors of a session that moved since they were last taken.
fn unstored(session: &mut Session) -> Vec<(usize, CursorWrite)> {
    let Some(device) = session.cursor_key() else { return Vec::new() };
    let Some(generation) = session.attached.as_ref().map(|attached| attached.generation) else {
        return Vec::new();
    };
    let moved = session.subs_mut().filter_map(|(at, sub)| {
        let cursor = sub.take_unstored()?;
        let (device, channel) = (device.clone(), sub.channel.name.clone());
        Some((at, CursorWrite { device, generation, channel, cursor }))
    });
    moved.collect()
}
