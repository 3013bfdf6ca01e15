//! The measurements.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::args::{Part, RunArgs};
use crate::herd::{Answer, Kind, Order, Transport};
use crate::process::{Herd, Node};
use crate::report::Report;

mod calm;
mod codec;
mod isolation;
mod memory;
mod packets;
mod plugins;
mod pressure;
mod reconnect;
mod retention;
mod shaped;
mod stalled;
mod transports;
mod unicast;

/// Measures one part and adds its figures to the report.
type Measure = fn(&RunArgs, &mut Report) -> Result<()>;

/// Runs what was asked for and prints the figures.
pub fn run(args: &RunArgs) -> Result<()> {
    rlimit::increase_nofile_limit(u64::MAX)?;
    let mut report = Report::default();
    let parts: [(Part, Measure); 14] = [
        (Part::Memory, memory::run),
        (Part::Calm, calm::run),
        (Part::Pressure, pressure::run),
        (Part::Stalled, stalled::run),
        (Part::Unicast, unicast::run),
        (Part::Reconnect, reconnect::run),
        (Part::Codec, codec::run),
        (Part::Retention, retention::run),
        (Part::Plugins, plugins::run),
        (Part::Shaped, shaped::run),
        (Part::Isolation, isolation::run),
        (Part::IdleTransports, transports::idle),
        (Part::FanoutTransports, transports::fanout),
        (Part::Packets, packets::run),
    ];
    let mut failed = Ok(());
    for (part, measure) in parts.into_iter().filter(|(part, _)| args.wants(*part)) {
        eprintln!("measuring: {part:?}");
        failed = measure(args, &mut report).with_context(|| format!("measuring {part:?}"));
        if failed.is_err() {
            break;
        }
    }
    // What was measured before a part failed is worth having.
    let text = if args.json { report.json()? + "\n" } else { report.table() };
    std::io::stdout().write_all(text.as_bytes()).context("writing to standard output")?;
    failed
}

/// The log of the room that everybody is in.
const ROOM: &str = "tg:demo:ch:room:1";

/// How long one message may take to all its subscribers before the measurement is given up.
const LIMIT: Duration = Duration::from_secs(20);

fn open(herd: &mut Herd, node: &Node, count: usize, kind: Kind) -> Result<()> {
    let address = match herd.transport() {
        Transport::WebTransport => node.quic.context("the node has no certificate")?,
        _ => node.http,
    };
    herd.order(&Order::Open { address, count, kind })?;
    Ok(())
}

fn reset(herd: &mut Herd) -> Result<()> {
    herd.order(&Order::Reset)?;
    Ok(())
}

/// Waits until so many messages came since the last reset, or for the time.
fn expect(herd: &mut Herd, messages: u64, limit: Duration) -> Result<Answer> {
    herd.order(&Order::Expect { messages, limit_ms: limit.as_millis() as u64 })
}

/// The same, where fewer messages are a failure.
fn expect_all(herd: &mut Herd, messages: u64) -> Result<Answer> {
    let answer = expect(herd, messages, LIMIT)?;
    anyhow::ensure!(answer.messages >= messages, "only {} of {messages} messages came", answer.messages);
    Ok(answer)
}
