//! The directory: which sessions this node holds, whose they are, and on which shard.
//!
//! One task owns it. It is asked when sessions begin, come back, and end; never on the message path.

use std::collections::HashMap;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::delivery::ShardId;
use crate::domain::{CloseReason, DeviceId, SessionId, TenantId, UserId};
use crate::protocol::{BadFrame, ClientFrame};

/// What a client sends beside its connection: frames, and what is said of those that are none.
pub type Frames = Vec<Result<ClientFrame, BadFrame>>;

/// Whether a session is the one that somebody means.
pub type Wanted<S> = Box<dyn FnOnce(&S) -> bool + Send>;

/// What the directory asks of a shard. `S` is the session, which the directory carries and never opens.
pub enum Order<S> {
    /// Give the session up to whoever waits for it, closing its connection with the reason. `None`
    /// is the answer where the shard no longer has it, or where it is not the one that is wanted: that one
    /// stays as it is.
    Detach {
        /// Which session.
        session: SessionId,
        /// What it has to be like.
        wanted: Wanted<S>,
        /// What its connection, if it has one, is told.
        reason: CloseReason,
        /// Where it goes.
        to: oneshot::Sender<Option<Box<S>>>,
    },
    /// Take frames of the session's client, that came beside its connection.
    Say {
        /// Which session.
        session: SessionId,
        /// What it has to be like.
        wanted: Wanted<S>,
        /// The frames.
        frames: Frames,
        /// What became of them.
        to: oneshot::Sender<Option<Said>>,
    },
    /// End the session.
    Close {
        /// Which session.
        session: SessionId,
        /// What its connection is told.
        reason: CloseReason,
        /// The same in words, where whoever ends it has some.
        message: Option<Box<str>>,
    },
}

/// What became of frames that came beside a session's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// The session took them; answers go out over its connection.
    Heard,
    /// The session is not as whoever brought them thinks.
    Outdated,
    /// It has no connection, over which answers could go.
    NotConnected,
    /// More waits for its client than may.
    Behind,
}

/// Sessions of a tenant, by what is known of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// One session.
    Session(SessionId),
    /// All of a user's, or those of one device of the user.
    User(UserId, Option<DeviceId>),
}

/// Names a session to the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The session.
    pub session: SessionId,
    /// Its tenant.
    pub tenant: TenantId,
    /// Whose it is.
    pub user: UserId,
    /// Its device, where it has one.
    pub device: Option<DeviceId>,
    /// Where it lives.
    pub shard: ShardId,
}

enum Ask<S> {
    Take { session: SessionId, wanted: Wanted<S>, to: oneshot::Sender<Option<Box<S>>> },
    TakeDevice { tenant: TenantId, user: UserId, device: DeviceId, to: oneshot::Sender<Option<Box<S>>> },
    Say { session: SessionId, wanted: Wanted<S>, frames: Frames, to: oneshot::Sender<Option<Said>> },
    Register { entry: Entry, cap: usize },
    Forget { session: SessionId, shard: ShardId },
    Kick { tenant: TenantId, whose: Whose, message: Option<Box<str>>, to: oneshot::Sender<usize> },
    HasSessions { tenant: TenantId, user: UserId, to: oneshot::Sender<bool> },
}

/// The way to the directory. Cheap to clone; its calls wait for room, so they slow down whoever opens
/// sessions faster than they can be entered.
#[derive(Debug)]
pub struct Directory<S> {
    asks: mpsc::Sender<Ask<S>>,
}

impl<S> Clone for Directory<S> {
    fn clone(&self) -> Self {
        Self { asks: self.asks.clone() }
    }
}

