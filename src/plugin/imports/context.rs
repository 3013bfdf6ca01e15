//! `tidegate:plugin/context`.

use std::sync::Arc;

use wasmtime::StoreContextMut;

use super::{HostState, Instance};

pub(super) fn define(instance: &mut Instance<'_>) -> wasmtime::Result<()> {
    instance.func_wrap("header", |store: StoreContextMut<'_, HostState>, (name,): (String,)| {
        Ok((store.data().call.facts.header(&name),))
    })?;
    instance.func_wrap("headers", |store: StoreContextMut<'_, HostState>, (): ()| {
        Ok((store.data().call.facts.headers(),))
    })?;
    instance.func_wrap("fact", |store: StoreContextMut<'_, HostState>, (name,): (String,)| {
        Ok((fact(store.data(), &name),))
    })
}

fn fact(state: &HostState, name: &str) -> Option<Arc<str>> {
    match name {
        "tenant" => Some(state.environment.tenant.as_str().into()),
        "version" => Some(Arc::clone(&state.environment.version)),
        _ => state.call.facts.named(name),
    }
}
