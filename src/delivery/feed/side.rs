//! What the feed asks of the backbone, each as a task of its own that the feed owns and joins.

use std::sync::Arc;
use std::time::Duration;

use super::Feed;
use futures_util::future::join_all;

use crate::backbone::backoff::Backoff;
use crate::backbone::{Backbone, BackboneError, Page, Read, Tail, Trim, one};
use crate::delivery::shaping::Shaper;
use crate::delivery::{Audience, Batch, Channel};
use crate::domain::{Offset, StreamKey};
use crate::telemetry::{Metrics, events};

/// What a task brought back.
pub(super) enum Done {
    Opened(Vec<(StreamKey, Result<Tail, BackboneError>)>, Option<Again>),
    Live(Vec<(Read, Result<Page, BackboneError>)>),
    Page(Read, Result<Page, BackboneError>),
    Unwatched(Vec<StreamKey>),
    Trimmed,
    Shaped(Shaped),
}

/// A batch as each of some audiences gets it.
pub(super) struct Shaped {
    pub(super) channel: Arc<Channel>,
    /// What the page was asked for; `None`: the batch is live.
    pub(super) page: Option<Offset>,
    /// As it is in the log.
    pub(super) batch: Arc<Batch>,
    /// For which shards; `None` where nothing can be shown to the audience.
    pub(super) views: Vec<(Audience, u64, Option<Arc<Batch>>)>,
}

/// Watched streams whose ends could not be read yet.
pub(super) struct Again {
    streams: Vec<StreamKey>,
    backoff: Backoff,
}

/// What the tasks share.
pub(super) struct Side {
    backbone: Arc<dyn Backbone>,
    metrics: Metrics,
    shaper: Arc<Shaper>,
}

impl Side {
    pub(super) fn new(feed: &Feed) -> Self {
        let (backbone, metrics) = (feed.backbone.clone(), feed.metrics.clone());
        Self { backbone, metrics, shaper: feed.shaper.clone() }
    }

    /// Watches streams and reads their ends after that. Tries again while the backbone is away.
    pub(super) async fn open(self, streams: Vec<StreamKey>) -> Done {
        let mut backoff = backoff();
        while let Err(error) = self.backbone.watch(&streams).await {
            events::backbone_error(self.metrics.node(), (&error).into(), "watch channels", &error);
            if !error.is_retryable() {
                let refused = streams.into_iter().map(|stream| (stream, Err(error.clone())));
                return Done::Opened(refused.collect(), None);
            }
            tokio::time::sleep(backoff.delay()).await;
        }
        self.tails(Again { streams, backoff }).await
    }

    /// Tries again, after a while, to read the ends of streams that are watched.
    pub(super) async fn open_again(self, mut again: Again) -> Done {
        tokio::time::sleep(again.backoff.delay()).await;
        self.tails(again).await
    }

    /// Those that answer do not wait for those that do not.
    async fn tails(self, wanted: Again) -> Done {
        let Again { streams, backoff } = wanted;
        let answers = self.backbone.tails(&streams).await;
        let (mut tails, mut again) = (Vec::with_capacity(streams.len()), Vec::new());
        for (stream, tail) in streams.into_iter().zip(answers) {
            match tail {
                Err(error) if error.is_retryable() => again.push(stream),
                tail => tails.push((stream, tail)),
            }
        }
        Done::Opened(tails, (!again.is_empty()).then_some(Again { streams: again, backoff }))
    }

    /// One pipeline of live reads. Not tried again: the backbone marks what a lost connection missed.
    pub(super) async fn live(self, reads: Vec<Read>) -> Done {
        let started = std::time::Instant::now();
        let pages = self.backbone.read_live(&reads).await;
        self.metrics.node().feed_pipeline_duration.observe(started.elapsed());
        Done::Live(reads.into_iter().zip(pages).collect())
    }

    /// One page. A reader `beyond` what this node has read may be right (another node told it) or
    /// hold an offset that was never given out; only the log's end tells.
    pub(super) async fn page(self, read: Read, beyond: bool) -> Done {
        let mut backoff = backoff();
        loop {
            match self.page_once(&read, beyond).await {
                Err(error) if error.is_retryable() => tokio::time::sleep(backoff.delay()).await,
                page => return Done::Page(read, page),
            }
        }
    }

    async fn page_once(&self, read: &Read, beyond: bool) -> Result<Page, BackboneError> {
        if beyond {
            let tails = self.backbone.tails(std::slice::from_ref(&read.stream)).await;
            let tail = one(tails)?;
            if tail.last < read.after {
                let (entries, whole, more) = (Vec::new(), false, false);
                let (end, added, epoch) = (tail.last, tail.added, tail.epoch);
                return Ok(Page { entries, whole, more, end, added, epoch });
            }
        }
        one(self.backbone.read(std::slice::from_ref(read)).await)
    }

    /// What plugins make of a batch, for each audience.
    pub(super) async fn shape(
        self,
        channel: Arc<Channel>,
        page: Option<Offset>,
        batch: Arc<Batch>,
        audiences: Vec<(Audience, u64)>,
    ) -> Done {
        let shaped = audiences.into_iter().map(async |(audience, shards)| {
            let items = self.shaper.shape(&channel, &audience, &batch.items).await;
            let shaped = items.map(|items| Arc::new(batch.shaped(audience.clone(), items)));
            (audience, shards, shaped)
        });
        let views = join_all(shaped).await;
        Done::Shaped(Shaped { channel, page, batch, views })
    }

    pub(super) async fn unwatch(self, streams: Vec<StreamKey>) -> Done {
        self.backbone.unwatch(&streams).await;
        Done::Unwatched(streams)
    }

    pub(super) async fn trim(self, trims: Vec<Trim>) -> Done {
        let trimmed = self.backbone.trim(&trims).await;
        if let Some(error) = trimmed.into_iter().find_map(Result::err) {
            events::backbone_error(self.metrics.node(), (&error).into(), "trim channels", &error);
        }
        Done::Trimmed
    }
}

fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(100), Duration::from_secs(5))
}
