//! What a herd counts.

use super::{Answer, now_ns};

/// What came from the node in one look at a connection.
#[derive(Debug, Default)]
pub struct Seen {
    /// Messages.
    pub messages: u64,
    /// Bytes of frames.
    pub bytes: u64,
    /// Gaps.
    pub gaps: u64,
    /// Whether it came back to its session.
    pub home: bool,
    /// Times of sending of the messages, if asked for.
    pub sent_ns: Vec<u64>,
}

/// Counts since the last reset.
#[derive(Debug, Default)]
pub struct Counts {
    so_far: Answer,
    latencies_us: Vec<u32>,
}

/// Every so many clients are asked for their latencies.
const SAMPLED: usize = 16;
/// Latencies that are kept.
const LATENCIES: usize = 1 << 20;

/// Whether a client is asked for its latencies.
pub fn is_sampled(number: usize) -> bool {
    number.is_multiple_of(SAMPLED)
}

impl Counts {
    /// Adds what was seen just now.
    pub fn add(&mut self, seen: &Seen) {
        self.so_far.messages += seen.messages;
        self.so_far.bytes += seen.bytes;
        self.so_far.gaps += seen.gaps;
        self.so_far.home += u64::from(seen.home);
        if seen.sent_ns.is_empty() {
            return;
        }
        let (now, room) = (now_ns(), LATENCIES - self.latencies_us.len());
        let late = seen.sent_ns.iter().take(room).map(|sent| (now.saturating_sub(*sent) / 1000) as u32);
        self.latencies_us.extend(late);
    }

    /// Messages.
    pub fn messages(&self) -> u64 {
        self.so_far.messages
    }

    /// UDP packets that were sent on an order.
    pub fn sent(&mut self, packets: u64) {
        self.so_far.packets += packets;
    }

    /// Notes what went wrong; the first counts.
    pub fn fail(&mut self, error: String) {
        self.so_far.error.get_or_insert(error);
    }

    /// Whether something went wrong that nobody was told of.
    pub fn is_failed(&self) -> bool {
        self.so_far.error.is_some()
    }

    /// The counts so far; what went wrong is told once.
    pub fn answer(&mut self) -> Answer {
        self.latencies_us.sort_unstable();
        let part = |of: usize| {
            let at = self.latencies_us.len() * of / 100;
            self.latencies_us.get(at).map_or(0.0, |late| f64::from(*late) / 1000.0)
        };
        let (p50_ms, p99_ms) = (part(50), part(99));
        let error = self.so_far.error.take();
        Answer { p50_ms, p99_ms, error, ..self.so_far.clone() }
    }
}
