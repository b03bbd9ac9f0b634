//! One watch on the store for each range, however many watchers the process has.

use std::sync::{Arc, Weak};

use coord_api::store::Span;
use coord_api::{Result, WatchStart};
use parking_lot::Mutex;

use super::channel::{Channel, Subscription};
use crate::core::{Core, require_runtime};
use crate::sweep::SweptMap;

/// The channels that are being read.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    by_span: Mutex<SweptMap<Span, Weak<Channel>>>,
}

impl Hub {
    /// Watches a span, sharing the watch on the store with everyone who watches the same span.
    ///
    /// A watch from a past revision that the shared one does not reach back to gets its own.
    pub(crate) async fn subscribe(&self, core: &Arc<Core>, span: Span, start: WatchStart) -> Result<Subscription> {
        require_runtime("watch")?;
        let channel = match start {
            WatchStart::After(revision) => {
                self.existing(&span).filter(|channel| channel.reaches_back_to(revision)).unwrap_or_else(|| Channel::new(span))
            }
            _ => self.shared(span),
        };
        channel.subscribe(core, start).await
    }

    fn existing(&self, span: &Span) -> Option<Arc<Channel>> {
        self.by_span.lock().get(span).and_then(Weak::upgrade).filter(|channel| !channel.has_ended())
    }

    fn shared(&self, span: Span) -> Arc<Channel> {
        let mut by_span = self.by_span.lock();
        if let Some(channel) = by_span.get(&span).and_then(Weak::upgrade).filter(|channel| !channel.has_ended()) {
            return channel;
        }
        let channel = Channel::new(span.clone());
        by_span.insert(span, Arc::downgrade(&channel), |channel| channel.strong_count() > 0);
        channel
    }
}
