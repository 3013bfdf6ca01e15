//! Python: `componentize-py`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use toml::Table;

use super::{Recipe, is_there, succeed};

pub(super) fn build(folder: &Path, out: Option<PathBuf>) -> Result<PathBuf> {
    let recipe = recipe(folder)?;
    let out = recipe.out(folder, out);
    let tool = tool(folder)?;
    eprintln!("building {}: this takes half a minute", recipe.name);
    let mut command = Command::new(tool);
    command.arg("--wit-path").arg(&recipe.wit).args(["--world", &recipe.world, "--quiet", "componentize"]);
    command.arg(&recipe.main).arg("--output").arg(&out).current_dir(folder);
    succeed(&mut command, "componentize-py")?;
    Ok(out)
}

fn recipe(folder: &Path) -> Result<Recipe> {
    const FILE: &str = "pyproject.toml";
    let text = std::fs::read_to_string(folder.join(FILE)).context(FILE)?;
    let project: Table = text.parse().context(FILE)?;
    let text = |path: &[&str]| {
        let mut table = &project;
        let (last, folders) = path.split_last()?;
        for name in folders {
            table = table.get(*name)?.as_table()?;
        }
        table.get(*last)?.as_str()
    };
    let ours = |name| text(&["tool", "tidegate", name]);
    let main = ours("module").unwrap_or("app");
    Recipe::new(folder, FILE, text(&["project", "name"]), main, ours("wit"), ours("world"))
}

fn tool(folder: &Path) -> Result<String> {
    const NAME: &str = "componentize-py";
    let own = folder.join(".venv/bin").join(NAME).to_string_lossy().into_owned();
    let named = std::env::var("TIDEGATE_COMPONENTIZE_PY").ok();
    match [Some(own), named, Some(NAME.to_owned())].into_iter().flatten().find(|tool| is_there(tool)) {
        Some(tool) => Ok(tool),
        None => bail!(
            "componentize-py is not there: run `python3 -m venv .venv && .venv/bin/pip install \
             componentize-py==0.25.1` in {} (or name it in TIDEGATE_COMPONENTIZE_PY)",
            folder.display()
        ),
    }
}
