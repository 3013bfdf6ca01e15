//! Fan-out under pressure on one shard: how much it delivers for a second of its thread's processor
//! time, and how late messages are at half of what goes.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{ROOM, expect, open, reset};
use crate::args::RunArgs;
use crate::herd::{Answer, Kind};
use crate::host::{Cpu, pause};
use crate::process::{Herd, Node};
use crate::redis::{Redis, publish_at};
use crate::report::{Budget, Report};

const BUDGET_A_CORE: f64 = 1_000_000.0;
const BUDGET_P50_MS: f64 = 30.0;

/// What one rate gave.
struct Step {
    /// Deliveries in a second on the wall.
    wall: f64,
    /// Deliveries for a second of the shard's processor time.
    core: f64,
    answer: Answer,
    sent: u64,
}

pub fn run(args: &RunArgs, report: &mut Report) -> Result<()> {
    let subscribers = args.size(1_000, 200);
    let node = Node::embedded(args, Some(1))?;
    let mut redis = Redis::connect(node.resp.context("the backbone is embedded")?)?;
    let mut herd = Herd::start(args)?;
    open(&mut herd, &node, subscribers, Kind::Room)?;
    let time = Duration::from_secs(args.size(4, 1));
    let (mut wall, mut core) = (0.0_f64, 0.0_f64);
    for rate in [100, 250, 500, 1_000, 1_500, 2_000] {
        let step = measure(&node, &mut redis, &mut herd, rate, subscribers, time)?;
        eprintln!(
            "  {rate} messages/s: {:.0} deliveries/s, {:.0} a shard CPU second, {} gaps",
            step.wall, step.core, step.answer.gaps
        );
        (wall, core) = (wall.max(step.wall), core.max(step.core));
        // Past what goes, more only makes gaps.
        if step.wall < 0.5 * (rate * subscribers as u64) as f64 {
            break;
        }
    }
    let half = (wall / 2.0 / subscribers as f64) as u64;
    let at_half = measure(&node, &mut redis, &mut herd, half.max(1), subscribers, time)?;
    let what = |text: &str| format!("pressure, {subscribers} subscribers: {text}");
    let least = Budget::Least(BUDGET_A_CORE);
    report.hold(what("deliveries a shard CPU second"), core, "/s", least);
    report.note(what("deliveries, most, on the wall"), wall, "/s");
    report.note(what("half of that"), at_half.wall, "/s");
    report.hold(what("p50 at half"), at_half.answer.p50_ms, "ms", Budget::Most(BUDGET_P50_MS));
    report.note(what("p99 at half"), at_half.answer.p99_ms, "ms");
    let lost = (at_half.sent * subscribers as u64).saturating_sub(at_half.answer.messages);
    report.note(what("not delivered at half"), lost as f64, "");
    Ok(())
}

fn measure(
    node: &Node,
    redis: &mut Redis,
    herd: &mut Herd,
    rate: u64,
    subscribers: usize,
    time: Duration,
) -> Result<Step> {
    reset(herd)?;
    let (start, before) = (Instant::now(), Cpu::of(node.pid())?);
    let (sent, _) = publish_at(redis, rate, time, |_| ROOM.to_owned())?;
    let answer = expect(herd, sent * subscribers as u64, Duration::from_secs(3))?;
    let (took, used) = (start.elapsed(), Cpu::of(node.pid())?.since(before));
    let delivered = answer.messages as f64;
    let core = delivered / (used.shards.max(1) as f64 / 1e9);
    // What is still under way must not count for the next step.
    pause(Duration::from_millis(500));
    Ok(Step { wall: delivered / took.as_secs_f64(), core, answer, sent })
}
