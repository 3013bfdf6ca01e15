//! Frames as JSON texts.
//!
//! Values that nobody looks into are skipped, never built, so a frame costs memory in proportion to
//! its length whatever it holds.

use std::fmt;
use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::BadFrame;
use super::compact::{MAX_DEPTH, NotJson, compact, plain_prefix};
use super::encode::FrameWriter;
use super::fields::{Field, Fields, Value};
use super::frames::ClientFrame;
use super::payload::{Data, too_deep, unquote};
use crate::domain::Publication;

/// Understands a frame.
pub(super) fn decode(bytes: &[u8]) -> Result<ClientFrame, BadFrame> {
    let mut fields = Fields::default();
    match std::str::from_utf8(bytes) {
        Ok(text) if text.trim_ascii_start().starts_with('{') => {
            if let Err(why) = read_object(text, &mut fields, Level::Frame) {
                fields.problem(format!("the frame is not valid JSON: {why}"));
            }
        }
        Ok(_) => fields.problem("a frame is a JSON object, for example {\"type\":\"ping\"}".into()),
        Err(_) => fields.problem("the frame is not UTF-8".into()),
    }
    fields.into_frame()
}

/// Where an object stands; only a frame has payload and subscriptions.
#[derive(Clone, Copy, PartialEq)]
enum Level {
    Frame,
    Sub,
}

/// Fills `fields` from an object, as far as it can be read.
fn read_object<'a>(text: &'a str, fields: &mut Fields<'a>, level: Level) -> serde_json::Result<()> {
    let mut json = serde_json::Deserializer::from_str(text);
    Object { fields, level }.deserialize(&mut json)?;
    json.end()
}

struct Object<'f, 'a> {
    fields: &'f mut Fields<'a>,
    level: Level,
}

impl<'a> DeserializeSeed<'a> for Object<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for Object<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'a>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(Name(field)) = map.next_key()? {
            let raw = map.next_value::<&RawValue>()?.get();
            let Some(field) = field else {
                if too_deep_within(raw) {
                    self.fields
                        .problem(format!("the frame nests deeper than {MAX_DEPTH} arrays and objects"));
                }
                continue;
            };
            self.fields.claim(field);
            match (field, self.level) {
                (Field::Data, Level::Frame) => self.fields.set_data(Data::Json(raw)),
                (Field::Subs, Level::Frame) => read_subs(raw, self.fields),
                _ => match value(field, raw) {
                    Ok(value) => self.fields.set(field, value),
                    Err(problem) => self.fields.problem(problem),
                },
            }
        }
        Ok(())
    }
}

/// The name of a member, known or not.
struct Name(Option<Field>);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct NameVisitor;

        impl Visitor<'_> for NameVisitor {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Name, E> {
                Ok(Name(Field::from_name(name)))
            }
        }

        from.deserialize_str(NameVisitor)
    }
}

fn value(field: Field, raw: &str) -> Result<Value<'_>, String> {
    Ok(match raw.as_bytes().first() {
        Some(b'"') => match unquote(raw) {
            Ok(text) => Value::Text(text),
            Err(why) => return Err(format!("`{}` is not a valid string: {why}", field.name())),
        },
        Some(b't') => Value::Bool(true),
        Some(b'f') => Value::Bool(false),
        Some(b'n') | None => Value::Absent,
        Some(b'[' | b'{') if too_deep_within(raw) => return Err(too_deep(field.name())),
        Some(b'[') => Value::List,
        Some(b'{') => Value::Map,
        Some(_) => raw.parse().map_or(Value::Number, Value::Whole),
    })
}

fn too_deep_within(raw: &str) -> bool {
    raw.starts_with(['{', '[']) && compact(raw, &mut Vec::new()) == Err(NotJson::TooDeep)
}

fn read_subs(raw: &str, fields: &mut Fields<'_>) {
    match raw.as_bytes().first() {
        Some(b'[') => {
            let mut json = serde_json::Deserializer::from_str(raw);
            if let Err(why) = json.deserialize_seq(Subs(fields)) {
                fields.problem(format!("`subs` cannot be read: {why}"));
            }
        }
        Some(b'n') => {}
        _ => fields.problem("`subs` must be a list of subscriptions".into()),
    }
}

