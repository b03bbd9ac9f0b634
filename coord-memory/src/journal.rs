//! Group commit: commits queue up, one flush at a time takes all that wait, and nobody sees a
//! commit before it is durable (S6).

#![cfg_attr(not(feature = "sled"), allow(dead_code, reason = "only a durable store has a journal"))]

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use coord_api::{Error, ErrorKind, Result, Revision};
use coord_home::Home;
use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use crate::engine::Counters;
use crate::storage::{Mutation, Storage, StorageWrite};
use crate::watchers::{Watcher, wake};

/// How many bytes may wait for the disk before further writes wait with applying.
const MAX_BACKLOG: usize = 32 * 1024 * 1024;

/// How long a flush waits for the writers that the last one set free: without it every other flush
/// would carry only the first few of them. Shorter than a flush takes, and long enough for 64
/// writers on two cores.
const LINGER: Duration = Duration::from_micros(300);

/// How long a call waits for the disk before it says `Timeout`.
const PATIENCE: Duration = Duration::from_secs(10);

/// The commits of a durable store on their way to the disk.
#[derive(Debug)]
pub(crate) struct Journal {
    storage: Mutex<Option<Arc<dyn Storage>>>,
    queue: Mutex<CommitQueue>,
    /// Rings when the queue holds as many commits as the last flush carried.
    gathered: Condvar,
    /// The number of the last commit that was queued; and of the last one that is durable.
    queued: AtomicU64,
    durable: AtomicU64,
    /// The revision of the last durable commit: what watchers may see.
    visible: AtomicU64,
    failure: OnceLock<Error>,
    told: OnFailure,
    /// Where flushes run, and whose timers bound the waiting for them.
    home: Home,
    /// Ticks whenever one of the above changed.
    ticks: watch::Sender<()>,
}

/// Whoever is told that nothing works any more.
struct OnFailure(Box<dyn Fn() + Send + Sync>);

impl fmt::Debug for OnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Told")
    }
}

#[derive(Debug, Default)]
struct CommitQueue {
    mutations: Vec<Mutation>,
    bytes: usize,
    counters: Option<Counters>,
    commits: usize,
    /// How many commits the last flush carried.
    carried: usize,
    /// To wake once all of it is durable.
    watchers: Vec<Arc<Watcher>>,
    flushing: bool,
}

impl Journal {
    /// A journal of a store that is at `revision`. `failed` is called, without a lock held, when
    /// the storage fails.
    pub(crate) fn new(
        home: Home,
        storage: Arc<dyn Storage>,
        revision: Revision,
        failed: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Journal {
            storage: Mutex::new(Some(storage)),
            queue: Mutex::default(),
            gathered: Condvar::new(),
            queued: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            visible: AtomicU64::new(revision.get()),
            failure: OnceLock::new(),
            told: OnFailure(Box::new(failed)),
            home,
            ticks: watch::Sender::new(()),
        }
    }

    /// Queues a commit. Called under the lock of the engine, so that the order is the engine's.
    pub(crate) fn queue(
        &self,
        mutations: impl Iterator<Item = Mutation>,
        counters: Counters,
        watchers: Vec<Arc<Watcher>>,
    ) {
        let mut queue = self.queue.lock();
        if self.failure.get().is_none() {
            for mutation in mutations {
                queue.bytes += mutation.bytes();
                queue.mutations.push(mutation);
            }
            queue.counters = Some(counters);
            queue.commits += 1;
            if queue.commits == queue.carried {
                self.gathered.notify_one();
            }
            // Under the same lock that hands the list to a flush: a watcher of this commit wakes
            // with the flush that takes it.
            queue.watchers.extend(watchers.into_iter().filter(|watcher| !watcher.set_listed(true)));
        }
        self.queued.fetch_add(1, Ordering::Release);
    }

    /// The number of the last commit that was queued.
    pub(crate) fn queued(&self) -> u64 {
        self.queued.load(Ordering::Acquire)
    }

    /// The newest revision that may be seen.
    pub(crate) fn visible(&self) -> Revision {
        Revision::new(self.visible.load(Ordering::Acquire))
    }

    /// Why nothing works any more, if so.
    pub(crate) fn failure(&self) -> Option<&Error> {
        self.failure.get()
    }

    /// Waits until commit `number` is durable. `closed` says whether the caller gave up meanwhile;
    /// [`tick`](Self::tick) makes it be asked.
    ///
    /// # Errors
    ///
    /// The journal's failure, with outcome `NotApplied`; `Closed`; `Timeout` when the disk does not
    /// answer.
    pub(crate) async fn durable(self: &Arc<Self>, number: u64, closed: impl Fn() -> bool) -> Result<()> {
        self.until(closed, || self.durable.load(Ordering::Acquire) >= number).await
    }

    /// Waits until there is room for further commits.
    ///
    /// # Errors
    ///
    /// As [`durable`](Self::durable).
    pub(crate) async fn room(self: &Arc<Self>, closed: impl Fn() -> bool) -> Result<()> {
        self.until(closed, || self.queue.lock().bytes < MAX_BACKLOG).await
    }

