//! Named events: one function is one kind of thing that happens, with its log line and its metric.
//!
//! Sessions, channels and addresses may stand in a log line, never in a label. What happens once a
//! message or once a batch is not here: such code bumps [`TenantMetrics`] itself.

use std::fmt::Display;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::labels::{
    BackboneFault, CursorWriteOutcome, DeadLetterOutcome, Gap, Label, PublishOutcome, Refusal, Resume, Skip,
    Transport, Via,
};
use super::metrics::{NodeMetrics, TenantMetrics};
use crate::domain::{ChannelName, CloseReason, NodeId, Offset, SessionId, TenantId};

/// Machine code of a plugin that this node did not make, or that was changed since, is made anew.
pub fn plugin_code_foreign(file: &Path) {
    tracing::warn!(file = %file.display(), "machine code that is not this node's is made anew");
}

/// Machine code of a plugin cannot be kept: the next start compiles it again.
pub fn plugin_code_not_kept(file: &Path, error: &dyn Display) {
    tracing::warn!(file = %file.display(), %error, "machine code of a plugin cannot be kept");
}

/// What this machine trusts cannot be read, or not all of it: servers that plugins ask may be refused.
pub fn plugin_tls_roots(error: &dyn Display) {
    tracing::warn!(%error, "trusted certificates cannot be read; plugins reach fewer servers by https");
}

/// A node that starts waits for plugins to be ready, so many of so many.
pub fn plugins_awaited(ready: usize, all: usize) {
    tracing::info!(ready, all, "plugins are prepared before the node takes traffic");
}

/// A version of a plugin is ready on this node.
pub fn plugin_ready(tenant: &TenantId, plugin: &str, version: &dyn Display, took: Duration) {
    tracing::info!(%tenant, plugin, %version, took_ms = millis(took), "a plugin is ready");
}

/// A version of a plugin cannot be had ready on this node.
pub fn plugin_not_ready(tenant: &TenantId, plugin: &str, version: &dyn Display, why: &str) {
    tracing::error!(%tenant, plugin, %version, why, "a plugin cannot be prepared");
}

/// A plugin is switched off or rolled back because it failed too often.
pub fn plugin_given_up(tenant: &TenantId, plugin: &str, version: &dyn Display) {
    tracing::warn!(%tenant, plugin, %version, "a plugin failed too often and is rolled back");
}

/// A plugin fails too often, and there is nothing to roll it back to, or no way to.
pub fn plugin_stays_cut_off(tenant: &TenantId, plugin: &str, version: &dyn Display, why: &str) {
    tracing::warn!(%tenant, plugin, %version, why, "a plugin fails too often and stays cut off");
}

/// What plugins a tenant has cannot be read: each of its hooks fails on this node.
pub fn plugins_not_understood(tenant: &TenantId, error: &dyn Display) {
    tracing::error!(%tenant, %error, "the plugins of a tenant cannot be used");
}

/// The backbone does not say which plugins are on. What comes meanwhile waits.
pub fn plugins_unknown(error: &dyn Display) {
    tracing::warn!(%error, "it is not known which plugins are on; messages wait");
}

/// The certificate that the node starts with is shown until this time, whatever clients say of it then.
pub fn certificate_shown(expires: SystemTime) {
    const SOON_DAYS: u64 = 7;
    match expires.duration_since(SystemTime::now()) {
        Err(_) => {
            tracing::warn!("the certificate has expired: clients will refuse it; renew the files of [tls]")
        }
        Ok(left) if left.as_secs() < SOON_DAYS * 86_400 => {
            tracing::warn!(expires_in_hours = left.as_secs() / 3600, "the certificate expires soon");
        }
        Ok(_) => {}
    }
}

/// The certificate was exchanged for a newer one: from its files, or because it was half used up.
pub fn certificate_exchanged(expires: SystemTime) {
    let days = expires.duration_since(SystemTime::now()).map_or(0, |left| left.as_secs() / 86_400);
    tracing::info!(expires_in_days = days, "new connections are shown a new certificate");
}

/// The files hold no certificate that can be used, or the wrong key.
pub fn certificate_kept(error: &dyn Display) {
    tracing::warn!(%error, "the old certificate is kept, because the new one cannot be used");
}

/// The node takes traffic.
pub fn node_ready(node: &NodeId) {
    tracing::info!(%node, version = env!("CARGO_PKG_VERSION"), "ready");
}

