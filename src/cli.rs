//! The command line: arguments, one file a command. `main` picks the command and ends with its code.

use crate::config::ConfigErrors;

pub mod args;
pub mod call;
pub mod check_config;
pub mod client;
pub mod compile_plugin;
pub mod dlq;
pub mod drain;
pub mod kick;
pub mod lifetime;
pub mod load;
pub mod node;
pub mod plugin;
pub mod publish;
pub mod token;

pub use args::{
    AdminArgs, CheckConfigArgs, Cli, ClientArgs, CodecArg, Command, CompilePluginArgs, DlqArgs, DrainArgs,
    KickArgs, NodeArgs, PublishArgs, TokenArgs,
};
pub use load::load;

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The arguments do not make sense together, or for what they name.
    #[error("{0}")]
    Usage(String),
    /// The configuration is not valid.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// Something failed while running.
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

impl CliError {
    /// The exit code: public API, as scripts and service managers look at it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) | Self::Config(_) => 2,
        }
    }
}

/// Runs a command that talks to a node.
pub fn run_async(command: impl Future<Output = anyhow::Result<()>>) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(anyhow::Error::from)?.block_on(command)?)
}

/// The real environment.
fn environment(variable: &str) -> Option<String> {
    std::env::var(variable).ok()
}

#[cfg(test)]
mod tests;
