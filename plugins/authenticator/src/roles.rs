//! The settings: a secret, and what each role may reach.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::Deserialize;

use crate::bindings::wasi::config::store;

/// Bytes of the shortest secret.
const SECRET_BYTES: usize = 16;

/// All settings.
pub struct Setup {
    pub secret: String,
    pub roles: BTreeMap<String, Role>,
}

/// What a role may reach.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Role {
    /// The class of its clients; the role's name where none is given.
    pub class: Option<String>,
    /// The only channels it may reach; all that the namespaces allow where none are given.
    pub channels: Option<Vec<String>>,
    /// Of these, channels that are closed to it.
    #[serde(default)]
    pub except: Vec<String>,
}

/// What `authenticate` leaves for `on-subscribe`.
#[derive(Deserialize)]
pub struct Claims {
    pub role: String,
}

impl Setup {
    /// Read once: an instance's settings never change. New ones come with new instances.
    pub fn get() -> &'static Result<Self, String> {
        static SETUP: OnceLock<Result<Setup, String>> = OnceLock::new();
        SETUP.get_or_init(Self::read)
    }

    fn read() -> Result<Self, String> {
        let secret = setting("secret").unwrap_or_default();
        if secret.len() < SECRET_BYTES {
            return Err(format!("the setting `secret` must have {SECRET_BYTES} bytes at least"));
        }
        let roles = setting("roles").ok_or("the setting `roles` is missing")?;
        let roles = serde_json::from_str(&roles).map_err(|error| format!("the setting `roles`: {error}"))?;
        Ok(Self { secret, roles })
    }
}

impl Role {
    /// Whether a channel is among the exceptions.
    pub fn is_closed(&self, channel: &str) -> bool {
        self.except.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(beginning) => channel.starts_with(beginning),
            None => channel == pattern,
        })
    }
}

fn setting(name: &str) -> Option<String> {
    store::get(name).ok().flatten()
}
