//! How many connections the node holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the node's connections against their limit. Shared by the shards.
#[derive(Debug, Clone)]
pub struct Gate {
    held: Arc<AtomicUsize>,
    most: usize,
}

/// One connection's place; given back when dropped.
#[derive(Debug)]
pub struct Permit(Arc<AtomicUsize>);

impl Gate {
    /// Lets in at most so many at a time.
    pub fn new(most: usize) -> Self {
        Self { held: Arc::default(), most }
    }

    /// A place for one more connection, if there is one.
    pub fn enter(&self) -> Option<Permit> {
        let held = self.held.fetch_add(1, Ordering::Relaxed);
        // The permit gives the place back also when there was none to have.
        let permit = Permit(self.held.clone());
        (held < self.most).then_some(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_and_given_back() {
        let gate = Gate::new(1);
        let first = gate.enter();
        assert!(first.is_some());
        assert!(gate.enter().is_none());
        drop(first);
        assert!(gate.enter().is_some());
    }
}
