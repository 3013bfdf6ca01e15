//! What comes of a call that has no answer. Which one it was decides nothing but metrics and logs: the
//! tenant's policy for the hook decides what happens then.

use wasmtime::Trap;

use crate::telemetry::PluginOutcome;

/// Why a call has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The guest trapped.
    #[error("the plugin trapped: {}", cause(*.0))]
    Trap(Option<Trap>),
    /// It ran until its deadline.
    #[error("the plugin took too long")]
    Timeout,
    /// What it waited for, the key-value store or a server, did not answer before its deadline.
    #[error("what the plugin waited for did not answer in time")]
    HostTimeout,
    /// It trapped after memory beyond its limit was refused.
    #[error("the plugin wanted more memory than it may have")]
    OutOfMemory,
    /// Its answer is not as it has to be.
    #[error("the plugin's answer cannot be used: {0}")]
    BadAnswer(BadAnswer),
    /// It was not called: too many calls of its tenant, or of all, wait or run.
    #[error("too many calls of plugins wait")]
    Overloaded,
    /// It was not called: it has failed too often, and is not tried again yet.
    #[error("the plugin is cut off because it failed too often")]
    CutOff,
    /// It was not called: it is retired, has no such hook, or could not be instantiated.
    #[error("the plugin cannot be called")]
    Unavailable,
}

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadAnswer {
    /// No user.
    #[error("`user` must be 1 to 200 bytes once percent-encoded, without control characters")]
    User,
    /// No class.
    #[error("`class` must be 1 to 128 bytes")]
    Class,
    /// Too many or too long.
    #[error("`channels` may have 256 patterns of 256 bytes")]
    Patterns,
    /// No claims.
    #[error("`claims` must be a JSON object of at most 4 KiB")]
    Claims,
    /// No channel.
    #[error("a channel's name is not one")]
    Channel,
    /// None or too many.
    #[error("there are no channels, or more than may be")]
    Targets,
    /// Too large.
    #[error("the payload is larger than the tenant's may be")]
    Payload,
    /// Too many or too long.
    #[error("there are more than 64 headers, or more than 16 KiB of them")]
    Headers,
}

impl Failure {
    /// The word in metrics.
    pub fn label(self) -> PluginOutcome {
        match self {
            Self::Trap(_) => PluginOutcome::Trap,
            Self::Timeout => PluginOutcome::Timeout,
            Self::HostTimeout => PluginOutcome::HostTimeout,
            Self::OutOfMemory => PluginOutcome::OutOfMemory,
            Self::BadAnswer(_) => PluginOutcome::BadAnswer,
            Self::Overloaded => PluginOutcome::Overloaded,
            Self::CutOff => PluginOutcome::CutOff,
            Self::Unavailable => PluginOutcome::Unavailable,
        }
    }

    /// Whether the plugin is to blame, so that the breaker counts it.
    pub fn is_plugins(self) -> bool {
        matches!(self, Self::Trap(_) | Self::Timeout | Self::OutOfMemory | Self::BadAnswer(_))
    }

    /// Whether the same call may have an answer later.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Overloaded | Self::CutOff)
    }
}

/// Fixed words: to format an error of wasmtime with what it knows of the guest's stack takes milliseconds.
fn cause(trap: Option<Trap>) -> &'static str {
    match trap {
        Some(Trap::UnreachableCodeReached) => "it gave up (`unreachable`; a panic in most languages)",
        Some(Trap::StackOverflow) => "its stack is exhausted",
        Some(Trap::MemoryOutOfBounds) => "it reached beyond its memory",
        Some(Trap::TableOutOfBounds | Trap::IndirectCallToNull | Trap::BadSignature) => {
            "it called a function that is not there"
        }
        Some(Trap::IntegerOverflow | Trap::IntegerDivisionByZero | Trap::BadConversionToInteger) => {
            "an arithmetic error"
        }
        Some(Trap::CannotEnterComponent | Trap::CannotLeaveComponent) => {
            "it called in or out where it must not"
        }
        Some(_) => "an error of the component model",
        None => "a call of the host or an answer failed",
    }
}
