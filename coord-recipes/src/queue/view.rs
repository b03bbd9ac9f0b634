//! One ordered view of each queue, shared by all of the process that wait in it.
//!
//! A view that follows the queue in order needs no confirming read at a hand-over: the change that
//! gives an entry its turn shows the entry itself to be there (R28, R30).

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use coord_api::store::{Change, Entry, Span};
use coord_api::{Error, Result, Revision};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use coord_core::watch::Delivery;
use coord_core::{Client, SweptMap, homeless, keys};

use super::wait_queue::{WaitQueue, Weight};

/// What lies in the directory of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// An entry of the queue, and what it weighs.
    Entry(Weight),
    /// What those who have their turn share.
    Capacity(Weight),
    /// Nothing of the queue: the directory of another name, for example.
    Other,
}

/// How the directories of one kind of queues are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// What an entry of a directory is.
    pub(crate) item: fn(directory: &[u8], entry: &Entry) -> Item,
    /// What those who have their turn share, where the directory does not say.
    pub(crate) capacity: Weight,
}

/// The queues of one kind in which someone waits.
#[derive(Debug)]
pub(crate) struct Queues {
    reading: Reading,
    by_directory: Mutex<SweptMap<Bytes, Weak<Queue>>>,
}

/// What a waiter is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Its entry has its turn.
    Granted,
    /// Its entry is gone.
    Gone,
    /// Its entry weighs more than the capacity, which was lowered.
    TooHeavy(Weight),
}

/// Where an entry stands in its queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has its turn.
    HasTurn,
    /// Others come first, the oldest of which this one wrote, where it says so.
    Behind(Option<String>),
    /// It is not there.
    Gone,
}

impl Queues {
    pub(crate) fn new(reading: Reading) -> Self {
        Queues { reading, by_directory: Mutex::default() }
    }

    /// Whether an entry has its turn, where the whole directory is known; and who stands first.
    pub(crate) fn look(&self, directory: &Bytes, found: Vec<Entry>, key: &Bytes) -> Standing {
        let mut view = QueueView::new(self.reading);
        for entry in found {
            view.put(directory, entry);
        }
        while view.queue.next_turn().is_some() {}
        if !view.queue.contains(key) {
            Standing::Gone
        } else if view.queue.has_turn(key) {
            Standing::HasTurn
        } else {
            Standing::Behind(view.queue.first_owner().map(str::to_owned))
        }
    }

