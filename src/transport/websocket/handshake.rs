//! The opening handshake (RFC 6455 section 4.2).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    ALLOW, CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::protocol::Codec;

/// An upgrade that may go ahead.
#[derive(Debug)]
pub struct Accepted {
    /// The encoding that the client asked for.
    pub codec: Codec,
    /// `101 Switching Protocols`, to be sent before the socket is taken over.
    pub response: Response<()>,
}

/// Why a request does not become a WebSocket. It is the client's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// The status to answer with.
    pub status: StatusCode,
    /// What is wrong and what to send instead.
    pub text: &'static str,
}

impl Refusal {
    /// The answer, with the headers that its status asks for: the version that is spoken with 426
    /// (RFC 6455 section 4.4), the method that is allowed with 405.
    pub fn into_response(self) -> Response<&'static str> {
        let mut response = Response::new(self.text);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if self.status == StatusCode::UPGRADE_REQUIRED {
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static(VERSION));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("GET"));
        }
        response
    }
}

/// Checks an upgrade request and answers it. Path, origin and authorisation are the caller's to check.
///
/// Of the subprotocols that the client offers the first that is known is taken. A client that offers
/// none, like a command-line tool, speaks JSON.
///
/// # Errors
/// [`Refusal`] says with which status and text to answer.
pub fn accept<B>(request: &Request<B>) -> Result<Accepted, Refusal> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err(refusal(StatusCode::METHOD_NOT_ALLOWED, "a WebSocket opens with GET"));
    }
    if request.version() != Version::HTTP_11 {
        return Err(refusal(StatusCode::BAD_REQUEST, "a WebSocket opens over HTTP/1.1"));
    }
    if !has_token(headers, &UPGRADE, "websocket") {
        let text = "this is a WebSocket endpoint: send the header Upgrade: websocket";
        return Err(refusal(StatusCode::UPGRADE_REQUIRED, text));
    }
    if !has_token(headers, &CONNECTION, "upgrade") {
        return Err(refusal(StatusCode::BAD_REQUEST, "the header Connection: Upgrade is missing"));
    }
    if only(headers, &SEC_WEBSOCKET_VERSION).is_none_or(|version| version != VERSION) {
        return Err(refusal(StatusCode::UPGRADE_REQUIRED, "Sec-WebSocket-Version must be 13"));
    }
    let Some(key) = only(headers, &SEC_WEBSOCKET_KEY).filter(|key| is_key(key)) else {
        let text = "Sec-WebSocket-Key must be there once, 16 bytes in base64";
        return Err(refusal(StatusCode::BAD_REQUEST, text));
    };
    let offer = choose(headers)?;
    Ok(Accepted { codec: offer.unwrap_or(Codec::Json), response: switching(key, offer) })
}

/// The subprotocol that names an encoding.
pub fn subprotocol(codec: Codec) -> &'static str {
    match codec {
        Codec::Json => "tidegate.v1.json",
        Codec::Cbor => "tidegate.v1.cbor",
    }
}

const VERSION: &str = "13";

fn refusal(status: StatusCode, text: &'static str) -> Refusal {
    Refusal { status, text }
}

/// The first known subprotocol offered; `None` where none was offered at all.
fn choose(headers: &HeaderMap) -> Result<Option<Codec>, Refusal> {
    let mut offered = tokens(headers, &SEC_WEBSOCKET_PROTOCOL).peekable();
    if offered.peek().is_none() {
        return Ok(None);
    }
    // Subprotocol names are compared as they stand (RFC 6455 section 4.1).
    let known = offered
        .find_map(|name| [Codec::Json, Codec::Cbor].into_iter().find(|codec| subprotocol(*codec) == name));
    let text =
        "no known subprotocol is offered: offer tidegate.v1.json or tidegate.v1.cbor, or none for JSON";
    known.map(Some).ok_or(refusal(StatusCode::BAD_REQUEST, text))
}

fn switching(key: &str, offer: Option<Codec>) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    let answer = derive_accept_key(key.as_bytes());
    let answer = HeaderValue::try_from(answer).expect("base64 is valid in a header");
    headers.insert(SEC_WEBSOCKET_ACCEPT, answer);
    if let Some(codec) = offer {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol(codec)));
    }
    response
}

/// The tokens of a header that holds a list, over all of its lines.
fn tokens<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|found| found.eq_ignore_ascii_case(token))
}

/// The value of a header that must not be repeated.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).into_iter();
    let value = values.next()?.to_str().ok()?.trim();
    values.next().is_none().then_some(value)
}

