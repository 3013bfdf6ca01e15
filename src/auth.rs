//! Who a client is: from its token to an [`Identity`], and what an identity may reach.
//!
//! Tokens are JWTs (RFC 7519) in JWS compact form (RFC 7515). The tenant's key names the algorithm;
//! what the token says about its algorithm only ever refuses it (RFC 8725 section 3.1).

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::config::{JwtConfig, sha256};
use crate::domain::{
    ChannelName, CloseReason, InvalidName, NamespaceRules, PublishRight, SubscribeRight, UserId,
};
use crate::plugin::answers::Admitted;
use crate::tenants::Tenant;

mod jws;
mod pattern;

pub use jws::{SigningKey, UnusableKey, sign};
pub use pattern::{ChannelPattern, InvalidPattern};

/// Bytes of the longest token: more fits neither into what proxies pass on nor into a reason to have it.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// Entries of the longest `channels` claim.
pub const MAX_PATTERNS: usize = 256;

/// Bytes of the longest class.
const MAX_CLASS_BYTES: usize = 128;

/// A client that was let in. Only [`authenticate`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// The user.
    pub user: UserId,
    /// The group of subscribers that it counts to, for plugins.
    pub class: Option<Box<str>>,
    /// The only channels it may reach beside its own; `None`: those the namespaces' rules allow.
    pub channels: Option<Vec<ChannelPattern>>,
    /// What else its authenticator knows of it, a JSON object, for other hooks.
    pub claims: Option<Arc<str>>,
    /// When the token stops being good, leeway included, in milliseconds since 1970.
    pub expires_ms: Option<u64>,
    /// SHA-256 of the token, which tells whether another connection has the same one. All zeros for
    /// anonymous clients: all of them have the same token, none.
    pub token_hash: [u8; 32],
}

/// Why a client was not let in; always for the client to mend. The texts go to the client, and contain
/// nothing of the key or of the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No token, and the tenant has no anonymous clients.
    #[error("a token is needed")]
    Missing,
    /// The tenant has no keys to verify a token with.
    #[error("this tenant takes no tokens; connect without one")]
    NotTaken,
    /// The token has more than [`MAX_TOKEN_BYTES`].
    #[error("the token is longer than {MAX_TOKEN_BYTES} bytes")]
    TooLong,
    /// The token is no JWT.
    #[error("the token is not a JWT: {0}")]
    Malformed(&'static str),
    /// No key has the `kid` of the token, or the token has none and every key has one.
    #[error("the token's `kid` names none of the tenant's keys")]
    UnknownKey,
    /// The token claims another algorithm than its key has.
    #[error("the token's `alg` must be {expected}, as its key has it")]
    WrongAlgorithm {
        /// The key's algorithm.
        expected: &'static str,
    },
    /// The token is forged, damaged, or signed with another key.
    #[error("the token's signature does not fit its key")]
    BadSignature,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet (`nbf`); are the clocks right?")]
    NotYetValid,
    /// It never expires, and the tenant wants tokens that do.
    #[error("the token has no expiry (`exp`), which this tenant requires")]
    NoExpiry,
    /// Somebody else issued it.
    #[error("the token's issuer (`iss`) is not the one that this tenant trusts")]
    WrongIssuer,
    /// It is for somebody else.
    #[error("the token is for another audience (`aud`)")]
    WrongAudience,
    /// A claim cannot be understood.
    #[error("the token's claim `{claim}` {rule}")]
    BadClaim {
        /// The claim's name.
        claim: Box<str>,
        /// What it must be.
        rule: &'static str,
    },
    /// The user's name cannot be one.
    #[error("the token's user cannot be used: {0}")]
    BadUser(InvalidName),
    /// An item of `channels` names no channels.
    #[error("the token's claim `channels`: {0}")]
    BadPattern(InvalidPattern),
}

impl AuthError {
    /// How the connection ends.
    pub fn close_reason(&self) -> CloseReason {
        match self {
            Self::Expired => CloseReason::TokenExpired,
            _ => CloseReason::Unauthorized,
        }
    }

