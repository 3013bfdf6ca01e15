//! Why a request is refused as a whole.

use std::time::Duration;

use http::StatusCode;
use http::header::{ACCEPT_ENCODING, HeaderValue};

use crate::api::answer::{self, Answer};
use crate::telemetry::PublishOutcome;

/// Why a request is refused as a whole. The text is for whoever wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The request, or a message in it, is not as it has to be.
    #[error("{0}")]
    Invalid(String),
    /// The body's media type or encoding is not one that is read.
    #[error("{0}")]
    Unsupported(String),
    /// Something is larger than allowed.
    #[error("{what} has {got} bytes, the limit is {limit}")]
    TooLarge {
        /// The body, or which message's payload or headers.
        what: String,
        /// Bytes in the request, or at least so many.
        got: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The body did not come.
    #[error("the body did not come within {0} seconds")]
    Late(u64),
    /// The tenant asks for more than it may.
    #[error("{why}")]
    Limited {
        /// Which limit, and how large it is.
        why: String,
        /// How many targets the request had, 1 where nobody looked.
        targets: usize,
        /// When to come back.
        wait: Duration,
    },
    /// The node is going away, and takes no sends.
    #[error("this node is going away: post again, another node takes it")]
    Leaving,
}

impl PublishError {
    /// 400, 408, 413, 415, 429 or 503.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::Unsupported(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Late(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Limited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Leaving => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// What it is counted as, and how often.
    pub(super) fn counted_as(&self) -> (PublishOutcome, u64) {
        match self {
            Self::Limited { targets, .. } => (PublishOutcome::Limited, *targets as u64),
            Self::Leaving => (PublishOutcome::Unavailable, 1),
            _ => (PublishOutcome::Invalid, 1),
        }
    }

    pub(super) fn into_answer(self) -> Answer {
        let mut answer = answer::error(self.status(), &self);
        match self {
            Self::Limited { wait, .. } => answer::retry_after(answer, wait),
            Self::Leaving => answer::retry_after(answer, Duration::from_secs(1)),
            Self::Unsupported(_) => {
                answer.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
                answer
            }
            _ => answer,
        }
    }

    /// Says which part of the request it is about.
    pub(super) fn at(self, place: &str) -> Self {
        match self {
            Self::Invalid(why) => Self::Invalid(format!("{place}: {why}")),
            Self::TooLarge { what, got, limit } => {
                Self::TooLarge { what: format!("{place}: {what}"), got, limit }
            }
            other => other,
        }
    }
}

pub(super) fn within(what: &str, got: usize, limit: usize) -> Result<(), PublishError> {
    if got > limit {
        return Err(PublishError::TooLarge { what: what.to_owned(), got, limit });
    }
    Ok(())
}

pub(super) fn invalid<T>(why: impl Into<String>) -> Result<T, PublishError> {
    Err(PublishError::Invalid(why.into()))
}
