//! Which interfaces a component may import, by name and version.

use super::{CONTRACT, Rejection};

/// An interface's name, taken apart: `wasi:clocks/wall-clock@0.2.3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::plugin) struct Name<'n> {
    pub(in crate::plugin) package: &'n str,
    pub(in crate::plugin) interface: &'n str,
    pub(in crate::plugin) version: Option<&'n str>,
}

/// Takes a name apart. What is no name of an interface has no interface.
pub(in crate::plugin) fn split(name: &str) -> Name<'_> {
    let (path, version) = match name.split_once('@') {
        Some((path, version)) => (path, Some(version)),
        None => (name, None),
    };
    let (package, interface) = path.split_once('/').unwrap_or((path, ""));
    Name { package, interface, version }
}

/// The package by which plugins ask servers.
pub(in crate::plugin) const HTTP: &str = "wasi:http";

/// Whether an interface is there only because language runtimes ask for it.
pub fn is_inert(package: &str) -> bool {
    matches!(package, "wasi:cli" | "wasi:io" | "wasi:filesystem" | "wasi:sockets")
}

/// Whether a component may import it.
pub(super) fn allowed(import: &str) -> Result<(), Rejection> {
    let name = split(import);
    let preview_2 = name.version.is_some_and(|version| version == "0.2" || version.starts_with("0.2."));
    let known = match (name.package, name.interface) {
        ("tidegate:plugin", interface) => {
            contract_version(name.version)?;
            // The interfaces of types alone have no function to link.
            matches!(interface, "context" | "types" | "delivery")
        }
        ("wasi:config", "store") => name.version == Some("0.2.0-rc.1"),
        ("wasi:keyvalue", "store" | "atomics") => name.version == Some("0.2.0-draft"),
        ("wasi:logging", "logging") => matches!(name.version, None | Some("0.1.0-draft")),
        ("wasi:clocks", "wall-clock" | "monotonic-clock") => preview_2,
        ("wasi:random", "random" | "insecure" | "insecure-seed") => preview_2,
        (HTTP, "types" | "outgoing-handler") => preview_2,
        (package, _) if is_inert(package) => preview_2,
        _ => false,
    };
    if known { Ok(()) } else { Err(Rejection::Import { import: import.into() }) }
}

/// Whether this node knows a version of the contract.
pub(super) fn contract_version(version: Option<&str>) -> Result<(), Rejection> {
    let text = version.unwrap_or("(none)");
    let mut parts = text.split('.').map(|part| part.parse::<u64>().ok());
    let known = (parts.next().flatten(), parts.next().flatten()) == (Some(CONTRACT.0), Some(CONTRACT.1))
        && parts.next().is_some_and(|patch| patch.is_some())
        && parts.next().is_none();
    if known { Ok(()) } else { Err(Rejection::Version { version: text.into() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_are_allowed_by_name_and_version() {
        for good in [
            "tidegate:plugin/context@0.1.0",
            "tidegate:plugin/types@0.1.7",
            "wasi:config/store@0.2.0-rc.1",
            "wasi:keyvalue/atomics@0.2.0-draft",
            "wasi:logging/logging",
            "wasi:clocks/wall-clock@0.2.6",
            "wasi:cli/environment@0.2.0",
            "wasi:filesystem/types@0.2.3",
            "wasi:http/types@0.2.0",
            "wasi:http/outgoing-handler@0.2.12",
        ] {
            assert_eq!(allowed(good), Ok(()), "{good}");
        }
        for bad in [
            "wasi:http/outgoing-handler@0.3.0",
            "wasi:http/incoming-handler@0.2.0",
            "wasi:keyvalue/batch@0.2.0-draft",
            "wasi:keyvalue/store@0.2.0-draft2",
            "wasi:clocks/wall-clock@0.3.0",
            "wasi:cli/environment",
            "acme:own/thing",
            "run",
            "",
        ] {
            assert!(matches!(allowed(bad), Err(Rejection::Import { import }) if *import == *bad), "{bad}");
        }
    }

    #[test]
    fn other_versions_of_the_contract_are_named() {
        for version in ["0.2.0", "1.0.0", "0.1", "0.1.0-rc", "0.1.0.0", "x"] {
            let refused = contract_version(Some(version));
            assert_eq!(refused, Err(Rejection::Version { version: version.into() }));
        }
        assert!(contract_version(None).is_err() && contract_version(Some("0.1.9")).is_ok());
    }
}
