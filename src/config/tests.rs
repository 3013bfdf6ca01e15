//! The sample against the defaults, and each thing that can be wrong.

use super::*;
use crate::domain::{Kind, NamespaceRules, OnSlow, SubscribeRight};

const SAMPLE: &str = include_str!("../../docs/tidegate.toml");
const ED25519_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\n\
    MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----";

fn parse(toml: &str) -> Result<Config, ConfigErrors> {
    Config::from_toml(toml, &|variable| (variable == "SET").then(|| "s".repeat(40)))
}

/// The problems, each as `place: what`.
fn problems(toml: &str) -> Vec<String> {
    let errors = parse(toml).expect_err(toml);
    errors.problems.iter().map(|problem| format!("{}: {}", problem.place, problem.what)).collect()
}

/// Asserts that there is exactly one problem, and that it says so.
fn one_problem(toml: &str, place: &str, says: &str) {
    let problems = problems(toml);
    let start = format!("{place}: ");
    assert!(
        problems.len() == 1 && problems[0].starts_with(&start) && problems[0].contains(says),
        "{toml}\n{problems:#?}"
    );
}

#[test]
fn the_sample_shows_the_defaults() {
    let sample = parse(SAMPLE).unwrap();
    let mut default = parse("[tenants.acme.namespaces.room]").unwrap();
    default.node.id = sample.node.id.clone();
    assert_eq!(sample, default);
    let acme = &sample.tenants[&TenantId::parse("acme").unwrap()];
    assert_eq!(
        acme.namespaces,
        [NamespaceRules::log("room"), NamespaceRules::personal(), NamespaceRules::of_sessions()]
    );
    assert_eq!(sample.limits, Limits::default());
}

/// The sample with the settings that it only shows, and with the alternatives to others.
fn sample_with(marks: &[&str]) -> String {
    let shown = |line: &str| {
        let setting = marks.iter().find_map(|mark| line.strip_prefix(&format!("{mark} ")));
        setting.unwrap_or(line).to_owned() + "\n"
    };
    SAMPLE.lines().map(shown).collect()
}

#[test]
fn what_the_sample_shows_commented_out_parses() {
    let config = parse(&sample_with(&["#:"])).unwrap();
    let jwt = config.tenants.values().next().unwrap().jwt.clone().unwrap();
    assert_eq!(jwt.leeway, Duration::from_secs(30));
    assert_eq!((jwt.require_expiry, jwt.user_claim.as_str()), (true, "sub"));
    assert_eq!(jwt.keys.len(), 2);
    let minimal = "[tenants.a.jwt]\nkeys = [{ algorithm = \"HS256\", secret_env = \"SET\" }]";
    let minimal = parse(minimal).unwrap().tenants.values().next().unwrap().jwt.clone().unwrap();
    assert_eq!(
        (minimal.leeway, minimal.require_expiry, minimal.user_claim),
        (jwt.leeway, jwt.require_expiry, jwt.user_claim)
    );
    let alternatives = SAMPLE
        .lines()
        .filter_map(|line| line.strip_prefix("#:: "))
        .filter(|line| !line.contains("_file") && !line.contains("_env"))
        .collect::<Vec<_>>()
        .join("\n");
    let redis = parse(&alternatives).unwrap().backbone;
    let minimal = parse("[backbone.redis]\nurl = \"redis://:password@127.0.0.1:6379/0\"").unwrap().backbone;
    assert_eq!(redis, minimal);
}

/// An unknown setting is answered with those there are: so each of them can be looked for in the sample.
#[test]
fn the_sample_shows_every_setting() {
    let sections = "node backbone.embedded backbone.redis cluster memory retention plugins admin telemetry limits tenants.acme \
        tenants.acme.events tenants.acme.streams tenants.acme.plugins \
        tenants.acme.plugins.on_failure tenants.acme.jwt tenants.acme.namespaces.room";
    let keys = "[[tenants.acme.jwt.keys]]\nzz = 1\n".to_owned();
    let document = sections
        .split_whitespace()
        .fold(keys, |document, section| format!("{document}[{section}]\nzz = 1\n"));
    // A table cannot follow its own list of tables: the list goes last.
    let (list, rest) = document.split_at(document.find("[node]").unwrap());
    let mut seen = 0;
    for problem in problems(&format!("{rest}{list}")) {
        let Some((_, known)) = problem.split_once("here there are: ") else { continue };
        for setting in known.split(", ").filter(|setting| !setting.ends_with("_env")) {
            seen += 1;
            let line =
                |line: &str| line.trim_start_matches(['#', ':', ' ']).starts_with(&format!("{setting} ="));
            let table = [format!(".{setting}]"), format!(".{setting}."), format!("[{setting}]")];
            assert!(
                SAMPLE.lines().any(line) || table.iter().any(|table| SAMPLE.contains(table)),
                "{setting} is not in docs/tidegate.toml"
            );
        }
    }
    assert!(seen > 60, "{seen}");
}