    async fn until(self: &Arc<Self>, closed: impl Fn() -> bool, done: impl Fn() -> bool) -> Result<()> {
        if done() {
            return Ok(());
        }
        let waiting = self.wait(closed, done);
        match self.home.ready() {
            Ok(()) => {
                self.home.timeout(PATIENCE, waiting).await.unwrap_or_else(|_| {
                    Err(Error::new(ErrorKind::Timeout, "store", "the disk does not answer"))
                })
            }
            // No timers here; and no need of them, as the flush runs right here.
            Err(_) => waiting.await,
        }
    }

    async fn wait(self: &Arc<Self>, closed: impl Fn() -> bool, done: impl Fn() -> bool) -> Result<()> {
        let mut ticks = self.ticks.subscribe();
        loop {
            ticks.mark_unchanged();
            if done() {
                return Ok(());
            }
            if let Some(failure) = self.failure() {
                return Err(failure.clone());
            }
            if closed() {
                return Err(Error::closed("store"));
            }
            // Also when a flush is lost with the runtime that was to run it: whoever waits starts
            // it again.
            self.start_flush();
            if ticks.changed().await.is_err() {
                return Err(Error::closed("store"));
            }
        }
    }

    /// Makes everyone who waits look again.
    pub(crate) fn tick(&self) {
        self.ticks.send_replace(());
    }

    /// Sees to it that a flush runs if anything waits for one. Where there is no thread for it, it
    /// runs here and blocks.
    pub(crate) fn start_flush(self: &Arc<Self>) {
        let Some(storage) = self.storage.lock().clone() else { return };
        {
            let mut queue = self.queue.lock();
            if queue.flushing || queue.counters.is_none() {
                return;
            }
            queue.flushing = true;
        }
        let flush = Flush { journal: Arc::clone(self), storage, finished: false };
        match self.home.ready() {
            // A blocking task also keeps paused time from running ahead of the disk. One that is
            // not taken is dropped, and whoever waits starts another.
            Ok(()) => drop(self.home.spawn_blocking(move || flush.run())),
            Err(_) => flush.run(),
        }
    }

    /// Lets go of the storage. A flush that runs finishes first; what is queued after it is lost,
    /// unacknowledged.
    pub(crate) fn release(&self) {
        if let Some(storage) = self.storage.lock().take() {
            storage.let_go();
        }
        self.tick();
    }

    pub(crate) fn is_released(&self) -> bool {
        self.storage.lock().is_none()
    }

    fn fail(&self, error: Error) {
        let (kind, message) = (error.kind().as_str(), error.message().to_owned());
        coord_home::event!(ERROR, kind, message, "the store cannot write any more");
        let _ = self.failure.set(error);
        let left = std::mem::take(&mut *self.queue.lock());
        wake(left.watchers);
    }
}

/// One run of the flusher: everything that is queued, until nothing is.
struct Flush {
    journal: Arc<Journal>,
    storage: Arc<dyn Storage>,
    finished: bool,
}

impl Flush {
    fn run(mut self) {
        self.finished = true;
        while let Some((write, watchers, number)) = self.take() {
            let written =
                catch_unwind(AssertUnwindSafe(|| self.storage.write(&write))).unwrap_or_else(|_| {
                    Err(Error::new(ErrorKind::Internal, "store", "the storage panicked; reopen the store"))
                });
            match written {
                Ok(()) => {
                    self.journal.visible.store(write.counters.revision.get(), Ordering::Release);
                    self.journal.durable.store(number, Ordering::Release);
                    self.journal.tick();
                    wake(watchers);
                }
                Err(error) => {
                    self.journal.fail(error);
                    self.journal.tick();
                    wake(watchers);
                    (self.journal.told.0)();
                    return;
                }
            }
        }
    }

    fn take(&self) -> Option<(StorageWrite, Vec<Arc<Watcher>>, u64)> {
        let mut queue = self.journal.queue.lock();
        // Only among concurrent writers: one alone never waits.
        if queue.carried > 1 {
            let scattered = |queue: &mut CommitQueue| queue.commits < queue.carried;
            let _ = self.journal.gathered.wait_while_for(&mut queue, scattered, LINGER);
        }
        let Some(counters) = queue.counters.take() else {
            // Under the lock, so that nothing is queued between this look and the next flush.
            queue.flushing = false;
            queue.carried = 0;
            return None;
        };
        queue.bytes = 0;
        queue.carried = std::mem::take(&mut queue.commits);
        let write = StorageWrite { mutations: std::mem::take(&mut queue.mutations), counters };
        let watchers = std::mem::take(&mut queue.watchers);
        for watcher in &watchers {
            watcher.set_listed(false);
        }
        Some((write, watchers, self.journal.queued()))
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        if !self.finished {
            // The runtime dropped it before it ran.
            self.journal.queue.lock().flushing = false;
            self.journal.tick();
        }
    }
}

#[cfg(test)]
mod tests;
