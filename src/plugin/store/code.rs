//! The bytes of components, in pieces. What is stored stands in an index, before its first piece is written, because
//! to list the pieces themselves would be to read them all. One upload of a tenant is stored at a time, under a
//! lease: so whoever holds it can tell what nobody names from what somebody is about to name.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::{NO_LIMIT, PluginStore, StoreError, unexpected};
use crate::backbone::kv::{KvAnswer, KvOp, KvStore};
use crate::domain::keys::{plugin_code_key, plugin_state_key, plugin_upload_lease};
use crate::domain::{PluginName, TenantId};
use crate::plugin::catalog::{Catalog, Version};
use crate::plugin::prepare::ContentHash;

/// Bytes of a piece: `proto-max-bulk-len` may be as low as 1 MiB.
const PIECE: usize = 512 * 1024;
/// How long the one that stores may say nothing.
const LEASE: Duration = Duration::from_secs(20);
/// What the names in the index begin with.
const PREFIX: &str = "code:";

impl PluginStore {
    /// Stores a component's bytes and adds the version to the tenant's catalog. `stored_bytes` is what all of the
    /// tenant's components may have; old stages go where they are more. Cancelled, pieces may be left; the next upload removes them.
    pub async fn push(
        &self,
        tenant: &TenantId,
        name: &PluginName,
        version: Version,
        bytes: &Bytes,
        stored_bytes: u64,
    ) -> Result<Catalog, StoreError> {
        let lease = plugin_upload_lease(tenant);
        let holder = format!("{:032x}", rand::random::<u128>());
        self.hold(&lease, &holder).await?;
        let pushed = async {
            let catalog = self.catalog(tenant).await?;
            // Says what is wrong before anything is written.
            let now_ms = self.backbone.clock().now_ms();
            let next = catalog.push(name, version.clone())?.within(stored_bytes, now_ms);
            self.sweep(tenant, &catalog.contents().into_keys().collect()).await?;
            if next.contents().values().sum::<u64>() > stored_bytes {
                return Err(StoreError::OverQuota { limit: stored_bytes });
            }
            let op = KvOp::Set(indexed(version.content), version.bytes.to_string().into());
            self.done(&state_store(tenant), op).await?;
            let store = code_store(tenant);
            for (at, piece) in pieces(version.content, bytes.len()).zip(bytes.chunks(PIECE)) {
                self.hold(&lease, &holder).await?;
                self.done(&store, KvOp::Set(at, bytes.slice_ref(piece))).await?;
            }
            self.change(tenant, |catalog, now_ms| {
                let version = Version { uploaded_ms: now_ms, ..version.clone() };
                Ok(catalog.push(name, version)?.within(stored_bytes, now_ms))
            })
            .await
        };
        let pushed = pushed.await;
        // A lease that is not given up ends by itself.
        let _ = self.backbone.release(&lease, &holder).await;
        pushed
    }

    /// Removes a version that is not on, and its bytes if no other has the same.
    pub async fn remove(
        &self,
        tenant: &TenantId,
        name: &PluginName,
        prefix: &str,
    ) -> Result<Catalog, StoreError> {
        let lease = plugin_upload_lease(tenant);
        let holder = format!("{:032x}", rand::random::<u128>());
        self.hold(&lease, &holder).await?;
        let removed = async {
            let catalog = self
                .change(tenant, |catalog, now_ms| {
                    let version = catalog.find(name, Some(prefix))?.version;
                    catalog.remove(name, version, now_ms).map_err(StoreError::from)
                })
                .await?;
            // What fails here the next upload makes good.
            if let Err(error) = self.sweep(tenant, &catalog.contents().into_keys().collect()).await {
                tracing::warn!(%tenant, %error, "bytes of a removed plugin are left until the next upload");
            }
            Ok(catalog)
        };
        let removed = removed.await;
        let _ = self.backbone.release(&lease, &holder).await;
        removed
    }

