//! What the client of a stream has to say: frames by `POST /v1/<tenant>/frames`.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::json;
use serde_json::value::RawValue;

use super::{Answer, api_error, whole};
use crate::api::admin::bearer;
use crate::api::answer;
use crate::directory::{Frames, Said};
use crate::protocol::Codec;
use crate::shard::Shard;
use crate::shard::admit::latest;
use crate::tenants::Tenant;

/// Frames that one request brings at most.
const MOST: usize = 64;

impl Shard {
    /// Gives frames to the session that the resume token names, wherever on this node it is.
    pub(super) async fn take_frames(
        self: Rc<Self>,
        request: Request<Incoming>,
        tenant: &Arc<Tenant>,
    ) -> Answer {
        let (head, body) = request.into_parts();
        if head.method != Method::POST {
            return whole(answer::method_not_allowed("POST"));
        }
        let now_ms = self.env.backbone.clock().now_ms();
        let token = head.headers.get(AUTHORIZATION).and_then(bearer);
        let claims = token.map(|token| self.env.resume.verify(token, &tenant.id, now_ms));
        let claims = match claims {
            Some(Ok(claims)) => claims,
            Some(Err(error)) => return unauthorized(&error.to_string()),
            None => return unauthorized("`Authorization: Bearer` is missing"),
        };
        let body = match Self::body(body, tenant.limits.frame_bytes).await {
            Ok(body) => body,
            Err(answer) => return answer,
        };
        let frames = match frames(&body) {
            Ok(frames) => frames,
            Err(why) => return api_error(StatusCode::BAD_REQUEST, &why),
        };
        let wanted = latest(claims.tenant, claims.attach);
        match self.env.directory.say(claims.session, wanted, frames).await {
            Some(Said::Heard) => whole(answer::json(StatusCode::ACCEPTED, &json!({}))),
            Some(Said::Outdated) => unauthorized("the session was resumed since, with a newer token"),
            Some(Said::NotConnected) => {
                api_error(StatusCode::CONFLICT, "the session has no connection: open its stream again first")
            }
            Some(Said::Behind) => {
                let why = "the session has not read what waits for it: read its stream, then say this again";
                api_error(StatusCode::TOO_MANY_REQUESTS, why)
            }
            None => {
                let why = format!(
                    "this node ({}) does not have the session: it has ended, or lives on {}",
                    self.env.node, claims.node
                );
                api_error(StatusCode::NOT_FOUND, &why)
            }
        }
    }
}

fn unauthorized(why: &str) -> Answer {
    let say = "send the newest `resume` of `connected` as the bearer token";
    whole(answer::unauthenticated(format_args!("{say}: {why}")))
}

/// One frame, or a list of them. What is JSON and no frame is for the session to answer, as over any transport.
fn frames(body: &Bytes) -> Result<Frames, String> {
    let no_json = |error| format!("the body has to be a frame in JSON, or a list of frames: {error}");
    let whole: &RawValue = serde_json::from_slice(body).map_err(no_json)?;
    let list: Vec<&RawValue> = if whole.get().starts_with('[') {
        serde_json::from_str(whole.get()).map_err(no_json)?
    } else {
        vec![whole]
    };
    if list.len() > MOST {
        return Err(format!("the body has {} frames, and {MOST} may be sent at a time", list.len()));
    }
    Ok(list.iter().map(|frame| Codec::Json.decode(frame.get().as_bytes())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(body: &str) -> Result<Vec<bool>, String> {
        let frames = frames(&Bytes::copy_from_slice(body.as_bytes()))?;
        Ok(frames.iter().map(Result::is_ok).collect())
    }

    #[test]
    fn one_frame_or_a_list_is_taken() {
        assert_eq!(taken(r#" {"type":"ping"}"#), Ok(vec![true]));
        let list = r#" [{"type":"ping"}, {"type":"ack"}, {"type":"ack","channel":"room:1","offset":"1-0"}]"#;
        assert_eq!(taken(list), Ok(vec![true, false, true]), "what is no frame is answered by the session");
        assert_eq!(taken("[]"), Ok(vec![]));
        assert_eq!(taken("7"), Ok(vec![false]));
        for bad in ["[", "", r#"{"type":"ping"} {"type":"ping"}"#] {
            assert!(taken(bad).unwrap_err().contains("JSON"), "{bad}");
        }
        let many = format!("[{}]", vec![r#"{"type":"ping"}"#; 65].join(","));
        assert!(taken(&many).unwrap_err().contains("65"));
    }
}
