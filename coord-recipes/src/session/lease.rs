//! One lease, what hangs on it, and until when that may be believed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use coord_api::store::{Compare, Entry, Op, OpReply, Range, Txn, TxnReply};
use coord_api::{Error, ErrorKind, LeaseId, Loss, Outcome, Result, Revision, Value};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::debts::Debts;
use super::loss::LossCell;
use super::tasks;
use super::together::Together;
use crate::core::{Core, homeless};
use crate::flight::SingleFlight;
use crate::keys;
use crate::telemetry::LastRenewal;

/// How far the local deadline lies before the lease's own: a twentieth of the TTL, within 10 and 500 ms.
fn margin(ttl: Duration) -> Duration {
    (ttl / 20).clamp(Duration::from_millis(10), Duration::from_millis(500))
}

/// One lease of one provider, with a key of its own whose mod revision fences the session's writes (R2).
pub(crate) struct Session {
    pub(super) core: Arc<Core>,
    pub(super) lease: LeaseId,
    /// The granted TTL.
    pub(super) ttl: Duration,
    /// The session's own key.
    pub(super) key: Bytes,
    pub(super) state: Mutex<State>,
    /// The rewriting of the session's key: one fence at a time, for all who need it.
    fencing: SingleFlight<()>,
    pub(super) debts: Debts,
    pub(super) together: Together,
    /// Something changed that the session's task should look at.
    pub(super) changed: Notify,
    /// Set when the session is over, for whatever reason.
    pub(super) over: Arc<LossCell>,
}

pub(super) struct State {
    /// Until here the lease is certainly alive, by the local clock.
    pub(super) deadline: Instant,
    /// When the last answered renewal was sent.
    pub(super) renewed: Instant,
    /// How the last renewal failed, where it failed.
    pub(super) failure: Option<Error>,
    /// The mod revision of the session's key: what leased writes compare with.
    fence: Revision,
    /// The newest fence under which a write's outcome was left open; settled by a newer fence.
    in_doubt: Option<Revision>,
    /// What is held, or being written, by its number. Ordered, here and elsewhere, so that the same things happen in the same order each time.
    pub(super) holdings: BTreeMap<u64, Held>,
    next: u64,
    /// Calls that need the session and have nothing on it yet.
    uses: usize,
    /// Since when nothing needs it.
    pub(super) idle_since: Instant,
    /// A debt grew too old: the lease must run out, so that nothing dropped is held for ever (R9).
    pub(super) expiring: bool,
    /// It was retired for want of use, or is over: nobody may enter any more.
    pub(super) shut: bool,
    /// Somebody entered: until then it waits for those for whom it was made.
    pub(super) entered: bool,
}

impl State {
    /// Whether nothing needs the session: what was released or lost does not, however long its handle is kept (R9a).
    pub(super) fn is_idle(&self) -> bool {
        self.uses == 0 && self.holdings.is_empty()
    }

    /// Something needs the session no more, at `now`. Says whether it is idle.
    fn rest(&mut self, now: Instant) -> bool {
        let idle = self.is_idle();
        if idle {
            self.idle_since = now;
        }
        idle
    }
}

/// An entry on the lease that a handle stands for.
pub(super) struct Held {
    pub(super) key: Bytes,
    pub(super) loss: Arc<LossCell>,
    /// Its mod revision, as last known; none while its first write is under way.
    pub(super) modified: Option<Revision>,
}

/// A write under the session's lease; the fence is added to it.
#[derive(Debug, Default)]
pub(crate) struct Leased {
    pub(crate) compares: Vec<Compare>,
    pub(crate) then: Vec<Op>,
    pub(crate) otherwise: Vec<Op>,
}

/// How a leased write ended.
#[derive(Debug)]
pub(crate) enum Write {
    /// Its own compares held.
    Done(TxnReply),
    /// One of its own compares did not hold; the answers of its `otherwise`.
    Refused(TxnReply),
}

