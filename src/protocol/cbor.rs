//! Frames as CBOR (RFC 8949).
//!
//! Reading is by hand and borrows from the frame: a declared length is a claim to be checked against
//! the bytes that are there, never a size to allocate, and skipping a value recurses no deeper than
//! the depth limit.

use std::borrow::Cow;

use super::BadFrame;
use super::compact::MAX_DEPTH;
use super::encode::FrameWriter;
use super::fields::{Field, Fields, Value};
use super::frames::ClientFrame;
use super::payload::Data;
use crate::domain::Publication;

/// Understands a frame.
pub(super) fn decode(bytes: &[u8]) -> Result<ClientFrame, BadFrame> {
    let mut fields = Fields::default();
    let mut reader = Reader { rest: bytes };
    let read = match reader.head() {
        Ok(Head::Map(items)) => reader.object(items, &mut fields, Level::Frame),
        Ok(_) => {
            fields.problem("a frame is a CBOR map, for example {\"type\": \"ping\"}".into());
            Ok(())
        }
        Err(why) => Err(why),
    };
    if let Err(why) = read {
        fields.problem(why.to_string());
    } else if !reader.rest.is_empty() {
        fields.problem(format!("{} bytes follow the frame: send one frame a message", reader.rest.len()));
    }
    fields.into_frame()
}

/// Why a frame is not CBOR that this reader takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum NotCbor {
    #[error("the frame is not valid CBOR: it ends too early")]
    TooShort,
    #[error("the frame is not valid CBOR: it declares more than it holds")]
    Length,
    #[error("the frame nests deeper than {MAX_DEPTH} arrays and objects")]
    TooDeep,
    #[error("the frame is not valid CBOR: a text string is not UTF-8")]
    Utf8,
    #[error("the frame is not valid CBOR: an item has a form that RFC 8949 does not allow")]
    Form,
}

/// Where a map stands; only a frame has payload and subscriptions.
#[derive(Clone, Copy, PartialEq)]
enum Level {
    Frame,
    Sub,
}

