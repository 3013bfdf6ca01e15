//! `tidegate client`: connects as a client and prints the messages.

use std::io::Write as _;

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::args::{ClientArgs, CodecArg, TransportArg};
use crate::client::{Client, ClientError, Event, Message, Options, Subscription};

/// Prints messages until `--count` of them have come or somebody presses Ctrl-C.
pub async fn run(args: ClientArgs) -> Result<()> {
    if args.codec == CodecArg::Cbor && matches!(args.transport, TransportArg::Sse | TransportArg::Ndjson) {
        bail!("--codec cbor does not go with this --transport: SSE and NDJSON carry JSON only");
    }
    let mut client = Client::new(options(&args));
    tokio::select! {
        result = print(&args, &mut client) => result?,
        interrupted = tokio::signal::ctrl_c() => interrupted.context("waiting for Ctrl-C")?,
    }
    client.close().await;
    Ok(())
}

fn options(args: &ClientArgs) -> Options {
    let options = Options::new(&args.url, args.tenant.as_str())
        .token(args.token.as_ref().map(|token| token.expose().to_owned()))
        .device(args.device.as_ref().map(ToString::to_string))
        .codec(args.codec.into())
        .transport(args.transport.into())
        .ca(args.ca.clone())
        .certificate_hashes(args.certificate_hash.clone());
    args.channels.iter().fold(options, |options, channel| {
        options.subscribe(Subscription {
            channel: channel.to_string(),
            ack: args.ack || args.withhold,
            window: None,
            since: args.since,
        })
    })
}

async fn print(args: &ClientArgs, client: &mut Client) -> Result<()> {
    let mut count = 0;
    while args.count.is_none_or(|wanted| count < wanted) {
        let event = client.next().await;
        let over = client.transport().map_or("nothing", |transport| transport.name());
        match event.map_err(advised)? {
            Event::Message(message) => {
                show(&message, args.json)?;
                count += 1;
                if args.ack {
                    // Without a connection the acknowledgement is lost and the message comes again.
                    let _ = client.ack(&message.channel, message.offset).await;
                }
            }
            Event::Connected { user, node, resumed, .. } => {
                eprintln!("connected to {node} over {over} as {user} ({resumed})");
            }
            Event::Subscribed { channel, offset, recovered, .. } => {
                let missing =
                    if recovered == Some(false) { "; messages before it may be missing" } else { "" };
                eprintln!("subscribed to {channel} after {offset}{missing}");
            }
            Event::Gap { channel, after, until, reason, .. } => {
                eprintln!("gap in {channel}: messages after {after} up to {until} may be missing ({reason})");
            }
            // A backbone that is away comes back, and so does the subscription with the next connection.
            Event::Error { code, message, .. } if code == "unavailable" => eprintln!("{message} ({code})"),
            // Subscriptions are asked for without a number, so this is about one of them.
            Event::Error { code, message, .. } => bail!("the node refused: {message} ({code})"),
            Event::Unreachable { url, why, pause } => {
                eprintln!("cannot connect to {url}: {why}; trying again in {:.1} s", pause.as_secs_f64());
            }
            Event::Closed { code, reason } => eprintln!("disconnected: {code} {reason}; reconnecting"),
            _ => {}
        }
    }
    Ok(())
}

/// What the error says, and which flag may help.
fn advised(error: ClientError) -> anyhow::Error {
    let advice = match &error {
        ClientError::Certificate { .. } => {
            "name the file of its authority with --ca, or in development the certificate's hash with --certificate-hash"
        }
        ClientError::Unanswered { .. } => "--transport websocket needs TCP only",
        ClientError::Connect { .. } => {
            "is the node running there? Check --url (or TIDEGATE_URL) and --tenant"
        }
        _ => return error.into(),
    };
    anyhow::anyhow!("{error}; {advice}")
}

/// One line: JSON as it came, or `offset attempt channel data`.
fn show(message: &Message, as_json: bool) -> Result<()> {
    let line = if as_json {
        let mut line = json!({
            "channel": message.channel,
            "offset": message.offset,
            "attempt": message.attempt,
        });
        for field in ["data", "enc", "headers", "key", "msg_id"] {
            if let Some(value) = message.frame.get(field) {
                line[field] = value.clone();
            }
        }
        line.to_string()
    } else {
        let data = String::from_utf8_lossy(&message.data);
        // Control characters in a payload must not reach the terminal.
        let data: String = data.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        format!("{} {} {} {data}", message.offset, message.attempt, message.channel)
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("writing to standard output")
}
