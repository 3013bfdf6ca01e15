//! What a session asks its shard to do.

use crate::delivery::queues::Word;
use crate::domain::{ChannelName, CloseReason, Offset};
use crate::protocol::{Payload, RequestId, ServerFrame};

/// Effects in the order they are to be performed. The shard keeps one list and uses it again.
pub type Effects = Vec<Effect>;

/// Something to do for a session. `index` names an item of the batch that is being handled, `sub` a
/// subscription of the session, `worker` its part in a queue.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Queue the batch's shared frame of this item.
    Deliver {
        /// Which item.
        index: u32,
    },
    /// Queue this item, encoded for this session.
    Redeliver {
        /// Which item.
        index: u32,
        /// Which attempt this is.
        attempt: u8,
    },
    /// Give up on this item: put it into the dead-letter stream.
    DeadLetter {
        /// Of which subscription.
        sub: usize,
        /// Which item.
        index: u32,
        /// How often it was delivered.
        attempts: u8,
    },
    /// Queue a frame.
    Send(ServerFrame),
    /// Take part in the channel of this new subscription.
    Join {
        /// Which subscription.
        sub: usize,
    },
    /// Leave the channel of this subscription and remove it.
    Leave {
        /// Which subscription.
        sub: usize,
    },
    /// Take part in the queue of this new worker.
    JoinQueue {
        /// Which worker.
        worker: usize,
    },
    /// Leave the queue of this worker and remove it; what it holds goes back.
    LeaveQueue {
        /// Which worker.
        worker: usize,
    },
    /// Tell a worker's queue something.
    Tell {
        /// Which worker.
        worker: usize,
        /// What.
        word: Word,
    },
    /// Ask for the entries after an offset.
    Read {
        /// For which subscription.
        sub: usize,
        /// The reader's position.
        after: Offset,
    },
    /// Let the subscription read on where it has room: what it waited for is over.
    Pursue {
        /// Which subscription.
        sub: usize,
    },
    /// Store the subscription's cursor now; `subscribed` waits for it.
    StoreStart {
        /// Which subscription.
        sub: usize,
    },
    /// The subscription's cursor moved: store it with the next batch of cursors.
    CursorMoved {
        /// Which subscription.
        sub: usize,
    },
    /// Add to the channel's log and answer the request.
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
    /// Add to what clients send to the backends and answer the request.
    SendUp {
        /// The request.
        id: RequestId,
        /// The payload.
        payload: Payload,
        /// What it is about.
        topic: Option<Box<str>>,
    },
    /// Read history and answer the request.
    History {
        /// The request.
        id: RequestId,
        /// The channel.
        channel: ChannelName,
        /// Which entries.
        range: crate::backbone::Range,
    },
    /// Check a new token and answer the request.
    Refresh {
        /// The request.
        id: RequestId,
        /// The token.
        token: Box<str>,
    },
    /// Close the connection. The session ends where its client must not come back with it.
    Close {
        /// Why.
        reason: CloseReason,
        /// What exactly was wrong, for people.
        message: Box<str>,
    },
}