/// The head of an item. Lengths are absent where the item ends with a break.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Head {
    Unsigned(u64),
    Negative,
    Bytes(Option<usize>),
    Text(Option<usize>),
    Array(Option<usize>),
    Map(Option<usize>),
    Bool(bool),
    /// null and undefined.
    Null,
    Float(f64),
    /// Simple values without a meaning here.
    Simple,
    Break,
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], NotCbor> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(NotCbor::TooShort)?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next head. Tags say how to understand an item and change nothing for a frame's fields.
    fn head(&mut self) -> Result<Head, NotCbor> {
        let mut tagged = false;
        loop {
            let first = self.take(1)?[0];
            let (major, info) = (first >> 5, first & 0x1f);
            if info == 31 {
                return Ok(match major {
                    2 => Head::Bytes(None),
                    3 => Head::Text(None),
                    4 => Head::Array(None),
                    5 => Head::Map(None),
                    7 if !tagged => Head::Break,
                    _ => return Err(NotCbor::Form),
                });
            }
            let argument = match info {
                0..24 => u64::from(info),
                24..28 => {
                    self.take(1 << (info - 24))?.iter().fold(0, |all, byte| all << 8 | u64::from(*byte))
                }
                _ => return Err(NotCbor::Form),
            };
            tagged = major == 6;
            if tagged {
                continue;
            }
            return Ok(match major {
                0 => Head::Unsigned(argument),
                1 => Head::Negative,
                2 => Head::Bytes(Some(self.length(argument)?)),
                3 => Head::Text(Some(self.length(argument)?)),
                4 => Head::Array(Some(self.length(argument)?)),
                5 => Head::Map(Some(self.length(argument)?)),
                _ => match (info, argument) {
                    (24, ..32) => return Err(NotCbor::Form),
                    // Whole numbers come as wider floats, so what a half float says does not matter.
                    (25, _) => Head::Float(f64::NAN),
                    (26, bits) => Head::Float(f32::from_bits(bits as u32).into()),
                    (27, bits) => Head::Float(f64::from_bits(bits)),
                    (_, 20 | 21) => Head::Bool(argument == 21),
                    (_, 22 | 23) => Head::Null,
                    _ => Head::Simple,
                },
            });
        }
    }

    /// A declared number of bytes or items, each of which takes a byte or more.
    fn length(&self, declared: u64) -> Result<usize, NotCbor> {
        let length = usize::try_from(declared).map_err(|_| NotCbor::Length)?;
        if length > self.rest.len() { Err(NotCbor::Length) } else { Ok(length) }
    }

    /// Fills `fields` from a map, as far as it can be read.
    fn object(&mut self, items: Option<usize>, fields: &mut Fields<'a>, level: Level) -> Result<(), NotCbor> {
        let mut items = Items(items);
        while let Some(key) = items.next(self)? {
            let name = match self.value(key, 0)? {
                Value::Text(name) => name,
                // Keys of other types are as unknown as unknown names.
                _ => Cow::Borrowed(""),
            };
            let head = self.head()?;
            let Some(field) = Field::from_name(&name) else {
                self.value(head, 0)?;
                continue;
            };
            fields.claim(field);
            match (field, level, head) {
                (Field::Subs, Level::Frame, Head::Array(entries)) => self.subs(entries, fields)?,
                (Field::Subs, Level::Frame, _) => {
                    if !matches!(self.value(head, 0)?, Value::Absent) {
                        fields.problem("`subs` must be a list of subscriptions".into());
                    }
                }
                (Field::Data, Level::Frame, _) => match self.value(head, 0)? {
                    Value::Absent => {}
                    Value::Bytes(bytes) => fields.set_data(Data::Bytes(bytes)),
                    Value::Text(text) => fields.set_data(Data::Bytes(match text {
                        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
                    })),
                    other => fields.set_data(Data::Wrong(other.kind())),
                },
                _ => {
                    let value = self.value(head, 0)?;
                    fields.set(field, value);
                }
            }
        }
        Ok(())
    }

    fn subs(&mut self, entries: Option<usize>, fields: &mut Fields<'a>) -> Result<(), NotCbor> {
        let mut entries = Items(entries);
        while let Some(head) = entries.next(self)? {
            match head {
                Head::Map(items) if !fields.has_problem() => {
                    let mut entry = Fields::default();
                    self.object(items, &mut entry, Level::Sub)?;
                    fields.add_sub(entry);
                }
                other => {
                    self.value(other, 1)?;
                    fields.problem("each entry of `subs` must be an object".into());
                }
            }
        }
        Ok(())
    }

    /// The value that a head begins; what stands in arrays and maps is skipped.
    fn value(&mut self, head: Head, depth: u32) -> Result<Value<'a>, NotCbor> {
        Ok(match head {
            Head::Unsigned(number) => Value::Whole(number),
            // Common JavaScript encoders write whole numbers above 32 bits as floats.
            Head::Float(number) if (0.0..MAX_SAFE).contains(&number) && number.fract() == 0.0 => {
                Value::Whole(number as u64)
            }
            Head::Negative | Head::Float(_) | Head::Simple => Value::Number,
            Head::Bool(value) => Value::Bool(value),
            Head::Null => Value::Absent,
            Head::Bytes(length) => Value::Bytes(self.string(length, |head| match head {
                Head::Bytes(length) => length,
                _ => None,
            })?),
            Head::Text(length) => {
                let bytes = self.string(length, |head| match head {
                    Head::Text(length) => length,
                    _ => None,
                })?;
                Value::Text(match bytes {
                    Cow::Borrowed(bytes) => std::str::from_utf8(bytes).map_err(|_| NotCbor::Utf8)?.into(),
                    Cow::Owned(bytes) => String::from_utf8(bytes).map_err(|_| NotCbor::Utf8)?.into(),
                })
            }
            Head::Array(items) => {
                self.skip(Items(items), 1, depth)?;
                Value::List
            }
            Head::Map(items) => {
                self.skip(Items(items), 2, depth)?;
                Value::Map
            }
            Head::Break => return Err(NotCbor::Form),
        })
    }

    /// A string's bytes. `chunk` gives the length of a chunk of the same kind, where it has one.
    fn string(
        &mut self,
        length: Option<usize>,
        chunk: fn(Head) -> Option<usize>,
    ) -> Result<Cow<'a, [u8]>, NotCbor> {
        if let Some(length) = length {
            return self.take(length).map(Cow::Borrowed);
        }
        let mut all = Vec::new();
        loop {
            match self.head()? {
                Head::Break => return Ok(Cow::Owned(all)),
                head => all.extend_from_slice(self.take(chunk(head).ok_or(NotCbor::Form)?)?),
            }
        }
    }

    /// Skips items of `width` values each, inside `depth` arrays and maps.
    fn skip(&mut self, mut items: Items, width: usize, depth: u32) -> Result<(), NotCbor> {
        if depth == MAX_DEPTH {
            return Err(NotCbor::TooDeep);
        }
        while let Some(head) = items.next(self)? {
            self.value(head, depth + 1)?;
            for _ in 1..width {
                let head = self.head()?;
                self.value(head, depth + 1)?;
            }
        }
        Ok(())
    }
}

