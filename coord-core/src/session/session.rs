//! One lease, what hangs on it, and until when that may be believed.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use coord_api::store::{Compare, Entry, Op, OpReply, Range, Txn, TxnReply};
use coord_api::{Error, ErrorKind, LeaseId, Loss, Outcome, Result, Revision};
use futures_util::future::join;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::batch::BatchQueue;
use super::loss::LossCell;
use super::pending::PendingReleases;
use super::state::{Admission, SessionState, Tracked};
use crate::flight::SingleFlight;
use crate::ground::Ground;
use crate::health::SessionHealth;
use crate::keys;
use crate::telemetry::LastRenewal;

/// One lease of one client, with a key of its own whose mod revision fences the session's writes
/// (R2).
pub(super) struct Session {
    pub(super) ground: Arc<Ground>,
    pub(super) lease: LeaseId,
    /// The granted TTL.
    pub(super) ttl: Duration,
    /// The session's own key.
    pub(super) key: Bytes,
    pub(super) state: Mutex<SessionState>,
    /// The last number that was given to an entry.
    last_number: AtomicU64,
    /// The rewriting of the session's key: one fence at a time, for all who need it.
    fencing: SingleFlight<()>,
    pub(super) pending: PendingReleases,
    pub(super) batch: BatchQueue,
    /// Something changed that the session's task should look at.
    pub(super) changed: Notify,
    /// Set when the session is over, for whatever reason.
    pub(super) over: Arc<LossCell>,
}

/// How a write under a session ended.
#[derive(Debug)]
pub(super) enum Written {
    /// Its own compares held.
    Done(TxnReply),
    /// One of its own compares did not hold; the answers of its `otherwise`.
    Refused(TxnReply),
    /// Its answer was lost, but it is fenced off: what stands under its key now.
    FencedOff(Option<Entry>),
}

/// Why the store refused a write that is under a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefusedBy {
    /// One of its own compares did not hold.
    Compare,
    /// The fence was moved, so that the write is to be sent again under the new one.
    Fence,
}

impl Session {
    /// Makes a session: a grant, and the write of its key. Says at which revision that was written.
    /// What keeps it alive is yet to be started.
    pub(super) async fn make(ground: &Arc<Ground>, ttl: Duration) -> Result<(Arc<Self>, Revision)> {
        let sent = ground.home.now();
        // Which store it is, every fence that is given of what hangs here must say (R55). Asked for
        // beside the grant, it takes no time.
        let (known, granted) = join(ground.store_id(), ground.store.grant_lease(ttl)).await;
        let lease = granted?;
        ground.granted(lease.id);
        let key = keys::session(lease.id);
        let put = Op::put_leased(key.clone(), ground.session_value.clone(), lease.id);
        let put = Txn::new().when(Compare::Absent(key.clone())).then(put);
        let written = match known {
            Ok(_) => ground.store.txn(put).await,
            Err(error) => Err(error),
        };
        let written = match written {
            Ok(written) if written.succeeded => written,
            failed => {
                // Nothing hangs on the lease; should this not reach the store either, it ends by
                // itself.
                let _ = ground.revoke(lease.id).await;
                ground.forget(lease.id);
                failed?;
                return Err(Error::new(
                    ErrorKind::Internal,
                    "session",
                    "the key of a new lease exists already",
                ));
            }
        };
        let session = Arc::new(Session {
            ground: Arc::clone(ground),
            lease: lease.id,
            ttl: lease.ttl,
            key,
            state: Mutex::new(SessionState::new(sent, lease.ttl, written.revision, ground.home.now())),
            last_number: AtomicU64::new(0),
            fencing: SingleFlight::default(),
            pending: PendingReleases::default(),
            batch: BatchQueue::default(),
            changed: Notify::new(),
            over: Arc::new(LossCell::default()),
        });
        let (id, ttl_s) = (session.lease, session.ttl.as_secs());
        coord_home::event!(DEBUG, lease = %id, ttl_s, "session opened");
        Ok((session, written.revision))
    }

    /// What time it is, by the clock that the session's deadline goes by.
    pub(super) fn now(&self) -> Instant {
        self.ground.home.now()
    }

