//! What transports cost beside each other: memory of an idle session, and fan-out.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::pressure::{Pressed, climb};
use super::{expect, memory, open, reset};
use crate::args::RunArgs;
use crate::herd::{Kind, Transport};
use crate::host::{Cpu, udp_dropped};
use crate::process::{Herd, Node};
use crate::redis::Redis;
use crate::report::{Budget, Report, median};

const BUDGET_WEBSOCKET_KB: f64 = 5.0;
const BUDGET_WEBTRANSPORT_KB: f64 = 55.0;

/// Memory of an idle session that is subscribed to its user's channel.
pub fn idle(args: &RunArgs, report: &mut Report) -> Result<()> {
    let (few, many) = args.size((1_000, 4_000), (200, 600));
    for (transport, what, budget) in [
        (Transport::WebSocket, "WebSocket", Some(BUDGET_WEBSOCKET_KB)),
        (Transport::Tls, "WebSocket over TLS", None),
        (Transport::Sse, "server-sent events, without TLS", None),
        (Transport::WebTransport, "WebTransport", Some(BUDGET_WEBTRANSPORT_KB)),
    ] {
        let node = Node::reached_over(args, transport, None)?;
        let mut herd = Herd::over(args, transport)?;
        let each = memory::slope(&node, &mut herd, Kind::Own, few, many)?;
        let what = format!("memory of an idle session: {what}");
        match budget {
            Some(most) => report.hold(what, each, "kB", Budget::Most(most)),
            None => report.note(what, each, "kB"),
        }
    }
    Ok(())
}

/// What carries the messages.
const WAYS: [(&str, Transport, Kind); 5] = [
    ("WebSocket", Transport::WebSocket, Kind::Room),
    ("WebSocket over TLS", Transport::Tls, Kind::Room),
    ("server-sent events", Transport::Sse, Kind::Room),
    ("WebTransport, stream", Transport::WebTransport, Kind::Room),
    ("WebTransport, datagrams", Transport::WebTransport, Kind::Live),
];

/// A node with one shard, its backend and its clients, and what was measured.
struct Side {
    name: &'static str,
    node: Node,
    redis: Redis,
    herd: Herd,
    key: &'static str,
    turns: Vec<Turn>,
}

/// One turn: microseconds of processor time for a delivery, and latencies.
struct Turn {
    node: f64,
    shard: f64,
    quic: f64,
    herd: f64,
    p50_ms: f64,
    p99_ms: f64,
    lost: u64,
}

/// Turns that the transports take, so that all meet the same weather; the middle one counts.
const TURNS: usize = 7;

/// How long what may get lost is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// Fan-out of one message at a time, then as much as goes.
pub fn fanout(args: &RunArgs, report: &mut Report) -> Result<()> {
    let (subscribers, messages) = args.size((1_000, 40), (200, 10));
    let mut sides = Vec::new();
    for way in WAYS {
        sides.push(Side::new(args, way, subscribers)?);
    }
    for turn in 0..=TURNS {
        for side in &mut sides {
            let measured = side.turn(messages, subscribers)?;
            // The first turn warms up.
            if turn > 0 {
                side.turns.push(measured);
            }
        }
    }
    for side in &sides {
        side.tell_calm(report, subscribers, &sides[0]);
    }
    let mut pressed: Vec<Pressed> = Vec::new();
    for side in &mut sides {
        eprintln!("  {}:", side.name);
        let time = Duration::from_secs(args.size(3, 1));
        let own = climb(&side.node, &mut side.redis, &mut side.herd, side.key, subscribers, time)?;
        side.tell_pressed(report, subscribers, &own, pressed.first().unwrap_or(&own));
        if let Some(quic) = side.node.quic {
            report.note(
                format!("{}: packets for the node that the kernel dropped", side.name),
                udp_dropped(quic.port())? as f64,
                "",
            );
        }
        pressed.push(own);
        // What went in too fast must leave nothing behind.
        let again = side.turn(messages, subscribers)?;
        let what = |text: &str| format!("calm again after pressure, {}: {text}", side.name);
        report.note(what("node, CPU seconds a million"), again.node, "s");
        report.note(what("p50"), again.p50_ms, "ms");
        report.note(what("p99"), again.p99_ms, "ms");
    }
    Ok(())
}

