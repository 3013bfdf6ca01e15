//! Rust: cargo with a target that has a standard library.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::is_there;

const BARE: &str = "wasm32-unknown-unknown";
const WASI: &str = "wasm32-wasip2";

pub(super) fn build(folder: &Path, out: Option<PathBuf>) -> Result<PathBuf> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    ensure!(is_there(&cargo), "cargo is not there: install Rust, https://rustup.rs");
    let way = Way::find()?;
    let mut command = Command::new(&cargo);
    command.args([
        "build",
        "--release",
        "--message-format=json-render-diagnostics",
        "--target",
        way.target(),
    ]);
    way.prepare(&mut command)?;
    let made = command.current_dir(folder).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let made = made.with_context(|| format!("{cargo} cannot be started"))?;
    ensure!(made.status.success(), "cargo failed; what it says stands above");
    let component = component(&String::from_utf8_lossy(&made.stdout))
        .context("cargo built no .wasm file: Cargo.toml needs [lib] crate-type = [\"cdylib\"]")?;
    let name = component.file_stem().unwrap_or_default().to_string_lossy().replace('_', "-");
    let out = out.unwrap_or_else(|| folder.join(format!("{name}.wasm")));
    std::fs::copy(&component, &out).with_context(|| format!("{} cannot be written", out.display()))?;
    Ok(out)
}

/// The file that cargo says it made last.
fn component(messages: &str) -> Option<PathBuf> {
    let made = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let files = made.flat_map(|message| message["filenames"].as_array().cloned().unwrap_or_default());
    let mut files = files.filter_map(|file| file.as_str().map(PathBuf::from));
    files.rfind(|file| file.extension().is_some_and(|extension| extension == "wasm"))
}

/// How a machine makes components of Rust.
enum Way {
    /// The target that makes them.
    Wasi,
    /// The target without a system, with the linker that comes with Rust.
    Bare { linker: PathBuf },
    /// A compiler and its library's sources, unpacked into a folder: what `scripts/install-wasm-tools.sh` sets up
    /// where rustup cannot reach its server.
    Unpacked { root: PathBuf },
}

impl Way {
    fn find() -> Result<Self> {
        if let Some(root) = std::env::var_os("TIDEGATE_WASM_RUST") {
            let root = PathBuf::from(root);
            let root = root.canonicalize().with_context(|| {
                format!("TIDEGATE_WASM_RUST names {}, which is not there", root.display())
            })?;
            return Ok(Self::Unpacked { root });
        }
        if has_library(WASI) {
            return Ok(Self::Wasi);
        }
        let linker = linker();
        match linker {
            Some(linker) if has_library(BARE) => Ok(Self::Bare { linker }),
            _ => bail!(
                "Rust has no target for components here. Run `rustup target add {WASI}`, then this again. Without \
                 rustup see docs/plugins.md, \"Rust without rustup\""
            ),
        }
    }

    fn target(&self) -> &'static str {
        match self {
            Self::Wasi => WASI,
            Self::Bare { .. } | Self::Unpacked { .. } => BARE,
        }
    }

    fn prepare(&self, command: &mut Command) -> Result<()> {
        const LINKER: &str = "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER";
        const FLAGS: &str = "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS";
        match self {
            Self::Wasi => {}
            Self::Bare { linker } => {
                command.env(LINKER, linker).env(FLAGS, "-Clinker-flavor=wasm-ld");
            }
            Self::Unpacked { root } => {
                let linker = root.join("usr/lib/rustlib/x86_64-unknown-linux-gnu/bin/wasm-component-ld");
                let linker = linker.canonicalize().with_context(|| {
                    format!("{} is not there: run scripts/install-wasm-tools.sh", linker.display())
                })?;
                command
                    .env("LD_LIBRARY_PATH", root.join("usr/lib/x86_64-linux-gnu"))
                    .env("RUSTC", root.join("usr/bin/rustc"))
                    // The library is built from its sources, which that compiler does not take for stable.
                    .env("RUSTC_BOOTSTRAP", "1")
                    .env(LINKER, linker)
                    .env(FLAGS, "-Clinker-flavor=wasm-ld")
                    .arg("-Zbuild-std=std,panic_abort");
            }
        }
        Ok(())
    }
}

/// Whether the compiler has a standard library for a target.
fn has_library(target: &str) -> bool {
    printed(&["--print", "target-libdir", "--target", target]).is_some_and(|folder| folder.is_dir())
}

/// The linker that makes components, beside the compiler's own.
fn linker() -> Option<PathBuf> {
    let library = printed(&["--print", "target-libdir"])?;
    let linker = library.parent()?.join("bin/wasm-component-ld");
    linker.is_file().then_some(linker)
}

fn printed(arguments: &[&str]) -> Option<PathBuf> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
    let output =
        Command::new(rustc).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_component_is_the_last_file_of_its_kind() {
        let messages = r#"{"reason":"compiler-artifact","filenames":["/t/libdep.rlib"]}
            {"reason":"compiler-artifact","filenames":["/t/release/my_plugin.d","/t/release/my_plugin.wasm"]}
            no JSON
            {"reason":"build-finished","success":true}"#;
        assert_eq!(component(messages).unwrap(), Path::new("/t/release/my_plugin.wasm"));
        assert_eq!(component("{}"), None);
    }
}
