//! `tidegate plugin`: writes, builds and tries plugins, and brings them to a node. One file a command.

use anyhow::Result;
use clap::{Args, Subcommand};

use super::args::{DEFAULT_ADMIN_URL, DEFAULT_TENANT};
use super::{CliError, run_async};
use crate::config::Secret;
use crate::domain::{PluginName, TenantId};

pub mod build;
pub mod check;
mod list;
mod logs;
pub mod new;
mod node;
mod push;
mod replay;
pub mod samples;
mod switch;
pub mod test;
mod workshop;

pub use logs::LogsArgs;
pub use push::PushArgs;
pub use replay::ReplayArgs;
pub use switch::{ActivateArgs, CanaryArgs, PlainArgs, RemoveArgs};

pub(super) const PLUGIN_EXAMPLES: &str = "\
Examples:
  export TIDEGATE_URL=http://127.0.0.1:8081 TIDEGATE_KEY=demo-key
  tidegate plugin push filter.wasm --name filter --set words=spam,eggs
  tidegate plugin activate filter
  tidegate plugin push filter.wasm --name filter && tidegate plugin canary filter 10%
  tidegate plugin replay filter --channel room:1 --count 500
  tidegate plugin rollback filter
  tidegate plugin logs -f

--url is the node's admin address, --key an API key of the tenant (or the operators' token). A version is named by
the first digits of its hash; where none is named, the one that was uploaded last is meant.";

/// What to do about plugins.
#[derive(Debug, Clone, Args)]
pub struct PluginArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: PluginCommand,
}

/// What to do about plugins.
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
    /// Upload a component, and wait until all nodes have it ready.
    Push(PushArgs),
    /// List plugins and their versions: what is on, and where they are ready.
    List(ListArgs),
    /// Give everything to a version. It takes effect within a second, on all nodes at one moment.
    Activate(ActivateArgs),
    /// Try a version with a part of all sessions and entries.
    Canary(CanaryArgs),
    /// Bring back what was on before the last change of a plugin.
    Rollback(PlainArgs),
    /// Switch a plugin off.
    Deactivate(PlainArgs),
    /// Remove a version that is not on.
    Remove(RemoveArgs),
    /// Print what the tenant's plugins say on one node.
    Logs(LogsArgs),
    /// Show what a version would make of the last messages of a channel, and deliver nothing.
    Replay(ReplayArgs),
}

/// Which node to ask, and as whom.
#[derive(Debug, Clone, Args)]
pub struct PluginNodeArgs {
    /// The node's admin address.
    #[arg(long, env = "TIDEGATE_URL", default_value = DEFAULT_ADMIN_URL)]
    pub url: String,
    /// An API key of the tenant.
    #[arg(long, env = "TIDEGATE_KEY", hide_env_values = true)]
    pub key: Secret,
    /// The tenant.
    #[arg(long, default_value = DEFAULT_TENANT)]
    pub tenant: TenantId,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// What to list.
#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    /// The node.
    #[command(flatten)]
    pub node: PluginNodeArgs,
    /// Only this plugin.
    pub name: Option<PluginName>,
}

/// Runs the command.
///
/// # Errors
/// When it did not do what was asked, with what the node said where one was asked; a plugin that fails is one, too.
pub fn run(args: PluginArgs) -> Result<(), CliError> {
    match args.command {
        PluginCommand::New(args) => new::run(&args),
        PluginCommand::Build(args) => Ok(build::run(&args)?),
        PluginCommand::Check(args) => check::run(&args),
        PluginCommand::Test(args) => test::run(&args),
        PluginCommand::Push(args) => run_async(push::push(args)),
        PluginCommand::List(args) => run_async(list::list(args)),
        PluginCommand::Activate(args) => run_async(switch::activate(args)),
        PluginCommand::Canary(args) => run_async(switch::canary(args)),
        PluginCommand::Rollback(args) => run_async(switch::plain("rollback", args)),
        PluginCommand::Deactivate(args) => run_async(switch::plain("deactivate", args)),
        PluginCommand::Remove(args) => run_async(switch::remove(args)),
        PluginCommand::Logs(args) => run_async(logs::logs(args)),
        PluginCommand::Replay(args) => run_async(replay::replay(args)),
    }
}

/// The beginning of a version's hash, as people read it.
fn short(version: &serde_json::Value) -> &str {
    let version = version.as_str().unwrap_or_default();
    version.get(..12).unwrap_or(version)
}