    /// A number that this session gives once.
    pub(super) fn next_number(&self) -> u64 {
        self.last_number.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// How long one request of the session's own may take, so that several fit between a renewal
    /// and the deadline.
    pub(super) fn attempt_timeout(&self) -> Duration {
        self.ttl / 5
    }

    /// Whether callers may still enter, as far as is known without a look at the clock.
    pub(super) fn is_open(&self) -> bool {
        self.state.lock().is_open()
    }

    /// Counts a caller in, unless the session is over or may not live on.
    pub(super) fn enter(&self) -> bool {
        let admission = self.state.lock().enter(self.now());
        self.admit(admission).is_some()
    }

    /// What the state has granted. Where it found that the deadline has passed, the session is over
    /// (R32).
    fn admit<T>(&self, admission: Admission<T>) -> Option<T> {
        match admission {
            Admission::Granted(granted) => Some(granted),
            Admission::Expired => {
                self.lose(Loss::Expired);
                None
            }
            Admission::Shut => None,
        }
    }

    /// Compares the clock with the local deadline, and says whether the session is over (R32).
    pub(super) fn check(&self) -> Option<Loss> {
        if let Some(loss) = self.over.get() {
            return Some(loss);
        }
        let expired = self.state.lock().has_expired(self.now());
        if expired {
            self.lose(Loss::Expired);
        }
        self.over.get()
    }

    /// The time left to the local deadline.
    ///
    /// # Errors
    ///
    /// The session is over.
    pub(super) fn left(&self) -> Result<Duration> {
        let left = self.state.lock().left(self.now());
        if left.is_zero() {
            self.lose(Loss::Expired);
        }
        self.over.get().map_or(Ok(left), |loss| Err(self.lost_error(loss)))
    }

    /// Ends the session, and with it everything on it, for ever (R32).
    pub(super) fn lose(&self, loss: Loss) {
        let entries = self.state.lock().end();
        if self.over.set(loss) {
            let (lease, handles) = (self.lease, entries.len());
            coord_home::event!(DEBUG, lease = %lease, reason = %loss, handles, "session over");
        }
        // The first reason counts, for all of them.
        let loss = self.over.get().unwrap_or(loss);
        self.end_all(entries.into_iter().map(|entry| entry.loss).collect(), loss);
        self.changed.notify_one();
    }

    /// Ends handles, and tells the operator of those that were lost.
    pub(super) fn end_all(&self, mut cells: Vec<Arc<LossCell>>, loss: Loss) {
        cells.retain(|cell| cell.set(loss));
        let subjects: Vec<_> =
            cells.iter().filter_map(|cell| cell.subject()).filter(|subject| subject.was_held()).collect();
        if !subjects.is_empty() {
            self.ground.telemetry.lost(&subjects, loss, self.lease, &self.last_renewal());
        }
    }

    /// How the lease was renewed last.
    pub(super) fn last_renewal(&self) -> LastRenewal {
        let state = self.state.lock();
        LastRenewal {
            ago: self.now().saturating_duration_since(state.renewed_at()),
            failure: state.failure().cloned(),
        }
    }

    /// How it is doing; `None` once it is over.
    pub(super) fn health(&self) -> Option<SessionHealth> {
        if self.check().is_some() {
            return None;
        }
        let (state, now) = (self.state.lock(), self.now());
        Some(SessionHealth {
            session: self.lease,
            ttl: self.ttl,
            renewed_ago: now.saturating_duration_since(state.renewed_at()),
            left: state.left(now),
            failure: state.failure().cloned(),
        })
    }

    /// Forgets an entry.
    pub(super) fn untrack(&self, number: u64) {
        let idle = self.state.lock().untrack(number, self.now());
        if idle {
            self.changed.notify_one();
        }
    }

    /// Notices which of these entries are gone from the lease's `keys`, which were read later
    /// (R32).
    pub(super) fn notice_removed(&self, numbers: &[u64], keys: &[Bytes]) {
        let removed = self.state.lock().take_removed(numbers, keys, self.now());
        if !removed.is_empty() {
            self.changed.notify_one();
        }
        self.end_all(removed.into_iter().map(|entry| entry.loss).collect(), Loss::Removed);
    }

    /// Has the session know of entries that are about to be written, and counts out `leaving`
    /// callers whose they are. Says under which fence they go.
    ///
    /// # Errors
    ///
    /// The session is over; nothing was done.
    pub(super) fn begin_write(&self, entries: Vec<(u64, Tracked)>, leaving: usize) -> Result<Doubt<'_>> {
        let admission = self.state.lock().begin_write(entries, leaving, self.now());
        match self.admit(admission) {
            Some(fence) => Ok(Doubt { session: self, fence, answered: false }),
            None => Err(self.lost_error(self.over.get().unwrap_or(Loss::Expired))),
        }
    }