#[test]
fn everything_wrong_is_said_at_once() {
    let toml = r#"
        [node]
        listen = "localhost:8080"
        shards = 0
        [limits]
        window = "many"
        windows = 5
        [telemetry]
        log_format = "xml"
        [tenants.Acme]
        anonymous = 1
        [tenants.acme.jwt]
        keys = [{ algorithm = "RS256" }, { kid = "a", algorithm = "HS256", secret = "short" }]
        [tenants.acme.namespaces.Room]
        [tenants.acme.namespaces.room]
        kind = "topic"
    "#;
    let found = problems(toml);
    for start in [
        "node.listen: must be an IP address and a port",
        "node.shards: must be from 1 to 1024, is 0",
        "limits.window: must be a whole number, is a string",
        "limits.windows: there is no such setting",
        "telemetry.log_format: must be \"text\" or \"json\", is \"xml\"",
        "tenants.Acme: tenant \"Acme\" is not valid",
        "tenants.Acme.anonymous: must be true or false, is an integer",
        "tenants.acme.jwt.keys[0].algorithm: must be \"HS256\" or \"EdDSA\", is \"RS256\"",
        "tenants.acme.jwt.keys[1].secret: must have at least 32 bytes, has 5",
        "tenants.acme.namespaces.Room: namespace \"Room\" is not valid",
        "tenants.acme.namespaces.room.kind: must be \"log\" or \"live\" or \"queue\", is \"topic\"",
    ] {
        assert_eq!(
            found.iter().filter(|problem| problem.starts_with(start)).count(),
            1,
            "{start}\n{found:#?}"
        );
    }
    assert_eq!(found.len(), 11, "{found:#?}");
}

#[test]
fn each_setting_says_what_would_be_right() {
    for (toml, place, says) in [
        ("[nodes]", "nodes", "no such setting; here there are: admin, tls, node"),
        ("node = 3", "node", "must be a table, is an integer"),
        ("[node]\nid = 'A b'", "node.id", "a-z, 0-9"),
        ("[node]\npublic_url = 'push.example.com'", "node.public_url", "https://push.example.com"),
        ("[node]\nlisten = '127.0.0.1:8081'", "node.admin_listen", "a port each"),
        ("[node]\nadmin_listen = '0.0.0.0:8081'", "node.admin_listen", "set admin.token"),
        ("[backbone.embedded]\nresp_listen = '[::]:6380'", "backbone.embedded.resp_listen", "resp_password"),
        ("[backbone.redis]", "backbone.redis.url", "redis://host:6379"),
        ("[backbone.redis]\nurl = 'http://h'", "backbone.redis.url", "redis://, rediss://"),
        ("[backbone.redis]\nurl_env = 'UNSET'", "backbone.redis.url_env", "variable UNSET is not set"),
        (
            "[backbone.redis]\nurl_env = 'SET'\nurl = 'redis://h'",
            "backbone.redis.url",
            "together with url_env",
        ),
        ("[backbone.redis]\nurl = 'redis://h'\n[backbone.embedded]", "backbone", "keep one of them"),
        ("[cluster]\nsecret = 'short'", "cluster.secret", "at least 32 bytes, has 5"),
        ("[admin]\ntoken = ''", "admin.token", "must not be empty"),
        ("[telemetry]\nlog_level = 'verbose'", "telemetry.log_level", "off, error, warn"),
        ("[telemetry]\nlog_level = 'tidegate=loud'", "telemetry.log_level", "off, error, warn"),
        ("[telemetry]\ntrace_sample_ratio = 1.5", "telemetry.trace_sample_ratio", "from 0.0 to 1.0, is 1.5"),
        ("[limits]\nping_ms = 1000", "limits.ping_ms", "not between ping_min_ms, 5000, and"),
        ("[limits]\nattempts = 1000", "limits.attempts", "from 1 to 100, is 1000"),
        ("[limits]\nwindow = -1", "limits.window", "from 1 to 4096, is -1"),
        ("[tenants.a]\norigins = ['a.example']", "tenants.a.origins[0]", "https://app.example.com"),
        ("[tenants.a]\norigins = [1]", "tenants.a.origins[0]", "must be a text"),
        ("[tenants.a]\napi_key_hashes = ['demo-key']", "tenants.a.api_key_hashes[0]", "64 hexadecimal"),
        ("[tenants.a.limits]\nwindow = 0", "tenants.a.limits.window", "from 1 to 4096"),
        ("[tenants.sys]", "tenants.sys", "reserved"),
    ] {
        one_problem(toml, place, says);
    }
}

