use crate::bindings::exports::tidegate::plugin::authenticate::{Credentials, Guest, Identity};
use crate::bindings::tidegate::plugin::types::Refusal;
use crate::{Plugin, setting};

/// Who is this client? Here a token is `<user>:<secret>`, with the setting `secret`.
impl Guest for Plugin {
    fn authenticate(credentials: Credentials) -> Result<Identity, Refusal> {
        let secret = setting("secret").filter(|secret| !secret.is_empty());
        let token = credentials.token.unwrap_or_default();
        match (token.split_once(':'), secret) {
            (Some((user, shown)), Some(secret)) if shown == secret => Ok(Identity {
                user: user.to_owned(),
                class: None,
                channels: None,
                claims: None,
                expires: None,
            }),
            _ => Err(Refusal { reason: "a token user:secret is needed".to_owned(), retry_after_ms: None }),
        }
    }
}
