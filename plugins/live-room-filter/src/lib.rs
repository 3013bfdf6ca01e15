//! Keeps a live room clean: refuses words and links, and holds each user to a rate.

// The bindings call and are called through the component model's ABI.
#![allow(unsafe_code)]

mod bindings {
    wit_bindgen::generate!({ path: "../../wit", world: "publish-filter", generate_all });
}

mod rate;
mod settings;
mod words;

use bindings::exports::tidegate::plugin::on_publish::{Guest, Publication, Verdict};
use bindings::tidegate::plugin::context;
use bindings::tidegate::plugin::types::{Refusal, Replacement};
use serde_json::Value;
use settings::{OnWord, Settings};

struct Plugin;
bindings::export!(Plugin with_types_in bindings);

impl Guest for Plugin {
    fn on_publish(publication: Publication) -> Verdict {
        let settings = Settings::get();
        if !settings.holds_for(&publication.channel) || settings.exempts(context::fact("class")) {
            return Verdict::Accept;
        }
        // What costs the room most comes first: a flood is turned away before anything of it is read.
        if let Err(wait_ms) = rate::admit(&publication.user, settings) {
            let reason = format!("at most {} messages in {} s", settings.messages, settings.per_s);
            return Verdict::Refuse(Refusal { reason, retry_after_ms: Some(wait_ms) });
        }
        let Some(mut said) = Said::of(publication.data) else {
            return refuse("the message is neither JSON nor text");
        };
        if !settings.links && said.texts().any(|text| words::has_link(text)) {
            return refuse("links are not allowed here");
        }
        if !said.texts().any(|text| !words::find(text, &settings.words).is_empty()) {
            return Verdict::Accept;
        }
        match settings.on_word {
            OnWord::Refuse => refuse("the message has a word that is not allowed here"),
            OnWord::Mask => {
                said.change(&|text| words::masked(text, &words::find(text, &settings.words)));
                Verdict::Replace(Replacement { data: said.into_bytes(), headers: None })
            }
        }
    }
}

fn refuse(reason: &str) -> Verdict {
    Verdict::Refuse(Refusal { reason: reason.to_owned(), retry_after_ms: None })
}

/// What a user said: all texts of a JSON value, at any depth, or the whole payload.
enum Said {
    Json(Value),
    Plain(String),
}

impl Said {
    fn of(data: Vec<u8>) -> Option<Self> {
        match serde_json::from_slice(&data) {
            Ok(value) => Some(Self::Json(value)),
            Err(_) => String::from_utf8(data).ok().map(Self::Plain),
        }
    }

    fn texts(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match self {
            Self::Json(value) => texts(value),
            Self::Plain(text) => Box::new(std::iter::once(text.as_str())),
        }
    }

    fn change(&mut self, how: &dyn Fn(&str) -> String) {
        match self {
            Self::Json(value) => change(value, how),
            Self::Plain(text) => *text = how(text),
        }
    }

    fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Json(value) => value.to_string().into_bytes(),
            Self::Plain(text) => text.into_bytes(),
        }
    }
}

/// Names of fields are texts, too: a client may show them.
fn texts(value: &Value) -> Box<dyn Iterator<Item = &str> + '_> {
    match value {
        Value::String(text) => Box::new(std::iter::once(text.as_str())),
        Value::Array(items) => Box::new(items.iter().flat_map(texts)),
        Value::Object(fields) => Box::new(
            fields.iter().flat_map(|(name, value)| std::iter::once(name.as_str()).chain(texts(value))),
        ),
        _ => Box::new(std::iter::empty()),
    }
}

fn change(value: &mut Value, how: &dyn Fn(&str) -> String) {
    match value {
        Value::String(text) => *text = how(text),
        Value::Array(items) => items.iter_mut().for_each(|item| change(item, how)),
        Value::Object(fields) => {
            let old = std::mem::take(fields);
            fields.extend(old.into_iter().map(|(name, mut value)| {
                change(&mut value, how);
                (how(&name), value)
            }));
        }
        _ => {}
    }
}
