//! Resume tokens: where a session lives and whose it is, signed by the cluster.
//!
//! A token is a hint and opens nothing by itself: the client authenticates as before. It saves the
//! search for the session and proves that this client was given it.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::{digest, hmac};

use super::secret::ClusterSecret;
use crate::domain::{DeviceId, NodeId, SessionId, TenantId, UserId};

/// What a resume token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumeClaims {
    /// The session.
    pub session: SessionId,
    /// The node that held it when the token was issued.
    pub node: NodeId,
    /// Its tenant.
    pub tenant: TenantId,
    /// Its user.
    pub user: IdentityHash,
    /// Its device, where it names one.
    pub device: Option<IdentityHash>,
    /// Its client's token, which decides whether the client has to be asked who it is again.
    pub token: IdentityHash,
    /// How often the session was attached to a connection: only its latest token attaches again.
    pub attach: u32,
    /// When the token was issued, in milliseconds of the backbone's clock.
    pub issued_ms: u64,
}

/// A user or a device, told apart but not named: tokens end up in logs and storage of browsers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IdentityHash([u8; 16]);

impl IdentityHash {
    /// Of a user, within its tenant.
    pub fn of_user(user: &UserId) -> Self {
        Self::of(b"user\0", user.as_str())
    }

    /// Of anonymous users, all of whom are one here: each connection gives them another name.
    pub fn anonymous() -> Self {
        Self::of(b"anonymous\0", "")
    }

    /// Of a token with this SHA-256.
    pub fn of_token(sha256: &[u8; 32]) -> Self {
        Self(*sha256.first_chunk().expect("it has 32 bytes"))
    }

    /// Of a device, within its user.
    pub fn of_device(device: &DeviceId) -> Self {
        Self::of(b"device\0", device.as_str())
    }

    /// 128 bits of SHA-256: whoever would forge one must forge the signature as well.
    fn of(kind: &[u8], name: &str) -> Self {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(kind);
        hash.update(name.as_bytes());
        let hash = hash.finish();
        Self(*hash.as_ref().first_chunk().expect("SHA-256 has 32 bytes"))
    }
}

/// Why a resume token is not followed. The client then gets a new session; none of it is an attack
/// for certain, and none is worth more than a count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResumeError {
    /// It is no token of this form.
    #[error("the resume token cannot be read")]
    Unreadable,
    /// Another cluster signed it, or nobody did.
    #[error("the resume token is not signed by this cluster")]
    Forged,
    /// It belongs to another tenant.
    #[error("the resume token belongs to another tenant")]
    OtherTenant,
    /// It is older than tokens are followed, or from the future.
    #[error("the resume token has expired")]
    Expired,
}

/// Issues and verifies resume tokens.
#[derive(Debug, Clone)]
pub struct ResumeTokens {
    key: hmac::Key,
}

impl ResumeTokens {
    /// How old a token may be. A session that stays connected longer and is then lost starts anew from
    /// its cursors; a stolen token is worth nothing after this.
    pub const MAX_AGE: Duration = Duration::from_secs(30 * 24 * 3600);

    /// Most characters of a token; longer ones are refused unread.
    pub const MAX_LEN: usize = (MOST * 4).div_ceil(3);

    /// Tokens signed with a key made of the cluster's secret.
    pub fn new(secret: &ClusterSecret) -> Self {
        Self { key: secret.signing_key("resume token v1") }
    }

