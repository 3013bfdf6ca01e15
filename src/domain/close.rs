//! Why a connection ends: the one table of close codes.
//!
//! The code tells a client what to do: 4000–4099 do not reconnect, 4100–4199 reconnect after backing
//! off, 4200–4299 reconnect now. The same numbers close a WebSocket and a WebTransport session.

/// What a client does after its connection was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reconnect {
    /// Not at all: trying again would end the same way.
    Never,
    /// After a jittered, growing pause.
    BackOff,
    /// At once.
    Now,
}

macro_rules! close_reasons {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $label:literal;)*) => {
        /// Why a connection ends.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum CloseReason {
            $($(#[$doc])* $variant,)*
        }

        impl CloseReason {
            /// Every reason, for tables and metrics.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The code on the wire.
            pub fn code(self) -> u16 {
                match self { $(Self::$variant => $code,)* }
            }

            /// The reason on the wire and the metric's label.
            pub fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }
        }
    };
}

close_reasons! {
    /// A frame broke the protocol.
    Protocol = 4000, "protocol_error";
    /// A frame was larger than allowed.
    FrameTooLarge = 4001, "frame_too_large";
    /// The token was missing, wrong or refused.
    Unauthorized = 4002, "unauthorized";
    /// No such tenant, or it is suspended.
    UnknownTenant = 4003, "unknown_tenant";
    /// The user has too many sessions; this was the oldest.
    TooManySessions = 4004, "too_many_sessions";
    /// The same device connected elsewhere; that connection goes on.
    Replaced = 4005, "replaced";
    /// An operator or a backend ended the session.
    Kicked = 4006, "kicked";
    /// The token expired and was not refreshed.
    TokenExpired = 4007, "token_expired";
    /// The client said goodbye.
    ClientGone = 4010, "client_gone";
    /// A heartbeat went unanswered.
    HeartbeatLost = 4100, "heartbeat_lost";
    /// `connect` did not come in time.
    ConnectTimeout = 4101, "connect_timeout";
    /// The node takes no more connections now.
    Overloaded = 4102, "overloaded";
    /// The client read too slowly for its namespace's rule.
    SlowConsumer = 4103, "slow_consumer";
    /// The node failed; nothing acknowledged is lost.
    Internal = 4104, "internal";
    /// The node needs the backbone for this and it is away.
    BackboneAway = 4105, "backbone_away";
    /// The tenant's plugin did not say who the client is, or said to come again later.
    NotNow = 4106, "not_now";
    /// The node is going away.
    Drain = 4200, "drain";
    /// Another node serves this client.
    Moved = 4201, "moved";
}

impl CloseReason {
    /// What the client does next, by the code's range.
    pub fn reconnect(self) -> Reconnect {
        match self.code() {
            4000..4100 => Reconnect::Never,
            4100..4200 => Reconnect::BackOff,
            _ => Reconnect::Now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The codes are public: a change here breaks clients.
    #[test]
    fn the_table_is_pinned() {
        let table: Vec<_> = CloseReason::ALL.iter().map(|reason| (reason.code(), reason.label())).collect();
        let expected = [
            (4000, "protocol_error"),
            (4001, "frame_too_large"),
            (4002, "unauthorized"),
            (4003, "unknown_tenant"),
            (4004, "too_many_sessions"),
            (4005, "replaced"),
            (4006, "kicked"),
            (4007, "token_expired"),
            (4010, "client_gone"),
            (4100, "heartbeat_lost"),
            (4101, "connect_timeout"),
            (4102, "overloaded"),
            (4103, "slow_consumer"),
            (4104, "internal"),
            (4105, "backbone_away"),
            (4106, "not_now"),
            (4200, "drain"),
            (4201, "moved"),
        ];
        assert_eq!(table, expected);
    }

    #[test]
    fn the_range_says_what_to_do() {
        assert_eq!(CloseReason::Replaced.reconnect(), Reconnect::Never);
        assert_eq!(CloseReason::HeartbeatLost.reconnect(), Reconnect::BackOff);
        assert_eq!(CloseReason::Drain.reconnect(), Reconnect::Now);
    }
}
