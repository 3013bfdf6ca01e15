//! Components written by hand.

use super::super::contract::{SessionChange, SessionNews};

/// What a session's hook is told.
pub(super) fn news() -> SessionNews {
    SessionNews { change: SessionChange::Connected, user: "ada".into(), session: "s".into() }
}

/// A component with the hook `on-session`, whose core module has these items beside a memory. The function `f`
/// takes five numbers.
pub(super) fn session(items: &str) -> Vec<u8> {
    component("", "", items)
}

/// The same, of a module that is a hook's function which does nothing.
pub(super) const NOTHING: &str = "(func (export \"f\") (param i32 i32 i32 i32 i32))";

/// A component with imports, a core module that is instantiated with `with`, and the hook `on-session`.
fn component(imports: &str, with: &str, items: &str) -> Vec<u8> {
    binary(&format!(
        r#"(component {imports}
            (core module $m
                {items}
                (memory (export "memory") 1)
                (data (i32.const 64) "hello")
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
            (core instance $i (instantiate $m {with}))
            (type $change (enum "connected" "disconnected"))
            (type $event (record (field "change" $change) (field "user" string) (field "session" string)))
            (func $f (param "event" $event) (canon lift (core func $i "f")
                (memory $i "memory") (realloc (func $i "realloc"))))
            {HOOK})"#
    ))
}

/// Gives the types of the lifted function names, as an interface's must have.
const HOOK: &str = r#"
    (component $hook
        (type $change (enum "connected" "disconnected"))
        (import "t-change" (type $change-in (eq $change)))
        (type $event (record (field "change" $change-in) (field "user" string) (field "session" string)))
        (import "t-event" (type $event-in (eq $event)))
        (import "f" (func $f (param "event" $event-in)))
        (type $change-again (enum "connected" "disconnected"))
        (export $change-out "change" (type $change-again))
        (type $event-again (record (field "change" $change-out) (field "user" string) (field "session" string)))
        (export $event-out "event" (type $event-again))
        (export "on-session" (func $f) (func (param "event" $event-out))))
    (instance $hooked (instantiate $hook
        (with "t-change" (type $change)) (with "t-event" (type $event)) (with "f" (func $f))))
    (export "tidegate:plugin/on-session@0.1.0" (instance $hooked))"#;

/// A component that asks for what runtimes of languages ask for, and writes six bytes to its standard output:
/// "hello" and this one.
pub(super) fn runtime(last: &str) -> Vec<u8> {
    const FILES: &str = r#"
        (import "wasi:filesystem/types@0.2.3" (instance
            (export "descriptor" (type $descriptor (sub resource)))
            (export "[method]descriptor.sync" (func (param "self" (borrow $descriptor)) (result (result))))))"#;
    output(FILES, "blocking-write-and-flush", 6, last)
}

/// A component with these imports that writes so many bytes to its standard output, by a method of streams: "hello",
/// what stands in `last`, and zeros.
pub(super) fn output(imports: &str, method: &str, bytes: usize, last: &str) -> Vec<u8> {
    const IMPORTS: &str = r#"
        (import "wasi:cli/environment@0.2.3" (instance $environment
            (export "get-environment" (func (result (list (tuple string string)))))))
        (import "wasi:io/error@0.2.3" (instance $errors (export "error" (type (sub resource)))))
        (alias export $errors "error" (type $error))
        (import "wasi:io/streams@0.2.3" (instance $streams
            (export "output-stream" (type $out (sub resource)))
            (alias outer 1 $error (type $its-error))
            (export "error" (type $error (eq $its-error)))
            (type $failed (variant (case "last-operation-failed" (own $error)) (case "closed")))
            (export "stream-error" (type $stream-error (eq $failed)))
            (export "[method]output-stream.METHOD"
                (func (param "self" (borrow $out)) (param "contents" (list u8))
                    (result (result (error $stream-error)))))))
        (alias export $streams "output-stream" (type $out))
        (import "wasi:cli/stdout@0.2.3" (instance $stdout
            (alias outer 1 $out (type $its-out))
            (export "output-stream" (type $out (eq $its-out)))
            (export "get-stdout" (func (result (own $out))))))
        (core module $bare (memory (export "memory") 1)
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 2048)))
        (core instance $bare (instantiate $bare))
        (core func $get-environment (canon lower (func $environment "get-environment")
            (memory $bare "memory") (realloc (func $bare "realloc"))))
        (core func $get-stdout (canon lower (func $stdout "get-stdout")))
        (core func $write (canon lower (func $streams "[method]output-stream.METHOD")
            (memory $bare "memory") (realloc (func $bare "realloc"))))
        (core instance $host (export "environment" (func $get-environment)) (export "stdout" (func $get-stdout))
            (export "write" (func $write)) (export "memory" (memory $bare "memory")))"#;
    const ITEMS: &str = r#"
        (import "host" "environment" (func $environment (param i32)))
        (import "host" "stdout" (func $stdout (result i32)))
        (import "host" "write" (func $write (param i32 i32 i32 i32)))
        (import "host" "memory" (memory $theirs 1))
        (data (memory $theirs) (i32.const 64) "helloLAST")
        (func (export "f") (param i32 i32 i32 i32 i32)
            (call $environment (i32.const 0))
            (if (i32.load $theirs (i32.const 4)) (then unreachable))
            (call $write (call $stdout) (i32.const 64) (i32.const BYTES) (i32.const 16))
            (if (i32.load8_u $theirs (i32.const 16)) (then unreachable)))"#;
    let imports = format!("{imports}{}", IMPORTS.replace("METHOD", method));
    let items = ITEMS.replace("BYTES", &bytes.to_string()).replace("LAST", last);
    component(&imports, "(with \"host\" (instance $host))", &items)
}

/// A component with a hook whose function takes nothing.
pub(super) fn wrong_types() -> Vec<u8> {
    binary(
        r#"(component
            (core module $m (func (export "f")))
            (core instance $i (instantiate $m))
            (func $f (canon lift (core func $i "f")))
            (instance $hook (export "on-session" (func $f)))
            (export "tidegate:plugin/on-session@0.1.0" (instance $hook)))"#,
    )
}

/// A component that exports these interfaces, each with one function, and imports these, each with nothing.
pub(super) fn surface(imports: &[&str], exports: &[&str]) -> Vec<u8> {
    let imports: String = imports.iter().map(|name| format!("(import {name:?} (instance))")).collect();
    let exports: String = exports.iter().map(|name| format!("(export {name:?} (instance $empty))")).collect();
    binary(&format!("(component {imports} (instance $empty) {exports})"))
}

/// Components within each other.
pub(super) fn nested(depth: usize) -> Vec<u8> {
    binary(&format!("{}{}", "(component ".repeat(depth), ")".repeat(depth)))
}

pub(super) fn binary(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"))
}
