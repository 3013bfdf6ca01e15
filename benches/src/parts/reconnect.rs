//! Clients that lose their connection and come back to the node that has their session.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::unicast::{connect, difference};
use super::{open, reset};
use crate::args::RunArgs;
use crate::herd::{Kind, Order};
use crate::host::{Cpu, pause};
use crate::process::{Herd, Node};
use crate::report::{Budget, Report};

const BUDGET_US: f64 = 100.0;

pub fn run(args: &RunArgs, report: &mut Report) -> Result<()> {
    let clients = args.size(4_000, 500);
    let mut redis = connect(args)?;
    redis.call(&[b"FLUSHALL"])?;
    let node = Node::over_redis(args, None)?;
    let mut herd = Herd::start(args)?;
    open(&mut herd, &node, clients, Kind::Device)?;
    pause(Duration::from_secs(1));

    // What the node does all the time, to be taken off.
    let (idle_from, cpu_idle, calls_idle) = (Instant::now(), Cpu::of(node.pid())?, redis.commands()?);
    pause(Duration::from_secs(args.size(4, 1)));
    let idle_s = idle_from.elapsed().as_secs_f64();
    let cpu_idle = Cpu::of(node.pid())?.since(cpu_idle).all as f64 / idle_s;
    let calls_idle = difference(&calls_idle, &redis.commands()?);

    reset(&mut herd)?;
    let (from, cpu, calls) = (Instant::now(), Cpu::of(node.pid())?, redis.commands()?);
    let answer = herd.order(&Order::Reopen)?;
    let took_s = from.elapsed().as_secs_f64();
    let cpu = Cpu::of(node.pid())?.since(cpu).all as f64 - cpu_idle * took_s;
    let calls = difference(&calls, &redis.commands()?);
    ensure!(answer.home > 0, "no session was kept");

    let each = |count: f64| count / clients as f64;
    let what = |text: &str| format!("reconnect, {clients} clients: {text}");
    let most = Budget::Most(BUDGET_US);
    report.hold(what("CPU a resume"), each(cpu) / 1000.0, "us", most);
    report.note(what("sessions kept"), 100.0 * each(answer.home as f64), "%");
    let mut all = 0.0;
    for (command, count) in &calls {
        let idle = calls_idle.get(command).copied().unwrap_or(0) as f64 / idle_s * took_s;
        let own = (*count as f64 - idle).max(0.0);
        // The measurement's own look is one command.
        if command != "info" {
            all += own;
            if each(own) >= 0.01 {
                report.note(what(&format!("{command} a resume")), each(own), "");
            }
        }
    }
    report.hold(what("Redis commands a resume"), each(all), "", Budget::Most(BUDGET_COMMANDS));
    Ok(())
}

/// The read of what is new, and some for the background's jitter.
const BUDGET_COMMANDS: f64 = 1.05;
