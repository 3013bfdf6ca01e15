//! Frames of protocol v1, apart from any encoding (`docs/protocol.md`).

use bytes::Bytes;

use crate::domain::{
    ChannelName, CloseReason, DeviceId, Epoch, NodeId, Offset, Publication, SessionId, UserId,
};

/// A number that a client gives a request; its reply carries it.
pub type RequestId = u64;

/// What a client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientFrame {
    /// Opens the session; the first frame, and only the first.
    Connect(Connect),
    /// Subscribes to a channel.
    Subscribe {
        /// The request.
        id: RequestId,
        /// What to subscribe to.
        subscribe: Subscribe,
    },
    /// Ends a subscription.
    Unsubscribe {
        /// The request.
        id: RequestId,
        /// The channel.
        channel: ChannelName,
    },
    /// Publishes to a channel; answered with the offset once it is in the log.
    Publish {
        /// The request.
        id: RequestId,
        /// The channel.
        channel: ChannelName,
        /// The payload.
        payload: Payload,
        /// Conflation key.
        key: Option<Box<str>>,
        /// Idempotency key.
        msg_id: Option<Box<str>>,
    },
    /// Sends to the tenant's backends.
    Send {
        /// The request.
        id: RequestId,
        /// The payload.
        payload: Payload,
        /// What it is about, for the backend.
        topic: Option<Box<str>>,
    },
    /// Acknowledges: on a log everything at or below the offset, on a queue that one.
    Ack {
        /// The channel.
        channel: ChannelName,
        /// The offset.
        offset: Offset,
    },
    /// Asks for one message to be sent again.
    Nack {
        /// The channel.
        channel: ChannelName,
        /// The offset.
        offset: Offset,
        /// Milliseconds to wait before sending again.
        delay_ms: u64,
    },
    /// Reads history.
    History {
        /// The request.
        id: RequestId,
        /// The channel.
        channel: ChannelName,
        /// At most so many messages.
        limit: usize,
        /// Only before this offset.
        before: Option<Offset>,
        /// Only after this offset.
        after: Option<Offset>,
    },
    /// Asks who is in a channel.
    Presence {
        /// The request.
        id: RequestId,
        /// The channel.
        channel: ChannelName,
    },
    /// Replaces the token before it expires.
    Refresh {
        /// The request.
        id: RequestId,
        /// The new token.
        token: Box<str>,
    },
    /// Asks for a `pong`.
    Ping,
}

/// The first frame.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Connect {
    /// The tenant's token; may come as `Authorization` instead, or be absent where the tenant lets
    /// anonymous users in.
    pub token: Option<Box<str>>,
    /// The resume token of an earlier `connected`.
    pub resume: Option<Box<str>>,
    /// Names the device, so that its cursors outlive the session.
    pub device: Option<DeviceId>,
    /// Wished interval of heartbeats in milliseconds.
    pub ping_ms: Option<u64>,
    /// Subscriptions to begin with.
    pub subs: Vec<Subscribe>,
}

/// A wish to subscribe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    /// The channel.
    pub channel: ChannelName,
    /// Recover from after this offset.
    pub offset: Option<Offset>,
    /// The epoch the offset was read in.
    pub epoch: Option<Epoch>,
    /// Whether the client acknowledges.
    pub ack: bool,
    /// Messages in flight; at most the tenant's limit.
    pub window: Option<usize>,
}

/// A payload a client sent, as it will stand in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// The bytes: compact JSON where `data` stood as JSON object or array, else what the text or
    /// bytes were.
    pub data: Bytes,
    /// Whether `data` stood as a JSON value that is neither object, array nor string, so that only the header
    /// `content-type: application/json` makes it come back as JSON.
    pub json_scalar: bool,
}