/// The node begins to drain; it has so many sessions with a connection.
pub fn drain_started(node: &NodeId, sessions: usize, deadline: Duration) {
    tracing::info!(%node, sessions, deadline_ms = millis(deadline), "draining");
}

/// A session without a connection ended early, because the node keeps as many as it may.
pub fn session_forgotten(metrics: &NodeMetrics, session: SessionId) {
    metrics.sessions_forgotten.inc();
    tracing::debug!(%session, "a session without a connection ended: the node keeps as many as it may");
}

/// The drain is over; `forced` sessions were cut because the deadline came first.
pub fn drain_ended(node: &NodeId, forced: usize, took: Duration) {
    if forced == 0 {
        tracing::info!(%node, took_ms = millis(took), "drained");
    } else {
        tracing::warn!(%node, forced, took_ms = millis(took), "drained, some sessions were cut");
    }
}

/// A handshake was refused before there was a session.
pub fn handshake_refused(metrics: &NodeMetrics, reason: Refusal, address: IpAddr, why: &dyn Display) {
    metrics.handshakes_refused.of(reason).inc();
    tracing::debug!(reason = reason.word(), %address, %why, "handshake refused");
}

/// A connection is open: its handshake is done.
pub fn connection_opened(
    metrics: &TenantMetrics,
    tenant: &TenantId,
    transport: Transport,
    session: SessionId,
    resumed: Resume,
) {
    metrics.connections.of(transport).inc();
    metrics.connections_opened.inc();
    metrics.resumes.of(resumed).inc();
    let (transport, resumed) = (transport.word(), resumed.word());
    tracing::debug!(%tenant, transport, %session, resumed, "connection opened");
}

/// A connection that was [opened](connection_opened) has ended.
pub fn connection_closed(
    metrics: &TenantMetrics,
    tenant: &TenantId,
    transport: Transport,
    session: SessionId,
    reason: CloseReason,
    lived: Duration,
) {
    metrics.connections.of(transport).dec();
    metrics.connections_closed.of(reason).inc();
    let (transport, reason, code) = (transport.word(), reason.label(), reason.code());
    tracing::debug!(%tenant, transport, %session, reason, code, lived_ms = millis(lived), "connection closed");
}

/// A subscriber was told of a gap.
pub fn gap(metrics: &TenantMetrics, tenant: &TenantId, channel: &ChannelName, after: Offset, reason: Gap) {
    metrics.gaps.of(reason).inc();
    tracing::debug!(%tenant, %channel, %after, reason = reason.word(), "gap");
}

/// A message was given up for one device.
pub fn dead_letter(
    metrics: &TenantMetrics,
    tenant: &TenantId,
    channel: &dyn Display,
    offset: Offset,
    outcome: DeadLetterOutcome,
) {
    metrics.dead_letters.of(outcome).inc();
    let word = outcome.word();
    match outcome {
        DeadLetterOutcome::Stored | DeadLetterOutcome::Stale => {
            tracing::debug!(%tenant, %channel, %offset, outcome = word, "dead letter");
        }
        DeadLetterOutcome::Dropped | DeadLetterOutcome::Failed => {
            tracing::warn!(%tenant, %channel, %offset, outcome = word, "dead letter not kept");
        }
    }
}

/// An entry of a log is no message, so subscribers never see it.
pub fn entry_skipped(
    metrics: &TenantMetrics,
    tenant: &TenantId,
    channel: &ChannelName,
    offset: Offset,
    reason: Skip,
    why: &dyn Display,
) {
    metrics.entries_skipped.of(reason).inc();
    tracing::debug!(%tenant, %channel, %offset, reason = reason.word(), %why, "entry skipped");
}

/// A publication to one channel came to its end.
pub fn published(
    metrics: &TenantMetrics,
    tenant: &TenantId,
    channel: &dyn Display,
    via: Via,
    outcome: PublishOutcome,
) {
    metrics.publishes.of(via).of(outcome).inc();
    let (via, word) = (via.word(), outcome.word());
    if outcome == PublishOutcome::Accepted {
        tracing::trace!(%tenant, %channel, via, "published");
    } else {
        tracing::debug!(%tenant, %channel, via, outcome = word, "publication not accepted");
    }
}

