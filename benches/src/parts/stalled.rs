//! Fan-out beside one subscriber that reads nothing: what it costs the others. Two nodes take turns, one
//! with it and one without.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{ROOM, expect_all, open, reset};
use crate::args::RunArgs;
use crate::herd::Kind;
use crate::host::{Cpu, pause};
use crate::process::{Herd, Node};
use crate::redis::Redis;
use crate::report::{Budget, Report, median};

const BUDGET_RATIO: f64 = 1.05;
const TURNS: usize = 11;
/// What only the stalled client is subscribed to.
const NOISE: &str = "tg:demo:ch:room:noise";
/// More than the kernel and its outbox take.
const NOISE_BYTES: usize = 32 << 20;

/// A node, its backend and its clients.
struct Side {
    node: Node,
    redis: Redis,
    herd: Herd,
}

pub fn run(args: &RunArgs, report: &mut Report) -> Result<()> {
    let subscribers = args.size(1_000, 200);
    let messages = args.size(60, 20);
    let (mut without, mut with) = (side(args, subscribers)?, side(args, subscribers)?);
    let mut stalled = Herd::start(args)?;
    open(&mut stalled, &with.node, 1, Kind::Stalled)?;
    let noise = vec![b'x'; 60_000];
    for _ in 0..NOISE_BYTES / noise.len() {
        with.redis.call(&[b"XADD", NOISE.as_bytes(), b"*", b"data", &noise])?;
    }
    // Its socket fills up meanwhile, which nothing announces.
    pause(Duration::from_secs(2));
    let (mut calm, mut beside, mut ratio) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..=TURNS {
        let (alone, together) = (without.turn(messages, subscribers)?, with.turn(messages, subscribers)?);
        // The first turn warms both up, and leaves the stalled one behind.
        if turn > 0 {
            calm.push(alone);
            beside.push(together);
            ratio.push(together / alone);
        }
    }
    let what = |text: &str| format!("fan-out to {subscribers}: {text}");
    report.note(what("shard, CPU a delivery"), median(calm), "us");
    report.note(what("the same beside one stalled"), median(beside), "us");
    report.hold(what("beside one stalled to alone"), median(ratio), "x", Budget::Most(BUDGET_RATIO));
    Ok(())
}

fn side(args: &RunArgs, subscribers: usize) -> Result<Side> {
    let node = Node::embedded(args, Some(1))?;
    let redis = Redis::connect(node.resp.context("the backbone is embedded")?)?;
    let mut herd = Herd::start(args)?;
    open(&mut herd, &node, subscribers, Kind::Room)?;
    Ok(Side { node, redis, herd })
}

impl Side {
    /// Sends messages one at a time; microseconds of the shard for one delivery.
    fn turn(&mut self, messages: u64, subscribers: usize) -> Result<f64> {
        reset(&mut self.herd)?;
        let before = Cpu::of(self.node.pid())?;
        for message in 1..=messages {
            self.redis.push_message(ROOM);
            self.redis.flush()?;
            expect_all(&mut self.herd, message * subscribers as u64)?;
        }
        let used = Cpu::of(self.node.pid())?.since(before);
        Ok(used.shards as f64 / (messages * subscribers as u64) as f64 / 1000.0)
    }
}