/// What the server says. Borrowed where a frame is built from something larger.
#[derive(Debug, Clone, PartialEq)]
pub enum ServerFrame {
    /// Answers `connect`.
    Connected {
        /// The session.
        session: SessionId,
        /// Whose it is.
        user: UserId,
        /// Its device.
        device: Option<DeviceId>,
        /// What to resume with.
        resume: Box<str>,
        /// What was kept.
        resumed: Resumed,
        /// The node that serves it.
        node: NodeId,
        /// Agreed interval of heartbeats in milliseconds.
        ping_ms: u64,
    },
    /// A subscription begins; comes before its first message.
    Subscribed {
        /// The request; absent where `connect` or the server asked.
        id: Option<RequestId>,
        /// The channel.
        channel: ChannelName,
        /// Delivery starts after this offset.
        offset: Offset,
        /// The epoch of the offset.
        epoch: Epoch,
        /// Whether everything since the wished position is there; absent where none was wished.
        recovered: Option<bool>,
    },
    /// A message.
    Message {
        /// The channel.
        channel: ChannelName,
        /// The publication.
        message: std::sync::Arc<Publication>,
        /// 1 the first time.
        attempt: u8,
    },
    /// The cursor moved over entries that the client never sees.
    Position {
        /// The channel.
        channel: ChannelName,
        /// Where it stands.
        offset: Offset,
        /// The epoch of the offset.
        epoch: Epoch,
    },
    /// Messages after `after`, up to and with `until`, may be missing.
    Gap {
        /// The channel.
        channel: ChannelName,
        /// The last offset before the gap.
        after: Offset,
        /// The last offset that may be missing.
        until: Offset,
        /// The epoch of `until`.
        epoch: Epoch,
        /// Why.
        reason: GapReason,
    },
    /// A request was done.
    Ok {
        /// The request.
        id: RequestId,
        /// Of `publish`: where it stands in the log.
        offset: Option<Offset>,
        /// Of `history`: the messages, oldest first.
        messages: Option<Vec<std::sync::Arc<Publication>>>,
        /// Of `history`: the epoch of the offsets.
        epoch: Option<Epoch>,
    },
    /// A request was not done, or a frame was wrong.
    Error {
        /// The request, where there is one.
        id: Option<RequestId>,
        /// Which kind of error.
        code: ErrorCode,
        /// What is wrong and what to do, for people.
        message: Box<str>,
    },
    /// The node goes away soon; reconnect after the pause.
    Drain {
        /// Milliseconds to wait.
        retry_after_ms: u64,
        /// Where to connect instead.
        url: Option<Box<str>>,
    },
    /// The last frame of a connection.
    Disconnect {
        /// Why; gives code, reason and whether to reconnect.
        reason: CloseReason,
        /// What exactly was wrong, for people.
        message: Box<str>,
        /// Milliseconds to wait before reconnecting.
        retry_after_ms: Option<u64>,
        /// Where to connect instead.
        url: Option<Box<str>>,
    },
    /// Answers `ping`.
    Pong,
}

impl ServerFrame {
    /// Its `type` on the wire.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Connected { .. } => "connected",
            Self::Subscribed { .. } => "subscribed",
            Self::Message { .. } => Self::MESSAGE,
            Self::Position { .. } => "position",
            Self::Gap { .. } => "gap",
            Self::Ok { .. } => "ok",
            Self::Error { .. } => "error",
            Self::Drain { .. } => "drain",
            Self::Disconnect { .. } => "disconnect",
            Self::Pong => "pong",
        }
    }

    /// The `type` of a message.
    pub const MESSAGE: &'static str = "message";
}

/// What a resume brought back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resumed {
    /// A new session.
    New,
    /// Everything was kept.
    Home,
    /// Identity and cursors were kept.
    Moved,
    /// The cursors are unknown or expired.
    Lost,
}

impl Resumed {
    /// The word on the wire and the metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Home => "home",
            Self::Moved => "moved",
            Self::Lost => "lost",
        }
    }
}

/// Why messages may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapReason {
    /// The log no longer holds them, or cannot prove that it does.
    Trimmed,
    /// The backbone's data began a new life.
    Epoch,
    /// They were delivered as often as allowed and never acknowledged.
    Attempts,
    /// The subscriber was too slow for the namespace's rule.
    Slow,
}

impl GapReason {
    /// The word on the wire and the metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Trimmed => "trimmed",
            Self::Epoch => "epoch",
            Self::Attempts => "attempts",
            Self::Slow => "slow",
        }
    }
}

/// Kinds of errors in replies. The word is public; the message beside it is for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    /// The frame or a field of it is not as the protocol says.
    BadRequest,
    /// The token or the namespace's rules do not allow it.
    Forbidden,
    /// There is no such namespace, subscription or message.
    NotFound,
    /// A limit of the tenant is reached.
    LimitExceeded,
    /// The payload is too large.
    TooLarge,
    /// The backbone is away or busy; the same request may succeed later.
    Unavailable,
    /// The feature is not offered by this namespace or node.
    Unsupported,
}

impl ErrorCode {
    /// The word on the wire.
    pub fn label(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::LimitExceeded => "limit_exceeded",
            Self::TooLarge => "too_large",
            Self::Unavailable => "unavailable",
            Self::Unsupported => "unsupported",
        }
    }
}
