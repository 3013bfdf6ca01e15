//! Reading streams: pages that prove their continuity, tails, history.

use std::fmt::Display;
use std::io::Write as _;

use super::connection::Link;
use super::continuity::{Verdict, judge};
use super::errors;
use super::reader::{Answer, Commands, Entries, Reply, Want, Way};
use super::values::StreamInfo;
use crate::backbone::{BackboneError, Page, Range, Read, Tail, one};
use crate::domain::{Offset, RawEntry, StreamKey};

/// Commands in one pipeline: bounds what one answer's timeout has to cover.
const CHUNK: usize = 1_000;
/// Room for an offset: two numbers and a dash.
const WORD: usize = 41;
/// Entries in one answer, whatever was asked for.
const MOST_ENTRIES: usize = 10_000;

/// Reads on from positions; one stream's error is that stream's alone.
pub(super) async fn read(link: &Link, way: Way, reads: &[Read]) -> Vec<Result<Page, BackboneError>> {
    let mut pages = Vec::with_capacity(reads.len());
    for chunk in reads.chunks(CHUNK) {
        pages.extend(read_chunk(link, way, chunk).await);
    }
    pages
}

async fn read_chunk(link: &Link, way: Way, reads: &[Read]) -> Vec<Result<Page, BackboneError>> {
    let mut commands = Commands::with_capacity(reads.len());
    for read in reads {
        // One more for the entry at the position, one more to see whether others follow.
        let (mut after, mut count) = ([0; WORD], [0; WORD]);
        let words = [
            b"XRANGE",
            read.stream.as_str().as_bytes(),
            written(&mut after, read.after),
            b"+",
            b"COUNT",
            written(&mut count, wanted(read) + 2),
        ];
        commands.push(Want::Entries(read.after), &words);
    }
    let found: Vec<_> =
        ask(link, way, commands, reads.len()).await.into_iter().map(|answer| entries(answer?)).collect();
    let unproven = |found: &Result<Entries, BackboneError>| matches!(found, Ok(found) if !found.at_position);
    let doubtful =
        std::iter::zip(reads, &found).filter(|(_, found)| unproven(found)).map(|(read, _)| &read.stream);
    let mut infos = infos(link, way, doubtful).await.into_iter();
    let mut pages = Vec::with_capacity(reads.len());
    for (read, found) in std::iter::zip(reads, found) {
        let page = match found {
            Ok(found) if found.at_position => Ok(whole(link, read, Found::new(read, found))),
            Ok(found) => match infos.next().unwrap_or_else(|| Err(errors::unexpected("XINFO STREAM"))) {
                Ok(info) => prove(link, read, Found::new(read, found), info).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        pages.push(page);
    }
    pages
}

/// The value as text, without an allocation for each of a pipeline.
fn written(buffer: &mut [u8; WORD], value: impl Display) -> &[u8] {
    let mut rest = &mut buffer[..];
    write!(rest, "{value}").expect("no offset and no number is longer");
    let length = WORD - rest.len();
    &buffer[..length]
}

fn wanted(read: &Read) -> usize {
    read.count.clamp(1, MOST_ENTRIES)
}

/// What a read brought after its position.
struct Found {
    entries: Vec<RawEntry>,
    more: bool,
}

impl Found {
    fn new(read: &Read, Entries { mut entries, cut, .. }: Entries) -> Self {
        let more = cut || entries.len() > wanted(read);
        entries.truncate(wanted(read));
        Self { entries, more }
    }
}

/// The page of a read whose entry was there: nothing after it was trimmed.
fn whole(link: &Link, read: &Read, Found { entries, more }: Found) -> Page {
    let end = entries.last().map_or(read.after, |last| last.offset);
    let added = read.added.map(|added| added + entries.len() as u64);
    Page { entries, whole: true, more, end, added, epoch: link.epoch() }
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
    // It may have been removed alone, by the janitor or a backend, or with everything.
    if verdict == Verdict::Gap && info.is_none() {
        epoch = link.epochs().confirm(link).await?;
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
        let infos = infos(link, Way::Pages, chunk).await;
        let epoch = link.epoch();
        tails.extend(infos.into_iter().map(|info| {
            Ok(match info? {
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
    let (command, from, to) = match (range.after, range.before) {
        (Some(after), _) => (&b"XRANGE"[..], format!("({after}"), &b"+"[..]),
        (None, Some(before)) => (&b"XREVRANGE"[..], format!("({before}"), &b"-"[..]),
        (None, None) => (&b"XREVRANGE"[..], "+".to_owned(), &b"-"[..]),
    };
    let limit = range.limit.min(MOST_ENTRIES).to_string();
    let words = [command, stream.as_str().as_bytes(), from.as_bytes(), to, b"COUNT", limit.as_bytes()];
    let mut commands = Commands::default();
    // No entry has this offset.
    commands.push(Want::Entries(Offset::ZERO), &words);
    let mut found = entries(one(ask(link, Way::Pages, commands, 1).await)?)?.entries;
    if range.after.is_none() {
        found.reverse();
    }
    Ok(found)
}

/// The figures of streams, `None` for one that does not exist, one answer each.
async fn infos(
    link: &Link,
    way: Way,
    streams: impl IntoIterator<Item = &StreamKey>,
) -> Vec<Result<Option<StreamInfo>, BackboneError>> {
    let mut commands = Commands::default();
    let mut count = 0;
    for stream in streams {
        commands.push(Want::Stream, &[b"XINFO", b"STREAM", stream.as_str().as_bytes()]);
        count += 1;
    }
    let figures = |answer: Answer| match answer? {
        Reply::Stream(info) => Ok(info),
        Reply::Entries(_) | Reply::Text(_) => Err(errors::unexpected("XINFO STREAM")),
    };
    ask(link, way, commands, count).await.into_iter().map(figures).collect()
}

fn entries(reply: Reply) -> Result<Entries, BackboneError> {
    match reply {
        Reply::Entries(entries) => Ok(entries),
        Reply::Stream(_) | Reply::Text(_) => Err(errors::unexpected("XRANGE")),
    }
}

/// One answer a command. Without a connection every command has that error.
async fn ask(link: &Link, way: Way, commands: Commands, count: usize) -> Vec<Answer> {
    if count == 0 {
        return Vec::new();
    }
    link.read(way, commands).await.unwrap_or_else(|error| vec![Err(error); count])
}
