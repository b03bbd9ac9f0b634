//! Distributed locks: fair, fenced, and honest about their loss.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::Result;
use crate::fence::Fence;
use crate::handle::{HandleState, Leased, Lost};
use crate::types::FencingToken;

/// How long a call may wait for what others hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Wait {
    /// As long as it takes.
    #[default]
    Forever,
    /// At most so long in the queue, then `Timeout`. What is free is acquired however short this
    /// is.
    For(Duration),
    /// Not at all: `Conflict` at once for a lock (R27), `Exhausted` for an id (R42).
    Never,
}

/// Who else may hold a lock at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LockMode {
    /// Nobody: the lock of a writer.
    #[default]
    Exclusive,
    /// Whoever else wants it shared and does not stand behind someone who wants it for himself
    /// (R45): the lock of a reader.
    Shared,
}

/// How to acquire a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockOptions {
    /// How long the lock outlives a holder that died: the TTL of its lease, rounded up to whole
    /// seconds (R7). 30 s by default.
    pub ttl: Duration,
    /// How long to wait in the queue.
    pub wait: Wait,
    /// Who else may hold it at the same time: nobody by default.
    pub mode: LockMode,
}

impl Default for LockOptions {
    fn default() -> Self {
        LockOptions { ttl: Duration::from_secs(30), wait: Wait::Forever, mode: LockMode::Exclusive }
    }
}

impl LockOptions {
    /// Sets the TTL.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets how long to wait.
    #[must_use]
    pub fn with_wait(mut self, wait: Wait) -> Self {
        self.wait = wait;
        self
    }

    /// Sets who else may hold it at the same time.
    #[must_use]
    pub fn with_mode(mut self, mode: LockMode) -> Self {
        self.mode = mode;
        self
    }
}

/// Fair, fenced locks.
///
/// # Contract
///
/// - **R25** Exclusive grants of one key overlap with no other one in store order; each carries a
///   fencing token greater than all earlier ones of that key.
/// - **R26** Not re-entrant: a second acquire by the same task competes like a stranger's. Keys `a`
///   and `a/b` are unrelated.
/// - **R27** Without waiting, a held lock is `Conflict` at once, no queue entry stays, and waiters
///   are undisturbed.
/// - **R28** Waiters are served in the order in which they joined.
/// - **R45** A [shared](LockMode::Shared) one is granted when no exclusive one stands before it,
///   all up to the next exclusive one at once; nobody overtakes anybody.
/// - **R30** A guard is handed out only for an entry that is live and has at least half its TTL
///   left.
/// - **R9a** Locks of one TTL and provider share one lease: the first pays its grant, losing it
///   loses all of them.
#[async_trait]
pub trait DistributedLock: Debug + Send + Sync + 'static {
    /// Acquires the lock on `key`.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` (R4, R7) before any I/O; `Conflict` where [`Wait::Never`] finds it held;
    /// `Timeout` when [`Wait::For`] ran out, and then no queue entry stays; `LeaseLost` when the
    /// waiter's lease died in the queue; `Unavailable`, `Closed`, `Unauthenticated`,
    /// `PermissionDenied`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropping the call at any await point leaves no lock and no ghost waiter; the
    /// next waiter is delayed by at most 1 s while the store is connected (R29). The place in the
    /// queue is lost.
    async fn acquire_with(&self, key: &str, options: LockOptions) -> Result<LockGuard>;
}

/// The usual ways to acquire a lock.
pub trait DistributedLockExt: DistributedLock {
    /// Waits for the lock as long as it takes.
    ///
    /// # Errors
    ///
    /// Those of [`DistributedLock::acquire_with`].
    fn acquire(&self, key: &str, ttl: Duration) -> impl Future<Output = Result<LockGuard>> + Send {
        async move { self.acquire_with(key, LockOptions::default().with_ttl(ttl)).await }
    }

    /// Waits for the lock, to share it with other readers, as long as it takes (R45).
    ///
    /// # Errors
    ///
    /// Those of [`DistributedLock::acquire_with`].
    fn acquire_shared(&self, key: &str, ttl: Duration) -> impl Future<Output = Result<LockGuard>> + Send {
        async move {
            self.acquire_with(key, LockOptions::default().with_ttl(ttl).with_mode(LockMode::Shared)).await
        }
    }

    /// Waits for the lock at most `timeout`.
    ///
    /// # Errors
    ///
    /// `Timeout` when it is over; those of [`DistributedLock::acquire_with`].
    fn acquire_timeout(
        &self,
        key: &str,
        ttl: Duration,
        timeout: Duration,
    ) -> impl Future<Output = Result<LockGuard>> + Send {
        async move {
            self.acquire_with(key, LockOptions::default().with_ttl(ttl).with_wait(Wait::For(timeout))).await
        }
    }

