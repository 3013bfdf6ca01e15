//! Tokens of the demo tenant's users.

use serde_json::{Map, Value};
use tidegate::auth::{SigningKey, sign};
use tidegate::config::{DEMO_JWT_SECRET, Secret};

use super::now_ns;

/// A token for a user, good for an hour.
pub fn token(user: &str) -> String {
    let mut claims = Map::new();
    claims.insert("sub".to_owned(), Value::from(user));
    claims.insert("exp".to_owned(), Value::from(now_ns() / 1_000_000_000 + 3600));
    sign(&SigningKey::Hs256(Secret::new(DEMO_JWT_SECRET)), None, &claims)
}
