//! From a server's bytes to answers, keeping no more of them than is wanted.

use bytes::Bytes;

use crate::backbone::redis::errors;
use crate::backbone::redis::values::StreamInfo;
use crate::backbone::resp::{RespError, Scanner, Token};
use crate::backbone::{BackboneError, MAX_ENTRY};
use crate::domain::{Offset, RawEntry};

/// Bytes of entries that the answers of one pipeline hold; what is beyond is left for the next read. At
/// least one entry is always taken.
const MOST_KEPT: usize = 16 << 20;
/// What each field costs besides its bytes.
const FIELD_COST: usize = 64;
/// A stream id, or the name of a figure.
const WORD: usize = 64;
/// A text such as `INFO`'s.
const TEXT: usize = 64 << 10;

/// Names of fields that are not allocated again for each entry.
const KNOWN: [&str; 10] =
    ["data", "headers", "id", "key", "ttl_ms", "spread_ms", "user", "session", "traceparent", "in"];

/// What kind of answer a command has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backbone::redis) enum Want {
    /// Entries; the one at this offset is only looked for.
    Entries(Offset),
    /// What `XINFO STREAM` tells.
    Stream,
    /// A status or a text.
    Text,
}

/// What a server answered to one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::backbone::redis) enum Reply {
    Entries(Entries),
    /// `None` where there is no such key.
    Stream(Option<StreamInfo>),
    Text(String),
}

/// Entries of an `XRANGE` or `XREVRANGE`, in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::backbone::redis) struct Entries {
    pub(in crate::backbone::redis) entries: Vec<RawEntry>,
    /// There was an entry at the offset that was looked for; it is not among the entries.
    pub(in crate::backbone::redis) at_position: bool,
    /// More came than was kept.
    pub(in crate::backbone::redis) cut: bool,
}

/// An answer: an error is its command's alone.
pub(in crate::backbone::redis) type Answer = Result<Reply, BackboneError>;

/// The answers to one pipeline, gathered as their bytes come.
pub(super) struct Gathering {
    wants: std::vec::IntoIter<Want>,
    at: At,
    answers: Vec<Answer>,
    kept: usize,
}

/// Where in the current reply.
enum At {
    /// Before it.
    Start,
    /// In its entries.
    Entries { reply: Entries, after: Offset, left: usize, entry: Entry },
    /// In its figures.
    Stream(Figures),
}

/// Where in an entry, which is an array of its id and an array of names and values.
enum Entry {
    Start,
    Id,
    Fields { offset: Offset },
    Strings { left: usize, building: Building },
}

/// An entry of which something is still to come.
struct Building {
    entry: RawEntry,
    name: Option<Bytes>,
    /// Of its names and values.
    bytes: usize,
    /// Neither the one looked for nor beyond what may be kept.
    wanted: bool,
}

/// The bytes are no answer to what was asked: the connection cannot be used any further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ReplyError {
    #[error("the server does not speak RESP2: {0}")]
    Resp(#[from] RespError),
    #[error("an answer has a shape this version does not know")]
    Shape,
}

impl Gathering {
    pub(super) fn new(wants: Vec<Want>) -> Self {
        let answers = Vec::with_capacity(wants.len());
        Self { wants: wants.into_iter(), at: At::Start, answers, kept: 0 }
    }

    /// Goes on with the bytes that came, and takes off the front of `input` what it used. The answers,
    /// when they are all there.
    pub(super) fn take(
        &mut self,
        scanner: &mut Scanner,
        input: &mut &[u8],
    ) -> Result<Option<Vec<Answer>>, ReplyError> {
        while !self.wants.as_slice().is_empty() {
            let Some(token) = scanner.next(input, self.most())? else { return Ok(None) };
            if let Some(answer) = self.go_on(token)? {
                self.answers.push(answer);
                self.at = At::Start;
                self.wants.next();
            }
        }
        Ok(Some(std::mem::take(&mut self.answers)))
    }

    /// The longest string that is of use now.
    fn most(&self) -> usize {
        match &self.at {
            At::Entries { entry: Entry::Strings { building, .. }, .. } => building.room(),
            At::Entries { .. } | At::Stream(_) => WORD,
            At::Start => TEXT,
        }
    }