impl Session {
    /// Makes a session: a grant, and the write of its key.
    pub(super) async fn open(core: &Arc<Core>, ttl: Duration) -> Result<Arc<Self>> {
        let sent = core.home.now();
        let lease = core.store.grant_lease(ttl).await?;
        core.granted(lease.id);
        let key = keys::session(lease.id);
        let put = Op::put_leased(key.clone(), core.name.clone(), lease.id);
        let written = match core.store.txn(Txn::new().when(Compare::Absent(key.clone())).then(put)).await {
            Ok(written) if written.succeeded => written,
            failed => {
                // Nothing hangs on the lease; should this not reach the store either, it ends by itself.
                let _ = core.revoke(lease.id).await;
                core.forget(lease.id);
                failed?;
                return Err(Error::new(ErrorKind::Internal, "session", "the key of a new lease exists already"));
            }
        };
        let session = Arc::new(Session {
            core: Arc::clone(core),
            lease: lease.id,
            ttl: lease.ttl,
            key,
            state: Mutex::new(State {
                deadline: sent + lease.ttl.saturating_sub(margin(lease.ttl)),
                renewed: sent,
                failure: None,
                fence: written.revision,
                in_doubt: None,
                holdings: BTreeMap::new(),
                next: 0,
                uses: 0,
                idle_since: core.home.now(),
                expiring: false,
                shut: false,
                entered: false,
            }),
            fencing: SingleFlight::default(),
            debts: Debts::default(),
            together: Together::default(),
            changed: Notify::new(),
            over: Arc::new(LossCell::default()),
        });
        let (id, ttl_s) = (session.lease, session.ttl.as_secs());
        coord_home::event!(DEBUG, lease = %id, ttl_s, "session opened");
        // The task owns the session and ends with it: lost, retired or closed.
        if let Err(error) = core.home.spawn(tasks::run(Arc::clone(&session), written.revision)) {
            let _ = core.revoke(session.lease).await;
            core.forget(session.lease);
            return Err(homeless("session", error));
        }
        Ok(session)
    }

    /// What time it is, by the clock that the session's deadline goes by.
    pub(super) fn now(&self) -> Instant {
        self.core.home.now()
    }

    /// Whether callers may still enter, as far as is known without a look at the clock.
    pub(super) fn is_open(&self) -> bool {
        let state = self.state.lock();
        !state.shut && !state.expiring
    }

    /// Counts the caller in, who asked for this TTL, unless the session is over or may not live on.
    pub(super) fn enter(self: Arc<Self>, asked: Duration) -> Option<SessionUse> {
        self.check();
        {
            let mut state = self.state.lock();
            if state.shut || state.expiring {
                return None;
            }
            state.uses += 1;
            state.entered = true;
        }
        Some(SessionUse { session: self, asked, counted: AtomicBool::new(true) })
    }

    /// Compares the clock with the local deadline, and says whether the session is over (R32).
    pub(super) fn check(&self) -> Option<Loss> {
        if let Some(loss) = self.over.get() {
            return Some(loss);
        }
        let passed = self.state.lock().deadline <= self.now();
        if passed {
            self.lose(Loss::Expired);
        }
        self.over.get()
    }

    /// Ends the session, and with it everything on it, for ever (R32).
    pub(super) fn lose(&self, loss: Loss) {
        let holdings = {
            let mut state = self.state.lock();
            state.shut = true;
            std::mem::take(&mut state.holdings)
        };
        if self.over.set(loss) {
            let (lease, handles) = (self.lease, holdings.len());
            coord_home::event!(DEBUG, lease = %lease, reason = %loss, handles, "session over");
        }
        // The first reason counts, for all of them.
        let loss = self.over.get().unwrap_or(loss);
        let cells = holdings.into_values().map(|held| held.loss);
        self.end_all(cells.collect(), loss);
        self.changed.notify_one();
    }

    /// Ends handles, and tells the operator of those that were lost.
    pub(super) fn end_all(&self, mut cells: Vec<Arc<LossCell>>, loss: Loss) {
        cells.retain(|cell| self.end(cell, loss));
        let subjects: Vec<_> = cells.iter().filter_map(|cell| cell.subject()).filter(|subject| subject.was_held()).collect();
        if !subjects.is_empty() {
            self.core.telemetry.lost(&subjects, loss, &self.last_renewal());
        }
    }

    /// Ends one handle; only the first reason counts. Says whether this was the first.
    pub(super) fn end(&self, cell: &LossCell, loss: Loss) -> bool {
        let first = cell.set(loss);
        if let (true, Some(subject)) = (first, cell.subject()) {
            self.core.telemetry.ended(subject);
        }
        first
    }

    /// How the lease was renewed last.
    pub(super) fn last_renewal(&self) -> LastRenewal {
        let state = self.state.lock();
        LastRenewal { ago: self.now().saturating_duration_since(state.renewed), failure: state.failure.clone() }
    }

    /// Moves the local deadline on after a renewal that was sent at `sent`. Too late is too late: a deadline that passed is never moved.
    pub(super) fn renewed(&self, sent: Instant, granted: Duration) {
        let now = self.now();
        let mut state = self.state.lock();
        if !state.shut && now < state.deadline {
            state.deadline = state.deadline.max(sent + granted.saturating_sub(margin(granted)));
            state.renewed = state.renewed.max(sent);
            state.failure = None;
        }
    }

    /// Forgets a holding.
    pub(super) fn untrack(&self, number: u64) {
        let idle = {
            let mut state = self.state.lock();
            state.holdings.remove(&number).is_some() && state.rest(self.now())
        };
        if idle {
            self.changed.notify_one();
        }
    }

