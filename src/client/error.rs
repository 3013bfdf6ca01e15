//! Why a client gave up, and why an attempt to connect failed.

use std::error::Error;
use std::io;
use std::time::Duration;

/// Why a client gave up.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address or another option cannot be used.
    #[error("{0}")]
    Address(String),
    /// Nobody listens there, or the handshake was refused; only with [`super::Options::once`] or for refusals
    /// that trying again does not mend.
    #[error("cannot connect to {url}: {why}")]
    Connect {
        /// Where to.
        url: String,
        /// Why not.
        why: String,
    },
    /// The node's certificate is not trusted. Trying again does not mend that.
    #[error("the certificate of {url} is not trusted: {why}")]
    Certificate {
        /// Where to.
        url: String,
        /// Why not.
        why: String,
    },
    /// Nothing came back over UDP; only with [`super::Options::once`].
    #[error("no answer over QUIC from {url}: {why}")]
    Unanswered {
        /// Where to.
        url: String,
        /// What may be the matter.
        why: String,
    },
    /// The node closed the connection and says that coming back is of no use.
    #[error("the node closed the connection for good: {code} {reason}{}", hint(*code))]
    Refused {
        /// The close code.
        code: u16,
        /// Its reason.
        reason: String,
    },
    /// The node says something that is not protocol v1.
    #[error("the node said something that is not protocol v1: {0}")]
    Protocol(String),
    /// The request was sent while there was no connection.
    #[error("there is no connection now")]
    NotConnected,
    /// The frame was sent in a request of its own, and the node did not take it.
    #[error("the node did not take the frame: {0}")]
    NotTaken(String),
    /// Only a WebTransport session can move to another address.
    #[error("this connection cannot move to another address: {0}")]
    Rebind(String),
}

fn hint(code: u16) -> &'static str {
    match code {
        4002 => " (the token is missing, wrong, expired or refused)",
        4003 => " (there is no such tenant)",
        4005 => " (the same device connected elsewhere)",
        _ => "",
    }
}

/// Why an attempt to connect failed, and whether trying again is of use.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) url: String,
    pub(super) why: String,
    pub(super) cause: Cause,
    pub(super) is_final: bool,
    /// When the node wants to be asked again.
    pub(super) retry_after: Option<Duration>,
}

/// What kind of failure it is, as far as somebody can do something about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Options,
    Certificate,
    Unanswered,
    Other,
}

impl Failure {
    /// One that may pass.
    pub(super) fn passing(url: &str, why: impl Into<String>) -> Self {
        let (url, why) = (url.to_owned(), why.into());
        Self { url, why, cause: Cause::Other, is_final: false, retry_after: None }
    }

    /// One that stays whenever it is tried.
    pub(super) fn lasting(url: &str, why: impl Into<String>) -> Self {
        Self { is_final: true, ..Self::passing(url, why) }
    }

    /// An option that cannot be used; the error says which.
    pub(super) fn unusable(error: ClientError) -> Self {
        Self { cause: Cause::Options, ..Self::lasting("", error.to_string()) }
    }

    /// What an error says, with everything that lies under it; one about the certificate stays.
    pub(super) fn from_error(url: &str, error: &(dyn Error + 'static)) -> Self {
        match certificate(error) {
            Some(why) => Self { cause: Cause::Certificate, ..Self::lasting(url, why) },
            None => Self::passing(url, chain(error)),
        }
    }

    /// What an HTTP answer says instead of what was asked for: 429 and 5xx pass, what is wrong with the request
    /// stays wrong.
    pub(super) fn from_status(
        url: &str,
        status: http::StatusCode,
        body: &[u8],
        retry_after: Option<&str>,
    ) -> Self {
        let why = format!("the node answered {status} {}", String::from_utf8_lossy(body).trim());
        let is_final = status.is_client_error() && status != http::StatusCode::TOO_MANY_REQUESTS;
        let retry_after = retry_after.and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
        Self { is_final, retry_after, ..Self::passing(url, why) }
    }

    pub(super) fn into_error(self) -> ClientError {
        let Self { url, why, cause, .. } = self;
        match cause {
            Cause::Options => ClientError::Address(why),
            Cause::Certificate => ClientError::Certificate { url, why },
            Cause::Unanswered => ClientError::Unanswered { url, why },
            Cause::Other => ClientError::Connect { url, why },
        }
    }
}

/// An error and what lies under it, in one line.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut said = error.to_string();
    let mut under = error.source();
    while let Some(error) = under {
        let more = error.to_string();
        // Many wrappers repeat what they wrap.
        if !said.ends_with(&more) {
            said = format!("{said}: {more}");
        }
        under = error.source();
    }
    said
}

/// What is wrong with a certificate, where that is what lies under an error.
fn certificate(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found @ rustls::Error::InvalidCertificate(_)) = error.downcast_ref() {
            return Some(found.to_string());
        }
        // `source` of an I/O error passes over the error in it.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner as &(dyn Error + 'static)),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_found_under_what_wraps_it() {
        let bad = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, bad));
        let failure = Failure::from_error("https://node", &wrapped);
        assert_eq!((failure.cause, failure.is_final), (Cause::Certificate, true));
        assert!(failure.why.contains("UnknownIssuer"), "{}", failure.why);
        let other = Failure::from_error("https://node", &io::Error::other("away"));
        assert_eq!((other.cause, other.is_final, other.why.as_str()), (Cause::Other, false, "away"));
    }

    #[test]
    fn statuses_say_whether_to_try_again() {
        let status = |code: u16, after| {
            let status = http::StatusCode::from_u16(code).unwrap();
            let failure = Failure::from_status("http://node", status, b"why", after);
            (failure.is_final, failure.retry_after)
        };
        assert_eq!(status(404, None), (true, None));
        assert_eq!(status(429, Some("7")), (false, Some(Duration::from_secs(7))));
        assert_eq!(status(503, Some("soon")), (false, None));
    }
}