    fn go_on(&mut self, token: Token<'_>) -> Result<Option<Answer>, ReplyError> {
        match &mut self.at {
            At::Start => self.begin(token),
            At::Stream(figures) => Ok(figures.go_on(token)?.map(|info| Ok(Reply::Stream(Some(info))))),
            At::Entries { reply, after, left, entry } => {
                let Some(built) = entry.go_on(token, *after, self.kept < MOST_KEPT)? else { return Ok(None) };
                *left -= 1;
                let keep = if built.entry.offset == *after {
                    reply.at_position = true;
                    false
                } else {
                    reply.cut |= !built.wanted;
                    built.wanted
                };
                if keep {
                    self.kept += built.cost();
                    reply.entries.push(built.entry);
                }
                Ok((*left == 0).then(|| Ok(Reply::Entries(std::mem::take(reply)))))
            }
        }
    }

    fn begin(&mut self, token: Token<'_>) -> Result<Option<Answer>, ReplyError> {
        let Some(want) = self.wants.as_slice().first() else { return Err(ReplyError::Shape) };
        let answer = match (token, want) {
            (Token::Error(line), Want::Stream) if line.ends_with(b"no such key") => Ok(Reply::Stream(None)),
            (Token::Error(line), _) => Err(errors::refused(line)),
            (Token::Array(0), Want::Entries(_)) => Ok(Reply::Entries(Entries::default())),
            (Token::Array(left), Want::Entries(after)) => {
                let (reply, entry) = (Entries::default(), Entry::Start);
                self.at = At::Entries { reply, after: *after, left, entry };
                return Ok(None);
            }
            (Token::Array(items @ 1..), Want::Stream) => {
                self.at = At::Stream(Figures::new(items));
                return Ok(None);
            }
            (Token::Simple(text) | Token::Bulk(text), Want::Text) => {
                Ok(Reply::Text(String::from_utf8_lossy(text).into_owned()))
            }
            _ => return Err(ReplyError::Shape),
        };
        Ok(Some(answer))
    }
}

impl Entry {
    /// Goes on with the entry; it, when it is whole.
    fn go_on(&mut self, token: Token<'_>, after: Offset, room: bool) -> Result<Option<Building>, ReplyError> {
        match (std::mem::replace(self, Self::Start), token) {
            (Self::Start, Token::Array(2)) => *self = Self::Id,
            (Self::Id, Token::Bulk(id)) => *self = Self::Fields { offset: offset(id)? },
            (Self::Fields { offset }, Token::Array(left)) => {
                let wanted = room && offset != after;
                // Declared lengths are believed a little.
                let fields = Vec::with_capacity(if wanted { (left / 2).min(16) } else { 0 });
                let entry = RawEntry::new(offset, fields);
                let building = Building { entry, name: None, bytes: 0, wanted };
                if left == 0 {
                    return Ok(Some(building));
                }
                *self = Self::Strings { left, building };
            }
            (Self::Strings { left, mut building }, Token::Bulk(_) | Token::Passed(_)) => {
                building.add(token);
                if left == 1 {
                    return Ok(Some(building));
                }
                *self = Self::Strings { left: left - 1, building };
            }
            _ => return Err(ReplyError::Shape),
        }
        Ok(None)
    }
}

impl Building {
    fn add(&mut self, token: Token<'_>) {
        let (text, length) = match token {
            Token::Bulk(text) => (Some(text), text.len()),
            Token::Passed(length) => (None, length),
            _ => return,
        };
        self.bytes = self.bytes.saturating_add(length);
        if !self.wanted {
            return;
        }
        if let Some(oversize) = &mut self.entry.oversize {
            *oversize = oversize.saturating_add(length);
            return;
        }
        let Some(text) = text.filter(|_| self.cost() <= MAX_ENTRY) else {
            (self.entry.fields, self.name) = (Vec::new(), None);
            self.entry.oversize = Some(self.bytes);
            return;
        };
        match self.name.take() {
            None => self.name = Some(name(text)),
            Some(name) => self.entry.fields.push((name, Bytes::copy_from_slice(text))),
        }
    }

