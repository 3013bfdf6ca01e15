//! Promise: a module imports only from floors below, without circles, and some crates stay behind fences
//! (`docs/ARCHITECTURE.md`).
//!
//! Read are `use` declarations and written-out paths of every file under `src`, comments and literals left
//! out. A module on the same floor may be imported as long as nobody comes back round.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

/// Top-level module → floor. Every module under `src` stands here.
const FLOORS: &[(&str, u8)] = &[
    ("domain", 1),
    ("protocol", 2),
    ("backbone", 2),
    ("config", 2),
    ("telemetry", 2),
    ("transport", 3),
    ("plugin", 3),
    ("router", 4),
    ("delivery", 4),
    ("directory", 4),
    ("presence", 4),
    ("auth", 4),
    ("tenants", 4),
    ("quota", 4),
    ("session", 5),
    ("api", 6),
    ("shard", 7),
    ("client", 8),
    ("gateway", 8),
    ("cli", 9),
    ("main", 9),
];

/// Crate → the modules that may name it. A crate's companions (`h3_quinn`, `hyper_util`) share its fence.
const FENCES: &[(&str, &[&str])] = &[
    ("redis", &["backbone::redis"]),
    ("wasmtime", &["plugin"]),
    ("quinn", &["transport", "router::relay", "client"]),
    ("h3", &["transport", "router::relay", "client"]),
    ("hyper", &["transport", "api", "shard", "plugin::http"]),
    ("axum", &["transport", "api", "shard"]),
    ("opentelemetry", &["telemetry"]),
    ("tracing_opentelemetry", &["telemetry"]),
];

#[test]
fn modules_keep_their_floors_and_fences() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    read_sources(&root, &root, &mut files);
    assert!(
        files.iter().any(|file| file.path == "src/domain.rs"),
        "no sources found under {}",
        root.display()
    );
    let paths: usize = files.iter().map(|file| scan(file).len()).sum();
    assert!(paths > 20, "only {paths} paths read from {} files: the reader does not read", files.len());
    let broken = check(&files);
    let list: Vec<String> = broken.iter().map(ToString::to_string).collect();
    assert!(broken.is_empty(), "{} broken rules:\n{}", list.len(), list.join("\n"));
}

/// One file of source.
struct Source {
    /// As `src/backbone/redis.rs`.
    path: String,
    text: String,
}

/// A rule that a line breaks.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Broken {
    path: String,
    line: usize,
    rule: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.rule)
    }
}

fn read_sources(root: &Path, folder: &Path, files: &mut Vec<Source>) {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let path = entry.expect("a folder that lists its entries").path();
        if path.is_dir() {
            read_sources(root, &path, files);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let below =
                path.strip_prefix(root).expect("found below the root").to_string_lossy().replace('\\', "/");
            let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{below}: {error}"));
            files.push(Source { path: format!("src/{below}"), text });
        }
    }
}

fn check(files: &[Source]) -> Vec<Broken> {
    let mut broken = BTreeSet::new();
    let mut level: BTreeMap<(String, String), (String, usize)> = BTreeMap::new();
    for file in files {
        let module = module_of(&file.path);
        // `lib.rs` only declares modules and re-exports; it belongs to no floor.
        let Some(top) = module.first() else { continue };
        let mut breaks = |line: usize, rule: String| {
            broken.insert(Broken { path: file.path.clone(), line, rule });
        };
        let Some(floor) = floor_of(top) else {
            breaks(
                1,
                format!("module `{top}` has no floor: give it one in FLOORS of tests/promises/fences.rs"),
            );
            continue;
        };
        for Named { line, target } in scan(file) {
            match target {
                Target::Inside(other) if other == *top => {}
                Target::Inside(other) => match floor_of(&other) {
                    // Items that `lib.rs` re-exports would hide which floor they come from.
                    None => breaks(
                        line,
                        format!("`crate::{other}` is no module of the table: name the module it comes from"),
                    ),
                    Some(above) if above > floor => breaks(
                        line,
                        format!(
                            "`{top}` (floor {floor}) imports from `{other}` (floor {above}), which is above it"
                        ),
                    ),
                    Some(same) if same == floor => {
                        level.entry((top.clone(), other)).or_insert_with(|| (file.path.clone(), line));
                    }
                    Some(_) => {}
                },
                Target::Crate(name) => {
                    if let Some(rule) = fence_broken(&name, &module) {
                        breaks(line, rule);
                    }
                }
            }
        }
    }
    broken.extend(circles(&level));
    broken.into_iter().collect()
}