    /// The holdings that are known to be in the store.
    pub(super) fn written(&self) -> Vec<u64> {
        self.state.lock().holdings.iter().filter(|(_, held)| held.modified.is_some()).map(|(number, _)| *number).collect()
    }

    /// Notices which of these holdings are gone from the lease's `keys`, which were read later (R32).
    pub(super) fn notice_removed(&self, numbers: &[u64], keys: &[Bytes]) {
        let removed: Vec<Held> = {
            let mut state = self.state.lock();
            let gone = |state: &State, number: &u64| {
                state.holdings.get(number).is_some_and(|held| keys.binary_search_by(|key| key.as_ref().cmp(held.key.as_ref())).is_err())
            };
            let gone: Vec<u64> = numbers.iter().filter(|number| gone(&state, number)).copied().collect();
            let removed = gone.iter().filter_map(|number| state.holdings.remove(number)).collect();
            state.rest(self.now());
            removed
        };
        if !removed.is_empty() {
            self.changed.notify_one();
        }
        self.end_all(removed.into_iter().map(|held| held.loss).collect(), Loss::Removed);
    }

    /// The fence that leased writes compare with, learnt from a look at the session's key.
    fn learn_fence(&self, seen: Revision) {
        let mut state = self.state.lock();
        state.fence = state.fence.max(seen);
        if state.in_doubt.is_some_and(|in_doubt| in_doubt < state.fence) {
            state.in_doubt = None;
        }
    }

    /// Runs a leased write (R2): under the session's lease and its fence. What fails on the fence alone is sent again.
    ///
    /// # Errors
    ///
    /// `LeaseLost` when the lease is gone. With outcome `Unknown`, the session remembers the doubt until it is [fenced off](Self::settle).
    ///
    /// # Cancel safety
    ///
    /// As an outcome that is `Unknown`.
    pub(super) async fn write(&self, write: &Leased) -> Result<Write> {
        loop {
            if let Some(loss) = self.check() {
                return Err(self.lost_error(loss));
            }
            let doubt = self.doubt();
            let fence = doubt.fence();
            let mut txn = Txn { compares: write.compares.clone(), then: write.then.clone(), otherwise: write.otherwise.clone() };
            txn.compares.push(Compare::Modified(self.key.clone(), fence));
            txn.otherwise.push(Op::Range(Range::key(self.key.clone()).with_keys_only()));
            let answer = self.core.store.txn(txn).await;
            let mut reply = match answer {
                Ok(reply) => reply,
                Err(error) => {
                    if error.outcome() == Outcome::NotApplied {
                        doubt.settle();
                    }
                    if error.kind() == ErrorKind::LeaseLost {
                        self.lose(Loss::Expired);
                    }
                    return Err(error);
                }
            };
            doubt.settle();
            if reply.succeeded {
                return Ok(Write::Done(reply));
            }
            let Some(OpReply::Range(own)) = reply.replies.pop() else {
                return Err(Error::new(ErrorKind::Internal, "session", "the store left out an answer"));
            };
            // Gone; or older than it was, as in a store that was set back, where this fence never comes again.
            let Some(own) = own.entries.first().filter(|own| own.modified >= fence) else {
                self.lose(Loss::Expired);
                return Err(self.lost_error(Loss::Expired));
            };
            if own.modified == fence {
                return Ok(Write::Refused(reply));
            }
            self.learn_fence(own.modified);
        }
    }

    /// A write that is about to be sent, under the present fence.
    pub(super) fn doubt(&self) -> Doubt<'_> {
        Doubt { session: self, fence: self.state.lock().fence, settled: false }
    }

    /// Whether an earlier write of this session may yet be applied.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.state.lock().in_doubt.is_some()
    }

    /// Makes every write of this session fail for good that may still be on its way, by rewriting the session's key (R2). Nothing is sent when
    /// there is no doubt.
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
            self.fencing.run(&self.core.home, "session", rewrite).await?;
        }
        Ok(())
    }

    async fn rewrite_key(&self) -> Result<()> {
        if !self.is_in_doubt() {
            return Ok(());
        }
        let fence = self.state.lock().fence;
        let rewrite = Txn::new()
            .when(Compare::Modified(self.key.clone(), fence))
            .then(Op::put_leased(self.key.clone(), Value::from(self.core.name.clone()), self.lease))
            .otherwise(Op::Range(Range::key(self.key.clone()).with_keys_only()));
        let reply = match self.core.store.txn(rewrite).await {
            Ok(reply) => reply,
            // A store that is out of space takes no rewrite. Ending the lease fences as well, at the price of all that hangs on it.
            Err(error) if error.kind() == ErrorKind::Exhausted => {
                self.core.revoke(self.lease).await?;
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
        if reply.succeeded {
            self.learn_fence(reply.revision);
            return Ok(());
        }
        // An earlier rewrite, whose answer was lost, has moved the fence: that is as good.
        match reply.range(0).and_then(|own| own.entries.first()).filter(|own| own.modified >= fence) {
            Some(own) => {
                self.learn_fence(own.modified);
                Ok(())
            }
            None => {
                self.lose(Loss::Expired);
                Err(self.lost_error(Loss::Expired))
            }
        }
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

/// A leased write on its way. Dropped without an answer, it leaves the session in doubt.
pub(super) struct Doubt<'a> {
    session: &'a Session,
    fence: Revision,
    settled: bool,
}

impl Doubt<'_> {
    /// The fence that the write compares with.
    pub(super) fn fence(&self) -> Revision {
        self.fence
    }

    /// The write was answered.
    pub(super) fn settle(mut self) {
        self.settled = true;
    }
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if !self.settled {
            let mut state = self.session.state.lock();
            if state.fence <= self.fence {
                state.in_doubt = Some(self.fence);
            }
        }
    }
}

