//! The sections of the document that are not about tenants: names, defaults, ranges.

use std::net::{Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;

use crate::domain::{Limits, NodeId};

use super::reader::Section;
use super::{
    AcceptConfig, AdminConfig, BackboneConfig, ClusterConfig, LogFormat, MemoryConfig, Network, NodeConfig,
    RetentionConfig, TelemetryConfig, TlsConfig, Wake,
};

const ADDRESS: &str = "an IP address and a port, such as \"127.0.0.1:8080\" or \"[::1]:8080\"";

/// Bytes that a secret has at least where guessing it is an attack from outside.
const SECRET_BYTES: usize = 16;

/// `[node]`.
pub(super) fn node(mut section: Section<'_>, has_admin_token: bool, tls: &TlsConfig) -> Option<NodeConfig> {
    let has_id = section.has("id");
    let id = section.parsed("id").or_else(|| (!has_id).then(default_node_id));
    let listen = section.parsed_as("listen", SocketAddr::from(([127, 0, 0, 1], 8080)), ADDRESS);
    let admin_listen = section.parsed_as("admin_listen", SocketAddr::from(([127, 0, 0, 1], 8081)), ADDRESS);
    if listen == admin_listen && listen.port() != 0 {
        section.wrong(
            "admin_listen",
            format!("is {listen}, as listen is; clients and operators need a port each"),
        );
    }
    if !admin_listen.ip().is_loopback() && !has_admin_token {
        section.wrong(
            "admin_listen",
            format!(
                "is {admin_listen}, which others can reach: set admin.token (or TIDEGATE_ADMIN_TOKEN) too"
            ),
        );
    }
    let quic_listen = quic_listen(&mut section, tls);
    let public_url = section.parsed("public_url");
    let shards = section.number("shards", cores().get(), 1..=1_024);
    let max_connections = section.optional_number("max_connections", 1..=10_000_000);
    let max_handshakes = section.optional_number("max_handshakes", 1..=10_000_000);
    let max_detached_sessions = section.number("max_detached_sessions", 100_000, 0..=10_000_000);
    let header_timeout = millis(&mut section, "header_timeout_ms", 5_000, 100..=60_000);
    let accept = accept(&mut section);
    let drain_timeout = millis(&mut section, "drain_timeout_ms", 30_000, 0..=3_600_000);
    Some(NodeConfig {
        id: id?,
        listen,
        admin_listen,
        quic_listen,
        public_url,
        shards: NonZeroUsize::new(shards).unwrap_or(NonZeroUsize::MIN),
        max_connections: max_connections.and_then(NonZeroUsize::new),
        max_handshakes: max_handshakes.and_then(NonZeroUsize::new),
        max_detached_sessions,
        header_timeout,
        accept,
        drain_timeout,
    })
}

fn quic_listen(section: &mut Section<'_>, tls: &TlsConfig) -> Option<SocketAddr> {
    const NONE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);
    let given = section.has("quic_listen");
    let address = section.parsed_as("quic_listen", NONE, ADDRESS);
    // With --demo a certificate comes later.
    if given && matches!(tls, TlsConfig::Files { quic: false, .. }) {
        section.wrong("quic_listen", "is set, and tls.quic is false: keep one of them");
    }
    given.then_some(address)
}

/// `[tls]`.
pub(super) fn tls(mut section: Section<'_>) -> TlsConfig {
    let (certificate, key) = (section.path("certificate"), section.path("key"));
    let (tcp, quic) = (section.flag("tcp", true), section.flag("quic", true));
    let development = section.flag("development", false);
    match (certificate, key) {
        (Some(_), Some(_)) if development => {
            section.wrong("development", "is true, and a certificate is given: keep one of them");
            TlsConfig::Off
        }
        (Some(certificate), Some(key)) => {
            if !tcp && !quic {
                section.wrong("quic", "is false, and so is tcp: then the certificate is for nothing");
            }
            TlsConfig::Files { certificate, key, tcp, quic }
        }
        (Some(_), None) => {
            section.wrong("key", "is missing: give the file with the certificate's private key");
            TlsConfig::Off
        }
        (None, Some(_)) => {
            section.wrong("certificate", "is missing: give the file with the key's certificate");
            TlsConfig::Off
        }
        (None, None) if development => TlsConfig::Development,
        (None, None) => TlsConfig::Off,
    }
}

