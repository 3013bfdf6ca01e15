//! What plugins are asked for clients: who they are, where they may subscribe, and what they may publish.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};
use http::header::{AUTHORIZATION, COOKIE, ORIGIN};
use http::request::Parts;

use super::Shard;
use super::connect::Refused;
use super::state::Place;
use super::turns::{NextTurn, Turn};
use crate::auth::{self, Identity, MAX_TOKEN_BYTES};
use crate::config::OnFailure;
use crate::delivery::shaping::replaced;
use crate::domain::{ChannelName, CloseReason, Publication, SessionId, UserId};
use crate::plugin::answers::Refusal;
use crate::plugin::contract::{Credentials, Incoming, SessionChange, SessionNews, SubscribeRequest};
use crate::plugin::{
    About, Admission, Facts, Failure, Hook, Plugin, PluginHost, PublishVerdict, SubscribeVerdict,
};
use crate::protocol::{ClientFrame, ErrorCode, RequestId, ServerFrame, Subscribe};
use crate::session::Session;
use crate::telemetry::{Label as _, Transport};
use crate::tenants::Tenant;

/// The request of a client that connects, as its tenant's authenticator may ask about it.
#[derive(Default)]
pub(super) struct Asked {
    about: About,
    origin: Option<Box<str>>,
    path: Option<Box<str>>,
}

impl Asked {
    /// Takes what may be asked for out of a request. Tokens are no part of it, nor are cookies, which
    /// authenticate nobody.
    pub(super) fn of(head: &Parts) -> Self {
        let text = |value: &http::HeaderValue| value.to_str().ok().map(Into::into);
        let headers = head.headers.iter().filter(|(name, _)| **name != AUTHORIZATION && **name != COOKIE);
        let headers = headers.filter_map(|(name, value)| Some((name.as_str().into(), text(value)?)));
        Self {
            about: About::Request(headers.collect()),
            origin: head.headers.get(ORIGIN).and_then(text),
            path: Some(without_token(head.uri.path(), head.uri.query())),
        }
    }

    /// The facts for `authenticate`.
    pub(super) fn facts(self, transport: Transport, peer: Option<SocketAddr>) -> Facts {
        let address = peer.map(|peer| peer.ip().to_string());
        Facts::about(self.about)
            .with("transport", transport.word())
            .with_some("address", address)
            .with_some("origin", self.origin)
            .with_some("path", self.path)
    }
}

fn without_token(path: &str, query: Option<&str>) -> Box<str> {
    let kept: Vec<_> =
        query.into_iter().flat_map(|query| query.split('&')).filter(|pair| !is_token(pair)).collect();
    if kept.is_empty() { path.into() } else { format!("{path}?{}", kept.join("&")).into() }
}

fn is_token(pair: &str) -> bool {
    matches!(pair.split('=').next(), Some("token" | "ticket"))
}

/// What becomes of a client's publication.
pub(super) enum Fate {
    /// It goes to these channels.
    To(Vec<ChannelName>, Publication),
    /// It goes nowhere, and its client does not learn that.
    Nowhere,
    /// Its client is told why not.
    Refused(ErrorCode, Box<str>),
}

impl Shard {
    /// Finds out who the client of a session is: by the tenant's plugin where that authenticates, else by the token
    /// itself.
    pub(super) async fn identify(
        &self,
        tenant: &Tenant,
        session: SessionId,
        token: Option<&str>,
        refreshes: Option<&UserId>,
        facts: Facts,
    ) -> Result<Identity, Refused> {
        let now_ms = self.env.backbone.clock().now_ms();
        let refused = |error: auth::AuthError| Refused::new(error.close_reason(), error.to_string());
        self.env.plugins.catch_up(now_ms).await;
        let plugin = self.env.plugins.for_client(&tenant.id, Hook::Authenticate, now_ms, &session.part());
        let Some((host, plugin)) = plugin else {
            return auth::authenticate(tenant, token, now_ms).map_err(refused);
        };
        if token.is_some_and(|token| token.len() > MAX_TOKEN_BYTES) {
            return Err(refused(auth::AuthError::TooLong));
        }
        let credentials = Credentials {
            token: token.filter(|token| !token.is_empty()).map(Into::into),
            refreshes: refreshes.map(|user| user.as_str().into()),
        };
        let not_now = |why: String| Refused::new(CloseReason::NotNow, why);
        match host.authenticate(&plugin, credentials, facts).await {
            Ok(Admission::Admitted(admitted)) => {
                let identity = Identity::admitted(admitted, token)
                    .map_err(|why| not_now(format!("the tenant's authenticator names no channels: {why}")))?;
                let is_over = identity.expires_ms.is_some_and(|expires| expires <= now_ms);
                if is_over { Err(refused(auth::AuthError::Expired)) } else { Ok(identity) }
            }
            Ok(Admission::Refused(Refusal { reason, retry_after_ms })) => {
                let never = retry_after_ms.is_none();
                let close = if never { CloseReason::Unauthorized } else { CloseReason::NotNow };
                Err(Refused { retry_after_ms: retry_after_ms.map(u64::from), ..Refused::new(close, reason) })
            }
            Err(failure) => Err(not_now(no_answer("authenticator", failure))),
        }
    }

