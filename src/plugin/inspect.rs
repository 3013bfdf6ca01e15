//! Looks at uploaded bytes before anything is made of them, and says in plain words what is wrong.
//!
//! Only headers are read here, in one pass that ends at the first limit; what is inside functions is checked
//! by the process that compiles. So a component made to be dear costs its reader nothing.

use crate::config::TenantPlugins;
use crate::plugin::hooks::{Hook, Hooks};
use crate::telemetry::Label as _;

mod imports;
mod reader;

pub(super) use imports::HTTP;
pub use imports::is_inert;
pub(super) use imports::split as split_name;

/// The versions of `tidegate:plugin` that this node takes: 0.1.x.
pub const CONTRACT: (u64, u64) = (0, 1);

/// What is known of a component without compiling it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    /// The hooks it exports.
    pub hooks: Hooks,
    /// The interfaces it exports, with version, hook by hook.
    pub(super) exports: Vec<(Hook, Box<str>)>,
    /// The interfaces it imports, with version.
    pub imports: Vec<Box<str>>,
}

/// Why an upload is not taken; always for the tenant's developer to mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// More bytes than the tenant may upload.
    #[error(
        "the component has {got} bytes, and the limit is {limit}: build it optimised for size and stripped, or ask \
         the operator for a larger limit (plugins.code_bytes)"
    )]
    TooLarge {
        /// How many there are.
        got: usize,
        /// How many may be.
        limit: usize,
    },
    /// No WebAssembly.
    #[error(
        "this is no WebAssembly: it does not begin with \\0asm. Upload the .wasm file that the build made"
    )]
    NotWasm,
    /// Text instead of binary.
    #[error("this is WebAssembly text: `wasm-tools parse plugin.wat -o plugin.wasm` makes the binary of it")]
    Text,
    /// A core module.
    #[error(
        "this is a core module, and plugins are components: `wasm-tools component new module.wasm -o plugin.wasm` \
         makes one of a module that was built with wit-bindgen (modules that use WASI preview 1 need `--adapt` and the \
         adapter too); Rust's targets wasm32-wasip2 and wasm32-unknown-unknown with wasm-component-ld make one at once"
    )]
    CoreModule,
    /// It does not parse.
    #[error("this is no valid component: {what} (at byte {offset})")]
    Malformed {
        /// What the parser says.
        what: Box<str>,
        /// Where.
        offset: u64,
    },
    /// It has more of something than is sensible.
    #[error("the component has {got} {what}, and {limit} may be")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are, as far as was counted.
        got: u64,
        /// How many may be.
        limit: u64,
    },
    /// It is built for a version of the contract that this node does not know.
    #[error(
        "the component is built for tidegate:plugin@{version}, and this node takes 0.1.x: build it against the WIT \
         of this node (`tidegate plugin new` writes it)"
    )]
    Version {
        /// Which.
        version: Box<str>,
    },
    /// It imports something that is not there.
    #[error(
        "the component imports `{import}`, which plugins do not get here. There are: tidegate:plugin/context, \
         wasi:config/store, wasi:keyvalue/store and atomics, wasi:logging, wasi:clocks, wasi:random, wasi:http/types \
         and outgoing-handler, and inert wasi:cli, io, filesystem, sockets (docs/plugins.md)"
    )]
    Import {
        /// Which.
        import: Box<str>,
    },
    /// It imports `wasi:http`, and its tenant's plugins may ask nobody.
    #[error(
        "the component imports wasi:http, and this tenant's plugins may ask no host: have the operator list those it \
         needs (tenants.<id>.plugins.http_hosts), or build it without"
    )]
    NoHttpHosts,
    /// It exports no hook.
    #[error(
        "the component exports none of the hooks, so that it would never be called: export at least one of \
         authenticate, on-subscribe, on-publish, route, on-deliver, on-deliver-class, on-deliver-session, on-session \
         of tidegate:plugin"
    )]
    NoHook,
    /// It exports something of the contract that is no hook.
    #[error("the component exports `{export}`, which is no hook of tidegate:plugin@0.1")]
    UnknownHook {
        /// Which.
        export: Box<str>,
    },
    /// It declares several scopes.
    #[error(
        "the component exports {0} and {1}: messages are shown to a plugin in one scope, so export one of them"
    )]
    Scopes(&'static str, &'static str),
    /// A hook's types are not those of the WIT.
    #[error("the hook `{hook}` has other types than tidegate:plugin@0.1 says: build it against that WIT")]
    WrongTypes {
        /// Which.
        hook: &'static str,
    },
    /// The compiler does not take it.
    #[error("the component does not compile: {0}")]
    DoesNotCompile(Box<str>),
    /// The compiler gave up.
    #[error("the component does not compile within {0} s: it is too large or too involved")]
    CompileTime(u64),
    /// The compiler ran out of memory.
    #[error("the component does not compile within {0} MiB of memory: it is too large or too involved")]
    CompileMemory(u64),
    /// It cannot be linked with what the host offers.
    #[error("the component does not fit what the host offers: {0}")]
    DoesNotLink(Box<str>),
    /// Its start does not end well.
    #[error("the component cannot be started: {0}. Starting must end within the deadline and without a trap")]
    DoesNotStart(Box<str>),
    /// This node is to blame.
    #[error("this node cannot prepare plugins now: {0}")]
    Node(Box<str>),
}

