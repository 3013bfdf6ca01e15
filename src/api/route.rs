//! Where a client connects (`GET /v1/<tenant>/route`): nodes, best first, and what each of them speaks.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{CACHE_CONTROL, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use serde::Serialize;

use super::answer::{self, Answer};
use super::cors;
use crate::domain::NodeId;
use crate::tenants::Tenant;
use crate::transport::tls::Certificates;

/// What this node tells clients of itself.
#[derive(Clone)]
pub struct Route {
    /// Its name.
    pub node: NodeId,
    /// Under which URL clients reach it, where that is configured; else they are told the name that they used.
    pub public_url: Option<String>,
    /// The public port.
    pub http: SocketAddr,
    /// Whether it speaks TLS.
    pub is_tls: bool,
    /// Where WebTransport is spoken, and the certificates there.
    pub quic: Option<(SocketAddr, Certificates)>,
}

#[derive(Serialize)]
struct Nodes<'a> {
    nodes: [Node<'a>; 1],
}

#[derive(Serialize)]
struct Node<'a> {
    node: &'a NodeId,
    url: String,
    transports: Transports,
}

#[derive(Serialize)]
struct Transports {
    #[serde(skip_serializing_if = "Option::is_none")]
    webtransport: Option<WebTransport>,
    websocket: Endpoint,
    sse: Endpoint,
}

#[derive(Serialize)]
struct Endpoint {
    url: String,
}

#[derive(Serialize)]
struct WebTransport {
    url: String,
    /// For `serverCertificateHashes`; only where the certificate is one for development.
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_hashes: Option<Vec<Hash>>,
}

#[derive(Serialize)]
struct Hash {
    algorithm: &'static str,
    value: String,
}

impl Route {
    /// The endpoint.
    pub fn handle(&self, tenant: &Tenant, method: &Method, headers: &HeaderMap) -> Answer {
        if method != Method::GET && method != Method::HEAD {
            return answer::method_not_allowed("GET, HEAD");
        }
        let Some(url) = self.base(cors::host(headers)) else {
            return answer::error(StatusCode::BAD_REQUEST, "the request has no usable `Host`");
        };
        let path = |base: &str, what: &str| format!("{base}/v1/{}/{what}", tenant.id);
        // `http` becomes `ws`, and `https` becomes `wss`.
        let websocket = url.replacen("http", "ws", 1);
        let transports = Transports {
            webtransport: self.webtransport(&url, tenant),
            websocket: Endpoint { url: path(&websocket, "ws") },
            sse: Endpoint { url: path(&url, "sse") },
        };
        let nodes = [Node { node: &self.node, url, transports }];
        let mut answer = answer::json(StatusCode::OK, &Nodes { nodes });
        answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        answer
    }

    fn base(&self, host: Option<&str>) -> Option<String> {
        if let Some(url) = &self.public_url {
            return Some(url.trim_end_matches('/').to_owned());
        }
        // Parsed, so that what stands in the answer is the name of a host and nothing else.
        let host = host?.parse::<http::uri::Authority>().ok().filter(|host| !host.as_str().contains('@'))?;
        Some(format!("{}://{host}", if self.is_tls { "https" } else { "http" }))
    }

    /// The host under which the page of a client that came over QUIC to `authority` would have reached the public
    /// port: what its `Origin` is held against.
    pub fn public_host(&self, authority: &str) -> String {
        if let Some(url) = &self.public_url {
            return url.split_once("://").map_or(&**url, |(_, rest)| rest).trim_end_matches('/').to_owned();
        }
        let host = authority.parse::<http::uri::Authority>().map(|name| name.host().to_owned());
        host.map_or_else(|_| authority.to_owned(), |host| format!("{host}:{}", self.http.port()))
    }

    /// The same host at the port of QUIC.
    fn webtransport(&self, url: &str, tenant: &Tenant) -> Option<WebTransport> {
        let (address, certificates) = self.quic.as_ref()?;
        let authority = url.split_once("://")?.1.split('/').next()?;
        let host = authority.parse::<http::uri::Authority>().ok()?.host().to_owned();
        let hash = |hash: [u8; 32]| Hash { algorithm: "sha-256", value: STANDARD.encode(hash) };
        let hashes = certificates.hashes().map(|hashes| hashes.into_iter().map(hash).collect());
        let url = format!("https://{host}:{}/v1/{}/wt", address.port(), tenant.id);
        Some(WebTransport { url, certificate_hashes: hashes })
    }
}
