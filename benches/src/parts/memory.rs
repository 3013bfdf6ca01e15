//! Memory of an idle WebSocket: how the node's grows from one number of connections to a larger one.

use std::time::Duration;

use anyhow::Result;

use super::open;
use crate::args::RunArgs;
use crate::herd::Kind;
use crate::host::{pause, resident};
use crate::process::{Herd, Node};
use crate::report::{Budget, Report};

const BUDGET_KB: f64 = 5.0;

pub fn run(args: &RunArgs, report: &mut Report) -> Result<()> {
    let (few, many) = args.size((5_000, 15_000), (500, 3_000));
    for (kind, what, budget) in [
        (Kind::Own, "memory of an idle WebSocket, its user's channel", Some(BUDGET_KB)),
        (Kind::Room, "memory of an idle WebSocket, room and own channel", None),
    ] {
        let node = Node::embedded(args, None)?;
        let mut herd = Herd::start(args)?;
        let each = slope(&node, &mut herd, kind, few, many)?;
        match budget {
            Some(most) => report.hold(what, each, "kB", Budget::Most(most)),
            None => report.note(what, each, "kB"),
        }
    }
    Ok(())
}

/// How the node's memory grows with each client, in kB, from the first numbers to the second. The herd has
/// none yet.
pub fn slope(node: &Node, herd: &mut Herd, kind: Kind, few: usize, many: usize) -> Result<f64> {
    open(herd, node, few, kind)?;
    let before = settled(node)?;
    open(herd, node, many - few, kind)?;
    let grown = settled(node)?.saturating_sub(before);
    Ok(grown as f64 / (many - few) as f64 / 1000.0)
}

/// Memory once handshakes are over and forgotten.
fn settled(node: &Node) -> Result<u64> {
    pause(Duration::from_secs(2));
    resident(node.pid())
}
