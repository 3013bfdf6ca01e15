//! One message to one client: from `XADD` in a real Redis to the client's acknowledgement.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Result;

use super::{expect, open, reset};
use crate::args::RunArgs;
use crate::herd::Kind;
use crate::host::{Cpu, pause};
use crate::process::{Herd, Node};
use crate::redis::{Redis, publish_at};
use crate::report::{Budget, Report};

const RATE: u64 = 20_000;
const BUDGET_REDIS: f64 = 2.2;
const BUDGET_NODE_S: f64 = 16.0;

pub fn run(args: &RunArgs, report: &mut Report) -> Result<()> {
    // A process may open 20,000 files here: what a node takes besides its reserve, and a herd.
    let clients: u64 = args.size(17_000, 2_000);
    let time = Duration::from_secs(args.size(10, 2));
    let mut redis = connect(args)?;
    redis.call(&[b"FLUSHALL"])?;
    // Nobody listens: what `XADD` costs by itself, at this rate and in pipelines as long as those below.
    let bare_key = |n: u64| format!("tg:demo:ch:room:bare-{}", spread(n, clients));
    publish_at(&mut redis, RATE, time / 5, bare_key)?;
    let before = Cpu::of(args.redis_pid)?;
    let (bare_sent, _) = publish_at(&mut redis, RATE, time, bare_key)?;
    let bare = Cpu::of(args.redis_pid)?.since(before).all as f64 / bare_sent as f64;

    let node = Node::over_redis(args, None)?;
    let mut herd = Herd::start(args)?;
    open(&mut herd, &node, clients as usize, Kind::Acking)?;
    pause(Duration::from_secs(1));
    let key = |n: u64| format!("tg:demo:ch:user:u{}", spread(n, clients));
    let (sent, _) = publish_at(&mut redis, RATE, time / 5, key)?;
    expect(&mut herd, sent, Duration::from_secs(3))?;
    reset(&mut herd)?;
    let (redis_before, node_before) = (Cpu::of(args.redis_pid)?, Cpu::of(node.pid())?);
    let calls_before = redis.commands()?;
    let (sent, took) = publish_at(&mut redis, RATE, time, key)?;
    let answer = expect(&mut herd, sent, Duration::from_secs(3))?;
    let calls = difference(&calls_before, &redis.commands()?);
    let redis_used = Cpu::of(args.redis_pid)?.since(redis_before).all as f64 / sent as f64;
    let node_used = Cpu::of(node.pid())?.since(node_before);
    // A microsecond a message is a second a million.
    let seconds = |used: u64| used as f64 / sent as f64 / 1000.0;

    let what = |text: &str| format!("unicast, {clients} channels: {text}");
    report.note(what("messages sent"), sent as f64 / took.as_secs_f64(), "/s");
    report.note(what("messages that came"), 100.0 * answer.messages as f64 / sent as f64, "%");
    report.note(what("bare XADD, Redis CPU"), bare / 1000.0, "us");
    let most = Budget::Most(BUDGET_REDIS);
    report.hold(what("Redis CPU to bare XADD"), redis_used / bare, "x", most);
    let most = Budget::Most(BUDGET_NODE_S);
    report.hold(what("node CPU a million messages"), seconds(node_used.all), "s", most);
    report.note(what("of that the shards"), seconds(node_used.shards), "s");
    report.note(what("p50"), answer.p50_ms, "ms");
    report.note(what("p99"), answer.p99_ms, "ms");
    for (command, count) in calls.iter().filter(|(_, count)| **count * 100 > sent) {
        report.note(what(&format!("{command} a message")), *count as f64 / sent as f64, "");
    }
    Ok(())
}

/// The Redis of the run.
pub fn connect(args: &RunArgs) -> Result<Redis> {
    Redis::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, args.redis_port)))
}

/// How often each command was called between two looks.
pub fn difference(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let since =
        |(name, count): (&String, &u64)| (name.clone(), count - before.get(name).copied().unwrap_or(0));
    after.iter().map(since).filter(|(_, count)| *count > 0).collect()
}

/// Goes through the channels in an order that is not that of their making.
fn spread(n: u64, channels: u64) -> u64 {
    n.wrapping_mul(7_919) % channels
}
