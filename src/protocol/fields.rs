//! The fields of client frames, before it is known what they make: one set for both codecs.
//!
//! A codec fills in whatever it reads, also after something was wrong, so that the request's id is
//! known in the end. One function makes the frame, so both codecs refuse the same things in the same
//! words.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use super::BadFrame;
use super::frames::{ClientFrame, Connect, Payload, RequestId, Subscribe};
use super::payload::Data;
use crate::domain::{ChannelName, DeviceId, Offset};

/// The longest `key`, `msg_id` and `topic` in bytes: what a log entry's field may hold.
const MAX_LABEL: usize = 256;

/// The types of client frames, as an error lists them.
const TYPES: &str =
    "connect, subscribe, unsubscribe, publish, send, ack, nack, history, presence, refresh, ping";

macro_rules! fields {
    ($($variant:ident = $name:literal, $meaning:literal;)*) => {
        /// A field that some frame has.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Field { $($variant,)* }

        impl Field {
            const COUNT: usize = [$($name),*].len();

            pub(super) fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }

            pub(super) fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What the field holds, in words that follow "needs" and "must be".
            fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }
        }
    };
}

fields! {
    Type = "type", "the kind of frame as a string";
    Id = "id", "a whole number, which the reply carries";
    Channel = "channel", "the name of the channel as a string";
    Data = "data", "the payload";
    Enc = "enc", "\"text\" or \"base64\" as a string";
    Offset = "offset", "an offset as a string";
    Epoch = "epoch", "an epoch as a string";
    Ack = "ack", "true or false";
    Window = "window", "a whole number from 1 up";
    Token = "token", "the token as a string";
    Resume = "resume", "the resume token as a string";
    Device = "device", "the name of the device as a string";
    PingMs = "ping_ms", "a whole number of milliseconds";
    Subs = "subs", "a list of subscriptions";
    Key = "key", "a string of 1 to 256 bytes";
    MsgId = "msg_id", "a string of 1 to 256 bytes";
    Topic = "topic", "a string of 1 to 256 bytes";
    DelayMs = "delay_ms", "a whole number of milliseconds";
    Limit = "limit", "the most messages to read, a whole number from 1 up";
    Before = "before", "an offset as a string";
    After = "after", "an offset as a string";
}

/// A field's value, as far as any frame looks into it.
#[derive(Debug, Default)]
pub(super) enum Value<'a> {
    /// Not given, or null, which means the same.
    #[default]
    Absent,
    /// true or false.
    Bool(bool),
    /// A whole number from 0 up.
    Whole(u64),
    /// Any other number.
    Number,
    /// A string.
    Text(Cow<'a, str>),
    /// A CBOR byte string.
    Bytes(Cow<'a, [u8]>),
    /// A list, whose elements are skipped.
    List,
    /// An object, whose members are skipped.
    Map,
}

impl Value<'_> {
    /// What it is, after "not".
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Absent => "nothing",
            Self::Bool(_) => "true or false",
            Self::Whole(_) => "a number",
            Self::Number => "a negative or fractional number",
            Self::Text(_) => "a string",
            Self::Bytes(_) => "a byte string",
            Self::List => "a list",
            Self::Map => "an object",
        }
    }

    /// The answer for a field whose value is not what it should be.
    fn absent_or_wrong<T>(&self, field: Field) -> Result<Option<T>, String> {
        match self {
            Self::Absent => Ok(None),
            other => Err(format!("`{}` must be {}, not {}", field.name(), field.meaning(), other.kind())),
        }
    }
}

/// Everything that was read of a frame, or of one entry of `subs`.
#[derive(Debug, Default)]
pub(super) struct Fields<'a> {
    values: [Value<'a>; Field::COUNT],
    /// A bit for each field that was given.
    given: u32,
    data: Option<Data<'a>>,
    subs: Vec<Subscribe>,
    problem: Option<String>,
}

const _: () = assert!(Field::COUNT <= u32::BITS as usize, "`given` has a bit for each field");

