//! The secret that all nodes of a cluster hold, and the keys made of it.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::{aead, hkdf, hmac};

/// The cluster's secret. It is never used itself: each purpose gets a key of its own by HKDF-SHA256
/// (RFC 5869), so that what is signed for one purpose means nothing for another.
#[derive(Clone)]
pub struct ClusterSecret(hkdf::Prk);

/// A secret that is too short to be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cluster's secret has {got} bytes; at least {} are needed, random ones", ClusterSecret::LEAST)]
pub struct ShortSecret {
    got: usize,
}

impl ClusterSecret {
    /// Fewest bytes of a secret.
    pub const LEAST: usize = 32;

    /// Takes the text that the nodes share, as it stands.
    ///
    /// # Errors
    /// [`ShortSecret`] below [`Self::LEAST`] bytes.
    pub fn new(text: &str) -> Result<Self, ShortSecret> {
        if text.len() < Self::LEAST {
            return Err(ShortSecret { got: text.len() });
        }
        Ok(Self(hkdf::Salt::new(hkdf::HKDF_SHA256, b"tidegate cluster").extract(text.as_bytes())))
    }

    /// A new secret of 256 random bits, as text: to be offered to the cluster, which may know one.
    pub fn generate() -> String {
        URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
    }

    /// The key that seals and opens what is of this purpose.
    pub fn sealing_key(&self, purpose: &str, algorithm: &'static aead::Algorithm) -> aead::UnboundKey {
        let info = [purpose.as_bytes()];
        self.0.expand(&info, algorithm).expect("a key is below HKDF's limit").into()
    }

    /// The signing key of a purpose. The purpose is part of the cluster's contract: another name is
    /// another key.
    pub fn signing_key(&self, purpose: &str) -> hmac::Key {
        let info = [purpose.as_bytes()];
        // HKDF gives up to 255 hashes; a key takes one.
        self.0.expand(&info, hmac::HMAC_SHA256).expect("one hash is below HKDF's limit").into()
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_purpose_has_its_own_key() {
        let secret = ClusterSecret::new(&"s".repeat(32)).unwrap();
        let tag = |purpose| hmac::sign(&secret.signing_key(purpose), b"x").as_ref().to_vec();
        assert_eq!(tag("resume"), tag("resume"));
        assert_ne!(tag("resume"), tag("ticket"));
        let other = ClusterSecret::new(&"t".repeat(32)).unwrap();
        assert_ne!(tag("resume"), hmac::sign(&other.signing_key("resume"), b"x").as_ref());
    }

    #[test]
    fn a_secret_is_long_and_not_shown() {
        assert_eq!(ClusterSecret::new("short").unwrap_err(), ShortSecret { got: 5 });
        let text = ClusterSecret::generate();
        assert_ne!(text, ClusterSecret::generate());
        let secret = ClusterSecret::new(&text).unwrap();
        assert!(!format!("{secret:?}").contains(&text));
    }
}
