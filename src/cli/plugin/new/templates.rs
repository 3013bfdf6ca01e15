//! The texts of a new plugin.

use crate::plugin::Hook;

/// The contract: files for `wit/deps`.
pub(super) const WIT: &[(&str, &str)] = &[
    ("tidegate-plugin/hooks.wit", include_str!("../../../../wit/hooks.wit")),
    ("tidegate-plugin/types.wit", include_str!("../../../../wit/types.wit")),
    ("tidegate-plugin/worlds.wit", include_str!("../../../../wit/worlds.wit")),
    ("wasi-clocks/clocks.wit", include_str!("../../../../wit/deps/wasi-clocks/clocks.wit")),
    ("wasi-config/store.wit", include_str!("../../../../wit/deps/wasi-config/store.wit")),
    ("wasi-http/http.wit", include_str!("../../../../wit/deps/wasi-http/http.wit")),
    ("wasi-io/io.wit", include_str!("../../../../wit/deps/wasi-io/io.wit")),
    ("wasi-keyvalue/keyvalue.wit", include_str!("../../../../wit/deps/wasi-keyvalue/keyvalue.wit")),
    ("wasi-logging/logging.wit", include_str!("../../../../wit/deps/wasi-logging/logging.wit")),
    ("wasi-random/random.wit", include_str!("../../../../wit/deps/wasi-random/random.wit")),
];

pub(super) const WORLD: &str = include_str!("../../../../plugins/templates/world.wit");
pub(super) const README: &str = include_str!("../../../../plugins/templates/README.md");
pub(super) const CARGO: &str = include_str!("../../../../plugins/templates/rust/Cargo.toml");
pub(super) const LIB: &str = include_str!("../../../../plugins/templates/rust/lib.rs");
pub(super) const RUST_TOOLS: &str = include_str!("../../../../plugins/templates/rust/tools.md");
pub(super) const PACKAGE: &str = include_str!("../../../../plugins/templates/js/package.json");
pub(super) const JS_HEAD: &str = include_str!("../../../../plugins/templates/js/head.js");
pub(super) const JS_TOOLS: &str = include_str!("../../../../plugins/templates/js/tools.md");
pub(super) const PYPROJECT: &str = include_str!("../../../../plugins/templates/py/pyproject.toml");
pub(super) const PY_HEAD: &str = include_str!("../../../../plugins/templates/py/head.py");
pub(super) const PY_TOOLS: &str = include_str!("../../../../plugins/templates/py/tools.md");

macro_rules! hooks {
    ($($hook:ident $name:literal)*) => {
        /// A hook in Rust, JavaScript and Python.
        pub(super) fn hook(hook: Hook) -> [&'static str; 3] {
            match hook {$(
                Hook::$hook => [
                    include_str!(concat!("../../../../plugins/templates/rust/hooks/", $name, ".rs")),
                    include_str!(concat!("../../../../plugins/templates/js/hooks/", $name, ".js")),
                    include_str!(concat!("../../../../plugins/templates/py/hooks/", $name, ".py")),
                ],
            )*}
        }
    };
}

hooks! {
    Authenticate "authenticate"
    OnSubscribe "on-subscribe"
    OnPublish "on-publish"
    Route "route"
    OnDeliver "on-deliver"
    OnDeliverClass "on-deliver-class"
    OnDeliverSession "on-deliver-session"
    OnSession "on-session"
}
