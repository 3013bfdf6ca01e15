//! `tidegate compile-plugin`, hidden: a node's own process for compiling.

use std::process::ExitCode;

use super::CompilePluginArgs;
use crate::plugin::compile::child::{self, Order};

/// Runs the command.
pub fn run(args: CompilePluginArgs) -> ExitCode {
    let CompilePluginArgs { input, output, memory_bytes, seconds } = args;
    ExitCode::from(child::run(&Order { input, output, memory_bytes, seconds }))
}
