//! Commands as they are typed.

use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};

use super::*;
use crate::config::{BackboneConfig, Config, LogFormat};

const NO_ENV: &dyn Fn(&str) -> Option<String> = &|_| None;
const NOW_S: u64 = 1_800_000_000;
// Made with `openssl genpkey -algorithm ed25519` for these tests.
const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIKqCf8I9GP4NpU6AfIECT7ZlS1PqYUoZ7lOgBJpNy4Kv\n-----END PRIVATE KEY-----";
const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA6KWE+0Pzu0knwC8/aXYHt/2GV7QDndZupUKVrgsofbU=\n-----END PUBLIC KEY-----";

fn command(line: &str) -> Command {
    Cli::try_parse_from(line.split_whitespace()).unwrap_or_else(|error| panic!("{error}")).into_command()
}

/// What is wrong with a command line, with the exit code.
fn misuse(line: &str) -> (String, i32) {
    let error = Cli::try_parse_from(line.split_whitespace()).expect_err(line);
    (error.to_string(), error.exit_code())
}

fn node(line: &str) -> NodeArgs {
    match command(line) {
        Command::Dev(args) | Command::Serve(args) => args,
        other => panic!("{line} is {other:?}"),
    }
}

fn file(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn the_command_tree_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn without_a_command_it_is_dev_with_the_demo() {
    for line in ["tidegate", "tidegate dev", "tidegate --log-format text"] {
        assert!(matches!(command(line), Command::Dev(args) if args.demo), "{line}");
    }
    assert!(matches!(command("tidegate serve"), Command::Serve(args) if !args.demo));
    assert_eq!(node("tidegate --listen 127.0.0.1:0").listen.map(|address| address.port()), Some(0));
}

#[test]
fn misuse_is_told_with_exit_code_2() {
    for (line, says) in [
        ("tidegate serv", "serve"),
        ("tidegate serve --redis redis://h --resp-listen 127.0.0.1:1", "cannot be used with"),
        ("tidegate serve --listen 8080", "--listen"),
        ("tidegate serve --log-format xml", "text, json"),
        ("tidegate token --user a --demo --config x", "cannot be used with"),
        ("tidegate token --user a", "--config"),
        ("tidegate token --user a --demo --ttl 1w", "90s, 15m, 1h, 7d"),
        ("tidegate token --user a --demo --claim x", "NAME=VALUE"),
        ("tidegate client --channel room", "a namespace"),
        ("tidegate client --ack --withhold", "cannot be used with"),
        ("tidegate client --since now", "--since"),
        ("tidegate publish --key k hello", "--channel"),
        ("tidegate publish --key k --channel room:1 --cloudevent --id x", "cannot be used with"),
        ("tidegate publish --key k --channel room:1 --file x hello", "cannot be used with"),
        ("tidegate kick --key k", "--session"),
        ("tidegate kick --key k --user a --session 0gQyAqEYQXaTZJ7Tyqvv4w", "cannot be used with"),
        ("tidegate kick --key k --device phone", "--user"),
        ("tidegate kick --key k --session alice", "22 characters"),
        ("tidegate plugin new x", "--lang"),
        ("tidegate plugin new X --lang rust", "1 to 32 of a-z"),
        ("tidegate plugin new 2x --lang rust", "begin with a letter"),
        ("tidegate plugin new x --lang cobol", "rust, js, python"),
        ("tidegate plugin new x --lang js --hook on-lunch", "on-deliver-class"),
        ("tidegate plugin test x.wasm --set x", "NAME=VALUE"),
        ("tidegate plugin test x.wasm --set x=@/nowhere/at/all", "/nowhere/at/all"),
        ("tidegate plugin check x.wasm --deadline-ms 0", "--deadline-ms"),
    ] {
        let (text, code) = misuse(line);
        assert!(text.contains(says) && code == 2, "{line}: {code}\n{text}");
    }
}

#[test]
fn nothing_at_all_is_a_whole_configuration() {
    let config = load::load_with(&node("tidegate dev"), NO_ENV).unwrap();
    assert_eq!(config.node.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.tenants.keys().map(|id| id.as_str()).collect::<Vec<_>>(), ["demo"]);
    assert!(load::load_with(&node("tidegate serve"), NO_ENV).unwrap().tenants.is_empty());
}

#[test]
fn flags_go_before_the_environment_and_the_environment_before_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[node]\nlisten = '127.0.0.1:1'\nadmin_listen = '127.0.0.1:2'\n[backbone.redis]\n\
        url = 'redis://file'\npoll_ms = 7\n[telemetry]\nlog_format = 'json'";
    let path = file(folder.path(), "t.toml", text);
    let load = |flags: &str, env| {
        load::load_with(&node(&format!("tidegate serve --config {} {flags}", path.display())), env).unwrap()
    };
    let env: &dyn Fn(&str) -> Option<String> =
        &|variable| (variable == "TIDEGATE_REDIS_URL").then(|| "redis://env".into());
    let url = |config: &Config| match &config.backbone {
        BackboneConfig::Redis { url, poll, .. } => Some((url.expose().to_owned(), poll.as_millis())),
        BackboneConfig::Embedded { .. } => None,
    };
    let config = load("--listen 127.0.0.1:3 --node-id n --shards 2", NO_ENV);
    assert_eq!((config.node.listen.port(), config.node.admin_listen.port()), (3, 2));
    assert_eq!((config.node.id.as_str(), config.node.shards.get()), ("n", 2));
    assert_eq!(config.telemetry.log_format, LogFormat::Json);
    assert_eq!(url(&config), Some(("redis://file".into(), 7)));
    assert_eq!(url(&load("", env)), Some(("redis://env".into(), 7)));
    assert_eq!(url(&load("--redis redis://flag", env)), Some(("redis://flag".into(), 7)));
    assert_eq!(url(&load("--resp-listen 127.0.0.1:0", env)), None);
}