fn is_key(key: &str) -> bool {
    // 16 bytes are 22 characters and two of padding; 18 bytes are what a decoder wants room for.
    key.len() == 24 && STANDARD.decode_slice(key, &mut [0; 18]) == Ok(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The request of RFC 6455 section 1.3, changed by `change`.
    fn request(change: impl FnOnce(&mut Request<()>)) -> Request<()> {
        let mut request = Request::builder()
            .uri("/v1/demo/ws")
            .header("Upgrade", "websocket")
            .header("Connection", "keep-alive, Upgrade")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("Sec-WebSocket-Version", "13")
            .body(())
            .unwrap();
        change(&mut request);
        request
    }

    fn refused(change: impl FnOnce(&mut Request<()>)) -> Refusal {
        accept(&request(change)).unwrap_err()
    }

    fn set(name: &'static str, value: &'static str) -> impl FnOnce(&mut Request<()>) {
        move |request| {
            request.headers_mut().insert(name, HeaderValue::from_static(value));
        }
    }

    #[test]
    fn the_standards_example_is_answered() {
        let accepted = accept(&request(|_| ())).unwrap();
        assert_eq!(accepted.codec, Codec::Json);
        assert_eq!(accepted.response.status(), 101);
        let headers = accepted.response.headers();
        assert_eq!(headers["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(headers["upgrade"], "websocket");
        assert!(!headers.contains_key("sec-websocket-protocol"));
    }

    #[test]
    fn a_real_clients_request_is_accepted() {
        use tokio_tungstenite::tungstenite::client::{ClientRequestBuilder, IntoClientRequest};
        let uri = "ws://localhost/v1/demo/ws".parse().unwrap();
        let builder = ClientRequestBuilder::new(uri).with_sub_protocol("tidegate.v1.cbor");
        assert_eq!(accept(&builder.into_client_request().unwrap()).unwrap().codec, Codec::Cbor);
    }

    #[test]
    fn the_first_known_subprotocol_is_taken() {
        for (offer, codec) in [
            ("tidegate.v1.cbor", Codec::Cbor),
            ("chat, tidegate.v1.json,tidegate.v1.cbor", Codec::Json),
            ("tidegate.v2.json, tidegate.v1.cbor", Codec::Cbor),
        ] {
            let accepted = accept(&request(set("sec-websocket-protocol", offer))).unwrap();
            assert_eq!(accepted.codec, codec, "{offer}");
            assert_eq!(accepted.response.headers()["sec-websocket-protocol"], subprotocol(codec));
        }
        let two_lines = request(|request| {
            request.headers_mut().append("sec-websocket-protocol", HeaderValue::from_static("chat"));
            request
                .headers_mut()
                .append("sec-websocket-protocol", HeaderValue::from_static("tidegate.v1.cbor"));
        });
        assert_eq!(accept(&two_lines).unwrap().codec, Codec::Cbor);
        let unknown = refused(set("sec-websocket-protocol", "chat"));
        assert_eq!(unknown.status, 400);
        assert!(unknown.text.contains("tidegate.v1.cbor"));
    }

    #[test]
    fn what_is_no_upgrade_is_refused_with_its_status() {
        assert_eq!(refused(|request| *request.method_mut() = Method::POST).status, 405);
        assert_eq!(refused(|request| *request.version_mut() = Version::HTTP_10).status, 400);
        assert_eq!(refused(set("upgrade", "h2c")).status, 426);
        assert_eq!(refused(set("connection", "keep-alive")).status, 400);
        assert_eq!(refused(set("sec-websocket-version", "8")).status, 426);
        for key in ["", "short", "dGhlIHNhbXBsZSBub25jZQ=!", "dGhlIHNhbXBsZSBub25jZTEy"] {
            assert_eq!(refused(set("sec-websocket-key", key)).status, 400, "{key}");
        }
        let twice = refused(|request| {
            let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
            request.headers_mut().append("sec-websocket-key", key);
        });
        assert_eq!(twice.status, 400);
    }

    #[test]
    fn a_refusal_says_what_is_spoken() {
        let response = refused(set("sec-websocket-version", "8")).into_response();
        assert_eq!(response.status(), 426);
        assert_eq!(response.headers()["sec-websocket-version"], "13");
        let response = refused(|request| *request.method_mut() = Method::POST).into_response();
        assert_eq!(response.headers()["allow"], "GET");
    }
}
