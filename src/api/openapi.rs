//! The API's description: `docs/openapi.json` (OpenAPI 3.1), served at `GET /v1/openapi.json`.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Response};

use super::answer::{self, Answer};

/// The document.
pub const OPENAPI: &str = include_str!("../../docs/openapi.json");

/// The endpoint.
pub fn handle(method: &Method) -> Answer {
    if method != Method::GET && method != Method::HEAD {
        return answer::method_not_allowed("GET, HEAD");
    }
    let mut answer = Response::new(Bytes::from_static(OPENAPI.as_bytes()));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}
