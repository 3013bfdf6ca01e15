//! The engine: how wasmtime compiles and where instances live.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, WasmFeatures,
};

use crate::config::MAX_PLUGIN_MEMORY;

/// How long a tick is: deadlines are that coarse, and a call that may wait for I/O makes room for others
/// that often.
pub(super) const TICK: Duration = Duration::from_millis(5);
/// So many ticks without a call and the ticker rests.
const RESTS_AFTER: u32 = 200;

/// Most elements of all tables of an instance.
pub(super) const TABLE_ELEMENTS: usize = 50_000;
/// Most tables of an instance.
pub(super) const TABLES: usize = 16;
/// Most memories of an instance.
pub(super) const MEMORIES: usize = 8;
/// Most core instances within an instance: what componentize-py makes has a dozen.
pub(super) const CORE_INSTANCES: usize = 64;

/// Settings that what is compiled depends on: the same in the process that compiles.
fn compiling() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .epoch_interruption(true)
        .cranelift_opt_level(OptLevel::Speed)
        // Traps are told apart by their code; a backtrace of a guest costs milliseconds.
        .wasm_backtrace_max_frames(None)
        .generate_address_map(false)
        .native_unwind_info(false)
        .memory_init_cow(true)
        .memory_reservation(4 << 30)
        .memory_guard_size(32 << 20)
        .memory_may_move(false)
        .max_wasm_stack(512 << 10)
        .async_stack_size(1 << 20);
    // Threads share memory between instances, and memories beyond 4 GiB need checks everywhere.
    config.wasm_features(WasmFeatures::THREADS, false);
    config.wasm_memory64(false);
    config
}

/// An engine that only compiles: it reserves no memory for instances.
pub(super) fn compiler() -> wasmtime::Result<Engine> {
    Engine::new(&compiling())
}

/// An engine that runs so many instances at a time.
pub(super) fn runner(instances: usize) -> wasmtime::Result<Engine> {
    let instances = u32::try_from(instances).unwrap_or(u32::MAX);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(16))
        .total_memories(instances.saturating_mul(2))
        .total_tables(instances.saturating_mul(4))
        .total_stacks(instances.saturating_mul(2))
        .max_memory_size(MAX_PLUGIN_MEMORY)
        .max_core_instances_per_component(CORE_INSTANCES as u32)
        .max_memories_per_component(MEMORIES as u32)
        .max_tables_per_component(TABLES as u32)
        .max_tables_per_module(TABLES as u32)
        .max_memories_per_module(MEMORIES as u32)
        .table_elements(TABLE_ELEMENTS)
        .max_core_instance_size(1 << 20)
        .max_component_instance_size(4 << 20)
        // What a slot keeps when its instance goes, so that the next one finds it there.
        .linear_memory_keep_resident(64 << 10)
        .table_keep_resident(16 << 10)
        .pagemap_scan(Enabled::Auto);
    let mut config = compiling();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config)
}

/// Ticks' worth of a duration: at least one, and one more because the first is under way.
pub(super) fn ticks(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(TICK.as_nanos())).unwrap_or(u64::MAX).max(1) + 1
}

/// The thread that moves the engine's epoch on, as long as guests run. Stops when dropped.
#[derive(Debug)]
pub(super) struct Ticker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Workers that are at it.
    running: AtomicUsize,
    resting: AtomicBool,
    stop: AtomicBool,
}

/// Says that guests run.
#[derive(Debug, Clone)]
pub(super) struct Wakeful {
    shared: Arc<Shared>,
    thread: Thread,
}

/// As long as this is held, the epoch moves on.
#[derive(Debug)]
pub(super) struct Running(Arc<Shared>);

impl Ticker {
    pub(super) fn start(engine: &Engine) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (state, engine) = (Arc::clone(&shared), engine.weak());
        let run = move || {
            let mut idle = 0;
            while !state.stop.load(Ordering::SeqCst) {
                let Some(engine) = engine.upgrade() else { return };
                engine.increment_epoch();
                drop(engine);
                idle = if state.running.load(Ordering::SeqCst) == 0 { idle + 1 } else { 0 };
                if idle > RESTS_AFTER {
                    state.rest();
                    idle = 0;
                }
                thread::park_timeout(TICK);
            }
        };
        let thread = thread::Builder::new().name("plugin-ticker".into()).spawn(run)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    pub(super) fn wakeful(&self) -> Wakeful {
        let thread =
            self.thread.as_ref().expect("it is taken only when the ticker is dropped").thread().clone();
        Wakeful { shared: Arc::clone(&self.shared), thread }
    }
}

impl Shared {
    /// Waits until guests run: a node without plugins is not woken two hundred times a second.
    fn rest(&self) {
        self.resting.store(true, Ordering::SeqCst);
        while self.running.load(Ordering::SeqCst) == 0 && !self.stop.load(Ordering::SeqCst) {
            thread::park();
        }
        self.resting.store(false, Ordering::SeqCst);
    }
}

impl Wakeful {
    /// To be held while guests run.
    pub(super) fn run(&self) -> Running {
        self.shared.running.fetch_add(1, Ordering::SeqCst);
        if self.shared.resting.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
        Running(Arc::clone(&self.shared))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // The thread runs no code that panics.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_rounded_up_to_ticks() {
        assert_eq!(ticks(Duration::from_millis(10)), 3);
        assert_eq!(ticks(Duration::from_millis(11)), 4);
        assert_eq!(ticks(Duration::ZERO), 2);
    }

    #[test]
    fn what_compiles_and_what_runs_agree() {
        use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
        let hash = |engine: &Engine| {
            let hasher = BuildHasherDefault::<DefaultHasher>::default();
            hasher.hash_one(HashOf(engine))
        };
        assert_eq!(hash(&compiler().unwrap()), hash(&runner(8).unwrap()));
    }

    struct HashOf<'e>(&'e Engine);

    impl std::hash::Hash for HashOf<'_> {
        fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
            self.0.precompile_compatibility_hash().hash(state);
        }
    }
}
