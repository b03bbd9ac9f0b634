//! What all who wait for one record share: one claim at a time, and one watch.

use std::fmt;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use coord_api::store::{Change, Entry, Span};
use coord_api::{Result, Revision};
use coord_core::session::LeasedEntry;
use coord_core::watch::{Delivery, ResumingWatch};
use coord_core::{Client, SingleFlight, homeless};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// How a claim ended, for all who joined it.
#[derive(Clone, Debug)]
pub(super) enum Claim {
    /// It is this client's since this revision. The first one of those who joined to take the entry
    /// does the work.
    Mine(Arc<Mutex<Option<LeasedEntry>>>, Revision),
    /// This stands there, as of this revision.
    Taken(Entry, Revision),
}

/// What the watch of a key has told last.
#[derive(Clone, Debug)]
struct Seen {
    at: Revision,
    /// What stands there, or why the watch has ended.
    entry: Result<Option<Entry>>,
}

/// What those of one client share who want the same thing to be done.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) claiming: SingleFlight<Claim>,
    following: Mutex<Weak<Follower>>,
}

/// A watch of the key, for as long as someone waits for it.
struct Follower {
    seen: watch::Receiver<Option<Seen>>,
    _task: AbortOnDropHandle<()>,
}

impl Slot {
    /// Waits for what comes under `key` after revision `at`: another entry, or none; and says as of
    /// which revision.
    ///
    /// # Errors
    ///
    /// What trying again cannot repair, and why there is no place for background work.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(super) async fn changed(
        &self,
        client: &Client,
        operation: &'static str,
        key: &Bytes,
        at: Revision,
    ) -> Result<(Option<Entry>, Revision)> {
        loop {
            let follower = self.follower(client, operation, key, at)?;
            let mut seen = follower.seen.clone();
            let is_news = |seen: &Option<Seen>| seen.as_ref().is_some_and(|seen| seen.at > at);
            if let Ok(Some(seen)) = seen.wait_for(is_news).await.as_deref() {
                return Ok((seen.entry.clone()?, seen.at));
            }
            // The task ended by accident, with the runtime that it ran on.
            tokio::task::yield_now().await;
        }
    }

    fn follower(
        &self,
        client: &Client,
        operation: &'static str,
        key: &Bytes,
        at: Revision,
    ) -> Result<Arc<Follower>> {
        let mut following = self.following.lock();
        if let Some(follower) = following.upgrade().filter(|follower| follower.seen.has_changed().is_ok()) {
            return Ok(follower);
        }
        let (told, seen) = watch::channel(None);
        let watch = client.follow_after(Span::key(key.clone()), at);
        let task = client.home().spawn(follow(watch, told)).map_err(|error| homeless(operation, error))?;
        let follower = Arc::new(Follower { seen, _task: AbortOnDropHandle::new(task) });
        *following = Arc::downgrade(&follower);
        Ok(follower)
    }
}

/// Tells what stands under the key, until the watch has ended.
async fn follow(mut watch: ResumingWatch, told: watch::Sender<Option<Seen>>) {
    loop {
        let seen = match watch.next().await {
            Ok(Delivery::Batch(batch)) => {
                let entry = batch.changes.into_iter().next_back().and_then(|change| match change {
                    Change::Put(entry) => Some(entry),
                    Change::Delete { .. } => None,
                });
                Seen { at: batch.revision, entry: Ok(entry) }
            }
            Ok(Delivery::Resync { state, .. }) => {
                // A store that was set back may be at an earlier revision than it was.
                let at = state.revision.max(watch.seen());
                Seen { at, entry: Ok(state.entries.into_iter().next()) }
            }
            Err(error) => {
                told.send_replace(Some(Seen { at: Revision::MAX, entry: Err(error) }));
                return;
            }
        };
        // The last one who listens takes this task along.
        told.send_replace(Some(seen));
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("claiming", &self.claiming).finish_non_exhaustive()
    }
}
