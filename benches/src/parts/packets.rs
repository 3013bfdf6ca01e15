//! UDP packets that the thread of the one QUIC endpoint takes: clients send small acknowledgements, each in a
//! packet of its own, at rates that rise until the machine takes no more.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{open, reset};
use crate::args::RunArgs;
use crate::herd::{Kind, Order, Transport};
use crate::host::{Cpu, pause, udp_dropped};
use crate::process::{Herd, Node};
use crate::report::Report;

/// What one rate gave.
struct Step {
    /// Packets that clients sent in a second on the wall.
    wall: f64,
    /// Microseconds of a thread for each.
    quic: f64,
    shard: f64,
    herd: f64,
    /// How much of the time the thread ran, in percent.
    share: f64,
    /// Of the packets, those that found no room in the socket's buffer, in percent.
    dropped: f64,
}

pub fn run(args: &RunArgs, report: &mut Report) -> Result<()> {
    let clients = args.size(1_000, 200);
    let node = Node::reached_over(args, Transport::WebTransport, Some(1))?;
    let mut herd = Herd::over(args, Transport::WebTransport)?;
    open(&mut herd, &node, clients, Kind::Acking)?;
    let time = Duration::from_secs(args.size(4, 1));
    let mut best: Option<Step> = None;
    for rate in [5_000, 10_000, 20_000, 40_000, 60_000, 80_000, 100_000, 150_000] {
        let step = measure(&node, &mut herd, rate, time)?;
        eprintln!(
            "  {rate} asked: {:.0} packets/s, QUIC thread {:.2} us each and {:.0} % busy, shard {:.2} us, \
             clients {:.2} us, {:.2} % dropped",
            step.wall, step.quic, step.share, step.shard, step.herd, step.dropped
        );
        let most = best.as_ref().map_or(0.0, |best| best.wall);
        let is_over = step.wall < 0.4 * rate as f64;
        if step.wall > most {
            best = Some(step);
        }
        if is_over {
            break;
        }
    }
    let best = best.context("a rate was measured")?;
    let what = |text: &str| format!("packets of {clients} clients: {text}");
    report.note(what("most, on the wall"), best.wall, "/s");
    report.note(what("QUIC thread, CPU a packet"), best.quic, "us");
    report.note(what("QUIC thread, share of its core then"), best.share, "%");
    report.note(what("what its core would take"), 1e6 / best.quic, "/s");
    report.note(what("shard, CPU a packet"), best.shard, "us");
    report.note(what("what one shard's core would take"), 1e6 / best.shard, "/s");
    report.note(what("clients, CPU a packet"), best.herd, "us");
    report.note(what("dropped by the kernel"), best.dropped, "%");
    Ok(())
}

fn measure(node: &Node, herd: &mut Herd, per_s: u64, time: Duration) -> Result<Step> {
    let port = node.quic.context("the node has a certificate")?.port();
    reset(herd)?;
    let (dropped, start) = (udp_dropped(port)?, Instant::now());
    let (before, herd_before) = (Cpu::of(node.pid())?, Cpu::of(herd.pid())?);
    let packets = herd.order(&Order::Acknowledge { per_s, time_ms: time.as_millis() as u64 })?.packets;
    let took = start.elapsed().as_nanos() as f64;
    let used = Cpu::of(node.pid())?.since(before);
    let herd_used = Cpu::of(herd.pid())?.since(herd_before);
    let dropped = udp_dropped(port)?.saturating_sub(dropped);
    // What is still under way must not count for the next rate.
    pause(Duration::from_millis(500));
    let each = |used: u64| used as f64 / packets.max(1) as f64 / 1000.0;
    Ok(Step {
        wall: packets as f64 / took * 1e9,
        quic: each(used.quic),
        shard: each(used.shards),
        herd: each(herd_used.all),
        share: 100.0 * used.quic as f64 / took,
        dropped: 100.0 * dropped as f64 / packets.max(1) as f64,
    })
}
