//! Tickets (`POST /v1/<tenant>/ticket`): what stands for a token in a URL, for clients that can send it neither
//! in a header nor in a frame. URLs end up in logs; a ticket is good once, for half a minute.
//!
//! A ticket is the token itself, sealed with a key of the cluster, so any node can redeem it and nothing is
//! stored until somebody does.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, StatusCode};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce};
use serde_json::json;

use super::admin::bearer;
use super::answer::{self, Answer};
use crate::auth::MAX_TOKEN_BYTES;
use crate::backbone::Backbone;
use crate::domain::CloseReason;
use crate::domain::keys::ticket_lease;
use crate::router::ClusterSecret;
use crate::tenants::Tenant;

/// How long a ticket is good.
pub const LIFE: Duration = Duration::from_secs(30);
/// How far the clocks of two nodes may be apart, each measured against the backbone's.
const SKEW: Duration = Duration::from_secs(5);

/// Issues and redeems tickets. Cheap to clone.
#[derive(Clone)]
pub struct Tickets {
    key: Arc<LessSafeKey>,
    backbone: Arc<dyn Backbone>,
}

/// Why a ticket is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// It is none of this tenant's.
    #[error("the ticket cannot be read: get one with POST /v1/<tenant>/ticket")]
    Unreadable,
    /// It is too old.
    #[error("the ticket has expired: it is good for {} s; get a new one", LIFE.as_secs())]
    Expired,
    /// Somebody has used it.
    #[error("the ticket was used already: each is good once; get a new one")]
    Used,
    /// Nobody can say whether it was used.
    #[error("the backbone is away, and without it nobody knows whether the ticket was used; try again")]
    BackboneAway,
}

impl TicketError {
    /// What the client is told.
    pub fn close_reason(self) -> CloseReason {
        match self {
            Self::Unreadable | Self::Expired | Self::Used => CloseReason::Unauthorized,
            Self::BackboneAway => CloseReason::BackboneAway,
        }
    }
}

impl Tickets {
    /// Tickets that the nodes with this secret redeem.
    pub fn new(secret: &ClusterSecret, backbone: Arc<dyn Backbone>) -> Self {
        let key = LessSafeKey::new(secret.sealing_key("ticket v1", &CHACHA20_POLY1305));
        Self { key: Arc::new(key), backbone }
    }

    /// The endpoint.
    pub fn handle(&self, tenant: &Tenant, method: &Method, headers: &HeaderMap) -> Answer {
        if method != Method::POST {
            return answer::method_not_allowed("POST");
        }
        let token = headers.get(AUTHORIZATION).and_then(bearer);
        let Some(token) = token.filter(|token| token.len() <= MAX_TOKEN_BYTES) else {
            let why = "send `Authorization: Bearer <token>` with the token of the client that connects";
            return answer::unauthenticated(why);
        };
        let ticket = self.issue(tenant, token);
        answer::json(StatusCode::OK, &json!({"ticket": ticket, "expires_in_ms": LIFE.as_millis() as u64}))
    }

    fn issue(&self, tenant: &Tenant, token: &str) -> String {
        let nonce: [u8; NONCE_LEN] = rand::random();
        let expires_ms = self.backbone.clock().now_ms() + LIFE.as_millis() as u64;
        let mut sealed = expires_ms.to_be_bytes().to_vec();
        sealed.extend(token.as_bytes());
        let aad = Aad::from(tenant.id.as_str());
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed)
            .expect("a token is far shorter than what can be sealed");
        URL_SAFE_NO_PAD.encode([&nonce[..], &sealed].concat())
    }

    /// The token that a ticket was given for. From then on the ticket is worth nothing, also where the caller is
    /// cancelled.
    ///
    /// # Errors
    /// [`TicketError`] says why it is not taken.
    pub async fn redeem(&self, tenant: &Tenant, ticket: &str) -> Result<Box<str>, TicketError> {
        const MOST: usize = (NONCE_LEN + 8 + MAX_TOKEN_BYTES + 16).div_ceil(3) * 4;
        let unreadable = TicketError::Unreadable;
        if ticket.len() > MOST {
            return Err(unreadable);
        }
        let mut bytes = URL_SAFE_NO_PAD.decode(ticket).map_err(|_| unreadable)?;
        let (nonce, sealed) = bytes.split_first_chunk_mut::<NONCE_LEN>().ok_or(unreadable)?;
        let aad = Aad::from(tenant.id.as_str());
        let opened = self.key.open_in_place(Nonce::assume_unique_for_key(*nonce), aad, sealed);
        let opened = opened.map_err(|_| unreadable)?;
        let (expires_ms, token) = opened.split_first_chunk::<8>().ok_or(unreadable)?;
        let left_ms = u64::from_be_bytes(*expires_ms).checked_sub(self.backbone.clock().now_ms());
        let left = Duration::from_millis(left_ms.filter(|left| *left > 0).ok_or(TicketError::Expired)?);
        // A lease that nobody renews or gives up: the first takes it, for longer than the ticket lives.
        let key = ticket_lease(&tenant.id, &URL_SAFE_NO_PAD.encode(*nonce));
        let holder = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 12]>());
        match self.backbone.lease(&key, &holder, left + SKEW).await {
            Ok(true) => Ok(std::str::from_utf8(token).map_err(|_| unreadable)?.into()),
            Ok(false) => Err(TicketError::Used),
            Err(_) => Err(TicketError::BackboneAway),
        }
    }
}