    /// The longest string that is of use.
    fn room(&self) -> usize {
        let keeps = self.wanted && self.entry.oversize.is_none();
        if keeps { MAX_ENTRY.saturating_sub(self.cost()) } else { 0 }
    }

    /// The memory that it takes.
    fn cost(&self) -> usize {
        match self.entry.oversize {
            Some(_) => FIELD_COST,
            None => self.bytes + FIELD_COST * self.entry.fields.len(),
        }
    }
}

/// Copied, like the values: a slice would keep a whole buffer of other channels' entries alive for as
/// long as this one stays in a ring.
fn name(text: &[u8]) -> Bytes {
    match KNOWN.iter().find(|known| known.as_bytes() == text) {
        Some(known) => Bytes::from_static(known.as_bytes()),
        None => Bytes::copy_from_slice(text),
    }
}

fn offset(text: &[u8]) -> Result<Offset, ReplyError> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(ReplyError::Shape)
}

/// The names and values of `XINFO STREAM`, in which the first and the last entry lie whole.
struct Figures {
    /// What is still to come of each array begun, the outermost first.
    left: Vec<usize>,
    figure: Figure,
    info: StreamInfo,
    /// Proofs rest on these two: an answer without them proves nothing and must not pass for zeros.
    has_length: bool,
    has_last: bool,
}

/// What the next value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Figure {
    Name,
    Length,
    Last,
    Added,
    FirstEntry,
    LastEntry,
    Other,
}

impl Figures {
    fn new(items: usize) -> Self {
        let info =
            StreamInfo { length: 0, last: Offset::ZERO, added: None, first_entry: None, last_entry: None };
        Self { left: vec![items], figure: Figure::Name, info, has_length: false, has_last: false }
    }

    fn go_on(&mut self, token: Token<'_>) -> Result<Option<StreamInfo>, ReplyError> {
        if self.left.len() == 1 && self.figure == Figure::Name {
            self.figure = match token {
                Token::Bulk(b"length") => Figure::Length,
                Token::Bulk(b"last-generated-id") => Figure::Last,
                Token::Bulk(b"entries-added") => Figure::Added,
                Token::Bulk(b"first-entry") => Figure::FirstEntry,
                Token::Bulk(b"last-entry") => Figure::LastEntry,
                Token::Bulk(_) => Figure::Other,
                _ => return Err(ReplyError::Shape),
            };
        } else {
            self.value(token)?;
            if self.left.len() == 1 && !matches!(token, Token::Array(1..)) {
                self.figure = Figure::Name;
            }
        }
        if let Some(left) = self.left.last_mut() {
            *left -= 1;
        }
        if let Token::Array(items @ 1..) = token {
            // An entry in a figure is as deep as it gets.
            if self.left.len() == 4 {
                return Err(ReplyError::Shape);
            }
            self.left.push(items);
        }
        while self.left.pop_if(|left| *left == 0).is_some() {
            if self.left.len() == 1 {
                self.figure = Figure::Name;
            }
        }
        if !self.left.is_empty() {
            return Ok(None);
        }
        if self.has_length && self.has_last { Ok(Some(self.info)) } else { Err(ReplyError::Shape) }
    }

    fn value(&mut self, token: Token<'_>) -> Result<(), ReplyError> {
        match (self.left.len(), self.figure, token) {
            (1, Figure::Length, Token::Integer(length)) => {
                (self.info.length, self.has_length) = (count(length)?, true);
            }
            (1, Figure::Last, Token::Bulk(id)) => (self.info.last, self.has_last) = (offset(id)?, true),
            (1, Figure::Added, Token::Integer(added)) => self.info.added = Some(count(added)?),
            (1, Figure::Length | Figure::Last | Figure::Added, _) => return Err(ReplyError::Shape),
            // The first value of an entry is its id.
            (2, Figure::FirstEntry, Token::Bulk(id)) => self.info.first_entry = Some(offset(id)?),
            (2, Figure::LastEntry, Token::Bulk(id)) => self.info.last_entry = Some(offset(id)?),
            _ => {}
        }
        Ok(())
    }
}

fn count(number: i64) -> Result<u64, ReplyError> {
    u64::try_from(number).map_err(|_| ReplyError::Shape)
}

#[cfg(test)]
mod tests;
