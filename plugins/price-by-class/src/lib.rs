//! Shows each class of customers its own prices: of every object's `prices` it leaves the one `price` of the class.
//!
//! `on-deliver-class` runs once a message and class, however many subscribers a class has.

// The bindings call and are called through the component model's ABI.
#![allow(unsafe_code)]

mod bindings {
    wit_bindgen::generate!({ path: "../../wit", world: "class-transformer", generate_all });
}

use std::sync::OnceLock;

use bindings::exports::tidegate::plugin::on_deliver_class::{Guest, Message, Verdict};
use bindings::tidegate::plugin::types::Replacement;
use bindings::wasi::config::store;
use bindings::wasi::logging::logging::{Level, log};
use serde_json::{Map, Value};

struct Plugin;
bindings::export!(Plugin with_types_in bindings);

impl Guest for Plugin {
    fn on_deliver_class(message: Message, class: String) -> Verdict {
        let mut value: Value = match serde_json::from_slice(&message.data) {
            Ok(value) => value,
            // Prices of others must not get out in a message that is only nearly JSON.
            Err(error) if message.data.windows(8).any(|bytes| bytes == b"\"prices\"") => {
                let at = format!("{} {}-{}", message.channel, message.offset.ms, message.offset.seq);
                log(Level::Warn, "prices", &format!("{at} is dropped, its JSON is broken: {error}"));
                return Verdict::Drop;
            }
            Err(_) => return Verdict::Accept,
        };
        match priced(&mut value, &class, fallback()) {
            Outcome::NoPrices => Verdict::Accept,
            Outcome::Priced => {
                let headers = Some(vec![("content-type".to_owned(), "application/json".to_owned())]);
                Verdict::Replace(Replacement { data: value.to_string().into_bytes(), headers })
            }
            // Nothing in it is for sale to this class.
            Outcome::NotForThem => Verdict::Drop,
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Outcome {
    NoPrices,
    Priced,
    NotForThem,
}

/// Puts the class's price in the place of all prices, at any depth; what has none for the class leaves its list.
fn priced(value: &mut Value, class: &str, fallback: &str) -> Outcome {
    match value {
        Value::Object(object) => match object.remove("prices") {
            Some(Value::Object(prices)) => match price(&prices, class, fallback) {
                Some(price) => {
                    object.insert("price".to_owned(), price.clone());
                    object
                        .values_mut()
                        .fold(Outcome::Priced, |so_far, inner| both(so_far, priced(inner, class, fallback)))
                }
                None => Outcome::NotForThem,
            },
            // Prices in a form that nobody knows are nobody's.
            Some(_) => Outcome::NotForThem,
            None => object
                .values_mut()
                .fold(Outcome::NoPrices, |so_far, inner| both(so_far, priced(inner, class, fallback))),
        },
        Value::Array(items) => {
            let mut outcome = Outcome::NoPrices;
            let mut left_out = false;
            items.retain_mut(|item| match priced(item, class, fallback) {
                Outcome::NotForThem => {
                    left_out = true;
                    false
                }
                other => {
                    outcome = both(outcome, other);
                    true
                }
            });
            match (left_out, items.is_empty()) {
                (true, true) => Outcome::NotForThem,
                (true, false) => Outcome::Priced,
                (false, _) => outcome,
            }
        }
        _ => Outcome::NoPrices,
    }
}

fn both(one: Outcome, other: Outcome) -> Outcome {
    match (one, other) {
        (Outcome::NotForThem, _) | (_, Outcome::NotForThem) => Outcome::NotForThem,
        (Outcome::Priced, _) | (_, Outcome::Priced) => Outcome::Priced,
        (Outcome::NoPrices, Outcome::NoPrices) => Outcome::NoPrices,
    }
}

fn price<'p>(prices: &'p Map<String, Value>, class: &str, fallback: &str) -> Option<&'p Value> {
    prices.get(class).or_else(|| prices.get(fallback))
}

/// The class whose price others get who have none of their own: the setting `fallback`.
fn fallback() -> &'static str {
    static FALLBACK: OnceLock<String> = OnceLock::new();
    FALLBACK.get_or_init(|| store::get("fallback").ok().flatten().unwrap_or_else(|| "standard".to_owned()))
}