/// A session, and a reason for it to live until [something hangs on it](Self::leave).
pub(crate) struct SessionUse {
    session: Arc<Session>,
    asked: Duration,
    counted: AtomicBool,
}

impl SessionUse {
    /// The session.
    pub(super) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Is no reason to live any more.
    pub(super) fn leave(&self) {
        if self.counted.swap(false, Ordering::AcqRel) {
            let idle = {
                let mut state = self.session.state.lock();
                state.uses -= 1;
                state.rest(self.session.now())
            };
            if idle {
                self.session.changed.notify_one();
            }
        }
    }

    /// The lease.
    pub(crate) fn lease(&self) -> LeaseId {
        self.session.lease
    }

    /// A number that this session gives once.
    pub(crate) fn nonce(&self) -> u64 {
        let mut state = self.session.state.lock();
        state.next += 1;
        state.next
    }

    /// Runs a leased write, and finds out by itself what became of one whose answer was lost: `None` then says that it was not applied, or
    /// that it was and the caller must look; it will not be applied later (R2).
    ///
    /// # Errors
    ///
    /// `LeaseLost`, or whatever kept the store from answering. The doubt then stays, and a [`Holding`](super::Holding) or a debt must carry it.
    pub(crate) async fn write(&self, write: &Leased) -> Result<Option<Write>> {
        self.understand(self.session.write(write).await).await
    }

    /// As [`write`](Self::write), for writes that need no answer of their operations: what comes at once is sent together.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub(crate) async fn write_together(&self, write: &Leased) -> Result<Option<Write>> {
        self.understand(self.session.write_together(write).await).await
    }

    async fn understand(&self, answer: Result<Write>) -> Result<Option<Write>> {
        match answer {
            Ok(done) => Ok(Some(done)),
            Err(error) if error.is_transient() && error.outcome() == Outcome::Unknown => {
                // The first error says more to the caller than a second one.
                self.session.settle().await.map_err(|second| if second.kind() == ErrorKind::LeaseLost { second } else { error })?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The TTL that was asked for, in whole seconds. The store may have granted more, and a session of more may serve it.
    pub(crate) fn asked(&self) -> Duration {
        self.asked
    }

    /// Fences off whatever of this session may still be on its way (R2). Nothing is sent when there is no doubt.
    ///
    /// # Errors
    ///
    /// `LeaseLost`, or whatever kept the store from answering.
    pub(crate) async fn settle(&self) -> Result<()> {
        self.session.settle().await
    }

    /// One key, as it is now.
    pub(crate) async fn read(&self, key: &Bytes) -> Result<Option<Entry>> {
        self.session.core.read(key.clone()).await
    }

    /// Makes sure that at least half of the TTL is left, renewing if need be (R30).
    ///
    /// # Errors
    ///
    /// `LeaseLost`, or whatever kept the store from answering.
    pub(crate) async fn freshen(&self) -> Result<()> {
        let session = &self.session;
        if let Some(loss) = session.check() {
            return Err(session.lost_error(loss));
        }
        let left = session.state.lock().deadline.saturating_duration_since(session.now());
        if left >= session.ttl / 2 {
            return Ok(());
        }
        tasks::renew(session).await?;
        // An answer that came after the local deadline renewed nothing.
        session.check().map_or(Ok(()), |loss| Err(session.lost_error(loss)))
    }
}

impl Clone for SessionUse {
    fn clone(&self) -> Self {
        self.session.state.lock().uses += 1;
        SessionUse { session: Arc::clone(&self.session), asked: self.asked, counted: AtomicBool::new(true) }
    }
}

impl Drop for SessionUse {
    fn drop(&mut self) {
        if self.session.core.home.is_left_behind() {
            return;
        }
        self.leave();
    }
}

impl fmt::Debug for SessionUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.session.fmt(f)
    }
}
