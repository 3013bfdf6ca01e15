//! Wake-ups: one connection that hears keyspace events, or polling where events cannot be had.
//!
//! One task owns the connection and carries out orders one after the other, so that an order to watch
//! and one to stop cannot overtake each other.

use std::sync::Arc;
use std::time::Duration;

use redis::PushKind;
use redis::aio::MultiplexedConnection;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::connection::{Dial, Link, ask};
use super::notify::{Proof, add_flags, probe};
use super::watched::Watched;
use super::{RedisConfig, errors, values};
use crate::backbone::BackboneError;
use crate::backbone::backoff::Backoff;
use crate::domain::StreamKey;

/// Channels in one `SUBSCRIBE`: an unread pipeline of a million gets the connection closed.
const WINDOW: usize = 1_000;
/// Orders that wait for the task.
const ORDERS: usize = 1_024;
/// How often the connection is asked whether it still is one.
const PING_PERIOD: Duration = Duration::from_secs(3);
/// How often events are proven again: somebody may have changed the server's flags.
const PROBE_PERIOD: Duration = Duration::from_secs(30);
/// Streams marked in one poll: 20,000 reads a second at the default interval.
const POLLED_AT_ONCE: usize = 2_000;

/// How wake-ups come now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Not at all.
    Away,
    /// By keyspace events.
    Events,
    /// Every poll interval.
    Polling,
}

enum Order {
    Watch { streams: Vec<StreamKey>, done: oneshot::Sender<Result<(), BackboneError>> },
    Unwatch { streams: Vec<StreamKey>, done: oneshot::Sender<()> },
}

/// Gives orders to the task.
pub(super) struct Wakeups {
    orders: mpsc::Sender<Order>,
    mode: watch::Receiver<Mode>,
    link: Arc<Link>,
    watched: Arc<Watched>,
    patience: Duration,
    window_timeout: Duration,
}

impl Wakeups {
    /// The two ends: orders, and the task that carries them out.
    pub(super) fn new(config: &RedisConfig, dial: Dial, link: Arc<Link>, watched: Watched) -> (Self, Keeper) {
        let (orders, taken) = mpsc::channel(ORDERS);
        let (changes, mode) = watch::channel(Mode::Away);
        let watched = Arc::new(watched);
        let handle = Self {
            orders,
            mode,
            link: Arc::clone(&link),
            watched: Arc::clone(&watched),
            patience: config.patience,
            window_timeout: dial.response_timeout(),
        };
        let keeper = Keeper {
            dial,
            link,
            watched,
            orders: taken,
            mode: changes,
            force_polling: config.force_polling,
            poll_interval: config.poll_interval.max(Duration::from_millis(1)),
        };
        (handle, keeper)
    }

    /// Resolves when every stream marks on additions.
    pub(super) async fn watch(&self, streams: &[StreamKey]) -> Result<(), BackboneError> {
        if streams.is_empty() {
            return Ok(());
        }
        let away = || BackboneError::Away("wake-ups are not connected".into());
        let mut mode = self.mode.clone();
        match timeout(self.patience, mode.wait_for(|mode| *mode != Mode::Away)).await {
            Ok(Ok(_)) => {}
            _ => return Err(away()),
        }
        let (done, answer) = oneshot::channel();
        let order = Order::Watch { streams: streams.to_vec(), done };
        let windows = u32::try_from(streams.len() / WINDOW).unwrap_or(u32::MAX).saturating_add(2);
        let carried_out = async {
            self.orders.send(order).await.map_err(|_| away())?;
            answer.await.map_err(|_| away())?
        };
        timeout(self.window_timeout.saturating_mul(windows), carried_out)
            .await
            .unwrap_or_else(|_| Err(away()))
    }

    /// Stops marking. Resolves when the server was told, or soon where there is none.
    pub(super) async fn unwatch(&self, streams: &[StreamKey]) {
        if !streams.is_empty() {
            let (done, answer) = oneshot::channel();
            let order = Order::Unwatch { streams: streams.to_vec(), done };
            // An error says that the task has ended: nothing marks any more. Without a connection the
            // server has forgotten what was watched.
            if self.orders.send(order).await.is_ok() {
                let _ = timeout(self.window_timeout, answer).await;
            }
        }
    }

