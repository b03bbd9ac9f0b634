//! One watch on the store for each range, however many watchers the process has.

use std::sync::{Arc, Weak};

use coord_api::store::Span;
use coord_api::{Result, WatchStart};
use parking_lot::Mutex;

use super::heads::Heads;
use super::shared::SharedWatch;
use super::subscription::Subscription;
use crate::ground::Ground;
use crate::sweep::SweptMap;

/// The shared watches that are being read.
#[derive(Debug)]
pub(crate) struct Hub {
    ground: Arc<Ground>,
    by_span: Mutex<SweptMap<Span, Weak<SharedWatch>>>,
    heads: Arc<Heads>,
}

impl Hub {
    pub(crate) fn new(ground: Arc<Ground>) -> Self {
        Hub { ground, by_span: Mutex::default(), heads: Arc::default() }
    }

    /// Watches a span, sharing the watch on the store with everyone who watches the same span.
    ///
    /// A watch from a past revision that the shared one does not reach back to gets its own.
    pub(crate) async fn subscribe(&self, span: Span, start: WatchStart) -> Result<Subscription> {
        self.ground.ready("watch")?;
        let shared = match start {
            WatchStart::After(revision) => self
                .existing(&span)
                .filter(|shared| shared.reaches_back_to(revision))
                .unwrap_or_else(|| self.new_watch(span)),
            _ => self.shared(span),
        };
        Subscription::open(shared, start).await
    }

    fn existing(&self, span: &Span) -> Option<Arc<SharedWatch>> {
        self.by_span.lock().get(span).and_then(Weak::upgrade).filter(|shared| !shared.has_ended())
    }

    fn shared(&self, span: Span) -> Arc<SharedWatch> {
        let mut by_span = self.by_span.lock();
        if let Some(shared) = by_span.get(&span).and_then(Weak::upgrade).filter(|shared| !shared.has_ended())
        {
            return shared;
        }
        let shared = self.new_watch(span.clone());
        by_span.insert(span, Arc::downgrade(&shared), |shared| shared.strong_count() > 0);
        shared
    }

    fn new_watch(&self, span: Span) -> Arc<SharedWatch> {
        SharedWatch::new(Arc::clone(&self.ground), Arc::clone(&self.heads), span)
    }
}
