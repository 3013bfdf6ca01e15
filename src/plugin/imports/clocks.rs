//! `wasi:clocks` and `wasi:random`. In a pure call time stands still at the message's offset, and random numbers
//! follow from it: every node and every redelivery sees the same.

use std::sync::LazyLock;
use std::time::Instant as Moment;

use wasmtime::component::Resource;
use wasmtime::{StoreContextMut, bail};

use super::super::contract::Datetime;
use super::{HostState, Inert, Instance};

/// Most random bytes at once.
pub(super) const RANDOM_BYTES: u64 = 64 << 10;
/// Where the monotonic clock begins.
static START: LazyLock<Moment> = LazyLock::new(Moment::now);

type Store<'s> = StoreContextMut<'s, HostState>;

pub(super) fn define_wall(instance: &mut Instance<'_>) -> wasmtime::Result<()> {
    instance.func_wrap("now", |store: Store<'_>, (): ()| {
        let ms = store.data().now_ms();
        Ok((Datetime { seconds: ms / 1000, nanoseconds: (ms % 1000) as u32 * 1_000_000 },))
    })?;
    instance.func_wrap("resolution", |_: Store<'_>, (): ()| {
        Ok((Datetime { seconds: 0, nanoseconds: 1_000_000 },))
    })
}

pub(super) fn define_monotonic(instance: &mut Instance<'_>) -> wasmtime::Result<()> {
    instance.func_wrap("now", |store: Store<'_>, (): ()| {
        let nanos = match store.data().call.at {
            Some(at) => at.ms.saturating_mul(1_000_000),
            None => u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX),
        };
        Ok((nanos,))
    })?;
    instance.func_wrap("resolution", |_: Store<'_>, (): ()| Ok((1_u64,)))?;
    // Nobody may wait in a hook: what is waited for is there at once.
    for name in ["subscribe-instant", "subscribe-duration"] {
        instance.func_wrap(name, |_: Store<'_>, (_,): (u64,)| Ok((Resource::<Inert>::new_own(0),)))?;
    }
    Ok(())
}

pub(super) fn define_random(instance: &mut Instance<'_>) -> wasmtime::Result<()> {
    for name in ["get-random-bytes", "get-insecure-random-bytes"] {
        instance.func_wrap(name, |mut store: Store<'_>, (len,): (u64,)| {
            if len > RANDOM_BYTES {
                bail!("more random bytes than {RANDOM_BYTES} at once");
            }
            let state = store.data_mut();
            let words = (0..len.div_ceil(8)).flat_map(|_| state.random().to_le_bytes());
            Ok((words.take(len as usize).collect::<Vec<u8>>(),))
        })?;
    }
    for name in ["get-random-u64", "get-insecure-random-u64"] {
        instance.func_wrap(name, |mut store: Store<'_>, (): ()| Ok((store.data_mut().random(),)))?;
    }
    instance.func_wrap("insecure-seed", |mut store: Store<'_>, (): ()| {
        let state = store.data_mut();
        Ok(((state.random(), state.random()),))
    })
}

impl HostState {
    fn random(&mut self) -> u64 {
        let Some(at) = self.call.at else { return rand::random() };
        self.call.drawn += 1;
        // SplitMix64 (Steele, Lea, Flood 2014).
        let mut bits = (at.ms ^ at.seq.rotate_left(32))
            .wrapping_add(self.call.drawn.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }
}