    /// How many nodes hear of each stream, where nodes hear.
    pub(super) async fn watchers(&self, streams: &[StreamKey]) -> Vec<Result<Option<u64>, BackboneError>> {
        // The way to wake up is the server's and its users', so nodes differ in it for moments only.
        if *self.mode.borrow() != Mode::Events {
            return streams.iter().map(|_| Ok(None)).collect();
        }
        let mut counts = Vec::with_capacity(streams.len());
        for window in streams.chunks(WINDOW) {
            match self.listeners(window).await {
                Ok(listeners) => counts.extend(listeners.into_iter().map(|count| Ok(Some(count)))),
                Err(error) => counts.extend(window.iter().map(|_| Err(error.clone()))),
            }
        }
        counts
    }

    async fn listeners(&self, streams: &[StreamKey]) -> Result<Vec<u64>, BackboneError> {
        let mut pipe = redis::pipe();
        pipe.cmd("PUBSUB").arg("NUMSUB");
        for stream in streams {
            pipe.arg(self.watched.event_channel(stream.as_str()));
        }
        let answer = self.link.run(&pipe).await?.pop().unwrap_or_default();
        let counts = values::pairs(answer, "PUBSUB NUMSUB")?.into_iter();
        let counts: Vec<u64> =
            counts.map(|(_, count)| values::count(count, "PUBSUB NUMSUB")).collect::<Result<_, _>>()?;
        if counts.len() == streams.len() { Ok(counts) } else { Err(errors::unexpected("PUBSUB NUMSUB")) }
    }

    /// Waits for the first connection.
    pub(super) async fn ready(&self, within: Duration) {
        let mut mode = self.mode.clone();
        // Without one in time the node starts all the same: watching says that it is away.
        let _ = timeout(within, mode.wait_for(|mode| *mode != Mode::Away)).await;
    }

    /// Whether streams can be watched now.
    pub(super) fn is_connected(&self) -> bool {
        *self.mode.borrow() != Mode::Away
    }
}

/// One connection's life.
struct Channel {
    /// `None` where polling is forced.
    connection: Option<MultiplexedConnection>,
    dropped: Arc<Notify>,
    mode: Mode,
}

/// The task that owns the connection.
pub(super) struct Keeper {
    dial: Dial,
    link: Arc<Link>,
    watched: Arc<Watched>,
    orders: mpsc::Receiver<Order>,
    mode: watch::Sender<Mode>,
    force_polling: bool,
    poll_interval: Duration,
}

