//! Turns: while a plugin is asked about a channel for a session, what its client asks about the same channel waits,
//! in order.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::domain::ChannelName;

/// The channels of one session that turns are taken with.
#[derive(Default)]
pub(super) struct Turns(Vec<(ChannelName, Arc<Mutex<()>>)>);

/// A turn that was taken; the next one comes when it is dropped.
pub(super) type Turn = OwnedMutexGuard<()>;

/// A turn that is waited for. Who waits first is first.
pub(super) struct NextTurn(Arc<Mutex<()>>);

impl Turns {
    /// Whether somebody has a turn with the channel, or waits for one.
    pub(super) fn is_busy(&self, channel: &ChannelName) -> bool {
        self.0.iter().any(|(other, turn)| other == channel && Arc::strong_count(turn) > 1)
    }

    /// Takes a turn with a channel, if nobody has one.
    pub(super) fn take(&mut self, channel: &ChannelName) -> Option<Turn> {
        self.next(channel).0.try_lock_owned().ok()
    }

    /// The next turn with a channel.
    pub(super) fn next(&mut self, channel: &ChannelName) -> NextTurn {
        self.0.retain(|(_, turn)| Arc::strong_count(turn) > 1);
        let known = self.0.iter().find(|(other, _)| other == channel).map(|(_, turn)| turn.clone());
        NextTurn(known.unwrap_or_else(|| {
            let turn = Arc::default();
            self.0.push((channel.clone(), Arc::clone(&turn)));
            turn
        }))
    }
}

impl NextTurn {
    /// Waits until it comes. Cancelled it is given up.
    pub(super) async fn come(self) -> Turn {
        self.0.lock_owned().await
    }
}
