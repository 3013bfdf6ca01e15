//! Whispers in a room: a message with `to` reaches only those whom it names and who wrote it, and who wrote a
//! message sees it as `mine`.
//!
//! `on-deliver-session` runs once a message and session: in a room of 10,000 that is 10,000 calls a message.

// The bindings call and are called through the component model's ABI.
#![allow(unsafe_code)]

mod bindings {
    wit_bindgen::generate!({ path: "../../wit", world: "session-transformer", generate_all });
}

use bindings::exports::tidegate::plugin::on_deliver_session::{Guest, Message, Recipient, Verdict};
use bindings::tidegate::plugin::context;
use bindings::tidegate::plugin::types::Replacement;
use serde_json::{Map, Value};

struct Plugin;
bindings::export!(Plugin with_types_in bindings);

impl Guest for Plugin {
    fn on_deliver_session(message: Message, to: Recipient) -> Verdict {
        let Ok(mut fields) = serde_json::from_slice::<Map<String, Value>>(&message.data) else {
            return Verdict::Accept;
        };
        // Who published it is what the node knows, not what the message says of itself.
        let mine = context::fact("user").is_some_and(|author| author == to.user);
        let whispered = fields.get("to").is_some();
        if whispered && !mine && !names(&fields["to"], &to.user) {
            return Verdict::Drop;
        }
        if !mine && !fields.contains_key("mine") {
            return Verdict::Accept;
        }
        fields.insert("mine".to_owned(), mine.into());
        let data = Value::Object(fields).to_string().into_bytes();
        Verdict::Replace(Replacement { data, headers: None })
    }
}

/// Whether a user is among those to whom something is whispered: one name or several.
fn names(to: &Value, user: &str) -> bool {
    match to {
        Value::String(name) => name == user,
        Value::Array(names) => names.iter().any(|name| name == user),
        _ => false,
    }
}
