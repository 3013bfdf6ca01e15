//! Adding, trimming, and the little the nodes of a cluster share.

use std::time::Duration;

use bytes::Bytes;
use redis::Value;

use super::connection::Link;
use super::scripts::{APPEND, GET_OR_SET, HEARTBEAT};
use super::{errors, values};
use crate::backbone::{BackboneError, DEDUPE_WINDOW, Trim};
use crate::domain::keys::NODES_KEY;
use crate::domain::{NodeId, Offset, StreamKey};

/// Trims in one pipeline.
const CHUNK: usize = 500;

/// Adds an entry, or finds the one with the same idempotency key.
pub(super) async fn append(
    link: &Link,
    stream: &StreamKey,
    fields: &[(Bytes, Bytes)],
    dedupe: Option<&str>,
) -> Result<Offset, BackboneError> {
    let mut command = match dedupe {
        Some(id) => {
            let mut call = APPEND.call(stream.as_str());
            call.arg(id).arg(DEDUPE_WINDOW);
            call
        }
        None => {
            let mut command = redis::cmd("XADD");
            command.arg(stream.as_str()).arg("*");
            command
        }
    };
    for (name, value) in fields {
        command.arg(&name[..]).arg(&value[..]);
    }
    let mut pipe = redis::pipe();
    pipe.add_command(command);
    let answer = link.run_scripts(&pipe).await?.pop().unwrap_or_default();
    values::offset(&errors::checked(answer)?).ok_or_else(|| errors::unexpected("XADD"))
}

/// Trims by length and by age; one failing does not stop the others.
pub(super) async fn trim(link: &Link, trims: &[Trim]) -> Result<(), BackboneError> {
    let mut outcome = Ok(());
    for chunk in trims.chunks(CHUNK) {
        let mut pipe = redis::Pipeline::with_capacity(2 * chunk.len());
        for Trim { stream, max_len, min_offset, .. } in chunk {
            pipe.cmd("XTRIM").arg(stream.as_str()).arg("MAXLEN").arg("~").arg(*max_len);
            pipe.cmd("XTRIM").arg(stream.as_str()).arg("MINID").arg("~").arg(min_offset.to_string());
        }
        let answers = link.run(&pipe).await?;
        outcome = outcome.and(errors::all_checked(&answers));
    }
    outcome
}

/// Writes this node's record and lists the nodes seen within the lease.
pub(super) async fn heartbeat(
    link: &Link,
    node: &NodeId,
    record: &str,
    lease: Duration,
) -> Result<Vec<(NodeId, String)>, BackboneError> {
    let lease_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
    let mut pipe = redis::pipe();
    pipe.add_command(HEARTBEAT.call(NODES_KEY)).arg(node.as_str()).arg(record).arg(lease_ms);
    let answer = link.run_scripts(&pipe).await?.pop().unwrap_or_default();
    let mut nodes = Vec::new();
    for (node, record) in values::pairs(answer, "the heartbeat script")? {
        let (node, record) = (values::text(node)?, values::text(record)?);
        match NodeId::parse(&node) {
            Ok(node) => nodes.push((node, record)),
            Err(error) => tracing::warn!(%error, "a record in {NODES_KEY} is not a node's"),
        }
    }
    Ok(nodes)
}

/// Removes this node's record.
pub(super) async fn forget_node(link: &Link, node: &NodeId) -> Result<(), BackboneError> {
    let mut pipe = redis::pipe();
    pipe.cmd("HDEL").arg(NODES_KEY).arg(node.as_str());
    errors::all_checked(&link.run(&pipe).await?)
}

/// Reads a string, or stores one where there is none.
pub(super) async fn get_or_set(link: &Link, key: &str, value: &str) -> Result<String, BackboneError> {
    let mut pipe = redis::pipe();
    pipe.add_command(GET_OR_SET.call(key)).arg(value);
    let answer: Value = link.run_scripts(&pipe).await?.pop().unwrap_or_default();
    values::text(answer)
}
