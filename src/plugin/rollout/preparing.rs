//! Has one version ready: fetches its bytes, compiles, tries.

use std::sync::Arc;

use super::{Key, Shared};
use crate::domain::TenantId;
use crate::plugin::catalog::Version;
use crate::plugin::host::Settings;
use crate::plugin::prepare::Prepared;
use crate::plugin::store::StoreError;

/// Versions that are prepared at the same time: each may be a component of 64 MiB.
pub(super) const AT_ONCE: usize = 2;

/// What came of it.
pub(super) struct Outcome {
    pub(super) key: Key,
    pub(super) prepared: Result<Arc<Prepared>, Unready>,
}

/// Why it is not ready.
pub(super) enum Unready {
    /// The backbone does not answer.
    Away,
    /// It cannot be prepared.
    Failed { why: Box<str>, hope: Hope },
}

/// What may make a version ready that could not be prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hope {
    /// Time: the node may have been busy.
    Time,
    /// Somebody who pushes it again.
    Push,
    /// Nothing.
    None,
}

/// Tries once. Cancelling stops the compiler.
pub(super) async fn prepare(shared: Arc<Shared>, key: Key, version: Version, settings: Settings) -> Outcome {
    let prepared = once(&shared, &key.0, &version, &settings).await;
    Outcome { key, prepared }
}

async fn once(
    shared: &Shared,
    tenant: &TenantId,
    version: &Version,
    settings: &Settings,
) -> Result<Arc<Prepared>, Unready> {
    let failed = |why: String, hope| Unready::Failed { why: why.into(), hope };
    let bytes = shared.store.code(tenant, version).await.map_err(|error| match error {
        StoreError::Backbone(error) if error.is_retryable() => Unready::Away,
        error => failed(error.to_string(), Hope::Push),
    })?;
    // Another node has compiled and started it, or it would not be stored.
    let prepared = shared.host.prepare(bytes, settings).await;
    prepared.map_err(|rejection| {
        failed(rejection.to_string(), if rejection.is_perhaps_nodes() { Hope::Time } else { Hope::None })
    })
}
