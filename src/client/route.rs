//! What a node says of where it can be reached: `GET /v1/<tenant>/route`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::{CertificateHash, Transport};

/// How many nodes of a list are tried.
const MAX_NODES: usize = 3;

/// Nodes, the best first.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Route {
    nodes: Vec<Node>,
}

#[derive(Debug, Clone, Deserialize)]
struct Node {
    transports: Transports,
}

/// Transports that nobody knows yet are passed over.
#[derive(Debug, Clone, Deserialize)]
struct Transports {
    webtransport: Option<Offer>,
    websocket: Option<Offer>,
    sse: Option<Offer>,
}

#[derive(Debug, Clone, Deserialize)]
struct Offer {
    url: String,
    #[serde(default)]
    certificate_hashes: Vec<Hash>,
}

#[derive(Debug, Clone, Deserialize)]
struct Hash {
    algorithm: String,
    value: String,
}

/// One way to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) transport: Transport,
    pub(super) url: String,
    /// Certificates that the node's route names.
    pub(super) hashes: Vec<CertificateHash>,
}

impl Route {
    /// The ways to connect, in this order of transports for each node. Where the route was asked for over TLS,
    /// ways without TLS are left out: nobody who only watches may talk a client out of it.
    pub(super) fn candidates(&self, order: &[Transport], is_secure: bool) -> Vec<Candidate> {
        let nodes = self.nodes.iter().take(MAX_NODES);
        let all = nodes.flat_map(|node| order.iter().filter_map(|transport| node.candidate(*transport)));
        all.filter(|way| !is_secure || way.url.starts_with("https://") || way.url.starts_with("wss://"))
            .collect()
    }
}

impl Node {
    fn candidate(&self, transport: Transport) -> Option<Candidate> {
        let Transports { webtransport, websocket, sse } = &self.transports;
        let offer = match transport {
            Transport::WebTransport => webtransport,
            Transport::WebSocket => websocket,
            Transport::Sse => sse,
            Transport::Ndjson => return None,
        };
        let Offer { url, certificate_hashes } = offer.as_ref()?;
        // A hash of another kind proves nothing here, and one that is none fits no certificate.
        let hash = |hash: &Hash| {
            let bytes = STANDARD.decode(&hash.value).ok().filter(|_| hash.algorithm == "sha-256")?;
            bytes.try_into().ok().map(CertificateHash)
        };
        let hashes = certificate_hashes.iter().filter_map(hash).collect();
        Some(Candidate { transport, url: url.clone(), hashes })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ways_are_tried_in_order_and_tls_is_not_given_up() {
        let hash = STANDARD.encode([7; 32]);
        let route: Route =
            serde_json::from_value(json!({"nodes": [{"node": "n1", "url": "http://n1", "transports": {
                "webtransport": {"url": "https://n1/v1/a/wt", "certificate_hashes": [
                    {"algorithm": "sha-256", "value": hash}, {"algorithm": "sha-512", "value": hash},
                    {"algorithm": "sha-256", "value": "short"}]},
                "websocket": {"url": "ws://n1/v1/a/ws"},
                "pigeon": {"url": "coo:"},
            }}]}))
            .unwrap();
        let order = [Transport::WebSocket, Transport::Sse, Transport::WebTransport];
        let [socket, session] = &route.candidates(&order, false)[..] else { panic!("two ways") };
        assert_eq!((socket.transport, socket.url.as_str()), (Transport::WebSocket, "ws://n1/v1/a/ws"));
        assert_eq!(session.hashes, [CertificateHash([7; 32])]);
        assert_eq!(route.candidates(&order, true), std::slice::from_ref(session));
    }
}