#[test]
fn what_is_wrong_with_a_flag_names_it() {
    let args = node("tidegate serve --redis http://h --log-level loud --admin-listen 0.0.0.0:1 --shards 0");
    let errors = load::load_with(&args, NO_ENV).unwrap_err();
    let places: Vec<_> = errors.problems.iter().map(|problem| problem.place.as_str()).collect();
    assert_eq!(places, ["--admin-listen", "--shards", "--redis", "--log-level"]);
    let error = CliError::from(errors);
    assert_eq!(error.exit_code(), 2);
    assert_eq!(CliError::from(anyhow::anyhow!("x")).exit_code(), 1);
}

#[test]
fn the_demo_does_not_replace_a_tenant_in_silence() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "t.toml", "[tenants.demo]");
    let errors =
        load::load_with(&node(&format!("tidegate --config {}", path.display())), NO_ENV).unwrap_err();
    assert!(errors.to_string().contains("tenants.demo: --demo"), "{errors}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = load::load_with(&node("tidegate serve --config /nowhere/t.toml"), NO_ENV).unwrap_err();
    assert!(error.to_string().contains("/nowhere/t.toml") && error.to_string().contains("cannot be read"));
}

#[test]
fn secrets_among_the_arguments_do_not_show() {
    for line in [
        "tidegate serve --redis redis://:sesame@h",
        "tidegate client --token sesame",
        "tidegate publish --key sesame --channel room:1 hello",
    ] {
        let shown = format!("{:?}", command(line));
        assert!(!shown.contains("sesame"), "{shown}");
    }
}