    /// A version's bytes, checked.
    pub async fn code(&self, tenant: &TenantId, version: &Version) -> Result<Bytes, StoreError> {
        let length = usize::try_from(version.bytes).map_err(|_| StoreError::Damaged)?;
        let store = code_store(tenant);
        let mut bytes = BytesMut::new();
        for at in pieces(version.content, length) {
            match self.backbone.kv(&store, KvOp::Get(at)).await? {
                KvAnswer::Value(Some(piece)) if bytes.len() + piece.len() <= length => {
                    bytes.extend_from_slice(&piece);
                }
                KvAnswer::Value(_) => return Err(StoreError::Damaged),
                other => return Err(unexpected(&other).into()),
            }
        }
        let bytes = bytes.freeze();
        let (whole, content) = (bytes.clone(), version.content);
        // Hashing many megabytes is no work for a thread that serves others.
        let is_it = tokio::task::spawn_blocking(move || ContentHash::of(&whole) == content).await;
        if is_it.unwrap_or(false) { Ok(bytes) } else { Err(StoreError::Damaged) }
    }

    /// Removes the bytes of all but these. Only under the lease.
    async fn sweep(&self, tenant: &TenantId, kept: &BTreeSet<ContentHash>) -> Result<(), StoreError> {
        let (state, code) = (state_store(tenant), code_store(tenant));
        for field in self.fields(&state).await? {
            let content = field.strip_prefix(PREFIX).and_then(|hash| hash.parse::<ContentHash>().ok());
            let Some(content) = content.filter(|content| !kept.contains(content)) else { continue };
            let length = match self.backbone.kv(&state, KvOp::Get(indexed(content))).await? {
                KvAnswer::Value(Some(length)) => {
                    std::str::from_utf8(&length).ok().and_then(|text| text.parse().ok())
                }
                _ => None,
            };
            for at in pieces(content, length.unwrap_or_default()) {
                self.done(&code, KvOp::Delete(at)).await?;
            }
            self.done(&state, KvOp::Delete(indexed(content))).await?;
        }
        Ok(())
    }

    async fn done(&self, store: &KvStore, op: KvOp) -> Result<(), StoreError> {
        match self.backbone.kv(store, op).await? {
            KvAnswer::Done => Ok(()),
            other => Err(unexpected(&other).into()),
        }
    }

    /// The names of all fields.
    pub(super) async fn fields(&self, store: &KvStore) -> Result<BTreeSet<String>, StoreError> {
        let (mut fields, mut cursor) = (BTreeSet::new(), 0);
        loop {
            match self.backbone.kv(store, KvOp::Keys(cursor)).await? {
                KvAnswer::Keys(keys, next) => {
                    fields.extend(keys);
                    cursor = next;
                }
                other => return Err(unexpected(&other).into()),
            }
            if cursor == 0 {
                return Ok(fields);
            }
        }
    }

    async fn hold(&self, lease: &str, holder: &str) -> Result<(), StoreError> {
        if self.backbone.lease(lease, holder, LEASE).await? { Ok(()) } else { Err(StoreError::Uploading) }
    }
}

/// A tenant's hash of pieces. The quota is kept by who stores them: what is just being replaced stands there too.
pub(super) fn code_store(tenant: &TenantId) -> KvStore {
    KvStore { key: plugin_code_key(tenant).into(), max_keys: NO_LIMIT, max_bytes: NO_LIMIT }
}

/// A tenant's hash of reports, and of what is stored.
pub(super) fn state_store(tenant: &TenantId) -> KvStore {
    KvStore { key: plugin_state_key(tenant).into(), max_keys: NO_LIMIT, max_bytes: NO_LIMIT }
}

/// A content's name in the index.
fn indexed(content: ContentHash) -> Box<str> {
    format!("{PREFIX}{content}").into()
}

/// The names of a component's pieces, in their order.
fn pieces(content: ContentHash, length: usize) -> impl Iterator<Item = Box<str>> {
    (0..length.div_ceil(PIECE)).map(move |n| format!("{content}:{n}").into())
}
