//! So many messages a user in so many seconds, whichever node and instance the user meets.
//!
//! The store counts, in one key a user: `window * 1,000,000 + messages in it`. One key, because keys do not expire,
//! and a number, because `increment` is the one operation that no other instance can get in between. An instance's
//! own memory is a cache of those who have used up their window: a flood costs the store nothing.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::bindings::wasi::clocks::wall_clock;
use crate::bindings::wasi::keyvalue::{atomics, store};
use crate::bindings::wasi::logging::logging::{Level, log};
use crate::settings::Settings;

/// How far windows are apart in a counter's number. More messages than this nobody sends in a window.
const WINDOW: u64 = 1_000_000;
/// Most users in an instance's memory.
const USERS: usize = 10_000;

/// What this instance knows of the window that is now.
#[derive(Default)]
struct Known {
    window: u64,
    /// Messages of a user, as far as this instance was told.
    counts: HashMap<String, u64>,
}

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::default();
}

/// Lets a message through, or says in how many milliseconds the next one may come.
pub fn admit(user: &str, settings: &Settings) -> Result<(), u32> {
    let now = wall_clock::now();
    let window = now.seconds / settings.per_s;
    let known = KNOWN.with_borrow_mut(|known| {
        if known.window != window || known.counts.len() > USERS {
            *known = Known { window, counts: HashMap::new() };
        }
        known.counts.get(user).copied().unwrap_or_default()
    });
    let count = if known >= settings.messages {
        known + 1
    } else {
        // Without a store this instance's own count is better than none.
        count(user, window).unwrap_or_else(|why| {
            log(Level::Warn, "rate", &format!("{user} is counted here only: {why}"));
            known + 1
        })
    };
    KNOWN.with_borrow_mut(|known| known.counts.insert(user.to_owned(), count));
    if count <= settings.messages {
        return Ok(());
    }
    let left = (window + 1) * settings.per_s - now.seconds;
    Err(u32::try_from(left * 1_000).unwrap_or(u32::MAX))
}

/// Counts one message more and says how many there are in this window.
fn count(user: &str, window: u64) -> Result<u64, String> {
    let bucket = store::open("default").map_err(words)?;
    let key = format!("rate/{user}");
    let sum = atomics::increment(&bucket, &key, 1).map_err(words)?;
    if sum / WINDOW == window {
        return Ok(sum % WINDOW);
    }
    // The first message of a window. Two at the same moment may count as one, and never as more.
    bucket.set(&key, (window * WINDOW + 1).to_string().as_bytes()).map_err(words)?;
    Ok(1)
}

fn words(error: store::Error) -> String {
    match error {
        store::Error::AccessDenied => "the store may not be used here".to_owned(),
        store::Error::NoSuchStore => "there is no such store".to_owned(),
        store::Error::Other(why) => why,
    }
}
