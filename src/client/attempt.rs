//! An attempt to connect: which transports there are, and which of them works.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::connection::Connection;
use super::error::{Cause, Failure};
use super::http::{self, Stream};
use super::options::Base;
use super::route::{Candidate, Route};
use super::tls::Trust;
use super::websocket::WebSocket;
use super::webtransport::{self, Session};
use super::{ClientError, Options, Transport};

/// How long an attempt may take.
const CONNECT: Duration = Duration::from_secs(10);
/// The same for WebTransport where there is something else to try: where UDP is stopped, nothing ever answers.
const CONNECT_UDP: Duration = Duration::from_secs(3);

/// What a client knows of the ways to its node. It moves into an attempt and comes back.
#[derive(Debug)]
pub(super) struct Ways {
    tools: Option<Tools>,
    /// What is tried first; what fails goes to the end.
    order: Vec<Transport>,
    route: Option<Route>,
    /// Where the node sent the client, until that fails.
    detour: Option<Base>,
}

/// What is made once: the HTTP client and whom to trust.
#[derive(Debug, Clone)]
struct Tools {
    http: reqwest::Client,
    trust: Trust,
}

impl Default for Ways {
    fn default() -> Self {
        let order = vec![Transport::WebTransport, Transport::WebSocket, Transport::Sse];
        Self { tools: None, order, route: None, detour: None }
    }
}

impl Ways {
    /// This transport did not work: others come before it from now on, and the route is asked for again.
    pub(super) fn failed(&mut self, transport: Transport) {
        if let Some(place) = self.order.iter().position(|known| *known == transport) {
            let last = self.order.remove(place);
            self.order.push(last);
        }
        self.route = None;
        self.detour = None;
    }

    /// The next connection goes to another node. One without TLS is no place for a client that began with it.
    pub(super) fn go_to(&mut self, url: &str, options: &Options) {
        let is_secure = Base::parse(&options.url).is_ok_and(|base| base.is_secure);
        match Base::parse(url) {
            Ok(base) if base.is_secure || !is_secure => (self.detour, self.route) = (Some(base), None),
            _ => tracing::warn!(url, "the node named an address that is not used"),
        }
    }

    /// Connects, trying one way after the other, and sends `connect`. The ways are known better afterwards.
    pub(super) async fn connect(
        mut self,
        options: Arc<Options>,
        connect: Value,
    ) -> (Self, Result<Connection, Failure>) {
        let outcome = self.try_all(&options, &connect).await;
        if outcome.is_err() {
            (self.route, self.detour) = (None, None);
        }
        (self, outcome)
    }

    async fn try_all(&mut self, options: &Options, connect: &Value) -> Result<Connection, Failure> {
        let base = match &self.detour {
            Some(base) => base.clone(),
            None => Base::parse(&options.url).map_err(Failure::unusable)?,
        };
        let tools = match &self.tools {
            Some(tools) => tools.clone(),
            None => self.tools.insert(Tools::make(options).await.map_err(Failure::unusable)?).clone(),
        };
        let ways = self.candidates(options, &base, &tools).await?;
        let mut failures: Vec<Failure> = Vec::new();
        let last = ways.len().saturating_sub(1);
        for (number, way) in ways.into_iter().enumerate() {
            let is_udp = way.transport == Transport::WebTransport;
            let limit = if is_udp && number < last { CONNECT_UDP } else { CONNECT };
            let failure = match tokio::time::timeout(limit, tools.open(&way, options, connect)).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(failure)) => failure,
                Err(_) if is_udp => webtransport::unanswered(&way.url),
                Err(_) => Failure::passing(&way.url, format!("no answer in {} s", limit.as_secs())),
            };
            tracing::debug!(url = failure.url, why = failure.why, transport = %way.transport, "cannot connect");
            self.failed(way.transport);
            // The node itself says to come later: another transport leads to the same node.
            if failure.retry_after.is_some() {
                return Err(failure);
            }
            failures.push(failure);
        }
        Err(together(failures, &options.url))
    }

    async fn candidates(
        &mut self,
        options: &Options,
        base: &Base,
        tools: &Tools,
    ) -> Result<Vec<Candidate>, Failure> {
        let path = |end: &str| format!("/v1/{}/{end}", options.tenant);
        let plain = |transport, url| vec![Candidate { transport, url, hashes: Vec::new() }];
        match options.transport {
            Some(Transport::WebSocket) => return Ok(plain(Transport::WebSocket, base.ws(&path("ws")))),
            Some(Transport::Sse) => return Ok(plain(Transport::Sse, base.http(&path("sse")))),
            Some(Transport::Ndjson) => return Ok(plain(Transport::Ndjson, base.http(&path("stream")))),
            Some(Transport::WebTransport) | None => {}
        }
        let url = base.http(&path("route"));
        let asked = match &self.route {
            Some(route) => Ok(Some(route.clone())),
            None => http::route(&url, &tools.http).await,
        };
        if let Some(wanted) = options.transport {
            return match asked {
                Ok(Some(route)) => match route.candidates(&[wanted], base.is_secure) {
                    ways if ways.is_empty() => {
                        Err(Failure::lasting(&url, "this node serves no WebTransport"))
                    }
                    ways => Ok(ways),
                },
                // Nothing but QUIC may be served there.
                _ if base.is_secure => Ok(plain(wanted, base.http(&path("wt")))),
                Ok(None) => Err(Failure::lasting(&url, "the node does not say where it serves WebTransport")),
                Err(failure) => Err(failure),
            };
        }
        let route = asked?;
        let ways =
            route.as_ref().map(|route| route.candidates(&self.order, base.is_secure)).unwrap_or_default();
        self.route = route;
        match ways.is_empty() {
            true => Ok(plain(Transport::WebSocket, base.ws(&path("ws")))),
            false => Ok(ways),
        }
    }
}

