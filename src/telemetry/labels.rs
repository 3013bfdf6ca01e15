//! The bounded words that stand in labels.

use crate::backbone::BackboneError;
use crate::domain::{CloseReason, EventKind};
use crate::protocol::{GapReason, Resumed};

/// A closed set of words for one label of a metric.
pub trait Label: Copy + Send + Sync + 'static {
    /// Every word, in the order of [`Label::index`].
    const ALL: &'static [Self];
    /// Its place in [`Label::ALL`].
    fn index(self) -> usize;
    /// The word in the label.
    fn word(self) -> &'static str;
}

impl Label for CloseReason {
    const ALL: &'static [Self] = CloseReason::ALL;

    fn index(self) -> usize {
        self as usize
    }

    fn word(self) -> &'static str {
        self.label()
    }
}

impl Label for EventKind {
    const ALL: &'static [Self] = EventKind::ALL;

    fn index(self) -> usize {
        self as usize
    }

    fn word(self) -> &'static str {
        self.label()
    }
}

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// The value that goes by this word.
            pub fn named(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.word() == word)
            }
        }

        impl Label for $name {
            const ALL: &'static [Self] = &[$(Self::$variant),*];

            fn index(self) -> usize {
                self as usize
            }

            fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }
    )*};
}

labels! {
    /// What carries a connection.
    Transport {
        /// A WebSocket.
        WebSocket = "websocket",
        /// A WebTransport session.
        WebTransport = "webtransport",
        /// Server-sent events.
        Sse = "sse",
        /// Lines of JSON.
        Ndjson = "ndjson",
    }

    /// Why a handshake was refused before there was a session.
    Refusal {
        /// The request or the first frame is not as the protocol says.
        BadRequest = "bad_request",
        /// No such tenant, or it is suspended.
        UnknownTenant = "unknown_tenant",
        /// The token was missing, wrong or refused.
        Unauthorized = "unauthorized",
        /// The page's origin is not on the tenant's list.
        Origin = "origin",
        /// The address is on a deny list.
        Address = "address",
        /// Everybody together connects too fast.
        RateNode = "rate_node",
        /// The address connects too fast.
        RateAddress = "rate_address",
        /// The node holds as many connections as it may.
        Overloaded = "overloaded",
        /// The handshake took too long.
        Timeout = "timeout",
        /// TLS failed.
        Tls = "tls",
        /// The node is going away.
        Draining = "draining",
        /// The backbone is needed and away.
        BackboneAway = "backbone_away",
        /// The tenant's plugin did not answer, or wants it later.
        Plugin = "plugin",
    }

    /// What a client got back when it connected. The words are those of protocol v1.
    Resume {
        /// A new session.
        New = "new",
        /// Everything was kept.
        Home = "home",
        /// Identity and cursors were kept.
        Moved = "moved",
        /// The cursors are unknown or expired.
        Lost = "lost",
    }

    /// Why a gap was told. The words are those of protocol v1.
    Gap {
        /// The log no longer holds the messages, or cannot prove that it does.
        Trimmed = "trimmed",
        /// The backbone's data began a new life.
        Epoch = "epoch",
        /// They were delivered as often as allowed.
        Attempts = "attempts",
        /// The subscriber was too slow for the namespace's rule.
        Slow = "slow",
    }

    /// What became of a dead letter.
    DeadLetterOutcome {
        /// It is in the dead-letter stream.
        Stored = "stored",
        /// The tenant's rate was exceeded.
        Dropped = "dropped",
        /// A newer generation owns the device, so this one does not decide.
        Stale = "stale",
        /// The backbone did not take it.
        Failed = "failed",
    }

    /// Why an entry of a log is no message.
    Skip {
        /// A field is missing or does not parse.
        Malformed = "malformed",
        /// Its time to live is over.
        Expired = "expired",
        /// Its payload is larger than allowed.
        TooLarge = "too_large",
        /// Its channel is live and has more than its namespace delivers.
        Thinned = "thinned",
        /// A plugin dropped it, or failed where that drops it.
        Plugin = "plugin",
    }

    /// How a publication came to the node.
    Via {
        /// A client's `publish`.
        Client = "client",
        /// HTTP publish.
        Http = "http",
        /// A client's `send`.
        Send = "send",
        /// An ingress entry.
        Ingress = "ingress",
    }

    /// What became of a publication, counted once a target channel.
    PublishOutcome {
        /// It is in the log.
        Accepted = "accepted",
        /// It is not as it has to be.
        Invalid = "invalid",
        /// Rules do not allow it.
        Refused = "refused",
        /// It came faster than the tenant may publish, or while too many others were in flight.
        Limited = "limited",
        /// The backbone is away or takes no writes.
        Unavailable = "unavailable",
        /// The backbone answered with another error.
        Failed = "failed",
    }

    /// What became of a cursor write.
    CursorWriteOutcome {
        /// It stands, or a later one does.
        Stored = "stored",
        /// A newer generation owns the device.
        Stale = "stale",
        /// The backbone did not take it.
        Failed = "failed",
    }

    /// Where plugins are asked.
    PluginHook {
        /// A client connects or refreshes its token.
        Authenticate = "authenticate",
        /// A client subscribes.
        OnSubscribe = "on_subscribe",
        /// A client publishes.
        OnPublish = "on_publish",
        /// An ingress entry.
        Route = "route",
        /// Before fan-out, once a message.
        OnDeliver = "on_deliver",
        /// Before fan-out, once a message and class.
        OnDeliverClass = "on_deliver_class",
        /// Before fan-out, once a message and session.
        OnDeliverSession = "on_deliver_session",
        /// A session came or went.
        OnSession = "on_session",
    }

    /// What came of a call of a plugin.
    PluginOutcome {
        /// An answer that is no refusal.
        Answered = "answered",
        /// A refusal of the plugin's own.
        Refused = "refused",
        /// It trapped.
        Trap = "trap",
        /// It took too long.
        Timeout = "timeout",
        /// What it waited for took too long.
        HostTimeout = "host_timeout",
        /// It wanted more memory than it may have.
        OutOfMemory = "out_of_memory",
        /// Its answer is not as it has to be.
        BadAnswer = "bad_answer",
        /// It was not called: too many calls wait or run.
        Overloaded = "overloaded",
        /// It was not called: it has failed too often.
        CutOff = "cut_off",
        /// It was not called: it is gone, or could not be instantiated.
        Unavailable = "unavailable",
    }

    /// What came of a request that a plugin made.
    PluginHttpOutcome {
        /// A status came; all of the body that was asked for, too.
        Answered = "answered",
        /// It was not made: its host is none that the operator lists.
        Denied = "denied",
        /// It was not made: too many of the tenant's are in flight.
        Overloaded = "overloaded",
        /// No connection, no TLS, or no HTTP.
        Failed = "failed",
        /// It took longer than it may.
        Timeout = "timeout",
        /// The body has more bytes than it may.
        TooLarge = "too_large",
        /// The plugin's call ended before an answer came.
        Abandoned = "abandoned",
    }

    /// What became of a line for a tenant's plugin log.
    PluginLogLine {
        /// It is there.
        Kept = "kept",
        /// Too many came.
        Dropped = "dropped",
    }

    /// Kinds of backbone errors.
    BackboneFault {
        /// No connection, or it was lost while waiting.
        Away = "away",
        /// A key holds something else than expected.
        WrongType = "wrong_type",
        /// It takes no writes now.
        ReadOnly = "read_only",
        /// A stream has as many entries as it may.
        Full = "full",
        /// An ingress entry is not where another one comes after it.
        Behind = "behind",
        /// It refused the command otherwise.
        Refused = "refused",
    }
}