/// A request to publish was refused as a whole; `targets` is how many it had, 1 where nobody looked.
pub fn publish_refused(
    metrics: &TenantMetrics,
    tenant: &TenantId,
    outcome: PublishOutcome,
    targets: u64,
    why: &dyn Display,
) {
    metrics.publishes.of(Via::Http).of(outcome).inc_by(targets);
    tracing::debug!(%tenant, outcome = outcome.word(), targets, %why, "publish request refused");
}

/// A wide send began.
pub fn send_started(metrics: &TenantMetrics, tenant: &TenantId, send: &str, targets: usize, pace_per_s: u32) {
    metrics.sends_running.inc();
    tracing::debug!(%tenant, send, targets, pace_per_s, "send started");
}

/// A wide send that [started](send_started) has come to its end; `left` targets were not tried, because
/// it was cancelled or because the node went away.
pub fn send_ended(
    metrics: &TenantMetrics,
    tenant: &TenantId,
    send: &str,
    state: &'static str,
    added: usize,
    failed: usize,
    left: usize,
) {
    metrics.sends_running.dec();
    if left == 0 || state == "cancelled" {
        tracing::debug!(%tenant, send, state, added, failed, left, "send ended");
    } else {
        tracing::warn!(%tenant, send, state, added, failed, left, "send cut, some targets were not tried");
    }
}

/// This node reads a tenant's ingress from now on.
pub fn ingress_won(tenant: &TenantId) {
    tracing::info!(%tenant, "this node reads the ingress");
}

/// This node reads a tenant's ingress no longer.
pub fn ingress_lost(tenant: &TenantId, why: &'static str) {
    tracing::info!(%tenant, why, "this node reads the ingress no longer");
}

/// An event for a tenant's backends is lost; `first` since one was written.
pub fn session_event_dropped(metrics: &TenantMetrics, tenant: &TenantId, first: bool) {
    metrics.session_events_dropped.inc();
    if first {
        tracing::warn!(%tenant, "session events are dropped: the backbone does not take them in time");
    }
}

/// A batch of cursor writes came to its end.
pub fn cursors_written(metrics: &NodeMetrics, outcome: CursorWriteOutcome, count: u64) {
    metrics.cursor_writes.of(outcome).inc_by(count);
    if outcome == CursorWriteOutcome::Failed {
        tracing::debug!(count, "cursors not stored");
    }
}

/// A shard's inbox was full: the channel stays dirty for it.
pub fn shard_inbox_full(metrics: &NodeMetrics, shard: usize) {
    metrics.shard_inbox_full.inc();
    tracing::debug!(shard, "a shard's inbox is full");
}

/// The backbone answers for the first time, or again.
pub fn backbone_connected(metrics: &NodeMetrics, backbone: &dyn Display, again: bool) {
    metrics.backbone_connected.set(1);
    if again {
        metrics.backbone_reconnects.inc();
    }
    tracing::info!(%backbone, again, "backbone connected");
}

/// The connection to the backbone is lost. Sockets stay open meanwhile.
pub fn backbone_lost(metrics: &NodeMetrics, backbone: &dyn Display, why: &dyn Display) {
    metrics.backbone_connected.set(0);
    metrics.backbone_errors.of(BackboneFault::Away).inc();
    tracing::warn!(%backbone, %why, "backbone lost");
}

/// What one pass of the janitor over all streams came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JanitorPass {
    /// Streams looked at.
    pub streams: u64,
    /// Streams among them that belong to no tenant or namespace known here, left as they are.
    pub foreign: u64,
    /// Times a stream was trimmed.
    pub trimmed: u64,
    /// Entries that went.
    pub entries: u64,
    /// Streams removed.
    pub removed: u64,
    /// Commands that the backbone did not carry out.
    pub failed: u64,
}

/// The janitor went through all streams.
pub fn janitor_passed(metrics: &NodeMetrics, pass: &JanitorPass, took: Duration) {
    let JanitorPass { streams, foreign, trimmed, entries, removed, failed } = *pass;
    metrics.janitor_streams.inc_by(streams);
    metrics.janitor_foreign_streams.set(i64::try_from(foreign).unwrap_or(i64::MAX));
    metrics.janitor_trims.inc_by(trimmed);
    metrics.janitor_trimmed_entries.inc_by(entries);
    metrics.janitor_removed_streams.inc_by(removed);
    metrics.janitor_pass_duration.observe(took);
    tracing::debug!(
        streams,
        foreign,
        trimmed,
        entries,
        removed,
        failed,
        took_ms = millis(took),
        "streams looked after"
    );
}

