//! `http_hosts`: which hosts a tenant's plugins may ask.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The longest name that there can be (RFC 1035, section 2.3.4).
const NAME_BYTES: usize = 253;

/// A host that plugins may ask: `api.example.com`, `*.example.com`, `127.0.0.1:9000`, `[::1]:9000`.
///
/// Without a port only the scheme's own is meant: 80 and 443. `*.` stands for one label or more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpHost {
    name: Name,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    /// In lower case.
    Exact(Box<str>),
    /// What names must end with, dot included, in lower case.
    Below(Box<str>),
    Address(IpAddr),
}

/// A text that names no host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be a host as api.example.com, *.example.com, 127.0.0.1:9000 or [::1]:9000, without scheme and path"
)]
pub struct InvalidHttpHost;

impl HttpHost {
    /// Whether this is the host of a request: its name or address as the URL has it, and the port that is connected
    /// to.
    pub fn is(&self, host: &str, port: u16, https: bool) -> bool {
        let default = if https { 443 } else { 80 };
        if self.port.unwrap_or(default) != port {
            return false;
        }
        let asked = address(host);
        match (&self.name, asked) {
            (Name::Address(one), Some(asked)) => *one == asked,
            (Name::Exact(name), None) => name.eq_ignore_ascii_case(host),
            (Name::Below(ending), None) => {
                let parts = host.len().checked_sub(ending.len()).and_then(|at| host.split_at_checked(at));
                parts.is_some_and(|(labels, end)| {
                    end.eq_ignore_ascii_case(ending) && labels.split('.').all(|label| !label.is_empty())
                })
            }
            _ => false,
        }
    }
}

/// An address as URLs write it, version 6 in brackets.
fn address(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[') {
        Some(rest) => Some(IpAddr::V6(rest.strip_suffix(']')?.parse().ok()?)),
        None => Some(IpAddr::V4(host.parse().ok()?)),
    }
}

impl FromStr for HttpHost {
    type Err = InvalidHttpHost;

    fn from_str(text: &str) -> Result<Self, InvalidHttpHost> {
        // The colons of an address are in its brackets.
        let after = text.rfind(']').map_or(0, |end| end + 1);
        let colon = text[after..].find(':').map(|colon| after + colon);
        let (host, port) = match colon {
            Some(colon) => (&text[..colon], Some(port(&text[colon + 1..])?)),
            None => (text, None),
        };
        let name = match (address(host), host.strip_prefix('*')) {
            (Some(address), _) => Name::Address(address),
            (None, Some(ending)) => Name::Below(labels(ending, ending.strip_prefix('.'))?),
            (None, None) => Name::Exact(labels(host, Some(host))?),
        };
        Ok(Self { name, port })
    }
}

fn port(text: &str) -> Result<u16, InvalidHttpHost> {
    let port = text.parse().ok().filter(|port| *port > 0 && text.bytes().all(|byte| byte.is_ascii_digit()));
    port.ok_or(InvalidHttpHost)
}

/// A whole text in lower case, if a part of it is the labels of a name.
fn labels(whole: &str, name: Option<&str>) -> Result<Box<str>, InvalidHttpHost> {
    let good = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    match name {
        Some(name) if name.len() <= NAME_BYTES && name.split('.').all(good) => {
            Ok(whole.to_ascii_lowercase().into())
        }
        _ => Err(InvalidHttpHost),
    }
}

impl fmt::Display for HttpHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Name::Exact(name) => f.write_str(name)?,
            Name::Below(ending) => write!(f, "*{ending}")?,
            Name::Address(IpAddr::V6(address)) => write!(f, "[{address}]")?,
            Name::Address(address) => write!(f, "{address}")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether an entry of the list is the host of a URL, written as `https://host:port`.
    fn is(entry: &str, url: &str) -> bool {
        let (scheme, host) = url.split_once("://").unwrap();
        let https = scheme == "https";
        let after = host.rfind(']').unwrap_or(0);
        let (host, port) = match host[after..].find(':') {
            Some(colon) => (&host[..after + colon], host[after + colon + 1..].parse().unwrap()),
            None => (host, if https { 443 } else { 80 }),
        };
        entry.parse::<HttpHost>().unwrap().is(host, port, https)
    }

    #[test]
    fn a_host_is_itself_in_any_case() {
        for (entry, url) in [
            ("api.example.com", "https://api.example.com"),
            ("API.example.com", "http://api.Example.COM"),
            ("api.example.com", "https://api.example.com:443"),
            ("api.example.com:8443", "https://api.example.com:8443"),
            ("api.example.com:8443", "http://api.example.com:8443"),
            ("127.0.0.1:9000", "http://127.0.0.1:9000"),
            ("[::1]:9000", "http://[0:0::1]:9000"),
            ("[::1]", "http://[::1]"),
            ("localhost", "http://localhost"),
            ("*.example.com", "https://a.example.com"),
            ("*.Example.com", "https://a.b.EXAMPLE.com"),
            ("*.example.com:81", "http://a.example.com:81"),
        ] {
            assert!(is(entry, url), "{entry} is not {url}");
        }
    }

    #[test]
    fn a_host_is_nothing_else() {
        for (entry, url) in [
            ("api.example.com", "https://api.example.com:80"),
            ("api.example.com", "http://api.example.com:443"),
            ("api.example.com", "https://api.example.com:8443"),
            ("api.example.com", "https://xapi.example.com"),
            ("api.example.com", "https://api.example.com.evil.net"),
            ("api.example.com", "https://example.com"),
            ("api.example.com", "https://api.example.com."),
            ("127.0.0.1:9000", "http://127.0.0.1"),
            ("127.0.0.1:9000", "http://127.1:9000"),
            ("127.0.0.1:9000", "http://[::ffff:127.0.0.1]:9000"),
            ("*.example.com", "https://example.com"),
            ("*.example.com", "https://.example.com.evil.net"),
            ("*.example.com", "https://xexample.com"),
            ("*.example.com", "https://.example.com"),
            ("*.example.com", "https://..example.com"),
        ] {
            assert!(!is(entry, url), "{entry} is {url}");
        }
    }

    #[test]
    fn what_names_no_host_is_refused() {
        for text in [
            "",
            "*",
            "*.",
            "*example.com",
            "a.*.com",
            "http://a",
            "a/b",
            "a:",
            "a:0",
            "a:+1",
            "a:65536",
            "a:1:2",
            "a..b",
            "::1",
            "[::1",
            "[x]",
            "[::1]x",
            "user@a",
            "a b",
            "ä.de",
            ".a",
        ] {
            assert_eq!(text.parse::<HttpHost>(), Err(InvalidHttpHost), "{text}");
        }
        for text in ["api.example.com", "*.example.com:81", "127.0.0.1:9000", "[::1]:9000"] {
            assert_eq!(text.parse::<HttpHost>().unwrap().to_string(), text);
        }
    }
}
