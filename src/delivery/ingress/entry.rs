//! What an ingress entry says: where it goes, and what goes there. Pure.

use std::collections::HashSet;

use bytes::Bytes;

use crate::domain::{ChannelName, Malformed, Offset, Publication, RawEntry, StreamKey};
use crate::tenants::Tenant;

/// Targets of one entry, at most.
pub(super) const TARGETS: usize = 10_000;

/// An entry that is understood.
pub(super) struct Entry {
    pub(super) offset: Offset,
    /// The message as it goes to each channel, `in` included.
    pub(super) fields: Vec<(Bytes, Bytes)>,
    /// Bytes of these fields.
    pub(super) bytes: usize,
    /// Each target once, in the order they are named.
    pub(super) targets: Vec<Result<Target, NoTarget>>,
}

/// A channel that gets the message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) channel: ChannelName,
    pub(super) stream: StreamKey,
    /// The length from which on the channel takes no more: queues are never trimmed past their work.
    pub(super) refuse_at: Option<u64>,
}

/// A target that cannot get the message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoTarget {
    pub(super) name: String,
    pub(super) reason: &'static str,
    pub(super) error: String,
}

/// Why an entry makes no sense as a whole. The text is for whoever wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Poison {
    #[error("the entry has no field `to`: name its channels there, as a JSON array or separated by commas")]
    NoTo,
    #[error("`to` is neither a JSON array of channel names nor a list of them separated by commas: {0}")]
    To(String),
    #[error("`to` names no channel")]
    NoTargets,
    #[error("`to` names {0} channels, an entry takes {TARGETS} at most: split it")]
    TooMany(usize),
    #[error(transparent)]
    Message(#[from] Malformed),
}

/// Bytes of an entry.
pub(super) fn bytes(entry: &RawEntry) -> usize {
    entry.fields.iter().map(|(name, value)| name.len() + value.len()).sum()
}

impl Entry {
    /// Understands an entry by the rules of its tenant.
    pub(super) fn parse(raw: &RawEntry, tenant: &Tenant) -> Result<Self, Poison> {
        let to = raw.fields.iter().find(|(name, _)| name == "to").map(|(_, to)| to).ok_or(Poison::NoTo)?;
        // Readers of a log would pass over what is malformed; here its writer can be told.
        Publication::from_entry(raw, tenant.limits.payload_bytes)?;
        let kept = raw.fields.iter().filter(|(name, _)| name != "to" && name != "in");
        let ingress = (Bytes::from_static(b"in"), Bytes::from(raw.offset.to_string()));
        let fields: Vec<_> = kept.cloned().chain([ingress]).collect();
        let targets = with_names(to, |names| targets(names, tenant))?;
        let bytes = fields.iter().map(|(name, value)| name.len() + value.len()).sum();
        Ok(Self { offset: raw.offset, fields, bytes, targets })
    }
}

/// The channels that an entry names, as far as they are any.
pub(super) fn channels(raw: &RawEntry) -> Vec<ChannelName> {
    let Some((_, to)) = raw.fields.iter().find(|(name, _)| name == "to") else { return Vec::new() };
    let parsed =
        |names: Vec<&str>| names.into_iter().filter_map(|name| ChannelName::parse(name).ok()).collect();
    with_names(to, parsed).unwrap_or_default()
}

/// Calls with the names in `to`, of which there are not too many.
fn with_names<R>(to: &Bytes, then: impl FnOnce(Vec<&str>) -> R) -> Result<R, Poison> {
    let text = std::str::from_utf8(to).map_err(|_| Poison::To("it is not UTF-8".into()))?.trim();
    let from_json: Vec<std::borrow::Cow<'_, str>>;
    let names: Vec<&str> = if text.starts_with('[') {
        from_json = serde_json::from_str(text).map_err(|error| Poison::To(error.to_string()))?;
        from_json.iter().map(|name| &**name).collect()
    } else {
        text.split(',').map(str::trim).filter(|name| !name.is_empty()).collect()
    };
    match names.len() {
        0 => Err(Poison::NoTargets),
        1..=TARGETS => Ok(then(names)),
        more => Err(Poison::TooMany(more)),
    }
}