impl<S: Send + 'static> Directory<S> {
    /// Starts the directory over the shards' order queues, by shard number.
    pub fn spawn(shards: Vec<mpsc::Sender<Order<S>>>, cancel: CancellationToken) -> (Self, JoinHandle<()>) {
        let (asks, queue) = mpsc::channel(4096);
        let owner = Owner { shards, sessions: HashMap::new(), users: HashMap::new() };
        (Self { asks }, tokio::spawn(owner.run(queue, cancel)))
    }

    /// Takes a session from the shard that has it, for the one that asks, if it is as `wanted` there. Its
    /// connection is told that it was replaced. `None` where this node does not have it, or has another: that
    /// one stays as it is. Whoever takes it registers it anew, or forgets it.
    pub async fn take(
        &self,
        session: SessionId,
        wanted: impl FnOnce(&S) -> bool + Send + 'static,
    ) -> Option<Box<S>> {
        let (to, answer) = oneshot::channel();
        self.asks.send(Ask::Take { session, wanted: Box::new(wanted), to }).await.ok()?;
        answer.await.ok().flatten()
    }

    /// Takes the session of a device.
    pub async fn take_device(&self, tenant: &TenantId, user: &UserId, device: &DeviceId) -> Option<Box<S>> {
        let (to, answer) = oneshot::channel();
        let (tenant, user, device) = (tenant.clone(), user.clone(), device.clone());
        self.asks.send(Ask::TakeDevice { tenant, user, device, to }).await.ok()?;
        answer.await.ok().flatten()
    }

    /// Gives a session of this node frames of its client, if it is as `wanted`. `None` where this node does not have
    /// it. Cancelled, the frames may be taken all the same.
    pub async fn say(
        &self,
        session: SessionId,
        wanted: impl FnOnce(&S) -> bool + Send + 'static,
        frames: Frames,
    ) -> Option<Said> {
        let (to, answer) = oneshot::channel();
        self.asks.send(Ask::Say { session, wanted: Box::new(wanted), frames, to }).await.ok()?;
        answer.await.ok().flatten()
    }

    /// Waits for room to enter a session. Cancel-safe.
    pub async fn room(&self) -> Room<'_, S> {
        // The directory ends only with the node.
        Room(self.asks.reserve().await.ok())
    }

    /// Ends sessions of a tenant that this node has, telling their clients why; how many there were.
    pub async fn kick(&self, tenant: &TenantId, whose: Whose, message: Option<Box<str>>) -> usize {
        let (to, answer) = oneshot::channel();
        let ask = Ask::Kick { tenant: tenant.clone(), whose, message, to };
        // The directory ends only with the node, and with it its sessions do.
        let _ = self.asks.send(ask).await;
        answer.await.unwrap_or(0)
    }

    /// Whether the user has a session on this node, connected or waiting for its client.
    pub async fn has_sessions(&self, tenant: &TenantId, user: &UserId) -> bool {
        let (to, answer) = oneshot::channel();
        let _ = self.asks.send(Ask::HasSessions { tenant: tenant.clone(), user: user.clone(), to }).await;
        answer.await.unwrap_or(false)
    }

    /// A session ended on this shard. Ignored where it has moved to another one since.
    pub async fn forget(&self, session: SessionId, shard: ShardId) {
        let _ = self.asks.send(Ask::Forget { session, shard }).await;
    }
}

/// Room for one more session in the directory.
pub struct Room<'a, S>(Option<mpsc::Permit<'a, Ask<S>>>);

impl<S> Room<'_, S> {
    /// Enters a session. Where the user then has more than `cap`, the oldest is closed.
    pub fn register(self, entry: Entry, cap: usize) {
        if let Some(room) = self.0 {
            room.send(Ask::Register { entry, cap });
        }
    }
}

struct Owner<S> {
    shards: Vec<mpsc::Sender<Order<S>>>,
    sessions: HashMap<SessionId, Entry>,
    /// A user's sessions, the oldest first.
    users: HashMap<(TenantId, UserId), Vec<SessionId>>,
}

