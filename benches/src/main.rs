//! Measures a release build of a node against the budgets in the design.
//!
//! The node, the clients and Redis each are processes of their own; what counts is the processor time of
//! the node's threads, which the kernel keeps for each of them, not the time on the wall. Figures that
//! depend on the machine stand beside the same work done without a node, in the same run.

mod args;
mod certificate;
mod herd;
mod host;
mod parts;
mod process;
mod redis;
mod report;

use clap::Parser as _;

use args::{Args, Mode};

fn main() -> anyhow::Result<()> {
    match Args::parse().mode {
        Mode::Herd(args) => herd::run(&args),
        Mode::Run(args) => parts::run(&args),
    }
}