    /// Checks a new token and answers the request.
    pub(super) async fn refresh(self: Rc<Self>, place: Place, id: RequestId, token: Box<str>) -> ServerFrame {
        let found = self.with(|state| {
            let seat = &state.seats[state.at(place)?];
            let link = seat.link.as_ref()?;
            let facts = Asked::default().facts(link.transport(), link.socket.peer_addr());
            let session = &seat.session;
            Some((session.tenant.clone(), session.id, session.identity.user.clone(), facts))
        });
        let Some((tenant, session, user, facts)) = found else { return crate::session::state::done(id) };
        let identity = self.identify(&tenant, session, Some(&token), Some(&user), facts).await;
        self.with(|state| {
            let Some(at) = state.at(place) else { return crate::session::state::done(id) };
            state.refresh(at, id, identity.map_err(|refused| refused.message))
        })
    }

    /// Asks whether a client may subscribe to what its `connect` names, and goes on accordingly. A few at a time,
    /// in order: the plugin is there for others, too.
    pub(super) async fn ask_subscribes(self: Rc<Self>, place: Place, asked: Vec<(Subscribe, Turn)>) {
        const AT_ONCE: usize = 8;
        let asking = stream::iter(asked).map(async |(wish, turn)| {
            self.ask_subscribe(place, None, wish).await;
            drop(turn);
        });
        asking.buffer_unordered(AT_ONCE).collect::<()>().await;
    }

    /// Does what a client asks about a channel, once what it asked about that before is done.
    pub(super) async fn in_turn(self: Rc<Self>, place: Place, frame: ClientFrame, turn: NextTurn) {
        let _turn = turn.come().await;
        if let ClientFrame::Subscribe { id, subscribe } = frame {
            return self.ask_subscribe(place, Some(id), subscribe).await;
        }
        self.with(|state| {
            if let Some(at) = state.at(place) {
                state.obey(at, frame);
            }
        });
    }

    /// Asks whether a client may subscribe, where that has to be asked, and goes on accordingly.
    async fn ask_subscribe(self: &Rc<Self>, place: Place, id: Option<RequestId>, wish: Subscribe) {
        let found = self.with(|state| {
            let at = state.at(place)?;
            let is_to_ask = state.is_to_ask(at, &wish);
            let session = &state.seats[at].session;
            let request = SubscribeRequest {
                user: session.identity.user.as_str().into(),
                channel: wish.channel.as_str().into(),
            };
            let plugin = is_to_ask.then(|| self.asked_for(session, Hook::OnSubscribe)).flatten();
            Some((request, facts_of(session, Facts::default()), plugin))
        });
        let Some((request, facts, plugin)) = found else { return };
        let allowed = match plugin {
            None => Ok(wish),
            Some((host, plugin)) => match host.on_subscribe(&plugin, request, facts).await {
                Ok(SubscribeVerdict::Allow) => Ok(wish),
                // Where the client stands in another channel says nothing about this one.
                Ok(SubscribeVerdict::Rewrite(channel)) => {
                    Ok(Subscribe { channel, offset: None, epoch: None, ..wish })
                }
                Ok(SubscribeVerdict::Deny(refusal)) => Err(told(refusal)),
                Err(_) if plugin.on_failure().on_subscribe == OnFailure::Open => Ok(wish),
                Err(failure) => Err((ErrorCode::Unavailable, no_answer("plugin", failure).into())),
            },
        };
        self.with(|state| {
            // Who has lost its connection meanwhile names its channels again when it comes back.
            let Some(at) = state.at(place).filter(|at| state.seats[*at].link.is_some()) else { return };
            match allowed {
                Ok(wish) => state.subscribe(at, id, wish),
                Err((code, message)) => state.send(at, &ServerFrame::Error { id, code, message }),
            }
        });
    }

