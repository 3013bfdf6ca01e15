//! Picks the channels of an ingress entry by what is in it: by the rules of the setting `rules`, in their order.

// The bindings call and are called through the component model's ABI.
#![allow(unsafe_code)]

mod bindings {
    wit_bindgen::generate!({ path: "../../wit", world: "router", generate_all });
}

mod rules;

use bindings::exports::tidegate::plugin::route::{Entry, Guest, Verdict};
use bindings::tidegate::plugin::context;
use bindings::wasi::logging::logging::{Level, log};
use rules::{Rules, Target};
use serde_json::Value;

struct Plugin;
bindings::export!(Plugin with_types_in bindings);

impl Guest for Plugin {
    fn route(entry: Entry) -> Verdict {
        let rules = match Rules::get() {
            Ok(rules) => rules,
            // Without rules there is nothing to go by. What the backend says still holds.
            Err(why) => {
                log(Level::Error, "rules", why);
                return Verdict::Accept;
            }
        };
        // Rules about headers hold for what is no JSON, too.
        let content = serde_json::from_slice(&entry.data).unwrap_or(Value::Null);
        let mut channels = Vec::new();
        for rule in &rules.rules {
            if !rule.fits(&content, &|name| context::header(name)) {
                continue;
            }
            for target in &rule.to {
                match rules::channel(target, &content) {
                    Target::Channel(channel) if channels.contains(&channel) => {}
                    Target::Channel(channel) => channels.push(channel),
                    Target::Missing(field) => {
                        let at = format!("{}-{}", entry.offset.ms, entry.offset.seq);
                        log(Level::Warn, "rules", &format!("{at} has no `{field}` for {target}"));
                    }
                }
            }
            if rule.last {
                break;
            }
        }
        match (channels.is_empty(), entry.to.is_empty()) {
            (false, _) => Verdict::Channels(channels),
            (true, false) => Verdict::Accept,
            (true, true) if !rules.otherwise.is_empty() => Verdict::Channels(rules.otherwise.clone()),
            (true, true) => Verdict::Drop,
        }
    }
}