/// The backbone did not do what was asked.
pub fn backbone_error(metrics: &NodeMetrics, fault: BackboneFault, doing: &'static str, why: &dyn Display) {
    metrics.backbone_errors.of(fault).inc();
    let kind = fault.word();
    match fault {
        // A lost connection makes every call fail; `backbone_lost` has said so once.
        BackboneFault::Away => tracing::debug!(kind, doing, %why, "backbone error"),
        _ => tracing::warn!(kind, doing, %why, "backbone error"),
    }
}

/// Something of the backbone's settings endangers a promise.
pub fn backbone_setting(setting: &'static str, advice: &dyn Display) {
    tracing::warn!(setting, %advice, "a setting of the backbone endangers a promise");
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    #[test]
    fn opening_and_closing_leaves_the_gauge_where_it_was() {
        let metrics = TenantMetrics::default();
        let (tenant, session) = (TenantId::parse("acme").unwrap(), SessionId::random());
        connection_opened(&metrics, &tenant, Transport::Sse, session, Resume::Home);
        assert_eq!(metrics.connections.of(Transport::Sse).get(), 1);
        let lived = Duration::from_secs(1);
        connection_closed(&metrics, &tenant, Transport::Sse, session, CloseReason::Drain, lived);
        assert_eq!(metrics.connections.of(Transport::Sse).get(), 0);
        assert_eq!(metrics.connections_opened.get(), 1);
        assert_eq!(metrics.resumes.of(Resume::Home).get(), 1);
        assert_eq!(metrics.connections_closed.of(CloseReason::Drain).get(), 1);
    }

    #[test]
    fn a_message_s_end_is_counted_by_its_reason() {
        let metrics = TenantMetrics::default();
        let (tenant, channel) = (TenantId::parse("acme").unwrap(), ChannelName::parse("room:1").unwrap());
        gap(&metrics, &tenant, &channel, Offset::ZERO, Gap::Trimmed);
        dead_letter(&metrics, &tenant, &channel, Offset::ZERO, DeadLetterOutcome::Dropped);
        entry_skipped(&metrics, &tenant, &channel, Offset::ZERO, Skip::Expired, &"late");
        published(&metrics, &tenant, &channel, Via::Client, PublishOutcome::Refused);
        assert_eq!(metrics.gaps.of(Gap::Trimmed).get(), 1);
        assert_eq!(metrics.dead_letters.of(DeadLetterOutcome::Dropped).get(), 1);
        assert_eq!(metrics.entries_skipped.of(Skip::Expired).get(), 1);
        assert_eq!(metrics.publishes.of(Via::Client).of(PublishOutcome::Refused).get(), 1);
    }

    #[test]
    fn the_backbone_goes_and_comes_back() {
        let metrics = Metrics::default();
        let node = metrics.node();
        backbone_connected(node, &"redis", false);
        assert_eq!((node.backbone_connected.get(), node.backbone_reconnects.get()), (1, 0));
        backbone_lost(node, &"redis", &"reset");
        assert_eq!(node.backbone_connected.get(), 0);
        backbone_connected(node, &"redis", true);
        assert_eq!((node.backbone_connected.get(), node.backbone_reconnects.get()), (1, 1));
        backbone_error(node, BackboneFault::ReadOnly, "append", &"READONLY");
        assert_eq!(node.backbone_errors.of(BackboneFault::ReadOnly).get(), 1);
        cursors_written(node, CursorWriteOutcome::Stale, 4);
        assert_eq!(node.cursor_writes.of(CursorWriteOutcome::Stale).get(), 4);
        let pass = JanitorPass { streams: 9, foreign: 1, trimmed: 3, entries: 40, removed: 2, failed: 0 };
        janitor_passed(node, &pass, Duration::from_secs(1));
        assert_eq!((node.janitor_trimmed_entries.get(), node.janitor_foreign_streams.get()), (40, 1));
        shard_inbox_full(node, 0);
        let address = IpAddr::from([127, 0, 0, 1]);
        handshake_refused(node, Refusal::Origin, address, &"another page");
        assert_eq!((node.shard_inbox_full.get(), node.handshakes_refused.of(Refusal::Origin).get()), (1, 1));
    }
}