    /// The token that says this: base64url, at most [`Self::MAX_LEN`] characters.
    pub fn issue(&self, claims: &ResumeClaims) -> String {
        let mut bytes = Vec::with_capacity(MOST);
        bytes.push(VERSION);
        bytes.extend(claims.session.to_bytes());
        bytes.extend(claims.attach.to_be_bytes());
        bytes.extend(claims.issued_ms.to_be_bytes());
        bytes.extend(claims.user.0);
        bytes.extend(claims.token.0);
        bytes.push(u8::from(claims.device.is_some()));
        bytes.extend(claims.device.iter().flat_map(|device| device.0));
        for name in [claims.node.as_str(), claims.tenant.as_str()] {
            // Names of nodes and tenants have at most 63 bytes.
            bytes.push(name.len() as u8);
            bytes.extend(name.as_bytes());
        }
        let tag = hmac::sign(&self.key, &bytes);
        bytes.extend(tag.as_ref());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// What a token says, if this cluster issued it for this tenant and not too long ago. `now_ms` is
    /// the backbone's clock. The signature is compared in constant time, before anything is read.
    ///
    /// # Errors
    /// [`ResumeError`] says why the token is not to be followed.
    pub fn verify(&self, token: &str, tenant: &TenantId, now_ms: u64) -> Result<ResumeClaims, ResumeError> {
        if token.len() > Self::MAX_LEN {
            return Err(ResumeError::Unreadable);
        }
        let mut buffer = [0; MOST + 3];
        let length = URL_SAFE_NO_PAD.decode_slice(token, &mut buffer).map_err(|_| ResumeError::Unreadable)?;
        let (signed, tag) = buffer[..length].split_last_chunk::<TAG>().ok_or(ResumeError::Unreadable)?;
        if signed.first() != Some(&VERSION) {
            return Err(ResumeError::Unreadable);
        }
        hmac::verify(&self.key, signed, tag).map_err(|_| ResumeError::Forged)?;
        let claims = read(signed).ok_or(ResumeError::Unreadable)?;
        if claims.tenant != *tenant {
            return Err(ResumeError::OtherTenant);
        }
        let max_age = Self::MAX_AGE.as_millis() as u64;
        // A little of the future is allowed: nodes know the backbone's clock by measurement.
        if claims.issued_ms > now_ms.saturating_add(SKEW_MS)
            || now_ms.saturating_sub(claims.issued_ms) > max_age
        {
            return Err(ResumeError::Expired);
        }
        Ok(claims)
    }
}

/// The layout of a token; another one gets another number.
const VERSION: u8 = 2;

/// Bytes of the signature, HMAC-SHA256 whole.
const TAG: usize = 32;

/// Most bytes of a token: version, session, attach, issued, user, token, device with its mark, two names.
const MOST: usize = 1 + 16 + 4 + 8 + 16 + 16 + (1 + 16) + 2 * (1 + 63) + TAG;

/// How far nodes' clocks may differ, in milliseconds.
const SKEW_MS: u64 = 60_000;

/// Reads what was signed; `None` where it is not of this layout.
fn read(mut bytes: &[u8]) -> Option<ResumeClaims> {
    let from = &mut bytes;
    let [_version] = take(from)?;
    let session = SessionId::from_bytes(take(from)?);
    let attach = u32::from_be_bytes(take(from)?);
    let issued_ms = u64::from_be_bytes(take(from)?);
    let user = IdentityHash(take(from)?);
    let token = IdentityHash(take(from)?);
    let device = match take(from)? {
        [0] => None,
        [1] => Some(IdentityHash(take(from)?)),
        _ => return None,
    };
    let node = NodeId::parse(take_name(from)?).ok()?;
    let tenant = TenantId::parse(take_name(from)?).ok()?;
    from.is_empty().then_some(ResumeClaims { session, node, tenant, user, device, token, attach, issued_ms })
}

fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(*taken)
}

