//! `GET /v1/<tenant>/plugins/logs`: what plugins said on this node, and what happened to them. With `wait_ms` the
//! answer waits for the next line.

use std::time::Duration;

use axum::extract::{RawQuery, State as Extract};
use axum::http::StatusCode;
use serde_json::json;
use tokio::time::timeout;

use super::{Caller, Outcome, Refused, State, ok, query};

/// The longest wait.
const MOST_MS: u64 = 30_000;
/// Lines of one answer.
const LINES: usize = 500;

pub(super) async fn read(Extract(shared): State, caller: Caller, RawQuery(query): RawQuery) -> Outcome {
    let [after, wait_ms] = query::numbers(query.as_deref(), ["after", "wait_ms"])?;
    let wait_ms = wait_ms.unwrap_or_default();
    if wait_ms > MOST_MS {
        let why = format!("`wait_ms` may be {MOST_MS}: ask again when the answer is empty");
        return Err(Refused::new(StatusCode::BAD_REQUEST, why));
    }
    let rollout = &shared.api.rollout;
    let log = rollout.host().log(&caller.tenant.id, &caller.served.limits);
    let from = after.map_or(0, |after| after.saturating_add(1));
    let (mut lines, mut next) = log.read(from);
    if lines.is_empty() && wait_ms > 0 {
        let _place = shared.followers.take(&caller.tenant.id)?;
        tokio::select! {
            () = shared.api.stop.cancelled() => {}
            followed = timeout(Duration::from_millis(wait_ms), log.follow(from)) => {
                if let Ok(followed) = followed {
                    (lines, next) = followed;
                }
            }
        }
    }
    if lines.len() > LINES {
        lines.truncate(LINES);
        next = lines.last().map_or(next, |line| line.number + 1);
    }
    let lines = lines.iter().map(|line| {
        json!({
            "number": line.number,
            "time_ms": line.time_ms,
            "plugin": &*line.plugin,
            "level": line.level.word(),
            "context": line.context,
            "message": line.message,
        })
    });
    // A node that was started again counts from 0 again: `next` is below `after` then.
    let body = json!({
        "node": rollout.node(),
        "lines": lines.collect::<Vec<_>>(),
        "next": next,
    });
    Ok(ok(StatusCode::OK, &body))
}
