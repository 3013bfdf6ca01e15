//! An instance of a plugin: started, called some times, then dropped.
//!
//! Its states are its owners. Whoever starts one gets it *ready*; a call takes it and gives it back ready, or not
//! at all: after a trap, a missed deadline or its last call there is none. It never leaves its worker's thread.

use wasmtime::component::{InstancePre, TypedFunc};
use wasmtime::{PoolConcurrencyLimitError, Store, Trap, UpdateDeadline};

use super::answers::AnswerLimits;
use super::engine::ticks;
use super::hooks::{Functions, Hook, HookCall, Places};
use super::imports::{CallContext, Environment, HostState};
use super::outcome::Failure;
use super::turns::{Meter, Turns};
use std::sync::Arc;
use std::time::Duration;

/// Bytes that one call of a guest may hand to the host: a payload and its headers, with room.
const HANDED_BYTES: usize = 4 << 20;
/// Handles that a guest may hold.
const HANDLES: usize = 1_000;

/// How instances of a component are made.
#[derive(Clone)]
pub(super) struct Blueprint {
    pub(super) pure: InstancePre<HostState>,
    pub(super) free: InstancePre<HostState>,
    pub(super) places: Places,
}

/// An instance that is ready for a call.
pub(super) struct Instance {
    store: Store<HostState>,
    instance: wasmtime::component::Instance,
    places: Places,
    functions: Functions,
    calls: u32,
}

impl Instance {
    /// Starts an instance for calls that may wait.
    pub(super) async fn start_free(
        blueprint: Option<&Blueprint>,
        environment: &Arc<Environment>,
        deadline: Duration,
        turns: &Turns,
    ) -> Result<Self, Failure> {
        let blueprint = blueprint.ok_or(Failure::Unavailable)?;
        let mut store = store(&blueprint.free, environment);
        store.epoch_deadline_callback(|store| {
            let state = store.data();
            let is_over = state.meter.ran() >= state.deadline;
            Ok(if is_over { UpdateDeadline::Interrupt } else { UpdateDeadline::Yield(1) })
        });
        let meter = grant_free(&mut store, deadline);
        let started = turns.within(deadline, &meter, blueprint.free.instantiate_async(&mut store)).await?;
        match started {
            Ok(instance) => Ok(Self::ready(store, instance, blueprint)),
            Err(error) => Err(failure(&error, &mut store)),
        }
    }

    /// Starts an instance for pure calls. It runs until it is done or its deadline.
    pub(super) fn start_pure(
        blueprint: Option<&Blueprint>,
        environment: &Arc<Environment>,
        deadline: Duration,
    ) -> Result<Self, Failure> {
        let blueprint = blueprint.ok_or(Failure::Unavailable)?;
        let mut store = store(&blueprint.pure, environment);
        store.set_epoch_deadline(ticks(deadline));
        match blueprint.pure.instantiate(&mut store) {
            Ok(instance) => Ok(Self::ready(store, instance, blueprint)),
            Err(error) => Err(failure(&error, &mut store)),
        }
    }

    fn ready(
        store: Store<HostState>,
        instance: wasmtime::component::Instance,
        blueprint: &Blueprint,
    ) -> Self {
        Self { store, instance, places: blueprint.places.clone(), functions: Functions::default(), calls: 0 }
    }

    /// How many calls it has served.
    pub(super) fn calls(&self) -> u32 {
        self.calls
    }

    /// Bytes of its memories.
    pub(super) fn memory_bytes(&self) -> usize {
        self.store.data().limiter.bytes()
    }

    /// Calls a hook that may wait.
    pub(super) async fn call_free<H: HookCall>(
        mut self,
        args: H::Args,
        context: CallContext,
        deadline: Duration,
        limits: AnswerLimits,
        turns: &Turns,
    ) -> (Result<H::Answer, Failure>, Option<Self>) {
        let function = match self.function::<H>() {
            Ok(function) => function,
            Err(failure) => return (Err(failure), Some(self)),
        };
        self.begin(context);
        let meter = grant_free(&mut self.store, deadline);
        // A call that is dropped half way leaves its instance where it was: nobody gets it again.
        match turns.within(deadline, &meter, function.call_async(&mut self.store, args)).await {
            Ok(Ok(raw)) => {
                self.store.data_mut().call = CallContext::default();
                (H::check(raw, &limits).map_err(Failure::BadAnswer), Some(self))
            }
            Ok(Err(error)) => (Err(failure(&error, &mut self.store)), None),
            Err(missed) => (Err(missed), None),
        }
    }

