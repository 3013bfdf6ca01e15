//! An embedded backbone that notes what it is asked, fails on demand and holds its answers back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::backbone::embedded::Embedded;
use crate::backbone::overlay::Overlay;
use crate::backbone::{Backbone as _, BackboneError, Page, Read, Tail, Trim};
use crate::domain::StreamKey;

/// Something that was asked of the backbone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    Watch(Vec<StreamKey>),
    Unwatch(Vec<StreamKey>),
    Unwatched,
    Read(Read),
    Trim(Instant, Vec<Trim>),
}

/// The backbone of the tests.
pub(super) struct Probe {
    pub(super) embedded: Arc<Embedded>,
    asked: Mutex<Vec<Asked>>,
    /// Errors to answer reads and tails of a stream with, the last one first.
    failing: Mutex<HashMap<StreamKey, Vec<BackboneError>>>,
    /// Errors to answer watches with, the last one first.
    pub(super) watch_errors: Mutex<Vec<BackboneError>>,
    /// Answers of reads and unwatches wait while this is set.
    held: watch::Sender<bool>,
}

impl Probe {
    pub(super) fn new(embedded: Arc<Embedded>) -> Self {
        let held = watch::Sender::new(false);
        let (asked, failing, watch_errors) = Default::default();
        Self { embedded, asked, failing, watch_errors, held }
    }

    /// Lets what was read wait before it is answered, or lets it go.
    pub(super) fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// Answers the next reads and tails of a stream with errors.
    pub(super) fn fail(&self, stream: &StreamKey, errors: Vec<BackboneError>) {
        self.failing.lock().unwrap().insert(stream.clone(), errors);
    }

    /// All that was asked so far.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// The reads among it.
    pub(super) fn reads(&self) -> Vec<Read> {
        let read = |asked| if let Asked::Read(read) = asked { Some(read) } else { None };
        self.asked().into_iter().filter_map(read).collect()
    }

    fn note(&self, asked: Asked) {
        self.asked.lock().unwrap().push(asked);
    }

    fn failure(&self, stream: &StreamKey) -> Option<BackboneError> {
        self.failing.lock().unwrap().get_mut(stream)?.pop()
    }

    async fn released(&self) {
        self.held.subscribe().wait_for(|held| !held).await.expect("the probe is alive");
    }
}

#[async_trait]
impl Overlay for Probe {
    fn under(&self) -> &Arc<Embedded> {
        &self.embedded
    }

    async fn watch(&self, streams: &[StreamKey]) -> Result<(), BackboneError> {
        self.note(Asked::Watch(streams.to_vec()));
        let error = self.watch_errors.lock().unwrap().pop();
        match error {
            Some(error) => Err(error),
            None => self.embedded.watch(streams).await,
        }
    }

    async fn unwatch(&self, streams: &[StreamKey]) {
        self.note(Asked::Unwatch(streams.to_vec()));
        self.released().await;
        self.embedded.unwatch(streams).await;
        self.note(Asked::Unwatched);
    }

    async fn tails(&self, streams: &[StreamKey]) -> Vec<Result<Tail, BackboneError>> {
        let tails = self.embedded.tails(streams).await;
        streams.iter().zip(tails).map(|(stream, tail)| self.failure(stream).map_or(tail, Err)).collect()
    }

    async fn read(&self, reads: &[Read]) -> Vec<Result<Page, BackboneError>> {
        reads.iter().for_each(|read| self.note(Asked::Read(read.clone())));
        let pages = self.embedded.read(reads).await;
        self.released().await;
        reads.iter().zip(pages).map(|(read, page)| self.failure(&read.stream).map_or(page, Err)).collect()
    }

    async fn trim(&self, trims: &[Trim]) -> Vec<Result<u64, BackboneError>> {
        self.note(Asked::Trim(Instant::now(), trims.to_vec()));
        self.embedded.trim(trims).await
    }
}
