//! Has one version ready: fetches its bytes, compiles, tries.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::{Key, Shared};
use crate::backbone::backoff::Backoff;
use crate::domain::TenantId;
use crate::plugin::catalog::Version;
use crate::plugin::host::Settings;
use crate::plugin::prepare::Prepared;
use crate::plugin::store::StoreError;

/// Versions that are fetched and tried at the same time: each may be a component of 64 MiB.
pub(super) const AT_ONCE: usize = 2;

/// What came of it.
pub(super) struct Outcome {
    pub(super) key: Key,
    pub(super) prepared: Result<Arc<Prepared>, Unready>,
}

/// Why it is not ready.
pub(super) struct Unready {
    pub(super) why: Box<str>,
    /// It is worth another attempt after a while.
    pub(super) is_passing: bool,
}

/// Tries until it is ready or known not to work. While the backbone is away it waits for it. Cancelling stops the
/// compiler.
pub(super) async fn prepare(
    shared: Arc<Shared>,
    turns: Arc<Semaphore>,
    key: Key,
    version: Version,
    settings: Settings,
) -> Outcome {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    let prepared = loop {
        let turn = turns.acquire().await;
        match once(&shared, &key.0, &version, &settings).await {
            Err(Attempt::Away) => {}
            Err(Attempt::Failed(unready)) => break Err(unready),
            Ok(prepared) => break Ok(prepared),
        }
        drop(turn);
        sleep(backoff.delay()).await;
    };
    Outcome { key, prepared }
}

enum Attempt {
    /// The backbone is.
    Away,
    Failed(Unready),
}

async fn once(
    shared: &Shared,
    tenant: &TenantId,
    version: &Version,
    settings: &Settings,
) -> Result<Arc<Prepared>, Attempt> {
    let failed = |why: String, is_passing| Attempt::Failed(Unready { why: why.into(), is_passing });
    let bytes = shared.store.code(tenant, version).await.map_err(|error| match error {
        StoreError::Backbone(error) if error.is_retryable() => Attempt::Away,
        // Another push may bring them.
        error => failed(error.to_string(), true),
    })?;
    // Another node has compiled and started it, or it would not be stored.
    let prepared = shared.host.prepare(bytes, settings).await;
    prepared.map_err(|rejection| failed(rejection.to_string(), rejection.is_perhaps_nodes()))
}
