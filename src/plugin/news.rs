//! Tells plugins that sessions come and go. Nobody waits for it.

use std::array;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::contract::SessionNews;
use super::{Facts, Failure, Hook, Plugin, PluginHost};
use crate::domain::{SessionId, TenantId};

/// A tenant's sessions are spread over so many lanes; in each one piece of news is told after the other.
const LANES: usize = 8;
/// News that waits in a lane; more is left out, and counted as overload.
const WAITING: usize = 512;

/// Where news of sessions is handed in: in order for one session. Bounded, for each tenant by itself.
#[derive(Clone)]
pub struct NewsDesk(Arc<Desk>);

struct Desk {
    runtime: Handle,
    tasks: TaskTracker,
    cancel: CancellationToken,
    tenants: Mutex<HashMap<TenantId, Lanes>>,
}

type Lanes = [mpsc::Sender<News>; LANES];

struct News {
    host: Arc<PluginHost>,
    plugin: Arc<Plugin>,
    news: SessionNews,
    facts: Facts,
}

impl NewsDesk {
    /// Opens it on the runtime that this is called on. When `cancel` fires what waits is left out; the handle joins
    /// its tasks.
    pub fn open(cancel: CancellationToken) -> (Self, JoinHandle<()>) {
        let (runtime, tasks, tenants) = (Handle::current(), TaskTracker::new(), Mutex::default());
        let end = {
            let (cancel, tasks) = (cancel.clone(), tasks.clone());
            async move {
                cancel.cancelled().await;
                tasks.close();
                tasks.wait().await;
            }
        };
        let end = runtime.spawn(end);
        (Self(Arc::new(Desk { runtime, tasks, cancel, tenants })), end)
    }

    /// Hands in news of a session for this plugin.
    pub fn hand_in(
        &self,
        session: SessionId,
        (host, plugin): (Arc<PluginHost>, Arc<Plugin>),
        news: SessionNews,
        facts: Facts,
    ) {
        let lane = session.to_bytes()[0] as usize % LANES;
        let mut tenants = self.0.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let lanes = tenants.entry(plugin.tenant().clone()).or_insert_with(|| self.0.lanes());
        if let Err(full) = lanes[lane].try_send(News { host, plugin, news, facts }) {
            full.into_inner().plugin.settle(Hook::OnSession, &Err::<(), _>(Failure::Overloaded), |()| false);
        }
    }
}

impl Desk {
    fn lanes(&self) -> Lanes {
        array::from_fn(|_| {
            let (lane, waiting) = mpsc::channel(WAITING);
            let told = self.cancel.clone().run_until_cancelled_owned(tell(waiting));
            self.tasks.spawn_on(told, &self.runtime);
            lane
        })
    }
}

async fn tell(mut waiting: mpsc::Receiver<News>) {
    while let Some(News { host, plugin, news, facts }) = waiting.recv().await {
        // What became of it is counted; there is nobody to tell.
        let _ = host.on_session(&plugin, news, facts).await;
    }
}
