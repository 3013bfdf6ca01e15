//! Fan-out with a plugin that looks at every message, beside the same without: two nodes take turns.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::plugins::PROBE;
use super::{ROOM, expect, open, reset};
use crate::args::RunArgs;
use crate::herd::Kind;
use crate::host::Cpu;
use crate::process::{Herd, Node};
use crate::redis::Redis;
use crate::report::{Report, median};

const TURNS: usize = 11;
/// Messages that are sent together: as many as one read of the feed takes.
const TOGETHER: u64 = 32;

struct Side {
    node: Node,
    redis: Redis,
    herd: Herd,
}

/// What one turn cost.
struct Turn {
    /// Microseconds of the whole node for one message.
    each_us: f64,
    p50_ms: f64,
}

pub fn run(args: &RunArgs, report: &mut Report) -> Result<()> {
    let (mut without, mut with) = (side(args)?, side(args)?);
    with.node.put_on("demo", PROBE)?;
    for (together, how) in [(1, "one message at a time"), (TOGETHER, "32 messages at a time")] {
        let rounds = args.size(1_000, 100) / together;
        let (mut plain, mut more, mut later) = (Vec::new(), Vec::new(), Vec::new());
        for turn in 0..=TURNS {
            let (bare, shaped) = (without.turn(rounds, together)?, with.turn(rounds, together)?);
            // The first turn warms both up.
            if turn > 0 {
                plain.push(bare.each_us);
                more.push(shaped.each_us - bare.each_us);
                later.push(shaped.p50_ms - bare.p50_ms);
            }
        }
        let what = |text: &str| format!("{how}: {text}");
        report.note(what("node without plugin, CPU a message"), median(plain), "us");
        report.note(what("more with one that lets it pass"), median(more), "us");
        report.note(what("later by, p50"), median(later) * 1e3, "us");
    }
    Ok(())
}

fn side(args: &RunArgs) -> Result<Side> {
    let node = Node::embedded(args, Some(1))?;
    let redis = Redis::connect(node.resp.context("the backbone is embedded")?)?;
    let mut herd = Herd::start(args)?;
    open(&mut herd, &node, 1, Kind::Room)?;
    Ok(Side { node, redis, herd })
}

impl Side {
    fn turn(&mut self, rounds: u64, together: u64) -> Result<Turn> {
        reset(&mut self.herd)?;
        let before = Cpu::of(self.node.pid())?;
        let mut last = None;
        for round in 1..=rounds {
            for _ in 0..together {
                self.redis.push_message(ROOM);
            }
            self.redis.flush()?;
            last = Some(expect(&mut self.herd, round * together, Duration::from_secs(20))?);
        }
        let used = Cpu::of(self.node.pid())?.since(before);
        let each_us = used.all as f64 / (rounds * together) as f64 / 1e3;
        Ok(Turn { each_us, p50_ms: last.context("there were no rounds")?.p50_ms })
    }
}
