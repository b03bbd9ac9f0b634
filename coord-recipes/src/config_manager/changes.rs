//! Waiting for a change of the value in use.

use std::fmt;

use futures_util::{Stream, stream};
use tokio::sync::watch;

use super::status::ConfigSource;

/// What those who wait for a change are told.
#[derive(Clone, Copy, Debug)]
pub(super) struct News {
    /// How often the value was swapped.
    swaps: u64,
    source: ConfigSource,
    /// Whether the manager has run, and does not any more.
    over: bool,
}

/// Tells those who wait.
pub(super) struct Announcer(watch::Sender<News>);

impl Announcer {
    pub(super) fn new() -> Self {
        Announcer(watch::Sender::new(News { swaps: 0, source: ConfigSource::Default, over: false }))
    }

    pub(super) fn swapped(&self, source: ConfigSource) {
        self.0.send_modify(|news| {
            news.swaps += 1;
            news.source = source;
        });
    }

    pub(super) fn running(&self, running: bool) {
        self.0.send_modify(|news| news.over = !running);
    }

    pub(super) fn changes(&self) -> ConfigChanges {
        let mut news = self.0.subscribe();
        let seen = news.borrow_and_update().swaps;
        ConfigChanges { news, seen }
    }
}

/// The changes of the value in use, from [`ConfigManager::changes`](super::ConfigManager::changes)
/// on. Cheap to clone; keeps no task alive.
///
/// No change is missed: each is seen by the next [`changed`](Self::changed), and of several the
/// last one. A document that says the same in another spelling is no change, and neither is one
/// that is refused.
#[derive(Clone)]
pub struct ConfigChanges {
    news: watch::Receiver<News>,
    seen: u64,
}

impl ConfigChanges {
    /// Waits until the value in use has changed since this returned last, and says where the new
    /// one comes from. `None` when the manager is not running any more: it was stopped or dropped,
    /// or the config centre was closed. Before the first start it waits; after a new start it can
    /// be called again.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a change that was not returned is returned by the next call.
    pub async fn changed(&mut self) -> Option<ConfigSource> {
        loop {
            let news = *self.news.borrow_and_update();
            if news.swaps != self.seen {
                self.seen = news.swaps;
                return Some(news.source);
            }
            if news.over {
                return None;
            }
            self.news.changed().await.ok()?;
        }
    }

    /// The same as a stream, which ends where [`changed`](Self::changed) gives `None`.
    pub fn into_stream(self) -> impl Stream<Item = ConfigSource> + Send + 'static {
        stream::unfold(self, |mut changes| async move { Some((changes.changed().await?, changes)) })
    }
}

impl fmt::Debug for ConfigChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigChanges").finish_non_exhaustive()
    }
}
