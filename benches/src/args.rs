//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::herd::HerdArgs;

/// Measures a node against the budgets in the design. Started by `make bench`.
#[derive(Debug, Parser)]
#[command(name = "tidegate-bench")]
pub struct Args {
    /// What this process is.
    #[command(subcommand)]
    pub mode: Mode,
}

/// What a process of the benchmark is.
#[derive(Debug, Subcommand)]
pub enum Mode {
    /// Measure, and print a table.
    Run(RunArgs),
    /// The clients of one measurement; takes its orders from standard input.
    #[command(hide = true)]
    Herd(HerdArgs),
}

const EXAMPLES: &str = "\
Examples:
  make bench
  make bench ARGS='--part calm --part pressure'
  make bench ARGS='--part idle-transports --part fanout-transports --part packets'
  make bench ARGS='--quick --json'";

/// What to measure.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct RunArgs {
    /// Measure only this; may be repeated.
    #[arg(long = "part", value_name = "PART")]
    pub parts: Vec<Part>,
    /// Fewer clients and messages: a look, not a measurement.
    #[arg(long)]
    pub quick: bool,
    /// Print JSON instead of the table.
    #[arg(long)]
    pub json: bool,
    /// The node's binary.
    #[arg(long, value_name = "FILE")]
    pub node: PathBuf,
    /// Port of a Redis on this machine that nobody else uses; its data is deleted.
    #[arg(long, value_name = "PORT")]
    pub redis_port: u16,
    /// That Redis' process, whose processor time is measured.
    #[arg(long, value_name = "PID")]
    pub redis_pid: u32,
    /// Folder of the plugins that are not kept beside their sources.
    #[arg(long, value_name = "DIR")]
    pub guests: PathBuf,
    /// Folder for a file named by the pid of each process that runs.
    #[arg(long, value_name = "DIR")]
    pub pids: PathBuf,
}

/// A measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Memory of an idle WebSocket.
    Memory,
    /// Fan-out, one message at a time, beside a bare send loop.
    Calm,
    /// Fan-out, as much as goes.
    Pressure,
    /// Fan-out beside a client that reads nothing.
    Stalled,
    /// One message to one client, over Redis.
    Unicast,
    /// Clients that come back to their node.
    Reconnect,
    /// Encoding a message.
    Codec,
    /// A hundred thousand channels that nobody reads, and delivery while they are cleared away.
    Retention,
    /// Calls of plugins, new instances and their memory.
    Plugins,
    /// Fan-out with a plugin beside fan-out without.
    Shaped,
    /// Delivery beside another tenant's plugin that misbehaves.
    Isolation,
    /// Memory of an idle session over each transport.
    IdleTransports,
    /// Fan-out over each transport, beside WebSocket.
    FanoutTransports,
    /// UDP packets that the thread of the one QUIC endpoint takes.
    Packets,
}

impl RunArgs {
    /// Whether a part is asked for.
    pub fn wants(&self, part: Part) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }

    /// The full size, or the one of a quick look.
    pub fn size<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}