impl Tools {
    async fn make(options: &Options) -> Result<Self, ClientError> {
        let (ca, hashes) = (options.ca.clone(), options.hashes.clone());
        // It reads files.
        let reading = tokio::task::spawn_blocking(move || Trust::read(ca.as_deref(), &hashes));
        let trust = reading.await.map_err(|error| ClientError::Address(error.to_string()))??;
        let builder = reqwest::Client::builder().no_proxy().connect_timeout(CONNECT);
        let http = builder.tls_backend_preconfigured(trust.config(&[])).build();
        let http = http.map_err(|error| ClientError::Address(format!("no HTTP client: {error}")))?;
        Ok(Self { http, trust })
    }

    /// Connects one way, and sends `connect`.
    async fn open(&self, way: &Candidate, options: &Options, connect: &Value) -> Result<Connection, Failure> {
        let mut connection = match way.transport {
            Transport::WebSocket => {
                Connection::WebSocket(Box::new(WebSocket::open(way, options.codec, &self.trust).await?))
            }
            Transport::WebTransport => {
                Connection::WebTransport(Box::new(Session::open(way, options.codec, &self.trust).await?))
            }
            Transport::Sse => {
                return Ok(Connection::Sse(Box::new(Stream::open(way, connect, &self.http).await?)));
            }
            Transport::Ndjson => {
                return Ok(Connection::Ndjson(Box::new(Stream::open(way, connect, &self.http).await?)));
            }
        };
        // A connection that breaks here says so at the next read.
        let _ = connection.send(connect).await;
        Ok(connection)
    }
}

/// What several failures come to: what one of them says, or all where they differ.
fn together(mut failures: Vec<Failure>, url: &str) -> Failure {
    let Some(last) = failures.pop() else { return Failure::lasting(url, "there is no way to connect") };
    if failures.is_empty() {
        return last;
    }
    failures.push(last);
    let is_final = failures.iter().all(|failure| failure.is_final);
    let is_certificate = failures.iter().all(|failure| failure.cause == Cause::Certificate);
    let said: Vec<String> =
        failures.iter().map(|failure| format!("{}: {}", failure.url, failure.why)).collect();
    let cause = if is_certificate { Cause::Certificate } else { Cause::Other };
    Failure { is_final, cause, ..Failure::passing(url, said.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_tried_last() {
        let mut ways = Ways::default();
        ways.failed(Transport::WebTransport);
        assert_eq!(ways.order, [Transport::WebSocket, Transport::Sse, Transport::WebTransport]);
        ways.failed(Transport::Ndjson);
        assert_eq!(ways.order.len(), 3);
    }

    #[test]
    fn a_client_that_began_with_tls_keeps_it() {
        let (secure, plain) = (Options::new("https://a", "t"), Options::new("http://a", "t"));
        for (options, url, goes) in [
            (&secure, "http://b", false),
            (&secure, "https://b", true),
            (&plain, "http://b", true),
            (&plain, "b", false),
        ] {
            let mut ways = Ways::default();
            ways.go_to(url, options);
            assert_eq!(ways.detour.is_some(), goes, "{url}");
        }
    }

    #[test]
    fn failures_are_told_together() {
        let (a, b) = (Failure::lasting("wss://n", "403"), webtransport::unanswered("https://n"));
        let all = together(vec![a, b], "https://n");
        assert!(!all.is_final && all.why.contains("403") && all.why.contains("UDP"), "{all:?}");
        assert_eq!(together(vec![webtransport::unanswered("x")], "y").cause, Cause::Unanswered);
    }
}
