//! A plugin with every hook that does what the message says. The host's tests and its benchmark run it.

// The bindings call and are called through the component model's ABI.
#![allow(unsafe_code)]

wit_bindgen::generate!({ path: "../../wit", world: "every-hook", generate_all });

use exports::tidegate::plugin::authenticate::{Credentials, Identity};
use exports::tidegate::plugin::on_publish::{Publication, Redirection};
use exports::tidegate::plugin::on_session::{Change, Event};
use exports::tidegate::plugin::on_subscribe::Request;
use exports::tidegate::plugin::route::{Entry, Routing};
use exports::tidegate::plugin::{authenticate, on_deliver, on_publish, on_session, on_subscribe, route};
use tidegate::plugin::context;
use tidegate::plugin::delivery::Message;
use tidegate::plugin::types::{Refusal, Replacement};
use wasi::clocks::wall_clock;
use wasi::keyvalue::{atomics, store};
use wasi::logging::logging::{Level, log};
use wasi::random::random;

struct Probe;
export!(Probe);

/// Tokens are `<user>` or `<user>/<class>`; `nobody` is refused, and what does harm does it.
impl authenticate::Guest for Probe {
    fn authenticate(credentials: Credentials) -> Result<Identity, Refusal> {
        let token = credentials.token.ok_or_else(|| refusal("a token is needed"))?;
        if token == "nobody" {
            return Err(refusal(&format!("not from {}", fact("address"))));
        }
        harm(token.as_bytes());
        let (user, class) = match token.split_once('/') {
            Some((user, class)) => (user.to_owned(), Some(class.to_owned())),
            None => (token, None),
        };
        let claims = context::header("x-claims");
        let expires = Some(wall_clock::now().seconds + 60);
        Ok(Identity { user, class, channels: Some(vec!["room:*".into()]), claims, expires })
    }
}

/// `room:closed` is closed, `room:old` is now `room:new`, `room:trap` and the like do harm.
impl on_subscribe::Guest for Probe {
    fn on_subscribe(request: Request) -> on_subscribe::Verdict {
        match request.channel.as_str() {
            "room:closed" => on_subscribe::Verdict::Deny(refusal(&format!("closed to {}", fact("class")))),
            "room:old" => on_subscribe::Verdict::Rewrite("room:new".into()),
            other => {
                harm(other.strip_prefix("room:").unwrap_or_default().as_bytes());
                on_subscribe::Verdict::Allow
            }
        }
    }
}

/// What the payload says, up to its first space.
impl on_publish::Guest for Probe {
    fn on_publish(publication: Publication) -> on_publish::Verdict {
        use on_publish::Verdict;
        match word(&publication.data) {
            b"drop" => Verdict::Drop,
            b"refuse" => Verdict::Refuse(refusal("not today")),
            b"setting" => Verdict::Replace(text(&greeting())),
            b"count" => match count(&publication.user) {
                Ok(sum) => Verdict::Replace(text(&sum.to_string())),
                Err(error) => Verdict::Refuse(refusal(&error)),
            },
            b"elsewhere" => Verdict::Redirect(Redirection {
                channels: vec!["room:a".into(), "room:b".into()],
                replacement: None,
            }),
            other => harm(other).map_or(Verdict::Accept, |data| Verdict::Replace(text(&data))),
        }
    }
}

/// `drop` goes nowhere, `all` to where it was addressed and to `room:log`.
impl route::Guest for Probe {
    fn route(entry: Entry) -> route::Verdict {
        match word(&entry.data) {
            b"drop" => route::Verdict::Drop,
            b"all" => {
                let mut channels = entry.to;
                channels.push("room:log".into());
                route::Verdict::Channels(channels)
            }
            b"change" => route::Verdict::Replace(Routing {
                channels: entry.to,
                replacement: Some(text(&format!("{}-{}", entry.offset.ms, entry.offset.seq))),
            }),
            other => {
                harm(other);
                route::Verdict::Accept
            }
        }
    }
}

impl on_deliver::Guest for Probe {
    fn on_deliver(message: Message) -> on_deliver::Verdict {
        use on_deliver::Verdict;
        match word(&message.data) {
            b"drop" => Verdict::Drop,
            b"header" => Verdict::Replace(text(&context::header("x").unwrap_or_default())),
            b"upper" => Verdict::Replace(Replacement {
                data: message.data.to_ascii_uppercase(),
                headers: Some(vec![("x-by".into(), "probe".into())]),
            }),
            b"setting" => Verdict::Replace(text(&greeting())),
            b"now" => Verdict::Replace(text(&wall_clock::now().seconds.to_string())),
            b"random" => Verdict::Replace(text(&random::get_random_u64().to_string())),
            b"count" => match count("deliver") {
                Ok(sum) => Verdict::Replace(text(&sum.to_string())),
                Err(error) => Verdict::Replace(text(&error)),
            },
            other => harm(other).map_or(Verdict::Accept, |data| Verdict::Replace(text(&data))),
        }
    }
}

impl on_session::Guest for Probe {
    fn on_session(event: Event) {
        let what = match event.change {
            Change::Connected => "came",
            Change::Disconnected => "went",
        };
        log(Level::Info, "session", &format!("{} {what}", event.user));
    }
}

/// Does what a plugin should not, if the word asks for it.
fn harm(word: &[u8]) -> Option<String> {
    match word {
        b"trap" => unreachable!("asked to"),
        b"spin" => loop {
            core::hint::spin_loop();
        },
        b"bloat" => {
            let mut kept = Vec::new();
            loop {
                kept.push(core::hint::black_box(vec![1_u8; 1 << 20]));
            }
        }
        b"flood" => {
            for n in 0..10_000 {
                log(Level::Warn, "", &format!("line {n}"));
            }
            None
        }
        b"calls" => {
            use core::sync::atomic::{AtomicU32, Ordering};
            static CALLS: AtomicU32 = AtomicU32::new(0);
            Some((CALLS.fetch_add(1, Ordering::Relaxed) + 1).to_string())
        }
        _ => None,
    }
}

fn greeting() -> String {
    wasi::config::store::get("greeting").ok().flatten().unwrap_or_default()
}

fn count(key: &str) -> Result<u64, String> {
    let bucket = store::open("default").map_err(|error| format!("{error:?}"))?;
    atomics::increment(&bucket, key, 1).map_err(|error| format!("{error:?}"))
}

fn word(data: &[u8]) -> &[u8] {
    data.split(|byte| *byte == b' ').next().unwrap_or_default()
}

fn fact(name: &str) -> String {
    context::fact(name).unwrap_or_default()
}

fn text(text: &str) -> Replacement {
    Replacement { data: text.as_bytes().to_vec(), headers: None }
}

fn refusal(reason: &str) -> Refusal {
    Refusal { reason: reason.to_owned(), retry_after_ms: None }
}
