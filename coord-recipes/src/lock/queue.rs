//! Who is next: one ordered view of each lock's queue, shared by all waiters of the process.
//!
//! A view that follows the queue in order needs no confirming read at a hand-over: the deletion
//! that makes an entry the oldest shows the entry itself to be there (R28, R30).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use coord_api::store::{Change, Entry, Span};
use coord_api::{Error, Result, Revision};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use coord_core::watch::Delivery;
use coord_core::{Client, SweptMap, homeless, keys};

/// The queues in which someone waits.
#[derive(Debug, Default)]
pub(crate) struct LockQueues {
    by_prefix: Mutex<SweptMap<Bytes, Weak<LockQueue>>>,
}

/// What a waiter is told.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Its entry is the oldest.
    Granted,
    /// Its entry is gone.
    Gone,
}

impl LockQueues {
    /// Waits for the turn of the entry `key`, created at `created`, in the queue `prefix`.
    ///
    /// # Errors
    ///
    /// Only what trying again cannot repair.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe. The entry itself is the caller's.
    pub(crate) async fn wait(
        &self,
        client: &Client,
        prefix: &Bytes,
        created: Revision,
        key: &Bytes,
    ) -> Result<Turn> {
        loop {
            let queue = self.queue(client, prefix)?;
            let (tell, told) = oneshot::channel();
            queue.view.lock().admit(created, key.clone(), tell);
            let waiting = Waiter { queue, key: key.clone() };
            let turn = told.await;
            drop(waiting);
            match turn {
                Ok(turn) => return turn,
                Err(_) if client.is_closed() => return Err(Error::closed("lock.acquire")),
                // The view went down with the runtime that its task ran on, which may take a while
                // to end: another one is made.
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }

    /// The view of a queue, made where there is none. It follows the queue for as long as somebody
    /// has it.
    ///
    /// # Errors
    ///
    /// No place for its task is to be had.
    pub(super) fn queue(&self, client: &Client, prefix: &Bytes) -> Result<Arc<LockQueue>> {
        let mut queues = self.by_prefix.lock();
        if let Some(queue) =
            queues.get(prefix).and_then(Weak::upgrade).filter(|queue| !queue.view.lock().ended)
        {
            return Ok(queue);
        }
        let queue = Arc::new(LockQueue { view: Mutex::new(QueueView::default()), driver: OnceLock::new() });
        // Started once the queue is complete: another thread may run the task at once, and a queue
        // that it cannot reach yet looks deserted to it.
        let guard = DismissWhenEnded(Arc::downgrade(&queue));
        let task = client
            .home()
            .spawn(follow(guard, client.clone(), prefix.clone()))
            .map_err(|error| homeless("lock.acquire", error))?;
        let _ = queue.driver.set(AbortOnDropHandle::new(task));
        queues.insert(prefix.clone(), Arc::downgrade(&queue), |queue| queue.strong_count() > 0);
        Ok(queue)
    }
}

/// A queue, as far as its watch has come. Dropped with its last waiter, and its task with it.
#[derive(Debug)]
pub(super) struct LockQueue {
    view: Mutex<QueueView>,
    driver: OnceLock<AbortOnDropHandle<()>>,
}

impl LockQueue {
    /// Who holds the lock, as far as the view has come.
    pub(super) fn holder(&self) -> Option<String> {
        let view = self.view.lock();
        let (_, key) = view.entries.first()?;
        view.known.get(key)?.owner.clone()
    }
}

/// Lets the waiters of a view go when what moves it ends, so that none of them waits for ever. They
/// look for another view.
struct DismissWhenEnded(Weak<LockQueue>);

impl Drop for DismissWhenEnded {
    fn drop(&mut self) {
        if let Some(queue) = self.0.upgrade() {
            let dismissed = queue.view.lock().end();
            drop(dismissed);
        }
    }
}

#[derive(Debug, Default)]
struct QueueView {
    /// The revision of the view; `None` until it was read.
    at: Option<Revision>,
    /// The entries, the oldest first.
    entries: BTreeSet<(Revision, Bytes)>,
    known: HashMap<Bytes, QueueEntry>,
    waiters: BTreeMap<Bytes, oneshot::Sender<Result<Turn>>>,
    ended: bool,
}

/// What a view knows of an entry.
#[derive(Debug)]
struct QueueEntry {
    created: Revision,
    owner: Option<String>,
}

impl QueueView {
    /// Takes a waiter in, whose entry may have come and gone before the view was read.
    fn admit(&mut self, created: Revision, key: Bytes, tell: oneshot::Sender<Result<Turn>>) {
        if self.ended {
            return;
        }
        let gone = self.at.is_some_and(|at| at >= created) && !self.known.contains_key(&key);
        self.waiters.insert(key.clone(), tell);
        if gone {
            self.tell(&key, Turn::Gone);
        } else {
            self.tell_first();
        }
    }

    /// Ends the view, and hands out who waits in it.
    fn end(&mut self) -> BTreeMap<Bytes, oneshot::Sender<Result<Turn>>> {
        self.ended = true;
        std::mem::take(&mut self.waiters)
    }

    fn apply(&mut self, prefix: &Bytes, news: Delivery) {
        match news {
            Delivery::Batch(batch) => {
                for change in batch.changes {
                    match change {
                        Change::Put(entry) => self.add(prefix, entry),
                        Change::Delete { key } => self.remove(&key),
                    }
                }
                self.at = Some(batch.revision);
            }
            Delivery::Resync { state, .. } => {
                // What was here and is not there any more is gone; what the view has not seen yet
                // may still come.
                let known = std::mem::take(&mut self.known);
                self.entries.clear();
                for entry in state.entries {
                    self.add(prefix, entry);
                }
                for key in known.into_keys().filter(|key| !self.known.contains_key(key)).collect::<Vec<_>>() {
                    self.tell(&key, Turn::Gone);
                }
                self.at = Some(state.revision);
            }
        }
        self.tell_first();
    }

    fn add(&mut self, prefix: &Bytes, entry: Entry) {
        let Entry { key, created, value, .. } = entry;
        // Deeper keys are the queues of other names.
        if keys::segment(prefix, &key).is_some() {
            self.entries.insert((created, key.clone()));
            self.known.insert(key, QueueEntry { created, owner: keys::owner(&value) });
        }
    }

    fn remove(&mut self, key: &Bytes) {
        if let Some(QueueEntry { created, .. }) = self.known.remove(key) {
            self.entries.remove(&(created, key.clone()));
            self.tell(key, Turn::Gone);
        }
    }

    fn tell(&mut self, key: &Bytes, turn: Turn) {
        if let Some(tell) = self.waiters.remove(key) {
            // A waiter that went away meanwhile gives its entry back by itself.
            let _ = tell.send(Ok(turn));
        }
    }

    /// Tells the waiter whose entry is the oldest. An entry that the view holds was there at the
    /// view's revision (R30).
    fn tell_first(&mut self) {
        if let Some((_, key)) = self.entries.first() {
            let key = key.clone();
            self.tell(&key, Turn::Granted);
        }
    }
}

/// A waiter's place in the view.
struct Waiter {
    queue: Arc<LockQueue>,
    key: Bytes,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.queue.view.lock().waiters.remove(&self.key);
    }
}

/// Follows a queue until nobody waits in it any more.
async fn follow(guard: DismissWhenEnded, client: Client, prefix: Bytes) {
    let mut watch = client.follow(Span::prefix(prefix.clone()));
    loop {
        let news = watch.next().await;
        let Some(queue) = guard.0.upgrade() else { return };
        match news {
            Ok(news) => queue.view.lock().apply(&prefix, news),
            Err(error) => {
                let waiters = queue.view.lock().end();
                for tell in waiters.into_values() {
                    let _ = tell.send(Err(error.clone()));
                }
                return;
            }
        }
    }
}
