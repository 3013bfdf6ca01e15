//! `tidegate plugin`: uploads versions of plugins to a node, switches them, and shows what they do.

use anyhow::Result;
use clap::{Args, Subcommand};

use super::args::{DEFAULT_ADMIN_URL, DEFAULT_TENANT};
use crate::config::Secret;
use crate::domain::{PluginName, TenantId};

mod list;
mod logs;
mod node;
mod push;
mod replay;
mod switch;

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

/// Runs the command. Dropping the future may leave done what was asked for.
///
/// # Errors
/// When the node does not do it, with what it said.
pub async fn run(args: PluginArgs) -> Result<()> {
    match args.command {
        PluginCommand::Push(args) => push::push(args).await,
        PluginCommand::List(args) => list::list(args).await,
        PluginCommand::Activate(args) => switch::activate(args).await,
        PluginCommand::Canary(args) => switch::canary(args).await,
        PluginCommand::Rollback(args) => switch::plain("rollback", args).await,
        PluginCommand::Deactivate(args) => switch::plain("deactivate", args).await,
        PluginCommand::Remove(args) => switch::remove(args).await,
        PluginCommand::Logs(args) => logs::logs(args).await,
        PluginCommand::Replay(args) => replay::replay(args).await,
    }
}

/// The beginning of a version's hash, as people read it.
fn short(version: &serde_json::Value) -> &str {
    let version = version.as_str().unwrap_or_default();
    version.get(..12).unwrap_or(version)
}
