//! The stream of one watch: it reads the shared history at its own pace (S4, R22).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use coord_api::store::StoreEvent;
use coord_api::{Error, Result};
use futures_core::Stream;

use crate::client::StoreClient;
use crate::watchers::{PendingLookup, Watcher};

const OPERATION: &str = "store.watch";

/// Ends with its first error. Holds its client, but does not keep it open.
#[derive(Debug)]
pub(crate) struct EngineWatch {
    client: Arc<StoreClient>,
    connection: u64,
    watcher: Arc<Watcher>,
    ended: bool,
}

impl EngineWatch {
    pub(crate) fn new(client: Arc<StoreClient>, connection: u64, watcher: Arc<Watcher>) -> Self {
        EngineWatch { client, connection, watcher, ended: false }
    }

    /// What to deliver next; `None` when nothing is pending.
    fn next_event(&self) -> Result<Option<StoreEvent>> {
        self.client.check_stream(OPERATION, self.connection)?;
        let shared = &self.client.shared;
        let Some(pending) = self.watcher.pending() else {
            shared.keep_expiring();
            return Ok(None);
        };
        shared.peek(|state| {
            let engine = &state.engine;
            let (from, through) = match pending {
                PendingLookup::At(revision) => (revision, revision),
                PendingLookup::Search(from, through) => (from, through),
            };
            if from <= engine.oldest() {
                return Err(Error::compacted(OPERATION, Some(engine.oldest())));
            }
            // What is committed but not durable yet comes later: the flush wakes us.
            let through = shared.visible().map_or(through, |visible| visible.min(through));
            if from > through {
                return Ok(None);
            }
            let batch = engine.first_batch(&self.watcher.span, from, through);
            self.watcher.looked_up(batch.as_ref().map_or(through, |batch| batch.revision));
            Ok(Some(batch.map_or(StoreEvent::Progress(through), StoreEvent::Batch)))
        })
    }

    fn end(&mut self) {
        if !self.ended {
            self.ended = true;
            self.client.shared.unwatch(&self.watcher);
        }
    }
}

impl Stream for EngineWatch {
    type Item = Result<StoreEvent>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        // First the waker, then the look: what happens in between wakes us again.
        self.watcher.register(cx);
        match self.next_event() {
            Ok(Some(event)) => Poll::Ready(Some(Ok(event))),
            Ok(None) => Poll::Pending,
            Err(error) => {
                self.end();
                Poll::Ready(Some(Err(error)))
            }
        }
    }
}

impl Drop for EngineWatch {
    fn drop(&mut self) {
        self.end();
    }
}
