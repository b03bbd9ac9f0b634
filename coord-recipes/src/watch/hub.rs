//! One watch on the store for each range, however many watchers the process has.

use std::sync::{Arc, Weak};

use coord_api::store::{Range, Span};
use coord_api::{ErrorKind, Result, Revision, WatchStart};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::channel::{Channel, Subscription};
use super::coalesce::Coalesced;
use crate::core::Core;
use crate::sweep::SweptMap;

/// The channels that are being read.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    by_span: Mutex<SweptMap<Span, Weak<Channel>>>,
    /// Reads of how far the store is, for all watches that begin at once.
    heads: Arc<Coalesced<Revision>>,
}

impl Hub {
    /// Watches a span, sharing the watch on the store with everyone who watches the same span.
    ///
    /// A watch from a past revision that the shared one does not reach back to gets its own.
    pub(crate) async fn subscribe(&self, core: &Arc<Core>, span: Span, start: WatchStart) -> Result<Subscription> {
        core.ready("watch")?;
        let channel = match start {
            WatchStart::After(revision) => {
                self.existing(&span).filter(|channel| channel.reaches_back_to(revision)).unwrap_or_else(|| Channel::new(span))
            }
            _ => self.shared(span),
        };
        channel.subscribe(core, start).await
    }

    /// How far the store is. Of those who ask at once one reads, a key of its span.
    pub(super) async fn head(&self, core: &Arc<Core>, span: &Span) -> Result<Revision> {
        let probe = Range::new(span.clone()).with_limit(1).with_keys_only();
        let read = || {
            let (core, probe) = (Arc::clone(core), probe.clone());
            Box::pin(async move { Ok(core.store.range(probe).await?.revision) }) as BoxFuture<'static, _>
        };
        match self.heads.read(&core.home, read).await {
            // Perhaps to somebody else, of another span.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(core.store.range(probe).await?.revision),
            read => read,
        }
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
