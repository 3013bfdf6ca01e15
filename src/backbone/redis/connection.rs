//! The connections for commands: a multiplexed one of the client library and those of the feed's reads.
//! They live and end together, and are opened again whenever one is lost.
//!
//! They are published only after their server was found to be a master and its epoch was read, so
//! whatever is read through them belongs to that epoch or a later one.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, Pipeline, ProtocolVersion, PushInfo,
    PushKind, Value,
};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::epoch::EpochKeeper;
use super::reader::{Address, Answer, Commands, Reader, Way};
use super::{RedisConfig, errors, scripts, values};
use crate::backbone::BackboneError;
use crate::backbone::backoff::Backoff;
use crate::backbone::clock::{Clock, local_ms};
use crate::domain::Epoch;

/// How often the connection is looked after: time measured, epoch and role read.
const HEALTH_PERIOD: Duration = Duration::from_secs(5);
/// A connection that lasted so long has proven itself: the next loss is retried at once.
const PROVEN: Duration = Duration::from_secs(5);

/// Opens connections to the one configured server.
#[derive(Clone)]
pub(super) struct Dial {
    client: Client,
    address: Address,
    connect_timeout: Duration,
    response_timeout: Duration,
}

impl Dial {
    /// Understands the URL. The error repeats nothing of it: it may hold a password.
    pub(super) fn new(config: &RedisConfig) -> Result<Self, BackboneError> {
        let invalid = || {
            BackboneError::Refused(
                "the Redis URL is not valid: write redis://[user:password@]host[:port][/db] or rediss://…"
                    .into(),
            )
        };
        let info = config.url.as_str().into_connection_info().map_err(|_| invalid())?;
        if matches!(info.addr(), ConnectionAddr::TcpTls { .. })
            && rustls::crypto::CryptoProvider::get_default().is_none()
        {
            // The client library would panic at the first connection.
            return Err(BackboneError::Refused("rediss:// needs a TLS provider installed at start".into()));
        }
        let redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let info = info.set_redis_settings(redis).set_tcp_settings(tcp);
        let address = Address::new(&info, config.connect_timeout)?;
        let client = Client::open(info).map_err(|_| invalid())?;
        Ok(Self {
            client,
            address,
            connect_timeout: config.connect_timeout,
            response_timeout: config.response_timeout,
        })
    }

    /// Host and port, for logs.
    pub(super) fn address(&self) -> String {
        self.client.get_connection_info().addr().to_string()
    }

    /// The database, which is part of the names of keyspace events.
    pub(super) fn database(&self) -> i64 {
        self.client.get_connection_info().redis_settings().db()
    }

    /// How long one answer may take.
    pub(super) fn response_timeout(&self) -> Duration {
        self.response_timeout
    }

    /// Opens a connection; `push` is called with what the server sends unasked, and with
    /// `PushKind::Disconnection` at the end. Every command on it ends within the response timeout.
    pub(super) async fn open(
        &self,
        push: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> Result<MultiplexedConnection, BackboneError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(Some(self.response_timeout))
            .set_push_sender(move |info| {
                push(info);
                Ok::<(), redis::aio::SendError>(())
            });
        let opening = self.client.get_multiplexed_async_connection_with_config(&config);
        // The library's timeout does not promise to cover name resolution and handshake.
        match timeout(self.connect_timeout, opening).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(errors::failed(&error)),
            Err(_) => Err(BackboneError::Away(format!("no connection to {} in time", self.address()))),
        }
    }
}

/// Sends a pipeline and returns one value a command; a server's error is its command's value. An
/// error means that the connection is dead or has to be treated so.
pub(super) async fn ask(
    connection: &mut MultiplexedConnection,
    pipe: &Pipeline,
) -> Result<Vec<Value>, BackboneError> {
    if pipe.is_empty() {
        return Ok(Vec::new());
    }
    match connection.send_packed_commands(pipe, 0, pipe.len()).await {
        Ok(values) if values.len() == pipe.len() => Ok(values),
        Ok(_) => Err(BackboneError::Away("the server's answers do not fit the questions".into())),
        Err(error) => Err(BackboneError::Away(error.to_string())),
    }
}