    /// Sends a write under the session's lease and fence (R2). What fails on the fence alone is
    /// built and sent again.
    ///
    /// # Errors
    ///
    /// `LeaseLost` when the lease is gone. With outcome `Unknown`, the session remembers the doubt
    /// until it is [settled](Self::settle).
    ///
    /// # Cancel safety
    ///
    /// As an outcome that is `Unknown`.
    pub(super) async fn write(&self, build: &(dyn Fn() -> Txn + Send + Sync)) -> Result<Written> {
        let doubt = self.begin_write(Vec::new(), 0)?;
        self.write_under(doubt, build).await
    }

    /// As [`write`](Self::write), where it has begun already.
    pub(super) async fn write_under(
        &self,
        mut doubt: Doubt<'_>,
        build: &(dyn Fn() -> Txn + Send + Sync),
    ) -> Result<Written> {
        loop {
            let fence = doubt.fence();
            let txn =
                build().when(Compare::Modified(self.key.clone(), fence)).otherwise(self.look_at_fence());
            // A lease that is gone fails a put; where it is another one, it says nothing of this.
            let others_lease = self.puts_on_another_lease(&txn);
            let mut reply = match self.ground.store.txn(txn).await {
                Ok(reply) => reply,
                Err(error) => {
                    if error.outcome() == Outcome::NotApplied {
                        doubt.answered();
                    }
                    if error.kind() == ErrorKind::LeaseLost && !others_lease {
                        self.lose(Loss::Expired);
                    }
                    return Err(error);
                }
            };
            doubt.answered();
            if reply.succeeded {
                return Ok(Written::Done(reply));
            }
            match self.refusal(fence, reply.replies.pop())? {
                RefusedBy::Compare => return Ok(Written::Refused(reply)),
                RefusedBy::Fence => doubt = self.begin_write(Vec::new(), 0)?,
            }
        }
    }

    /// Whether a transaction hangs something on a lease that is not the session's, such as one of a
    /// retention.
    fn puts_on_another_lease(&self, txn: &Txn) -> bool {
        let is_others = |op: &Op| matches!(op, Op::Put { lease: Some(lease), .. } if *lease != self.lease);
        txn.then.iter().chain(&txn.otherwise).any(is_others)
    }

    /// What a write under a fence asks for in case that it is refused, for
    /// [`refusal`](Self::refusal).
    pub(super) fn look_at_fence(&self) -> Op {
        Op::Range(Range::key(self.key.clone()).with_keys_only())
    }

    /// Why a write was refused that went under `fence`, by what its look at the fence has found.
    ///
    /// # Errors
    ///
    /// `LeaseLost` when the session's key is gone, and with it the session.
    pub(super) fn refusal(&self, fence: Revision, found: Option<OpReply>) -> Result<RefusedBy> {
        let Some(OpReply::Range(own)) = found else {
            return Err(Error::new(ErrorKind::Internal, "session", "the store left out an answer"));
        };
        // Gone; or older than it was, as in a store that was set back, where this fence never comes
        // again.
        let Some(own) = own.entries.first().filter(|own| own.modified >= fence) else {
            self.lose(Loss::Expired);
            return Err(self.lost_error(Loss::Expired));
        };
        if own.modified == fence {
            return Ok(RefusedBy::Compare);
        }
        self.state.lock().learn_fence(own.modified);
        Ok(RefusedBy::Fence)
    }