    /// Waits for the turn of the entry `key`, created at `created`, in the queue of `directory`.
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
        operation: &'static str,
        directory: &Bytes,
        entry: (Revision, &Bytes),
    ) -> Result<Turn> {
        let (created, key) = entry;
        loop {
            let queue = self.queue(client, operation, directory)?;
            let (tell, told) = oneshot::channel();
            queue.view.lock().admit(created, key.clone(), tell);
            let waiting = Waiter { queue, key: key.clone() };
            let turn = told.await;
            drop(waiting);
            match turn {
                Ok(turn) => return turn.map_err(|error| error.in_operation(operation)),
                Err(_) if client.is_closed() => return Err(Error::closed(operation)),
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
    pub(crate) fn queue(
        &self,
        client: &Client,
        operation: &'static str,
        directory: &Bytes,
    ) -> Result<Arc<Queue>> {
        let mut queues = self.by_directory.lock();
        if let Some(queue) =
            queues.get(directory).and_then(Weak::upgrade).filter(|queue| !queue.view.lock().ended)
        {
            return Ok(queue);
        }
        let queue =
            Arc::new(Queue { view: Mutex::new(QueueView::new(self.reading)), driver: OnceLock::new() });
        // Started once the queue is complete: another thread may run the task at once, and a queue
        // that it cannot reach yet looks deserted to it.
        let guard = DismissWhenEnded(Arc::downgrade(&queue));
        let task = client
            .home()
            .spawn(follow(guard, client.clone(), directory.clone()))
            .map_err(|error| homeless(operation, error))?;
        let _ = queue.driver.set(AbortOnDropHandle::new(task));
        queues.insert(directory.clone(), Arc::downgrade(&queue), |queue| queue.strong_count() > 0);
        Ok(queue)
    }
}

/// A queue, as far as its watch has come. Dropped with its last waiter, and its task with it.
#[derive(Debug)]
pub(crate) struct Queue {
    view: Mutex<QueueView>,
    driver: OnceLock<AbortOnDropHandle<()>>,
}

impl Queue {
    /// Who wrote the oldest entry, as far as the view has come.
    pub(crate) fn first_owner(&self) -> Option<String> {
        self.view.lock().queue.first_owner().map(str::to_owned)
    }
}

/// Lets the waiters of a view go when what moves it ends, so that none of them waits for ever. They
/// look for another view.
struct DismissWhenEnded(Weak<Queue>);

impl Drop for DismissWhenEnded {
    fn drop(&mut self) {
        if let Some(queue) = self.0.upgrade() {
            let dismissed = queue.view.lock().end();
            drop(dismissed);
        }
    }
}

#[derive(Debug)]
struct QueueView {
    reading: Reading,
    /// The revision of the view; `None` until it was read.
    at: Option<Revision>,
    queue: WaitQueue,
    waiters: BTreeMap<Bytes, oneshot::Sender<Result<Turn>>>,
    ended: bool,
}

impl QueueView {
    fn new(reading: Reading) -> Self {
        QueueView {
            reading,
            at: None,
            queue: WaitQueue::new(reading.capacity),
            waiters: BTreeMap::new(),
            ended: false,
        }
    }

    /// Takes a waiter in, whose entry may have come and gone before the view was read.
    fn admit(&mut self, created: Revision, key: Bytes, tell: oneshot::Sender<Result<Turn>>) {
        if self.ended {
            return;
        }
        let turn = if self.queue.has_turn(&key) {
            Some(Turn::Granted)
        } else if let Some(weight) = self.queue.weight(&key).filter(|weight| *weight > self.queue.capacity())
        {
            Some(Turn::TooHeavy(weight))
        } else if self.at.is_some_and(|at| at >= created) && !self.queue.contains(&key) {
            Some(Turn::Gone)
        } else {
            None
        };
        self.waiters.insert(key.clone(), tell);
        if let Some(turn) = turn {
            self.tell(&key, turn);
        }
    }

    /// Ends the view, and hands out who waits in it.
    fn end(&mut self) -> BTreeMap<Bytes, oneshot::Sender<Result<Turn>>> {
        self.ended = true;
        std::mem::take(&mut self.waiters)
    }

    fn apply(&mut self, directory: &Bytes, news: Delivery) {
        match news {
            Delivery::Batch(batch) => {
                for change in batch.changes {
                    match change {
                        Change::Put(entry) => self.put(directory, entry),
                        Change::Delete { key } => {
                            if self.queue.remove(&key) {
                                self.tell(&key, Turn::Gone);
                            }
                        }
                    }
                }
                self.at = Some(batch.revision);
            }
            Delivery::Resync { state, .. } => {
                // What was here and is not there any more is gone; what the view has not seen yet
                // may still come.
                let known = self.queue.clear();
                for entry in state.entries {
                    self.put(directory, entry);
                }
                for key in known {
                    if !self.queue.contains(&key) {
                        self.tell(&key, Turn::Gone);
                    }
                }
                self.at = Some(state.revision);
            }
        }
        // An entry that the view holds was there at the view's revision (R30).
        while let Some(key) = self.queue.next_turn() {
            self.tell(&key, Turn::Granted);
        }
    }

    fn put(&mut self, directory: &Bytes, entry: Entry) {
        match (self.reading.item)(directory, &entry) {
            Item::Entry(weight) => {
                let owner = keys::owner(&entry.value).map(|owner| owner.name);
                if weight > self.queue.capacity() {
                    self.tell(&entry.key, Turn::TooHeavy(weight));
                }
                self.queue.put(entry.key, entry.created, weight, owner);
            }
            Item::Capacity(capacity) => self.set_capacity(capacity),
            Item::Other => {}
        }
    }

    /// Who can never have a turn any more is told so (R49).
    fn set_capacity(&mut self, capacity: Weight) {
        let lowered = capacity < self.queue.capacity();
        self.queue.set_capacity(capacity);
        if lowered {
            let queue = &self.queue;
            let heavy = |key: &Bytes| queue.weight(key).filter(|weight| *weight > capacity);
            let too_heavy: Vec<_> =
                self.waiters.keys().filter_map(|key| Some((key.clone(), heavy(key)?))).collect();
            for (key, weight) in too_heavy {
                self.tell(&key, Turn::TooHeavy(weight));
            }
        }
    }

    fn tell(&mut self, key: &Bytes, turn: Turn) {
        if let Some(tell) = self.waiters.remove(key) {
            // A waiter that went away meanwhile gives its entry back by itself.
            let _ = tell.send(Ok(turn));
        }
    }
}

/// A waiter's place in the view.
struct Waiter {
    queue: Arc<Queue>,
    key: Bytes,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.queue.view.lock().waiters.remove(&self.key);
    }
}

/// Follows a queue until nobody waits in it any more.
async fn follow(guard: DismissWhenEnded, client: Client, directory: Bytes) {
    let mut watch = client.follow(Span::prefix(directory.clone()));
    loop {
        let news = watch.next().await;
        let Some(queue) = guard.0.upgrade() else { return };
        match news {
            Ok(news) => queue.view.lock().apply(&directory, news),
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
