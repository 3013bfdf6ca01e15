//! The settings, each with a default that does the room good.

use std::collections::HashSet;
use std::sync::OnceLock;

use crate::bindings::wasi::config::store;
use crate::words::normalized;

/// What happens to a message with a word of the list.
#[derive(Clone, Copy)]
pub enum OnWord {
    Refuse,
    /// It goes on with stars in the word's place.
    Mask,
}

/// All settings.
pub struct Settings {
    /// Words that are not allowed, as `words::normalized` writes them.
    pub words: HashSet<String>,
    pub on_word: OnWord,
    /// Whether links may be sent.
    pub links: bool,
    /// So many messages …
    pub messages: u64,
    /// … in so many seconds.
    pub per_s: u64,
    /// Beginnings of the channels that this is about.
    pub channels: Vec<String>,
    /// Clients of this class say what they like.
    exempt_class: String,
}

impl Settings {
    /// Read once: an instance's settings never change. New ones come with new instances.
    pub fn get() -> &'static Self {
        static SETTINGS: OnceLock<Settings> = OnceLock::new();
        SETTINGS.get_or_init(Self::read)
    }

    /// Whether a channel is one that this is about.
    pub fn holds_for(&self, channel: &str) -> bool {
        self.channels.iter().any(|beginning| channel.starts_with(beginning))
    }

    /// Whether clients of this class say what they like.
    pub fn exempts(&self, class: Option<String>) -> bool {
        class.is_some_and(|class| class == self.exempt_class)
    }

    fn read() -> Self {
        let on_word = setting("on_word").is_some_and(|choice| choice == "mask");
        Self {
            words: list("words", "").iter().map(|word| normalized(word)).collect(),
            on_word: if on_word { OnWord::Mask } else { OnWord::Refuse },
            links: setting("links").is_some_and(|choice| choice == "allow"),
            messages: number("messages", 5),
            per_s: number("per_s", 10),
            channels: list("channels", "live:,room:"),
            exempt_class: setting("exempt_class").unwrap_or_else(|| "staff".to_owned()),
        }
    }
}

fn setting(name: &str) -> Option<String> {
    store::get(name).ok().flatten()
}

fn number(name: &str, default: u64) -> u64 {
    setting(name).and_then(|text| text.parse().ok()).unwrap_or(default).max(1)
}

fn list(name: &str, default: &str) -> Vec<String> {
    let text = setting(name).unwrap_or_else(|| default.to_owned());
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}
