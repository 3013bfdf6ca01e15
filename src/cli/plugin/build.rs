//! `tidegate plugin build`: finds the language of a folder and its tools, and runs them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use super::new::Language;
use super::workshop::size;
use crate::config::MAX_PLUGIN_MEMORY;
use crate::plugin::inspect::inspect;

mod javascript;
mod python;
mod rust;

pub(super) const EXAMPLES: &str = "\
Examples:
  tidegate plugin build
  tidegate plugin build plugins/transformer-js --out /tmp/transformer.wasm

The language is told by what lies in the folder: Cargo.toml, package.json or pyproject.toml. What is needed:
  Rust        cargo, and `rustup target add wasm32-wasip2`
  JavaScript  Node.js, and `npm install` in the folder (or TIDEGATE_JS_TOOLS, a folder with node_modules)
  Python      componentize-py, in the folder's .venv, in PATH or as TIDEGATE_COMPONENTIZE_PY";

/// What to build.
#[derive(Debug, Clone, Args)]
pub struct BuildArgs {
    /// The plugin's folder.
    #[arg(value_name = "FOLDER", default_value = ".")]
    pub folder: PathBuf,
    /// Where the component goes [default: into the folder, by the plugin's name].
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// Where a tool is missing, with the line that installs it, or fails.
pub(super) fn run(args: &BuildArgs) -> Result<()> {
    let folder = args.folder.as_path();
    let folder = folder.canonicalize().with_context(|| format!("there is no folder {}", folder.display()))?;
    // The tools run in the plugin's folder.
    let out = args.out.as_deref().map(std::path::absolute).transpose()?;
    let out = match language(&folder)? {
        Language::Rust => rust::build(&folder, out)?,
        Language::Js => javascript::build(&folder, out)?,
        Language::Python => python::build(&folder, out)?,
    };
    let bytes = std::fs::read(&out).with_context(|| format!("{} was not built", out.display()))?;
    println!("{}: {}", out.display(), size(bytes.len()));
    // Whether it may be as large as it is each node decides; here it is told what else is wrong.
    let inspected = inspect(&bytes, MAX_PLUGIN_MEMORY).context("it was built, but no node would take it")?;
    let hooks: Vec<&str> = inspected.hooks.iter().map(|hook| hook.interface()).collect();
    println!("hooks: {}", hooks.join(", "));
    Ok(())
}

fn language(folder: &Path) -> Result<Language> {
    for (file, language) in
        [("Cargo.toml", Language::Rust), ("package.json", Language::Js), ("pyproject.toml", Language::Python)]
    {
        if folder.join(file).exists() {
            return Ok(language);
        }
    }
    bail!(
        "{} has no Cargo.toml, package.json or pyproject.toml: `tidegate plugin new` writes a plugin to begin with",
        folder.display()
    )
}

/// What a plugin's own file says of how it is built. Paths are relative to the folder.
struct Recipe {
    name: String,
    /// The file or module that the plugin is in.
    main: String,
    wit: PathBuf,
    world: String,
}

impl Recipe {
    /// Reads it from the file's JSON: `name`, `main`, and `tidegate` with `wit` and `world`.
    fn new(
        folder: &Path,
        file: &str,
        name: Option<&str>,
        main: &str,
        wit: Option<&str>,
        world: Option<&str>,
    ) -> Result<Self> {
        let name = name.with_context(|| format!("{file} has no name"))?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        ensure!(
            !name.is_empty() && name.chars().all(plain),
            "{file}: the name must be letters, digits, - and _"
        );
        let wit = folder.join(wit.unwrap_or("wit"));
        let wit = wit.canonicalize().with_context(|| {
            format!("{file} says that the contract is in {}, and there is none", wit.display())
        })?;
        Ok(Self {
            name: name.to_owned(),
            main: main.to_owned(),
            wit,
            world: world.unwrap_or("plugin").to_owned(),
        })
    }

    fn out(&self, folder: &Path, out: Option<PathBuf>) -> PathBuf {
        out.unwrap_or_else(|| folder.join(format!("{}.wasm", self.name)))
    }
}

/// Runs a tool that says itself what is wrong with the plugin.
fn succeed(command: &mut Command, what: &str) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.stdin(Stdio::null()).status();
    let status = status.with_context(|| format!("{program} cannot be started"))?;
    ensure!(status.success(), "{what} failed; what it says stands above");
    Ok(())
}

/// Whether a program is there to be run.
fn is_there(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