    /// Takes the lock if it is free (R27).
    ///
    /// # Errors
    ///
    /// `Conflict` when it is held; those of [`DistributedLock::acquire_with`].
    fn try_acquire(&self, key: &str, ttl: Duration) -> impl Future<Output = Result<LockGuard>> + Send {
        async move { self.acquire_with(key, LockOptions::default().with_ttl(ttl).with_wait(Wait::Never)).await }
    }
}

impl<L: DistributedLock + ?Sized> DistributedLockExt for L {}

/// What a backend provides behind a [`LockGuard`].
#[async_trait]
pub trait LockHandle: Leased {
    /// Who else may hold it now. In doubt, after a downgrade that failed, it counts as shared
    /// (R46).
    fn mode(&self) -> LockMode;

    /// Lets other readers in, as [`LockGuard::downgrade`] says.
    ///
    /// # Errors
    ///
    /// Those of [`LockGuard::downgrade`].
    ///
    /// # Cancel safety
    ///
    /// That of [`LockGuard::downgrade`].
    async fn downgrade(&self) -> Result<()>;
}

/// A lock that is held, until it is unlocked, dropped or lost.
///
/// Only the store can say who holds a lock, and only the clock can say for how long that is known
/// here. The guard is lost, for ever, when its local deadline passes unrenewed or the store says so
/// (R32). Under a partition that comes before anyone else is granted the lock, given equal clock
/// rates. A suspended machine or a broken store can defeat every lock; the
/// [fencing token](Self::fencing_token) protects even then.
#[derive(Debug)]
#[must_use = "dropping a guard releases the lock"]
pub struct LockGuard {
    key: String,
    inner: Box<dyn LockHandle>,
}

crate::handle::leased_by_inner!(LockGuard);

impl LockGuard {
    /// Wraps a backend's handle for the caller's `key`.
    pub fn new(key: impl Into<String>, inner: impl LockHandle) -> Self {
        LockGuard { key: key.into(), inner: Box::new(inner) }
    }

    /// The key as the caller named it (R33).
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The number to hand to whatever the lock protects (R25).
    pub fn fencing_token(&self) -> FencingToken {
        self.inner.fencing_token()
    }

    /// Ties a write to the same store to this lock: it is applied only while this is held, by the
    /// word of the store (R55). Give it to
    /// [`WriteOptions::with_fence`](crate::WriteOptions::with_fence). One from before a
    /// [`downgrade`](Self::downgrade) fails.
    pub fn fence(&self) -> Fence {
        self.inner.fence()
    }

    /// Whether the lock is held at this moment, by this machine's clock (R32). Once `false`,
    /// `false` for ever.
    pub fn is_held(&self) -> bool {
        self.inner.state().is_held()
    }

    /// What the guard stands for at this moment.
    pub fn state(&self) -> HandleState {
        self.inner.state()
    }

    /// The time left to the local deadline, zero when not held (R33). Renewal moves it on.
    pub fn ttl(&self) -> Duration {
        self.inner.ttl()
    }

    /// Resolves once the lock is not held any more, whatever the reason (R32).
    pub fn lost(&self) -> Lost {
        self.inner.lost()
    }

    /// Who else may hold it now. In doubt, after a downgrade that failed, it counts as shared
    /// (R46).
    pub fn mode(&self) -> LockMode {
        self.inner.mode()
    }

    /// Lets other readers in, and no writer between (R46): the guard keeps its place in the queue
    /// and its token, and is shared from now on. A shared one stays as it is. There is no way back:
    /// two who both waited to have it for themselves would wait for each other for ever.
    ///
    /// # Errors
    ///
    /// `LeaseLost` when the lock was lost. `Unavailable` or `Timeout` when the store did not
    /// answer: it counts as shared, and the call may be repeated.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped call leaves the guard counting as shared, and may be repeated.
    pub async fn downgrade(&self) -> Result<()> {
        self.inner.downgrade().await
    }

    /// Releases the lock (R33). After `Ok`, with no waiter, the next try succeeds. Called again it
    /// repeats nothing and harms no successor.
    ///
    /// # Errors
    ///
    /// `LeaseLost` when the lock had been lost before. `Unavailable` or `Timeout`, outcome
    /// `Unknown`, when the store did not answer: the guard is not held any more, and the provider
    /// repeats the release until it is acknowledged or the lease has expired (R9).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped call leaves the release to the provider.
    pub async fn unlock(&self) -> Result<()> {
        self.inner.release().await
    }
}
