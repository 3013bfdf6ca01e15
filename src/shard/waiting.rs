//! Sessions that wait for their client: how many the node keeps.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// The node's sessions without a connection, against their limit. Shared by the shards.
#[derive(Debug, Clone)]
pub struct Detached {
    count: Arc<AtomicUsize>,
    most: usize,
}

impl Detached {
    /// At most so many on the node.
    pub fn new(most: usize) -> Self {
        Self { count: Arc::default(), most }
    }
}

/// The sessions of one shard that wait, by the time when they end.
#[derive(Debug)]
pub(super) struct Waiting {
    node: Detached,
    seats: BTreeSet<(Instant, usize)>,
}

impl Waiting {
    pub(super) fn new(node: Detached) -> Self {
        Self { node, seats: BTreeSet::new() }
    }

    /// Adds a session; false when the node now has too many.
    pub(super) fn add(&mut self, expires: Instant, seat: usize) -> bool {
        if !self.seats.insert((expires, seat)) {
            return true;
        }
        self.node.count.fetch_add(1, Ordering::Relaxed) < self.node.most
    }

    /// Takes a session out, if it is there.
    pub(super) fn remove(&mut self, expires: Instant, seat: usize) {
        if self.seats.remove(&(expires, seat)) {
            self.node.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The session that ends first.
    pub(super) fn first(&self) -> Option<usize> {
        self.seats.first().map(|(_, seat)| *seat)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_limit_is_the_node_s_and_the_first_to_end_goes() {
        let node = Detached::new(2);
        let (mut one, mut two) = (Waiting::new(node.clone()), Waiting::new(node));
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        assert!(one.add(later, 7));
        assert!(one.add(now, 8));
        assert!(!two.add(later, 1), "the third of two");
        assert_eq!((one.first(), two.first()), (Some(8), Some(1)));
        two.remove(later, 1);
        two.remove(later, 1);
        one.remove(now, 8);
        assert!(two.add(now, 2), "there is room again");
        assert_eq!(one.first(), Some(7));
    }
}