impl From<&BackboneError> for BackboneFault {
    fn from(error: &BackboneError) -> Self {
        match error {
            BackboneError::Away(_) => Self::Away,
            BackboneError::WrongType(_) => Self::WrongType,
            BackboneError::ReadOnly(_) => Self::ReadOnly,
            BackboneError::Full(_) => Self::Full,
            BackboneError::Behind => Self::Behind,
            BackboneError::Refused(_) => Self::Refused,
        }
    }
}

impl From<GapReason> for Gap {
    fn from(reason: GapReason) -> Self {
        match reason {
            GapReason::Trimmed => Self::Trimmed,
            GapReason::Epoch => Self::Epoch,
            GapReason::Attempts => Self::Attempts,
            GapReason::Slow => Self::Slow,
        }
    }
}

impl From<Resumed> for Resume {
    fn from(resumed: Resumed) -> Self {
        match resumed {
            Resumed::New => Self::New,
            Resumed::Home => Self::Home,
            Resumed::Moved => Self::Moved,
            Resumed::Lost => Self::Lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_those_of_the_protocol() {
        for reason in [GapReason::Trimmed, GapReason::Epoch, GapReason::Attempts, GapReason::Slow] {
            assert!(Gap::named(reason.label()).is_some(), "{reason:?}");
        }
        for resumed in [Resumed::New, Resumed::Home, Resumed::Moved, Resumed::Lost] {
            assert!(Resume::named(resumed.label()).is_some(), "{resumed:?}");
        }
        assert_eq!(Gap::named("nonsense"), None);
    }

    #[test]
    fn an_index_finds_its_word() {
        for (place, reason) in <CloseReason as Label>::ALL.iter().enumerate() {
            assert_eq!(reason.index(), place);
        }
        for (place, fault) in BackboneFault::ALL.iter().enumerate() {
            assert_eq!(fault.index(), place);
        }
    }
}
