use crate::Plugin;
use crate::bindings::exports::tidegate::plugin::on_deliver::{Guest, Message, Verdict};
use crate::bindings::tidegate::plugin::types::Replacement;

/// What do subscribers get?
/// Asked once a message, for all alike.
/// The answer depends on arguments, `context` and settings alone.
impl Guest for Plugin {
    fn on_deliver(message: Message) -> Verdict {
        let Ok(text) = String::from_utf8(message.data) else { return Verdict::Accept };
        if text.is_empty() {
            return Verdict::Drop;
        }
        let data = text.to_uppercase().into_bytes();
        Verdict::Replace(Replacement { data, headers: None })
    }
}
