//! `tidegate plugin`: one file a command.

use clap::{Args, Subcommand};

use super::CliError;

pub mod build;
pub mod check;
pub mod new;
pub mod samples;
pub mod test;
mod workshop;

/// What to do with plugins.
#[derive(Debug, Clone, Args)]
pub struct PluginArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: PluginCommand,
}

/// What to do with plugins.
#[derive(Debug, Clone, Subcommand)]
pub enum PluginCommand {
    /// Write a small plugin to begin with. Needs no node.
    #[command(after_help = new::EXAMPLES)]
    New(new::NewArgs),
    /// Make a component of a plugin's sources, with the tools of its language. Needs no node.
    #[command(after_help = build::EXAMPLES)]
    Build(build::BuildArgs),
    /// Look at a component as a node does: what it has, what it takes, or what is wrong. Needs no node.
    #[command(after_help = check::EXAMPLES)]
    Check(check::CheckArgs),
    /// Show sample messages to a component and print what it answers. Needs no node.
    #[command(after_help = test::EXAMPLES)]
    Test(test::TestArgs),
}

/// Runs the command.
///
/// # Errors
/// When it did not do what was asked; a plugin that fails is one, too.
pub fn run(args: PluginArgs) -> Result<(), CliError> {
    match args.command {
        PluginCommand::New(args) => new::run(&args),
        PluginCommand::Build(args) => Ok(build::run(&args)?),
        PluginCommand::Check(args) => check::run(&args),
        PluginCommand::Test(args) => test::run(&args),
    }
}
