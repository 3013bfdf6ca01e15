//! The contract over the embedded backbone.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tidegate::backbone::Backbone as _;
use tidegate::backbone::embedded::Embedded;
use tidegate::backbone::embedded::log::{Keep, NewId};
use tidegate::backbone::embedded::store::Addition;
use tidegate::backbone::wake::DirtySet;
use tidegate::domain::{Offset, StreamKey};

use super::contract::contract;
use super::{Backend, Subject};

contract!(embedded, super::subject);

/// A backend that does what the RESP listener does for it.
struct Listener(Arc<Embedded>);

#[async_trait]
impl Backend for Listener {
    async fn add_at(&self, stream: &StreamKey, id: Option<Offset>, data: &str) -> Offset {
        let fields = [(Bytes::from("data"), Bytes::from(data.to_owned()))];
        let id = id.map_or(NewId::Auto, NewId::Exact);
        let addition = Addition { id, fields: &fields, make: true, trim: None };
        let now_ms = self.0.clock().now_ms();
        let added = self.0.with_store(|store| store.add(stream.as_str().as_bytes(), &addition, now_ms));
        added.unwrap().expect("it is made where there is none")
    }

    async fn trim_to(&self, stream: &StreamKey, length: u64) {
        let key = stream.as_str().as_bytes();
        let keep = Keep::Newest(length);
        self.0.with_store(|store| store.change(key, |stream| stream.log.trim(keep, usize::MAX)));
    }

    async fn withdraw(&self, stream: &StreamKey, offset: Offset) {
        let key = stream.as_str().as_bytes();
        self.0.with_store(|store| store.change(key, |stream| stream.log.remove(offset)));
    }

    async fn delete(&self, stream: &StreamKey) {
        self.0.with_store(|store| store.delete(stream.as_str().as_bytes()));
    }

    async fn spoil(&self, _: &StreamKey) -> bool {
        false
    }
}

async fn subject() -> (Subject, ()) {
    let dirty = Arc::new(DirtySet::default());
    let embedded = Embedded::new(Arc::clone(&dirty));
    let backend = Box::new(Listener(Arc::clone(&embedded)));
    (Subject { backbone: embedded, dirty, backend, polls: false }, ())
}
