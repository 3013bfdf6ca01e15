//! What a run says about the node.

use std::fmt;

/// Counts of a run and the first broken promises.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Report {
    /// Messages known to stand in a log.
    pub published: u64,
    /// Of these: answered with an error or nothing, and found in the log afterwards.
    pub ambiguous_found: u64,
    /// Publications answered with an error or nothing.
    pub publish_errors: u64,
    /// Deliveries owed: each message once to each client entitled to it.
    pub expected: u64,
    /// Messages received at least once, counted per client.
    pub received: u64,
    /// Deliveries, repetitions included.
    pub deliveries: u64,
    /// Repetitions.
    pub duplicates: u64,
    /// Repetitions on one connection that do not say that they are one (`attempt` 1).
    pub unexplained_duplicates: u64,
    /// Messages whose first delivery was never read, repeated after later ones.
    pub late_redeliveries: u64,
    /// First deliveries below an earlier one.
    pub out_of_order: u64,
    /// Neither received nor covered by a gap told.
    pub lost: u64,
    /// Received with another payload than published.
    pub corrupt: u64,
    /// The protocol broken otherwise: undecodable frames, messages before `subscribed`, clients told never
    /// to come back.
    pub breaches: u64,
    /// `error` frames that clients got.
    pub errors_told: u64,
    /// Gaps told.
    pub gaps_told: u64,
    /// Connections lost, dropped or refused: each client comes back.
    pub reconnects: u64,
    /// The first broken promises, for people.
    pub violations: Violations,
}

impl Report {
    /// Whether the node kept its promises. A run in which nothing was published, or nothing owed, has
    /// shown nothing and does not count as kept.
    pub fn kept_promises(&self) -> bool {
        let broken = self.lost + self.out_of_order + self.corrupt + self.breaches;
        broken == 0 && self.published > 0 && self.expected > 0
    }

    /// Fails with the counts and the first violations if a promise was broken.
    ///
    /// # Panics
    /// If a message was lost in silence, out of order or changed, or if the run has shown nothing.
    pub fn assert_promises(&self) {
        assert!(self.kept_promises(), "promises were broken\n{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: [(&str, u64); 16] = [
            ("published", self.published),
            ("  found in the log after an error", self.ambiguous_found),
            ("publish errors", self.publish_errors),
            ("deliveries owed", self.expected),
            ("received at least once", self.received),
            ("deliveries", self.deliveries),
            ("duplicates", self.duplicates),
            ("  not marked as such", self.unexplained_duplicates),
            ("late redeliveries", self.late_redeliveries),
            ("gaps told", self.gaps_told),
            ("reconnects", self.reconnects),
            ("errors told", self.errors_told),
            ("out of order", self.out_of_order),
            ("corrupt", self.corrupt),
            ("protocol broken", self.breaches),
            ("lost", self.lost),
        ];
        for (name, count) in rows {
            writeln!(f, "{name:<36}{count:>10}")?;
        }
        if self.published == 0 || self.expected == 0 {
            writeln!(f, "nothing was published to anybody: this run shows nothing")?;
        }
        for line in &self.violations.first {
            writeln!(f, "  {line}")?;
        }
        if self.violations.more > 0 {
            writeln!(f, "  … and {} more", self.violations.more)?;
        }
        Ok(())
    }
}

/// The first few violations in full; the rest only counted, so that a broken run stays readable.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Violations {
    /// In full.
    pub first: Vec<String>,
    /// How many more there were.
    pub more: u64,
}

impl Violations {
    const SHOWN: usize = 20;

    /// Adds one; `describe` runs only while there is room.
    pub fn add(&mut self, describe: impl FnOnce() -> String) {
        if self.first.len() < Self::SHOWN {
            self.first.push(describe());
        } else {
            self.more += 1;
        }
    }
}
