use crate::Plugin;
use crate::bindings::exports::tidegate::plugin::on_subscribe::{Guest, Request, Verdict};
use crate::bindings::tidegate::plugin::types::Refusal;

/// May this client subscribe?
impl Guest for Plugin {
    fn on_subscribe(request: Request) -> Verdict {
        if request.channel.ends_with("-closed") {
            let reason = format!("{} is closed", request.channel);
            return Verdict::Deny(Refusal { reason, retry_after_ms: None });
        }
        Verdict::Allow
    }
}