impl<S: Send + 'static> Owner<S> {
    async fn run(mut self, mut queue: mpsc::Receiver<Ask<S>>, cancel: CancellationToken) {
        loop {
            let ask = tokio::select! {
                () = cancel.cancelled() => return,
                ask = queue.recv() => ask,
            };
            match ask {
                None => return,
                Some(Ask::Take { session, wanted, to }) => {
                    // It is entered here until its shard has given it up, and whoever takes it has a place for it.
                    if let Some(shard) = self.sessions.get(&session).map(|entry| entry.shard) {
                        self.detach(session, shard, wanted, to).await;
                    }
                }
                Some(Ask::Say { session, wanted, frames, to }) => {
                    // Without an entry, or a shard, the answer is that nobody has it.
                    if let Some(shard) = self.sessions.get(&session).map(|entry| entry.shard) {
                        self.order(shard, Order::Say { session, wanted, frames, to }).await;
                    }
                }
                Some(Ask::TakeDevice { tenant, user, device, to }) => {
                    let of_device = |entry: &&Entry| entry.device.as_ref() == Some(&device);
                    let sessions = self.users.get(&(tenant, user)).into_iter().flatten();
                    let found = sessions.filter_map(|session| self.sessions.get(session)).find(of_device);
                    let found = found.map(|entry| entry.session);
                    if let Some(entry) = found.and_then(|session| self.remove(session)) {
                        self.detach(entry.session, entry.shard, Box::new(|_| true), to).await;
                    }
                }
                Some(Ask::Register { entry, cap }) => self.register(entry, cap).await,
                Some(Ask::Forget { session, shard }) => {
                    if self.sessions.get(&session).is_some_and(|entry| entry.shard == shard) {
                        self.remove(session);
                    }
                }
                Some(Ask::Kick { tenant, whose, message, to }) => {
                    // Whoever asked may be gone; the sessions are ended all the same.
                    let _ = to.send(self.kick(tenant, whose, message).await);
                }
                Some(Ask::HasSessions { tenant, user, to }) => {
                    let _ = to.send(self.users.contains_key(&(tenant, user)));
                }
            }
        }
    }

    async fn kick(&mut self, tenant: TenantId, whose: Whose, message: Option<Box<str>>) -> usize {
        let of_tenant = |session: &SessionId| {
            self.sessions.get(session).filter(|entry| entry.tenant == tenant).map(|entry| (*session, entry))
        };
        let found: Vec<SessionId> = match &whose {
            Whose::Session(session) => of_tenant(session).map(|(session, _)| session).into_iter().collect(),
            Whose::User(user, device) => {
                let sessions = self.users.get(&(tenant.clone(), user.clone())).into_iter().flatten();
                let of_user = sessions.filter_map(of_tenant);
                let wanted = of_user.filter(|(_, entry)| device.is_none() || entry.device == *device);
                wanted.map(|(session, _)| session).collect()
            }
        };
        for session in &found {
            if let Some(entry) = self.remove(*session) {
                let (session, reason, message) = (*session, CloseReason::Kicked, message.clone());
                self.order(entry.shard, Order::Close { session, reason, message }).await;
            }
        }
        found.len()
    }

    async fn detach(
        &self,
        session: SessionId,
        shard: ShardId,
        wanted: Wanted<S>,
        to: oneshot::Sender<Option<Box<S>>>,
    ) {
        let reason = CloseReason::Replaced;
        self.order(shard, Order::Detach { session, wanted, reason, to }).await;
    }

    async fn register(&mut self, entry: Entry, cap: usize) {
        // One that was taken from another shard is here again.
        self.remove(entry.session);
        if let Some(other) = self.other_of_device(&entry)
            && let Some(other) = self.remove(other)
        {
            // Two connections of one device were let in at a time: this one is the later.
            let (session, reason, message) = (other.session, CloseReason::Replaced, None);
            self.order(other.shard, Order::Close { session, reason, message }).await;
        }
        let of_user = self.users.entry((entry.tenant.clone(), entry.user.clone())).or_default();
        of_user.push(entry.session);
        let excess = of_user.len().saturating_sub(cap.max(1));
        let oldest: Vec<_> = of_user.iter().copied().take(excess).collect();
        self.sessions.insert(entry.session, entry);
        for session in oldest {
            if let Some(entry) = self.remove(session) {
                let (reason, message) = (CloseReason::TooManySessions, None);
                self.order(entry.shard, Order::Close { session, reason, message }).await;
            }
        }
    }

    fn other_of_device(&self, entry: &Entry) -> Option<SessionId> {
        let device = entry.device.as_ref()?;
        let sessions = self.users.get(&(entry.tenant.clone(), entry.user.clone()))?;
        let is_other = |session: &&SessionId| {
            let other = self.sessions.get(session).and_then(|other| other.device.as_ref());
            **session != entry.session && other == Some(device)
        };
        sessions.iter().find(is_other).copied()
    }

    fn remove(&mut self, session: SessionId) -> Option<Entry> {
        let entry = self.sessions.remove(&session)?;
        let user = (entry.tenant.clone(), entry.user.clone());
        if let Some(sessions) = self.users.get_mut(&user) {
            sessions.retain(|other| *other != session);
            if sessions.is_empty() {
                self.users.remove(&user);
            }
        }
        Some(entry)
    }

    async fn order(&self, shard: ShardId, order: Order<S>) {
        // A shard that is gone drops the order, and with it the answer that somebody waits for.
        let _ = self.shards[usize::from(shard.0)].send(order).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(session: SessionId, device: Option<&str>) -> Entry {
        Entry {
            session,
            tenant: TenantId::parse("acme").unwrap(),
            user: UserId::parse("alice").unwrap(),
            device: device.map(|device| DeviceId::parse(device).unwrap()),
            shard: ShardId(0),
        }
    }

    #[tokio::test]
    async fn over_the_cap_the_oldest_is_closed() {
        let (orders, mut shard) = mpsc::channel::<Order<()>>(8);
        let (directory, _task) = Directory::spawn(vec![orders], CancellationToken::new());
        let ids = [SessionId::random(), SessionId::random(), SessionId::random()];
        for id in ids {
            directory.room().await.register(entry(id, None), 2);
        }
        let Some(Order::Close { session, reason, .. }) = shard.recv().await else { panic!("no order") };
        assert_eq!((session, reason), (ids[0], CloseReason::TooManySessions));
        assert!(directory.take(ids[0], |()| true).await.is_none(), "it is gone from the directory");
    }

    #[tokio::test]
    async fn who_is_kicked_is_found_by_session_user_or_device() {
        let (orders, mut shard) = mpsc::channel::<Order<()>>(8);
        let (directory, _task) = Directory::spawn(vec![orders], CancellationToken::new());
        let entries = [None, Some("phone"), Some("tablet"), None].map(|it| entry(SessionId::random(), it));
        for entry in &entries {
            directory.room().await.register(entry.clone(), 9);
        }
        let (tenant, user) = (entries[0].tenant.clone(), entries[0].user.clone());
        let other = TenantId::parse("other").unwrap();
        let one = Whose::Session(entries[0].session);
        assert_eq!(directory.kick(&other, one.clone(), None).await, 0, "another tenant's is not found");
        assert_eq!(directory.kick(&tenant, one.clone(), Some("spam".into())).await, 1);
        let Some(Order::Close { session, reason, message }) = shard.recv().await else { panic!("no order") };
        assert_eq!((session, reason), (entries[0].session, CloseReason::Kicked));
        assert_eq!(message.as_deref(), Some("spam"));
        assert_eq!(directory.kick(&tenant, one, None).await, 0, "it is gone");
        let phone = Whose::User(user.clone(), entries[1].device.clone());
        assert_eq!(directory.kick(&tenant, phone, None).await, 1);
        assert!(directory.has_sessions(&tenant, &user).await);
        assert_eq!(directory.kick(&tenant, Whose::User(user.clone(), None), None).await, 2);
        assert!(!directory.has_sessions(&tenant, &user).await);
    }

    #[tokio::test]
    async fn a_device_is_taken_from_the_shard_that_has_it() {
        let (orders, mut shard) = mpsc::channel::<Order<u8>>(8);
        let (directory, _task) = Directory::spawn(vec![orders], CancellationToken::new());
        let entry = entry(SessionId::random(), Some("phone"));
        directory.room().await.register(entry.clone(), 9);
        let device = entry.device.clone().unwrap();
        let taking =
            tokio::spawn(async move { directory.take_device(&entry.tenant, &entry.user, &device).await });
        let Some(Order::Detach { to, .. }) = shard.recv().await else { panic!("no order") };
        to.send(Some(Box::new(7))).unwrap();
        assert_eq!(taking.await.unwrap(), Some(Box::new(7)));
    }

    #[tokio::test]
    async fn a_session_that_is_not_the_one_wanted_stays() {
        let (orders, mut shard) = mpsc::channel::<Order<u8>>(8);
        let (directory, _task) = Directory::spawn(vec![orders], CancellationToken::new());
        let entry = entry(SessionId::random(), None);
        directory.room().await.register(entry.clone(), 9);
        for (wanted, found) in [(1, None), (7, Some(Box::new(7)))] {
            let (directory, id) = (directory.clone(), entry.session);
            let taking = tokio::spawn(async move { directory.take(id, move |got| *got == wanted).await });
            let Some(Order::Detach { wanted, to, .. }) = shard.recv().await else { panic!("no order") };
            to.send(wanted(&7).then(|| Box::new(7))).unwrap();
            assert_eq!(taking.await.unwrap(), found, "the one that is {:?}", found);
        }
        // It is entered once, wherever it goes on.
        directory.room().await.register(entry.clone(), 1);
        assert_eq!(directory.kick(&entry.tenant, Whose::User(entry.user.clone(), None), None).await, 1);
    }
}
