//! Where plugins are kept: each tenant's catalog, and the bytes of components, in the backbone.
//!
//! All catalogs are fields of one hash, so that a single-key script changes one *and* sets a mark by which nodes
//! notice: there is no moment between the two, and nothing to repair after a crash. To ask whether anything has
//! changed costs one small field. The bytes are fields of a hash of the tenant's, in pieces that fit
//! `proto-max-bulk-len`, written before a catalog names them and checked by their hash when they are read.
//!
//! # The cut-over
//!
//! A change is decided at a moment `t` of the backbone's clock, which comes with the catalog that is read, and its
//! stage begins at `t` + [`LEAD_MS`] at the earliest. The script that stores it looks at the same clock and does
//! nothing after `t` + `SLACK_MS`, however long the command was on its way. So a change that was stored at `c`
//! begins at `c` + [`LEAD_MS`] − `SLACK_MS` or later. Whoever asks for the mark is told a moment `a` from just
//! before: what it does not see was stored at `a` or later, and begins at `a` + `KNOWN_MS` or later, whatever its
//! own clock says. All stages *before* that moment are known once the catalogs were read, [`Marked::known_ms`].
//! (A backbone whose clock is set back by more than the lead can break this, as it breaks the order of offsets.)
//!
//! # Nodes that join
//!
//! What is switched on must be ready on all nodes that live. Whoever switches it on asks who they are, decides no
//! later than [`ASKED_MS`] after that, and so has stored it `SETTLED_MS` after that, or not at all. A node that
//! starts makes itself known first. Whoever asked before does not know it; but what it reads `SETTLED_MS` later has
//! all that was decided without it, and that it prepares before it joins.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::catalog::{Catalog, CatalogError, LEAD_MS};
use crate::backbone::kv::{KvAnswer, KvOp, KvStore, Replace};
use crate::backbone::{Backbone, BackboneError};
use crate::domain::TenantId;
use crate::domain::keys::PLUGINS_KEY;

mod code;
mod reports;

/// How long after its decision a change may be stored.
const SLACK_MS: u64 = 300;
/// What is not seen begins so long after one looked, or later.
const KNOWN_MS: u64 = LEAD_MS - SLACK_MS;
/// How long after it was asked who lives a version may be switched on, in milliseconds of the backbone's clock.
pub const ASKED_MS: u64 = 700;
/// After so long nothing is stored any more that was decided on an earlier answer to who lives.
pub(super) const SETTLED_MS: u64 = ASKED_MS + SLACK_MS;
/// The field that changes with every change of a catalog. No tenant has this name.
const MARK: &str = "~";
/// Bytes of all catalogs of all tenants together.
const CATALOG_BYTES: u64 = 1 << 30;
/// No quota: Lua takes numbers of 53 bits.
const NO_LIMIT: u64 = u64::MAX >> 11;
/// How often a change is tried that others came before, or that was late.
const ATTEMPTS: usize = 8;

/// Why plugins were not read or changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The backbone.
    #[error(transparent)]
    Backbone(#[from] BackboneError),
    /// What is asked for cannot be.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// Others were faster, or the backbone is slow.
    #[error("others change the plugins of this tenant at the same time, or the backbone is slow: try again")]
    Busy,
    /// Somebody else uploads.
    #[error("another plugin of this tenant is being stored: try again when that is done")]
    Uploading,
    /// There is no room.
    #[error(
        "the tenant's plugins would have more than {limit} bytes: remove versions that are not needed, or ask the \
         operator for more room (plugins.stored_bytes)"
    )]
    OverQuota {
        /// How many they may have.
        limit: u64,
    },
    /// Bytes are missing or others than were uploaded.
    #[error("the bytes of this version are not as they were uploaded: push it again")]
    Damaged,
}

impl StoreError {
    /// Whether the same may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Backbone(error) => error.is_retryable(),
            Self::Catalog(error) => error.is_retryable(),
            Self::Busy | Self::Uploading => true,
            Self::OverQuota { .. } | Self::Damaged => false,
        }
    }
}

/// The mark, and until when what it says holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    /// Changes whenever a catalog does.
    pub mark: Option<Bytes>,
    /// The moment of the backbone's clock at which it was read, or a little earlier.
    pub at_ms: u64,
}

impl Marked {
    /// All stages up to this moment, it included, are in the catalogs that are read from now on, and in those that
    /// were read before where the mark is the same.
    pub fn known_ms(&self) -> u64 {
        (self.at_ms + KNOWN_MS).saturating_sub(1)
    }
}

