//! Tokens: `user.role.expiry.signature`.

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

/// Bytes of HMAC-SHA256.
const SIGNATURE_BYTES: usize = 32;

/// What stands in a token whose signature is good.
pub struct Token<'t> {
    /// May have dots in it.
    pub user: &'t str,
    pub role: &'t str,
    /// In seconds since 1970.
    pub expiry: u64,
}

/// Takes a token apart once its signature is found good, or says what is wrong.
pub fn verify<'t>(token: &'t str, secret: &[u8]) -> Result<Token<'t>, &'static str> {
    const FORM: &str = "the token is not of the form user.role.expiry.signature";
    let (signed, signature) = token.rsplit_once('.').ok_or(FORM)?;
    let signature = hex(signature).ok_or(FORM)?;
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).map_err(|_| "authentication is not set up")?;
    mac.update(signed.as_bytes());
    // Takes the same time wherever the first difference is.
    mac.verify_slice(&signature).map_err(|_| "the token's signature is wrong")?;
    let mut parts = signed.rsplitn(3, '.');
    let (Some(expiry), Some(role), Some(user)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(FORM);
    };
    let expiry = expiry.parse().map_err(|_| FORM)?;
    Ok(Token { user, role, expiry })
}

fn hex(text: &str) -> Option<[u8; SIGNATURE_BYTES]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * SIGNATURE_BYTES {
        return None;
    }
    let mut bytes = [0; SIGNATURE_BYTES];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = (high << 4 | low) as u8;
    }
    Some(bytes)
}
