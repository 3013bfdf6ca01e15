//! Values that occur in the configuration and are parsed once: secrets, URLs, origins, key hashes.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A text that must not be seen: it is not in `Debug` output, and has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Takes a secret in.
    pub fn new(secret: impl Into<Arc<str>>) -> Self {
        Self(secret.into())
    }

    /// The secret itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// For arguments; any text is a secret.
impl From<String> for Secret {
    fn from(secret: String) -> Self {
        Self::new(secret)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// An `http` or `https` URL without query, user information or a trailing slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl(Box<str>);

impl HttpUrl {
    /// The URL, never with a `/` at its end: paths are appended to it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is no URL for this purpose.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be a URL such as \"https://push.example.com\", without user, query or fragment")]
pub struct InvalidUrl;

impl FromStr for HttpUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        let uri: http::Uri = text.parse().map_err(|_| InvalidUrl)?;
        let scheme_fits = matches!(uri.scheme_str(), Some("http" | "https"));
        let host_fits = uri.host().is_some_and(|host| !host.is_empty()) && !text.contains(['@', '#']);
        if !scheme_fits || !host_fits || uri.query().is_some() {
            return Err(InvalidUrl);
        }
        Ok(Self(text.trim_end_matches('/').into()))
    }
}

/// The origin of a web page (RFC 6454): scheme, host and port, in lower case, without a default port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    scheme: Box<str>,
    host: Box<str>,
    /// `None` for the scheme's own port.
    port: Option<u16>,
}

/// Why a text is no origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be an origin such as \"https://app.example.com\", without a path, or \"*\" for any; is {0:?}")]
pub struct InvalidOrigin(String);

impl FromStr for Origin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        let invalid = || InvalidOrigin(text.chars().take(80).collect());
        let (scheme, authority) = text.split_once("://").ok_or_else(invalid)?;
        let scheme_byte = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
        if scheme.is_empty() || !scheme.bytes().all(scheme_byte) {
            return Err(invalid());
        }
        let scheme = scheme.to_ascii_lowercase();
        let (host, port) = host_and_port(authority, &scheme).ok_or_else(invalid)?;
        Ok(Self { scheme: scheme.into(), host, port })
    }
}

impl Origin {
    /// Whether a `Host` header names the same host and port. The scheme is not in the header: behind a
    /// proxy that ends TLS, page and node need not have the same.
    pub fn is_same_host(&self, host_header: &str) -> bool {
        host_and_port(host_header, &self.scheme)
            .is_some_and(|(host, port)| host == self.host && port == self.port)
    }
}

/// Splits `host[:port]`, in lower case; the scheme's own port counts as none.
fn host_and_port(authority: &str, scheme: &str) -> Option<(Box<str>, Option<u16>)> {
    let host_end = authority.rfind(']').map_or(0, |bracket| bracket + 1);
    let (host, port) = match authority[host_end..].split_once(':') {
        Some((rest, port)) => (&authority[..host_end + rest.len()], Some(port)),
        None => (authority, None),
    };
    let host_byte = |b: u8| b.is_ascii_alphanumeric() || b"-._[]:".contains(&b);
    if host.is_empty() || !host.bytes().all(host_byte) {
        return None;
    }
    let port = match port {
        None => None,
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => Some(digits.parse::<u16>().ok()?),
        Some(_) => return None,
    };
    let default = match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    Some((host.to_ascii_lowercase().into(), port.filter(|port| Some(*port) != default)))
}

/// Which web pages may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// Pages of the host that the connection is made to.
    SameHost,
    /// Pages of these origins.
    Listed(Vec<Origin>),
    /// Every page.
    Any,
}

/// The SHA-256 of an API key: configuration never needs the key itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiKeyHash(pub [u8; 32]);

/// Why a text is no hash of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be the SHA-256 of an API key in 64 hexadecimal digits: printf %s \"$KEY\" | sha256sum")]
pub struct InvalidHash;

impl ApiKeyHash {
    /// The hash of a key.
    pub fn of(key: &str) -> Self {
        Self(sha256(key.as_bytes()))
    }
}

impl FromStr for ApiKeyHash {
    type Err = InvalidHash;

    fn from_str(text: &str) -> Result<Self, InvalidHash> {
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(InvalidHash);
        }
        let mut hash = [0; 32];
        for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| InvalidHash)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| InvalidHash)?;
        }
        Ok(Self(hash))
    }
}

/// SHA-256 of some bytes.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().try_into().expect("a SHA-256 digest has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_show() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(…)");
    }

    #[test]
    fn origins_compare_by_scheme_host_and_port() {
        let origin = |text: &str| text.parse::<Origin>().unwrap();
        assert_eq!(origin("HTTPS://App.Example.com:443"), origin("https://app.example.com"));
        assert_ne!(origin("http://app.example.com"), origin("https://app.example.com"));
        assert_ne!(origin("https://app.example.com:8443"), origin("https://app.example.com"));
        for bad in [
            "null",
            "app.example.com",
            "https://",
            "https://a/b",
            "https://a@b",
            "https://a:b",
            "https://é.x",
        ] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_host_header_is_compared_with_its_port() {
        let same = |origin: &str, host: &str| origin.parse::<Origin>().unwrap().is_same_host(host);
        assert!(same("http://localhost:8080", "localhost:8080"));
        assert!(same("https://push.example.com", "push.example.com:443"));
        assert!(same("http://[::1]:8080", "[::1]:8080"));
        assert!(!same("http://localhost:8081", "localhost:8080"));
        assert!(!same("https://push.example.com.evil.example", "push.example.com"));
        assert!(!same("https://push.example.com", ""));
    }

    #[test]
    fn urls_lose_their_last_slash_and_nothing_else() {
        assert_eq!("https://a.example/x/".parse::<HttpUrl>().unwrap().as_str(), "https://a.example/x");
        for bad in ["a.example", "ftp://a.example", "https://u:p@a.example", "https://a.example/?q=1", "/x"] {
            assert!(bad.parse::<HttpUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn hashes_read_as_sha256sum_writes_them() {
        let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash.parse(), Ok(ApiKeyHash::of("abc")));
        assert_eq!("abc".parse::<ApiKeyHash>(), Err(InvalidHash));
    }
}
