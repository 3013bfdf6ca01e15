//! `tidegate plugin new`, `build`, `check` and `test`.

use std::path::Path;

use serde_json::{Value, json};
use tidegate_support::server::Server;

use super::{committed, guests, kept, path, plugin, refused, said, tried};

/// The hooks that one plugin can have together.
const HOOKS: [&str; 6] = ["authenticate", "on-subscribe", "on-publish", "route", "on-deliver", "on-session"];

fn new(folder: &Path, name: &str, language: &str, hooks: &[&str]) -> std::process::Output {
    let mut arguments = vec!["new", name, "--lang", language, "--in", folder.to_str().unwrap()];
    arguments.extend(hooks.iter().flat_map(|hook| ["--hook", hook]));
    plugin(&arguments)
}

/// Writes a plugin with all hooks, builds it, and shows it what a new plugin is shown.
fn from_new_to_tested(language: &str) {
    let folder = tempfile::tempdir().unwrap();
    let next = said(&new(folder.path(), "fresh", language, &HOOKS));
    assert!(next.contains("tidegate plugin build"), "{next}");
    let project = folder.path().join("fresh");
    let component = guests::built(&project, &format!("fresh-{language}"));
    let checked = said(&plugin(&["check", component.to_str().unwrap(), "--json"]));
    let checked: Value = serde_json::from_str(&checked).unwrap();
    assert_eq!(checked["hooks"], json!(HOOKS));
    assert_eq!(checked["scope"], "message");
    for number in ["code_bytes", "compiled_bytes", "start_us", "memory_bytes"] {
        assert!(checked[number].as_f64().unwrap() > 0.0, "{number}: {checked}");
    }
    let trials = tried(&component, &path("tests/plugins/new.jsonl"), &["secret=sesame"]);
    let told = trials.last().unwrap();
    assert_eq!(told["log"][0]["message"], "ada came", "{told}");
    // What comes along is what the plugin knows, too.
    tried(&component, &project.join("samples.jsonl"), &[]);
}

#[test]
fn a_new_plugin_in_javascript_is_built_and_tested() {
    from_new_to_tested("js");
}

#[test]
fn a_new_plugin_in_python_is_built_and_tested() {
    from_new_to_tested("python");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_in_javascript_asks_by_fetch() {
    let folder = tempfile::tempdir().unwrap();
    said(&new(folder.path(), "asks", "js", &["authenticate"]));
    let project = folder.path().join("asks");
    let world = project.join("wit/world.wit");
    let text = std::fs::read_to_string(&world).unwrap();
    let line = "    include tidegate:plugin/imports@0.1.0;\n";
    std::fs::write(&world, text.replace(line, &format!("{line}{}", line.replace("imports", "http"))))
        .unwrap();
    std::fs::write(project.join("plugin.js"), ASKS).unwrap();
    let component = guests::built(&project, "asks-js");
    let server = Server::start().await.unwrap();
    let (url, samples) = (format!("url={}", server.url("/who")), project.join("expected.jsonl"));
    let expected = r#"{"token": "ada", "expect": {"verdict": "admit", "user": "ada"}}
        {"token": "eve", "expect": {"verdict": "refuse", "reason": "status 403"}}"#;
    std::fs::write(&samples, expected).unwrap();
    let mut arguments = vec!["test", component.to_str().unwrap(), "--samples", samples.to_str().unwrap()];
    arguments.extend(["--deadline-ms", "20000", "--set", &url, "--http-host", &server.authority]);
    said(&plugin(&arguments));
}

/// Asks a server who clients are.
const ASKS: &str = r"
import { get } from 'wasi:config/store@0.2.0-rc.1';

export const authenticate = {
  async authenticate({ token }) {
    const answer = await fetch(get('url'), { method: 'POST', body: JSON.stringify({ token }) });
    if (answer.status !== 200) throw { reason: `status ${answer.status}` };
    const { user } = await answer.json();
    return { user };
  },
};
";

#[test]
fn a_new_plugin_takes_nothings_place() {
    let folder = tempfile::tempdir().unwrap();
    said(&new(folder.path(), "mine", "rust", &["on-publish"]));
    let lib = folder.path().join("mine/src/lib.rs");
    std::fs::write(&lib, "changed").unwrap();
    let (code, why) = refused(&new(folder.path(), "mine", "rust", &["on-publish"]));
    assert!(code == 2 && why.contains("is there already"), "{code}: {why}");
    assert_eq!(std::fs::read_to_string(&lib).unwrap(), "changed");
    let (code, why) = refused(&new(folder.path(), "x", "js", &["on-deliver", "on-deliver-class"]));
    assert!(code == 2 && why.contains("one of the on-deliver hooks"), "{code}: {why}");
    for (name, language, hook) in [("../x", "js", "route"), ("x", "cobol", "route"), ("x", "js", "on-lunch")]
    {
        assert_eq!(refused(&new(folder.path(), name, language, &[hook])).0, 2);
    }
}

#[test]
fn a_build_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let build = |name: &str, missing: &str| {
        let mut command = std::process::Command::new(super::TIDEGATE);
        command.args(["plugin", "build"]).arg(folder.path().join(name)).env("PATH", missing);
        for variable in ["TIDEGATE_JS_TOOLS", "TIDEGATE_COMPONENTIZE_PY", "TIDEGATE_WASM_RUST", "CARGO"] {
            command.env_remove(variable);
        }
        refused(&command.output().unwrap())
    };
    for language in ["rust", "js", "python"] {
        said(&new(folder.path(), language, language, &["on-deliver"]));
    }
    for (name, says) in [
        ("rust", "cargo is not there: install Rust"),
        ("js", "node is not there: install Node.js"),
        ("python", ".venv/bin/pip install componentize-py=="),
        ("nowhere", "there is no folder"),
        (".", "has no Cargo.toml, package.json or pyproject.toml"),
    ] {
        let (code, why) = build(name, "/nonexistent");
        assert!(code == 1 && why.contains(says), "{name}: {code}: {why}");
    }
    let path = std::env::var("PATH").unwrap();
    let (_, why) = build("js", &path);
    assert!(why.contains("run `npm install` in"), "{why}");
}