impl<'a> Fields<'a> {
    /// Marks a field as given; a second time is a problem.
    pub(super) fn claim(&mut self, field: Field) {
        let bit = 1 << field as u32;
        if self.given & bit != 0 {
            self.problem(format!("`{}` is given twice", field.name()));
        }
        self.given |= bit;
    }

    /// Takes a value.
    pub(super) fn set(&mut self, field: Field, value: Value<'a>) {
        self.values[field as usize] = value;
    }

    /// Takes the payload.
    pub(super) fn set_data(&mut self, data: Data<'a>) {
        self.data = Some(data);
    }

    /// Takes one entry of `subs`. They are made into subscriptions one by one: a frame full of empty
    /// entries would otherwise grow a hundredfold in memory.
    pub(super) fn add_sub(&mut self, mut entry: Fields<'_>) {
        let result = match entry.problem.take() {
            Some(problem) => Err(problem),
            None => entry.subscription(format_args!("it")),
        };
        match result {
            Ok(sub) => self.subs.push(sub),
            Err(why) => self.problem(format!("entry {} of `subs`: {why}", self.subs.len() + 1)),
        }
    }

    /// Notes what is wrong; the first problem is the one that is told.
    pub(super) fn problem(&mut self, what: String) {
        self.problem.get_or_insert(what);
    }

    /// Whether something is wrong already.
    pub(super) fn has_problem(&self) -> bool {
        self.problem.is_some()
    }

    /// Makes the frame.
    pub(super) fn into_frame(mut self) -> Result<ClientFrame, BadFrame> {
        let id = match self.values[Field::Id as usize] {
            Value::Whole(id) => Some(id),
            _ => None,
        };
        let frame = match self.problem.take() {
            Some(problem) => Err(problem),
            None => self.frame(),
        };
        frame.map_err(|message| BadFrame { id, message: message.into() })
    }

    fn frame(mut self) -> Result<ClientFrame, String> {
        let (data, subs) = (self.data.take(), std::mem::take(&mut self.subs));
        let fields = &self;
        let kind =
            fields.text(Field::Type)?.ok_or_else(|| format!("a frame needs `type`: one of {TYPES}"))?;
        let who = format_args!("`{kind}`");
        let id = || need(who, Field::Id, fields.whole(Field::Id)?);
        let channel = || fields.channel(who);
        let offset = || need(who, Field::Offset, fields.offset(Field::Offset)?);
        let payload = || -> Result<Payload, String> {
            let data = need(who, Field::Data, data)?;
            data.into_payload(fields.text(Field::Enc)?)
        };
        Ok(match kind {
            "connect" => ClientFrame::Connect(fields.connect(subs)?),
            "subscribe" => ClientFrame::Subscribe { id: id()?, subscribe: fields.subscription(who)? },
            "unsubscribe" => ClientFrame::Unsubscribe { id: id()?, channel: channel()? },
            "publish" => ClientFrame::Publish {
                id: id()?,
                channel: channel()?,
                payload: payload()?,
                key: fields.label(Field::Key)?,
                msg_id: fields.label(Field::MsgId)?,
            },
            "send" => {
                ClientFrame::Send { id: id()?, payload: payload()?, topic: fields.label(Field::Topic)? }
            }
            "ack" => ClientFrame::Ack { channel: channel()?, offset: offset()? },
            "nack" => ClientFrame::Nack {
                channel: channel()?,
                offset: offset()?,
                delay_ms: fields.whole(Field::DelayMs)?.unwrap_or(0),
            },
            "history" => fields.history(id()?, who)?,
            "presence" => ClientFrame::Presence { id: id()?, channel: channel()? },
            "refresh" => {
                let token = need(who, Field::Token, fields.text(Field::Token)?);
                ClientFrame::Refresh { id: id()?, token: token?.into() }
            }
            "ping" => ClientFrame::Ping,
            unknown => return Err(format!("unknown `type` {:?}: it is one of {TYPES}", start_of(unknown))),
        })
    }

