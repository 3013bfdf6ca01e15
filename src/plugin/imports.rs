//! What guests may call: a linker for each plugin, made for the imports it has.
//!
//! There are two ways to link. *Pure* is for the `on-deliver` hooks: nothing waits, the store refuses, clocks and
//! random numbers follow the message. *Free* is for all others. Which one an instance has never changes.
//!
//! Most of WASI is inert, because runtimes of languages ask for it and do well without. Only a component that imports
//! `wasi:http` gets the real thing ([`wasi`]), and only in the free way; in the pure way its calls trap.

use std::sync::Arc;

use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Linker, LinkerInstance, ResourceType};
use wasmtime::{Engine, bail};

use super::inspect::{HTTP, is_inert, split_name};

mod clocks;
mod context;
mod inert;
mod keyvalue;
mod output;
mod settings;
mod state;
mod wasi;

pub(super) use state::{CallContext, Environment, HostState};

/// How an instance is linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Way {
    /// Nothing but arguments, facts and settings.
    Pure,
    /// Everything; calls may wait.
    Free,
}

/// Any resource of the host's: none of them has a state.
pub(super) enum Inert {}

type Instance<'l> = LinkerInstance<'l, HostState>;

/// A linker with what this component imports, and nothing else.
pub(super) fn link(engine: &Engine, component: &Component, way: Way) -> wasmtime::Result<Linker<HostState>> {
    let mut linker = Linker::new(engine);
    let ty = component.component_type();
    let mut names = ty.imports(engine).map(|(name, _)| split_name(name));
    let waits = way == Way::Free && names.any(|name| name.package == HTTP);
    if waits {
        wasi::define(&mut linker)?;
    }
    for (name, import) in ty.imports(engine) {
        let ComponentItem::ComponentInstance(imported) = import.ty else {
            bail!("`{name}` is imported, and is no interface");
        };
        let parts = split_name(name);
        if waits && wasi::has(parts.package) {
            continue;
        }
        let mut instance = linker.instance(name)?;
        for (resource, item) in imported.exports(engine) {
            if matches!(item.ty, ComponentItem::Resource(_)) {
                instance.resource(resource, ResourceType::host::<Inert>(), |_, _| Ok(()))?;
            }
        }
        define(&mut instance, parts.package, parts.interface, way)?;
        if is_inert(parts.package) || parts.package == HTTP {
            for (function, item) in imported.exports(engine) {
                if matches!(item.ty, ComponentItem::ComponentFunc(_)) {
                    stub(&mut instance, name, function);
                }
            }
        }
    }
    Ok(linker)
}

/// Defines an interface's functions, those that have a meaning here.
fn define(instance: &mut Instance<'_>, package: &str, interface: &str, way: Way) -> wasmtime::Result<()> {
    match (package, interface) {
        ("tidegate:plugin", "context") => context::define(instance),
        ("wasi:config", "store") => settings::define(instance),
        ("wasi:logging", "logging") => settings::define_logging(instance),
        ("wasi:keyvalue", "store") => keyvalue::define_store(instance, way),
        ("wasi:keyvalue", "atomics") => keyvalue::define_atomics(instance, way),
        ("wasi:clocks", "wall-clock") => clocks::define_wall(instance),
        ("wasi:clocks", "monotonic-clock") => clocks::define_monotonic(instance),
        ("wasi:random", _) => clocks::define_random(instance),
        _ => inert::define(instance, package, interface),
    }
}

/// A function that is there to be imported. Whoever calls it traps.
fn stub(instance: &mut Instance<'_>, interface: &str, function: &str) {
    let name: Arc<str> = format!("{interface}#{function}").into();
    // One that is defined already stays.
    let _ = instance.func_new(function, move |_, _, _, _| bail!("{name} does nothing in a plugin"));
}
