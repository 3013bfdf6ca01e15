//! Asks the tenant's plugin where entries of its ingress go, before they are written.
//!
//! What it answers is put into the entry in place of what the backend wrote, so that the same rules hold for both.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;

use super::Reader;
use super::entry;
use crate::config::OnFailure;
use crate::domain::{ChannelName, Headers, Offset, Publication, RawEntry};
use crate::plugin::answers::Replacement;
use crate::plugin::{Facts, Failure, Hook, RouteVerdict};
use crate::tenants::Tenant;

/// How long it waits while too many calls of plugins wait.
const AGAIN: Duration = Duration::from_millis(20);

/// An entry that may be written.
pub(super) enum Routed {
    /// To the channels that it names.
    Entry(RawEntry),
    /// Nowhere.
    Nowhere(Offset),
    /// As a dead letter, for its plugin has failed.
    Failed(RawEntry, Failure),
}

impl Reader {
    /// Asks about entries in their order. Where the node stops meanwhile the rest is left out, and taken again.
    pub(super) async fn route(&self, tenant: &Tenant, entries: Vec<RawEntry>) -> Vec<Routed> {
        let mut routed = Vec::with_capacity(entries.len());
        for entry in entries {
            if self.stop.is_cancelled() {
                break;
            }
            let Some(one) = self.route_one(tenant, entry).await else { break };
            routed.push(one);
        }
        routed
    }

    /// Asks about one entry; `None`: the node ends.
    async fn route_one(&self, tenant: &Tenant, entry: RawEntry) -> Option<Routed> {
        let (plugins, offset) = (&self.ingress.plugins, entry.offset);
        let moment = offset.ms.min(self.ingress.backbone.clock().now_ms());
        if moment > plugins.tables.known_until_ms() && !plugins.tables.known(moment).await {
            return None;
        }
        let table = plugins.tables.of(&tenant.id);
        let plugin = table.as_ref().and_then(|table| table.for_entry(Hook::Route, offset));
        let (Some(plugin), Some(host)) = (plugin, &plugins.host) else { return Some(Routed::Entry(entry)) };
        // What makes no sense is a dead letter without being asked about.
        let Ok(message) = Publication::from_entry(&entry, tenant.limits.payload_bytes) else {
            return Some(Routed::Entry(entry));
        };
        let (to, message) = (entry::channels(&entry), Arc::new(message));
        let answer = loop {
            let (data, facts) = (message.data.clone(), Facts::of(message.clone()));
            match host.route(plugin, offset, &to, data, facts).await {
                Err(Failure::Overloaded) if !self.stop.is_cancelled() => sleep(AGAIN).await,
                answer => break answer,
            }
        };
        Some(match answer {
            Ok(RouteVerdict::Accept) => Routed::Entry(entry),
            Ok(RouteVerdict::Drop) => Routed::Nowhere(offset),
            Ok(RouteVerdict::To(channels, _)) if channels.is_empty() => Routed::Nowhere(offset),
            Ok(RouteVerdict::To(channels, other)) => Routed::Entry(rewritten(entry, &channels, other)),
            Err(failure) => match plugin.on_failure().route {
                OnFailure::Open => Routed::Entry(entry),
                OnFailure::Drop => Routed::Nowhere(offset),
                OnFailure::DeadLetter | OnFailure::Refuse => Routed::Failed(entry, failure),
            },
        })
    }
}

/// The entry with other targets, and what goes there.
fn rewritten(mut entry: RawEntry, channels: &[ChannelName], other: Option<Replacement>) -> RawEntry {
    let names: Vec<&str> = channels.iter().map(ChannelName::as_str).collect();
    put(&mut entry, "to", serde_json::json!(names).to_string().into());
    if let Some(Replacement { data, headers }) = other {
        put(&mut entry, "data", data);
        if let Some(headers) = headers {
            put(&mut entry, "headers", object(headers).into());
        }
    }
    entry
}

fn put(entry: &mut RawEntry, name: &'static str, value: Bytes) {
    match entry.fields.iter_mut().find(|(known, _)| known == name) {
        Some(field) => field.1 = value,
        None => entry.fields.push((Bytes::from_static(name.as_bytes()), value)),
    }
}

fn object(headers: Headers) -> String {
    let pairs = headers.into_iter().map(|(name, value)| (name.into(), String::from(value).into()));
    serde_json::Value::Object(pairs.collect()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_says_what_its_plugin_says() {
        let field = |name: &'static str, value: &'static str| (Bytes::from(name), Bytes::from(value));
        let entry = || {
            RawEntry::new(Offset::ZERO, vec![field("data", "old"), field("to", "room:1"), field("id", "7")])
        };
        let channels = [ChannelName::parse("room:2").unwrap(), ChannelName::parse("room:3").unwrap()];
        let to = field("to", r#"["room:2","room:3"]"#);
        let kept = rewritten(entry(), &channels, None);
        assert_eq!(kept.fields, [field("data", "old"), to.clone(), field("id", "7")]);
        let headers = Some(vec![("a".into(), "1".into())]);
        let changed = rewritten(entry(), &channels, Some(Replacement { data: "new".into(), headers }));
        let headers = field("headers", r#"{"a":"1"}"#);
        assert_eq!(changed.fields, [field("data", "new"), to, field("id", "7"), headers]);
    }
}
