//! Fan-out under pressure on one shard: how much it delivers for a second of its thread's processor
//! time, and how late messages are at half of what goes.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{ROOM, expect, open, reset};
use crate::args::RunArgs;
use crate::herd::{Answer, Kind};
use crate::host::Cpu;
use crate::process::{Herd, Node};
use crate::redis::{Redis, publish_at};
use crate::report::{Budget, Report};

const BUDGET_A_CORE: f64 = 1_000_000.0;
const BUDGET_P50_MS: f64 = 30.0;

/// What one rate gave.
pub struct Step {
    /// Messages that were to be published in a second.
    pub rate: u64,
    /// Deliveries in a second on the wall.
    pub wall: f64,
    /// Deliveries for a second of the shard's processor time.
    core: f64,
    /// Microseconds of all the node's threads for a delivery.
    pub node_us: f64,
    /// What the clients counted.
    pub answer: Answer,
    /// Deliveries that did not come, in percent.
    pub lost: f64,
}

/// What rising rates gave.
pub struct Pressed {
    /// From the lowest rate up.
    pub steps: Vec<Step>,
    /// At half of what goes.
    pub half: Step,
}

impl Pressed {
    /// The most deliveries in a second on the wall.
    pub fn most(&self) -> f64 {
        self.steps.iter().map(|step| step.wall).fold(0.0, f64::max)
    }
}

pub fn run(args: &RunArgs, report: &mut Report) -> Result<()> {
    let subscribers = args.size(1_000, 200);
    let node = Node::embedded(args, Some(1))?;
    let mut redis = Redis::connect(node.resp.context("the backbone is embedded")?)?;
    let mut herd = Herd::start(args)?;
    open(&mut herd, &node, subscribers, Kind::Room)?;
    let time = Duration::from_secs(args.size(4, 1));
    let pressed = climb(&node, &mut redis, &mut herd, ROOM, subscribers, time)?;
    let core = pressed.steps.iter().map(|step| step.core).fold(0.0, f64::max);
    let half = &pressed.half;
    let what = |text: &str| format!("pressure, {subscribers} subscribers: {text}");
    let least = Budget::Least(BUDGET_A_CORE);
    report.hold(what("deliveries a shard CPU second"), core, "/s", least);
    report.note(what("deliveries, most, on the wall"), pressed.most(), "/s");
    report.note(what("half of that"), half.wall, "/s");
    report.hold(what("p50 at half"), half.answer.p50_ms, "ms", Budget::Most(BUDGET_P50_MS));
    report.note(what("p99 at half"), half.answer.p99_ms, "ms");
    report.note(what("not delivered at half"), half.lost, "%");
    Ok(())
}

/// Publishes at rates that rise until no more goes, then at half of what went.
pub fn climb(
    node: &Node,
    redis: &mut Redis,
    herd: &mut Herd,
    key: &str,
    subscribers: usize,
    time: Duration,
) -> Result<Pressed> {
    let mut steps = Vec::new();
    for rate in [100, 250, 500, 1_000, 1_500, 2_000] {
        let step = measure(node, redis, herd, key, rate, subscribers, time)?;
        eprintln!(
            "  {rate} messages/s: {:.0} deliveries/s, {:.0} a shard CPU second, {:.2} us of the node each, \
             {} gaps, {:.1} % lost, p50 {:.1} ms, p99 {:.1} ms",
            step.wall,
            step.core,
            step.node_us,
            step.answer.gaps,
            step.lost,
            step.answer.p50_ms,
            step.answer.p99_ms
        );
        let is_over =
            step.wall < 0.5 * (rate * subscribers as u64) as f64 || step.answer.p50_ms > TOO_LATE_MS;
        steps.push(step);
        // Past what goes, more only makes gaps.
        if is_over {
            break;
        }
    }
    let most = steps.iter().map(|step| step.wall).fold(0.0, f64::max);
    let half = (most / 2.0 / subscribers as f64) as u64;
    let half = measure(node, redis, herd, key, half.max(1), subscribers, time)?;
    Ok(Pressed { steps, half })
}

fn measure(
    node: &Node,
    redis: &mut Redis,
    herd: &mut Herd,
    key: &str,
    rate: u64,
    subscribers: usize,
    time: Duration,
) -> Result<Step> {
    reset(herd)?;
    let (start, before) = (Instant::now(), Cpu::of(node.pid())?);
    let (sent, _) = publish_at(redis, rate, time, |_| key.to_owned())?;
    let due = sent * subscribers as u64;
    let (answer, took) = settled(herd, due, start, LATE)?;
    let used = Cpu::of(node.pid())?.since(before);
    // What is still under way must not count for the next step.
    settled(herd, u64::MAX, start, LATER)?;
    let delivered = answer.messages as f64;
    Ok(Step {
        rate,
        wall: delivered / took.as_secs_f64(),
        core: delivered / (used.shards.max(1) as f64 / 1e9),
        node_us: used.all as f64 / delivered.max(1.0) / 1000.0,
        lost: 100.0 * due.saturating_sub(answer.messages) as f64 / due.max(1) as f64,
        answer,
    })
}

/// Where half of the messages are later than this, more go in than come out.
const TOO_LATE_MS: f64 = 500.0;

/// How long a step's messages may come after the last was sent, and what is left of them after that.
const LATE: Duration = Duration::from_secs(3);
const LATER: Duration = Duration::from_secs(30);
/// How long nothing comes where nothing more will.
const QUIET: Duration = Duration::from_millis(500);

/// Waits until so many messages came, or no more come, or for the time; how long it took from the start to the
/// last of them.
fn settled(herd: &mut Herd, messages: u64, start: Instant, limit: Duration) -> Result<(Answer, Duration)> {
    let until = Instant::now() + limit;
    let (mut seen, mut took) = (0, start.elapsed());
    loop {
        let answer = expect(herd, messages, QUIET)?;
        if answer.messages > seen {
            (seen, took) = (answer.messages, start.elapsed());
        } else {
            return Ok((answer, took));
        }
        if seen >= messages || Instant::now() > until {
            return Ok((answer, took));
        }
    }
}