impl Keeper {
    /// Connects, and again whenever the connection is lost, until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(self.keep()).await;
        self.mode.send_replace(Mode::Away);
    }

    async fn keep(&mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
        loop {
            let error = match self.establish().await {
                Ok(mut channel) => {
                    self.mode.send_replace(channel.mode);
                    // Whatever was added while nobody listened is read now.
                    self.watched.mark_all().await;
                    let began = Instant::now();
                    let error = self.tend(&mut channel).await;
                    if began.elapsed() > PING_PERIOD {
                        backoff.reset();
                    }
                    tracing::warn!(redis = self.dial.address(), reason = %error, "wake-ups were lost");
                    error
                }
                Err(error) => error,
            };
            self.mode.send_replace(Mode::Away);
            tracing::debug!(reason = %error, "connecting for wake-ups again");
            self.decline_for(backoff.delay()).await;
        }
    }

    /// Connects, sets the flags, proves that events come, subscribes everything, checks the epoch.
    async fn establish(&self) -> Result<Channel, BackboneError> {
        let dropped = Arc::new(Notify::new());
        if self.force_polling {
            return Ok(Channel { connection: None, dropped, mode: Mode::Polling });
        }
        let (watched, signal) = (Arc::clone(&self.watched), Arc::clone(&dropped));
        let mut connection = self
            .dial
            .open(move |push| match push.kind {
                PushKind::Disconnection => signal.notify_one(),
                _ => watched.hear(&push),
            })
            .await?;
        let mode = self.begin(&mut connection).await?;
        if mode == Mode::Polling {
            tracing::warn!(
                interval = ?self.poll_interval,
                "keyspace events cannot be had from Redis: polling instead. Set notify-keyspace-events to \
                 Kt and allow the node's user &__keyspace@*"
            );
        }
        self.link.epochs().check(&mut connection).await?;
        Ok(Channel { connection: Some(connection), dropped, mode })
    }

    /// Events if they can be had, with everything subscribed to.
    async fn begin(&self, connection: &mut MultiplexedConnection) -> Result<Mode, BackboneError> {
        let flags_set = add_flags(connection).await?;
        let proven = match probe(connection, &self.watched).await? {
            Proof::Heard => true,
            Proof::Silent => false,
            Proof::Unknown => flags_set,
        };
        if !proven {
            return Ok(Mode::Polling);
        }
        match self.subscribe(connection, &self.watched.all()).await {
            Ok(()) => Ok(Mode::Events),
            Err(BackboneError::Away(why)) => Err(BackboneError::Away(why)),
            // The rights reach the probe's events but not all streams'.
            Err(_) => Ok(Mode::Polling),
        }
    }

    async fn subscribe(
        &self,
        connection: &mut MultiplexedConnection,
        streams: &[StreamKey],
    ) -> Result<(), BackboneError> {
        for window in streams.chunks(WINDOW) {
            let channels: Vec<String> =
                window.iter().map(|stream| self.watched.event_channel(stream.as_str())).collect();
            // The confirmations come within the connection's response timeout, or it is dead.
            connection.subscribe(channels).await.map_err(|error| errors::failed(&error))?;
        }
        Ok(())
    }

    /// Carries out orders and looks after the connection; returns why it cannot be used any longer.
    async fn tend(&mut self, channel: &mut Channel) -> BackboneError {
        let mut ping = interval_at(Instant::now() + PING_PERIOD, PING_PERIOD);
        let mut prove = interval_at(Instant::now() + PROBE_PERIOD, PROBE_PERIOD);
        let mut poll = interval(self.poll_interval);
        for timer in [&mut ping, &mut prove, &mut poll] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        let mut polled = 0;
        let dropped = Arc::clone(&channel.dropped);
        let mut lives = self.link.lives();
        loop {
            let outcome = tokio::select! {
                () = dropped.notified() => Err(BackboneError::Away("the server closed it".into())),
                order = self.orders.recv() => match order {
                    Some(order) => self.carry_out(channel, order).await,
                    None => Err(BackboneError::Away("the backbone was dropped".into())),
                },
                _ = ping.tick() => check_alive(channel).await,
                _ = prove.tick() => self.prove_again(channel).await,
                // The commands' new connection may have found another master. Reads that failed
                // meanwhile are made again.
                Ok(()) = lives.changed() => {
                    let proven = self.prove_again(channel).await;
                    self.watched.mark_all().await;
                    proven
                }
                _ = poll.tick(), if channel.mode == Mode::Polling => {
                    // Marks made while nothing can be read only make failing reads.
                    if self.link.is_connected() {
                        polled = self.watched.mark_some(polled, POLLED_AT_ONCE);
                    }
                    Ok(())
                }
            };
            if let Err(error) = outcome {
                return error;
            }
        }
    }

    /// Carries out an order and those of its kind that wait behind it: many sessions that begin
    /// together share a window. An error means that the connection is dead.
    async fn carry_out(&mut self, channel: &mut Channel, order: Order) -> Result<(), BackboneError> {
        let mut next = Some(order);
        while let Some(order) = next.take() {
            match order {
                Order::Watch { streams, done } => {
                    let mut wanted = streams;
                    let mut waiting = vec![done];
                    while wanted.len() < WINDOW {
                        match self.orders.try_recv() {
                            Ok(Order::Watch { streams, done }) => {
                                wanted.extend(streams);
                                waiting.push(done);
                            }
                            Ok(other) => {
                                next = Some(other);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    self.watch(channel, wanted, waiting).await?;
                }
                Order::Unwatch { streams, done } => {
                    self.unwatch(channel, streams).await?;
                    // Whoever waited may have given up.
                    let _ = done.send(());
                }
            }
        }
        Ok(())
    }

    async fn watch(
        &self,
        channel: &mut Channel,
        wanted: Vec<StreamKey>,
        waiting: Vec<oneshot::Sender<Result<(), BackboneError>>>,
    ) -> Result<(), BackboneError> {
        // Whoever gave up waiting believes that nothing is watched.
        if waiting.iter().all(oneshot::Sender::is_closed) {
            return Ok(());
        }
        let new = self.watched.add(wanted);
        let outcome = match &mut channel.connection {
            Some(connection) if channel.mode == Mode::Events => self.subscribe(connection, &new).await,
            _ => Ok(()),
        };
        if outcome.is_err() {
            self.watched.remove(new);
        }
        for done in waiting {
            // A closed one belongs to a caller that gave up meanwhile.
            let _ = done.send(outcome.clone());
        }
        fatal(outcome)
    }

    async fn unwatch(&self, channel: &mut Channel, streams: Vec<StreamKey>) -> Result<(), BackboneError> {
        let gone = self.watched.remove(streams);
        let Some(connection) = channel.connection.as_mut().filter(|_| channel.mode == Mode::Events) else {
            return Ok(());
        };
        for window in gone.chunks(WINDOW) {
            let channels: Vec<String> =
                window.iter().map(|stream| self.watched.event_channel(stream.as_str())).collect();
            fatal(connection.unsubscribe(channels).await.map_err(|error| errors::failed(&error)))?;
        }
        Ok(())
    }

    /// Proves again that this is the master and events come, or looks whether they can be had by now.
    async fn prove_again(&self, channel: &mut Channel) -> Result<(), BackboneError> {
        let Some(connection) = &mut channel.connection else { return Ok(()) };
        self.link.epochs().check(connection).await?;
        match channel.mode {
            Mode::Events => match probe(connection, &self.watched).await? {
                Proof::Silent => Err(BackboneError::Away("keyspace events have stopped".into())),
                Proof::Heard | Proof::Unknown => Ok(()),
            },
            Mode::Polling | Mode::Away => {
                if self.begin(connection).await? == Mode::Events {
                    tracing::info!("keyspace events come now: polling ends");
                    channel.mode = Mode::Events;
                    self.mode.send_replace(Mode::Events);
                    self.watched.mark_all().await;
                }
                Ok(())
            }
        }
    }

    /// Waits without a connection: orders to watch are refused, so that nobody hangs on them.
    async fn decline_for(&mut self, delay: Duration) {
        let wait = sleep(delay);
        tokio::pin!(wait);
        loop {
            tokio::select! {
                () = &mut wait => return,
                order = self.orders.recv() => match order {
                    Some(Order::Watch { done, .. }) => {
                        let refusal = BackboneError::Away("wake-ups are not connected".into());
                        // A closed one belongs to a caller that gave up.
                        let _ = done.send(Err(refusal));
                    }
                    Some(Order::Unwatch { streams, .. }) => {
                        self.watched.remove(streams);
                    }
                    None => return,
                }
            }
        }
    }
}

async fn check_alive(channel: &mut Channel) -> Result<(), BackboneError> {
    let Some(connection) = &mut channel.connection else { return Ok(()) };
    let mut pipe = redis::pipe();
    pipe.cmd("PING");
    ask(connection, &pipe).await.map(drop)
}

/// Only a dead connection ends a connection's life; a refusal is the caller's to hear.
fn fatal(outcome: Result<(), BackboneError>) -> Result<(), BackboneError> {
    match outcome {
        Err(BackboneError::Away(why)) => Err(BackboneError::Away(why)),
        _ => Ok(()),
    }
}