#[test]
fn each_key_says_what_it_needs() {
    let key = |settings: &str| format!("[tenants.a.jwt]\nkeys = [{{ {settings} }}]");
    for (settings, setting, says) in [
        ("kid = 'a'", "algorithm", "\"HS256\" or \"EdDSA\""),
        ("algorithm = 'none'", "algorithm", "is \"none\""),
        ("algorithm = 'HS256'", "secret", "takes secret or secret_env"),
        ("algorithm = 'HS256', secret_env = 'UNSET'", "secret_env", "UNSET is not set"),
        ("algorithm = 'EdDSA'", "public_key", "takes public_key (PEM) or public_key_file"),
        ("algorithm = 'EdDSA', secret_env = 'SET'", "secret", "is for HS256"),
        ("algorithm = 'EdDSA', public_key = 'AAAA'", "public_key", "BEGIN PUBLIC KEY"),
        (
            "algorithm = 'EdDSA', public_key_file = '/nowhere/a.pem'",
            "public_key_file",
            "/nowhere/a.pem cannot be read",
        ),
    ] {
        one_problem(&key(settings), &format!("tenants.a.jwt.keys[0].{setting}"), says);
    }
    let pem = format!("algorithm = 'HS256', public_key = '''{ED25519_PUBLIC}'''");
    one_problem(&key(&pem), "tenants.a.jwt.keys[0].public_key", "is for EdDSA");
    let p256 = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----";
    let pem = format!("algorithm = 'EdDSA', public_key = '''{p256}'''");
    one_problem(&key(&pem), "tenants.a.jwt.keys[0].public_key", "not of Ed25519");
    one_problem("[tenants.a.jwt]", "tenants.a.jwt.keys", "at least one key");
    let same = "{ algorithm = 'HS256', secret_env = 'SET' }";
    one_problem(
        &format!("[tenants.a.jwt]\nkeys = [{same}, {same}]"),
        "tenants.a.jwt.keys[1].kid",
        "must differ",
    );
}

#[test]
fn a_namespace_cannot_contradict_its_kind() {
    for (name, settings, setting, says) in [
        ("user", "kind = 'live'", "kind", "must be \"log\""),
        ("x", "kind = 'live'\nack = 'always'", "ack", "keeps no cursors"),
        ("x", "kind = 'live'\nstart = 'oldest'", "start", "replays nothing"),
        ("x", "kind = 'live'\ndead_letters = true", "dead_letters", "redelivers nothing"),
        ("x", "kind = 'queue'\nack = 'asked'", "ack", "must be \"always\""),
        ("x", "kind = 'queue'\nstart = 'now'", "start", "must be \"oldest\""),
        ("x", "kind = 'queue'\non_slow = 'conflate'", "on_slow", "no work is left out"),
        ("x", "kind = 'queue'\nunreliable = true", "unreliable", "in a queue"),
        ("x", "ack = 'always'\nunreliable = true", "unreliable", "together with ack"),
    ] {
        let toml = format!("[tenants.a.namespaces.{name}]\n{settings}");
        one_problem(&toml, &format!("tenants.a.namespaces.{name}.{setting}"), says);
    }
}

