//! Leaving: a shard's part in the drain of its node.
//!
//! Sessions are told one after the other over the plan's span. A session that was told gets nothing new;
//! it ends a moment later if nothing of it is open, else when nothing is, at the latest after its grace.
//! What it acknowledged is stored before its connection is closed, so that wherever its client comes back
//! the cursor is there.

use std::rc::Rc;
use std::time::{Duration, Instant};

use rand::seq::SliceRandom as _;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout, timeout_at};

use super::Shard;
use super::cursors::STORE_EVERY;
use super::state::{Place, State};
use crate::api::drain::Plan;
use crate::domain::CloseReason;
use crate::protocol::ServerFrame;

/// How often a draining shard looks who is to be told and who is done.
const TICK: Duration = Duration::from_millis(10);
/// How long a session that was told goes on at least: what its client had sent by then arrives.
const MOMENT: Duration = Duration::from_millis(100);
/// How long goodbyes wait for cursors to be stored; after that those are tried once more as sessions end.
const STORING: Duration = Duration::from_secs(1);
/// Sessions without a connection that end at one tick.
const ENDED_AT_ONCE: usize = 500;

/// A session that was told.
struct Told {
    place: Place,
    /// It does not end before this time.
    from: Instant,
    /// It ends at this time at the latest.
    until: Instant,
    pause_ms: u64,
}

impl Shard {
    /// Waits for the drain, and resolves once all sessions are over or the plan's time is. Connections are
    /// accepted, and requests over HTTP answered, until the last goodbye is said. `storing` is the task
    /// that stores cursors, and ends when the drain begins: from then on goodbyes know what is stored.
    pub(super) async fn leave(self: Rc<Self>, storing: JoinHandle<()>) {
        let plan = self.env.drain.begun().await;
        let shard = usize::from(self.env.id.0);
        let in_order = async {
            let _ = timeout(STORING, storing).await;
            self.say_goodbyes(&plan).await;
            self.closing.cancel();
            self.tasks.close();
            self.tasks.wait().await;
            // What clients have done must not be done again elsewhere.
            self.tells.flush(&self.env.queues).await;
        };
        if timeout_at(plan.shards_end.into(), in_order).await.is_err() {
            self.env.drain.force(self.env.drain.sessions_of(shard));
        }
    }

    async fn say_goodbyes(self: &Rc<Self>, plan: &Plan) {
        let mut places = self.state.borrow().connected();
        // Clients of one tenant or address are spread over the whole span.
        places.shuffle(&mut rand::rng());
        let count = places.len();
        let mut told: Vec<Told> = Vec::new();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stored = Instant::now();
        while !self.state.borrow().is_empty() {
            ticks.tick().await;
            let now = Instant::now();
            let left = count - plan.due(count, now);
            for place in places.drain(left.min(places.len())..) {
                let pause_ms = plan.pause_ms();
                self.with(|state| state.announce_drain(place, pause_ms));
                let (from, until) = (now + MOMENT.min(plan.grace), now + plan.grace);
                told.push(Told { place, from, until, pause_ms });
            }
            let done = self.state.borrow().take_done(&mut told, now);
            if !done.is_empty() || stored + STORE_EVERY <= now {
                stored = now;
                let shard = self.clone();
                let storing = self.tasks.spawn_local(async move { shard.store_cursors().await });
                // Whether it was in time or not, the sessions store what is left when they end.
                let _ = timeout(STORING, storing).await;
            }
            self.with(|state| {
                done.iter().for_each(|told| state.dismiss(told.place, told.pause_ms));
                state.end_detached(ENDED_AT_ONCE);
            });
        }
    }
}

impl State {
    /// Whether no session is left.
    fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    /// The sessions that have a connection.
    fn connected(&self) -> Vec<Place> {
        let connected = self.seats.iter().filter(|(_, seat)| seat.link.is_some());
        connected.map(|(at, seat)| Place { seat: at, stamp: seat.stamp }).collect()
    }

    /// Tells a client that its node goes away. From here on it gets nothing new, so that it can finish.
    fn announce_drain(&mut self, place: Place, retry_after_ms: u64) {
        let Some(at) = self.at(place).filter(|at| self.seats[*at].link.is_some()) else { return };
        self.seats[at].leaving = true;
        self.part_all(at);
        self.send(at, &ServerFrame::Drain { retry_after_ms, url: None });
    }

    /// Takes those out who have nothing open any more, or no time left.
    fn take_done(&self, told: &mut Vec<Told>, now: Instant) -> Vec<Told> {
        let is_done =
            |told: &mut Told| told.until <= now || told.from <= now && self.has_nothing_open(told.place);
        told.extract_if(.., is_done).collect()
    }

    /// Whether everything that was sent is written and acknowledged, and every request is answered.
    fn has_nothing_open(&self, place: Place) -> bool {
        let Some(seat) = self.at(place).map(|at| &self.seats[at]) else { return true };
        seat.requests == 0
            && seat.session.is_settled()
            && seat.link.as_ref().is_none_or(|link| link.outbox.is_empty())
    }

    /// Closes the connection of a session that was told, and ends the session.
    fn dismiss(&mut self, place: Place, pause_ms: u64) {
        let Some(at) = self.at(place) else { return };
        let link = self.unlink(at, CloseReason::Drain);
        self.end(at, CloseReason::Drain, link.as_ref());
        if let Some(link) = link {
            self.see_off(link, CloseReason::Drain, "the node is going away", Some(pause_ms));
        }
    }

    /// Ends sessions that wait for their client: it cannot come back to this node.
    fn end_detached(&mut self, most: usize) {
        let detached = self.seats.iter().filter(|(_, seat)| seat.link.is_none());
        let detached: Vec<usize> = detached.map(|(at, _)| at).take(most).collect();
        for at in detached {
            self.end(at, CloseReason::Drain, None);
        }
    }
}