#[derive(Clone)]
struct Live {
    /// Counts connections, so that a failure on an old one does not end a new one.
    life: u64,
    connection: MultiplexedConnection,
    reader: Reader,
    dropped: Arc<Notify>,
}

/// The way to the server for everything but wake-ups.
pub(super) struct Link {
    dial: Dial,
    live: watch::Sender<Option<Live>>,
    /// The life of the latest connection.
    lives: watch::Sender<u64>,
    epochs: EpochKeeper,
    clock: Clock,
    patience: Duration,
    /// Where the reader's tasks run.
    tasks: TaskTracker,
}

impl Link {
    /// Connects once; [`Link::supervise`] has to run from then on.
    pub(super) async fn connect(
        dial: Dial,
        patience: Duration,
        tasks: TaskTracker,
    ) -> Result<Self, BackboneError> {
        let link = Self {
            dial,
            live: watch::Sender::new(None),
            lives: watch::Sender::new(0),
            epochs: EpochKeeper::default(),
            clock: Clock::default(),
            patience,
            tasks,
        };
        link.establish(1).await?;
        Ok(link)
    }

    /// The epoch as last read from the server.
    pub(super) fn epoch(&self) -> Epoch {
        self.epochs.current()
    }

    /// Where the epoch is kept.
    pub(super) fn epochs(&self) -> &EpochKeeper {
        &self.epochs
    }

    /// The server's clock.
    pub(super) fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// Changes whenever the connection is a new one, perhaps to another master.
    pub(super) fn lives(&self) -> watch::Receiver<u64> {
        self.lives.subscribe()
    }

    /// Whether there is a connection now.
    pub(super) fn is_connected(&self) -> bool {
        self.live.borrow().is_some()
    }

    /// Sends a pipeline and returns one value a command, errors of the server among them. Without a
    /// connection it waits a moment for one, then answers `Away`.
    pub(super) async fn run(&self, pipe: &Pipeline) -> Result<Vec<Value>, BackboneError> {
        let mut live = self.wait().await?;
        let values = match ask(&mut live.connection, pipe).await {
            Ok(values) => values,
            Err(error) => {
                self.give_up(live.life, &error);
                return Err(error);
            }
        };
        // A master that was demoted keeps the connection and refuses writes: go and find the new one.
        let demoted = |value: &Value| matches!(value, Value::ServerError(e) if e.code() == "READONLY");
        if values.iter().any(demoted) {
            self.give_up(live.life, &BackboneError::Away("the server has become read-only".into()));
        }
        Ok(values)
    }

    /// Sends a pipeline of reads and returns one answer a command. Without a connection it waits a moment
    /// for one, then answers `Away`.
    pub(super) async fn read(&self, way: Way, commands: Commands) -> Result<Vec<Answer>, BackboneError> {
        let live = self.wait().await?;
        live.reader.ask(way, commands).await.inspect_err(|error| self.give_up(live.life, error))
    }

    /// [`Link::run`] for pipelines of script calls: loads the scripts where the server forgot them,
    /// and sends the calls that were refused for it again.
    pub(super) async fn run_scripts(&self, pipe: &Pipeline) -> Result<Vec<Value>, BackboneError> {
        let mut values = self.run(pipe).await?;
        let unknown = |value: &Value| matches!(value, Value::ServerError(e) if e.code() == "NOSCRIPT");
        let again: Vec<usize> = (0..values.len()).filter(|i| unknown(&values[*i])).collect();
        if again.is_empty() {
            return Ok(values);
        }
        errors::all_checked(&self.run(&scripts::load_all()).await?)?;
        let mut retry = redis::pipe();
        for (index, command) in pipe.cmd_iter().enumerate() {
            if again.binary_search(&index).is_ok() {
                retry.add_command(command.clone());
            }
        }
        for (index, value) in again.into_iter().zip(self.run(&retry).await?) {
            values[index] = value;
        }
        Ok(values)
    }

