//! Clients of the checker: each connects, receives, and comes back its own way.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};

use super::{ClientId, Delivery, Shared};
use crate::client::{Client, Codec, Event, Frame, Options, Refusal};
use crate::offset::Offset;
use crate::token::{claims, hs256};

/// How a client keeps its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Acknowledges under a device name and comes back with the resume token: the node knows its place.
    Device,
    /// Acknowledges and comes back with the resume token and its own positions.
    Position,
    /// Never acknowledges; comes back with its own positions alone.
    Listener,
    /// Never acknowledges and comes back with nothing: each connection starts anew.
    Passer,
}

impl Kind {
    /// Clients take turns in kinds.
    pub fn of(client: ClientId) -> Self {
        [Self::Device, Self::Position, Self::Listener, Self::Passer][client % 4]
    }

    fn acknowledges(self) -> bool {
        matches!(self, Self::Device | Self::Position)
    }

    fn knows_its_place(self) -> bool {
        matches!(self, Self::Position | Self::Listener)
    }
}

/// What a client remembers between connections.
#[derive(Default)]
struct Memory {
    resume: Option<String>,
    places: HashMap<String, Place>,
}

#[derive(Clone)]
struct Place {
    offset: Offset,
    epoch: String,
    /// What is not acknowledged yet, where the kind acknowledges.
    unacknowledged: u32,
}

/// Receives until the run ends, over as many connections as it takes.
pub(super) async fn run(shared: Arc<Shared>, client: ClientId) {
    let kind = Kind::of(client);
    let mut memory = Memory::default();
    let mut ending = shared.ending.subscribe();
    let mut refusals = 0;
    for node in client.. {
        let connection = connected(&shared, client, kind, node, &mut memory);
        tokio::select! {
            ended = connection => refusals = if ended.is_ok() { 0 } else { (refusals + 1).min(5) },
            _ = ending.wait_for(|ending| *ending) => return,
        }
        {
            let mut account = shared.account();
            if kind == Kind::Passer {
                account.abandoned(client);
            }
            account.disconnected(client);
        }
        tokio::select! {
            // Jittered and growing, so that a thousand clients neither come back in one moment nor
            // hammer a node that takes so many connections a second and no more.
            () = sleep(Duration::from_millis(50 + u64::from(rand::random::<u8>())) * (1 << refusals)) => {}
            _ = ending.wait_for(|ending| *ending) => return,
        }
    }
}

/// One connection, from connect to its end. Fails when there is none.
async fn connected(
    shared: &Shared,
    client: ClientId,
    kind: Kind,
    node: usize,
    memory: &mut Memory,
) -> Result<()> {
    let urls = &shared.settings.urls;
    let asked = options(shared, client, kind, memory);
    let mut link = match Client::try_connect(&urls[node % urls.len()], &asked).await? {
        Ok(link) => link,
        Err(Refusal::Closed(code, reason, _)) => return closed(shared, client, code, &reason),
        Err(Refusal::Handshake(status)) => bail!("refused with {status}"),
    };
    memory.resume = Some(link.resume_token().to_owned());
    let ends = drop_at(shared);
    loop {
        let event = tokio::select! {
            event = link.next_within(Duration::MAX) => event,
            () = until(ends) => return link.reset(),
        };
        let handled = match event {
            Ok(Some(Event::Frame(frame))) if frame.kind() == "error" => {
                // A client that was refused a subscription comes back for it.
                shared.account().errors_told += 1;
                return Ok(());
            }
            Ok(Some(Event::Frame(frame))) => handle(shared, client, kind, memory, &mut link, &frame).await,
            Ok(Some(Event::Closed { code, reason })) => return closed(shared, client, code, &reason),
            Ok(Some(Event::Lost(_))) => return Ok(()),
            Ok(None) => Ok(()),
            Err(undecodable) => Err(undecodable),
        };
        if let Err(broken) = handled {
            shared.account().breach(client, &format!("{broken:#}"));
            return Ok(());
        }
    }
}

