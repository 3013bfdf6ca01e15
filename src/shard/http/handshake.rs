//! A request that becomes a WebSocket, and what all requests that become connections have in common.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use super::{Answer, Served, whole};
use crate::api::admin::bearer;
use crate::api::{answer, cors};
use crate::shard::Shard;
use crate::shard::asking::Asked;
use crate::shard::connect::{Arrival, Bearer, Opening};
use crate::telemetry::Refusal;
use crate::tenants::Tenant;
use crate::transport::framing::Framing;
use crate::transport::websocket::{self, handshake};
use crate::transport::wire::Wire;

impl Shard {
    /// Answers a WebSocket handshake and takes the socket over once the answer is written.
    pub(super) fn upgrade(
        self: Rc<Self>,
        mut request: Request<Incoming>,
        tenant: Arc<Tenant>,
        served: &Rc<Served>,
    ) -> Answer {
        if let Some(refused) = self.refusal(&tenant, request.headers()) {
            return refused;
        }
        let accepted = match websocket::accept(&request) {
            Ok(accepted) => accepted,
            Err(refusal) => {
                self.env.metrics.node().handshakes_refused.of(Refusal::BadRequest).inc();
                let body = |why: &str| Either::Left(Full::new(Bytes::copy_from_slice(why.as_bytes())));
                let mut answer = refusal.into_response().map(body);
                let plain = HeaderValue::from_static("text/plain; charset=utf-8");
                answer.headers_mut().insert(CONTENT_TYPE, plain);
                return answer;
            }
        };
        let upgrade = hyper::upgrade::on(&mut request);
        let handshake::Accepted { codec, response } = accepted;
        let (head, _) = request.into_parts();
        let (bearer, asked) = (bearer_of(&tenant, &head), self.asked(&tenant, &head));
        let (shard, permit) = (self.clone(), served.permit.clone());
        self.spawn(async move {
            let Ok(upgraded) = upgrade.await else { return };
            let Ok(parts) = upgraded.downcast::<TokioIo<Wire>>() else { return };
            let opening = Opening::Frame(BytesMut::from(parts.read_buf));
            let (socket, framing) = (parts.io.into_inner().into_socket(), Framing::WebSocket(codec));
            shard.serve(Arrival { socket, framing, opening, tenant, bearer, asked, permit }).await;
        });
        response.map(|()| Either::Left(Full::default()))
    }

    /// The answer to a request that may not become a connection: the node takes none now, or the page that asks is
    /// none of the tenant's.
    pub(super) fn refusal(&self, tenant: &Tenant, headers: &HeaderMap) -> Option<Answer> {
        let refused = |label, status, why| {
            self.env.metrics.node().handshakes_refused.of(label).inc();
            Some(answer::error(status, why))
        };
        if self.env.drain.is_begun() {
            let why = "this node is going away; connect again";
            let pause = Duration::from_secs(rand::random_range(1..=3));
            return refused(Refusal::Draining, StatusCode::SERVICE_UNAVAILABLE, why)
                .map(|refused| whole(answer::retry_after(refused, pause)));
        }
        if !cors::may_connect(tenant, headers, cors::host(headers)) {
            let why = "pages of this origin may not connect; add it to the tenant's `origins`";
            return refused(Refusal::Origin, StatusCode::FORBIDDEN, why).map(whole);
        }
        None
    }

    /// What the tenant's authenticator may ask about a request, where there is one.
    pub(in crate::shard) fn asked(&self, tenant: &Tenant, head: &Parts) -> Asked {
        match self.env.plugins.tables.of(&tenant.id) {
            Some(_) => Asked::of(head),
            None => Asked::default(),
        }
    }
}

/// What a request says of who it is: a header counts before a ticket, and a ticket before a token in the query,
/// which the tenant has to allow.
pub(in crate::shard) fn bearer_of(tenant: &Tenant, head: &Parts) -> Option<Bearer> {
    if let Some(token) = head.headers.get(AUTHORIZATION).and_then(bearer) {
        return Some(Bearer::Token(token.into()));
    }
    if let Some(ticket) = in_query(head, "ticket") {
        return Some(Bearer::Ticket(ticket.into()));
    }
    in_query(head, "token").filter(|_| tenant.allow_query_token).map(|token| Bearer::Token(token.into()))
}

/// What a request's query says by this name, as it stands there.
pub(in crate::shard) fn in_query<'h>(head: &'h Parts, name: &str) -> Option<&'h str> {
    head.uri.query()?.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}
