use crate::Plugin;
use crate::bindings::exports::tidegate::plugin::route::{Entry, Guest, Verdict};

/// Where does this entry of the ingress go? Here to where the backend says, and to `room:all`.
impl Guest for Plugin {
    fn route(entry: Entry) -> Verdict {
        let mut channels = entry.to;
        channels.push("room:all".to_owned());
        Verdict::Channels(channels)
    }
}
