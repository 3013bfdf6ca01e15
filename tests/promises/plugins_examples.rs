//! Promise: the example plugins do what their READMEs say, in the host that a node has, and the commands that need no
//! node write, build, check and try plugins in three languages.
//!
//! Each example has its own `samples.jsonl`; `tidegate plugin test` shows them to it.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use serde_json::Value;
use tidegate_support::server::Server;

use crate::harness::TIDEGATE;

mod commands;
mod guests;
mod host;

/// A path of this repository.
fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Folders that stay between runs: what is dear to make is made once.
fn kept(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Proves that kept machine code was made by these tests.
const CODE_KEY: [u8; 32] = *b"code which these tests have made";

/// Where compiled code is kept, with its key, for hosts here and for `tidegate plugin`.
fn code() -> PathBuf {
    static CODE: LazyLock<PathBuf> = LazyLock::new(|| {
        let folder = kept("plugin-code");
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).unwrap();
        std::fs::write(folder.join("key"), CODE_KEY).unwrap();
        folder
    });
    CODE.clone()
}

/// A component of `plugins/`, as it is committed.
fn committed(name: &str) -> PathBuf {
    path(&format!("plugins/{name}/{name}.wasm"))
}

/// `tidegate plugin …`.
fn plugin(arguments: &[&str]) -> Output {
    let mut command = Command::new(TIDEGATE);
    command.arg("plugin").args(arguments).env("TIDEGATE_PLUGIN_CACHE", code());
    command.output().expect("the binary under test is there")
}

/// What a command that succeeded said, or panics with what it said.
fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{text}\n{errors}", output.status);
    text
}

/// Why a command failed, with its exit code.
fn refused(output: &Output) -> (i32, String) {
    let code = output.status.code().expect("it ended by itself");
    assert_ne!(code, 0, "{}", String::from_utf8_lossy(&output.stdout));
    (code, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Shows samples to a component. The deadline is generous: other tests need the processor, too.
fn tried(component: &Path, samples: &Path, settings: &[&str]) -> Vec<Value> {
    let (component, samples) = (component.to_str().unwrap(), samples.to_str().unwrap());
    let mut arguments = vec!["test", component, "--samples", samples, "--json", "--deadline-ms", "20000"];
    arguments.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    let output = plugin(&arguments);
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{lines}\n{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&lines).unwrap()
}

/// An example in Rust, with all its samples.
fn example(name: &str, settings: &[&str]) -> Vec<Value> {
    tried(&committed(name), &path(&format!("plugins/{name}/samples.jsonl")), settings)
}

/// What was logged during a sample.
fn logged(trial: &Value) -> String {
    trial["log"].as_array().unwrap().iter().map(|line| line["message"].as_str().unwrap()).collect()
}

fn file_setting(name: &str, file: &str) -> String {
    format!("{name}=@{}", path(file).display())
}

#[test]
fn the_authenticator_believes_what_is_signed_and_knows_roles() {
    let roles = file_setting("roles", "plugins/authenticator/roles.json");
    let trials = example("authenticator", &["secret=a secret of the demo", &roles]);
    assert_eq!(trials.iter().filter(|trial| trial["verdict"] == "admit").count(), 4);
    assert!(trials.iter().any(|trial| logged(trial).contains("no role `pirate`")), "{trials:?}");
}

#[test]
fn an_authenticator_that_is_not_set_up_lets_nobody_in() {
    let samples = kept("unset.jsonl");
    std::fs::write(
        &samples,
        r#"{"hook": "authenticate", "token": "a.b.4102444800.00", "expect": {"reason": "authentication is not set up"}}"#,
    )
    .unwrap();
    for settings in [&[][..], &["secret=short", "roles={}"], &["secret=long enough to be one"]] {
        let trials = tried(&committed("authenticator"), &samples, settings);
        assert!(logged(&trials[0]).contains("the setting"), "the log says which: {trials:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_http_authenticator_asks_a_server() {
    let server = Server::start().await.unwrap();
    let (component, samples) =
        (committed("http-authenticator"), path("plugins/http-authenticator/samples.jsonl"));
    let url = format!("url={}", server.url("/who"));
    let mut arguments = vec!["test", component.to_str().unwrap(), "--samples", samples.to_str().unwrap()];
    arguments.extend(["--json", "--deadline-ms", "20000", "--set", &url]);
    let (_, why) = refused(&plugin(&arguments));
    assert!(why.contains("http_hosts"), "{why}");
    arguments.extend(["--http-host", &server.authority]);
    said(&plugin(&arguments));
    assert_eq!(server.seen().len(), 2, "nobody is asked about no token");
}

#[test]
fn the_live_room_filter_refuses_words_links_and_floods() {
    let settings = ["words=blast,dirt", "messages=8", "per_s=4000000000"];
    example("live-room-filter", &settings);
    let samples = kept("mask.jsonl");
    std::fs::write(
        &samples,
        r#"{"data": {"text": "Blast! d1rt, blasting"}, "expect": {"verdict": "replace", "data": {"text": "*****! ****, blasting"}}}
           {"data": "https://example.com", "expect": "accept"}"#,
    )
    .unwrap();
    tried(&committed("live-room-filter"), &samples, &["words=blast,dirt", "on_word=mask", "links=allow"]);
}

#[test]
fn each_class_sees_its_own_prices() {
    example("price-by-class", &[]);
}

#[test]
fn the_content_router_goes_by_content() {
    let rules = file_setting("rules", "plugins/content-router/rules.json");
    example("content-router", &[&rules, "otherwise=room:unsorted"]);
}

#[test]
fn whispers_reach_those_who_are_meant() {
    example("personal-view", &[]);
}

#[test]
fn the_transformers_in_javascript_and_python_do_the_same() {
    for name in ["transformer-js", "transformer-py"] {
        let folder = path(&format!("plugins/{name}"));
        let component = guests::built(&folder, name);
        let trials = tried(&component, &folder.join("samples.jsonl"), &["hide=internal,debug"]);
        let draft = trials.iter().find(|trial| trial["verdict"] == "drop").unwrap();
        assert!(logged(draft).contains("room:1 1763769600123-0"), "{draft}");
    }
}