/// A node that tells one of these clients never to come back has broken its word: none did wrong.
fn closed(shared: &Shared, client: ClientId, code: u16, reason: &str) -> Result<()> {
    if (4000..4100).contains(&code) {
        shared.account().breach(client, &format!("told to go for good: {code} {reason}"));
    }
    Ok(())
}

/// When this connection is dropped: within the second half of the interval, so that clients differ.
fn drop_at(shared: &Shared) -> Option<Instant> {
    let most = shared.settings.drop_every?;
    Some(Instant::now() + most.mul_f64(0.5 + f64::from(rand::random::<u8>()) / 512.0))
}

async fn until(ends: Option<Instant>) {
    match ends {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn handle(
    shared: &Shared,
    client: ClientId,
    kind: Kind,
    memory: &mut Memory,
    link: &mut Client,
    frame: &Frame,
) -> Result<()> {
    let channel = frame.text("channel");
    match frame.kind() {
        "subscribed" => {
            let offset = frame.offset("offset")?;
            // The personal channel starts at the oldest that is retained, whoever comes back.
            let continues = kind != Kind::Passer;
            let recovered = frame.get("recovered").as_bool();
            shared.account().subscribed(client, channel, offset, continues, recovered);
            let epoch = frame.text("epoch").to_owned();
            memory.places.insert(channel.to_owned(), Place { offset, epoch, unacknowledged: 0 });
        }
        "message" => {
            let message = frame.message()?;
            let data = message.text();
            let delivery = Delivery { offset: message.offset, attempt: message.attempt, data: &data };
            shared.account().received(client, channel, &delivery);
            let Some(place) = memory.places.get_mut(channel) else {
                bail!("a message before `subscribed`: {}", frame.0);
            };
            place.offset = place.offset.max(message.offset);
            place.unacknowledged += 1;
            // Some are always left open when a connection breaks, so that redelivery is walked too.
            if kind.acknowledges() && (place.unacknowledged >= 4 || message.attempt > 1) {
                place.unacknowledged = 0;
                // A connection that breaks here says so at the next read.
                let _ = link.ack(channel, place.offset).await;
            }
        }
        "position" | "gap" => {
            let is_gap = frame.kind() == "gap";
            let until = frame.offset(if is_gap { "until" } else { "offset" })?;
            if is_gap {
                let after = frame.offset("after")?;
                let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
                let now_ms = u64::try_from(now.as_millis())?;
                shared.account().gap(client, channel, after, until, frame.text("reason"), now_ms);
            }
            if let Some(place) = memory.places.get_mut(channel) {
                place.offset = place.offset.max(until);
                place.epoch = frame.text("epoch").to_owned();
            }
        }
        _ => {}
    }
    Ok(())
}

/// Who a client says it is.
pub(super) fn identity(shared: &Shared, client: ClientId) -> Options {
    let Some(signing) = &shared.settings.signing else { return Options::default() };
    let kid = signing.kid.as_deref().unwrap_or_default();
    Options::token(hs256(kid, signing.secret.as_bytes(), &claims(&shared.user(client))))
}

fn options(shared: &Shared, client: ClientId, kind: Kind, memory: &Memory) -> Options {
    let mut options = identity(shared, client);
    // Both codecs see every kind.
    options.wire.codec = if (client / 4).is_multiple_of(2) { Codec::Json } else { Codec::Cbor };
    if kind == Kind::Device {
        options.device = Some(format!("device-{client}"));
    }
    if kind.acknowledges() {
        options.resume = memory.resume.clone();
    }
    let mut channels: Vec<String> = (0..shared.settings.channels_per_client.min(shared.settings.channels))
        .map(|n| shared.channel(client + n))
        .collect();
    if shared.settings.signing.is_some() {
        channels.push(format!("user:{}", shared.user(client)));
    }
    options.subs = channels.iter().map(|channel| wish(kind, channel, memory.places.get(channel))).collect();
    options
}

fn wish(kind: Kind, channel: &str, place: Option<&Place>) -> Value {
    let mut sub = json!({"channel": channel, "ack": kind.acknowledges()});
    if let Some(place) = place.filter(|_| kind.knows_its_place()) {
        sub["offset"] = place.offset.to_string().into();
        sub["epoch"] = place.epoch.as_str().into();
    }
    sub
}
