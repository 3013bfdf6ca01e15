//! The window: what was sent and not yet acknowledged.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::domain::Offset;

/// Messages in flight of one acknowledging subscription, ascending by offset.
///
/// The payloads stay in the log; the window holds a few dozen bytes a message and nothing when idle.
#[derive(Debug, Clone)]
pub struct Window {
    limit: usize,
    in_flight: VecDeque<InFlight>,
    /// What a stored cursor says of a message that was not sent in this session yet. Boxed, for it is rare.
    inherited: Option<Box<Tried>>,
}

/// What earlier sessions of the device tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tried {
    /// Counted deliveries.
    pub attempts: u8,
    /// Of which message; where a cursor does not say it, of the next that comes.
    pub offset: Option<Offset>,
}

/// One message in flight.
#[derive(Debug, Clone)]
pub struct InFlight {
    /// Which message.
    pub offset: Offset,
    /// How often it was sent.
    pub attempt: u8,
    /// How often it was sent to a connection that proved to be alive after that.
    pub counted: u8,
    sent: Instant,
    due: Instant,
    nacked: bool,
    /// Its last delivery has counted.
    proven: bool,
    /// Its time is up; it waits to be read again from the log.
    again: bool,
}

impl InFlight {
    /// Its last delivery reached a living client; each delivery counts once.
    fn count(&mut self) {
        if !std::mem::replace(&mut self.proven, true) {
            self.counted = self.counted.saturating_add(1);
        }
    }
}

impl Window {
    /// An empty window. `tried` is what earlier sessions did.
    pub fn new(limit: usize, tried: Option<Tried>) -> Self {
        let inherited = tried.filter(|tried| tried.attempts > 0).map(Box::new);
        Self { limit: limit.max(1), in_flight: VecDeque::new(), inherited }
    }

    /// Whether no more may be sent.
    pub fn is_full(&self) -> bool {
        self.in_flight.len() >= self.limit
    }

