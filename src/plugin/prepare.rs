//! A component that is ready to be bound: compiled, linked, started once.

use std::time::Duration;

use wasmtime::component::Component;

use super::hooks::{Hook, Hooks, Places};
use super::imports::{Way, link};
use super::inspect::{Inspected, Rejection};
use super::instance::Blueprint;

/// SHA-256 of a component's bytes: its version.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentHash([u8; 32]);

impl ContentHash {
    /// The hash of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(crate::config::sha256(bytes))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Bytes of a hash in hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a version is the 64 hexadecimal digits of a SHA-256")]
pub struct InvalidHash;

impl std::str::FromStr for ContentHash {
    type Err = InvalidHash;

    fn from_str(text: &str) -> Result<Self, InvalidHash> {
        let digit = |digit: u8| char::from(digit).to_digit(16).filter(|_| !digit.is_ascii_uppercase());
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(InvalidHash);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let (high, low) = digit(pair[0]).zip(digit(pair[1])).ok_or(InvalidHash)?;
            // Two digits make a byte.
            *byte = (high << 4 | low) as u8;
        }
        Ok(Self(bytes))
    }
}

impl serde::Serialize for ContentHash {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for ContentHash {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl std::fmt::Display for ContentHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// A component that is ready. Belongs to nobody: it is code.
#[derive(Clone)]
pub struct Prepared {
    /// Its version.
    pub hash: ContentHash,
    /// The hooks that it has.
    pub hooks: Hooks,
    /// The interfaces that it imports.
    pub imports: Vec<Box<str>>,
    /// Bytes of the component.
    pub code_bytes: usize,
    /// Bytes of its machine code.
    pub compiled_bytes: usize,
    /// Bytes of memory of an instance that was just started.
    pub start_bytes: usize,
    /// How long its first start took.
    pub start: Duration,
    /// `None`: it is not there on this node, and cannot be started.
    pub(super) blueprint: Option<Blueprint>,
}

/// What the first start showed.
#[derive(Debug)]
pub(super) struct Tried {
    /// A hook that has other types than the contract.
    pub(super) misfit: Option<Hook>,
    pub(super) memory_bytes: usize,
    pub(super) start: Duration,
}

impl Prepared {
    /// Links a component both ways.
    pub(super) fn link(
        component: &Component,
        inspected: Inspected,
        hash: ContentHash,
        code_bytes: usize,
    ) -> Result<Self, Rejection> {
        let Inspected { hooks, exports, imports } = inspected;
        let places = Places::find(component, &exports)
            .map_err(|hook| Rejection::WrongTypes { hook: hook.interface() })?;
        let way = |way| {
            link(component.engine(), component, way)
                .and_then(|linker| linker.instantiate_pre(component))
                .map_err(|error| Rejection::DoesNotLink(brief(&format!("{error:#}"))))
        };
        let blueprint = Some(Blueprint { pure: way(Way::Pure)?, free: way(Way::Free)?, places });
        let image = component.image_range();
        let compiled_bytes = image.end.addr().saturating_sub(image.start.addr());
        let (start_bytes, start) = Default::default();
        Ok(Self { hash, hooks, imports, code_bytes, compiled_bytes, start_bytes, start, blueprint })
    }

    /// Stands for a component of which no more is known than its hooks.
    pub(super) fn absent(hash: ContentHash, hooks: Hooks) -> Self {
        let (imports, code_bytes, compiled_bytes, start_bytes, start) = Default::default();
        Self { hash, hooks, imports, code_bytes, compiled_bytes, start_bytes, start, blueprint: None }
    }

    pub(super) fn tried(&mut self, tried: &Tried) {
        self.start_bytes = tried.memory_bytes;
        self.start = tried.start;
    }
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared")
            .field("hash", &self.hash)
            .field("hooks", &self.hooks)
            .finish_non_exhaustive()
    }
}

/// The beginning of what a library says.
pub(super) fn brief(text: &str) -> Box<str> {
    const BYTES: usize = 1_000;
    text[..text.floor_char_boundary(BYTES)].into()
}
