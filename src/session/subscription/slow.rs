//! What happens to a subscription that finds no room: its outbox is full, or its window.
//!
//! It falls behind and waits in the log in any case. Where the namespace wants more, that comes once more
//! is delivered while its client takes nothing: a burst alone makes nobody slow.

use super::{Effect, Effects, Lag, Phase, Reach, Room, Subscription};
use crate::domain::{CloseReason, OnSlow};
use crate::protocol::GapReason;

impl Subscription {
    /// The shard missed batches of this channel. Where messages may be left out that is how it sheds load.
    pub fn on_lagged(&mut self) {
        if self.phase == Phase::Live {
            let sheds = matches!(self.channel.rules.on_slow, OnSlow::DropOldest | OnSlow::Conflate);
            let lag = if sheds { Lag::Slow } else { Lag::Fell };
            self.phase = Phase::Behind { asked: false, lag };
        }
    }

    /// Who was live waits in the log.
    pub(super) fn fall_behind(&mut self) {
        if self.phase == Phase::Live {
            self.phase = Phase::Behind { asked: false, lag: Lag::Fell };
        }
    }

    /// There still is no room, and there is more to read: does what the namespace wants.
    pub(super) fn note_slow(&mut self, lag: Lag, room: Room, fx: &mut Effects) {
        let stalled = room.bytes == 0 && room.blocked;
        let full = self.acking && self.window.is_full();
        if lag != Lag::Fell || !(stalled || full) {
            return;
        }
        match self.channel.rules.on_slow {
            OnSlow::Pause => {}
            OnSlow::DropOldest | OnSlow::Conflate => {
                self.phase = Phase::Behind { asked: false, lag: Lag::Slow }
            }
            OnSlow::Disconnect if stalled => {
                let message = format!("{} waited longer than its namespace allows", self.channel.name).into();
                fx.push(Effect::Close { reason: CloseReason::SlowConsumer, message });
            }
            OnSlow::Disconnect => {}
        }
    }

    /// There is room again for one that was slow: leaves the oldest of what waits out where that is wanted.
    pub(super) fn go_on(&mut self, reach: Reach, fx: &mut Effects) -> Lag {
        if self.channel.rules.on_slow != OnSlow::DropOldest {
            return Lag::Slow;
        }
        if self.position < reach.newest {
            self.gap(self.cursor(), reach.newest, GapReason::Slow, fx);
        }
        // If there is no room for these either, they may be left out again.
        Lag::Fell
    }
}
