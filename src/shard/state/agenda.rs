//! Time: what is due for which session.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use super::super::seat::{Beat, Now};
use super::{Place, State};
use crate::domain::CloseReason;

impl State {
    /// When something is due.
    pub(in crate::shard) fn next_time(&self) -> Option<Instant> {
        self.agenda.peek().map(|Reverse((due, ..))| *due)
    }

    /// Does what is due.
    pub(in crate::shard) fn on_time(&mut self, now: Instant) {
        while let Some(Reverse((due, seat, stamp))) =
            self.agenda.peek().copied().filter(|Reverse(at)| at.0 <= now)
        {
            self.agenda.pop();
            if let Some(at) =
                self.at(Place { seat, stamp }).filter(|at| self.seats[*at].scheduled == Some(due))
            {
                self.seats[at].scheduled = None;
                self.on_seat_time(at, now);
            }
        }
    }

    pub(super) fn on_seat_time(&mut self, at: usize, now: Instant) {
        let seat = &mut self.seats[at];
        if seat.link.is_none() {
            if seat.expires.is_some_and(|expires| expires <= now) {
                return self.end(at, CloseReason::ClientGone, None);
            }
            return self.schedule(at);
        }
        if seat.session.identity.expires_ms.is_some_and(|expires| expires <= self.clock.now_ms()) {
            return self.close(at, CloseReason::TokenExpired, "the token expired and was not refreshed");
        }
        if let Some(link) = &mut seat.link {
            link.listen(now);
        }
        let heard = seat.heard(now);
        if !seat.leaving {
            seat.session.on_time(now, heard, &mut self.fx);
        }
        let beat = seat.link.as_mut().map_or(Beat::Nothing, |link| link.beat.on_time(now, heard));
        let place = self.place(at);
        // Before anything can end the session: what it asked for must not be left to the next one.
        self.perform(at, None);
        if self.at(place).is_none() {
            return;
        }
        match beat {
            Beat::Nothing => {}
            // A client that only reads slowly answers late; one that is gone the kernel finds.
            Beat::Lost if self.ends_by_itself(at) => {}
            Beat::Lost => return self.close(at, CloseReason::HeartbeatLost, "a heartbeat was not answered"),
            Beat::Ping => {
                if let Some(link) = &mut self.seats[at].link {
                    link.ping(&mut self.scratch);
                }
                self.touch(at);
            }
        }
        self.schedule(at);
    }

    fn ends_by_itself(&self, at: usize) -> bool {
        self.seats[at].link.as_ref().is_some_and(|link| link.socket.ends_by_itself())
    }

    /// Puts the seat on the agenda for its next time, unless it is there early enough.
    pub(in crate::shard) fn schedule(&mut self, at: usize) {
        let seat = &mut self.seats[at];
        let token_ends = seat.session.identity.expires_ms.filter(|_| seat.link.is_some()).map(|expires| {
            let left = expires.saturating_sub(self.clock.now_ms());
            Instant::now() + Duration::from_millis(left)
        });
        let Some(due) = seat.next_time(token_ends) else { return };
        self.schedule_by(at, due);
    }

    /// Sees to it that the seat's time comes no later than this.
    pub(in crate::shard) fn schedule_by(&mut self, at: usize, due: Instant) {
        let seat = &mut self.seats[at];
        if seat.scheduled.is_none_or(|scheduled| due < scheduled) {
            seat.scheduled = Some(due);
            self.agenda.push(Reverse((due, at, seat.stamp)));
        }
    }

    pub(super) fn now(&self) -> Now {
        Now { instant: Instant::now(), clock_ms: self.clock.now_ms() }
    }
}
