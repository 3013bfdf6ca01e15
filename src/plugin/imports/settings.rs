//! `wasi:config/store` and `wasi:logging/logging`.

use wasmtime::StoreContextMut;

use super::super::contract::{ConfigError, LogLevel};
use super::super::log::Level;
use super::{HostState, Instance};

type Answer<T> = wasmtime::Result<(Result<T, ConfigError>,)>;

pub(super) fn define(instance: &mut Instance<'_>) -> wasmtime::Result<()> {
    instance.func_wrap(
        "get",
        |store: StoreContextMut<'_, HostState>, (key,): (String,)| -> Answer<Option<String>> {
            let settings = &store.data().environment.settings;
            let found = settings.iter().find(|(name, _)| *name == key);
            Ok((Ok(found.map(|(_, value)| value.clone())),))
        },
    )?;
    instance.func_wrap(
        "get-all",
        |store: StoreContextMut<'_, HostState>, (): ()| -> Answer<Vec<(String, String)>> {
            Ok((Ok(store.data().environment.settings.clone()),))
        },
    )
}

pub(super) fn define_logging(instance: &mut Instance<'_>) -> wasmtime::Result<()> {
    instance.func_wrap(
        "log",
        |store: StoreContextMut<'_, HostState>, (level, context, message): (LogLevel, String, String)| {
            store.data().log(level.into(), &context, &message);
            Ok(())
        },
    )
}

impl From<LogLevel> for Level {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Trace => Self::Trace,
            LogLevel::Debug => Self::Debug,
            LogLevel::Info => Self::Info,
            LogLevel::Warn => Self::Warn,
            LogLevel::Error => Self::Error,
            LogLevel::Critical => Self::Critical,
        }
    }
}
