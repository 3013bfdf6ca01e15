//! `tidegate plugin check`: what a node would say to a component.

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::workshop::{Plan, Workshop, WorkshopArgs, size, time};
use crate::cli::{CliError, run_async};
use crate::plugin::inspect::is_inert;
use crate::plugin::{Hook, Prepared, Scope};

pub(super) const EXAMPLES: &str = "\
Examples:
  tidegate plugin check filter.wasm
  tidegate plugin check filter.wasm --set words=damn,heck --json
  tidegate plugin check filter.wasm --config tidegate.toml --tenant acme

The component is inspected, compiled and started once, by what does it in a node. A component that a node would
not take is refused in the same words, with exit code 1.";

/// What to check.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// The component and what it is given.
    #[command(flatten)]
    pub workshop: WorkshopArgs,
}

/// Runs the command.
pub(super) fn run(args: &CheckArgs) -> Result<(), CliError> {
    let plan = Plan::new(&args.workshop)?;
    run_async(check(args, plan))
}

async fn check(args: &CheckArgs, plan: Plan) -> Result<()> {
    let shop = Workshop::open(plan).await?;
    if args.workshop.json {
        println!("{}", as_json(&shop));
    } else {
        print!("{}", as_text(args, &shop));
    }
    Ok(())
}

fn as_text(args: &CheckArgs, shop: &Workshop) -> String {
    let prepared = shop.plugin.prepared();
    let hooks: Vec<String> = prepared.hooks.iter().map(described).collect();
    let (used, inert) = imports(prepared);
    let mut lines = vec![
        format!("{} is good", args.workshop.file.display()),
        format!("  version   {}", prepared.hash),
        format!("  hooks     {}", hooks.join(", ")),
        format!("  imports   {}", if used.is_empty() { "nothing".to_owned() } else { used.join(", ") }),
    ];
    if !inert.is_empty() {
        let asks = used.iter().any(|import| import.starts_with("wasi:http/"));
        let (word, why) =
            if asks { ("wasi", "and wait for its requests") } else { ("inert", "which do nothing here") };
        lines.push(format!("  {word:<9} {} of its runtime's, {why}", inert.len()));
    }
    let limits = &shop.limits;
    lines.extend([
        format!("  size      {} of {}", size(prepared.code_bytes), size(limits.code_bytes)),
        format!("  compiled  {}, ready in {}", size(prepared.compiled_bytes), time(shop.took)),
        format!("  start     {}", time(prepared.start)),
        format!("  memory    {} of {}", size(prepared.start_bytes), size(limits.memory_bytes)),
    ]);
    // What it says when it starts.
    let (said, _) = shop.log.read(0);
    lines.extend(said.iter().map(|line| format!("  log       {}: {}", line.level.word(), line.message)));
    lines.join("\n") + "\n"
}

fn as_json(shop: &Workshop) -> serde_json::Value {
    let prepared = shop.plugin.prepared();
    let (said, _) = shop.log.read(0);
    json!({
        "version": prepared.hash.to_string(),
        "hooks": prepared.hooks.iter().map(Hook::interface).collect::<Vec<_>>(),
        "scope": prepared.hooks.scope().map(scope),
        "imports": prepared.imports,
        "code_bytes": prepared.code_bytes,
        "compiled_bytes": prepared.compiled_bytes,
        "ready_ms": shop.took.as_secs_f64() * 1e3,
        "start_us": prepared.start.as_secs_f64() * 1e6,
        "memory_bytes": prepared.start_bytes,
        "log": said.iter().map(|line| json!({"level": line.level.word(), "message": line.message})).collect::<Vec<_>>(),
    })
}

fn described(hook: Hook) -> String {
    match hook.scope() {
        Some(of) => format!("{} (once a {})", hook.interface(), each(of)),
        None => hook.interface().to_owned(),
    }
}

fn each(scope: Scope) -> &'static str {
    match scope {
        Scope::Message => "message",
        Scope::Class => "message and class",
        Scope::Session => "message and session",
    }
}

fn scope(scope: Scope) -> &'static str {
    match scope {
        Scope::Message => "message",
        Scope::Class => "class",
        Scope::Session => "session",
    }
}

/// Imports that do something, and those that are there for runtimes of languages.
fn imports(prepared: &Prepared) -> (Vec<&str>, Vec<&str>) {
    let package = |import: &&str| is_inert(import.split_once('/').map_or("", |(package, _)| package));
    let (inert, used): (Vec<&str>, Vec<&str>) =
        prepared.imports.iter().map(|import| &**import).partition(package);
    // Interfaces of types alone.
    let used =
        used.into_iter().filter(|name| !name.contains("plugin/types@") && !name.contains("plugin/delivery@"));
    (used.collect(), inert)
}