fn targets(names: Vec<&str>, tenant: &Tenant) -> Vec<Result<Target, NoTarget>> {
    let mut seen = HashSet::with_capacity(names.len());
    let each_once = names.into_iter().filter(|name| seen.insert(*name));
    each_once.map(|name| target(name, tenant)).collect()
}

fn target(name: &str, tenant: &Tenant) -> Result<Target, NoTarget> {
    let wrong = |reason, error| NoTarget { name: name.to_owned(), reason, error };
    let channel = ChannelName::parse(name).map_err(|error| wrong("bad_channel", error.to_string()))?;
    let Some(rules) = tenant.rules(channel.namespace()) else {
        let error = format!("the tenant has no namespace {:?}", channel.namespace());
        return Err(wrong("unknown_namespace", error));
    };
    let stream = StreamKey::channel(&tenant.id, &channel);
    let refuse_at = rules.refuse_at();
    Ok(Target { channel, stream, refuse_at })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::tenants::Tenants;

    fn parse(fields: &[(&str, &str)]) -> Result<Entry, Poison> {
        let toml = "[tenants.acme.namespaces.room]\n[tenants.acme.namespaces.jobs]\nkind = \"queue\"\n\
                    [tenants.acme.limits]\npayload_bytes = 1024";
        let config = Config::from_toml(toml, &|_| None).unwrap();
        let tenant = Tenants::from_config(&config).get("acme").unwrap();
        let fields = fields
            .iter()
            .map(|(name, value)| (Bytes::from((*name).to_owned()), Bytes::from((*value).to_owned())));
        Entry::parse(&RawEntry::new(Offset { ms: 5, seq: 1 }, fields.collect()), &tenant)
    }

    fn names(to: &str) -> Vec<String> {
        let entry = parse(&[("to", to), ("data", "x")]).unwrap_or_else(|error| panic!("{to}: {error}"));
        let name = |target: Result<Target, NoTarget>| match target {
            Ok(target) => target.channel.to_string(),
            Err(wrong) => format!("{} of {}", wrong.reason, wrong.name),
        };
        entry.targets.into_iter().map(name).collect()
    }

    #[test]
    fn targets_come_as_array_or_list_and_each_once() {
        for to in [
            r#"["room:1", "user:alice", "room:1"]"#,
            "room:1,user:alice",
            " room:1 , user:alice,, room:1,",
            r#"["room:\u0031", "user:alice"]"#,
        ] {
            assert_eq!(names(to), ["room:1", "user:alice"], "{to}");
        }
        let wrong = ["bad_channel of room", "unknown_namespace of nowhere:1", "room:1"];
        assert_eq!(names("room,nowhere:1,room:1"), wrong);
    }

    #[test]
    fn the_message_goes_on_with_the_offset_it_had() {
        let entry = parse(&[("to", "jobs:1"), ("data", "x"), ("in", "1-1"), ("mine", "1")]).unwrap();
        let fields: Vec<_> = entry.fields.iter().map(|(name, value)| (&name[..], &value[..])).collect();
        assert_eq!(fields, [(&b"data"[..], &b"x"[..]), (b"mine", b"1"), (b"in", b"5-1")]);
        assert_eq!(entry.targets[0].as_ref().unwrap().refuse_at, Some(1_000), "a queue refuses at its limit");
    }

    #[test]
    fn what_makes_no_sense_says_why() {
        let many = vec!["room:1"; TARGETS + 1].join(",");
        for (fields, words) in [
            (vec![("data", "x")], "no field `to`"),
            (vec![("to", "room:1")], "no field `data`"),
            (vec![("to", " , "), ("data", "x")], "names no channel"),
            (vec![("to", "[]"), ("data", "x")], "names no channel"),
            (vec![("to", "[1]"), ("data", "x")], "JSON array of channel names"),
            (vec![("to", "[\"room:1\""), ("data", "x")], "JSON array of channel names"),
            (vec![("to", &many), ("data", "x")], "names 10001 channels"),
            (vec![("to", "room:1"), ("data", "x"), ("ttl_ms", "soon")], "`ttl_ms` is not valid"),
            (vec![("to", "room:1"), ("data", &"x".repeat(1025))], "`data` has 1025 bytes"),
        ] {
            let error = parse(&fields).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(words), "{words}: {error}");
        }
    }
}
