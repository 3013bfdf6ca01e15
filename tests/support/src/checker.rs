//! The checker: publishers and clients over real sockets, and an account of every offset.
//!
//! It promises what Tidegate promises: whatever a client was entitled to arrives, first deliveries of a
//! channel in ascending order, or a `gap` says what may be missing. Each client is one of four kinds
//! ([`Kind`]), so that every way back after a broken connection is walked.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use account::{Account, ClientId, Delivery};
pub use report::{Report, Violations};
pub use subscriber::Kind;

use crate::redis_faults::Backend;

mod account;
mod publisher;
mod report;
mod subscriber;

/// What a run consists of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The nodes' WebSocket URLs. Client n starts at the n-th and goes to the next one when it is refused.
    pub urls: Vec<String>,
    /// The Redis the nodes use, or a node's RESP listener.
    pub redis: String,
    /// The tenant.
    pub tenant: String,
    /// Signs the clients' tokens; without it they are anonymous and have no lasting personal channel.
    pub signing: Option<Signing>,
    /// The tenant's API key, for publishing by HTTP; without it nobody does.
    pub api_key: Option<String>,
    /// How many clients.
    pub clients: usize,
    /// How many publishers; by [`Via::Mix`] they take turns in XADD, HTTP, client publishing and ingress.
    pub publishers: usize,
    /// How many channels of `namespace`.
    pub channels: usize,
    /// How many of these each client subscribes to.
    pub channels_per_client: usize,
    /// The namespace: a log.
    pub namespace: String,
    /// Messages a second and publisher.
    pub rate: u32,
    /// How long a client stays connected before it drops its connection; `None`: as long as it can.
    pub drop_every: Option<Duration>,
    /// By which ways to publish.
    pub via: Via,
}

/// A way of publishing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Via {
    /// XADD to the channels.
    Xadd,
    /// HTTP, where there is a key.
    Http,
    /// Client connections.
    Client,
    /// XADD to the tenant's ingress.
    Ingress,
    /// Publishers take turns.
    Mix,
}

/// How tokens are signed: HS256.
#[derive(Debug, Clone)]
pub struct Signing {
    /// The key's id; `None`: tokens name no key.
    pub kid: Option<String>,
    /// The secret.
    pub secret: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            redis: String::new(),
            tenant: "demo".into(),
            signing: None,
            api_key: None,
            clients: 20,
            publishers: 3,
            channels: 8,
            channels_per_client: 2,
            namespace: "room".into(),
            rate: 50,
            drop_every: None,
            via: Via::Mix,
        }
    }
}

/// What publishers, clients and the run share.
struct Shared {
    settings: Settings,
    /// Distinguishes this run's channels, users and payloads from other runs' on the same Redis.
    run: u32,
    account: Mutex<Account>,
    publishing: watch::Sender<bool>,
    ending: watch::Sender<bool>,
}

impl Shared {
    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().expect("nobody panics while holding the account")
    }

    fn channel(&self, n: usize) -> String {
        format!("{}:c{}-{}", self.settings.namespace, self.run, n % self.settings.channels.max(1))
    }

    fn user(&self, client: ClientId) -> String {
        format!("checker-{}-{client}", self.run)
    }

    /// Every channel that is published to.
    fn channels(&self) -> Vec<String> {
        let rooms = (0..self.settings.channels).map(|n| self.channel(n));
        rooms.chain(self.personal_channels()).collect()
    }

    /// A few clients' personal channels: enough to prove them, few enough to leave the rooms most of the
    /// traffic.
    fn personal_channels(&self) -> impl Iterator<Item = String> + '_ {
        let count = if self.settings.signing.is_some() { self.settings.clients.min(8) } else { 0 };
        (0..count).map(|client| format!("user:{}", self.user(client)))
    }
}

/// A run under way.
pub struct Checker {
    shared: Arc<Shared>,
    publishers: JoinSet<()>,
    clients: JoinSet<()>,
}

impl Checker {
    /// Connects the clients, waits until all are subscribed, and starts publishing.
    pub async fn start(settings: Settings) -> Result<Self> {
        anyhow::ensure!(!settings.urls.is_empty(), "no node to check");
        let shared = Arc::new(Shared {
            run: rand::random(),
            account: Mutex::default(),
            publishing: watch::Sender::new(true),
            ending: watch::Sender::new(false),
            settings,
        });
        let mut checker = Self { shared, publishers: JoinSet::new(), clients: JoinSet::new() };
        let settings = &checker.shared.settings;
        for client in 0..settings.clients {
            checker.clients.spawn(subscriber::run(checker.shared.clone(), client));
        }
        let prefix = format!("{}:", settings.namespace);
        let expected = settings.clients * settings.channels_per_client.min(settings.channels);
        checker
            .await_that("all clients are subscribed", |account| account.subscriptions(&prefix) >= expected)
            .await?;
        for publisher in 0..checker.shared.settings.publishers {
            checker.publishers.spawn(publisher::run(checker.shared.clone(), publisher));
        }
        Ok(checker)
    }

    /// Waits until so many more messages are published than now.
    pub async fn published_more(&self, count: u64) -> Result<()> {
        let wanted = self.shared.account().published_count() + count;
        self.await_that("messages are published", |account| account.published_count() >= wanted).await
    }

    /// Waits until so many more deliveries have come than now.
    pub async fn received_more(&self, count: u64) -> Result<()> {
        let wanted = self.shared.account().received_count() + count;
        self.await_that("messages are received", |account| account.received_count() >= wanted).await
    }

    /// What the account says so far; messages under way count as lost.
    pub fn report(&self) -> Report {
        self.shared.account().report()
    }

    /// Stops publishing, settles what was ambiguous from the log, and waits until everything owed has
    /// come, or `settle` has passed.
    pub async fn finish(mut self, settle: Duration) -> Result<Report> {
        self.shared.publishing.send_replace(false);
        while let Some(ended) = self.publishers.join_next().await {
            ended.context("a publisher of the checker failed")?;
        }
        self.reconcile().await?;
        let deadline = tokio::time::Instant::now() + settle;
        while self.shared.account().missing() > 0 && tokio::time::Instant::now() < deadline {
            // The look at the account is the costly part of waiting.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        self.shared.ending.send_replace(true);
        while let Some(ended) = self.clients.join_next().await {
            ended.context("a client of the checker failed")?;
        }
        let report = self.shared.account().report();
        Ok(report)
    }

    async fn reconcile(&self) -> Result<()> {
        let mut backend = Backend::connect(&self.shared.settings.redis).await?;
        for channel in self.shared.channels() {
            let log = backend.log(&self.shared.settings.tenant, &channel).await?;
            let log = log.iter().map(|entry| (entry.offset, entry.text("data")));
            self.shared.account().reconcile(&channel, log);
        }
        Ok(())
    }

    async fn await_that(&self, what: &str, reached: impl Fn(&Account) -> bool) -> Result<()> {
        let shared = &self.shared;
        let look = || async { reached(&shared.account()).then_some(()) };
        crate::eventually(what, look).await.with_context(|| format!("the account says\n{}", self.report()))
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.publishers.abort_all();
        self.clients.abort_all();
    }
}
