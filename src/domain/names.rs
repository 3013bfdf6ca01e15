//! Names of things, parsed once at the edge: whoever holds one of these types holds a valid name.

use std::fmt;
use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::position::Offset;

/// Why a name was refused. The text says what is allowed, so it can go to whoever sent the name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {given:?} is not valid: {rule}")]
pub struct InvalidName {
    what: &'static str,
    given: String,
    rule: &'static str,
}

impl InvalidName {
    fn new(what: &'static str, given: &str, rule: &'static str) -> Self {
        // A hostile name may be long; its start is enough to recognise it.
        let given = given.chars().take(80).collect();
        Self { what, given, rule }
    }
}

/// Defines a cheaply cloned name: `Display`, `as_str`, `parse`, and serde through the same parser.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses the name; the error says what is allowed.
            pub fn parse(text: &str) -> Result<Self, InvalidName> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(InvalidName::new($what, text, $rule))
                }
            }

            /// The name as it was given.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::parse(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

name!(
    /// A tenant: the unit of isolation.
    TenantId,
    "tenant",
    "1 to 63 of a-z, 0-9 and '-', starting with a letter or digit; 'sys' is reserved",
    |text| dns_label(text, b"-") && text != "sys"
);

name!(
    /// A node: one Tidegate process.
    NodeId,
    "node id",
    "1 to 63 of a-z, 0-9, '-' and '.', starting with a letter or digit",
    |text| dns_label(text, b"-.")
);

name!(
    /// The part of a channel before the first `:`; selects the channel's rules.
    Namespace,
    "namespace",
    "1 to 32 of a-z, 0-9, '_' and '-'",
    is_namespace
);

name!(
    /// A plugin of a tenant.
    PluginName,
    "plugin's name",
    "1 to 32 of a-z, 0-9 and '-', starting with a letter or digit; 'logs' is reserved",
    |text| dns_label(text, b"-") && text.len() <= 32 && text != "logs"
);

name!(
    /// A channel of a tenant: `namespace:rest`.
    ChannelName,
    "channel",
    "a namespace (1 to 32 of a-z, 0-9, '_', '-'), ':', then 1 to 200 of A-Z, a-z, 0-9 and . _ ~ : @ % + = / -",
    |text| match text.split_once(':') {
        Some((namespace, rest)) => {
            is_namespace(namespace)
                && (1..=200).contains(&rest.len())
                && rest.bytes().all(is_channel_byte)
        }
        None => false,
    }
);

name!(
    /// A user of a tenant, as the token names it.
    UserId,
    "user",
    "1 to 200 bytes once percent-encoded, without control characters",
    is_person
);

name!(
    /// A device of a user, as the client names it: one live session each.
    DeviceId,
    "device",
    "1 to 200 bytes once percent-encoded, without control characters",
    is_person
);

impl ChannelName {
    /// The namespace, which selects the channel's rules.
    pub fn namespace(&self) -> &str {
        self.0.split_once(':').expect("a parsed channel has a ':'").0
    }

    /// A user's personal channel, `user:<id>` with the id percent-encoded.
    pub fn personal(user: &UserId) -> Self {
        Self(format!("{}{}", Self::PERSONAL, user.encoded()).into())
    }

    /// Whether this is somebody's personal channel; nobody else may subscribe to it.
    pub fn is_personal(&self) -> bool {
        self.0.starts_with(Self::PERSONAL)
    }

    /// The user whose personal channel this is.
    pub fn person(&self) -> Option<UserId> {
        let encoded = self.0.strip_prefix(Self::PERSONAL)?;
        let user = percent_decode_str(encoded).decode_utf8().ok()?;
        UserId::parse(&user).ok().filter(|user| Self::personal(user) == *self)
    }

    /// The channel of one session, `session:<id>`: for replies to what it sends.
    pub fn of_session(session: SessionId) -> Self {
        Self(format!("{}{session}", Self::SESSION).into())
    }

    /// Whether this is some session's own channel; no other session may subscribe to it.
    pub fn is_of_session(&self) -> bool {
        self.0.starts_with(Self::SESSION)
    }

    const PERSONAL: &'static str = "user:";
    const SESSION: &'static str = "session:";
}

impl UserId {
    /// Percent-encoded for keys and channel names.
    pub fn encoded(&self) -> impl fmt::Display + '_ {
        utf8_percent_encode(&self.0, KEY_SAFE)
    }
}

impl DeviceId {
    /// Percent-encoded for keys.
    pub fn encoded(&self) -> impl fmt::Display + '_ {
        utf8_percent_encode(&self.0, KEY_SAFE)
    }
}

/// What may stand unencoded in the user and device parts of a key.
const KEY_SAFE: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'@').remove(b'=');

