//! Says who clients are by a signed token, and what their role may reach.
//!
//! A token is `user.role.expiry.signature`: the expiry in seconds since 1970, the signature HMAC-SHA256 in hex
//! over all before it, with the setting `secret`. Roles are the setting `roles`.

// The bindings call and are called through the component model's ABI.
#![allow(unsafe_code)]

mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package example:authenticator;
            world plugin {
                include tidegate:plugin/imports@0.1.0;
                export tidegate:plugin/authenticate@0.1.0;
                export tidegate:plugin/on-subscribe@0.1.0;
            }
        ",
        generate_all,
    });
}

mod roles;
mod token;

use bindings::exports::tidegate::plugin::authenticate::{self, Credentials, Identity};
use bindings::exports::tidegate::plugin::on_subscribe::{self, Request, Verdict};
use bindings::tidegate::plugin::context;
use bindings::tidegate::plugin::types::Refusal;
use bindings::wasi::clocks::wall_clock;
use bindings::wasi::logging::logging::{Level, log};
use roles::{Role, Setup};

struct Plugin;
bindings::export!(Plugin with_types_in bindings);

impl authenticate::Guest for Plugin {
    fn authenticate(credentials: Credentials) -> Result<Identity, Refusal> {
        let setup = setup()?;
        let shown =
            credentials.token.ok_or_else(|| refusal("a token is needed: user.role.expiry.signature"))?;
        let token = token::verify(&shown, setup.secret.as_bytes()).map_err(refusal)?;
        if token.expiry <= wall_clock::now().seconds {
            return Err(refusal("the token has expired"));
        }
        let Some(role) = setup.roles.get(token.role) else {
            // The signature is good: whoever makes the tokens knows a role that the settings do not.
            log(Level::Warn, "roles", &format!("there is no role `{}`", token.role));
            return Err(refusal("the token's role is not known here"));
        };
        Ok(Identity {
            user: token.user.to_owned(),
            class: Some(role.class.clone().unwrap_or_else(|| token.role.to_owned())),
            // The node itself lets the client reach nothing else, also when it comes back without being asked.
            channels: role.channels.clone(),
            claims: Some(serde_json::json!({ "role": token.role }).to_string()),
            expires: Some(token.expiry),
        })
    }
}

impl on_subscribe::Guest for Plugin {
    fn on_subscribe(request: Request) -> Verdict {
        match closed(&request.channel) {
            Ok(None) => Verdict::Allow,
            Ok(Some(role)) => {
                Verdict::Deny(refusal(&format!("{} is closed to the role {role}", request.channel)))
            }
            Err(why) => Verdict::Deny(why),
        }
    }
}

/// The client's role, if the channel is closed to it.
fn closed(channel: &str) -> Result<Option<String>, Refusal> {
    let claims = context::fact("claims").unwrap_or_default();
    let Ok(roles::Claims { role: name }) = serde_json::from_str(&claims) else {
        return Err(refusal("this client has no role"));
    };
    match setup()?.roles.get(&name) {
        Some(role) if role.is_closed(channel) => Ok(Some(name)),
        Some(Role { .. }) => Ok(None),
        None => Err(refusal("the client's role is not known any more")),
    }
}

/// The settings, or a refusal that tells clients nothing and the log everything.
fn setup() -> Result<&'static Setup, Refusal> {
    Setup::get().as_ref().map_err(|why| {
        log(Level::Error, "settings", why);
        refusal("authentication is not set up")
    })
}

fn refusal(reason: &str) -> Refusal {
    Refusal { reason: reason.to_owned(), retry_after_ms: None }
}
