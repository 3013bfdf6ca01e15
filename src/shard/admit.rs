//! Who a client is and which session it gets: one that is kept here, one of its device, or a new one.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::Shard;
use super::connect::Refused;
use crate::auth::{self, Identity};
use crate::backbone::BackboneError;
use crate::domain::{CloseReason, CursorKey, DeviceId, SessionId, TenantId};
use crate::plugin::{Facts, Hook};
use crate::protocol::{Connect, Resumed, Subscribe};
use crate::router::{IdentityHash, ResumeClaims};
use crate::session::{Attached, Session};
use crate::tenants::Tenant;

/// What is needed to seat a session.
pub(super) struct Admitted {
    pub(super) session: Box<Session>,
    pub(super) resumed: Resumed,
    /// It has not been here, nor elsewhere.
    pub(super) is_new: bool,
    pub(super) ping_ms: Option<u64>,
    pub(super) subs: Vec<Subscribe>,
}

/// How long a device's cursors outlive its last acknowledgement.
const CURSOR_TTL: Duration = Duration::from_secs(30 * 24 * 3600);

impl Shard {
    /// Finds out who it is and what was kept for it, and makes the session.
    pub(super) async fn admit(
        self: Rc<Self>,
        tenant: &Arc<Tenant>,
        connect: Connect,
        bearer: Option<Box<str>>,
        facts: Facts,
    ) -> Result<Admitted, Refused> {
        let now_ms = self.env.backbone.clock().now_ms();
        let Connect { token, resume, device, ping_ms, subs } = connect;
        let token = token.as_deref().or(bearer.as_deref());
        let admitted = |session, resumed, is_new| Admitted { session, resumed, is_new, ping_ms, subs };
        let claims = resume.as_deref().map(|token| self.env.resume.verify(token, &tenant.id, now_ms).ok());
        if let Some(Some(claims)) = &claims
            && let Some(session) = self.come_home_unasked(tenant, claims, token, device.as_ref()).await
        {
            return Ok(admitted(session, Resumed::Home, false));
        }
        // Known before anybody is asked, so that what is asked about the session later meets the same version.
        let id =
            claims.as_ref().and_then(Option::as_ref).map_or_else(SessionId::random, |claims| claims.session);
        let identity = self.identify(tenant, id, token, None, facts).await?;
        let claims = claims.map(|claims| claims.filter(|claims| belongs(claims, &identity, device.as_ref())));

        if let Some(Some(claims)) = &claims
            && claims.node == self.env.node
            && let Some(session) = self.come_home(claims, &identity).await
        {
            return Ok(admitted(session, Resumed::Home, false));
        }
        let id = match &claims {
            // Elsewhere the same session goes on, if its device brings the cursors.
            Some(Some(_)) if device.is_some() => id,
            _ => id.sibling(),
        };
        let attached = match device {
            Some(device) => Some(self.attach(tenant, &identity, device, id).await?),
            None => None,
        };
        let resumed = match (&claims, &attached) {
            (None, _) => Resumed::New,
            (Some(Some(_)), Some(attached)) if !attached.cursors.is_empty() => Resumed::Moved,
            (Some(_), _) => Resumed::Lost,
        };
        let session = Session::new(id, tenant.clone(), Box::new(identity), attached.map(Box::new));
        let is_new = self.is_new(&session).await;
        Ok(admitted(Box::new(session), resumed, is_new))
    }

    /// Takes a session of this node back whose client shows the token that it began with: nobody is asked again who
    /// that is, as long as the answer holds.
    async fn come_home_unasked(
        &self,
        tenant: &Tenant,
        claims: &ResumeClaims,
        token: Option<&str>,
        device: Option<&DeviceId>,
    ) -> Option<Box<Session>> {
        let token = auth::token_hash(token);
        let now_ms = self.env.backbone.clock().now_ms();
        let is_known = claims.node == self.env.node
            && claims.token == IdentityHash::of_token(&token)
            && claims.device == device.map(IdentityHash::of_device);
        let asks = || {
            let who = claims.session.part();
            self.env.plugins.for_client(&tenant.id, Hook::Authenticate, now_ms, &who).is_some()
        };
        // Where no plugin is asked it costs next to nothing to look at the token itself.
        if !is_known || !asks() {
            return None;
        }
        let is_latest = latest(claims.tenant.clone(), claims.attach);
        let holds = move |session: &Session| {
            is_latest(session)
                && session.identity.token_hash == token
                && session.identity.expires_ms.is_none_or(|expires| expires > now_ms)
        };
        self.env.directory.take(claims.session, holds).await
    }

    /// Takes a session of this node back from wherever it sits. One that is another's, or that has gone on since
    /// the resume token was given out, stays where it is.
    async fn come_home(&self, claims: &ResumeClaims, identity: &Identity) -> Option<Box<Session>> {
        let is_latest = latest(claims.tenant.clone(), claims.attach);
        let user = (!identity.is_anonymous()).then(|| identity.user.clone());
        let is_same = move |session: &Session| {
            let theirs = &session.identity;
            is_latest(session) && user.map_or(theirs.is_anonymous(), |user| theirs.user == user)
        };
        let mut session = self.env.directory.take(claims.session, is_same).await?;
        if !identity.is_anonymous() {
            *session.identity = identity.clone();
            session.drop_forbidden();
            self.give_work_up(&mut session, true);
        }
        Some(session)
    }

    /// Begins a new generation of a device for a session. The one it has on this node stops first, so that nothing
    /// it knows is lost, and ends where it is another.
    async fn attach(
        &self,
        tenant: &Tenant,
        identity: &Identity,
        device: DeviceId,
        session: SessionId,
    ) -> Result<Attached, Refused> {
        match self.env.directory.take_device(&tenant.id, &identity.user, &device).await {
            Some(mut old) if old.id == session => self.store_last(&mut old).await,
            Some(old) => self.retire(old, CloseReason::Replaced).await,
            None => {}
        }
        let key = CursorKey::new(&tenant.id, &identity.user, &device);
        let claimed = self.env.backbone.claim_cursors(&key, CURSOR_TTL).await;
        let (generation, cursors) = claimed.map_err(|error: BackboneError| {
            let message = format!("the device's cursors cannot be read: {error}");
            Refused::new(CloseReason::BackboneAway, message)
        })?;
        Ok(Attached { device, generation, cursors })
    }
}

/// Whether a session's connection is the one that a resume token was given out to.
pub(super) fn latest(tenant: TenantId, attach: u32) -> impl FnOnce(&Session) -> bool + Send {
    move |session| session.tenant.id == tenant && session.connections == attach
}

/// Whose a session is, for its resume token. Between anonymous clients the token alone speaks.
pub(super) fn owner(identity: &Identity) -> IdentityHash {
    if identity.is_anonymous() { IdentityHash::anonymous() } else { IdentityHash::of_user(&identity.user) }
}

/// Whether a resume token is this client's.
fn belongs(claims: &ResumeClaims, identity: &Identity, device: Option<&DeviceId>) -> bool {
    claims.user == owner(identity) && claims.device == device.map(IdentityHash::of_device)
}