    fn claim(claim: &str, rule: &'static str) -> Self {
        Self::BadClaim { claim: claim.into(), rule }
    }
}

/// Finds out who a client is. `now_ms` is the time in milliseconds since 1970. An empty token is none.
pub fn authenticate(tenant: &Tenant, token: Option<&str>, now_ms: u64) -> Result<Identity, AuthError> {
    let Some(token) = token.filter(|token| !token.is_empty()) else {
        return if tenant.anonymous { Ok(anonymous()) } else { Err(AuthError::Missing) };
    };
    if token.len() > MAX_TOKEN_BYTES {
        return Err(AuthError::TooLong);
    }
    let rules = tenant.jwt.as_ref().ok_or(AuthError::NotTaken)?;
    let claims = jws::verify(token, &rules.keys)?;
    let expires_ms = validity(rules, &claims, now_ms)?;
    parties(rules, &claims)?;
    Ok(Identity {
        user: user(&claims, &rules.user_claim)?,
        class: class(&claims)?,
        channels: channels(&claims)?,
        claims: None,
        expires_ms,
        token_hash: sha256(token.as_bytes()),
    })
}

/// SHA-256 of a client's token, as [`Identity::token_hash`] has it.
pub fn token_hash(token: Option<&str>) -> [u8; 32] {
    token.filter(|token| !token.is_empty()).map_or([0; 32], |token| sha256(token.as_bytes()))
}

impl Identity {
    /// Somebody whom the tenant's own authenticator lets in with this token.
    ///
    /// # Errors
    /// Where an item of its `channels` names no channels.
    pub fn admitted(admitted: Admitted, token: Option<&str>) -> Result<Self, InvalidPattern> {
        let Admitted { user, class, channels, claims, expires_ms } = admitted;
        let parse =
            |patterns: Vec<Box<str>>| patterns.iter().map(|text| ChannelPattern::parse(text)).collect();
        Ok(Self {
            user,
            class,
            channels: channels.map(parse).transpose()?,
            claims: claims.map(Into::into),
            expires_ms,
            token_hash: token_hash(token),
        })
    }

    /// Whether its client showed no token.
    pub fn is_anonymous(&self) -> bool {
        self.token_hash == [0; 32]
    }

    /// Whether it may subscribe to a channel of a namespace with these rules: always to its own personal
    /// channel, never to another's, nor by this to the channel of a session.
    pub fn may_subscribe(&self, rules: &NamespaceRules, channel: &ChannelName) -> bool {
        if channel.is_personal() {
            return *channel == ChannelName::personal(&self.user);
        }
        if channel.is_of_session() {
            // Whose it is only the session knows.
            return false;
        }
        match (&self.channels, rules.subscribe) {
            (None, right) => right == SubscribeRight::Anyone,
            (Some(_), _) => self.is_listed(channel),
        }
    }

    /// Whether it may publish to a channel of a namespace with these rules; `is_subscribed` says whether
    /// it is subscribed there now.
    pub fn may_publish(&self, rules: &NamespaceRules, channel: &ChannelName, is_subscribed: bool) -> bool {
        let has_right = match rules.publish {
            PublishRight::Nobody => false,
            PublishRight::Subscribers => is_subscribed,
            PublishRight::Anyone => true,
        };
        let is_own = || *channel == ChannelName::personal(&self.user);
        has_right && (self.channels.is_none() || self.is_listed(channel) || is_own())
    }

    fn is_listed(&self, channel: &ChannelName) -> bool {
        self.channels.iter().flatten().any(|pattern| pattern.matches(channel))
    }
}

fn anonymous() -> Identity {
    let random: u128 = rand::random();
    let user = UserId::parse(&format!("anon-{random:032x}")).expect("hex digits make a user");
    Identity { user, class: None, channels: None, claims: None, expires_ms: None, token_hash: [0; 32] }
}

