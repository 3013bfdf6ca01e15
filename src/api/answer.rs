//! Answers in JSON, as all routes of the API give them: an error is `{"error": "why, in plain words"}`.

use std::fmt::Display;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, Response, StatusCode};
use serde::Serialize;
use serde_json::json;

use super::admin::bearer;
use crate::tenants::Tenant;

/// An answer whose body is at hand.
pub type Answer = Response<Bytes>;

/// An answer in JSON.
pub fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    let text = serde_json::to_string(body).expect("what the API answers with has nothing but string keys");
    let mut answer = Response::new(Bytes::from(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// `{"error": why}`.
pub fn error(status: StatusCode, why: impl Display) -> Answer {
    json(status, &json!({ "error": why.to_string() }))
}

/// Says when to come back: in whole seconds, at least one.
pub fn retry_after(mut answer: Answer, wait: Duration) -> Answer {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    answer
}

/// 405; `allow` lists what the route takes, as in the header of that name.
pub fn method_not_allowed(allow: &'static str) -> Answer {
    let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, format_args!("this takes {allow}"));
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    answer
}

/// 401, for a request without a key of the tenant.
pub fn unauthorized() -> Answer {
    unauthenticated("send `Authorization: Bearer <key>` with an API key of this tenant")
}

/// 401, for a request without what stands for its client; `why` says what to send.
pub fn unauthenticated(why: impl Display) -> Answer {
    let mut answer = error(StatusCode::UNAUTHORIZED, why);
    answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    answer
}

/// Whether the request carries an API key of the tenant.
pub fn has_key(tenant: &Tenant, headers: &HeaderMap) -> bool {
    let key = headers.get(http::header::AUTHORIZATION).and_then(bearer);
    key.is_some_and(|key| tenant.verifies_api_key(key))
}
