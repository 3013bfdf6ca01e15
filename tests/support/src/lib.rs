//! What the tests share: node and Redis processes, clients of its own for either protocol, faults, and the
//! delivery checker.
//!
//! Nothing here uses Tidegate's own code: a misunderstanding in the node's codec must not be repeated by
//! what checks it.

#![warn(missing_docs)]

use std::cell::RefCell;
use std::future::Future;
use std::time::Duration;

use anyhow::{Result, bail};

pub mod checker;
pub mod client;
pub mod config;
pub mod http;
pub mod node;
pub mod offset;
pub mod plugins;
pub mod proxy;
pub mod redis;
pub mod redis_faults;
pub mod resp;
pub mod server;
pub mod tls;
pub mod token;

/// How long anything may take that is waited for. Generous, because machines are shared: it is reached
/// only when a promise is broken, so it never decides how long a passing test runs.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// How often a condition is looked at that nothing announces.
pub const POLL: Duration = Duration::from_millis(20);

/// Waits until `look` finds something; `what` names it in the error when the deadline passes.
pub async fn eventually<T, F, Fut>(what: &str, look: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    within(DEADLINE, what, look).await
}

/// The same for what may take longer.
pub async fn within<T, F, Fut>(limit: Duration, what: &str, mut look: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        if let Some(found) = look().await {
            return Ok(found);
        }
        if tokio::time::Instant::now() >= deadline {
            bail!("waited {} s in vain: {what}", limit.as_secs());
        }
        tokio::time::sleep(POLL).await;
    }
}

thread_local! {
    /// What processes of this test logged. A test's future stays on its thread, and so do their drops.
    static LOGS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Runs a test's body; when it fails, prints what the processes it started have logged.
///
/// # Panics
/// If the body fails.
pub async fn proven(body: impl Future<Output = Result<()>>) {
    LOGS.take();
    if let Err(error) = body.await {
        for log in LOGS.take() {
            eprintln!("{log}");
        }
        panic!("{error:#}");
    }
}

/// Keeps a log for the case that the test fails; where it has already, prints it.
fn remember_log(log: String) {
    if std::thread::panicking() {
        eprintln!("{log}");
    } else {
        // A thread that ends has no logs to keep any more.
        let _ = LOGS.try_with(|logs| logs.borrow_mut().push(log));
    }
}
