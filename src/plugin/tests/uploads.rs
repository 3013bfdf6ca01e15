//! What is uploaded and not taken, in plain words.

use super::guests::{self, NOTHING, binary, nested, session, surface};
use super::*;
use crate::plugin::inspect::inspect;

const HOOK: &str = "tidegate:plugin/on-session@0.1.0";

fn refused(bytes: &[u8]) -> Rejection {
    inspect(bytes, 64 << 20).unwrap_err()
}

#[test]
fn what_is_no_component_is_told_what_it_is() {
    let module = binary("(module)");
    assert_eq!(refused(&module), Rejection::CoreModule);
    assert!(Rejection::CoreModule.to_string().contains("wasm-tools component new"));
    assert_eq!(refused(b"(component)"), Rejection::Text);
    assert_eq!(refused(b"\x7fELF"), Rejection::NotWasm);
    assert_eq!(refused(b""), Rejection::NotWasm);
    let large = Rejection::TooLarge { got: PROBE.len(), limit: 1_000 };
    assert_eq!(inspect(PROBE, 1_000), Err(large));
    for cut in [9, 100, PROBE.len() / 2, PROBE.len() - 1] {
        assert!(matches!(refused(&PROBE[..cut]), Rejection::Malformed { .. } | Rejection::NoHook), "{cut}");
    }
}

#[test]
fn imports_exports_and_versions_are_named() {
    let import = surface(&["wasi:http/incoming-handler@0.2.0"], &[HOOK]);
    assert_eq!(refused(&import), Rejection::Import { import: "wasi:http/incoming-handler@0.2.0".into() });
    let version = surface(&[], &["tidegate:plugin/on-session@0.2.0"]);
    assert_eq!(refused(&version), Rejection::Version { version: "0.2.0".into() });
    let version = surface(&["tidegate:plugin/context@1.0.0"], &[HOOK]);
    assert_eq!(refused(&version), Rejection::Version { version: "1.0.0".into() });
    assert_eq!(refused(&surface(&[], &[])), Rejection::NoHook);
    assert_eq!(refused(&surface(&[], &["wasi:http/incoming-handler@0.2.0"])), Rejection::NoHook);
    let unknown = "tidegate:plugin/on-lunch@0.1.0";
    assert_eq!(refused(&surface(&[], &[unknown])), Rejection::UnknownHook { export: unknown.into() });
    let scopes = ["tidegate:plugin/on-deliver@0.1.0", "tidegate:plugin/on-deliver-class@0.1.3"];
    assert_eq!(refused(&surface(&[], &scopes)), Rejection::Scopes("on-deliver", "on-deliver-class"));
    let func = binary(&format!(
        "(component (import \"now\" (func)) (instance $empty) (export {HOOK:?} (instance $empty)))"
    ));
    assert_eq!(refused(&func), Rejection::Import { import: "now".into() });
    let probe = inspect(PROBE, 64 << 20).unwrap();
    assert!(probe.hooks.has(Hook::OnDeliver) && probe.imports.iter().any(|name| name.contains("keyvalue")));
}

#[test]
fn what_is_dear_is_not_even_compiled() {
    let too_many = |bytes: &[u8]| match refused(bytes) {
        Rejection::TooMany { what, .. } => what,
        other => panic!("{other}"),
    };
    assert_eq!(too_many(&nested(50)), "components within each other");
    assert_eq!(too_many(&session("(table 100000 funcref) (func (export \"f\"))")), "elements of tables");
    assert_eq!(too_many(&session(&"(table 1 funcref)".repeat(20))), "tables");
    assert_eq!(too_many(&session("(memory 65536)")), "pages of memory at its start");
    let siblings = format!("(component {})", "(component)".repeat(501));
    assert_eq!(too_many(&binary(&siblings)), "components");
    let modules = format!("(component {})", "(core module)".repeat(101));
    assert_eq!(too_many(&binary(&modules)), "modules");
}

#[tokio::test]
async fn what_does_not_fit_or_start_is_refused() {
    let rig = Rig::new();
    assert_eq!(rig.refused(&guests::wrong_types()).await, Rejection::WrongTypes { hook: "on-session" });
    let empty = surface(&[], &[HOOK]);
    assert_eq!(rig.refused(&empty).await, Rejection::WrongTypes { hook: "on-session" });
    let trap = session(&format!("{NOTHING} (func $s unreachable) (start $s)"));
    let refused = rig.refused(&trap).await;
    assert!(matches!(&refused, Rejection::DoesNotStart(why) if why.contains("trapped")), "{refused}");
    let greedy = session(&format!("{NOTHING} (memory 2000)"));
    let refused = rig.refused(&greedy).await;
    assert!(matches!(&refused, Rejection::DoesNotStart(why) if why.contains("memory")), "{refused}");
    // An import with other types than the host's.
    let import = format!(
        "(component (import \"wasi:random/random@0.2.0\" (instance (export \"get-random-u64\" (func (result string))))) \
         (instance $empty) (export {HOOK:?} (instance $empty)))"
    );
    let refused = rig.refused(&binary(&import)).await;
    assert!(matches!(&refused, Rejection::DoesNotLink(_) | Rejection::WrongTypes { .. }), "{refused}");
}

#[tokio::test]
async fn an_endless_start_ends() {
    let rig = Rig::new();
    let endless = session(&format!("{NOTHING} (func $s (loop $l (br $l))) (start $s)"));
    let prepared = rig.host.prepare(endless.into(), &impatient()).await;
    let refused = prepared.unwrap_err();
    assert!(matches!(&refused, Rejection::DoesNotStart(why) if why.contains("too long")), "{refused}");
}
