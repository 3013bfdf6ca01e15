//! One pass over a component's headers, with a limit on everything that is counted.

use wasmparser::{
    BinaryReaderError, ComponentExternalKind, ComponentTypeRef, Encoding, Instance, Parser, Payload,
};

use super::Rejection;
use crate::config::MAX_PLUGIN_MEMORY;
use crate::plugin::engine::{CORE_INSTANCES, MEMORIES, TABLE_ELEMENTS, TABLES};

/// How deep components may stand within each other. What is composed of others has two or three floors.
const DEPTH: usize = 10;
/// Most modules.
const MODULES: u64 = 100;
/// Most components within.
const COMPONENTS: u64 = 500;
/// Most functions of all modules: componentize-py's largest have some 30,000.
const FUNCTIONS: u64 = 250_000;
/// Most types of all modules and components.
const TYPES: u64 = 250_000;
/// Most entries of other kinds: imports, exports, aliases, instances, globals, segments.
const ITEMS: u64 = 500_000;
/// Bytes of the longest name of an interface.
const NAME_BYTES: usize = 256;
/// Bytes of a page of memory.
const PAGE: u64 = 64 << 10;

/// What a component imports and exports at its outside.
#[derive(Debug, Default)]
pub(super) struct Surface {
    pub(super) imports: Vec<Box<str>>,
    /// Exported instances only: hooks are nothing else.
    pub(super) exports: Vec<Box<str>>,
}

#[derive(Default)]
struct Counts {
    modules: u64,
    components: u64,
    functions: u64,
    types: u64,
    items: u64,
    instances: u64,
    tables: u64,
    elements: u64,
    memories: u64,
    pages: u64,
}

/// Reads a component's headers.
pub(super) fn read(bytes: &[u8]) -> Result<Surface, Rejection> {
    let mut surface = Surface::default();
    let mut counts = Counts::default();
    // Modules and components that are open, the outermost first.
    let mut depth = 0;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(malformed)? {
            Payload::Version { encoding, .. } => {
                if depth == 0 && encoding == Encoding::Module {
                    return Err(Rejection::CoreModule);
                }
                depth += 1;
                limit("components within each other", depth as u64, DEPTH as u64)?;
            }
            Payload::End(_) => depth -= 1,
            Payload::ModuleSection { .. } => count("modules", &mut counts.modules, 1, MODULES)?,
            Payload::ComponentSection { .. } => count("components", &mut counts.components, 1, COMPONENTS)?,
            Payload::ComponentImportSection(section) if depth == 1 => {
                count("imports, exports and the like", &mut counts.items, section.count().into(), ITEMS)?;
                for import in section {
                    let import = import.map_err(malformed)?;
                    surface.imports.push(outside(import.name.name, import.ty)?);
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                count("imports, exports and the like", &mut counts.items, section.count().into(), ITEMS)?;
                for export in section {
                    let export = export.map_err(malformed)?;
                    if export.kind == ComponentExternalKind::Instance {
                        surface.exports.push(named(export.name.name)?.into());
                    }
                }
            }
            other => counts.take(other)?,
        }
    }
    Ok(surface)
}

impl Counts {
    /// Counts what stands in a section.
    fn take(&mut self, payload: Payload<'_>) -> Result<(), Rejection> {
        match payload {
            Payload::TypeSection(section) => self.types(section.count()),
            Payload::CoreTypeSection(section) => self.types(section.count()),
            Payload::ComponentTypeSection(section) => self.types(section.count()),
            Payload::FunctionSection(section) => {
                count("functions", &mut self.functions, section.count().into(), FUNCTIONS)
            }
            Payload::TableSection(section) => {
                for table in section {
                    let table = table.map_err(malformed)?.ty;
                    count("tables", &mut self.tables, 1, TABLES as u64)?;
                    count("elements of tables", &mut self.elements, table.initial, TABLE_ELEMENTS as u64)?;
                }
                Ok(())
            }
            Payload::MemorySection(section) => {
                for memory in section {
                    let memory = memory.map_err(malformed)?;
                    count("memories", &mut self.memories, 1, MEMORIES as u64)?;
                    let most = MAX_PLUGIN_MEMORY as u64 / PAGE;
                    count("pages of memory at its start", &mut self.pages, memory.initial, most)?;
                }
                Ok(())
            }
            Payload::InstanceSection(section) => {
                for instance in section {
                    if matches!(instance.map_err(malformed)?, Instance::Instantiate { .. }) {
                        count("instances of modules", &mut self.instances, 1, CORE_INSTANCES as u64)?;
                    }
                }
                Ok(())
            }
            Payload::ImportSection(section) => self.items(section.count()),
            Payload::ExportSection(section) => self.items(section.count()),
            Payload::GlobalSection(section) => self.items(section.count()),
            Payload::ElementSection(section) => self.items(section.count()),
            Payload::DataSection(section) => self.items(section.count()),
            Payload::ComponentAliasSection(section) => self.items(section.count()),
            Payload::ComponentInstanceSection(section) => self.items(section.count()),
            Payload::ComponentCanonicalSection(section) => self.items(section.count()),
            Payload::ComponentImportSection(section) => self.items(section.count()),
            Payload::ComponentExportSection(section) => self.items(section.count()),
            // Bodies, data and custom sections are bytes, which are limited already.
            _ => Ok(()),
        }
    }

    fn types(&mut self, more: u32) -> Result<(), Rejection> {
        count("types", &mut self.types, more.into(), TYPES)
    }

    fn items(&mut self, more: u32) -> Result<(), Rejection> {
        count("imports, exports and the like", &mut self.items, more.into(), ITEMS)
    }
}

fn count(what: &'static str, counted: &mut u64, more: u64, most: u64) -> Result<(), Rejection> {
    *counted = counted.saturating_add(more);
    limit(what, *counted, most)
}

fn limit(what: &'static str, got: u64, limit: u64) -> Result<(), Rejection> {
    if got > limit { Err(Rejection::TooMany { what, got, limit }) } else { Ok(()) }
}

/// The name of an import, if it is of an interface.
fn outside(name: &str, ty: ComponentTypeRef) -> Result<Box<str>, Rejection> {
    let name = named(name)?;
    match ty {
        ComponentTypeRef::Instance(_) => Ok(name.into()),
        _ => Err(Rejection::Import { import: name.into() }),
    }
}

fn named(name: &str) -> Result<&str, Rejection> {
    limit("bytes of a name of an import or export", name.len() as u64, NAME_BYTES as u64)?;
    Ok(name)
}

fn malformed(error: BinaryReaderError) -> Rejection {
    Rejection::Malformed { what: error.message().into(), offset: error.offset() as u64 }
}
