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
use crate::plugin::{DeliverVerdict, Delivery, Facts, Failure, Plugin, Rehearsal, Scope, Table};

/// Entries of one replay, at most and by default.
const MOST: usize = 1_000;
const COUNT: usize = 100;
/// Entries that are read at a time, at most, and the bytes of their payloads.
const PAGE: usize = 100;
const PAGE_BYTES: usize = 2 << 20;
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
    let _place = shared.replays.take(tenant)?;
    let mut replay = Replay { shared, caller, audience, rehearsals: HashMap::new(), table };
    let mut found = replay.run(&ask.channel, count, &plugin).await?.shown();
    found["plugin"] = json!(name);
    found["version"] = json!(version.version);
    Ok(ok(StatusCode::OK, &found))
}

/// One replay. Dropping it, as when the caller goes away, lets go of all that it holds.
struct Replay<'a> {
    shared: &'a Shared,
    caller: &'a Caller,
    audience: Audience,
    /// By the number of the plugin.
    rehearsals: HashMap<u64, Rehearsal>,
    table: Arc<Table>,
}

/// What a replay found.
#[derive(Default)]
struct Found {
    entries: usize,
    same: usize,
    differ: usize,
    /// The first differences, and how many bytes they have.
    listed: Vec<Value>,
    bytes: usize,
}

impl Replay<'_> {
    async fn run(
        &mut self,
        channel: &ChannelName,
        count: usize,
        plugin: &Arc<Plugin>,
    ) -> Result<Found, Refused> {
        let stream = StreamKey::channel(&self.caller.tenant.id, channel);
        let backbone = self.shared.api.rollout.store().backbone();
        let payload_bytes = self.caller.tenant.limits.payload_bytes;
        let page = (PAGE_BYTES / payload_bytes.max(1)).clamp(1, PAGE);
        let (mut found, mut before) = (Found::default(), None);
        while found.entries < count {
            let limit = page.min(count - found.entries);
            let entries = backbone.history(&stream, Range { before, after: None, limit }).await;
            let entries = entries.map_err(StoreError::from)?;
            let Some(first) = entries.first() else { break };
            before = Some(first.offset);
            found.entries += entries.len();
            // The newest first, as pages come.
            for entry in entries.into_iter().rev() {
                let Ok(message) = Publication::take_entry(entry, payload_bytes) else { continue };
                let message = Arc::new(message);
                let now = self.now(&message).await;
                let then = self.shown_to(plugin, &message).await;
                found.add(&message, &now, &then);
            }
        }
        Ok(found)
    }

    /// What is made of a message by the version that is on at its offset.
    async fn now(&mut self, message: &Arc<Publication>) -> Result<DeliverVerdict, Failure> {
        let table = Arc::clone(&self.table);
        match table.for_delivery(message.offset) {
            Some((plugin, _)) => self.shown_to(plugin, message).await,
            None => Ok(DeliverVerdict::Accept),
        }
    }

    async fn shown_to(
        &mut self,
        plugin: &Arc<Plugin>,
        message: &Arc<Publication>,
    ) -> Result<DeliverVerdict, Failure> {
        let delivery = self.delivery(plugin, message);
        let host = self.shared.api.rollout.host();
        let rehearsal = self.rehearsals.entry(plugin.number()).or_insert_with(|| host.rehearse(plugin));
        rehearsal.deliver(delivery).await
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

impl Found {
    fn add(
        &mut self,
        message: &Publication,
        now: &Result<DeliverVerdict, Failure>,
        then: &Result<DeliverVerdict, Failure>,
    ) {
        if now == then {
            self.same += 1;
            return;
        }
        self.differ += 1;
        if self.bytes > ANSWER_BYTES {
            return;
        }
        let line = json!({
            "offset": message.offset,
            "data": text(&message.data),
            "now": shown(now),
            "then": shown(then),
        });
        self.bytes += line.to_string().len();
        self.listed.push(line);
    }

    fn shown(self) -> Value {
        let Self { entries, same, differ, listed, .. } = self;
        let more = differ > listed.len();
        json!({ "entries": entries, "same": same, "differ": differ, "differences": listed, "more": more })
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
