//! What wakes those who wait for messages of a topic: one watch for all lanes of this process.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};

use coord::coord_core::watch::Delivery;
use coord::coord_core::{Client, homeless};
use coord::store::Change;
use coord::{Error, Result, Revision};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::keys::{Directory, Watched};

const WATCH: &str = "mq.watch";

/// A point in the history of a store: how often the store was replaced by another one, whose
/// revisions may have begun anew, and the revision.
pub(super) type Point = (u64, Revision);

/// The watch of a topic, for as long as somebody has it.
#[derive(Debug)]
pub(super) struct Bells {
    heard: Mutex<Heard>,
    task: OnceLock<AbortOnDropHandle<()>>,
}

#[derive(Debug, Default)]
struct Heard {
    /// The last change of each key.
    last: HashMap<Watched, watch::Sender<Point>>,
    /// As of which point everything is known; what is not in `last` has not changed since.
    since: Point,
    /// Why nothing more will be heard.
    ended: Option<Error>,
}

impl Bells {
    /// Listens to a topic.
    ///
    /// # Errors
    ///
    /// No place for its task is to be had.
    pub(super) fn start(client: &Client, directory: Directory) -> Result<Arc<Self>> {
        let bells = Arc::new(Bells { heard: Mutex::default(), task: OnceLock::new() });
        let task = listen(EndWhenDropped(Arc::downgrade(&bells)), client.clone(), directory);
        let task = client.home().spawn(task).map_err(|error| homeless(WATCH, error))?;
        let _ = bells.task.set(AbortOnDropHandle::new(task));
        Ok(bells)
    }

    /// Whether nothing more will be heard.
    pub(super) fn is_over(&self) -> bool {
        self.heard.lock().ended.is_some()
    }

    /// The changes of one key. It ends when nothing more will be heard.
    ///
    /// # Errors
    ///
    /// Why nothing more will be heard.
    pub(super) fn of(&self, key: Watched) -> Result<watch::Receiver<Point>> {
        let mut heard = self.heard.lock();
        if let Some(error) = &heard.ended {
            return Err(error.clone());
        }
        let since = heard.since;
        Ok(heard.last.entry(key).or_insert_with(|| watch::Sender::new(since)).subscribe())
    }

    fn hear(&self, directory: &Directory, news: Delivery) {
        let mut heard = self.heard.lock();
        match news {
            Delivery::Resync { state, replaced } => {
                let epoch = heard.since.0 + u64::from(replaced);
                heard.since = (epoch, state.revision);
                // Whatever it was that was missed.
                let since = heard.since;
                for last in heard.last.values() {
                    last.send_replace(since);
                }
            }
            Delivery::Batch(batch) => {
                let point = (heard.since.0, batch.revision);
                for change in &batch.changes {
                    let Some(key) = directory.read_watched(change.key()) else { continue };
                    // Only that a partition is free wakes anybody, not that it was taken.
                    if matches!((&key, change), (Watched::Claim(..), Change::Put(_))) {
                        continue;
                    }
                    if let Some(last) = heard.last.get(&key) {
                        last.send_replace(point);
                    }
                }
                heard.last.retain(|_, last| last.receiver_count() > 0);
                // A key of which nobody has asked yet may have changed at this point.
                heard.since = point;
            }
        }
    }

    fn end(&self, error: Error) {
        let mut heard = self.heard.lock();
        heard.ended.get_or_insert(error);
        heard.last.clear();
    }
}

/// Lets those who wait go when the task ends, however that is.
struct EndWhenDropped(Weak<Bells>);

impl Drop for EndWhenDropped {
    fn drop(&mut self) {
        if let Some(bells) = self.0.upgrade() {
            bells.end(Error::closed(WATCH));
        }
    }
}

async fn listen(guard: EndWhenDropped, client: Client, directory: Directory) {
    let mut watch = client.follow(directory.watched());
    loop {
        let news = watch.next().await;
        let Some(bells) = guard.0.upgrade() else { return };
        match news {
            Ok(news) => bells.hear(&directory, news),
            Err(error) => return bells.end(error),
        }
    }
}