/// Rates at which transports are set beside each other, in messages a second.
const BESIDE: [u64; 2] = [100, 500];

impl Side {
    fn new(args: &RunArgs, way: (&'static str, Transport, Kind), subscribers: usize) -> Result<Self> {
        let (name, transport, kind) = way;
        let node = Node::reached_over(args, transport, Some(1))?;
        let redis = Redis::connect(node.resp.context("the backbone is embedded")?)?;
        let mut herd = Herd::over(args, transport)?;
        open(&mut herd, &node, subscribers, kind)?;
        let key = if kind == Kind::Live { "tg:demo:ch:live:1" } else { super::ROOM };
        Ok(Self { name, node, redis, herd, key, turns: Vec::new() })
    }

    /// Sends messages one at a time.
    fn turn(&mut self, messages: u64, subscribers: usize) -> Result<Turn> {
        reset(&mut self.herd)?;
        let (before, herd_before) = (Cpu::of(self.node.pid())?, Cpu::of(self.herd.pid())?);
        let (mut answer, mut lost) = (expect(&mut self.herd, 0, PATIENCE)?, 0);
        for message in 1..=messages {
            self.redis.push_message(self.key);
            self.redis.flush()?;
            let due = message * subscribers as u64;
            answer = expect(&mut self.herd, due - lost, PATIENCE)?;
            lost = due.saturating_sub(answer.messages);
        }
        let used = Cpu::of(self.node.pid())?.since(before);
        let herd = Cpu::of(self.herd.pid())?.since(herd_before);
        let each = |used: u64| used as f64 / answer.messages.max(1) as f64 / 1000.0;
        Ok(Turn {
            node: each(used.all),
            shard: each(used.shards),
            quic: each(used.quic),
            herd: each(herd.all),
            p50_ms: answer.p50_ms,
            p99_ms: answer.p99_ms,
            lost,
        })
    }

    fn tell_calm(&self, report: &mut Report, subscribers: usize, first: &Self) {
        let what = |text: &str| format!("calm fan-out to {subscribers}, {}: {text}", self.name);
        let middle = |of: &dyn Fn(&Turn) -> f64| median(self.turns.iter().map(of).collect());
        let ratios = self.turns.iter().zip(&first.turns).map(|(own, first)| own.node / first.node);
        report.note(what("node, CPU seconds a million"), middle(&|turn| turn.node), "s");
        report.note(what("of these the shard's"), middle(&|turn| turn.shard), "s");
        if self.node.quic.is_some() {
            report.note(what("of these the QUIC thread's"), middle(&|turn| turn.quic), "s");
        }
        report.note(what("to WebSocket"), median(ratios.collect()), "x");
        report.note(what("the clients' own CPU seconds a million"), middle(&|turn| turn.herd), "s");
        report.note(what("p50"), middle(&|turn| turn.p50_ms), "ms");
        report.note(what("p99"), middle(&|turn| turn.p99_ms), "ms");
        let lost: u64 = self.turns.iter().map(|turn| turn.lost).sum();
        report.note(what("not delivered"), lost as f64, "");
    }

    fn tell_pressed(&self, report: &mut Report, subscribers: usize, own: &Pressed, first: &Pressed) {
        let what = |text: &str| format!("pressure, {subscribers} subscribers, {}: {text}", self.name);
        let at = |pressed: &Pressed, rate| {
            pressed.steps.iter().find(|step| step.rate == rate).map(|step| step.node_us)
        };
        for rate in BESIDE {
            // What does not go has no figure.
            if let (Some(own), Some(first)) = (at(own, rate), at(first, rate)) {
                report.note(what(&format!("node at {rate} messages/s, CPU seconds a million")), own, "s");
                report.note(what(&format!("to WebSocket at {rate} messages/s")), own / first, "x");
            }
        }
        report.note(what("deliveries, most, on the wall"), own.most(), "/s");
        report.note(what("half of that"), own.half.wall, "/s");
        report.note(what("node at half, CPU seconds a million"), own.half.node_us, "s");
        report.note(what("p50 at half"), own.half.answer.p50_ms, "ms");
        report.note(what("p99 at half"), own.half.answer.p99_ms, "ms");
        report.note(what("not delivered at half"), own.half.lost, "%");
    }
}