impl Inspected {
    /// Whether a tenant's plugins may have what it imports.
    pub fn permitted(&self, limits: &TenantPlugins) -> Result<(), Rejection> {
        let asks = self.imports.iter().any(|import| split_name(import).package == HTTP);
        if asks && limits.http_hosts.is_empty() { Err(Rejection::NoHttpHosts) } else { Ok(()) }
    }
}

impl Rejection {
    /// Whether the node is to blame, so that the same upload may be taken later or elsewhere.
    pub fn is_nodes(&self) -> bool {
        matches!(self, Self::Node(_))
    }

    /// Whether a node that is busy, or has less than others, may be to blame as much as the component.
    pub fn is_perhaps_nodes(&self) -> bool {
        self.is_nodes()
            || matches!(self, Self::CompileTime(_) | Self::CompileMemory(_) | Self::DoesNotStart(_))
    }
}

/// Looks at uploaded bytes.
pub fn inspect(bytes: &[u8], code_bytes: usize) -> Result<Inspected, Rejection> {
    if bytes.len() > code_bytes {
        return Err(Rejection::TooLarge { got: bytes.len(), limit: code_bytes });
    }
    kind(bytes)?;
    let surface = reader::read(bytes)?;
    let mut imports = Vec::new();
    for import in surface.imports {
        imports::allowed(&import)?;
        imports.push(import);
    }
    let exports = hooks(surface.exports)?;
    let hooks = exports.iter().fold(Hooks::default(), |hooks, (hook, _)| hooks.with(*hook));
    let mut scopes = hooks.iter().filter(|hook| hook.scope().is_some()).map(Hook::interface);
    if let (Some(one), Some(other)) = (scopes.next(), scopes.next()) {
        return Err(Rejection::Scopes(one, other));
    }
    Ok(Inspected { hooks, exports, imports })
}

/// Tells components from what is mistaken for them.
fn kind(bytes: &[u8]) -> Result<(), Rejection> {
    if bytes.trim_ascii_start().starts_with(b"(") {
        return Err(Rejection::Text);
    }
    match bytes.get(..8) {
        Some([0, b'a', b's', b'm', 1, 0, 0, 0]) => Err(Rejection::CoreModule),
        Some([0, b'a', b's', b'm', ..]) => Ok(()),
        _ => Err(Rejection::NotWasm),
    }
}

fn hooks(exports: Vec<Box<str>>) -> Result<Vec<(Hook, Box<str>)>, Rejection> {
    let mut found = Vec::new();
    for export in exports {
        let name = imports::split(&export);
        if name.package != "tidegate:plugin" {
            // What else it exports nobody calls.
            continue;
        }
        imports::contract_version(name.version)?;
        let hook = Hook::of_interface(name.interface)
            .ok_or_else(|| Rejection::UnknownHook { export: export.clone() })?;
        found.push((hook, export));
    }
    if found.is_empty() {
        return Err(Rejection::NoHook);
    }
    found.sort_by_key(|(hook, _)| hook.index());
    Ok(found)
}
