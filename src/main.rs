//! The `tidegate` command.

use std::process::ExitCode;

use clap::Parser as _;
use tidegate::cli::{self, Cli, CliError, Command};

fn main() -> ExitCode {
    let command = Cli::parse().into_command();
    if let Command::CompilePlugin(args) = command {
        return cli::compile_plugin::run(args);
    }
    // One TLS provider for whatever speaks TLS here. Only a second install would be refused.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidegate: {error:#}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::Dev(args) => cli::node::dev(args),
        Command::Serve(args) => cli::node::serve(&args),
        Command::CheckConfig(args) => cli::check_config::run(&args),
        Command::Token(args) => cli::token::run(&args),
        Command::Client(args) => cli::run_async(cli::client::run(args)),
        Command::Publish(args) => cli::run_async(cli::publish::run(args)),
        Command::Dlq(args) => {
            cli::dlq::check(&args)?;
            cli::run_async(cli::dlq::run(args))
        }
        Command::Plugin(args) => cli::run_async(cli::plugin::run(args)),
        Command::Kick(args) => cli::run_async(cli::kick::run(args)),
        Command::Drain(args) => cli::run_async(cli::drain::run(args)),
        // `main` has run it: it has exit codes of its own.
        Command::CompilePlugin(_) => Ok(()),
    }
}
