//! Looking after streams: trimming, removing, finding them all.

use redis::{Cmd, Pipeline, Value};

use super::connection::Link;
use super::scripts::{REMOVE_EMPTY, TRIM_BYTES};
use super::{errors, values};
use crate::backbone::{BackboneError, TRIMMED_AT_ONCE, Trim};
use crate::domain::{Offset, StreamKey};

/// Streams in one pipeline, and entries in one command.
const CHUNK: usize = 500;

/// Trims streams, each by as many commands as it has limits.
pub(super) async fn trim(link: &Link, trims: &[Trim]) -> Vec<Result<u64, BackboneError>> {
    let mut outcomes = Vec::with_capacity(trims.len());
    for chunk in trims.chunks(CHUNK) {
        let mut pipe = Pipeline::with_capacity(3 * chunk.len());
        for trim in chunk {
            pipe.add_command(xtrim(trim, "MAXLEN")).arg(trim.max_len).arg("LIMIT").arg(TRIMMED_AT_ONCE);
            let oldest = trim.min_offset.to_string();
            pipe.add_command(xtrim(trim, "MINID")).arg(oldest).arg("LIMIT").arg(TRIMMED_AT_ONCE);
            if let Some(bytes) = trim.max_bytes {
                pipe.add_command(TRIM_BYTES.call(trim.stream.as_str())).arg(bytes).arg(TRIMMED_AT_ONCE);
            }
        }
        match link.run_scripts(&pipe).await {
            Ok(answers) => {
                let mut answers = answers.into_iter();
                outcomes.extend(chunk.iter().map(|trim| {
                    let limits = 2 + usize::from(trim.max_bytes.is_some());
                    let went: Vec<Value> = answers.by_ref().take(limits).collect();
                    went.into_iter().try_fold(0, |sum, went| Ok(sum + values::count(went, "XTRIM")?))
                }));
            }
            Err(error) => outcomes.extend(chunk.iter().map(|_| Err(error.clone()))),
        }
    }
    outcomes
}

fn xtrim(trim: &Trim, by: &str) -> Cmd {
    let mut command = redis::cmd("XTRIM");
    command.arg(trim.stream.as_str()).arg(by).arg("~");
    command
}

/// Removes entries.
pub(super) async fn remove(
    link: &Link,
    stream: &StreamKey,
    offsets: &[Offset],
) -> Result<u64, BackboneError> {
    let mut removed = 0;
    for chunk in offsets.chunks(CHUNK) {
        let mut command = redis::cmd("XDEL");
        command.arg(stream.as_str());
        chunk.iter().for_each(|offset| {
            command.arg(offset.to_string());
        });
        let mut pipe = redis::pipe();
        pipe.add_command(command);
        removed += values::count(link.run(&pipe).await?.pop().unwrap_or_default(), "XDEL")?;
    }
    Ok(removed)
}

/// Removes streams that have neither entries nor groups.
pub(super) async fn remove_empty(link: &Link, streams: &[StreamKey]) -> Vec<Result<bool, BackboneError>> {
    let mut outcomes = Vec::with_capacity(streams.len());
    for chunk in streams.chunks(CHUNK) {
        let mut pipe = Pipeline::with_capacity(chunk.len());
        for stream in chunk {
            pipe.add_command(REMOVE_EMPTY.call(stream.as_str()));
        }
        match link.run_scripts(&pipe).await {
            Ok(answers) => outcomes.extend(
                answers.into_iter().map(|removed| Ok(values::count(removed, "removing a stream")? > 0)),
            ),
            Err(error) => outcomes.extend(chunk.iter().map(|_| Err(error.clone()))),
        }
    }
    outcomes
}

/// One step of a walk over all streams.
pub(super) async fn scan(
    link: &Link,
    prefix: &str,
    cursor: u64,
    effort: usize,
) -> Result<(u64, Vec<StreamKey>), BackboneError> {
    let mut pipe = redis::pipe();
    pipe.cmd("SCAN").arg(cursor).arg("MATCH").arg(pattern(prefix));
    pipe.arg("COUNT").arg(effort.max(1)).arg("TYPE").arg("stream");
    let answer = link.run(&pipe).await?.pop().unwrap_or_default();
    let mut parts = values::array(answer, "SCAN")?.into_iter();
    let cursor = values::text(parts.next().unwrap_or_default())?;
    let cursor = cursor.parse().map_err(|_| errors::unexpected("SCAN"))?;
    let keys = values::array(parts.next().unwrap_or_default(), "SCAN")?;
    // A key that is no text is no stream of ours.
    let keys = keys.into_iter().filter_map(|key| values::text(key).ok());
    Ok((cursor, keys.map(|key| StreamKey::from_raw(&key)).collect()))
}

/// What matches the keys that begin so, whatever stands in it.
fn pattern(prefix: &str) -> String {
    let mut pattern = String::with_capacity(prefix.len() + 1);
    for letter in prefix.chars() {
        if matches!(letter, '*' | '?' | '[' | ']' | '^' | '-' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern.push('*');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_means_itself() {
        assert_eq!(pattern("tg:acme:"), "tg:acme:*");
        assert_eq!(pattern("a*b?[c]"), r"a\*b\?\[c\]*");
    }
}
