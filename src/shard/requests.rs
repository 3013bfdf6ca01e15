//! What clients ask of the backbone: to publish, to send to the backends, to read history.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::Shard;
use super::asking::Fate;
use super::state::{Place, subscriber, who};
use crate::backbone::{Addition, BackboneError, Once, Range};
use crate::delivery::{Audience, Item};
use crate::domain::{ChannelName, Offset, Publication, RawEntry, StreamKey};
use crate::plugin::Hook;
use crate::protocol::{ErrorCode, Payload, RequestId, ServerFrame};
use crate::session::state::done;
use crate::telemetry::{PublishOutcome, Via, events};
use crate::tenants::Tenant;

impl Shard {
    pub(super) async fn publish(
        self: Rc<Self>,
        place: Place,
        id: RequestId,
        channel: ChannelName,
        mut message: Publication,
    ) -> ServerFrame {
        let Some((tenant, user, session)) = self.whose(place) else { return done(id) };
        message.user = Some(user);
        message.session = Some(session);
        // Held until it is in the log: one client's messages stay in order.
        let _turn = self.turn_to_publish(place).await;
        match self.ask_publish(place, channel, message).await {
            Fate::To(channels, message) => self.append(&tenant, id, &channels, &message).await,
            Fate::Nowhere => done(id),
            Fate::Refused(code, message) => {
                let metrics = self.env.metrics.tenant(&tenant.id);
                events::published(&metrics, &tenant.id, &message, Via::Client, PublishOutcome::Refused);
                ServerFrame::Error { id: Some(id), code, message }
            }
        }
    }

    /// Adds a message to channels. The answer has the offset where it is one; it fails where one of them does.
    async fn append(
        &self,
        tenant: &Tenant,
        id: RequestId,
        channels: &[ChannelName],
        message: &Publication,
    ) -> ServerFrame {
        let mut additions = Vec::with_capacity(channels.len());
        for channel in channels {
            let Some(rules) = tenant.rules(channel.namespace()) else {
                let message = format!("the tenant's plugin names {channel}, and there is no such namespace");
                return ServerFrame::Error {
                    id: Some(id),
                    code: ErrorCode::Unavailable,
                    message: message.into(),
                };
            };
            let (stream, once) = (StreamKey::channel(&tenant.id, channel), message.id.clone().map(Once::Id));
            let fields = message.clone().into_fields();
            additions.push(Addition { stream, fields, once, refuse_at: rules.refuse_at() });
        }
        let metrics = self.env.metrics.tenant(&tenant.id);
        let mut all = Ok(None);
        let answers = self.env.backbone.append_all(&additions).await;
        for (channel, appended) in channels.iter().zip(answers) {
            events::published(&metrics, &tenant.id, channel, Via::Client, publish_outcome(&appended));
            match appended {
                Ok(offset) => {
                    self.env.upstream.note_unwatched(&tenant.id, channel, offset);
                    all = all.map(|_| Some(offset).filter(|_| channels.len() == 1));
                }
                Err(error) => all = Err(error),
            }
        }
        match all {
            Ok(offset) => ServerFrame::Ok { id, offset, messages: None, epoch: None },
            Err(error) => failed(id, &error),
        }
    }

    pub(super) async fn send_up(
        self: Rc<Self>,
        place: Place,
        id: RequestId,
        payload: Payload,
        topic: Option<Box<str>>,
    ) -> ServerFrame {
        let found = self.with(|state| {
            let session = &state.seats[state.at(place)?].session;
            Some((session.tenant.clone(), who(session)))
        });
        let Some((tenant, who)) = found else { return done(id) };
        let fields = self.env.upstream.of_client(&tenant, &who, from_client(payload), topic.as_deref());
        let tenant = &tenant.id;
        let appended = self.env.backbone.append(&StreamKey::upstream(tenant), fields, None).await;
        let outcome = publish_outcome(&appended);
        events::published(&self.env.metrics.tenant(tenant), tenant, &"up", Via::Send, outcome);
        appended_frame(id, appended)
    }

    pub(super) async fn history(
        self: Rc<Self>,
        place: Place,
        id: RequestId,
        channel: &ChannelName,
        range: Range,
    ) -> ServerFrame {
        let found = self.with(|state| {
            let at = state.at(place)?;
            Some((state.channel_of(at, channel)?, subscriber(&state.seats[at].session)))
        });
        let Some((channel, reader)) = found else { return done(id) };
        let entries = match self.env.backbone.history(&channel.view.stream, range).await {
            Ok(entries) => entries,
            Err(error) => return failed(id, &error),
        };
        let clock_ms = self.env.backbone.clock().now_ms();
        let items: Vec<_> =
            entries.iter().filter_map(|entry| visible(entry, channel.max_payload, clock_ms)).collect();
        let items = if self.env.shaper.passes(&channel.tenant, &items) {
            items
        } else {
            let reader = Audience::Session(Arc::new(reader));
            match self.env.shaper.shape(&channel, &reader, &items).await {
                Some(items) => items,
                None => return failed(id, &BackboneError::Away("this node ends".to_owned())),
            }
        };
        let messages = items.into_iter().filter_map(|item| item.message).collect();
        let epoch = Some(self.env.backbone.epoch());
        ServerFrame::Ok { id, offset: None, messages: Some(messages), epoch }
    }

    /// Waits until what a client published before is in the log, where a plugin is asked about it. The next one
    /// goes when the answer is dropped.
    async fn turn_to_publish(self: &Rc<Self>, place: Place) -> Option<oneshot::Sender<()>> {
        let (done, before) = self.with(|state| {
            let at = state.at(place)?;
            self.asked_for(&state.seats[at].session, Hook::OnPublish)?;
            let (done, next) = oneshot::channel();
            Some((done, state.seats[at].publishing.replace(next)))
        })?;
        if let Some(before) = before {
            // It ends when it is dropped, which is no error here.
            let _ = before.await;
        }
        Some(done)
    }

    fn whose(self: &Rc<Self>, place: Place) -> Option<(Arc<Tenant>, Box<str>, Box<str>)> {
        self.with(|state| {
            let session = &state.seats[state.at(place)?].session;
            let user = session.identity.user.as_str().into();
            Some((session.tenant.clone(), user, session.id.to_string().into()))
        })
    }
}

pub(super) fn from_client(payload: Payload) -> Publication {
    let headers = payload.json_scalar.then(|| vec![("content-type".into(), "application/json".into())]);
    Publication { data: payload.data, headers, ..Publication::default() }
}

fn visible(entry: &RawEntry, max_payload: usize, clock_ms: u64) -> Option<Item> {
    let message = Publication::from_entry(entry, max_payload).ok()?;
    (!message.is_expired(clock_ms)).then(|| Item::new(entry.offset, Some(Arc::new(message))))
}

fn appended_frame(id: RequestId, appended: Result<Offset, BackboneError>) -> ServerFrame {
    match appended {
        Ok(offset) => ServerFrame::Ok { id, offset: Some(offset), messages: None, epoch: None },
        Err(error) => failed(id, &error),
    }
}

fn failed(id: RequestId, error: &BackboneError) -> ServerFrame {
    ServerFrame::Error { id: Some(id), code: ErrorCode::Unavailable, message: error.to_string().into() }
}

fn publish_outcome(appended: &Result<Offset, BackboneError>) -> PublishOutcome {
    match appended {
        Ok(_) => PublishOutcome::Accepted,
        Err(error) if error.is_retryable() => PublishOutcome::Unavailable,
        Err(_) => PublishOutcome::Failed,
    }
}
