//! Adding entries, and the little the nodes of a cluster share.

use std::time::Duration;

use redis::{Cmd, Pipeline, Value};

use super::connection::Link;
use super::scripts::{APPEND, GET_OR_SET, HEARTBEAT, LEASE, RELEASE};
use super::values::milliseconds;
use super::{errors, values};
use crate::backbone::{Addition, BackboneError, DEDUPE_WINDOW, INGRESS_WINDOW, Once};
use crate::domain::keys::NODES_KEY;
use crate::domain::{NodeId, Offset};

/// Additions in one pipeline, and bytes of them: bounds what one answer's timeout has to cover.
const CHUNK: usize = 500;
const CHUNK_BYTES: usize = 1 << 20;

/// Adds entries in order, or finds those that were added before.
pub(super) async fn append_all(link: &Link, additions: &[Addition]) -> Vec<Result<Offset, BackboneError>> {
    let mut answers = Vec::with_capacity(additions.len());
    while let Some(rest) = additions.get(answers.len()..).filter(|rest| !rest.is_empty()) {
        let added = append_chunk(link, &rest[..fitting(rest)]).await;
        let away = added.last().and_then(|last| last.as_ref().err());
        let away = away.filter(|error| matches!(error, BackboneError::Away(_))).cloned();
        answers.extend(added);
        // What follows could be there before what failed is tried again: two to one stream keep their order.
        if let Some(away) = away {
            answers.resize(additions.len(), Err(away));
        }
    }
    answers
}

/// How many additions make one pipeline; at least one.
fn fitting(additions: &[Addition]) -> usize {
    let mut bytes = 0;
    let within = |addition: &&Addition| {
        let before = bytes;
        bytes += addition.fields.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        before < CHUNK_BYTES
    };
    additions.iter().take(CHUNK).take_while(within).count()
}

async fn append_chunk(link: &Link, additions: &[Addition]) -> Vec<Result<Offset, BackboneError>> {
    let conditional = additions.iter().filter(|addition| is_conditional(addition)).count();
    let mut pipe = Pipeline::with_capacity(additions.len() + 1);
    // A call of a script that the server forgot is made again, behind the plain additions after it. So
    // where there are such the server is not left to forget it.
    let loaded = conditional > 0 && conditional < additions.len();
    if loaded {
        pipe.add_command(APPEND.load());
    }
    for addition in additions {
        pipe.add_command(append_command(addition));
    }
    match link.run_scripts(&pipe).await {
        Ok(answers) => answers.into_iter().skip(usize::from(loaded)).map(appended).collect(),
        Err(error) => additions.iter().map(|_| Err(error.clone())).collect(),
    }
}

fn is_conditional(addition: &Addition) -> bool {
    addition.once.is_some() || addition.refuse_at.is_some()
}

fn append_command(addition: &Addition) -> Cmd {
    let Addition { stream, fields, once, refuse_at } = addition;
    let mut command = if is_conditional(addition) {
        let mut call = APPEND.call(stream.as_str());
        // An XLEN is never below 0, so 0 can stand for "never".
        call.arg(refuse_at.map_or(0, |most| most.max(1)));
        match once {
            None => call.arg("").arg("").arg(0).arg("-"),
            Some(Once::Id(id)) => call.arg("id").arg(&**id).arg(DEDUPE_WINDOW).arg("-"),
            Some(Once::Ingress(entry)) => {
                call.arg("in").arg(entry.to_string()).arg(INGRESS_WINDOW).arg(entry.ms)
            }
        };
        call
    } else {
        let mut command = redis::cmd("XADD");
        command.arg(stream.as_str()).arg("*");
        command
    };
    for (name, value) in fields {
        command.arg(&name[..]).arg(&value[..]);
    }
    command
}

fn appended(answer: Value) -> Result<Offset, BackboneError> {
    match errors::checked(answer)? {
        Value::Int(waiting) => Err(BackboneError::Full(waiting.unsigned_abs())),
        answer => values::offset(&answer).ok_or_else(|| errors::unexpected("XADD")),
    }
}

/// Takes a lease or renews it.
pub(super) async fn lease(
    link: &Link,
    key: &str,
    holder: &str,
    ttl: Duration,
) -> Result<bool, BackboneError> {
    let mut call = LEASE.call(key);
    call.arg(holder).arg(milliseconds(ttl).max(1));
    Ok(values::count(script(link, call).await?, "the lease script")? == 1)
}

/// Gives a lease up.
pub(super) async fn release(link: &Link, key: &str, holder: &str) -> Result<(), BackboneError> {
    let mut call = RELEASE.call(key);
    call.arg(holder);
    script(link, call).await.map(drop)
}

/// Writes this node's record and lists the nodes seen within the lease.
pub(super) async fn heartbeat(
    link: &Link,
    node: &NodeId,
    record: &str,
    lease: Duration,
) -> Result<Vec<(NodeId, String)>, BackboneError> {
    let mut call = HEARTBEAT.call(NODES_KEY);
    call.arg(node.as_str()).arg(record).arg(milliseconds(lease));
    let answer = script(link, call).await?;
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
    let mut call = GET_OR_SET.call(key);
    call.arg(value);
    values::text(script(link, call).await?)
}

/// Calls one script.
async fn script(link: &Link, call: Cmd) -> Result<Value, BackboneError> {
    let mut pipe = redis::pipe();
    pipe.add_command(call);
    errors::checked(link.run_scripts(&pipe).await?.pop().unwrap_or_default())
}