    /// Calls a pure hook. After [`Failure::Trap`], [`Failure::Timeout`] and [`Failure::OutOfMemory`] the
    /// instance must be dropped.
    pub(super) fn call_pure<H: HookCall>(
        &mut self,
        args: H::Args,
        context: CallContext,
        deadline_ticks: u64,
        limits: AnswerLimits,
    ) -> Result<H::Answer, Failure> {
        let function = self.function::<H>()?;
        self.begin(context);
        self.store.set_epoch_deadline(deadline_ticks);
        match function.call(&mut self.store, args) {
            Ok(raw) => H::check(raw, &limits).map_err(Failure::BadAnswer),
            Err(error) => Err(failure(&error, &mut self.store)),
        }
    }

    fn begin(&mut self, context: CallContext) {
        self.calls += 1;
        let state = self.store.data_mut();
        state.call = context;
        state.limiter.refused = false;
    }

    /// The hook's function; looked up and compared with the contract at its first call.
    fn function<H: HookCall>(&mut self) -> Result<TypedFunc<H::Args, H::Raw>, Failure> {
        if let Some(function) = self.functions.get::<H>() {
            return Ok(*function);
        }
        let place = self.places.get(H::HOOK).ok_or(Failure::Unavailable)?;
        let function = self.instance.get_typed_func::<H::Args, H::Raw>(&mut self.store, place);
        let function = function.map_err(|_| Failure::Unavailable)?;
        self.functions.set::<H>(function);
        Ok(function)
    }

    /// Whether a hook has the contract's types.
    pub(super) fn fits(&mut self, hook: Hook) -> bool {
        use super::hooks;
        match hook {
            Hook::Authenticate => self.function::<hooks::Authenticate>().is_ok(),
            Hook::OnSubscribe => self.function::<hooks::OnSubscribe>().is_ok(),
            Hook::OnPublish => self.function::<hooks::OnPublish>().is_ok(),
            Hook::Route => self.function::<hooks::Route>().is_ok(),
            Hook::OnDeliver => self.function::<hooks::OnDeliver>().is_ok(),
            Hook::OnDeliverClass => self.function::<hooks::OnDeliverClass>().is_ok(),
            Hook::OnDeliverSession => self.function::<hooks::OnDeliverSession>().is_ok(),
            Hook::OnSession => self.function::<hooks::OnSession>().is_ok(),
        }
    }
}

/// Whether an instance may be called again after this.
pub(super) fn is_reusable<T>(result: &Result<T, Failure>) -> bool {
    !matches!(result, Err(Failure::Trap(_) | Failure::Timeout | Failure::OutOfMemory))
}

fn store(pre: &InstancePre<HostState>, environment: &Arc<Environment>) -> Store<HostState> {
    let mut store = Store::new(pre.engine(), HostState::new(Arc::clone(environment)));
    store.limiter(|state| &mut state.limiter);
    store.set_hostcall_fuel(HANDED_BYTES);
    store.set_max_component_handles(HANDLES);
    store
}

/// Lets a guest run so long, with a pause for others at each tick.
fn grant_free(store: &mut Store<HostState>, deadline: Duration) -> Arc<Meter> {
    store.set_epoch_deadline(1);
    let state = store.data_mut();
    state.deadline = deadline;
    Arc::clone(&state.meter)
}

/// Which failure an error is. Nothing of it is formatted.
fn failure(error: &wasmtime::Error, store: &mut Store<HostState>) -> Failure {
    let trap = error.downcast_ref::<Trap>().copied();
    if trap == Some(Trap::Interrupt) {
        Failure::Timeout
    } else if store.data().limiter.refused {
        Failure::OutOfMemory
    } else if error.is::<PoolConcurrencyLimitError>() {
        Failure::Overloaded
    } else {
        Failure::Trap(trap)
    }
}
