//! `tidegate plugin new`: a small plugin to begin with.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use super::samples;
use crate::cli::CliError;
use crate::domain::PluginName;
use crate::plugin::{Hook, Hooks};
use crate::telemetry::Label as _;

mod templates;

pub(super) const EXAMPLES: &str = "\
Examples:
  tidegate plugin new filter --lang rust --hook on-publish
  tidegate plugin new transformer --lang js
  tidegate plugin new gate --lang python --hook authenticate --hook on-subscribe

It writes sources, samples, a README and the contract (wit/) into a new folder of that name.";

/// What to write.
#[derive(Debug, Clone, Args)]
pub struct NewArgs {
    /// The plugin's name, which is the new folder's too: small letters, digits and `-`.
    #[arg(value_parser = parse_name)]
    pub name: PluginName,
    /// The language.
    #[arg(long, value_enum)]
    pub lang: Language,
    /// A hook that it has; one on-deliver hook at most. May be repeated.
    #[arg(long = "hook", value_name = "HOOK", default_value = "on-deliver", value_parser = parse_hook)]
    pub hooks: Vec<Hook>,
    /// The folder in which the new one is made.
    #[arg(long = "in", value_name = "FOLDER", default_value = ".")]
    pub parent: PathBuf,
}

/// A language that plugins are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Language {
    /// Rust: small and fast, some 80 KB.
    Rust,
    /// JavaScript, with its engine: 12 MB.
    #[value(alias = "javascript")]
    Js,
    /// Python, with its interpreter: 18 MB.
    #[value(alias = "py")]
    Python,
}

/// Runs the command.
pub(super) fn run(args: &NewArgs) -> Result<(), CliError> {
    let hooks = hooks(args)?;
    let folder = args.parent.join(args.name.as_str());
    if folder.exists() {
        let what = format!("{} is there already: choose another name, or remove it", folder.display());
        return Err(CliError::Usage(what));
    }
    for (path, text) in files(args.name.as_str(), args.lang, hooks) {
        write(&folder.join(path), &text)?;
    }
    println!("{} is written. Now:", folder.display());
    println!("  cd {}", folder.display());
    if let Some(tools) = tools(args.lang) {
        println!("  {tools}");
    }
    println!("  tidegate plugin build");
    println!("  tidegate plugin test {}.wasm --samples samples.jsonl", args.name);
    Ok(())
}

fn hooks(args: &NewArgs) -> Result<Hooks, CliError> {
    let hooks = args.hooks.iter().fold(Hooks::default(), |hooks, hook| hooks.with(*hook));
    let scopes: Vec<&str> = hooks.iter().filter(|hook| hook.scope().is_some()).map(Hook::interface).collect();
    if scopes.len() > 1 {
        let what = format!("a plugin has one of the on-deliver hooks at most, not {}", scopes.join(" and "));
        return Err(CliError::Usage(what));
    }
    Ok(hooks)
}

/// What has to be installed in the new folder before it can be built.
fn tools(language: Language) -> Option<&'static str> {
    match language {
        Language::Rust => None,
        Language::Js => Some("npm install"),
        Language::Python => Some("python3 -m venv .venv && .venv/bin/pip install componentize-py==0.25.1"),
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let what = || format!("{} cannot be written", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(what)?;
    }
    std::fs::write(path, text).with_context(what)
}

/// All files of a new plugin.
fn files(name: &str, language: Language, hooks: Hooks) -> Vec<(String, String)> {
    let fill = |text: &str| text.replace("%NAME%", name);
    let mut files: Vec<(String, String)> = match language {
        Language::Rust => rust(hooks),
        Language::Js => js(hooks),
        Language::Python => python(hooks),
    };
    files.push(("README.md".into(), readme(language, hooks)));
    let ignored = "/target\n/node_modules\n/.venv\n__pycache__/\n/wit_world\n";
    files.push((".gitignore".into(), ignored.into()));
    for (_, text) in &mut files {
        *text = fill(text);
    }
    files.push(("samples.jsonl".into(), samples::lines(hooks)));
    files.push(("wit/world.wit".into(), world(hooks)));
    files.extend(templates::WIT.iter().map(|(path, text)| (format!("wit/deps/{path}"), (*text).into())));
    files
}

fn world(hooks: Hooks) -> String {
    let mut exports = String::new();
    for hook in hooks.iter() {
        let _ = writeln!(exports, "    export tidegate:plugin/{}@0.1.0;", hook.interface());
    }
    templates::WORLD.replace("%EXPORTS%", &exports)
}

fn readme(language: Language, hooks: Hooks) -> String {
    let (name, source, tools) = match language {
        Language::Rust => ("Rust", "src/", templates::RUST_TOOLS),
        Language::Js => ("JavaScript", "plugin.js", templates::JS_TOOLS),
        Language::Python => ("Python", "app.py", templates::PY_TOOLS),
    };
    let hooks: Vec<String> = hooks.iter().map(|hook| format!("`{}`", hook.interface())).collect();
    templates::README
        .replace("%LANGUAGE%", name)
        .replace("%HOOKS%", &hooks.join(", "))
        .replace("%TOOLS%", tools.trim_end())
        .replace("%SOURCE%", source)
}

