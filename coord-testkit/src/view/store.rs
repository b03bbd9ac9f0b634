//! The view of one who watches a store.

use std::sync::Arc;
use std::time::Duration;

use coord_api::store::{Batch, Change, Range, Span, Store, StoreEvent, StoreWatch};
use coord_api::{Error, Result, Revision};

use crate::wait::within;

/// The view of one who watches a store and, as every user of a store must, watches again where a
/// stream broke.
#[derive(Debug)]
pub struct StoreView {
    store: Arc<dyn Store>,
    span: Span,
    /// Everything up to here was told.
    seen: Revision,
    /// Up to here the stream may tell again what was told: it is that of a replica which lags, and
    /// said so.
    again: Revision,
    stream: Option<StoreWatch>,
}

impl StoreView {
    /// Watches `span` from the store's present revision on.
    pub async fn now(store: &Arc<dyn Store>, span: Span) -> Result<Self> {
        let now = store.range(Range::new(span.clone()).with_limit(1)).await?.revision;
        StoreView::after(store, span, now).await
    }

    /// Watches `span` for everything after a revision.
    pub async fn after(store: &Arc<dyn Store>, span: Span, seen: Revision) -> Result<Self> {
        let mut view =
            StoreView { store: Arc::clone(store), span, seen, again: Revision::ZERO, stream: None };
        view.open().await?;
        Ok(view)
    }

    async fn open(&mut self) -> Result<()> {
        let stream = self.store.watch(self.span.clone(), Some(self.seen)).await?;
        self.again = if stream.armed() < self.seen { self.seen } else { Revision::ZERO };
        self.stream = Some(stream);
        Ok(())
    }

    /// Everything up to this revision was told.
    pub fn seen(&self) -> Revision {
        self.seen
    }

    /// The next batch.
    ///
    /// # Errors
    ///
    /// What watching again cannot repair: `Compacted`, `Closed`.
    ///
    /// # Panics
    ///
    /// When the stream breaks what S4 promises: order, no duplicates, true progress, an end only
    /// after an error.
    pub async fn next(&mut self) -> Result<Batch> {
        loop {
            let item = match &mut self.stream {
                Some(stream) => stream.next().await,
                None => match self.open().await {
                    Ok(()) => continue,
                    Err(error) => Some(Err(error)),
                },
            };
            match item {
                Some(Ok(StoreEvent::Batch(batch))) if batch.revision <= self.again => {}
                Some(Ok(StoreEvent::Progress(revision))) if revision <= self.again => {}
                Some(Ok(StoreEvent::Batch(batch))) => {
                    assert!(
                        batch.revision > self.seen,
                        "revision {} came after revision {}",
                        batch.revision,
                        self.seen
                    );
                    assert!(!batch.changes.is_empty(), "a batch without changes at {}", batch.revision);
                    for change in &batch.changes {
                        assert!(
                            self.span.contains(change.key()),
                            "{:?} is not in {:?}",
                            change.key(),
                            self.span
                        );
                        if let Change::Put(entry) = change {
                            assert_eq!(entry.modified, batch.revision, "a put carries its revision");
                        }
                    }
                    self.seen = batch.revision;
                    return Ok(batch);
                }
                Some(Ok(StoreEvent::Progress(revision))) => {
                    assert!(revision >= self.seen, "progress goes back from {} to {revision}", self.seen);
                    self.seen = revision;
                }
                Some(Err(error)) => self.broken(error).await?,
                None => panic_ended(&self.span),
            }
        }
    }

    /// The next batch, which is to come within `limit`.
    ///
    /// # Panics
    ///
    /// When it does not come, or an error does.
    pub async fn expect(&mut self, limit: Duration) -> Batch {
        match within(limit, "the next batch of a watch", self.next()).await {
            Ok(batch) => batch,
            Err(error) => panic_broken(&error),
        }
    }

    async fn broken(&mut self, error: Error) -> Result<()> {
        if let Some(mut stream) = self.stream.take() {
            let after = within(Duration::from_secs(5), "a stream ends after its error", stream.next()).await;
            assert!(after.is_none(), "after its error a stream went on: {after:?}");
        }
        if !error.is_transient() {
            return Err(error);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(())
    }
}

#[expect(clippy::panic, reason = "a case fails by panicking")]
fn panic_ended(span: &Span) -> ! {
    panic!("the watch of {span:?} ended without an error")
}

#[expect(clippy::panic, reason = "a case fails by panicking")]
fn panic_broken(error: &Error) -> ! {
    panic!("wanted a batch, got {error:?}")
}