#[test]
fn what_is_no_toml_is_told_by_its_line() {
    one_problem("[node]\nlisten = ", "line 2", "is not TOML: ");
    let unquoted = problems("\n[admin]\ntoken = sesame");
    assert!(unquoted[0].starts_with("line 3: ") && !unquoted[0].contains("sesame"), "{unquoted:?}");
}

#[test]
fn a_flag_or_variable_is_named_in_place_of_the_path() {
    let mut raw = RawConfig::from_toml("[admin]\ntoken_env = 'UNSET'", None).unwrap();
    raw.set_from_env(&|variable| match variable {
        "TIDEGATE_ADMIN_TOKEN" => Some("short".into()),
        "TIDEGATE_CLUSTER_SECRET" => Some(String::new()),
        _ => None,
    });
    raw.set("node.public_url", "x", "--public-url");
    let errors = raw.parse(Some(Path::new("/etc/t.toml")), &|_| None).unwrap_err().to_string();
    assert!(errors.starts_with("the configuration /etc/t.toml is not valid:\n"), "{errors}");
    assert!(errors.contains("\n  TIDEGATE_ADMIN_TOKEN: must have at least 16 bytes"), "{errors}");
    assert!(errors.contains("\n  --public-url: must be a URL"), "{errors}");
    assert_eq!(errors.lines().count(), 3, "{errors}");
}

#[test]
fn secrets_show_neither_in_debug_output_nor_in_errors() {
    let toml = "[admin]\ntoken = 'sesame-sesame-sesame'\n[backbone.redis]\nurl = 'redis://:sesame@h'\n\
        [cluster]\nsecret = 'sesame-sesame-sesame-sesame-sesame'\n\
        [tenants.a.jwt]\nkeys = [{ algorithm = 'HS256', secret = 'sesame-sesame-sesame-sesame-sesame' }]";
    let shown = format!("{:?}", parse(toml).unwrap());
    assert!(!shown.contains("sesame"), "{shown}");
    let errors = parse(&toml.replace("sesame'", "sesame'\nzz = 1").replace("redis://", "http://"));
    assert!(!format!("{errors:?}").contains("sesame"));
}

#[test]
fn a_tenant_takes_the_limits_that_it_does_not_set() {
    let config = parse("[limits]\nwindow = 7\nattempts = 2\n[tenants.a.limits]\nwindow = 9").unwrap();
    let limits = &config.tenants.values().next().unwrap().limits;
    assert_eq!((limits.window, limits.attempts), (9, 2));
}

#[test]
fn kinds_have_defaults_of_their_own() {
    let toml = "[tenants.a.namespaces]\nroom = { subscribe = 'listed' }\nlive = { kind = 'live' }\n\
        work = { kind = 'queue' }\nuser = { retention_max_len = 5 }";
    let namespaces = parse(toml).unwrap().tenants.values().next().unwrap().namespaces.clone();
    let rules = |name: &str| namespaces.iter().find(|rules| rules.name.as_str() == name).unwrap();
    assert_eq!(rules("room").subscribe, SubscribeRight::Listed);
    assert_eq!(*rules("live"), NamespaceRules::live("live"));
    assert_eq!(*rules("work"), NamespaceRules::queue("work"));
    assert_eq!(rules("user").retention.max_len, 5);
    assert!(rules("user").dead_letters);
    assert_eq!(namespaces.len(), 5, "and `session`");
}

#[test]
fn node_ids_differ_between_starts() {
    let id = || parse("").unwrap().node.id;
    assert_ne!(id(), id());
}

#[test]
fn the_demo_tenant_is_as_documented() {
    let mut config = parse("[limits]\nwindow = 7").unwrap();
    config.add_demo();
    let demo = &config.tenants[&TenantId::parse(DEMO_TENANT).unwrap()];
    assert!(demo.anonymous);
    assert_eq!(demo.limits.window, 7);
    assert_eq!(demo.api_keys, [ApiKeyHash::of("demo-key")]);
    let kinds: Vec<_> = demo.namespaces.iter().map(|rules| (rules.name.as_str(), rules.kind)).collect();
    let log = |name| (name, Kind::Log);
    assert_eq!(
        kinds,
        [
            log("room"),
            log("user"),
            ("live", Kind::Live),
            ("queue", Kind::Queue),
            log("state"),
            log("session")
        ]
    );
    assert_eq!(demo.namespaces[4].on_slow, OnSlow::Conflate);
}