fn rust(hooks: Hooks) -> Vec<(String, String)> {
    let module = |hook: Hook| hook.interface().replace('-', "_");
    let modules: String = hooks.iter().map(|hook| format!("mod {};\n", module(hook))).collect();
    let mut files = vec![
        ("Cargo.toml".into(), templates::CARGO.into()),
        ("src/lib.rs".into(), templates::LIB.replace("%MODULES%", &modules)),
    ];
    files.extend(hooks.iter().map(|hook| {
        let [rust, _, _] = templates::hook(hook);
        (format!("src/{}.rs", module(hook)), rust.into())
    }));
    files
}

fn js(hooks: Hooks) -> Vec<(String, String)> {
    let parts: Vec<&str> = hooks.iter().map(|hook| templates::hook(hook)[1]).collect();
    let source = format!("{}{}", templates::JS_HEAD, parts.join("\n"));
    vec![("package.json".into(), templates::PACKAGE.into()), ("plugin.js".into(), source)]
}

/// Each hook's part begins with what it imports; together these stand at the top, each once.
fn python(hooks: Hooks) -> Vec<(String, String)> {
    let mut imports = vec!["from wit_world import exports"];
    let mut parts = String::new();
    for hook in hooks.iter() {
        let (its_imports, part) =
            templates::hook(hook)[2].split_once("\n\n").expect("a blank line ends the imports");
        imports.extend(its_imports.lines());
        let _ = write!(parts, "\n\n{part}");
    }
    imports.sort_unstable();
    imports.dedup();
    let head = templates::PY_HEAD.replace("%IMPORTS%", &imports.join("\n"));
    vec![("pyproject.toml".into(), templates::PYPROJECT.into()), ("app.py".into(), head + &parts)]
}

/// A plugin's name that is a package's, too.
fn parse_name(text: &str) -> Result<PluginName, String> {
    let name = PluginName::parse(text).map_err(|error| error.to_string())?;
    if text.starts_with(|c: char| c.is_ascii_digit()) || text.ends_with('-') {
        return Err("must begin with a letter and not end with '-', as names of packages do".into());
    }
    Ok(name)
}

fn parse_hook(text: &str) -> Result<Hook, String> {
    let names = || Hook::ALL.iter().map(|hook| hook.interface()).collect::<Vec<_>>().join(", ");
    Hook::of_interface(text).ok_or_else(|| format!("must be one of {}", names()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Hooks {
        let one_scope = |hook: &&Hook| hook.scope().is_none() || **hook == Hook::OnDeliver;
        Hook::ALL.iter().filter(one_scope).fold(Hooks::default(), |hooks, hook| hooks.with(*hook))
    }

    #[test]
    fn nothing_is_left_to_be_filled_in() {
        for language in [Language::Rust, Language::Js, Language::Python] {
            for hooks in Hook::ALL.iter().map(|hook| Hooks::default().with(*hook)).chain([all()]) {
                let files = files("my-plugin", language, hooks);
                for (path, text) in &files {
                    assert!(!text.contains('%') || path.starts_with("wit/deps"), "{path}: {text}");
                    assert!(text.ends_with('\n') && !text.ends_with("\n\n"), "{path} ends with one line end");
                    let short = text.lines().all(|line| line.len() <= 120);
                    assert!(short || path == "samples.jsonl", "{path} has long lines");
                }
                let text = |name: &str| &files.iter().find(|(path, _)| path == name).unwrap().1;
                for hook in hooks.iter() {
                    assert!(text("wit/world.wit").contains(&format!("plugin/{}@0.1.0;", hook.interface())));
                    assert!(text("README.md").contains(&format!("`{}`", hook.interface())));
                }
                assert_eq!(
                    samples::parse(text("samples.jsonl")).unwrap().len(),
                    samples::built_in(hooks).len()
                );
            }
        }
    }

    #[test]
    fn the_contract_goes_along_whole() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("wit");
        let mut there = Vec::new();
        for folder in [root.clone()].into_iter().chain(folders(&root.join("deps"))) {
            for entry in std::fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|extension| extension == "wit") {
                    there.push(std::fs::read_to_string(path).unwrap());
                }
            }
        }
        let mut here: Vec<String> = templates::WIT.iter().map(|(_, text)| (*text).to_owned()).collect();
        there.sort();
        here.sort();
        assert_eq!(here, there, "a file of wit/ is missing in templates::WIT");
    }

    fn folders(path: &Path) -> Vec<PathBuf> {
        std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn names_and_hooks_are_checked() {
        for name in ["a", "my-plugin", "v2"] {
            assert!(parse_name(name).is_ok(), "{name}");
        }
        for name in ["", "-a", "a-", "2a", "A", "a_b", "../a", "a/b", "logs", &"a".repeat(33)] {
            assert!(parse_name(name).is_err(), "{name}");
        }
        assert!(parse_hook("on-lunch").unwrap_err().contains("on-deliver-class"));
    }
}
