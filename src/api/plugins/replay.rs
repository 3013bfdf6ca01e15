//! `POST /v1/<tenant>/plugins/<name>/replay`: what a version would make of the last entries of a channel, beside
//! what is made of them now. Nothing is delivered, and what fails here counts against nobody.

use std::collections::HashMap;
use std::sync::Arc;

use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Caller, Outcome, Refused, Shared, compact, ok};
use crate::backbone::Range;
use crate::domain::{ChannelName, PluginName, Publication, StreamKey};
use crate::plugin::catalog::CatalogError;
use crate::plugin::contract::Recipient;
use crate::plugin::store::StoreError;
use crate::plugin::{DeliverVerdict, Delivery, Facts, Failure, Plugin, Scope, Table};

/// Entries of one replay, at most and by default.
const MOST: usize = 1_000;
const COUNT: usize = 100;
/// Entries that are read and shown at a time.
const PAGE: usize = 100;
/// Bytes of differences in an answer, about.
const ANSWER_BYTES: usize = 2 << 20;
/// Bytes of one payload that are shown.
const SHOWN: usize = 2 * 1024;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    version: Option<String>,
    channel: ChannelName,
    count: Option<usize>,
    class: Option<Box<str>>,
    user: Option<Box<str>>,
}

/// For whom messages are shown.
struct Audience {
    channel: Arc<str>,
    class: Option<Arc<str>>,
    user: Option<Box<str>>,
}

pub(super) async fn replay(shared: &Shared, caller: &Caller, name: &PluginName, body: &[u8]) -> Outcome {
    let wrong = |why: String| Refused::new(StatusCode::BAD_REQUEST, why);
    let ask: Ask = serde_json::from_slice(body)
        .map_err(|error| wrong(format!("the body is not understood: {error}")))?;
    let count = ask.count.unwrap_or(COUNT);
    if !(1..=MOST).contains(&count) {
        return Err(wrong(format!("`count` must be 1 to {MOST}, not {count}")));
    }
    let rollout = &shared.api.rollout;
    let tenant = &caller.tenant.id;
    let catalog = rollout.store().catalog(tenant).await?;
    let version = catalog.find(name, ask.version.as_deref())?;
    let Some(plugin) = rollout.ready(tenant, name, version.version) else {
        if !catalog.is_wanted(name, version.version) {
            let id = version.version;
            let asked = rollout.store().change(tenant, |c, _| c.ask_for(name, id).map_err(StoreError::from));
            asked.await?;
        }
        let (plugin, node) = (name.clone(), rollout.node().clone());
        return Err(CatalogError::Preparing { plugin, version: version.version, node }.into());
    };
    let scope = plugin.hooks().scope().ok_or_else(|| {
        wrong(format!(
            "version {} of `{name}` has no on-deliver hook, which is what replays",
            version.version
        ))
    })?;
    if scope == Scope::Class && ask.class.is_none() {
        return Err(wrong("the plugin is asked once a class: say which `class` the messages are for".into()));
    }
    if scope == Scope::Session && ask.user.is_none() {
        return Err(wrong(
            "the plugin is asked once a session: say which `user` the messages are for".into(),
        ));
    }
    let audience =
        Audience { channel: ask.channel.as_str().into(), class: ask.class.map(Into::into), user: ask.user };
    let table = shared.api.tables.of(tenant).unwrap_or_default();
    let mut replay = Replay { shared, caller, audience, bound: HashMap::new(), table };
    let found = replay.run(&ask.channel, count, &plugin).await;
    replay.bound.values().for_each(|bound| rollout.host().retire(bound));
    let mut found = found?;
    found["plugin"] = json!(name);
    found["version"] = json!(version.version);
    Ok(ok(StatusCode::OK, &found))
}

struct Replay<'a> {
    shared: &'a Shared,
    caller: &'a Caller,
    audience: Audience,
    /// Bound for this replay alone, so that what fails cuts nobody off.
    bound: HashMap<u64, Arc<Plugin>>,
    table: Arc<Table>,
}

