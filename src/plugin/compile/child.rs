//! The process that compiles: `tidegate compile-plugin`, which is not for people to call.

use std::path::{Path, PathBuf};

use rlimit::Resource;

use crate::plugin::engine;
use crate::plugin::prepare::brief;

/// Its exit code where the component is to blame. What is wrong stands on standard error.
pub const REFUSED: u8 = 3;
/// Its exit code where anything else is.
const FAILED: u8 = 1;
/// Bytes of the largest file that it may write.
const OUTPUT_BYTES: u64 = 2 << 30;

/// What it is told.
#[derive(Debug, Clone)]
pub struct Order {
    /// The component.
    pub input: PathBuf,
    /// Where machine code goes.
    pub output: PathBuf,
    /// Memory that it may take.
    pub memory_bytes: u64,
    /// Seconds of a processor that it may take.
    pub seconds: u64,
}

/// Compiles one component and says with which code the process is to end.
pub fn run(order: &Order) -> u8 {
    if let Err(error) = confine(order) {
        eprintln!("the compiler cannot be confined: {error}");
        return FAILED;
    }
    match compile(&order.input, &order.output) {
        Ok(()) => 0,
        Err(Wrong::Component(what)) => {
            eprintln!("{what}");
            REFUSED
        }
        Err(Wrong::Node(what)) => {
            eprintln!("{what}");
            FAILED
        }
    }
}

enum Wrong {
    Component(Box<str>),
    Node(String),
}

/// Gives up what a compiler does not need.
fn confine(order: &Order) -> std::io::Result<()> {
    let limits = [
        (Resource::AS, order.memory_bytes, order.memory_bytes),
        // The one ends it by SIGXCPU, which says why; the other by SIGKILL, as the system does where memory is short.
        (Resource::CPU, order.seconds, order.seconds + 1),
        (Resource::FSIZE, OUTPUT_BYTES, OUTPUT_BYTES),
        (Resource::NOFILE, 64, 64),
        (Resource::CORE, 0, 0),
    ];
    for (resource, soft, most) in limits {
        let (_, hard) = resource.get()?;
        resource.set(soft.min(hard), most.min(hard))?;
    }
    // Where the system does not allow it, it compiles at normal priority.
    let _ = rustix::process::nice(19);
    // Rather this process than the node, if memory is short.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    Ok(())
}

fn compile(input: &Path, output: &Path) -> Result<(), Wrong> {
    let unreadable = |error| Wrong::Node(format!("{}: {error}", input.display()));
    let bytes = std::fs::read(input).map_err(unreadable)?;
    let engine = engine::compiler().map_err(|error| Wrong::Node(format!("{error:#}")))?;
    let code = engine.precompile_component(&bytes);
    let code = code.map_err(|error| Wrong::Component(brief(&format!("{error:#}"))))?;
    std::fs::write(output, code).map_err(|error| Wrong::Node(format!("{}: {error}", output.display())))
}
