//! Who is let in: how many connections the node holds, how many of them have no session yet, and how
//! fast new ones may come.

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::config::{AcceptConfig, Places};
use crate::telemetry::Refusal;

mod rates;

use rates::Rates;

/// The node's gate. Shared by the shards; cheap to clone.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    places: Places,
    held: AtomicUsize,
    /// Connections that have no session.
    opening: AtomicUsize,
    /// Connections that are told why they are not let in.
    refusing: AtomicUsize,
    /// Locked for a moment once a connection, never on a message's path.
    rates: Mutex<Rates>,
}

/// One connection's place; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    gate: Gate,
    opening: Cell<bool>,
}

/// Why a connection is not let in.
#[derive(Debug)]
pub struct Refused {
    /// The reason, as it is counted.
    pub reason: Refusal,
    /// When it may come again.
    pub retry_after: Duration,
}

/// The right to tell a connection why it is not let in; given back when dropped.
#[derive(Debug)]
pub struct Telling(Gate);

impl Gate {
    /// Lets in at most so many at a time, and so many a second.
    pub fn new(places: Places, accept: &AcceptConfig) -> Self {
        Self(Arc::new(Shared {
            places,
            held: AtomicUsize::new(0),
            opening: AtomicUsize::new(0),
            refusing: AtomicUsize::new(0),
            rates: Mutex::new(Rates::new(accept)),
        }))
    }

    /// A place for one more connection.
    ///
    /// # Errors
    /// [`Refused`] says why there is none, and when to come again.
    pub fn enter(&self, address: IpAddr, now: Instant) -> Result<Permit, Refused> {
        let held = self.0.held.fetch_add(1, Ordering::Relaxed);
        let opening = self.0.opening.fetch_add(1, Ordering::Relaxed);
        // The permit gives the place back also when there was none to have.
        let permit = Permit { gate: self.clone(), opening: Cell::new(true) };
        if held >= self.0.places.connections || opening >= self.0.places.handshakes {
            let retry_after = Duration::from_secs(rand::random_range(1..=5));
            return Err(Refused { reason: Refusal::Overloaded, retry_after });
        }
        self.0.rates.lock().expect("no holder of this lock panics").take(address, now)?;
        Ok(permit)
    }

    /// Whether one more connection can be told why it is refused.
    pub fn tell(&self) -> Option<Telling> {
        let telling = self.0.refusing.fetch_add(1, Ordering::Relaxed);
        let right = Telling(self.clone());
        (telling < self.0.places.refusals).then_some(right)
    }
}

impl Permit {
    /// The connection has a session: it counts among those that are opening no longer.
    pub fn opened(&self) {
        if self.opening.replace(false) {
            self.gate.0.opening.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.opened();
        self.gate.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.0.0.refusing.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANYBODY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn gate(connections: usize, handshakes: usize) -> Gate {
        let unlimited = AcceptConfig { per_s: 0, per_s_per_address: 0, exempt: Vec::new() };
        Gate::new(Places { connections, handshakes, refusals: 1 }, &unlimited)
    }

    #[test]
    fn places_are_limited_and_given_back() {
        let (gate, now) = (gate(1, 1), Instant::now());
        let first = gate.enter(ANYBODY, now).unwrap();
        let refused = gate.enter(ANYBODY, now).unwrap_err();
        assert_eq!(refused.reason, Refusal::Overloaded);
        assert!((1..=5).contains(&refused.retry_after.as_secs()));
        drop(first);
        gate.enter(ANYBODY, now).unwrap();
    }

    #[test]
    fn connections_without_a_session_do_not_take_all_places() {
        let (gate, now) = (gate(3, 1), Instant::now());
        let first = gate.enter(ANYBODY, now).unwrap();
        gate.enter(ANYBODY, now).unwrap_err();
        first.opened();
        first.opened();
        let second = gate.enter(ANYBODY, now).unwrap();
        gate.enter(ANYBODY, now).unwrap_err();
        drop((first, second));
        gate.enter(ANYBODY, now).unwrap();
    }

    #[test]
    fn few_are_told_at_a_time() {
        let gate = gate(1, 1);
        let telling = gate.tell();
        assert!(telling.is_some() && gate.tell().is_none());
        drop(telling);
        assert!(gate.tell().is_some());
    }
}
