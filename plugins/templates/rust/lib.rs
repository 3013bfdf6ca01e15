//! The plugin %NAME%: one module a hook.

mod bindings {
    wit_bindgen::generate!({ path: "wit", world: "plugin", generate_all });
}

%MODULES%
use bindings::wasi::config::store;

struct Plugin;
bindings::export!(Plugin with_types_in bindings);

/// A setting of this plugin, as `--set NAME=VALUE` gives it. Settings never change while an instance lives.
#[allow(dead_code)]
fn setting(name: &str) -> Option<String> {
    store::get(name).ok().flatten()
}
