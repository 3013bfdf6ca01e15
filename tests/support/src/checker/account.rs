//! The checker's own account: what was published, what each client was entitled to, what it got.
//!
//! Pure: no I/O, no clock. Everything the checker says about a node is computed here.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::report::Report;
use crate::offset::Offset;

/// A client of the checker, by number.
pub type ClientId = usize;

/// A message as a client received it.
#[derive(Debug, Clone)]
pub struct Delivery<'a> {
    /// Where it stands.
    pub offset: Offset,
    /// 1 the first time.
    pub attempt: u64,
    /// The payload.
    pub data: &'a str,
}

/// What is known of all publications and all deliveries of a run.
#[derive(Debug, Default)]
pub struct Account {
    published: HashMap<String, BTreeMap<Offset, String>>,
    ambiguous: HashSet<String>,
    ambiguous_found: u64,
    tracks: HashMap<(ClientId, String), Track>,
    /// Connections lost, dropped or refused, of any client.
    pub reconnects: u64,
    /// Publications that were answered with an error, or with nothing.
    pub publish_errors: u64,
    /// `error` frames that clients got.
    pub errors_told: u64,
    breaches: Vec<String>,
}

/// One client's view of one channel.
#[derive(Debug, Default)]
struct Track {
    entitled: Vec<Entitlement>,
    seen: HashMap<Offset, u32>,
    /// What came, in order, is not kept; how it deviated from the promise is.
    highest_first: Option<Offset>,
    out_of_order: Vec<(Offset, Offset)>,
    on_this_connection: HashSet<Offset>,
    duplicates: u64,
    unexplained_duplicates: u64,
    late_redeliveries: u64,
    payloads: HashMap<Offset, String>,
    gaps: Vec<Gap>,
    open_epoch_gap: Option<EpochGap>,
}

/// The last of the gaps, until the next message tells where the new life goes on.
#[derive(Debug, Clone, Copy)]
struct EpochGap {
    place: usize,
    /// What was published before it was told may have ended with the old life.
    told_at: Offset,
}

/// Offsets after `after`, up to and with `until`, belong to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entitlement {
    after: Offset,
    until: Option<Offset>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Gap {
    after: Offset,
    until: Offset,
}

impl Account {
    /// A publisher was told that `data` stands at `offset`.
    pub fn published(&mut self, channel: &str, offset: Offset, data: &str) {
        self.published.entry(channel.to_owned()).or_default().insert(offset, data.to_owned());
    }

    /// A publisher does not know whether `data` was written: the log will tell.
    pub fn ambiguous(&mut self, data: &str) {
        self.publish_errors += 1;
        self.ambiguous.insert(data.to_owned());
    }

    /// The log at the end of the run: settles what was ambiguous.
    pub fn reconcile(&mut self, channel: &str, log: impl IntoIterator<Item = (Offset, String)>) {
        for (offset, data) in log {
            if self.ambiguous.remove(&data) {
                self.ambiguous_found += 1;
                self.published(channel, offset, &data);
            }
        }
    }

    /// A subscription begins after `offset`. A subscription that goes on (`continues`) keeps what the
    /// client was entitled to before, so a server that starts it later than that loses something;
    /// where it says `recovered: false`, it has told so.
    pub fn subscribed(
        &mut self,
        client: ClientId,
        channel: &str,
        offset: Offset,
        continues: bool,
        recovered: Option<bool>,
    ) {
        let track = self.track(client, channel);
        if !continues || track.entitled.is_empty() {
            track.end_entitlement();
            track.entitled.push(Entitlement { after: offset, until: None });
        } else if recovered == Some(false)
            && let Some(after) = track.contiguous_end()
            && offset > after
        {
            track.gaps.push(Gap { after, until: offset });
        }
    }

    /// A message came.
    pub fn received(&mut self, client: ClientId, channel: &str, delivery: &Delivery<'_>) {
        self.track(client, channel).received(delivery);
    }

    /// A gap was told. One with reason `epoch` also covers what comes before the next message, or, while
    /// there is none, what was published until now, in Unix milliseconds: entries of a life that ended have
    /// offsets nobody can name any more.
    pub fn gap(
        &mut self,
        client: ClientId,
        channel: &str,
        after: Offset,
        until: Offset,
        reason: &str,
        now_ms: u64,
    ) {
        let track = self.track(client, channel);
        track.gaps.push(Gap { after, until });
        if reason == "epoch" {
            let told_at = Offset { ms: now_ms, seq: u64::MAX };
            track.open_epoch_gap = Some(EpochGap { place: track.gaps.len() - 1, told_at });
        }
    }

    /// The connection is gone: duplicates are allowed now.
    pub fn disconnected(&mut self, client: ClientId) {
        self.reconnects += 1;
        for (_, track) in self.tracks.iter_mut().filter(|((owner, _), _)| *owner == client) {
            track.on_this_connection.clear();
        }
    }

    /// The client forgets where it stood: what it has not received yet is no longer owed.
    pub fn abandoned(&mut self, client: ClientId) {
        for (_, track) in self.tracks.iter_mut().filter(|((owner, _), _)| *owner == client) {
            track.end_entitlement();
        }
    }

    /// The node broke the protocol in another way.
    pub fn breach(&mut self, client: ClientId, what: &str) {
        self.breaches.push(format!("client {client}: {what}"));
    }

    /// An ingress entry never came to its channel.
    pub fn unwritten(&mut self, channel: &str, ingress: Offset) {
        self.breaches.push(format!("channel {channel}: the ingress entry {ingress} never came"));
    }

    /// How many publications are known.
    pub fn published_count(&self) -> u64 {
        self.published.values().map(|log| log.len() as u64).sum()
    }

