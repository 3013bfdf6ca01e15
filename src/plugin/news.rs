//! Tells plugins that sessions come and go. Nobody waits for it.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::contract::SessionNews;
use super::{Facts, Failure, Hook, Plugin, PluginHost};
use crate::domain::SessionId;

/// Sessions are spread over so many lanes; in each one piece of news is told after the other.
const LANES: usize = 16;
/// News that waits in a lane; more is left out, and counted as overload.
const WAITING: usize = 256;

/// Where news of sessions is handed in: in order for one session. Bounded.
#[derive(Clone)]
pub struct NewsDesk {
    lanes: Arc<[mpsc::Sender<News>]>,
}

struct News {
    host: Arc<PluginHost>,
    plugin: Arc<Plugin>,
    news: SessionNews,
    facts: Facts,
}

impl NewsDesk {
    /// Opens it. When `cancel` fires what waits is left out; the handle joins the task.
    pub fn open(cancel: CancellationToken) -> (Self, JoinHandle<()>) {
        let (lanes, waiting): (Vec<_>, Vec<_>) = (0..LANES).map(|_| mpsc::channel(WAITING)).unzip();
        let task = async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                _ = join_all(waiting.into_iter().map(tell)) => {}
            }
        };
        (Self { lanes: lanes.into() }, tokio::spawn(task))
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
        let news = News { host, plugin, news, facts };
        if let Err(full) = self.lanes[lane].try_send(news) {
            full.into_inner().plugin.settle(Hook::OnSession, &Err::<(), _>(Failure::Overloaded), |()| false);
        }
    }
}

async fn tell(mut waiting: mpsc::Receiver<News>) {
    while let Some(News { host, plugin, news, facts }) = waiting.recv().await {
        // What became of it is counted; there is nobody to tell.
        let _ = host.on_session(&plugin, news, facts).await;
    }
}