    /// How many messages are in flight.
    #[cfg(test)]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Changes how much may be in flight; what is in flight stays.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit.max(1);
    }

    /// The head, and how often it was tried: what is stored beside the cursor.
    pub fn tried(&self) -> Tried {
        match (self.in_flight.front(), &self.inherited) {
            (Some(head), _) if head.counted > 0 => {
                Tried { attempts: head.counted, offset: Some(head.offset) }
            }
            (None, Some(tried)) => **tried,
            _ => Tried { attempts: 0, offset: None },
        }
    }

    /// Counted deliveries that a message brings along when it is sent for the first time here.
    pub fn inherited_by(&self, offset: Offset) -> u8 {
        let tried = self.inherited.as_ref().filter(|tried| tried.offset.is_none_or(|of| of == offset));
        tried.map_or(0, |tried| tried.attempts)
    }

    /// What was tried before was this message, or does not come any more.
    pub fn passed(&mut self, offset: Offset) {
        if self.inherited.as_ref().is_some_and(|tried| tried.offset.is_none_or(|of| of <= offset)) {
            self.inherited = None;
        }
    }

    /// What was tried before does not come any more.
    pub fn disinherit(&mut self) {
        self.inherited = None;
    }

    /// Lets go of what lies above an offset: the log has lost it, and may give the offsets out again.
    pub fn forget_above(&mut self, offset: Offset) {
        let kept = self.in_flight.partition_point(|message| message.offset <= offset);
        self.in_flight.truncate(kept);
        self.release();
    }

    /// The next message is sent for the first time on this session; the number of this attempt.
    /// Offsets only grow.
    pub fn sent(&mut self, offset: Offset, now: Instant, timeout: Duration) -> u8 {
        let counted = self.inherited_by(offset);
        self.passed(offset);
        let attempt = counted.saturating_add(1);
        let (nacked, proven, again) = (false, false, false);
        let due = now + timeout;
        self.in_flight.push_back(InFlight {
            offset,
            attempt,
            counted,
            sent: now,
            due,
            nacked,
            proven,
            again,
        });
        attempt
    }

    /// Acknowledges everything at or below an offset; the last one that was in flight, if any was.
    pub fn ack(&mut self, offset: Offset) -> Option<Offset> {
        let through = self.in_flight.partition_point(|message| message.offset <= offset);
        let last = self.in_flight.drain(..through).next_back().map(|message| message.offset);
        if let Some(last) = last {
            self.passed(last);
            self.release();
        }
        last
    }

    /// Asks for one message again after a delay; false where it is not in flight.
    pub fn nack(&mut self, offset: Offset, due: Instant) -> bool {
        let Some(message) = self.find(offset) else { return false };
        // Where it was to be sent again at once, it now waits for its delay.
        (message.nacked, message.again) = (true, false);
        message.due = due;
        true
    }

    /// Looks whose time is up. A delivery counts only if the connection was heard after it; without
    /// that it is not sent again either: either the heartbeat answers, or the connection ends. True
    /// if something waits to be read again.
    pub fn expire(&mut self, now: Instant, heard: Instant, timeout: Duration) -> bool {
        for message in self.in_flight.iter_mut().filter(|message| !message.again && message.due <= now) {
            if message.nacked || heard > message.sent {
                message.count();
                message.again = true;
            } else {
                message.due = now + timeout;
            }
        }
        self.in_flight.iter().any(|message| message.again)
    }

    /// The connection is gone: everything in flight is to be sent again on the next one. Whether that
    /// changes what is stored beside the cursor.
    pub fn interrupt(&mut self, heard: Instant) -> bool {
        let before = self.tried();
        for message in self.in_flight.iter_mut().filter(|message| !message.again) {
            if message.nacked || heard > message.sent {
                message.count();
            }
            message.again = true;
        }
        self.tried() != before
    }

    /// When the next message's time is up.
    pub fn next_due(&self) -> Option<Instant> {
        self.in_flight.iter().filter(|message| !message.again).map(|message| message.due).min()
    }

    /// The last message that waits to be read again.
    pub fn last_again(&self) -> Option<Offset> {
        self.in_flight.iter().rev().find(|message| message.again).map(|message| message.offset)
    }

    /// Whether this message waits to be read again, and how often it counted.
    pub fn waits_again(&mut self, offset: Offset) -> Option<u8> {
        self.find(offset).filter(|message| message.again).map(|message| message.counted)
    }

    /// A message was sent again; the number of this attempt.
    pub fn resent(&mut self, offset: Offset, now: Instant, timeout: Duration) -> u8 {
        let Some(message) = self.find(offset) else { return 1 };
        message.attempt = message.attempt.saturating_add(1).max(message.counted.saturating_add(1));
        message.sent = now;
        message.due = now + timeout;
        (message.nacked, message.proven) = (false, false);
        message.again = false;
        message.attempt
    }

    /// Takes one message out: it was given up, expired, or is no longer in the log.
    pub fn remove(&mut self, offset: Offset) {
        if let Ok(at) = self.in_flight.binary_search_by_key(&offset, |message| message.offset) {
            self.in_flight.remove(at);
            self.release();
        }
    }

    /// Messages that wait to be read again in a span of the log, `after` exclusive, `until` inclusive.
    pub fn waiting_between(&self, after: Offset, until: Offset) -> Vec<Offset> {
        let within = |message: &&InFlight| message.again && message.offset > after && message.offset <= until;
        self.in_flight.iter().filter(within).map(|message| message.offset).collect()
    }

    /// The first message in flight.
    pub fn head(&self) -> Option<Offset> {
        self.in_flight.front().map(|message| message.offset)
    }

    fn find(&mut self, offset: Offset) -> Option<&mut InFlight> {
        let at = self.in_flight.binary_search_by_key(&offset, |message| message.offset).ok()?;
        self.in_flight.get_mut(at)
    }

    /// An idle window holds no memory beyond a few entries.
    fn release(&mut self) {
        const KEEP: usize = 8;
        if self.in_flight.is_empty() && self.in_flight.capacity() > KEEP {
            self.in_flight = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    fn at(ms: u64) -> Offset {
        Offset { ms, seq: 0 }
    }

    fn window(messages: u64, now: Instant) -> Window {
        let mut window = Window::new(3, None);
        for ms in 1..=messages {
            assert_eq!(window.sent(at(ms), now, TIMEOUT), 1);
        }
        window
    }

    #[test]
    fn an_ack_covers_everything_below_it() {
        let mut window = window(3, Instant::now());
        assert!(window.is_full());
        assert_eq!(window.ack(at(2)), Some(at(2)));
        assert_eq!(window.ack(at(2)), None);
        assert_eq!(window.head(), Some(at(3)));
        assert!(!window.is_full());
    }

    #[test]
    fn a_delivery_counts_only_if_the_connection_was_heard_after_it() {
        let start = Instant::now();
        let mut window = window(1, start);
        assert!(!window.expire(start + TIMEOUT, start, TIMEOUT), "not heard: not sent again");
        let later = start + TIMEOUT * 2;
        assert!(window.expire(later, start + TIMEOUT, TIMEOUT));
        assert_eq!(window.waits_again(at(1)), Some(1));
        assert_eq!(window.resent(at(1), later, TIMEOUT), 2);
        assert_eq!(window.tried(), Tried { attempts: 1, offset: Some(at(1)) });
    }

    #[test]
    fn a_nack_waits_its_delay_and_a_later_ack_cancels_it() {
        let start = Instant::now();
        let mut window = window(2, start);
        assert!(window.nack(at(1), start + TIMEOUT / 2));
        assert!(!window.nack(at(9), start));
        assert_eq!(window.next_due(), Some(start + TIMEOUT / 2));
        assert_eq!(window.ack(at(2)), Some(at(2)));
        assert_eq!(window.next_due(), None);
    }

    #[test]
    fn attempts_are_inherited_by_the_head_alone() {
        let now = Instant::now();
        let tried = Tried { attempts: 3, offset: None };
        let mut window = Window::new(2, Some(tried));
        assert_eq!(window.tried(), tried);
        assert_eq!(window.sent(at(1), now, TIMEOUT), 4);
        assert_eq!(window.sent(at(2), now, TIMEOUT), 1);
        window.interrupt(now);
        assert_eq!(window.tried().attempts, 3, "not heard since the send");
        assert_eq!(window.waiting_between(Offset::ZERO, at(9)), [at(1), at(2)]);
    }

    #[test]
    fn attempts_of_a_message_that_was_withdrawn_are_nobodys() {
        let now = Instant::now();
        let mut window = Window::new(2, Some(Tried { attempts: 3, offset: Some(at(2)) }));
        assert_eq!(window.sent(at(1), now, TIMEOUT), 1, "it was skipped before");
        assert_eq!(window.inherited_by(at(2)), 3);
        assert_eq!(window.sent(at(3), now, TIMEOUT), 1, "2 is gone");
        assert_eq!(window.inherited_by(at(2)), 0);
    }
}
