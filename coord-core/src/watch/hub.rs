//! One watch on the store for each range, however many watchers the process has.

use std::sync::{Arc, Weak};

use coord_api::store::Span;
use coord_api::{Result, WatchStart};
use parking_lot::Mutex;

use super::channel::Channel;
use super::heads::Heads;
use super::subscription::Subscription;
use crate::ground::Ground;
use crate::sweep::SweptMap;

/// The channels that are being read.
#[derive(Debug)]
pub(crate) struct Hub {
    ground: Arc<Ground>,
    by_span: Mutex<SweptMap<Span, Weak<Channel>>>,
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
        let channel = match start {
            WatchStart::After(revision) => self
                .existing(&span)
                .filter(|channel| channel.reaches_back_to(revision))
                .unwrap_or_else(|| self.channel(span)),
            _ => self.shared(span),
        };
        Subscription::open(channel, start).await
    }

    fn existing(&self, span: &Span) -> Option<Arc<Channel>> {
        self.by_span.lock().get(span).and_then(Weak::upgrade).filter(|channel| !channel.has_ended())
    }

    fn shared(&self, span: Span) -> Arc<Channel> {
        let mut by_span = self.by_span.lock();
        if let Some(channel) =
            by_span.get(&span).and_then(Weak::upgrade).filter(|channel| !channel.has_ended())
        {
            return channel;
        }
        let channel = self.channel(span.clone());
        by_span.insert(span, Arc::downgrade(&channel), |channel| channel.strong_count() > 0);
        channel
    }

    fn channel(&self, span: Span) -> Arc<Channel> {
        Channel::new(Arc::clone(&self.ground), Arc::clone(&self.heads), span)
    }
}
