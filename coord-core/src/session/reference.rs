//! A session that somebody needs.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use coord_api::store::{Entry, Txn, TxnReply};
use coord_api::{LeaseId, Outcome, Result};

use super::renewal;
use super::session::{Session, Written};

/// What became of a write that hangs on no lease of its session.
#[derive(Debug)]
pub enum Fenced {
    /// It was applied; the answers of the transaction.
    Written(TxnReply),
    /// A compare did not hold, and nothing was written; the answers of its `otherwise`.
    Refused(TxnReply),
    /// The answer was lost. It is fenced off: what it has not done by now it never will, so that a
    /// [look](SessionRef::look) tells.
    Settled,
}

/// A session, and a reason for it to live until something hangs on it.
///
/// While it is kept, or an [entry](super::LeasedEntry) made with it is held, the session's lease is
/// renewed. Dropped, it is no such reason any more.
pub struct SessionRef {
    session: Arc<Session>,
    asked: Duration,
    counted: AtomicBool,
}

impl SessionRef {
    /// A reference to a session that was entered for a TTL.
    pub(super) fn new(session: Arc<Session>, asked: Duration) -> Self {
        SessionRef { session, asked, counted: AtomicBool::new(true) }
    }

    pub(super) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Is no reason to live any more, and says whether it was one: whoever calls this counts it
    /// out.
    pub(super) fn take_count(&self) -> bool {
        self.counted.swap(false, Ordering::AcqRel)
    }

    /// The lease.
    pub fn lease(&self) -> LeaseId {
        self.session.lease
    }

    /// The TTL that was asked for, in whole seconds. The store may have granted more, and a session
    /// of more may serve it.
    pub fn asked(&self) -> Duration {
        self.asked
    }

    /// A number that this session gives once: with the lease, it makes a key that was never there
    /// before.
    pub fn nonce(&self) -> u64 {
        self.session.next_number()
    }

    /// Fences off whatever of this session may still be on its way: none of it is applied later
    /// (R2). Nothing is sent when there is no doubt.
    ///
    /// # Errors
    ///
    /// `LeaseLost`, or whatever kept the store from answering.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what was begun goes on.
    pub async fn settle(&self) -> Result<()> {
        self.session.settle().await
    }

    /// Sends a write of what is not to end with the session: a record, or an item of a queue. It
    /// compares the session's key all the same, so that a doubt can be settled (R2).
    ///
    /// The transaction may put keys without a lease, or on another one; that such a lease is gone
    /// is not the session's loss.
    ///
    /// # Errors
    ///
    /// `LeaseLost` when the session is over, or another lease that the transaction names is gone;
    /// whatever kept the store from answering.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may or may not have been applied, until the session is
    /// [settled](Self::settle).
    pub async fn write(&self, build: &(dyn Fn() -> Txn + Send + Sync)) -> Result<Fenced> {
        match self.session.write(build).await {
            Ok(Written::Done(reply)) => Ok(Fenced::Written(reply)),
            Ok(Written::Refused(reply)) => Ok(Fenced::Refused(reply)),
            Ok(Written::FencedOff(_)) => Ok(Fenced::Settled),
            Err(error) if error.is_transient() && error.outcome() == Outcome::Unknown => {
                self.session.settle().await.map_err(|_| error)?;
                Ok(Fenced::Settled)
            }
            Err(error) => Err(error),
        }
    }

    /// What stands under a key that hangs on the session's lease, or was written under its fence,
    /// at a revision at which the session is there. After a write whose outcome is
    /// [settled](Fenced::Settled) it tells whether that was applied: an entry of the session that
    /// is not there was not taken along by the lease's end.
    ///
    /// # Errors
    ///
    /// `LeaseLost`, outcome `Unknown`, where the session is gone: then nothing tells any more;
    /// whatever kept the store from answering.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn look(&self, key: &Bytes) -> Result<Option<Entry>> {
        self.session.look(key).await
    }

    /// Makes sure that at least half of the TTL is left, renewing if need be (R30).
    ///
    /// # Errors
    ///
    /// `LeaseLost`, or whatever kept the store from answering.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn freshen(&self) -> Result<()> {
        if self.session.left()? >= self.session.ttl / 2 {
            return Ok(());
        }
        renewal::renew(&self.session).await?;
        // An answer that came after the local deadline renewed nothing.
        self.session.left().map(drop)
    }
}

impl Clone for SessionRef {
    fn clone(&self) -> Self {
        self.session.state.lock().enter_again();
        SessionRef::new(Arc::clone(&self.session), self.asked)
    }
}

impl Drop for SessionRef {
    fn drop(&mut self) {
        // The child of a fork has nothing to count out of its parent's sessions.
        if self.session.ground.home.is_left_behind() || !self.take_count() {
            return;
        }
        let idle = self.session.state.lock().leave(self.session.now());
        if idle {
            self.session.changed.notify_one();
        }
    }
}

impl fmt::Debug for SessionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.session.fmt(f)
    }
}