fn accept(section: &mut Section<'_>) -> AcceptConfig {
    let exempt = if section.has("accept_exempt") {
        section.list("accept_exempt")
    } else {
        vec![Network::new([127, 0, 0, 0].into(), 8), Network::new(Ipv6Addr::LOCALHOST.into(), 128)]
    };
    AcceptConfig {
        per_s: section.number("accept_per_s", 2_000, 0..=1_000_000),
        per_s_per_address: section.number("accept_per_s_per_address", 50, 0..=1_000_000),
        exempt,
    }
}

fn cores() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// The host's name and something random: two nodes of one host have different names, and so have two
/// containers that were given the same host name.
fn default_node_id() -> NodeId {
    let host = std::env::var("HOSTNAME")
        .or_else(|_| std::fs::read_to_string("/proc/sys/kernel/hostname"))
        .unwrap_or_default()
        .to_ascii_lowercase();
    let plain = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' { c } else { '-' };
    let host: String = host.trim().chars().map(plain).take(48).collect();
    let host = host.trim_matches(['-', '.']);
    let host = if host.is_empty() { "node" } else { host };
    let random: u32 = rand::random();
    NodeId::parse(&format!("{host}-{random:08x}")).expect("a cleaned host name and hex digits make a node id")
}

/// `[backbone.embedded]` or `[backbone.redis]`, embedded without either.
pub(super) fn backbone(mut section: Section<'_>) -> Option<BackboneConfig> {
    let is_redis = section.has("redis");
    if is_redis && section.has("embedded") {
        section.wrong_here("embedded and redis are both set (TIDEGATE_REDIS_URL counts); keep one of them");
    }
    let embedded = embedded(section.section("embedded"));
    let redis_section = section.section("redis");
    if is_redis { redis(redis_section) } else { Some(embedded) }
}

fn embedded(mut section: Section<'_>) -> BackboneConfig {
    let resp_listen = section.parsed_as("resp_listen", SocketAddr::from(([127, 0, 0, 1], 6380)), ADDRESS);
    let has_password = section.has("resp_password") || section.has("resp_password_env");
    let resp_password = section.secret("resp_password");
    if !resp_listen.ip().is_loopback() && !has_password {
        section.wrong(
            "resp_listen",
            format!("is {resp_listen}, which others can reach: set backbone.embedded.resp_password too"),
        );
    }
    BackboneConfig::Embedded { resp_listen, resp_password }
}

fn redis(mut section: Section<'_>) -> Option<BackboneConfig> {
    let has_url = section.has("url") || section.has("url_env");
    let url = section.secret("url");
    if !has_url {
        section.wrong("url", "is missing: \"redis://host:6379\", or set TIDEGATE_REDIS_URL");
    }
    if url.as_ref().is_some_and(|url| !is_redis_url(url.expose())) {
        // The URL itself is not shown: it may contain a password.
        section.wrong("url", "must start with redis://, rediss:// (TLS) or unix://, and name a server");
    }
    let wake = section.choice("wake", &[("auto", Wake::Auto), ("poll", Wake::Poll)]).unwrap_or(Wake::Auto);
    let poll = millis(&mut section, "poll_ms", 100, 5..=60_000);
    Some(BackboneConfig::Redis { url: url?, wake, poll })
}

/// Whether a URL looks like one of Redis; the backbone reads it closely when it connects.
fn is_redis_url(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else { return false };
    let product = scheme.split_once('+').map_or(scheme, |(product, _)| product);
    matches!(product, "redis" | "rediss" | "valkey" | "valkeys" | "unix") && !rest.is_empty()
}

/// `[cluster]`.
pub(super) fn cluster(mut section: Section<'_>) -> ClusterConfig {
    let queue_lease = millis(&mut section, "queue_lease_ms", 30_000, 1_000..=600_000);
    ClusterConfig { secret: section.long_secret("secret", 32), queue_lease }
}

/// `[memory]`.
pub(super) fn memory(mut section: Section<'_>) -> MemoryConfig {
    const MIB: usize = 1024 * 1024;
    MemoryConfig {
        ring_bytes: section.number("ring_bytes", 64 * MIB, MIB..=64 * 1024 * MIB),
        page_cache_bytes: section.number("page_cache_bytes", 16 * MIB, MIB..=64 * 1024 * MIB),
    }
}

/// `[retention]`.
pub(super) fn retention(mut section: Section<'_>) -> RetentionConfig {
    RetentionConfig {
        pass: millis(&mut section, "pass_ms", 60_000, 1_000..=86_400_000),
        keys_per_s: section.number("keys_per_s", 2_500, 100..=100_000),
    }
}