fn take_name<'b>(from: &mut &'b [u8]) -> Option<&'b str> {
    let [length] = take(from)?;
    let (name, rest) = from.split_at_checked(usize::from(length))?;
    *from = rest;
    std::str::from_utf8(name).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tokens() -> ResumeTokens {
        ResumeTokens::new(&ClusterSecret::new(&"s".repeat(32)).unwrap())
    }

    fn tenant(name: &str) -> TenantId {
        TenantId::parse(name).unwrap()
    }

    fn claims() -> ResumeClaims {
        ResumeClaims {
            session: SessionId::from_bytes([7; 16]),
            node: NodeId::parse("node-1.eu").unwrap(),
            tenant: tenant("acme"),
            user: IdentityHash::of_user(&UserId::parse("alice").unwrap()),
            device: Some(IdentityHash::of_device(&DeviceId::parse("phone").unwrap())),
            token: IdentityHash::of_token(&[9; 32]),
            attach: 3,
            issued_ms: 1_000_000,
        }
    }

    #[test]
    fn a_token_says_what_was_put_in() {
        for device in [None, claims().device] {
            let claims = ResumeClaims { device, ..claims() };
            let token = tokens().issue(&claims);
            assert_eq!(tokens().verify(&token, &claims.tenant, 1_000_500), Ok(claims));
        }
    }

    #[test]
    fn the_longest_token_is_taken() {
        let long = "n".repeat(63);
        let claims = ResumeClaims { node: NodeId::parse(&long).unwrap(), tenant: tenant(&long), ..claims() };
        let token = tokens().issue(&claims);
        assert_eq!(token.len(), ResumeTokens::MAX_LEN);
        assert_eq!(tokens().verify(&token, &tenant(&long), 1_000_000), Ok(claims));
    }

    /// A token outlives a rolling upgrade: this one was issued by the first version.
    #[test]
    fn the_layout_is_pinned() {
        let token = concat!(
            "AgcHBwcHBwcHBwcHBwcHBwcAAAADAAAAAAAPQkBh5T",
            "oy93f-5rnqYTCZlRx3CQkJCQkJCQkJCQkJCQkJCQFoBK_1s_2wX2VsLjIV56vhCW5vZGUtMS5ld",
            "QRhY21lKjlgDzhICTt0wWe4Zg8AXiV4tm5Te0iXeRqfW771mmk"
        );
        assert_eq!(tokens().issue(&claims()), token);
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let token = tokens().issue(&claims());
        let verify = |token: &str| tokens().verify(token, &tenant("acme"), 1_000_000);
        let other = ResumeTokens::new(&ClusterSecret::new(&"t".repeat(32)).unwrap());
        assert_eq!(other.verify(&token, &tenant("acme"), 1_000_000), Err(ResumeError::Forged));
        assert_eq!(tokens().verify(&token, &tenant("evil"), 1_000_000), Err(ResumeError::OtherTenant));
        for bad in ["", "AQ", "!", &token[1..], &format!("{token}="), &"A".repeat(ResumeTokens::MAX_LEN + 1)]
        {
            assert_eq!(verify(bad), Err(ResumeError::Unreadable), "{bad}");
        }
        let mut short = URL_SAFE_NO_PAD.decode(&token).unwrap();
        short.pop();
        assert_eq!(verify(&URL_SAFE_NO_PAD.encode(short)), Err(ResumeError::Forged));
    }

    #[test]
    fn age_is_limited_both_ways() {
        let token = tokens().issue(&claims());
        let max_age = ResumeTokens::MAX_AGE.as_millis() as u64;
        let verify = |now| tokens().verify(&token, &tenant("acme"), now).err();
        assert_eq!(verify(1_000_000 + max_age), None);
        assert_eq!(verify(1_000_001 + max_age), Some(ResumeError::Expired));
        assert_eq!(verify(1_000_000 - SKEW_MS), None);
        assert_eq!(verify(999_999 - SKEW_MS), Some(ResumeError::Expired));
    }

    #[test]
    fn a_user_and_a_device_of_one_name_differ() {
        let (user, device) = (UserId::parse("x").unwrap(), DeviceId::parse("x").unwrap());
        assert_ne!(IdentityHash::of_user(&user), IdentityHash::of_device(&device));
    }

    proptest! {
        #[test]
        fn no_byte_can_be_changed(at: prop::sample::Index, to in 1_u8..=255) {
            let mut bytes = URL_SAFE_NO_PAD.decode(tokens().issue(&claims())).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= to;
            let changed = URL_SAFE_NO_PAD.encode(bytes);
            prop_assert!(tokens().verify(&changed, &tenant("acme"), 1_000_000).is_err());
        }

        #[test]
        fn any_text_is_refused_without_a_panic(text in ".{0,400}", bytes in prop::collection::vec(any::<u8>(), 0..250)) {
            prop_assert!(tokens().verify(&text, &tenant("acme"), 0).is_err());
            let _ = read(&bytes);
            let text = URL_SAFE_NO_PAD.encode(bytes);
            prop_assert!(tokens().verify(&text, &tenant("acme"), 0).is_err());
        }
    }
}