    /// Asks what becomes of a client's publication.
    pub(super) async fn ask_publish(
        self: &Rc<Self>,
        place: Place,
        channel: ChannelName,
        message: Publication,
    ) -> Fate {
        let found = self.with(|state| {
            let session = &state.seats[state.at(place)?].session;
            let plugin = self.asked_for(session, Hook::OnPublish)?;
            Some((
                plugin,
                session.identity.user.clone(),
                facts_of(session, Facts::of(Arc::new(message.clone()))),
            ))
        });
        let Some(((host, plugin), user, facts)) = found else { return Fate::To(vec![channel], message) };
        let data = message.data.clone();
        let asked = Incoming { user: user.as_str().into(), channel: channel.as_str().into(), data };
        match host.on_publish(&plugin, asked, facts).await {
            Ok(PublishVerdict::Accept) => Fate::To(vec![channel], message),
            Ok(PublishVerdict::Drop) => Fate::Nowhere,
            Ok(PublishVerdict::Refuse(refusal)) => {
                let (code, why) = told(refusal);
                Fate::Refused(code, why)
            }
            Ok(PublishVerdict::Replace(other)) => Fate::To(vec![channel], replaced(&message, other)),
            Ok(PublishVerdict::Redirect(channels, None)) => Fate::To(channels, message),
            Ok(PublishVerdict::Redirect(channels, Some(other))) => {
                Fate::To(channels, replaced(&message, other))
            }
            Err(_) if plugin.on_failure().on_publish == OnFailure::Open => Fate::To(vec![channel], message),
            Err(failure) => Fate::Refused(ErrorCode::Unavailable, no_answer("plugin", failure).into()),
        }
    }

    /// Tells the tenant's plugin that a session came or went, if it wants to know.
    pub(super) fn announce(&self, session: &Session, change: SessionChange) {
        if let Some(asked) = self.asked_for(session, Hook::OnSession) {
            let user = session.identity.user.as_str().into();
            let news = SessionNews { change, user, session: session.id.to_string().into() };
            self.env.news.hand_in(session.id, asked, news, facts_of(session, Facts::default()));
        }
    }

    /// Tells it that a session has ended, unless that goes on on another node, or is about to because its client was
    /// told to come back there.
    pub(super) async fn announce_end(&self, session: &Session, comes_back: bool) {
        if self.asked_for(session, Hook::OnSession).is_none() {
            return;
        }
        if let (Some(key), Some(attached)) = (session.cursor_key(), &session.attached) {
            let is_over = !comes_back
                && self.env.backbone.end_session(&key, attached.generation, session.id).await != Ok(false);
            if !is_over {
                return;
            }
        }
        self.announce(session, SessionChange::Disconnected);
    }

    /// Whether a session has not been on another node before, as far as somebody is told of that.
    pub(super) async fn is_new(&self, session: &Session) -> bool {
        let (Some(key), Some(attached)) = (session.cursor_key(), &session.attached) else { return true };
        self.asked_for(session, Hook::OnSession).is_none()
            || self.env.backbone.begin_session(&key, attached.generation, session.id).await
                != Ok(Some(session.id))
    }

    /// Who is asked for a session, if anybody.
    pub(super) fn asked_for(&self, session: &Session, hook: Hook) -> Option<(Arc<PluginHost>, Arc<Plugin>)> {
        let now_ms = self.env.backbone.clock().now_ms();
        self.env.plugins.for_client(&session.tenant.id, hook, now_ms, &session.id.part())
    }
}

/// The facts of a session, beside those of what it asks for.
pub(super) fn facts_of(session: &Session, facts: Facts) -> Facts {
    let device = session.attached.as_ref().map(|attached| attached.device.as_str());
    facts
        .with("session", session.id.to_string())
        .with_some("device", device)
        .with_some("class", session.identity.class.as_deref())
        .with_some("claims", session.identity.claims.clone())
}

fn told(refusal: Refusal) -> (ErrorCode, Box<str>) {
    let Refusal { reason, retry_after_ms } = refusal;
    match retry_after_ms {
        None => (ErrorCode::Forbidden, reason),
        Some(ms) => (ErrorCode::LimitExceeded, format!("{reason} (try again in {ms} ms)").into()),
    }
}

fn no_answer(who: &str, failure: Failure) -> String {
    match failure.is_retryable() {
        true => format!("the tenant's {who} has too much to do: try again shortly"),
        false => format!("the tenant's {who} did not answer: try again shortly"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_cookies_are_not_shown() {
        let request = http::Request::get("/v1/acme/ws?token=secret&room=1&tokens=2")
            .header("Authorization", "Bearer secret")
            .header("Cookie", "a=secret")
            .header("X-Team", "7");
        let asked = Asked::of(&request.body(()).unwrap().into_parts().0);
        assert_eq!(asked.path.as_deref(), Some("/v1/acme/ws?room=1&tokens=2"));
        let About::Request(headers) = &asked.about else { panic!() };
        assert_eq!(**headers, [("x-team".into(), "7".into())]);
        assert_eq!(&*without_token("/v1/acme/ws", Some("token=secret")), "/v1/acme/ws");
    }
}