fn floor_of(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

fn fence_broken(name: &str, module: &[String]) -> Option<String> {
    let (fenced, allowed) = fence_of(name)?;
    let here = module.join("::");
    let inside = allowed.iter().any(|place| here == *place || here.starts_with(&format!("{place}::")));
    (!inside).then(|| {
        let places: Vec<String> = allowed.iter().map(|place| format!("`{place}`")).collect();
        format!("crate `{name}` is used in `{here}`; `{fenced}` stays in {}", places.join(", "))
    })
}

fn fence_of(name: &str) -> Option<&'static (&'static str, &'static [&'static str])> {
    FENCES.iter().find(|(fenced, _)| {
        name.strip_prefix(fenced).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    })
}

/// Edges between modules of one floor that lie on a circle.
fn circles(level: &BTreeMap<(String, String), (String, usize)>) -> Vec<Broken> {
    level
        .iter()
        .filter_map(|((from, to), (path, line))| {
            let back = way(level, to, from)?;
            let rule = format!("a circle on one floor: {from} → {}", back.join(" → "));
            Some(Broken { path: path.clone(), line: *line, rule })
        })
        .collect()
}

/// A way along the edges, both ends included.
fn way(level: &BTreeMap<(String, String), (String, usize)>, from: &str, to: &str) -> Option<Vec<String>> {
    let mut ways = vec![vec![from.to_owned()]];
    let mut seen = BTreeSet::from([from.to_owned()]);
    while let Some(way) = ways.pop() {
        let end = way.last().expect("a way has at least its start");
        if end == to {
            return Some(way);
        }
        for (_, next) in level.keys().filter(|(start, _)| start == end) {
            if seen.insert(next.clone()) {
                ways.push(way.iter().cloned().chain([next.clone()]).collect());
            }
        }
    }
    None
}

/// `src/a/b.rs` and `src/a/b/mod.rs` are `a::b`; `src/lib.rs` is the root; `src/main.rs` is `main`.
fn module_of(path: &str) -> Vec<String> {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
    let mut parts: Vec<String> = inner.split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| last == "mod") || parts == ["lib"] {
        parts.pop();
    }
    parts
}

/// What a path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    /// A top-level module of this crate.
    Inside(String),
    /// A crate, as its first segment names it.
    Crate(String),
}

/// A path in the source.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    line: usize,
    target: Target,
}

/// The paths of a file that lead to other modules or to fenced crates.
fn scan(file: &Source) -> Vec<Named> {
    let tokens = tokens(&file.text);
    let module = module_of(&file.path);
    let mut walk = Walk {
        tokens: &tokens,
        at: 0,
        module,
        depth: 0,
        inline: Vec::new(),
        paths: Vec::new(),
        local: BTreeSet::new(),
    };
    walk.run();
    let Walk { paths, local, .. } = walk;
    paths
        .into_iter()
        .filter_map(|(line, path)| {
            let target = match path {
                Resolved::Inside(path) => Target::Inside(path.into_iter().next()?),
                // A module or an import of that name hides the crate.
                Resolved::Outside(path) if local.contains(&path[0]) => return None,
                Resolved::Outside(path) => Target::Crate(path[0].clone()),
            };
            Some(Named { line, target })
        })
        .collect()
}

enum Resolved {
    /// From the crate's root.
    Inside(Vec<String>),
    /// Starts with a crate, or with something local.
    Outside(Vec<String>),
}