fn check(path: &Path) -> Result<String, CliError> {
    let mut out = Vec::new();
    check_config::check(&CheckConfigArgs { file: path.into() }, NO_ENV, &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn check_config_says_what_a_node_would_run_with() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[tenants.a]\nanonymous = true\n[tenants.b.namespaces.work]\nkind = 'queue'";
    let path = file(folder.path(), "t.toml", text);
    let said = check(&path).unwrap();
    assert!(said.starts_with(&format!("{} is valid\n", path.display())), "{said}");
    assert!(
        said.contains("tenant a: anonymous clients, 0 API keys for publishing; namespaces user, session\n"),
        "{said}"
    );
    assert!(said.contains("tenant b: no client can connect (neither jwt nor anonymous)"), "{said}");
    assert!(said.contains("namespaces work, user, session\n"), "{said}");
    let wrong = file(folder.path(), "w.toml", "[nod]\n[limits]\nwindow = 0");
    let error = check(&wrong).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert_eq!(error.to_string().lines().count(), 3, "{error}");
}

fn token(flags: &[&str]) -> Result<String, CliError> {
    let line = ["tidegate", "token", "--user", "alice"].iter().chain(flags);
    match Cli::try_parse_from(line).unwrap_or_else(|error| panic!("{error}")).into_command() {
        Command::Token(args) => token::make(&args, NO_ENV, NOW_S),
        other => panic!("{other:?}"),
    }
}

fn identity(config: &Config, tenant: &str, token: &str) -> crate::auth::Identity {
    let tenant = crate::tenants::Tenants::from_config(config).get(tenant).unwrap();
    crate::auth::authenticate(&tenant, Some(token), NOW_S * 1_000).unwrap()
}

#[test]
fn a_demo_token_lets_its_user_in() {
    let token =
        token(&["--demo", "--ttl", "1m", "--claim", "class=staff", "--claim", "channels=[\"room:1\"]"]);
    let config = load::load_with(&node("tidegate"), NO_ENV).unwrap();
    let identity = identity(&config, "demo", &token.unwrap());
    assert_eq!(identity.user.as_str(), "alice");
    assert_eq!(identity.class.as_deref(), Some("staff"));
    assert_eq!(identity.channels.map(|channels| channels.len()), Some(1));
    assert_eq!(identity.expires_ms, Some((NOW_S + 90) * 1_000));
}

#[test]
fn a_configured_tenant_signs_with_its_keys() {
    let folder = tempfile::tempdir().unwrap();
    file(folder.path(), "public.pem", PUBLIC);
    let private = file(folder.path(), "private.pem", PRIVATE);
    let text = "[tenants.acme.jwt]\nissuer = 'i'\naudience = 'a'\nuser_claim = 'uid'\nkeys = [\
        { kid = 'ed', algorithm = 'EdDSA', public_key_file = 'public.pem' },\
        { kid = 'hs', algorithm = 'HS256', secret = '0123456789abcdef0123456789abcdef' }]\n[tenants.none]";
    let path = file(folder.path(), "t.toml", text);
    let (path, private) = (path.to_str().unwrap(), private.to_str().unwrap());
    let config = load::load_with(&node(&format!("tidegate serve --config {path}")), NO_ENV).unwrap();
    let acme = ["--config", path, "--tenant", "acme"];
    let both = ["--kid", "ed", "--private-key", private];
    for flags in [&[][..], &["--kid", "hs"], &["--private-key", private], &both] {
        let token = token(&[&acme, flags].concat()).unwrap();
        assert_eq!(identity(&config, "acme", &token).user.as_str(), "alice");
    }
    for (flags, says) in [
        (&["--kid", "ed"][..], "--private-key FILE"),
        (&["--kid", "hs", "--private-key", private], "is for EdDSA keys"),
        (&["--kid", "x"], "no such key"),
        (&["--private-key", path], "holds no Ed25519 private key"),
        (&["--claim", "exp=1"], "--claim exp: is there already"),
        (&["--claim", "uid=bob"], "--claim uid: is there already"),
        (&["--claim", "channels=*"], "no node would accept such a token"),
    ] {
        let error = token(&[&acme, flags].concat()).unwrap_err();
        assert!(error.to_string().contains(says) && error.exit_code() == 2, "{flags:?}: {error}");
    }
    let none = token(&["--config", path, "--tenant", "none"]).unwrap_err().to_string();
    assert!(none.contains("has no [tenants.none.jwt]"), "{none}");
    let unknown = token(&["--config", path, "--tenant", "who"]).unwrap_err().to_string();
    assert!(unknown.contains("there are: acme, none"), "{unknown}");
}

#[test]
fn a_private_key_of_another_pair_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let other = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n\
        -----END PUBLIC KEY-----";
    let text = format!("[tenants.a.jwt]\nkeys = [{{ algorithm = 'EdDSA', public_key = '''{other}''' }}]");
    let path = file(folder.path(), "t.toml", &text);
    let private = file(folder.path(), "private.pem", PRIVATE);
    let flags =
        ["--tenant", "a", "--config", path.to_str().unwrap(), "--private-key", private.to_str().unwrap()];
    let error = token(&flags).unwrap_err().to_string();
    assert!(error.contains("signature does not fit"), "{error}");
}

#[test]
fn dlq_says_which_letters_and_removes_all_only_when_meant() {
    let parsed = |line: &str| match command(line) {
        Command::Dlq(args) => args,
        other => panic!("{line} is {other:?}"),
    };
    let args = parsed("tidegate dlq list --key k --channel user:alice --limit 5");
    assert!(matches!(&args.command, args::DlqCommand::List(args) if args.limit == 5));
    let args = parsed("tidegate dlq retry --key k --offset 1-1 --offset 2-0");
    assert!(matches!(&args.command, args::DlqCommand::Retry(args) if args.offsets.len() == 2));
    for line in ["tidegate dlq purge --key k --all --yes", "tidegate dlq purge --key k --offset 1-1"] {
        assert!(dlq::check(&parsed(line)).is_ok(), "{line}");
    }
    let error = dlq::check(&parsed("tidegate dlq purge --key k --all")).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("--yes"), "{error}");
    for line in
        ["tidegate dlq retry --key k", "tidegate dlq retry --key k --offset 1-1 --all", "tidegate dlq"]
    {
        assert_eq!(misuse(line).1, 2, "{line}");
    }
}

/// A session's id is base64url, which may begin with a hyphen.
#[test]
fn a_session_whose_id_begins_with_a_hyphen_is_no_flag() {
    let id = "-vigKl8cAffqG1wqrcGQRQ";
    let parsed = Cli::try_parse_from(["tidegate", "kick", "--key", "k", "--session", id]);
    let Command::Kick(args) = parsed.unwrap().into_command() else { panic!("it is `kick`") };
    assert_eq!(args.session.map(|session| session.to_string()).as_deref(), Some(id));
}