/// Below this a 64-bit float holds every whole number exactly.
const MAX_SAFE: f64 = 9_007_199_254_740_992.0;

/// The items that an array or map still has; `None` until the break.
struct Items(Option<usize>);

impl Items {
    fn next(&mut self, reader: &mut Reader<'_>) -> Result<Option<Head>, NotCbor> {
        match &mut self.0 {
            Some(0) => Ok(None),
            Some(left) => {
                *left -= 1;
                reader.head().map(Some)
            }
            None => Ok(Some(reader.head()?).filter(|head| *head != Head::Break)),
        }
    }
}

/// Appends one map to `out`.
pub(super) fn write(out: &mut Vec<u8>, fill: impl FnOnce(&mut Writer<'_>)) {
    fill(&mut Writer::open(out));
}

/// Writes the entries of one map. A frame has fewer than 24, so the map's head is one byte that
/// counts up with them.
pub(super) struct Writer<'o> {
    out: &'o mut Vec<u8>,
    head: usize,
}

const BYTES: u8 = 2 << 5;
const TEXT: u8 = 3 << 5;
const ARRAY: u8 = 4 << 5;
const MAP: u8 = 5 << 5;

impl<'o> Writer<'o> {
    fn open(out: &'o mut Vec<u8>) -> Self {
        let head = out.len();
        out.push(MAP);
        Self { out, head }
    }

    fn name(&mut self, name: &'static str) {
        self.out[self.head] += 1;
        self.string(name);
    }

    fn string(&mut self, text: &str) {
        self.item(TEXT, text.len() as u64);
        self.out.extend_from_slice(text.as_bytes());
    }

    /// The shortest head for a major type and its argument.
    fn item(&mut self, major: u8, argument: u64) {
        let bytes = argument.to_be_bytes();
        match argument {
            0..24 => self.out.push(major | bytes[7]),
            24..0x100 => self.out.extend_from_slice(&[major | 24, bytes[7]]),
            0x100..0x1_0000 => self.out.extend_from_slice(&[major | 25, bytes[6], bytes[7]]),
            0x1_0000..0x1_0000_0000 => {
                self.out.push(major | 26);
                self.out.extend_from_slice(&bytes[4..]);
            }
            _ => {
                self.out.push(major | 27);
                self.out.extend_from_slice(&bytes);
            }
        }
    }
}

impl FrameWriter for Writer<'_> {
    fn text(&mut self, name: &'static str, text: &str) {
        self.name(name);
        self.string(text);
    }

    fn plain(&mut self, name: &'static str, text: &str) {
        self.text(name, text);
    }

    fn number(&mut self, name: &'static str, number: u64) {
        self.name(name);
        self.item(0, number);
    }

    fn bool(&mut self, name: &'static str, value: bool) {
        self.name(name);
        self.out.push(if value { 0xf5 } else { 0xf4 });
    }

    fn payload(&mut self, message: &Publication) {
        self.name("data");
        self.item(BYTES, message.data.len() as u64);
        self.out.extend_from_slice(&message.data);
    }

    fn headers(&mut self, headers: &[(Box<str>, Box<str>)]) {
        self.name("headers");
        self.item(MAP, headers.len() as u64);
        for (name, value) in headers {
            self.string(name);
            self.string(value);
        }
    }

    fn list<T>(&mut self, name: &'static str, items: &[T], each: impl Fn(&mut Self, &T)) {
        self.name(name);
        self.item(ARRAY, items.len() as u64);
        let outer = self.head;
        for item in items {
            self.head = self.out.len();
            self.out.push(MAP);
            each(self, item);
        }
        self.head = outer;
    }
}
