//! JavaScript: `componentize-js` in Node.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{Recipe, is_there, succeed};

/// What Node is told to do: the package's one function, with nothing of the system in the component.
const SCRIPT: &str = include_str!("componentize.mjs");
/// Where the package's function is, within `node_modules`.
const MODULE: &str = "@bytecodealliance/componentize-js/src/componentize.js";

pub(super) fn build(folder: &Path, out: Option<PathBuf>) -> Result<PathBuf> {
    let recipe = recipe(folder)?;
    let out = recipe.out(folder, out);
    ensure!(is_there("node"), "node is not there: install Node.js 20 or newer, https://nodejs.org");
    let module = module(folder)?;
    let source = folder.join(&recipe.main);
    ensure!(source.is_file(), "package.json says that `main` is {}, which is not there", recipe.main);
    let mut command = Command::new("node");
    command.args(["--input-type=module", "--eval", SCRIPT, "--"]).arg(module).arg(source);
    command.arg(&recipe.wit).arg(&recipe.world).arg(&out).current_dir(folder);
    eprintln!("building {}: this takes half a minute", recipe.name);
    succeed(&mut command, "componentize-js")?;
    Ok(out)
}

fn recipe(folder: &Path) -> Result<Recipe> {
    const FILE: &str = "package.json";
    let text = std::fs::read_to_string(folder.join(FILE)).context(FILE)?;
    let package: Value = serde_json::from_str(&text).context(FILE)?;
    let (main, ours) = (package["main"].as_str().unwrap_or("plugin.js"), &package["tidegate"]);
    Recipe::new(folder, FILE, package["name"].as_str(), main, ours["wit"].as_str(), ours["world"].as_str())
}

fn module(folder: &Path) -> Result<PathBuf> {
    // As Node looks for packages: here, and in the folders around.
    let mut places: Vec<PathBuf> = folder.ancestors().map(Path::to_owned).collect();
    places.extend(std::env::var_os("TIDEGATE_JS_TOOLS").map(PathBuf::from));
    let found =
        places.into_iter().map(|place| place.join("node_modules").join(MODULE)).find(|file| file.is_file());
    match found {
        Some(file) => Ok(file),
        None => bail!(
            "componentize-js is not there: run `npm install` in {} (or name a folder with node_modules in \
             TIDEGATE_JS_TOOLS)",
            folder.display()
        ),
    }
}