/// Walks over the tokens and gathers paths.
struct Walk<'a> {
    tokens: &'a [Token],
    at: usize,
    module: Vec<String>,
    depth: usize,
    /// Inline modules that are open: depth of their brace, and name.
    inline: Vec<(usize, String)>,
    paths: Vec<(usize, Resolved)>,
    /// Names that modules and imports of this file bring in.
    local: BTreeSet<String>,
}

impl Walk<'_> {
    fn run(&mut self) {
        while let Some(token) = self.tokens.get(self.at) {
            match token.text.as_str() {
                "{" => self.depth += 1,
                "}" => {
                    self.depth = self.depth.saturating_sub(1);
                    self.inline.retain(|(depth, _)| *depth < self.depth + 1);
                }
                "mod" => self.module_declared(),
                // What a type captures (`impl Fn() + use<'a>`) is no import.
                "use" if self.text(self.at + 1) != "<" => {
                    self.at += 1;
                    self.tree(&[]);
                    continue;
                }
                "crate" if self.text(self.at.wrapping_sub(1)) == "extern" => {
                    let name = self.text(self.at + 1).to_owned();
                    self.paths.push((token.line, Resolved::Outside(vec![name])));
                }
                _ => {
                    self.plain_path();
                    continue;
                }
            }
            self.at += 1;
        }
    }

    fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| &token.text)
    }

    fn module_declared(&mut self) {
        let name = self.text(self.at + 1).to_owned();
        self.local.insert(name.clone());
        if self.text(self.at + 2) == "{" {
            self.inline.push((self.depth + 1, name));
        }
    }

    /// One tree of a `use`: `a::{b, c::d as e}`; stops behind it.
    fn tree(&mut self, before: &[String]) {
        let mut path = before.to_vec();
        let line = self.tokens.get(self.at).map_or(0, |token| token.line);
        let mut alias = None;
        while let Some(token) = self.tokens.get(self.at) {
            match token.text.as_str() {
                "{" => {
                    self.at += 1;
                    while !matches!(self.text(self.at), "}" | ";" | "") {
                        self.tree(&path);
                        if self.text(self.at) == "," {
                            self.at += 1;
                        }
                    }
                    self.at += 1;
                    return;
                }
                "," | "}" | ";" => break,
                "::" => {}
                "as" => {
                    self.at += 1;
                    alias = Some(self.text(self.at).to_owned());
                }
                name => path.push(name.to_owned()),
            }
            self.at += 1;
        }
        if path.is_empty() {
            return;
        }
        let bound = alias.or_else(|| path.iter().rfind(|part| *part != "self").cloned());
        let resolved = self.resolve(path);
        if let (Resolved::Inside(_), Some(bound)) = (&resolved, bound) {
            self.local.insert(bound);
        }
        self.paths.push((line, resolved));
    }

    /// A path outside of `use`: only those that start at the crate, above this module, or at a fenced crate.
    fn plain_path(&mut self) {
        let start = self.at;
        self.at += 1;
        let first = self.text(start);
        let begins = !matches!(self.text(start.wrapping_sub(1)), "::" | ".") && self.text(start + 1) == "::";
        let wanted = matches!(first, "crate" | "self" | "super" | "tidegate") || fence_of(first).is_some();
        if !(begins && wanted) {
            return;
        }
        let line = self.tokens[start].line;
        let mut path = vec![first.to_owned()];
        while self.text(self.at) == "::" && is_name(self.text(self.at + 1)) {
            path.push(self.text(self.at + 1).to_owned());
            self.at += 2;
        }
        let resolved = self.resolve(path);
        self.paths.push((line, resolved));
    }

    fn resolve(&self, path: Vec<String>) -> Resolved {
        let mut here: Vec<String> = self.module.clone();
        here.extend(self.inline.iter().map(|(_, name)| name.clone()));
        let mut rest = path.iter().peekable();
        match path[0].as_str() {
            "crate" | "tidegate" => {
                rest.next();
                here.clear();
            }
            "self" => {
                rest.next();
            }
            "super" => {}
            _ => return Resolved::Outside(path),
        }
        while rest.next_if(|part| *part == "super").is_some() {
            here.pop();
        }
        here.extend(rest.cloned());
        Resolved::Inside(here)
    }
}