/// Checks `exp` and `nbf`; returns when the token stops being good.
fn validity(rules: &JwtConfig, claims: &Map<String, Value>, now_ms: u64) -> Result<Option<u64>, AuthError> {
    let leeway = u64::try_from(rules.leeway.as_millis()).unwrap_or(u64::MAX);
    if date_ms(claims, "nbf")?.is_some_and(|start| start > now_ms.saturating_add(leeway)) {
        return Err(AuthError::NotYetValid);
    }
    let Some(end) = date_ms(claims, "exp")? else {
        return if rules.require_expiry { Err(AuthError::NoExpiry) } else { Ok(None) };
    };
    let end = end.saturating_add(leeway);
    if end <= now_ms { Err(AuthError::Expired) } else { Ok(Some(end)) }
}

/// A `NumericDate` (RFC 7519 section 2), seconds that may have a fraction, in milliseconds.
fn date_ms(claims: &Map<String, Value>, claim: &str) -> Result<Option<u64>, AuthError> {
    let Some(value) = claims.get(claim) else { return Ok(None) };
    let seconds =
        value.as_f64().ok_or_else(|| AuthError::claim(claim, "must be a number of seconds since 1970"))?;
    // The cast saturates: dates before 1970 are 1970, dates beyond all time are the end of it.
    Ok(Some((seconds * 1_000.0) as u64))
}

/// Checks `iss` and `aud`.
fn parties(rules: &JwtConfig, claims: &Map<String, Value>) -> Result<(), AuthError> {
    if let Some(issuer) = &rules.issuer
        && claims.get("iss").and_then(Value::as_str) != Some(issuer)
    {
        return Err(AuthError::WrongIssuer);
    }
    let is_for = |audience: &str| match claims.get("aud") {
        Some(Value::Array(many)) => many.iter().any(|one| one.as_str() == Some(audience)),
        one => one.and_then(Value::as_str) == Some(audience),
    };
    let fits = match &rules.audience {
        Some(audience) => is_for(audience),
        // A token that names its audience must be refused by whoever is not it (RFC 7519 section 4.1.3).
        None => !claims.contains_key("aud"),
    };
    if fits { Ok(()) } else { Err(AuthError::WrongAudience) }
}

fn user(claims: &Map<String, Value>, claim: &str) -> Result<UserId, AuthError> {
    let parse = |text: &str| UserId::parse(text).map_err(AuthError::BadUser);
    match claims.get(claim) {
        Some(Value::String(text)) => parse(text),
        // Many databases number their users.
        Some(Value::Number(number)) if number.is_u64() => parse(&number.to_string()),
        _ => Err(AuthError::claim(claim, "must name the user, as a text or a whole number")),
    }
}

fn class(claims: &Map<String, Value>) -> Result<Option<Box<str>>, AuthError> {
    match claims.get("class") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(class)) if !class.is_empty() && class.len() <= MAX_CLASS_BYTES => {
            Ok(Some(class.as_str().into()))
        }
        Some(_) => Err(AuthError::claim("class", "must be a text of 1 to 128 bytes")),
    }
}

fn channels(claims: &Map<String, Value>) -> Result<Option<Vec<ChannelPattern>>, AuthError> {
    const RULE: &str = "must be a list of at most 256 texts, such as [\"room:1\", \"team:7-*\"]";
    // Only a missing claim leaves the client unrestricted: `null` may be an issuer's mistake.
    let Some(value) = claims.get("channels") else { return Ok(None) };
    let items = value
        .as_array()
        .filter(|items| items.len() <= MAX_PATTERNS)
        .ok_or_else(|| AuthError::claim("channels", RULE))?;
    let parse = |item: &Value| {
        let text = item.as_str().ok_or_else(|| AuthError::claim("channels", RULE))?;
        ChannelPattern::parse(text).map_err(AuthError::BadPattern)
    };
    items.iter().map(parse).collect::<Result<_, _>>().map(Some)
}

#[cfg(test)]
mod tests;
