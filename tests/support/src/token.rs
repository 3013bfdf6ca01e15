//! Tokens as a tenant's own backend would sign them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::{hmac, signature::Ed25519KeyPair, signature::KeyPair as _};
use serde_json::{Value, json};

/// Seconds since the Unix epoch.
pub fn now_s() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("the clock stands after 1970")
        .as_secs()
}

/// A JWT signed with HMAC-SHA-256 (RFC 7518 section 3.2); an empty `kid` is left out.
pub fn hs256(kid: &str, secret: &[u8], claims: &Value) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    assemble("HS256", kid, claims, |input| hmac::sign(&key, input).as_ref().to_vec())
}

/// Claims of `user`, good for an hour.
pub fn claims(user: &str) -> Value {
    json!({"sub": user, "iat": now_s(), "exp": now_s() + 3600})
}

/// An Ed25519 key made for a test.
pub struct EdKey(Ed25519KeyPair);

impl EdKey {
    /// A key from a fixed seed: a test needs no secrecy.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&seed).expect("any 32 bytes are a seed"))
    }

    /// The public key, base64url without padding as in a JWK (RFC 8037).
    pub fn public(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0.public_key())
    }

    /// The public key as PEM (RFC 8410).
    pub fn public_pem(&self) -> String {
        // The fixed prefix is the SubjectPublicKeyInfo header for Ed25519.
        let mut der = vec![0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
        der.extend_from_slice(self.0.public_key().as_ref());
        let body = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
    }

    /// A JWT signed with EdDSA (RFC 8037).
    pub fn sign(&self, kid: &str, claims: &Value) -> String {
        assemble("EdDSA", kid, claims, |input| self.0.sign(input).as_ref().to_vec())
    }
}

fn assemble(alg: &str, kid: &str, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let mut header = json!({"alg": alg, "typ": "JWT"});
    if !kid.is_empty() {
        header["kid"] = kid.into();
    }
    let input = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let signature = URL_SAFE_NO_PAD.encode(sign(input.as_bytes()));
    format!("{input}.{signature}")
}