/// A name, `::`, or one other character.
#[derive(Debug)]
struct Token {
    line: usize,
    text: String,
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Cuts source into tokens, without comments, strings, characters and lifetimes.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let start = at;
        at = match (chars[at], chars.get(at + 1).copied()) {
            ('/', Some('/')) => skip_until(&chars, at, |c| c == '\n'),
            ('/', Some('*')) => skip_block(&chars, at),
            ('"', _) => skip_string(&chars, at),
            ('r' | 'b' | 'c', Some('r' | '"' | '#')) if raw_string(&chars, at).is_some() => {
                raw_string(&chars, at).expect("just looked at")
            }
            ('\'', _) => skip_quote(&chars, at),
            (':', Some(':')) => {
                found.push(Token { line, text: "::".into() });
                at + 2
            }
            (c, _) if c.is_alphanumeric() || c == '_' => {
                let end = skip_until(&chars, at, |c| !(c.is_alphanumeric() || c == '_'));
                found.push(Token { line, text: chars[at..end].iter().collect() });
                end
            }
            (c, _) => {
                if !c.is_whitespace() {
                    found.push(Token { line, text: c.into() });
                }
                at + 1
            }
        };
        line += chars[start..at.min(chars.len())].iter().filter(|c| **c == '\n').count();
    }
    found
}

fn skip_until(chars: &[char], from: usize, stop: impl Fn(char) -> bool) -> usize {
    (from..chars.len()).find(|at| stop(chars[*at])).unwrap_or(chars.len())
}

