//! How a client's payload stands in a frame, and what becomes of it in the log.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_PAD_INDIFFERENT as BASE64;
use bytes::Bytes;

use super::compact::{MAX_DEPTH, NotJson, compact};
use super::frames::Payload;

/// The field `data` as it was read.
#[derive(Debug)]
pub(super) enum Data<'a> {
    /// A JSON value of valid syntax.
    Json(&'a str),
    /// A CBOR byte string or text string.
    Bytes(Cow<'a, [u8]>),
    /// A CBOR item that cannot be a payload, and what it is.
    Wrong(&'static str),
}

impl Data<'_> {
    /// The payload, with `enc` as it stood beside the data; the error is in plain words.
    pub(super) fn into_payload(self, enc: Option<&str>) -> Result<Payload, String> {
        match self {
            Self::Json(json) => from_json(json, enc),
            Self::Bytes(_) if enc.is_some() => {
                Err("`enc` is for JSON frames: send the bytes themselves in `data` and leave `enc` out"
                    .into())
            }
            Self::Bytes(bytes) => Ok(Payload { data: Bytes::from(bytes.into_owned()), json_scalar: false }),
            Self::Wrong(kind) => Err(format!("`data` must be a byte string or a text string, not {kind}")),
        }
    }
}

fn from_json(json: &str, enc: Option<&str>) -> Result<Payload, String> {
    if !json.starts_with('"') {
        if enc.is_some() {
            return Err(
                "`enc` goes with a `data` that is a string: leave it out for other JSON values".into()
            );
        }
        let json_scalar = !json.starts_with(['{', '[']);
        let mut data = Vec::with_capacity(json.len());
        return match compact(json, &mut data) {
            Ok(()) => Ok(Payload { data: data.into(), json_scalar }),
            Err(NotJson::TooDeep) => Err(too_deep("data")),
            Err(NotJson::Syntax) => Err("`data` is not JSON that every client can read".into()),
        };
    }
    let text = unquote(json).map_err(|why| format!("`data` is not a valid string: {why}"))?;
    let data = match enc {
        None | Some("text") => text.into_owned().into_bytes(),
        Some("base64") => BASE64
            .decode(&*text)
            .map_err(|why| format!("`data` is not valid base64 (alphabet of RFC 4648 section 4): {why}"))?,
        Some(_) => return Err("`enc` must be \"text\" or \"base64\"".into()),
    };
    Ok(Payload { data: data.into(), json_scalar: false })
}

/// What is said about a value that nests too deep.
pub(super) fn too_deep(field: &str) -> String {
    format!("`{field}` nests deeper than {MAX_DEPTH} arrays and objects")
}

/// The text of a JSON string with its quotes; copied only if it holds escapes.
pub(super) fn unquote(json: &str) -> Result<Cow<'_, str>, serde_json::Error> {
    match json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(plain) if !plain.contains('\\') => Ok(Cow::Borrowed(plain)),
        _ => serde_json::from_str::<String>(json).map(Cow::Owned),
    }
}
