//! One question to a server by `wasi:http`.

use crate::bindings::wasi::http::outgoing_handler;
use crate::bindings::wasi::http::types::{
    ErrorCode, Fields, IncomingBody, Method, OutgoingBody, OutgoingRequest, Scheme, http_error_code,
};
use crate::bindings::wasi::io::streams::StreamError;

/// What a stream takes at once.
const WRITE_BYTES: usize = 4096;
/// What is read at once.
const READ_BYTES: u64 = 16 << 10;

/// A place on a server.
pub struct Url {
    scheme: Scheme,
    authority: String,
    path: String,
}

pub struct Response {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Url {
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let scheme = match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        };
        let at = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        let path = if path.is_empty() { "/" } else { path };
        (!authority.is_empty()).then(|| Self {
            scheme,
            authority: authority.to_owned(),
            path: path.to_owned(),
        })
    }
}

/// Posts JSON and reads the answer. The node limits how long both take, and how long the answer is.
pub fn post(url: &Url, json: &[u8]) -> Result<Response, String> {
    let length = json.len().to_string().into_bytes();
    let headers =
        [("content-type".to_owned(), b"application/json".to_vec()), ("content-length".to_owned(), length)];
    let headers = Fields::from_list(&headers).map_err(|error| format!("the headers: {error:?}"))?;
    let request = OutgoingRequest::new(headers);
    let set = request
        .set_method(&Method::Post)
        .and_then(|()| request.set_scheme(Some(&url.scheme)))
        .and_then(|()| request.set_authority(Some(&url.authority)))
        .and_then(|()| request.set_path_with_query(Some(&url.path)));
    set.map_err(|()| "the setting `url` has something that no URL has".to_owned())?;
    let body = request.body().map_err(|()| "the request has a body already".to_owned())?;
    let answer = outgoing_handler::handle(request, None).map_err(said)?;
    // Who does not take all of it says why in the answer.
    let _ = write(body, json);
    answer.subscribe().block();
    let response = answer.get().and_then(Result::ok).ok_or("the answer was taken already")?.map_err(said)?;
    let status = response.status();
    let body = response.consume().map_err(|()| "the body was taken already".to_owned())?;
    Ok(Response { status, body: read(&body)? })
}

fn write(body: OutgoingBody, bytes: &[u8]) -> Result<(), String> {
    let stream = body.write().map_err(|()| "the body is written already".to_owned())?;
    for piece in bytes.chunks(WRITE_BYTES) {
        stream.blocking_write_and_flush(piece).map_err(|error| format!("the body: {error:?}"))?;
    }
    drop(stream);
    OutgoingBody::finish(body, None).map_err(said)
}

fn read(body: &IncomingBody) -> Result<Vec<u8>, String> {
    let stream = body.stream().map_err(|()| "the body was taken already".to_owned())?;
    let mut bytes = Vec::new();
    loop {
        match stream.blocking_read(READ_BYTES) {
            Ok(piece) => bytes.extend(piece),
            Err(StreamError::Closed) => return Ok(bytes),
            Err(StreamError::LastOperationFailed(error)) => {
                return Err(http_error_code(&error).map_or_else(|| error.to_debug_string(), said));
            }
        }
    }
}

/// An error in words, as `wasi:http` names it.
fn said(error: ErrorCode) -> String {
    format!("the server was asked in vain: {error:?}")
}
