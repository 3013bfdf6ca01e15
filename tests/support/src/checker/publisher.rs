//! Publishers: by XADD, by HTTP, by a client connection, by the ingress.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::{Shared, Via};
use crate::client::Client;
use crate::http;
use crate::offset::Offset;
use crate::redis_faults::Backend;

/// A way of publishing, with what it keeps open.
enum Way {
    Redis(Option<Backend>),
    Http,
    Client(Option<Box<Client>>),
    Ingress(Option<Backend>),
}

/// How long one publication may take. Shorter than the deadline of tests: a node that was stopped
/// answers never, and the run has to go on.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the ingress may take: longer than another node needs to take it over.
const INGRESS_PATIENCE: Duration = Duration::from_secs(60);

/// Publishes until the run stops publishing.
pub(super) async fn run(shared: Arc<Shared>, number: usize) {
    let settings = &shared.settings;
    let turns = [Via::Xadd, Via::Http, Via::Client, Via::Ingress];
    let via = if settings.via == Via::Mix { turns[number % turns.len()] } else { settings.via };
    let mut way = match via {
        Via::Http if settings.api_key.is_some() => Way::Http,
        Via::Client => Way::Client(None),
        Via::Ingress => Way::Ingress(None),
        _ => Way::Redis(None),
    };
    let patience = if via == Via::Ingress { 2 * INGRESS_PATIENCE } else { PATIENCE };
    // Clients may not publish to personal channels.
    let channels: Vec<String> = match way {
        Way::Client(_) => (0..settings.channels).map(|n| shared.channel(n)).collect(),
        _ => shared.channels(),
    };
    let mut publishing = shared.publishing.subscribe();
    let mut ticks = interval(Duration::from_secs(1) / settings.rate.max(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut node = number;
    for sequence in 0_u64.. {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = publishing.wait_for(|publishing| !publishing) => return,
        }
        if !*publishing.borrow_and_update() {
            return;
        }
        // A stride that shares no factor with most counts spreads publishers over the channels.
        let channel = &channels[(number + sequence as usize * 7) % channels.len()];
        let data = format!("run {} publisher {number} message {sequence}", shared.run);
        let attempt = tokio::time::timeout(patience, publish(&shared, &mut way, node, channel, &data));
        match attempt.await {
            Ok(Ok(offset)) => shared.account().published(channel, offset, &data),
            failed => {
                shared.account().ambiguous(&data);
                drop(failed);
                way = way.anew();
                node += 1;
                pause(&shared).await;
            }
        }
    }
}

/// A moment for whatever is broken to mend, or until publishing stops.
async fn pause(shared: &Shared) {
    let mut publishing = shared.publishing.subscribe();
    let until = Instant::now() + Duration::from_millis(100);
    tokio::select! {
        () = sleep(until - Instant::now()) => {}
        _ = publishing.wait_for(|publishing| !publishing) => {}
    }
}

async fn publish(shared: &Shared, way: &mut Way, node: usize, channel: &str, data: &str) -> Result<Offset> {
    let settings = &shared.settings;
    let url = &settings.urls[node % settings.urls.len()];
    match way {
        Way::Redis(open) => {
            if open.is_none() {
                *open = Some(Backend::connect(&settings.redis).await?);
            }
            open.as_mut().context("open")?.push(&settings.tenant, channel, data).await
        }
        Way::Http => {
            let authority = url.trim_start_matches("ws://").split('/').next().context("a url has a host")?;
            let path = format!("/v1/{}/publish", settings.tenant);
            let body = json!({"channel": channel, "data": data});
            let answer = http::post(authority, &path, settings.api_key.as_deref(), &body).await?;
            ensure!(answer.status == 200, "{}", answer.status);
            let results = answer.json()?;
            match results["results"][0]["offset"].as_str() {
                Some(offset) => offset.parse(),
                None => bail!("{results}"),
            }
        }
        Way::Ingress(open) => {
            if open.is_none() {
                *open = Some(Backend::connect(&settings.redis).await?);
            }
            through_ingress(shared, open.as_mut().context("open")?, channel, data).await
        }
        Way::Client(open) => {
            if open.is_none() {
                *open = Some(Box::new(connect(shared, url).await?));
            }
            let link = open.as_mut().context("open")?;
            let answer = link.publish(channel, data.into()).await;
            link.forget_waiting();
            answer
        }
    }
}

/// Adds an entry to the ingress and waits until it is in the channel's log. One that never comes there is
/// a broken promise, unless the data began a new life meanwhile.
async fn through_ingress(
    shared: &Shared,
    backend: &mut Backend,
    channel: &str,
    data: &str,
) -> Result<Offset> {
    let tenant = &shared.settings.tenant;
    let epoch = backend.command("GET tg:sys:epoch").await.ok();
    let ingress = backend.push_in(tenant, channel, data).await?;
    let deadline = Instant::now() + INGRESS_PATIENCE;
    while Instant::now() < deadline {
        let recent = backend.newest(tenant, channel, 200).await?;
        if let Some(entry) = recent.iter().find(|entry| entry.text("in") == ingress.to_string()) {
            return Ok(entry.offset);
        }
        sleep(crate::POLL).await;
    }
    if backend.command("GET tg:sys:epoch").await.ok() == epoch {
        shared.account().unwritten(channel, ingress);
    }
    bail!("the ingress did not write {ingress} to {channel}")
}

/// A publishing client is subscribed to what it publishes to, as the namespace's default right asks. Its
/// own messages come back to it and are dropped: the subscribers' account is the one that counts.
async fn connect(shared: &Shared, url: &str) -> Result<Client> {
    let mut options = super::subscriber::identity(shared, usize::MAX);
    for n in 0..shared.settings.channels {
        options = options.listen(&shared.channel(n));
    }
    let mut client = Client::connect(url, &options).await?;
    client.subscribed(&shared.channel(shared.settings.channels.saturating_sub(1))).await?;
    Ok(client)
}

impl Way {
    /// The same way with nothing open.
    fn anew(self) -> Self {
        match self {
            Self::Redis(_) => Self::Redis(None),
            Self::Http => Self::Http,
            Self::Client(_) => Self::Client(None),
            Self::Ingress(_) => Self::Ingress(None),
        }
    }
}
