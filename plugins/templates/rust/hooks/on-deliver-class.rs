use crate::Plugin;
use crate::bindings::exports::tidegate::plugin::on_deliver_class::{Guest, Message, Verdict};
use crate::bindings::tidegate::plugin::types::Replacement;

/// What do subscribers get?
/// Asked once a message and class; clients without a class have an empty one.
/// The answer depends on arguments, `context` and settings alone.
impl Guest for Plugin {
    fn on_deliver_class(message: Message, class: String) -> Verdict {
        let Ok(text) = String::from_utf8(message.data) else { return Verdict::Accept };
        if text.is_empty() {
            return Verdict::Drop;
        }
        let data = format!("{text} (for {class})").into_bytes();
        Verdict::Replace(Replacement { data, headers: None })
    }
}