    /// A write that is about to be sent, under the present fence.
    pub(super) fn doubt(&self) -> Doubt<'_> {
        Doubt { session: self, fence: self.state.lock().fence(), answered: false }
    }

    /// Makes every write of this session fail for good that may still be on its way, by rewriting
    /// the session's key (R2). Nothing is sent when there is no doubt.
    ///
    /// # Errors
    ///
    /// Whatever kept the store from answering; the doubt stays.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a rewrite that has begun goes on.
    pub(super) async fn settle(self: &Arc<Self>) -> Result<()> {
        // A rewrite that was under way may be older than a doubt: then another one follows.
        while self.is_in_doubt() {
            let rewrite = || {
                let session = Arc::clone(self);
                async move { session.rewrite_key().await }
            };
            self.fencing.run(&self.ground.home, "session", rewrite).await?;
        }
        Ok(())
    }

    fn is_in_doubt(&self) -> bool {
        self.state.lock().is_in_doubt()
    }

    async fn rewrite_key(&self) -> Result<()> {
        if !self.is_in_doubt() {
            return Ok(());
        }
        let fence = self.state.lock().fence();
        let rewrite = Txn::new()
            .when(Compare::Modified(self.key.clone(), fence))
            .then(Op::put_leased(self.key.clone(), self.ground.session_value.clone(), self.lease))
            .otherwise(Op::Range(Range::key(self.key.clone()).with_keys_only()));
        let reply = match self.ground.store.txn(rewrite).await {
            Ok(reply) => reply,
            // A store that is out of space takes no rewrite. Ending the lease fences as well, at
            // the price of all that hangs on it.
            Err(error) if error.kind() == ErrorKind::Exhausted => {
                self.ground.revoke(self.lease).await?;
                self.lose(Loss::Expired);
                return Err(self.lost_error(Loss::Expired));
            }
            Err(error) => {
                if error.kind() == ErrorKind::LeaseLost {
                    self.lose(Loss::Expired);
                }
                return Err(error);
            }
        };
        let seen = match reply.succeeded {
            true => Some(reply.revision),
            // An earlier rewrite, whose answer was lost, has moved the fence: that is as good.
            false => reply
                .range(0)
                .and_then(|own| own.entries.first())
                .map(|own| own.modified)
                .filter(|seen| *seen >= fence),
        };
        match seen {
            Some(seen) => {
                self.state.lock().learn_fence(seen);
                Ok(())
            }
            None => {
                self.lose(Loss::Expired);
                Err(self.lost_error(Loss::Expired))
            }
        }
    }

    /// Deletes an entry that was last written at `modified`, and says whether it was there. Earlier
    /// writes still under way are fenced off first, so that it cannot come back (R2, R38).
    pub(super) async fn remove(self: &Arc<Self>, key: &Bytes, modified: Revision) -> Result<bool> {
        self.settle().await?;
        let delete = Txn::new().when(Compare::Modified(key.clone(), modified)).then(Op::delete(key.clone()));
        Ok(self.ground.store.txn(delete).await?.succeeded)
    }

    /// What stands under these keys, at one revision. No more of them than one transaction carries.
    pub(super) async fn read_all(&self, keys: impl Iterator<Item = &Bytes>) -> Result<Vec<Option<Entry>>> {
        let read = keys.fold(Txn::new(), |txn, key| txn.then(Op::Range(Range::key(key.clone()))));
        let asked = read.then.len();
        let replies = self.ground.store.txn(read).await?.replies;
        if replies.len() < asked {
            return Err(Error::new(ErrorKind::Internal, "session", "the store left out an answer"));
        }
        let found = |reply| match reply {
            OpReply::Range(range) => range.entries.into_iter().next(),
            _ => None,
        };
        Ok(replies.into_iter().map(found).collect())
    }

    /// What stands under a key, at a revision at which the session is there still: what hangs on
    /// its lease, and is not there, was not taken along by the lease's end. So what was
    /// [settled](Self::settle) is told by what it has left.
    ///
    /// # Errors
    ///
    /// `LeaseLost`, outcome `Unknown`, where the session is gone; whatever kept the store from
    /// answering.
    pub(super) async fn look(&self, key: &Bytes) -> Result<Option<Entry>> {
        let mut found = self.read_all([key, &self.key].into_iter()).await?;
        let own = found.pop().flatten();
        let fence = self.state.lock().fence();
        if own.is_none_or(|own| own.modified < fence) {
            self.lose(Loss::Expired);
            return Err(self.lost_error(Loss::Expired).with_outcome(Outcome::Unknown));
        }
        Ok(found.pop().flatten())
    }

    pub(super) fn lost_error(&self, loss: Loss) -> Error {
        match loss {
            Loss::Closed => Error::closed("session"),
            _ => Error::lease_lost("session", "the lease is gone"),
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("lease", &self.lease)
            .field("ttl", &self.ttl)
            .field("over", &self.over.get())
            .finish_non_exhaustive()
    }
}

/// A write on its way. Dropped without an answer, it leaves the session in doubt.
pub(super) struct Doubt<'a> {
    session: &'a Session,
    fence: Revision,
    answered: bool,
}

impl Doubt<'_> {
    /// The fence that the write compares with.
    pub(super) fn fence(&self) -> Revision {
        self.fence
    }

    /// The write was answered, or was never sent.
    pub(super) fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.session.state.lock().doubt(self.fence);
        }
    }
}