    async fn wait(&self) -> Result<Live, BackboneError> {
        let mut live = self.live.subscribe();
        match timeout(self.patience, live.wait_for(Option::is_some)).await {
            Ok(Ok(found)) => found.clone(),
            _ => None,
        }
        .ok_or_else(|| BackboneError::Away("not connected".into()))
    }

    fn give_up(&self, life: u64, why: &BackboneError) {
        let ended = self.live.send_if_modified(|live| {
            let current = live.as_ref().is_some_and(|live| live.life == life);
            if current {
                *live = None;
            }
            current
        });
        if ended {
            tracing::warn!(redis = self.dial.address(), reason = %why, "lost the connection to Redis");
        }
    }

    /// Keeps a connection until `stop`; after it there is none.
    pub(super) async fn supervise(self: Arc<Self>, stop: CancellationToken) {
        stop.run_until_cancelled(self.keep()).await;
        self.live.send_replace(None);
    }

    async fn keep(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
        let mut life = 1;
        loop {
            let began = Instant::now();
            self.tend().await;
            if began.elapsed() >= PROVEN {
                backoff.reset();
            }
            life += 1;
            while let Err(error) = self.establish(life).await {
                tracing::debug!(redis = self.dial.address(), reason = %error, "Redis is not back yet");
                sleep(backoff.delay()).await;
            }
            tracing::info!(redis = self.dial.address(), "connected to Redis again");
        }
    }

    async fn establish(&self, life: u64) -> Result<(), BackboneError> {
        let dropped = Arc::new(Notify::new());
        let signal = Arc::clone(&dropped);
        let mut connection = self
            .dial
            .open(move |push| {
                if push.kind == PushKind::Disconnection {
                    signal.notify_one();
                }
            })
            .await?;
        let timeout = self.dial.response_timeout;
        let reader = Reader::open(&self.dial.address, timeout, &self.tasks, &dropped).await?;
        self.epochs.check(&mut connection).await?;
        self.check_reader(&reader).await?;
        self.measure(&mut connection).await?;
        ask(&mut connection, &scripts::load_all()).await?;
        self.live.send_replace(Some(Live { life, connection, reader, dropped }));
        self.lives.send_replace(life);
        Ok(())
    }

    /// The same name may have led each connection to another server, in the middle of a failover. Asked
    /// every few seconds it is a sign of life as well.
    async fn check_reader(&self, reader: &Reader) -> Result<(), BackboneError> {
        let answers = reader.replication().await?;
        if answers.iter().flatten().all(|info| self.epochs.is_of_master(info)) {
            return Ok(());
        }
        Err(BackboneError::Away("a connection for reads leads to another server".into()))
    }

    /// Looks after the connection until it is lost.
    async fn tend(&self) {
        let mut changes = self.live.subscribe();
        loop {
            let Some(mut live) = changes.borrow_and_update().clone() else { return };
            let dropped = Arc::clone(&live.dropped);
            let check = async {
                sleep(HEALTH_PERIOD).await;
                self.epochs.check(&mut live.connection).await?;
                self.check_reader(&live.reader).await?;
                self.measure(&mut live.connection).await
            };
            // A check may stand behind a long page; an end is noticed meanwhile.
            let healthy = tokio::select! {
                _ = changes.changed() => continue,
                () = dropped.notified() => Err(BackboneError::Away("the server closed it".into())),
                healthy = check => healthy,
            };
            if let Err(error) = healthy {
                self.give_up(live.life, &error);
                return;
            }
        }
    }

    async fn measure(&self, connection: &mut MultiplexedConnection) -> Result<(), BackboneError> {
        let mut pipe = redis::pipe();
        pipe.cmd("TIME");
        let asked = local_ms();
        let answer = ask(connection, &pipe).await?.pop().unwrap_or_default();
        let answered = local_ms();
        self.clock.measured(values::time_ms(answer)?, asked, answered);
        Ok(())
    }
}
