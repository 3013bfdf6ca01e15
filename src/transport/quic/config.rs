//! The settings of QUIC. What a connection may cost is set here.

use std::sync::Arc;
use std::time::Duration;

use quinn::{ServerConfig, TransportConfig, VarInt};

use crate::transport::tls::Certificates;

/// Bidirectional streams that a client may have open: the CONNECT request, the one stream of the session,
/// and room for what is refused. Each costs memory ahead of its use, more than any other setting.
const BIDIRECTIONAL: u32 = 4;

/// Unidirectional streams that a client may have open: control and QPACK are three (RFC 9114 section 6.2),
/// reserved types may come beside them.
const UNIDIRECTIONAL: u32 = 8;

/// How long a connection lives without a packet from its client. Browsers say 30 s, and the less counts
/// (RFC 9000 section 10.1); heartbeats keep it alive.
const IDLE: Duration = Duration::from_secs(60);

/// Bytes of one stream that a client may send ahead of what was read: a frame of the largest size, with
/// its length.
const STREAM_WINDOW: u32 = 96 * 1024;

/// The same for all streams of a connection together.
const RECEIVE_WINDOW: u32 = 192 * 1024;

/// Bytes that are kept until the client has acknowledged them. What is beyond waits in the outbox, by
/// whose length slow clients are told. At a round trip of 50 ms it lets 2.6 MB/s through.
pub(in crate::transport) const SEND_WINDOW: usize = 128 * 1024;

/// Bytes of datagrams that wait to be sent; the oldest are dropped for newer ones.
const DATAGRAMS_OUT: usize = 64 * 1024;

/// Bytes of datagrams that clients sent. None are asked for, and none are read.
const DATAGRAMS_IN: usize = 2 * 1024;

/// Connections that wait for their shard to accept them, and bytes that they may have sent by then, each
/// and all together. Above it quinn refuses more.
const WAITING: usize = 1_024;
const WAITING_BYTES: u64 = 16 * 1024;
const WAITING_BYTES_TOGETHER: u64 = 4 << 20;

pub(super) fn server(certificates: &Certificates) -> ServerConfig {
    let mut config = ServerConfig::with_crypto(certificates.quic());
    config
        .transport_config(Arc::new(transport()))
        .migration(true)
        .max_incoming(WAITING)
        .incoming_buffer_size(WAITING_BYTES)
        .incoming_buffer_size_total(WAITING_BYTES_TOGETHER);
    config
}

fn transport() -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(BIDIRECTIONAL))
        .max_concurrent_uni_streams(VarInt::from_u32(UNIDIRECTIONAL))
        .max_idle_timeout(Some(IDLE.try_into().expect("a minute fits into a timeout")))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .send_window(SEND_WINDOW as u64)
        .datagram_send_buffer_size(DATAGRAMS_OUT)
        .datagram_receive_buffer_size(Some(DATAGRAMS_IN))
        // Packets stay at 1,200 bytes, which every path carries: probing for more costs memory a connection.
        .mtu_discovery_config(None)
        // Sessions have heartbeats of their own.
        .keep_alive_interval(None);
    config
}
