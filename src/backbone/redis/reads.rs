//! Reading streams: pages that prove their continuity, tails, history.

use redis::{Cmd, Pipeline, Value};

use super::connection::Link;
use super::continuity::{Verdict, judge};
use super::values::{StreamInfo, entries, stream_info};
use crate::backbone::{BackboneError, Page, Range, Read, Tail};
use crate::domain::{Offset, RawEntry, StreamKey};

/// Commands in one pipeline: bounds what one answer's timeout has to cover.
const CHUNK: usize = 1_000;
/// Entries in one answer, whatever was asked for.
const MOST_ENTRIES: usize = 10_000;

/// Reads on from positions; one stream's error is that stream's alone.
pub(super) async fn read(link: &Link, reads: &[Read]) -> Vec<Result<Page, BackboneError>> {
    let mut pages = Vec::with_capacity(reads.len());
    for chunk in reads.chunks(CHUNK) {
        pages.extend(read_chunk(link, chunk).await);
    }
    pages
}

async fn read_chunk(link: &Link, reads: &[Read]) -> Vec<Result<Page, BackboneError>> {
    let found = each(link, reads, |read| {
        let mut command = redis::cmd("XRANGE");
        // One more for the entry at the position, one more to see whether others follow.
        let count = wanted(read) + 2;
        command.arg(read.stream.as_str()).arg(read.after.to_string()).arg("+").arg("COUNT").arg(count);
        command
    })
    .await;
    let mut pages: Vec<_> =
        std::iter::zip(reads, found).map(|(read, found)| Ok(Found::new(read, entries(found?)?))).collect();
    let unproven = |found: &Result<Found, BackboneError>| matches!(found, Ok(found) if !found.at_position);
    let doubtful: Vec<usize> = (0..pages.len()).filter(|i| unproven(&pages[*i])).collect();
    let infos = each(link, &doubtful, |index| info_command(&reads[*index].stream)).await;
    let mut proven: Vec<Option<Result<Page, BackboneError>>> = reads.iter().map(|_| None).collect();
    for (index, info) in doubtful.into_iter().zip(infos) {
        let found = std::mem::replace(&mut pages[index], Err(BackboneError::Away(String::new())));
        proven[index] = Some(match (found, info.and_then(stream_info)) {
            (Ok(found), Ok(info)) => prove(link, &reads[index], found, info).await,
            (Err(error), _) | (_, Err(error)) => Err(error),
        });
    }
    std::iter::zip(reads, std::iter::zip(pages, proven))
        .map(|(read, (found, proven))| proven.unwrap_or_else(|| Ok(found?.whole(link, read))))
        .collect()
}

fn wanted(read: &Read) -> usize {
    read.count.clamp(1, MOST_ENTRIES)
}

/// What an inclusive `XRANGE` brought.
struct Found {
    /// The entry at the position was there: nothing after it was trimmed.
    at_position: bool,
    entries: Vec<RawEntry>,
    more: bool,
}

impl Found {
    fn new(read: &Read, mut entries: Vec<RawEntry>) -> Self {
        let at_position = entries.first().is_some_and(|first| first.offset == read.after);
        if at_position {
            entries.remove(0);
        }
        let more = entries.len() > wanted(read);
        entries.truncate(wanted(read));
        Self { at_position, entries, more }
    }

    /// The page of a read whose entry was there.
    fn whole(self, link: &Link, read: &Read) -> Page {
        let end = self.entries.last().map_or(read.after, |last| last.offset);
        let added = read.added.map(|added| added + self.entries.len() as u64);
        Page { entries: self.entries, whole: true, more: self.more, end, added, epoch: link.epoch() }
    }
}

/// The page of a read whose entry was not there, by the stream's figures of a moment later.
async fn prove(
    link: &Link,
    read: &Read,
    found: Found,
    info: Option<StreamInfo>,
) -> Result<Page, BackboneError> {
    let verdict = judge(read.after, read.added, info.as_ref());
    let mut epoch = link.epoch();
    // A client can invent a position; only one whose count this node keeps, or one of a server that
    // counts nothing, is held by somebody.
    let held = read.added.is_some() || info.is_some_and(|info| info.added.is_none());
    if verdict == Verdict::Lost && held {
        tracing::warn!(stream = %read.stream, position = %read.after, "a stream ends before a position held");
        epoch = link.epochs().renew(link, epoch).await?;
    }
    let whole = verdict == Verdict::Whole;
    let (last, last_entry) = info.map_or((Offset::ZERO, None), |info| (info.last, info.last_entry));
    // Entries that came between the two looks must not be skipped by an end beyond them.
    let came_since = found.entries.is_empty() && last_entry.is_some_and(|entry| entry > read.after);
    let end = match found.entries.last() {
        Some(entry) => entry.offset,
        None if came_since => read.after,
        None => last,
    };
    let counted = read.added.or((read.after == Offset::ZERO).then_some(0)).filter(|_| whole);
    let added = match &info {
        None => Some(0),
        Some(info) if info.last == end => info.added,
        Some(_) => counted.map(|added| added + found.entries.len() as u64),
    };
    Ok(Page { entries: found.entries, whole, more: found.more || came_since, end, added, epoch })
}

/// Where streams end.
pub(super) async fn tails(link: &Link, streams: &[StreamKey]) -> Vec<Result<Tail, BackboneError>> {
    let mut tails = Vec::with_capacity(streams.len());
    for chunk in streams.chunks(CHUNK) {
        let infos = each(link, chunk, info_command).await;
        let epoch = link.epoch();
        tails.extend(infos.into_iter().map(|info| {
            Ok(match stream_info(info?)? {
                Some(info) => Tail { last: info.last, first: info.first_entry, added: info.added, epoch },
                None => Tail { last: Offset::ZERO, first: None, added: Some(0), epoch },
            })
        }));
    }
    tails
}

/// Entries for history, ascending.
pub(super) async fn history(
    link: &Link,
    stream: &StreamKey,
    range: Range,
) -> Result<Vec<RawEntry>, BackboneError> {
    if range.limit == 0 {
        return Ok(Vec::new());
    }
    let forwards = range.after.is_some();
    let mut command = redis::cmd(if forwards { "XRANGE" } else { "XREVRANGE" });
    command.arg(stream.as_str());
    match (range.after, range.before) {
        (Some(after), _) => command.arg(format!("({after}")).arg("+"),
        (None, Some(before)) => command.arg(format!("({before}")).arg("-"),
        (None, None) => command.arg("+").arg("-"),
    };
    command.arg("COUNT").arg(range.limit.min(MOST_ENTRIES));
    let mut pipe = redis::pipe();
    pipe.add_command(command);
    let mut found = entries(link.run(&pipe).await?.pop().unwrap_or_default())?;
    if !forwards {
        found.reverse();
    }
    Ok(found)
}

fn info_command(stream: &StreamKey) -> Cmd {
    let mut command = redis::cmd("XINFO");
    command.arg("STREAM").arg(stream.as_str());
    command
}

/// One command an item in one pipeline. Without a connection every item has that error.
async fn each<T>(link: &Link, items: &[T], command: impl Fn(&T) -> Cmd) -> Vec<Result<Value, BackboneError>> {
    let mut pipe = Pipeline::with_capacity(items.len());
    for item in items {
        pipe.add_command(command(item));
    }
    if pipe.is_empty() {
        return Vec::new();
    }
    match link.run(&pipe).await {
        Ok(values) => values.into_iter().map(Ok).collect(),
        Err(error) => items.iter().map(|_| Err(error.clone())).collect(),
    }
}
