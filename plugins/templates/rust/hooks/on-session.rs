use crate::Plugin;
use crate::bindings::exports::tidegate::plugin::on_session::{Change, Event, Guest};
use crate::bindings::wasi::logging::logging::{Level, log};

/// A session came or went.
impl Guest for Plugin {
    fn on_session(event: Event) {
        let what = match event.change {
            Change::Connected => "came",
            Change::Disconnected => "went",
        };
        log(Level::Info, "sessions", &format!("{} {what}", event.user));
    }
}
