//! The one place where machine code is loaded.

#![allow(unsafe_code)]

use wasmtime::Engine;
use wasmtime::component::Component;

/// Loads machine code.
///
/// To be called with nothing but what `compile` has just been given by its own process, or has checked against the
/// node's key after it has read it.
pub(super) fn component(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: `deserialize` trusts its input to be what `Engine::precompile_component` made, unchanged. The callers
    // have it from a child of this process that runs this very program, through a folder that only this user can
    // write to; or from a file whose HMAC, over all of its bytes in memory as they are handed in here, was made with
    // the node's key by a process that had it in the former way. Whether it fits this engine is checked by
    // `deserialize` itself.
    unsafe { Component::deserialize(engine, code) }
}
