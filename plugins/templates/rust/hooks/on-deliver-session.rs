use crate::Plugin;
use crate::bindings::exports::tidegate::plugin::on_deliver_session::{Guest, Message, Recipient, Verdict};
use crate::bindings::tidegate::plugin::types::Replacement;

/// What do subscribers get?
/// Asked once a message and session, which is dear in large rooms.
/// The answer depends on arguments, `context` and settings alone.
impl Guest for Plugin {
    fn on_deliver_session(message: Message, to: Recipient) -> Verdict {
        let Ok(text) = String::from_utf8(message.data) else { return Verdict::Accept };
        if text.is_empty() {
            return Verdict::Drop;
        }
        let data = format!("{text} (for {})", to.user).into_bytes();
        Verdict::Replace(Replacement { data, headers: None })
    }
}
