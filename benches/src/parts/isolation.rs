//! A tenant's deliveries beside another tenant's plugin that loops, allocates, traps or floods its log: how much later
//! they come than beside nobody. Both tenants' messages pass plugins, which share the workers.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::plugins::PROBE;
use super::{ROOM, expect, open, reset};
use crate::args::RunArgs;
use crate::herd::{Answer, Kind};
use crate::host::pause;
use crate::process::{Herd, Node};
use crate::redis::Redis;
use crate::report::{Report, median};

const SUBSCRIBERS: usize = 100;
/// Channels of the other tenant, so that its plugin could be called on all workers at once.
const CHANNELS: usize = 4;
/// Between two messages of the quiet tenant, and between two of the other one in each of its channels.
const PACE: Duration = Duration::from_millis(5);
const TURNS: usize = 5;

pub fn run(args: &RunArgs, report: &mut Report) -> Result<()> {
    let node = Node::embedded(args, Some(1))?;
    let mut redis = Redis::connect(node.resp.context("the backbone is embedded")?)?;
    let mut herd = Herd::start(args)?;
    open(&mut herd, &node, SUBSCRIBERS, Kind::Room)?;
    let rooms: Vec<String> = (0..CHANNELS).map(|n| format!("room:{n}")).collect();
    let listeners: Result<Vec<_>> = rooms.iter().map(|room| node.listener(args, "noisy", room)).collect();
    let _listeners = listeners?;
    // Their subscriptions announce themselves to nobody here.
    pause(Duration::from_secs(1));
    // Afterwards, because the plugin wants tokens of whoever comes.
    node.put_on("demo", PROBE)?;
    node.put_on("noisy", PROBE)?;
    for (word, what) in [
        ("plain", "works as it should"),
        ("spin", "loops"),
        ("bloat", "allocates"),
        ("trap", "traps"),
        ("flood", "floods its log"),
    ] {
        let (mut p50, mut p99) = (Vec::new(), Vec::new());
        for turn in 0..=TURNS {
            let calm = turn_of(&mut redis, &mut herd, args, None)?;
            let beside = turn_of(&mut redis, &mut herd, args, Some((&rooms, word)))?;
            if turn > 0 {
                p50.push(beside.p50_ms / calm.p50_ms);
                p99.push(beside.p99_ms / calm.p99_ms);
            }
        }
        report.note(format!("beside a plugin that {what}: p50 to undisturbed"), median(p50), "x");
        report.note(format!("beside a plugin that {what}: p99 to undisturbed"), median(p99), "x");
    }
    Ok(())
}

/// Messages at a pace, with those of the other tenant between them.
fn turn_of(
    redis: &mut Redis,
    herd: &mut Herd,
    args: &RunArgs,
    noise: Option<(&[String], &str)>,
) -> Result<Answer> {
    reset(herd)?;
    let messages: u64 = args.size(200, 40);
    let mut next = Instant::now();
    for _ in 0..messages {
        for room in noise.iter().flat_map(|(rooms, _)| rooms.iter()) {
            let (key, word) = (format!("tg:noisy:ch:{room}"), noise.map_or("", |(_, word)| word));
            redis.push(&[b"XADD", key.as_bytes(), b"*", b"data", word.as_bytes()]);
        }
        redis.push_message(ROOM);
        redis.flush()?;
        next += PACE;
        pause(next.saturating_duration_since(Instant::now()));
    }
    let answer = expect(herd, messages * SUBSCRIBERS as u64, Duration::from_secs(60))?;
    ensure!(answer.messages >= messages * SUBSCRIBERS as u64, "only {} messages came", answer.messages);
    Ok(answer)
}
