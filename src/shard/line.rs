//! Requests that wait for room in a bounded queue, in order. A line is bounded by the sessions: each has
//! few requests at a time.

use std::cell::RefCell;
use std::collections::VecDeque;

use tokio::sync::{Notify, mpsc};

/// What waits.
pub(super) struct Line<T> {
    waiting: RefCell<VecDeque<T>>,
    came: Notify,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self { waiting: RefCell::default(), came: Notify::new() }
    }
}

impl<T> Line<T> {
    pub(super) fn push(&self, request: T) {
        self.waiting.borrow_mut().push_back(request);
        self.came.notify_one();
    }

    /// Hands on what waits and what comes, until nobody takes it any more. Cancel-safe: what is not handed
    /// on still waits.
    pub(super) async fn forward(&self, to: &mpsc::Sender<T>) {
        while self.flush(to).await {
            self.came.notified().await;
        }
    }

    /// Hands on what waits; false where nobody takes it any more.
    pub(super) async fn flush(&self, to: &mpsc::Sender<T>) -> bool {
        while !self.waiting.borrow().is_empty() {
            let Ok(room) = to.reserve().await else { return false };
            if let Some(request) = self.waiting.borrow_mut().pop_front() {
                room.send(request);
            }
        }
        true
    }
}
