//! Signing and verifying JWS compact tokens (RFC 7515) with HS256 (RFC 7518) and EdDSA (RFC 8037).
//!
//! Written on `ring`, which is here for TLS anyway: of the `jsonwebtoken` crate's two backends one brings
//! RSA and two elliptic curves that no key here may have, the other a second crypto library.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use crate::config::{JwtKey, KeyMaterial, Secret};

use super::AuthError;

/// What of a token's header counts here.
#[derive(Deserialize)]
struct Header {
    alg: Box<str>,
    kid: Option<Box<str>>,
    /// Extensions that must be understood; this verifier understands none.
    crit: Option<IgnoredAny>,
}

/// Verifies a token with the key that its `kid` selects, and returns its claims.
pub(super) fn verify(token: &str, keys: &[JwtKey]) -> Result<Map<String, Value>, AuthError> {
    let malformed = AuthError::Malformed;
    let (signed, signature) = token.rsplit_once('.').ok_or(malformed("it has no parts"))?;
    let (header, claims) = signed.split_once('.').ok_or(malformed("it has not three parts"))?;
    let header = decode(header).ok_or(malformed("its header is not base64url"))?;
    let header: Header =
        serde_json::from_slice(&header).map_err(|_| malformed("its header is not JSON with an `alg`"))?;
    if header.crit.is_some() {
        return Err(malformed("its header asks for extensions (`crit`)"));
    }
    let key = keys.iter().find(|key| key.kid.as_deref() == header.kid.as_deref());
    let key = &key.ok_or(AuthError::UnknownKey)?.material;
    if *header.alg != *key.algorithm() {
        return Err(AuthError::WrongAlgorithm { expected: key.algorithm() });
    }
    let signature = decode(signature).ok_or(malformed("its signature is not base64url"))?;
    check(key, signed.as_bytes(), &signature)?;
    let claims = decode(claims).ok_or(malformed("its claims are not base64url"))?;
    serde_json::from_slice(&claims).map_err(|_| malformed("its claims are not a JSON object"))
}

fn check(key: &KeyMaterial, signed: &[u8], signature: &[u8]) -> Result<(), AuthError> {
    match key {
        KeyMaterial::Hs256(secret) => hmac::verify(&hmac_key(secret), signed, signature),
        KeyMaterial::EdDsa(public) => UnparsedPublicKey::new(&ED25519, public).verify(signed, signature),
    }
    .map_err(|_| AuthError::BadSignature)
}

fn decode(part: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(part).ok()
}

fn hmac_key(secret: &Secret) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes())
}

/// A key that signs tokens. Nodes have no use for one; `tidegate token` has.
#[derive(Debug)]
pub enum SigningKey {
    /// HS256, the same secret that verifies.
    Hs256(Secret),
    /// EdDSA with Ed25519.
    EdDsa(Box<Ed25519KeyPair>),
}

/// Why a private key cannot sign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it holds no Ed25519 private key in PEM (openssl genpkey -algorithm ed25519)")]
pub struct UnusableKey;

impl SigningKey {
    /// An Ed25519 private key, PKCS #8 in PEM.
    pub fn from_ed25519_pem(pem: &str) -> Result<Self, UnusableKey> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| UnusableKey)?;
        // OpenSSL leaves the public half out of the file; ring derives it, and has nothing to compare.
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der());
        pair.map(|pair| Self::EdDsa(Box::new(pair))).map_err(|_| UnusableKey)
    }
}

/// Signs claims; `kid` names the key that verifies them.
pub fn sign(key: &SigningKey, kid: Option<&str>, claims: &Map<String, Value>) -> String {
    let algorithm = match key {
        SigningKey::Hs256(_) => "HS256",
        SigningKey::EdDsa(_) => "EdDSA",
    };
    let mut header = json!({ "alg": algorithm, "typ": "JWT" });
    if let Some(kid) = kid {
        header["kid"] = kid.into();
    }
    let mut token = URL_SAFE_NO_PAD.encode(header.to_string());
    token.push('.');
    token.push_str(&URL_SAFE_NO_PAD.encode(Value::Object(claims.clone()).to_string()));
    let signature = match key {
        SigningKey::Hs256(secret) => hmac::sign(&hmac_key(secret), token.as_bytes()).as_ref().to_vec(),
        SigningKey::EdDsa(pair) => pair.sign(token.as_bytes()).as_ref().to_vec(),
    };
    token.push('.');
    token.push_str(&URL_SAFE_NO_PAD.encode(signature));
    token
}