struct Subs<'f, 'a>(&'f mut Fields<'a>);

impl<'de> Visitor<'de> for Subs<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of subscriptions")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<(), S::Error> {
        while let Some(raw) = seq.next_element::<&RawValue>()? {
            if self.0.has_problem() {
                continue;
            }
            let mut entry = Fields::default();
            match read_object(raw.get(), &mut entry, Level::Sub) {
                Ok(()) => self.0.add_sub(entry),
                Err(_) => self.0.problem("each entry of `subs` must be an object".into()),
            }
        }
        Ok(())
    }
}

/// Appends one object to `out`.
pub(super) fn write(out: &mut Vec<u8>, fill: impl FnOnce(&mut Writer<'_>)) {
    out.push(b'{');
    fill(&mut Writer { out, empty: true });
    out.push(b'}');
}

/// Writes the members of one object.
pub(super) struct Writer<'o> {
    out: &'o mut Vec<u8>,
    empty: bool,
}

impl Writer<'_> {
    fn name(&mut self, name: &'static str) {
        if !std::mem::replace(&mut self.empty, false) {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn quoted(&mut self, text: &str) {
        self.out.push(b'"');
        self.out.extend_from_slice(text.as_bytes());
        self.out.push(b'"');
    }

    fn string(&mut self, text: &str) {
        // Most texts need no escape, and then eight bytes are looked at as one.
        if plain_prefix(text.as_bytes()) == text.len() {
            return self.quoted(text);
        }
        serde_json::to_writer(&mut *self.out, text).expect("a string is JSON and a Vec takes every write");
    }
}

impl FrameWriter for Writer<'_> {
    fn text(&mut self, name: &'static str, text: &str) {
        self.name(name);
        self.string(text);
    }

    fn plain(&mut self, name: &'static str, text: &str) {
        self.name(name);
        self.quoted(text);
    }

    fn number(&mut self, name: &'static str, number: u64) {
        self.name(name);
        write!(self.out, "{number}").expect("a Vec takes every write");
    }

    fn bool(&mut self, name: &'static str, value: bool) {
        self.name(name);
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
    }

    fn payload(&mut self, message: &Publication) {
        self.name("data");
        let Ok(text) = std::str::from_utf8(&message.data) else {
            self.out.push(b'"');
            let start = self.out.len();
            self.out.resize(start + message.data.len().div_ceil(3) * 4, 0);
            BASE64
                .encode_slice(&message.data, &mut self.out[start..])
                .expect("four bytes for each three begun are enough");
            self.out.push(b'"');
            return self.plain("enc", "base64");
        };
        let stands_as_json = may_be_json(text, message) && compact(text, self.out).is_ok();
        if !stands_as_json {
            self.string(text);
            self.plain("enc", "text");
        }
    }

    fn headers(&mut self, headers: &[(Box<str>, Box<str>)]) {
        self.name("headers");
        self.out.push(b'{');
        for (index, (name, value)) in headers.iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            self.string(name);
            self.out.push(b':');
            self.string(value);
        }
        self.out.push(b'}');
    }

    fn list<T>(&mut self, name: &'static str, items: &[T], each: impl Fn(&mut Self, &T)) {
        self.name(name);
        self.out.push(b'[');
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            self.out.push(b'{');
            self.empty = true;
            each(self, item);
            self.out.push(b'}');
        }
        self.empty = false;
        self.out.push(b']');
    }
}

/// Whether it is worth trying: the first byte of an object or array, or a header that says so.
fn may_be_json(text: &str, message: &Publication) -> bool {
    text.trim_ascii_start().starts_with(['{', '['])
        || message.header("content-type").is_some_and(|value| {
            let essence = value.split(';').next().unwrap_or(value);
            essence.trim_ascii().eq_ignore_ascii_case("application/json")
        })
}