impl Replay<'_> {
    async fn run(
        &mut self,
        channel: &ChannelName,
        count: usize,
        plugin: &Arc<Plugin>,
    ) -> Result<Value, Refused> {
        let stream = StreamKey::channel(&self.caller.tenant.id, channel);
        let backbone = self.shared.api.rollout.store().backbone();
        let (mut entries, mut same, mut listed, mut bytes) = (0, 0, Vec::new(), 0);
        let (mut before, mut more) = (None, false);
        let candidate = self.bind(plugin);
        while entries < count {
            let limit = PAGE.min(count - entries);
            let page = backbone.history(&stream, Range { before, after: None, limit }).await;
            let page = page.map_err(StoreError::from)?;
            let Some(first) = page.first() else { break };
            before = Some(first.offset);
            entries += page.len();
            let limit = self.caller.tenant.limits.payload_bytes;
            let messages: Vec<Arc<Publication>> = page
                .into_iter()
                .filter_map(|entry| Publication::take_entry(entry, limit).ok().map(Arc::new))
                .collect();
            let now = self.now(&messages).await;
            let then = self.with(&candidate, &messages.iter().collect::<Vec<_>>()).await;
            // The newest first, as pages come.
            for ((message, now), then) in messages.iter().zip(now).zip(then).rev() {
                if now == then {
                    same += 1;
                    continue;
                }
                more |= bytes > ANSWER_BYTES;
                if bytes <= ANSWER_BYTES {
                    let line = json!({
                        "offset": message.offset,
                        "data": text(&message.data),
                        "now": shown(&now),
                        "then": shown(&then),
                    });
                    bytes += line.to_string().len();
                    listed.push(line);
                } else {
                    listed.push(Value::Null);
                }
            }
        }
        let differ = listed.len();
        listed.retain(|line| !line.is_null());
        Ok(json!({
            "entries": entries, "same": same, "differ": differ, "differences": listed, "more": more,
        }))
    }

    fn bind(&mut self, plugin: &Arc<Plugin>) -> Arc<Plugin> {
        let host = self.shared.api.rollout.host();
        Arc::clone(self.bound.entry(plugin.number()).or_insert_with(|| host.bind_again(plugin)))
    }

    /// What is made of messages by the versions that are on at their offsets.
    async fn now(&mut self, messages: &[Arc<Publication>]) -> Vec<Result<DeliverVerdict, Failure>> {
        let mut verdicts: Vec<_> = messages.iter().map(|_| Ok(DeliverVerdict::Accept)).collect();
        let mut groups: Vec<(Arc<Plugin>, Vec<usize>)> = Vec::new();
        let table = Arc::clone(&self.table);
        for (at, message) in messages.iter().enumerate() {
            let Some((plugin, _)) = table.for_delivery(message.offset) else { continue };
            match groups.iter_mut().find(|(known, _)| Arc::ptr_eq(known, plugin)) {
                Some((_, group)) => group.push(at),
                None => groups.push((Arc::clone(plugin), vec![at])),
            }
        }
        for (plugin, group) in groups {
            let bound = self.bind(&plugin);
            let theirs: Vec<_> = group.iter().map(|at| &messages[*at]).collect();
            for (at, verdict) in group.into_iter().zip(self.with(&bound, &theirs).await) {
                verdicts[at] = verdict;
            }
        }
        verdicts
    }

    async fn with(
        &self,
        plugin: &Arc<Plugin>,
        messages: &[&Arc<Publication>],
    ) -> Vec<Result<DeliverVerdict, Failure>> {
        let deliveries = messages.iter().map(|message| self.delivery(plugin, message)).collect();
        self.shared.api.rollout.host().deliver(plugin, deliveries).await
    }

    fn delivery(&self, plugin: &Plugin, message: &Arc<Publication>) -> Delivery {
        let Audience { channel, class, user } = &self.audience;
        let scope = plugin.hooks().scope();
        let class = || class.clone().unwrap_or_default();
        Delivery {
            offset: message.offset,
            channel: Arc::clone(channel),
            data: message.data.clone(),
            facts: Facts::of(Arc::clone(message)),
            class: (scope == Some(Scope::Class)).then(class),
            recipient: (scope == Some(Scope::Session)).then(|| Recipient {
                session: "replay".into(),
                user: user.clone().unwrap_or_default(),
                class: class(),
            }),
        }
    }
}

fn shown(verdict: &Result<DeliverVerdict, Failure>) -> Value {
    match verdict {
        Ok(DeliverVerdict::Accept) => json!({ "verdict": "accept" }),
        Ok(DeliverVerdict::Drop) => json!({ "verdict": "drop" }),
        Ok(DeliverVerdict::Replace(replacement)) => {
            let headers = replacement.headers.as_ref().map(|headers| {
                headers
                    .iter()
                    .map(|(name, value)| (name.to_string(), Value::from(&**value)))
                    .collect::<Value>()
            });
            compact(json!({ "verdict": "replace", "data": text(&replacement.data), "headers": headers }))
        }
        Err(failure) => json!({ "verdict": "failed", "why": failure.to_string() }),
    }
}

/// The beginning of a payload; bytes that are no text are replaced.
fn text(data: &[u8]) -> String {
    let shown = String::from_utf8_lossy(&data[..data.len().min(SHOWN)]).into_owned();
    if data.len() > SHOWN { shown + "…" } else { shown }
}
