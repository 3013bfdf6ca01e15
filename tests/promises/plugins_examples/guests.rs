//! Plugins in JavaScript and Python, built where a test needs them: once for what they are built of.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use xxhash_rust::xxh3::xxh3_128;

use super::{kept, path, said};
use crate::harness::TIDEGATE;

/// One at a time: each takes a processor for half a minute.
static TURN: Mutex<()> = Mutex::new(());

/// The component of a folder, built if it was not yet.
pub(super) fn built(folder: &Path, name: &str) -> PathBuf {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let store = kept("guests");
    std::fs::create_dir_all(&store).unwrap();
    let component = store.join(format!("{name}-{}.wasm", state(folder)));
    if !component.exists() {
        let half = store.join(format!("{name}.half"));
        // Tests beside this one wait for things, too.
        let mut build = Command::new("nice");
        build.arg(TIDEGATE).args(["plugin", "build"]).arg(folder).arg("--out").arg(&half);
        for (variable, place) in [
            ("TIDEGATE_JS_TOOLS", "../tools/guests-js"),
            ("TIDEGATE_COMPONENTIZE_PY", "../tools/guests-py/bin/componentize-py"),
        ] {
            if std::env::var_os(variable).is_none() {
                build.env(variable, kept(place));
            }
        }
        let output = build.output().expect("nice is there");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            !errors.contains("is not there"),
            "{errors}\nscripts/install-test-tools.sh guests installs it"
        );
        said(&output);
        std::fs::rename(&half, &component).unwrap();
    }
    component
}

/// What a component is built of, as a number: sources, the contract, the tools' versions, and what calls them.
fn state(folder: &Path) -> String {
    let mut text = String::new();
    let places = [folder, &path("wit"), &path("src/cli/plugin/build")];
    for place in places {
        read(place, &mut text);
    }
    let script = std::fs::read_to_string(path("scripts/install-test-tools.sh")).unwrap();
    text.extend(script.lines().filter(|line| line.starts_with("componentize_py=")));
    text += &std::fs::read_to_string(path("plugins/transformer-js/package-lock.json")).unwrap();
    format!("{:032x}", xxh3_128(text.as_bytes()))
}

fn read(folder: &Path, text: &mut String) {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for entry in entries {
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if entry.is_dir() {
            if name != "node_modules" && name != "__pycache__" {
                read(&entry, text);
            }
        } else if !name.ends_with(".wasm") && !name.ends_with(".jsonl") && !name.ends_with(".md") {
            let _ = writeln!(text, "{name}\n{}", std::fs::read_to_string(&entry).unwrap_or_default());
        }
    }
}
