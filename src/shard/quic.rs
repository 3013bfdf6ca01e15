//! Clients over QUIC: from an incoming connection to a WebTransport session with a session of ours on it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::StatusCode;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Shard;
use super::connect::{Arrival, Opening};
use super::http::handshake::{bearer_of, in_query};
use super::state::GOODBYE;
use crate::api::cors;
use crate::domain::CloseReason;
use crate::protocol::Codec;
use crate::telemetry::{Refusal, events};
use crate::tenants::Tenant;
use crate::transport::framing::Framing;
use crate::transport::quic::Incoming;
use crate::transport::socket::Socket;
use crate::transport::webtransport::{self, AcceptError, Request};

/// How long a client has to hang up after its session's connection is over.
const HANG_UP: Duration = Duration::from_secs(5);

impl Shard {
    /// Takes connections until the last goodbye of a drain is said.
    pub(super) async fn accept_quic(self: Rc<Self>, mut incoming: mpsc::Receiver<Incoming>) {
        loop {
            let next = tokio::select! {
                next = incoming.recv() => next,
                () = self.closing.cancelled() => return,
            };
            let Some(next) = next else { return };
            let peer = next.remote_address().ip();
            match self.env.gate.enter(peer, Instant::now()) {
                Ok(permit) => self.spawn(self.clone().serve_quic(next, Rc::new(permit))),
                Err(refused) => {
                    // QUIC has no answer that says when to come again (RFC 9000 section 20.1).
                    let why = "it is refused";
                    events::handshake_refused(self.env.metrics.node(), refused.reason, peer, &why);
                    next.refuse();
                }
            }
        }
    }

    async fn serve_quic(self: Rc<Self>, incoming: Incoming, permit: Rc<super::gate::Permit>) {
        let peer = incoming.remote_address().ip();
        let request = match webtransport::accept(incoming, self.env.header_timeout).await {
            Ok(request) => request,
            Err(error) => {
                return events::handshake_refused(self.env.metrics.node(), label(&error), peer, &error);
            }
        };
        let (tenant, codec) = match self.wish(&request) {
            Ok(wish) => wish,
            Err((status, label, why)) => {
                events::handshake_refused(self.env.metrics.node(), label, peer, &why);
                return request.refuse(status).await;
            }
        };
        let head = request.head();
        let (bearer, asked) = (bearer_of(&tenant, head), self.asked(&tenant, head));
        let (session, driver) = match request.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                return events::handshake_refused(self.env.metrics.node(), label(&error), peer, &error);
            }
        };
        let session = Rc::new(session);
        let served = async {
            // The client opens the one stream that there is.
            match timeout(self.env.header_timeout, session.stream()).await {
                Ok(Ok(())) => {
                    let (socket, framing) = (Socket::WebTransport(session.clone()), Framing::Stream(codec));
                    let opening = Opening::Frame(BytesMut::new());
                    let shard = self.clone();
                    shard.serve(Arrival { socket, framing, opening, tenant, bearer, asked, permit }).await;
                    // A client that is seen off hears why, and has its time; one that only stops talking does not
                    // keep the connection.
                    let _ = timeout(HANG_UP, session.closed()).await;
                    session.close(GOODBYE.into(), "").await;
                }
                Ok(Err(_)) => {}
                Err(_) => {
                    let reason = CloseReason::ConnectTimeout;
                    session.close(reason.code().into(), reason.label()).await;
                }
            }
        };
        tokio::join!(driver, served);
    }

    /// What a request for a session wants, or why it gets none.
    fn wish(&self, request: &Request) -> Result<(Arc<Tenant>, Codec), (StatusCode, Refusal, String)> {
        let head = request.head();
        if self.env.drain.is_begun() {
            return Err((
                StatusCode::SERVICE_UNAVAILABLE,
                Refusal::Draining,
                "this node is going away".into(),
            ));
        }
        let bad = |status, why: &str| Err((status, Refusal::BadRequest, why.to_owned()));
        let path = head.uri.path().strip_prefix("/v1/").and_then(|path| path.strip_suffix("/wt"));
        let Some(tenant) = path.and_then(|name| self.env.tenants.get(name)) else {
            return bad(
                StatusCode::NOT_FOUND,
                "WebTransport is at /v1/<tenant>/wt, for tenants that there are",
            );
        };
        let authority = head.uri.authority().map(|name| name.as_str()).or_else(|| cors::host(&head.headers));
        let host = authority.map(|name| self.env.route.public_host(name));
        if !cors::may_connect(&tenant, &head.headers, host.as_deref()) {
            let why = "pages of this origin may not connect; add it to the tenant's `origins`";
            return Err((StatusCode::FORBIDDEN, Refusal::Origin, why.to_owned()));
        }
        match in_query(head, "codec") {
            None | Some("json") => Ok((tenant, Codec::Json)),
            Some("cbor") => Ok((tenant, Codec::Cbor)),
            Some(_) => bad(StatusCode::BAD_REQUEST, "`codec` is json or cbor"),
        }
    }
}

fn label(error: &AcceptError) -> Refusal {
    match error {
        AcceptError::Handshake(_) => Refusal::Tls,
        AcceptError::TimedOut => Refusal::Timeout,
        AcceptError::Closing(_) => Refusal::Draining,
        AcceptError::Protocol(_) | AcceptError::NoSession(_) | AcceptError::Lost(_) => Refusal::BadRequest,
    }
}
