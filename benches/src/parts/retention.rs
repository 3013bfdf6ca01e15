//! Streams that backends fill and nobody reads: what a pass of the janitor over all of them gives back,
//! and what delivery notices of it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::unicast::connect;
use super::{expect, open, reset};
use crate::args::RunArgs;
use crate::herd::Kind;
use crate::host::{Cpu, pause};
use crate::process::{Herd, Node};
use crate::redis::{Redis, publish_at};
use crate::report::{Report, median};

/// Messages a second to clients meanwhile.
const RATE: u64 = 1_000;
const CLIENTS: u64 = 1_000;
/// Entries of each stream.
const ENTRIES: u64 = 5;
/// Longer than the demo tenant's `live` channels keep anything.
const OVER: Duration = Duration::from_secs(11);
/// A pass takes no longer, nor the wait for it.
const LIMIT: Duration = Duration::from_secs(300);
/// How long latency and processor time are taken together.
const SLICE: Duration = Duration::from_secs(4);

pub fn run(args: &RunArgs, report: &mut Report) -> Result<()> {
    let channels: u64 = args.size(100_000, 10_000);
    let mut redis = connect(args)?;
    redis.call(&[b"FLUSHALL"])?;
    let empty = used_memory(&mut redis)?;
    for n in 0..channels * ENTRIES {
        redis.push_message(&format!("tg:demo:ch:live:{}", n / ENTRIES));
        if n % 256 == 255 {
            redis.flush()?;
        }
    }
    redis.flush()?;
    let filled = used_memory(&mut redis)?;
    pause(OVER);

    let node = Node::over_redis(args, None)?;
    let mut herd = Herd::start(args)?;
    open(&mut herd, &node, CLIENTS as usize, Kind::Acking)?;
    let (began, mut pass) = (Instant::now(), Vec::new());
    while left(&mut redis)? > channels / 100 {
        ensure!(began.elapsed() < LIMIT, "{} streams are still there", left(&mut redis)?);
        pass.push(Slice::measure(args, &mut redis, &node, &mut herd)?);
    }
    let took = began.elapsed();
    let after = used_memory(&mut redis)?;
    // The pass rests now, until a minute after it began or a moment, so some slices are left alone.
    let calm: Vec<Slice> = (0..pass.len().max(3))
        .map(|_| Slice::measure(args, &mut redis, &node, &mut herd))
        .collect::<Result<_>>()?;

    let what = |text: &str| format!("retention, {channels} channels: {text}");
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    report.note(what("Redis memory, filled"), mib(filled - empty), "MiB");
    report.note(what("Redis memory, after the pass"), mib(after.saturating_sub(empty)), "MiB");
    report.note(what("the pass, to a hundredth left"), took.as_secs_f64(), "s");
    for (whose, of) in [("calm", &calm), ("during the pass", &pass)] {
        let of = |value: fn(&Slice) -> f64| median(of.iter().map(value).collect());
        report.note(what(&format!("p50, {whose}")), of(|slice| slice.p50_ms), "ms");
        report.note(what(&format!("p99, {whose}")), of(|slice| slice.p99_ms), "ms");
        report.note(what(&format!("Redis CPU, {whose}")), of(|slice| slice.redis), "%");
        report.note(what(&format!("node CPU, {whose}")), of(|slice| slice.node), "%");
    }
    let p99 = |of: &[Slice]| median(of.iter().map(|slice| slice.p99_ms).collect());
    report.note(what("p99 during the pass to calm"), p99(&pass) / p99(&calm), "x");
    Ok(())
}

/// Some seconds of steady delivery.
struct Slice {
    p50_ms: f64,
    p99_ms: f64,
    /// Processor time of a core, in percent.
    redis: f64,
    node: f64,
}

impl Slice {
    fn measure(args: &RunArgs, redis: &mut Redis, node: &Node, herd: &mut Herd) -> Result<Self> {
        reset(herd)?;
        let (began, redis_before, node_before) =
            (Instant::now(), Cpu::of(args.redis_pid)?, Cpu::of(node.pid())?);
        let key = |n: u64| format!("tg:demo:ch:user:u{}", n % CLIENTS);
        let (sent, _) = publish_at(redis, RATE, SLICE, key)?;
        let answer = expect(herd, sent, SLICE * 4)?;
        ensure!(answer.messages >= sent, "only {} of {sent} messages came", answer.messages);
        let percent = |used: u64| 100.0 * used as f64 / began.elapsed().as_nanos() as f64;
        Ok(Self {
            p50_ms: answer.p50_ms,
            p99_ms: answer.p99_ms,
            redis: percent(Cpu::of(args.redis_pid)?.since(redis_before).all),
            node: percent(Cpu::of(node.pid())?.since(node_before).all),
        })
    }
}

/// Streams that the pass has not removed yet: the clients' own channels are no part of it.
fn left(redis: &mut Redis) -> Result<u64> {
    let keys: u64 = redis.call(&[b"DBSIZE"])?.parse().context("DBSIZE is a number")?;
    Ok(keys.saturating_sub(2 * CLIENTS))
}

fn used_memory(redis: &mut Redis) -> Result<u64> {
    let info = redis.call(&[b"INFO", b"memory"])?;
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
    used.and_then(|bytes| bytes.trim().parse().ok()).context("INFO tells the memory in use")
}
