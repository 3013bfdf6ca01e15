//! `POST /admin/tenants/<tenant>/kick`: ends sessions of a tenant that this node has.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;

use crate::directory::{Directory, Whose};
use crate::domain::{DeviceId, SessionId, UserId};
use crate::session::Session;
use crate::tenants::Tenants;

/// Bytes of the longest reason: it goes to the client in one frame.
const REASON_BYTES: usize = 1_024;

/// Whom to kick, and what they are told.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kick {
    session: Option<SessionId>,
    user: Option<UserId>,
    device: Option<DeviceId>,
    reason: Option<Box<str>>,
}

impl Kick {
    fn parse(body: &[u8]) -> Result<(Whose, Option<Box<str>>), String> {
        let Self { session, user, device, reason } =
            serde_json::from_slice(body).map_err(|error| format!("the body is not understood: {error}"))?;
        if reason.as_ref().is_some_and(|reason| reason.len() > REASON_BYTES) {
            return Err(format!("`reason` has more than {REASON_BYTES} bytes"));
        }
        let whose = match (session, user, device) {
            (Some(session), None, None) => Whose::Session(session),
            (None, Some(user), device) => Whose::User(user, device),
            _ => return Err("say `session`, or `user` and perhaps `device`".to_owned()),
        };
        Ok((whose, reason))
    }
}

/// The route, for the admin listener.
pub fn router(directory: Directory<Session>, tenants: Arc<Tenants>) -> Router {
    Router::new().route("/tenants/{tenant}/kick", post(kick)).with_state((directory, tenants))
}

async fn kick(
    State((directory, tenants)): State<(Directory<Session>, Arc<Tenants>)>,
    Path(tenant): Path<String>,
    body: Bytes,
) -> Response {
    let Some(tenant) = tenants.get(&tenant) else {
        return error(StatusCode::NOT_FOUND, "there is no such tenant");
    };
    match Kick::parse(&body) {
        Ok((whose, reason)) => {
            let kicked = directory.kick(&tenant.id, whose, reason).await;
            Json(json!({ "kicked": kicked })).into_response()
        }
        Err(why) => error(StatusCode::BAD_REQUEST, &why),
    }
}

fn error(status: StatusCode, why: &str) -> Response {
    (status, Json(json!({ "error": why }))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_names_a_session_or_a_user() {
        let session = SessionId::random();
        let (whose, reason) = Kick::parse(json!({"session": session}).to_string().as_bytes()).unwrap();
        assert_eq!((whose, reason), (Whose::Session(session), None));
        let (whose, reason) =
            Kick::parse(br#"{"user": "alice", "device": "phone", "reason": "spam"}"#).unwrap();
        let (user, device) = (UserId::parse("alice").unwrap(), DeviceId::parse("phone").unwrap());
        assert_eq!((whose, reason.as_deref()), (Whose::User(user, Some(device)), Some("spam")));
        for (body, says) in [
            ("", "not understood"),
            ("{}", "say `session`"),
            (r#"{"device": "phone"}"#, "say `session`"),
            (r#"{"session": "short"}"#, "22 characters"),
            (r#"{"user": ""}"#, "percent-encoded"),
            (r#"{"usr": "alice"}"#, "unknown field"),
        ] {
            let why = Kick::parse(body.as_bytes()).unwrap_err();
            assert!(why.contains(says), "{body}: {why}");
        }
        let both = json!({"session": session, "user": "alice"}).to_string();
        assert!(Kick::parse(both.as_bytes()).unwrap_err().contains("say `session`"));
        let long = json!({"user": "alice", "reason": "x".repeat(1_025)}).to_string();
        assert!(Kick::parse(long.as_bytes()).unwrap_err().contains("1024"));
    }
}
