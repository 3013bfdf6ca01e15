//! Rolls a plugin back that was cut off. Every node on which it fails tries; the first one does it, and the others
//! find it done.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::{Key, Served, Shared};
use crate::backbone::backoff::Backoff;
use crate::plugin::catalog::Catalog;
use crate::plugin::host::Plugin;
use crate::plugin::log::Level;
use crate::plugin::store::StoreError;
use crate::telemetry::events;

/// What became of it.
enum Done {
    /// This node rolled it back.
    RolledBack,
    /// There is nothing before it.
    NothingBefore,
    /// It is not on any more.
    Moot,
}

/// Rolls it back, unless it works again before the backbone answers.
pub(super) async fn give_up(shared: Arc<Shared>, key: Key, served: Served, plugin: Arc<Plugin>) {
    let (tenant, name, version) = &key;
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    let done = loop {
        if !plugin.is_cut_off() {
            return;
        }
        match attempt(&shared, &key).await {
            Err(error) if error.is_retryable() => sleep(backoff.delay()).await,
            other => break other,
        }
    };
    let say = |what: &str| {
        let log = shared.host.log(tenant, &served.limits);
        let now_ms = shared.store.backbone().clock().now_ms();
        let line = format!("version {version} failed too often {what}");
        log.add(now_ms, &name.as_str().into(), Level::Warn, "tidegate", &line);
    };
    match done {
        Ok(Done::RolledBack) => {
            events::plugin_given_up(tenant, name.as_str(), version);
            say("and is rolled back");
        }
        Ok(Done::NothingBefore) => {
            let why = "there is no earlier version";
            events::plugin_stays_cut_off(tenant, name.as_str(), version, why);
            say("and stays cut off, with a trial now and then: there is no earlier version to go back to");
        }
        Ok(Done::Moot) => {}
        Err(error) => {
            events::plugin_stays_cut_off(tenant, name.as_str(), version, &error.to_string());
            say(&format!(
                "and stays cut off, with a trial now and then: it cannot be rolled back, because {error}"
            ));
        }
    }
}

async fn attempt(shared: &Shared, (tenant, name, version): &Key) -> Result<Done, StoreError> {
    let mut done = Done::Moot;
    let changed = shared.store.change(tenant, |catalog, now_ms| -> Result<Catalog, StoreError> {
        let next = catalog.give_up(name, *version, now_ms)?;
        done = match &next {
            Some(_) => Done::RolledBack,
            None if catalog.on(name).versions().any(|on| on == *version) => Done::NothingBefore,
            None => Done::Moot,
        };
        Ok(next.unwrap_or_else(|| catalog.clone()))
    });
    changed.await?;
    Ok(done)
}