/// Reads and changes what the backbone keeps of plugins. Cheap to clone.
#[derive(Clone)]
pub struct PluginStore {
    backbone: Arc<dyn Backbone>,
    catalogs: KvStore,
}

impl PluginStore {
    /// Over this backbone.
    pub fn new(backbone: Arc<dyn Backbone>) -> Self {
        let catalogs = KvStore { key: PLUGINS_KEY.into(), max_keys: NO_LIMIT, max_bytes: CATALOG_BYTES };
        Self { backbone, catalogs }
    }

    /// The backbone it is over.
    pub fn backbone(&self) -> &Arc<dyn Backbone> {
        &self.backbone
    }

    /// Whether anything has changed since the mark was another one.
    pub async fn mark(&self) -> Result<Marked, BackboneError> {
        let (mark, at_ms) = self.timed(MARK).await?;
        Ok(Marked { mark, at_ms })
    }

    /// A tenant's catalog as it is stored; `None`: it has none.
    pub async fn raw(&self, tenant: &TenantId) -> Result<Option<Bytes>, BackboneError> {
        match self.backbone.kv(&self.catalogs, KvOp::Get(tenant.as_str().into())).await? {
            KvAnswer::Value(value) => Ok(value),
            other => Err(unexpected(&other)),
        }
    }

    /// A tenant's catalog; an empty one where it has none.
    pub async fn catalog(&self, tenant: &TenantId) -> Result<Catalog, StoreError> {
        Ok(parse(self.raw(tenant).await?.as_ref())?)
    }

    /// Changes a tenant's catalog: `change` makes a new one of the one that is there, at a moment of the
    /// backbone's clock, and is asked again where somebody else was faster. Cancelled, the change may have
    /// been made.
    pub async fn change<E: From<StoreError>>(
        &self,
        tenant: &TenantId,
        mut change: impl FnMut(&Catalog, u64) -> Result<Catalog, E> + Send,
    ) -> Result<Catalog, E> {
        // Changes whose answers were lost.
        let mut sent: Vec<(Bytes, Catalog)> = Vec::new();
        for _ in 0..ATTEMPTS {
            let (raw, now_ms) = match self.timed(tenant.as_str()).await {
                Ok(read) => read,
                Err(error) => return Err(StoreError::from(error).into()),
            };
            if let Some(at) = sent.iter().position(|(bytes, _)| raw.as_ref() == Some(bytes)) {
                return Ok(sent.swap_remove(at).1);
            }
            let old = parse(raw.as_ref()).map_err(StoreError::from)?;
            let next = change(&old, now_ms)?;
            if next == old {
                return Ok(next);
            }
            let value = Bytes::from(next.to_bytes().map_err(StoreError::from)?);
            let replace = Replace {
                key: tenant.as_str().into(),
                expected: raw,
                value: value.clone(),
                // One that was never there before, whatever the backbone has lost or forgotten.
                mark: (MARK.into(), format!("{tenant} {:032x}", rand::random::<u128>()).into()),
                by_ms: now_ms + SLACK_MS,
            };
            match self.backbone.kv(&self.catalogs, KvOp::Replace(Box::new(replace))).await {
                Ok(KvAnswer::Done) => return Ok(next),
                Ok(KvAnswer::Changed | KvAnswer::Late) => {}
                Ok(KvAnswer::OverQuota) => return Err(StoreError::from(CatalogError::TooLarge).into()),
                Ok(other) => return Err(StoreError::from(unexpected(&other)).into()),
                // Perhaps it was done, and a later look tells.
                Err(error) if error.is_retryable() => sent.push((value, next)),
                Err(error) => return Err(StoreError::from(error).into()),
            }
        }
        Err(StoreError::Busy.into())
    }

    async fn timed(&self, key: &str) -> Result<(Option<Bytes>, u64), BackboneError> {
        match self.backbone.kv(&self.catalogs, KvOp::GetTimed(key.into())).await? {
            KvAnswer::Timed(value, at_ms) => Ok((value, at_ms)),
            other => Err(unexpected(&other)),
        }
    }
}

/// The settings of a version as hooks read them.
pub(super) fn pairs(settings: &BTreeMap<String, String>) -> Vec<(String, String)> {
    settings.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// A catalog as it was stored.
pub(super) fn parse(raw: Option<&Bytes>) -> Result<Catalog, CatalogError> {
    raw.map_or_else(|| Ok(Catalog::default()), |raw| Catalog::parse(raw))
}

fn unexpected(answer: &KvAnswer) -> BackboneError {
    BackboneError::Refused(format!("a key-value store gave an answer of another kind: {answer:?}"))
}

#[cfg(test)]
mod tests;