/// Behind a block comment; they nest.
fn skip_block(chars: &[char], from: usize) -> usize {
    let (mut at, mut depth) = (from, 0);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// Behind a string that starts with `"` and knows escapes.
fn skip_string(chars: &[char], from: usize) -> usize {
    let mut at = from + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// Behind `r"…"`, `r#"…"#`, `br"…"`, `b"…"` and `c"…"`; `None` where none of these starts (`r#type`).
fn raw_string(chars: &[char], from: usize) -> Option<usize> {
    let mut at = from;
    let mut raw = false;
    while matches!(chars.get(at), Some('b' | 'c' | 'r')) && at < from + 2 {
        raw |= chars[at] == 'r';
        at += 1;
    }
    let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
    if chars.get(at + hashes) != Some(&'"') || (hashes > 0 && !raw) {
        return None;
    }
    if !raw {
        return Some(skip_string(chars, at));
    }
    let mut end = at + hashes + 1;
    while end < chars.len() {
        let closes = chars[end] == '"'
            && chars[end + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes;
        end += 1;
        if closes {
            return Some(end + hashes);
        }
    }
    Some(end)
}

/// Behind a character literal or a lifetime.
fn skip_quote(chars: &[char], from: usize) -> usize {
    match (chars.get(from + 1), chars.get(from + 2)) {
        (Some('\\'), _) => skip_until(chars, from + 3, |c| c == '\'') + 1,
        (Some(_), Some('\'')) => from + 3,
        _ => skip_until(chars, from + 1, |c| !(c.is_alphanumeric() || c == '_')),
    }
}

mod on_samples {
    use super::*;

    fn broken(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<Source> =
            files.iter().map(|(path, text)| Source { path: (*path).into(), text: (*text).into() }).collect();
        check(&files).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_import_from_above_is_refused() {
        let above = "`delivery` (floor 4) imports from `session` (floor 5), which is above it";
        for text in [
            "use crate::session::State;",
            "use crate::{domain::Offset, session};",
            "use super::super::session::State;",
            "fn f(s: &crate::session::State) {}",
            "pub use tidegate::session::State as S;",
            "mod tests { use super::super::super::session::State; }",
        ] {
            assert_eq!(
                broken(&[("src/delivery/feed.rs", text)]),
                [format!("src/delivery/feed.rs:1: {above}")],
                "{text}"
            );
        }
    }

    #[test]
    fn the_line_is_that_of_the_import() {
        let text = "//! About.\n\n/* a\n b */\nuse crate::domain::{\n    Offset,\n};\nuse crate::gateway::Gateway;\n";
        let found = broken(&[("src/api.rs", text)]);
        assert_eq!(
            found,
            ["src/api.rs:8: `api` (floor 6) imports from `gateway` (floor 8), which is above it"]
        );
    }

    #[test]
    fn a_fenced_crate_is_refused_outside() {
        for (path, text, name) in [
            ("src/delivery/cursors.rs", "use redis::Client;", "redis"),
            ("src/backbone/embedded.rs", "fn f() { redis::cmd(\"GET\"); }", "redis"),
            ("src/session.rs", "use wasmtime::{Engine, Store};", "wasmtime"),
            ("src/router/rendezvous.rs", "use h3_quinn::Connection;", "h3_quinn"),
            ("src/cli/publish.rs", "use hyper_util::rt::TokioIo;", "hyper_util"),
            ("src/session.rs", "extern crate axum;", "axum"),
            ("src/shard.rs", "use opentelemetry_sdk::trace;", "opentelemetry_sdk"),
        ] {
            let found = broken(&[(path, text)]);
            assert_eq!(found.len(), 1, "{path}: {text}: {found:?}");
            assert!(found[0].starts_with(&format!("{path}:1: crate `{name}` is used in")), "{found:?}");
        }
    }

    #[test]
    fn a_circle_on_one_floor_is_refused() {
        let found = broken(&[
            ("src/router.rs", "use crate::auth::Identity;"),
            ("src/auth.rs", "\nuse crate::tenants::Tenant;"),
            ("src/tenants.rs", "use crate::router::Home;"),
            ("src/quota.rs", "use crate::tenants::Tenant;"),
        ]);
        let expected = [
            "src/auth.rs:2: a circle on one floor: auth → tenants → router → auth",
            "src/router.rs:1: a circle on one floor: router → auth → tenants → router",
            "src/tenants.rs:1: a circle on one floor: tenants → router → auth → tenants",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_module_without_a_floor_is_refused() {
        let found = broken(&[("src/helpers.rs", ""), ("src/shard/hub.rs", "use crate::Everything;")]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("module `helpers` has no floor"), "{found:?}");
        assert!(found[1].contains("`crate::Everything` is no module of the table"), "{found:?}");
    }

    #[test]
    fn what_is_allowed_passes() {
        let found = broken(&[
            ("src/lib.rs", "pub mod domain; pub use session::State;"),
            ("src/main.rs", "use tidegate::cli; fn main() { cli::run() }"),
            ("src/backbone.rs", "pub mod redis; pub use redis::Redis; use crate::domain::Offset;"),
            ("src/backbone/redis/reads.rs", "use redis::Client; use super::super::Page;"),
            ("src/router/relay.rs", "use quinn::Endpoint; use crate::auth::Identity;"),
            ("src/gateway.rs", "use crate::backbone::{embedded, redis}; fn f() { redis::connect() }"),
            ("src/session.rs", "mod window { use super::State; } #[cfg(test)] mod tests { use super::*; }"),
            ("src/shard/hub.rs", "use std::rc::Rc; use hyper::body::Incoming; pub(crate) fn f() {}"),
            (
                "src/shard/errands.rs",
                "fn f<'a>(s: &'a str) -> impl Fn() + use<'a> { let t = { s }; move || () }",
            ),
        ]);
        assert_eq!(found, [""; 0]);
    }

    #[test]
    fn comments_and_literals_are_not_read() {
        let text = r####"
            // use crate::gateway::A;
            /* use crate::gateway::B; /* nested */ use redis::C; */
            fn f<'a>(x: &'a str) -> char {
                let _ = ("use redis::D; \" crate::gateway::E", r#"crate::gateway::"F"#, b"redis::G", '"', '\'');
                let r#type = 'x';
                'x'
            }
        "####;
        assert_eq!(broken(&[("src/domain/names.rs", text)]), [""; 0]);
        let after = format!("{text}\nuse crate::gateway::Z;");
        assert_eq!(broken(&[("src/domain/names.rs", &after)]).len(), 1);
    }
}
