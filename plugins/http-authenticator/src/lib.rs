//! Asks a server who clients are: the setting `url`. It gets the client's token and address, and answers 200 with
//! an identity, 401 or 403 with nothing, and anything else where it does not know.

// The bindings call and are called through the component model's ABI.
#![allow(unsafe_code)]

mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package example:http-authenticator;
            world plugin {
                include tidegate:plugin/imports@0.1.0;
                include tidegate:plugin/http@0.1.0;
                export tidegate:plugin/authenticate@0.1.0;
            }
        ",
        generate_all,
    });
}

mod ask;

use ask::{Response, Url};
use bindings::exports::tidegate::plugin::authenticate::{self, Credentials, Identity};
use bindings::tidegate::plugin::context;
use bindings::tidegate::plugin::types::Refusal;
use bindings::wasi::config::store;
use bindings::wasi::logging::logging::{Level, log};

/// When a client may come again for whom the server had no answer.
const LATER_MS: u32 = 2_000;

struct Plugin;
bindings::export!(Plugin with_types_in bindings);

/// What the server says of a client; the fields of an identity.
#[derive(serde::Deserialize)]
struct Known {
    user: String,
    class: Option<String>,
    channels: Option<Vec<String>>,
    claims: Option<serde_json::Map<String, serde_json::Value>>,
    expires: Option<u64>,
}

impl authenticate::Guest for Plugin {
    fn authenticate(credentials: Credentials) -> Result<Identity, Refusal> {
        let Some(token) = credentials.token else { return Err(no("a token is needed")) };
        let question = serde_json::json!({ "token": token, "address": context::fact("address") });
        let Response { status, body } = url()
            .and_then(|url| ask::post(&url, question.to_string().as_bytes()))
            .map_err(|why| later(&why))?;
        match status {
            200 => {}
            401 | 403 => return Err(no("the token is not good")),
            // A redirect is none of the answers that were agreed on, and is not followed.
            other => return Err(later(&format!("the server answered {other}"))),
        }
        let known: Known = serde_json::from_slice(&body)
            .map_err(|error| later(&format!("the server's answer is no identity: {error}")))?;
        Ok(Identity {
            user: known.user,
            class: known.class,
            channels: known.channels,
            claims: known.claims.map(|claims| serde_json::Value::Object(claims).to_string()),
            expires: known.expires,
        })
    }
}

fn url() -> Result<Url, String> {
    let text = store::get("url").ok().flatten().ok_or("the setting `url` is missing")?;
    Url::parse(&text).ok_or_else(|| "the setting `url` must be http(s)://host/path".to_owned())
}

fn no(reason: &str) -> Refusal {
    Refusal { reason: reason.to_owned(), retry_after_ms: None }
}

/// Tells clients to come again, and the log why.
fn later(why: &str) -> Refusal {
    log(Level::Warn, "server", why);
    Refusal { reason: "it cannot be said now who you are".to_owned(), retry_after_ms: Some(LATER_MS) }
}