    /// How many messages were received, repetitions left out.
    pub fn received_count(&self) -> u64 {
        self.tracks.values().map(|track| track.seen.len() as u64).sum()
    }

    /// How many subscriptions to channels that start like this have begun.
    pub fn subscriptions(&self, prefix: &str) -> usize {
        let of_prefix = self.tracks.iter().filter(|((_, channel), _)| channel.starts_with(prefix));
        of_prefix.filter(|(_, track)| !track.entitled.is_empty()).count()
    }

    /// How many deliveries are still owed.
    pub fn missing(&self) -> u64 {
        self.tracks
            .iter()
            .filter_map(|((_, channel), track)| Some((self.published.get(channel)?, track)))
            .map(|(log, track)| track.missing(log).count() as u64)
            .sum()
    }

    /// What the account says now.
    pub fn report(&self) -> Report {
        let mut report = Report {
            published: self.published_count(),
            ambiguous_found: self.ambiguous_found,
            publish_errors: self.publish_errors,
            reconnects: self.reconnects,
            errors_told: self.errors_told,
            breaches: self.breaches.len() as u64,
            ..Report::default()
        };
        for breach in &self.breaches {
            report.violations.add(|| breach.clone());
        }
        let empty = BTreeMap::new();
        for ((client, channel), track) in &self.tracks {
            let log = self.published.get(channel).unwrap_or(&empty);
            track.add_to(&mut report, *client, channel, log);
        }
        report
    }

    fn track(&mut self, client: ClientId, channel: &str) -> &mut Track {
        self.tracks.entry((client, channel.to_owned())).or_default()
    }
}

impl Track {
    fn received(&mut self, delivery: &Delivery<'_>) {
        let offset = delivery.offset;
        let times = self.seen.entry(offset).or_default();
        *times += 1;
        let is_new = *times == 1;
        let is_new_here = self.on_this_connection.insert(offset);
        if let Some(gap) = self.open_epoch_gap.take_if(|_| is_new) {
            let gap = &mut self.gaps[gap.place];
            gap.until = gap.until.max(Offset { ms: offset.ms, seq: offset.seq.saturating_sub(1) });
        }
        if is_new {
            self.payloads.insert(offset, delivery.data.to_owned());
            match self.highest_first {
                // A repetition of what the client never saw may come late: the first delivery was in
                // order, but the connection died with it.
                Some(highest) if offset < highest && delivery.attempt > 1 => self.late_redeliveries += 1,
                Some(highest) if offset < highest => self.out_of_order.push((highest, offset)),
                _ => self.highest_first = Some(offset),
            }
        } else {
            self.duplicates += 1;
            if !is_new_here && delivery.attempt == 1 {
                self.unexplained_duplicates += 1;
            }
        }
    }

    fn end_entitlement(&mut self) {
        let reached = self.highest_first;
        if let Some(open) = self.entitled.last_mut().filter(|open| open.until.is_none()) {
            open.until = Some(reached.unwrap_or(open.after).max(open.after));
        }
    }

    /// The last offset after which something may be missing: where an unrecovered subscription leaves off.
    fn contiguous_end(&self) -> Option<Offset> {
        let start = self.entitled.last()?.after;
        Some(self.highest_first.map_or(start, |highest| highest.max(start)))
    }

    fn missing<'a>(&'a self, log: &'a BTreeMap<Offset, String>) -> impl Iterator<Item = Offset> + 'a {
        let open = self.open_epoch_gap.map(|gap| Gap { until: gap.told_at, ..self.gaps[gap.place] });
        log.keys().copied().filter(move |offset| {
            self.entitled.iter().any(|range| range.holds(*offset))
                && !self.seen.contains_key(offset)
                && !self.gaps.iter().chain(&open).any(|gap| gap.after < *offset && *offset <= gap.until)
        })
    }

    fn add_to(&self, report: &mut Report, client: ClientId, channel: &str, log: &BTreeMap<Offset, String>) {
        report.received += self.seen.len() as u64;
        report.deliveries += self.seen.values().map(|times| u64::from(*times)).sum::<u64>();
        report.duplicates += self.duplicates;
        report.unexplained_duplicates += self.unexplained_duplicates;
        report.late_redeliveries += self.late_redeliveries;
        report.gaps_told += self.gaps.len() as u64;
        report.expected +=
            log.keys().filter(|offset| self.entitled.iter().any(|range| range.holds(**offset))).count()
                as u64;
        report.out_of_order += self.out_of_order.len() as u64;
        let who = format!("client {client}, channel {channel}");
        for (before, offset) in &self.out_of_order {
            report.violations.add(|| format!("{who}: {offset} was first delivered after {before}"));
        }
        for offset in self.missing(log) {
            report.lost += 1;
            report
                .violations
                .add(|| format!("{who}: {offset} ({}) was lost; {}", log[&offset], self.story()));
        }
        for (offset, got) in &self.payloads {
            // Offsets nobody of ours published are someone else's, or ambiguous ones trimmed before
            // they could be settled.
            let Some(sent) = log.get(offset) else { continue };
            if sent != got {
                report.corrupt += 1;
                report.violations.add(|| format!("{who}: {offset} was {sent:?} and came as {got:?}"));
            }
        }
    }

    fn story(&self) -> String {
        format!(
            "entitled to {:?}, received {} up to {:?}, told gaps {:?}",
            self.entitled,
            self.seen.len(),
            self.highest_first,
            self.gaps
        )
    }
}

impl Entitlement {
    fn holds(self, offset: Offset) -> bool {
        self.after < offset && self.until.is_none_or(|until| offset <= until)
    }
}

#[cfg(test)]
#[path = "account_tests.rs"]
mod tests;