fn dns_label(text: &str, extra: &[u8]) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=63).contains(&text.len())
        && plain(text.as_bytes()[0])
        && text.bytes().all(|b| plain(b) || extra.contains(&b))
}

fn is_namespace(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}

fn is_channel_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"._~:@%+=/-".contains(&b)
}

fn is_person(text: &str) -> bool {
    !text.is_empty()
        && !text.chars().any(char::is_control)
        && text.len() <= 200
        && utf8_percent_encode(text, KEY_SAFE).map(str::len).sum::<usize>() <= 200
}

/// A session: what survives connections. 128 random bits, written as 22 characters of base64url.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(u128);

impl SessionId {
    /// A new id from the operating system's random source.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// What decides whether the session is among those with whom a version of a plugin is tried.
    pub fn part(self) -> [u8; 4] {
        ((self.0 >> 96) as u32).to_be_bytes()
    }

    /// A new id with the same [part](Self::part).
    pub fn sibling(self) -> Self {
        const PART: u128 = 0xffff_ffff << 96;
        Self(self.0 & PART | Self::random().0 & !PART)
    }

    /// A number that is this session's for a message: where it stands among those over whom its delivery
    /// is spread. The same whenever it is asked.
    pub fn share(self, of: Offset) -> u64 {
        // The finalizer of SplitMix64 (Steele, Lea, Flood 2014); the id is random to begin with.
        let (high, low) = ((self.0 >> 64) as u64, self.0 as u64);
        let mut bits = high.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ low ^ of.ms ^ of.seq.rotate_left(32);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// The id's bytes, for tokens.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The id back from its bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

impl std::str::FromStr for SessionId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        use base64::Engine as _;
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).ok();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self::from_bytes).ok_or_else(|| {
            InvalidName::new(
                "session",
                text,
                "22 characters of A-Z, a-z, 0-9, '-' and '_', as the node gave it",
            )
        })
    }
}

impl<'de> Deserialize<'de> for SessionId {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for SessionId {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use base64::Engine as _;
        f.write_str(&base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(self.to_bytes()))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sibling_is_another_session_of_the_same_part() {
        let id = SessionId::from_bytes([7; 16]);
        let sibling = id.sibling();
        assert_ne!(id, sibling);
        assert_eq!((id.part(), sibling.part()), ([7; 4], [7; 4]));
    }

    #[test]
    fn the_grammar_holds_at_its_edges() {
        assert!(TenantId::parse("acme").is_ok());
        assert!(TenantId::parse(&"a".repeat(63)).is_ok());
        for bad in ["", "sys", "-a", "Acme", "a_b", &"a".repeat(64)] {
            assert!(TenantId::parse(bad).is_err(), "{bad}");
        }
        assert!(ChannelName::parse("room:1").is_ok());
        assert!(ChannelName::parse(&format!("room:{}", "x".repeat(200))).is_ok());
        for bad in ["room", "room:", ":1", "Room:1", "room:a b", "room:\n", "röm:1"] {
            assert!(ChannelName::parse(bad).is_err(), "{bad}");
        }
        assert!(ChannelName::parse(&format!("room:{}", "x".repeat(201))).is_err());
        assert!(ChannelName::parse(&format!("{}:1", "r".repeat(33))).is_err());
    }

    #[test]
    fn every_user_has_a_valid_personal_channel() {
        for user in ["alice", "Zoë 7", "a/b:c*", &"é".repeat(33)] {
            let user = UserId::parse(user).unwrap();
            let channel = ChannelName::personal(&user);
            assert_eq!(ChannelName::parse(channel.as_str()).unwrap(), channel);
            assert!(channel.is_personal());
            assert_eq!(channel.person(), Some(user));
        }
        assert_eq!(ChannelName::parse("user:%61").unwrap().person(), None, "a user has one channel");
        assert!(UserId::parse(&"é".repeat(34)).is_err());
        assert!(UserId::parse("a\0b").is_err());
    }

    #[test]
    fn every_session_has_a_valid_channel() {
        for session in [SessionId::from_bytes([0; 16]), SessionId::from_bytes([255; 16]), SessionId::random()]
        {
            let channel = ChannelName::of_session(session);
            assert_eq!(ChannelName::parse(channel.as_str()).unwrap(), channel);
            assert!(channel.is_of_session() && channel.person().is_none());
            assert_eq!(session.to_string().parse(), Ok(session));
        }
    }

    #[test]
    fn an_error_says_what_is_allowed() {
        let error = TenantId::parse("Acme").unwrap_err().to_string();
        assert!(error.contains("Acme") && error.contains("a-z"), "{error}");
    }
}