/// `[admin]`.
pub(super) fn admin(mut section: Section<'_>) -> AdminConfig {
    AdminConfig { token: section.long_secret("token", SECRET_BYTES) }
}

/// `[telemetry]`.
pub(super) fn telemetry(mut section: Section<'_>) -> TelemetryConfig {
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let log_level = section.text("log_level").unwrap_or_else(|| "info".into());
    if !is_log_filter(&log_level) {
        let what =
            "must be off, error, warn, info, debug or trace, or a filter such as \"info,tidegate=debug\"";
        section.wrong("log_level", format!("{what}; is {log_level:?}"));
    }
    TelemetryConfig {
        log_format: section.choice("log_format", &formats).unwrap_or(LogFormat::Text),
        log_level,
        otlp_endpoint: section.parsed("otlp_endpoint"),
        trace_sample_ratio: section.ratio("trace_sample_ratio", 0.01),
    }
}

/// Whether a text is a level or a filter of directives. A filter takes any single word for the name of a
/// module, so that a misspelt level would be silence.
fn is_log_filter(text: &str) -> bool {
    if text.contains(['=', ',', '[']) {
        tracing_subscriber::EnvFilter::builder().parse(text).is_ok()
    } else {
        text.parse::<tracing_subscriber::filter::LevelFilter>().is_ok()
    }
}

/// `[limits]` and `[tenants.<id>.limits]`: what is not set is as in `base`. The upper ends are the hard
/// ceilings; `docs/tidegate.toml` says what each limit costs.
pub(super) fn limits(mut section: Section<'_>, base: &Limits) -> Limits {
    const KIB: usize = 1024;
    const HOUR_MS: u64 = 3_600_000;
    let limits = Limits {
        frame_bytes: section.number("frame_bytes", base.frame_bytes, KIB..=1024 * KIB),
        payload_bytes: section.number("payload_bytes", base.payload_bytes, 1..=1024 * KIB),
        outbox_bytes: section.number("outbox_bytes", base.outbox_bytes, 4 * KIB..=64 * 1024 * KIB),
        channels_per_session: section.number("channels_per_session", base.channels_per_session, 1..=10_000),
        sessions_per_user: section.number("sessions_per_user", base.sessions_per_user, 1..=100_000),
        window: section.number("window", base.window, 1..=4_096),
        requests_per_session: section.number("requests_per_session", base.requests_per_session, 1..=4_096),
        ack_timeout_ms: section.number("ack_timeout_ms", base.ack_timeout_ms, 100..=HOUR_MS),
        attempts: section.number("attempts", base.attempts, 1..=100),
        resume_window_ms: section.number("resume_window_ms", base.resume_window_ms, 0..=HOUR_MS),
        connect_timeout_ms: section.number("connect_timeout_ms", base.connect_timeout_ms, 100..=60_000),
        auth_timeout_ms: section.number("auth_timeout_ms", base.auth_timeout_ms, 100..=60_000),
        ping_ms: section.number("ping_ms", base.ping_ms, 1_000..=HOUR_MS),
        ping_min_ms: section.number("ping_min_ms", base.ping_min_ms, 1_000..=HOUR_MS),
        ping_max_ms: section.number("ping_max_ms", base.ping_max_ms, 1_000..=HOUR_MS),
        publish_per_s: section.number("publish_per_s", base.publish_per_s, 1..=1_000_000),
        publish_in_flight: section.number("publish_in_flight", base.publish_in_flight, 1..=10_000),
        publish_body_bytes: section.number(
            "publish_body_bytes",
            base.publish_body_bytes,
            KIB..=64 * 1024 * KIB,
        ),
        publish_targets: section.number("publish_targets", base.publish_targets, 1..=1_000_000),
        send_per_s: section.number("send_per_s", base.send_per_s, 1..=1_000_000),
        sends: section.number("sends", base.sends, 1..=1_000),
    };
    let Limits { ping_ms, ping_min_ms, ping_max_ms, .. } = limits;
    if !(ping_min_ms..=ping_max_ms).contains(&ping_ms) {
        section.wrong(
            "ping_ms",
            format!("is {ping_ms}, which is not between ping_min_ms, {ping_min_ms}, and ping_max_ms, {ping_max_ms}"),
        );
    }
    limits
}

/// A duration that the document gives in milliseconds.
fn millis(
    section: &mut Section<'_>,
    key: &str,
    default: u64,
    range: std::ops::RangeInclusive<u64>,
) -> Duration {
    Duration::from_millis(section.number(key, default, range))
}
