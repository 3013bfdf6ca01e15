//! What runtimes of languages ask for when they start, and what of it does something: an empty environment, no
//! files, output to the tenant's log. The rest is there to be imported and traps when called.

use wasmtime::component::{Resource, WasmList};
use wasmtime::{StoreContextMut, bail};

use super::super::contract::StreamError;
use super::output::{Stream, WRITE_BYTES};
use super::{HostState, Inert, Instance};

/// The streams by the number in their handle.
const STDIN: u32 = 0;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;

type Store<'s> = StoreContextMut<'s, HostState>;
type Handle = Resource<Inert>;
type Streamed<T> = wasmtime::Result<(Result<T, StreamError>,)>;

pub(super) fn define(instance: &mut Instance<'_>, package: &str, interface: &str) -> wasmtime::Result<()> {
    match (package, interface) {
        ("wasi:cli", "environment") => {
            let nothing = |_: Store<'_>, (): ()| Ok((Vec::<(String, String)>::new(),));
            instance.func_wrap("get-environment", nothing)?;
            instance.func_wrap("get-arguments", |_: Store<'_>, (): ()| Ok((Vec::<String>::new(),)))?;
            instance.func_wrap("initial-cwd", |_: Store<'_>, (): ()| Ok((None::<String>,)))
        }
        ("wasi:cli", "exit") => instance.func_wrap("exit", |_: Store<'_>, (_,): (Result<(), ()>,)| {
            bail!("the plugin asked to exit");
            #[allow(unreachable_code, reason = "the closure's type needs it")]
            Ok(())
        }),
        ("wasi:cli", "stdin") => handle(instance, "get-stdin", STDIN),
        ("wasi:cli", "stdout") => handle(instance, "get-stdout", STDOUT),
        ("wasi:cli", "stderr") => handle(instance, "get-stderr", STDERR),
        ("wasi:cli", "terminal-stdin") => no_handle(instance, "get-terminal-stdin"),
        ("wasi:cli", "terminal-stdout") => no_handle(instance, "get-terminal-stdout"),
        ("wasi:cli", "terminal-stderr") => no_handle(instance, "get-terminal-stderr"),
        ("wasi:filesystem", "preopens") => instance
            .func_wrap("get-directories", |_: Store<'_>, (): ()| Ok((Vec::<(Handle, String)>::new(),))),
        ("wasi:io", "poll") => poll(instance),
        ("wasi:io", "streams") => streams(instance),
        _ => Ok(()),
    }
}

fn handle(instance: &mut Instance<'_>, name: &str, number: u32) -> wasmtime::Result<()> {
    instance.func_wrap(name, move |_: Store<'_>, (): ()| Ok((Handle::new_own(number),)))
}

fn no_handle(instance: &mut Instance<'_>, name: &str) -> wasmtime::Result<()> {
    instance.func_wrap(name, |_: Store<'_>, (): ()| Ok((None::<Handle>,)))
}

/// Everything is ready at once.
fn poll(instance: &mut Instance<'_>) -> wasmtime::Result<()> {
    instance.func_wrap("poll", |_: Store<'_>, (handles,): (Vec<Handle>,)| {
        let all = u32::try_from(handles.len()).unwrap_or(u32::MAX);
        Ok(((0..all).collect::<Vec<u32>>(),))
    })?;
    instance.func_wrap("[method]pollable.ready", |_: Store<'_>, (_,): (Handle,)| Ok((true,)))?;
    instance.func_wrap("[method]pollable.block", |_: Store<'_>, (_,): (Handle,)| Ok(()))
}

fn streams(instance: &mut Instance<'_>) -> wasmtime::Result<()> {
    for name in ["[method]output-stream.subscribe", "[method]input-stream.subscribe"] {
        instance.func_wrap(name, |_: Store<'_>, (_,): (Handle,)| Ok((Handle::new_own(0),)))?;
    }
    for name in ["[method]input-stream.read", "[method]input-stream.blocking-read"] {
        instance.func_wrap(name, |_: Store<'_>, (_, _): (Handle, u64)| -> Streamed<Vec<u8>> {
            Ok((Err(StreamError::Closed),))
        })?;
    }
    instance
        .func_wrap("[method]output-stream.check-write", |_: Store<'_>, (_,): (Handle,)| -> Streamed<u64> {
            Ok((Ok(WRITE_BYTES as u64),))
        })?;
    for name in ["[method]output-stream.write", "[method]output-stream.blocking-write-and-flush"] {
        instance.func_wrap(
            name,
            |mut store: Store<'_>, (stream, bytes): (Handle, WasmList<u8>)| -> Streamed<()> {
                if bytes.len() > WRITE_BYTES {
                    bail!("{} bytes were written, where check-write allows {WRITE_BYTES}", bytes.len());
                }
                let bytes = bytes.as_le_slice(&store).to_vec();
                let state = store.data_mut();
                match stream.rep() {
                    STDERR => state.stderr.say(&state.environment, Stream::Stderr, &bytes),
                    _ => state.stdout.say(&state.environment, Stream::Stdout, &bytes),
                }
                Ok((Ok(()),))
            },
        )?;
    }
    for name in ["[method]output-stream.flush", "[method]output-stream.blocking-flush"] {
        instance.func_wrap(name, |_: Store<'_>, (_,): (Handle,)| -> Streamed<()> { Ok((Ok(()),)) })?;
    }
    Ok(())
}