    fn connect(&self, subs: Vec<Subscribe>) -> Result<Connect, String> {
        let device = self.text(Field::Device)?.map(DeviceId::parse).transpose();
        Ok(Connect {
            token: self.text(Field::Token)?.map(Into::into),
            resume: self.text(Field::Resume)?.map(Into::into),
            device: device.map_err(|why| why.to_string())?,
            ping_ms: self.whole(Field::PingMs)?,
            subs,
        })
    }

    fn subscription(&self, who: fmt::Arguments<'_>) -> Result<Subscribe, String> {
        Ok(Subscribe {
            channel: self.channel(who)?,
            offset: self.offset(Field::Offset)?,
            epoch: self.parsed(Field::Epoch)?,
            ack: self.bool(Field::Ack)?.unwrap_or(false),
            window: self.count(Field::Window)?,
        })
    }

    fn history(&self, id: RequestId, who: fmt::Arguments<'_>) -> Result<ClientFrame, String> {
        let (before, after) = (self.offset(Field::Before)?, self.offset(Field::After)?);
        if before.is_some() && after.is_some() {
            return Err("`history` takes `before` or `after`, not both".into());
        }
        let limit = need(who, Field::Limit, self.count(Field::Limit)?)?;
        Ok(ClientFrame::History { id, channel: self.channel(who)?, limit, before, after })
    }

    fn channel(&self, who: fmt::Arguments<'_>) -> Result<ChannelName, String> {
        let name = need(who, Field::Channel, self.text(Field::Channel)?)?;
        ChannelName::parse(name).map_err(|why| why.to_string())
    }

    fn offset(&self, field: Field) -> Result<Option<Offset>, String> {
        self.parsed(field)
    }

    fn parsed<T: FromStr<Err: fmt::Display>>(&self, field: Field) -> Result<Option<T>, String> {
        let parsed = self.text(field)?.map(str::parse).transpose();
        parsed.map_err(|why| format!("`{}`: {why}", field.name()))
    }

    /// A string that becomes a field of a log entry, which has a limit of its own.
    fn label(&self, field: Field) -> Result<Option<Box<str>>, String> {
        match self.text(field)? {
            Some(text) if (1..=MAX_LABEL).contains(&text.len()) => Ok(Some(text.into())),
            Some(text) => {
                Err(format!("`{}` must be {}, not of {}", field.name(), field.meaning(), text.len()))
            }
            None => Ok(None),
        }
    }

    fn text(&self, field: Field) -> Result<Option<&str>, String> {
        match &self.values[field as usize] {
            Value::Text(text) => Ok(Some(text)),
            other => other.absent_or_wrong(field),
        }
    }

    fn whole(&self, field: Field) -> Result<Option<u64>, String> {
        match &self.values[field as usize] {
            Value::Whole(number) => Ok(Some(*number)),
            other => other.absent_or_wrong(field),
        }
    }

    /// A whole number from 1 up; one too large for this machine means the same as the largest.
    fn count(&self, field: Field) -> Result<Option<usize>, String> {
        match self.whole(field)? {
            Some(0) => Err(format!("`{}` must be {}, not 0", field.name(), field.meaning())),
            number => Ok(number.map(|number| usize::try_from(number).unwrap_or(usize::MAX))),
        }
    }

    fn bool(&self, field: Field) -> Result<Option<bool>, String> {
        match &self.values[field as usize] {
            Value::Bool(value) => Ok(Some(*value)),
            other => other.absent_or_wrong(field),
        }
    }
}

fn need<T>(who: fmt::Arguments<'_>, field: Field, value: Option<T>) -> Result<T, String> {
    value.ok_or_else(|| format!("{who} needs `{}`: {}", field.name(), field.meaning()))
}

/// Enough of a hostile text to recognise it.
fn start_of(text: &str) -> String {
    text.chars().take(40).collect()
}