#[test]
fn check_says_what_a_component_is_or_what_is_wrong() {
    let text = said(&plugin(&["check", committed("price-by-class").to_str().unwrap()]));
    for says in [
        "price-by-class.wasm is good",
        "on-deliver-class (once a message and class)",
        "wasi:config/store",
        "64.0 MiB",
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
    let file = kept("wrong.wasm");
    for (bytes, says) in [
        (&b"\0asm\x01\0\0\0"[..], "this is a core module"),
        (b"(component)", "this is WebAssembly text"),
        (b"MZ", "this is no WebAssembly"),
        (b"\0asm\x0d\0\x01\0", "exports none of the hooks"),
    ] {
        std::fs::write(&file, bytes).unwrap();
        let (code, why) = refused(&plugin(&["check", file.to_str().unwrap()]));
        assert!(code == 1 && why.contains("wrong.wasm is not taken") && why.contains(says), "{code}: {why}");
    }
    let (code, why) = refused(&plugin(&["check", "/nowhere.wasm"]));
    assert!(code == 1 && why.contains("cannot be read"), "{code}: {why}");
}

#[test]
fn limits_come_from_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("t.toml");
    std::fs::write(&config, "[tenants.acme.plugins]\ncode_bytes = 1024").unwrap();
    let (component, config) = (committed("price-by-class"), config.to_str().unwrap().to_owned());
    let with =
        |tenant| plugin(&["check", component.to_str().unwrap(), "--config", &config, "--tenant", tenant]);
    let (code, why) = refused(&with("acme"));
    assert!(code == 1 && why.contains("the limit is 1024"), "{code}: {why}");
    let (code, why) = refused(&with("other"));
    assert!(code == 2 && why.contains("no tenant other"), "{code}: {why}");
}

#[test]
fn a_test_fails_where_the_plugin_does_or_answers_otherwise() {
    let probe = committed("probe");
    let test = |samples: &str| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), samples).unwrap();
        let arguments = ["test", probe.to_str().unwrap(), "--samples", file.path().to_str().unwrap()];
        plugin(&arguments)
    };
    let text = said(&test(r#"{"hook": "on-deliver", "data": "upper case"}"#));
    assert!(text.contains("replace") && text.contains("UPPER CASE") && text.contains("µs"), "{text}");
    let output = test(
        "{\"hook\": \"on-deliver\", \"data\": \"trap\"}\n{\"hook\": \"on-publish\", \"data\": \"drop\", \"expect\": \"accept\"}\n{\"hook\": \"route\"}",
    );
    let (code, why) = refused(&output);
    assert!(code == 1 && why.contains("2 of 3 samples failed"), "{code}: {why}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("it gave up (`unreachable`") && text.contains("line 2 expected \"accept\""),
        "{text}"
    );
    for (samples, code, says) in [
        ("{", 2, "line 1"),
        ("{\"hook\": \"on-deliver-class\"}", 1, "no hook `on-deliver-class`"),
        ("\n{}", 1, "line 2 of the samples: `hook` must say which"),
        ("# nothing", 1, "there are no samples"),
    ] {
        let (got, why) = refused(&test(samples));
        assert!(got == code && why.contains(says), "{samples}: {got}: {why}");
    }
}

#[test]
fn without_samples_there_are_some() {
    let trials =
        said(&plugin(&["test", committed("personal-view").to_str().unwrap(), "--json", "--repeat", "20"]));
    let trials: Vec<Value> = serde_json::from_str(&trials).unwrap();
    assert!(
        trials.len() >= 2 && trials.iter().all(|trial| trial["hook"] == "on-deliver-session"),
        "{trials:?}"
    );
    assert!(
        trials
            .iter()
            .all(|trial| trial["us"].as_f64().unwrap() > 0.0 && trial["memory_bytes"].as_u64() > Some(0))
    );
}
