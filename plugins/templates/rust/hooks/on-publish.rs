use crate::Plugin;
use crate::bindings::exports::tidegate::plugin::on_publish::{Guest, Publication, Verdict};
use crate::bindings::tidegate::plugin::types::Refusal;

/// May this client publish this?
impl Guest for Plugin {
    fn on_publish(publication: Publication) -> Verdict {
        if std::str::from_utf8(&publication.data).is_err() {
            let reason = "only text may be published here".to_owned();
            return Verdict::Refuse(Refusal { reason, retry_after_ms: None });
        }
        Verdict::Accept
    }
}
