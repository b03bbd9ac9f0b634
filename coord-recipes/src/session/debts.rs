//! Releases that the store has not acknowledged: repeated for as long as their lease is renewed (R9).

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use coord_api::store::{Compare, Op, Range, Txn};
use coord_api::{Error, ErrorKind, Outcome, Result, Revision};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::lease::Session;
use crate::backoff::Backoff;

/// Debts that one transaction settles at most.
const BATCH: usize = 100;

/// Bounded by what was acquired: each debt was a handle, or a call under way.
#[derive(Debug, Default)]
pub(super) struct Debts {
    owed: Mutex<Vec<Debt>>,
    added: Notify,
}

/// An entry that must go.
#[derive(Clone, Debug)]
struct Debt {
    key: Bytes,
    /// The entry's mod revision; `None` while it is not known whether it was ever written.
    modified: Option<Revision>,
    since: Instant,
}

impl Debts {
    /// Takes over the release of an entry. Never blocks; works outside of a runtime.
    pub(super) fn add(&self, key: Bytes, modified: Option<Revision>) {
        self.owed.lock().push(Debt { key, modified, since: Instant::now() });
        self.added.notify_one();
    }

    /// Forgets a debt: it was paid otherwise, or a new handle of this provider took the entry over.
    pub(super) fn forget(&self, key: &Bytes) {
        self.owed.lock().retain(|debt| debt.key != *key);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.owed.lock().is_empty()
    }

    fn oldest(&self) -> Option<Instant> {
        self.owed.lock().iter().map(|debt| debt.since).min()
    }

    fn some(&self) -> Vec<Debt> {
        self.owed.lock().iter().take(BATCH).cloned().collect()
    }

    fn paid(&self, paid: &HashSet<Bytes>) {
        self.owed.lock().retain(|debt| !paid.contains(&debt.key));
    }
}

impl Session {
    /// Deletes an entry that was last written at `modified`, and says whether it was there. Earlier writes still under way are fenced off first, so
    /// that it cannot come back (R2, R38).
    pub(super) async fn remove(&self, key: &Bytes, modified: Revision) -> Result<bool> {
        self.settle().await?;
        let delete = Txn::new().when(Compare::Modified(key.clone(), modified)).then(Op::delete(key.clone()));
        Ok(self.core.store.txn(delete).await?.succeeded)
    }

    /// Pays debts for as long as the session lives.
    pub(super) async fn pay(&self) {
        let mut backoff = Backoff::up_to(self.ttl / 6);
        loop {
            if self.debts.is_empty() {
                // A permit is stored when a debt comes between the look and the wait.
                self.debts.added.notified().await;
                continue;
            }
            let answer = tokio::time::timeout(self.attempt_timeout(), self.pay_some()).await;
            if answer.is_ok_and(|paid| paid.is_ok()) {
                backoff.reset();
                if self.debts.is_empty() {
                    self.changed.notify_one();
                }
                continue;
            }
            if self.debts.oldest().is_some_and(|since| since.elapsed() >= self.ttl) {
                self.state.lock().expiring = true;
            }
            tokio::time::sleep(backoff.pause()).await;
        }
    }

    /// How long one request of the session's own may take, so that several fit between a renewal and the deadline.
    pub(super) fn attempt_timeout(&self) -> Duration {
        self.ttl / 5
    }

    async fn pay_some(&self) -> Result<()> {
        self.settle().await?;
        let debts = self.debts.some();
        let unknown: Vec<&Debt> = debts.iter().filter(|debt| debt.modified.is_none()).collect();
        let mut known: Vec<(Bytes, Revision)> =
            debts.iter().filter_map(|debt| debt.modified.map(|modified| (debt.key.clone(), modified))).collect();
        let mut contested = HashSet::new();
        if !unknown.is_empty() {
            // Nothing of theirs is on its way any more: what is not there now never comes.
            let mut look = Txn::new();
            look.then = unknown.iter().map(|debt| Op::Range(Range::key(debt.key.clone()).with_keys_only())).collect();
            let found = self.core.store.txn(look).await?;
            for (index, debt) in unknown.iter().enumerate() {
                let Some(range) = found.range(index) else {
                    return Err(Error::new(ErrorKind::Internal, "session", "the store left out an answer").with_outcome(Outcome::Unknown));
                };
                if self.holds(&debt.key) {
                    contested.insert(debt.key.clone());
                    continue;
                }
                let ours = range.entries.first().filter(|entry| entry.lease == Some(self.lease));
                known.extend(ours.map(|entry| (debt.key.clone(), entry.modified)));
            }
        }
        self.delete_all(&known).await?;
        self.debts.paid(&debts.into_iter().map(|debt| debt.key).filter(|key| !contested.contains(key)).collect());
        // A later holding of the same key is just being written: it settles the matter, or the debt is looked at again.
        if contested.is_empty() { Ok(()) } else { Err(Error::new(ErrorKind::Conflict, "session", "a debt must wait")) }
    }

    /// Deletes what was not written since; together where nothing was, else one by one.
    async fn delete_all(&self, entries: &[(Bytes, Revision)]) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut together = Txn::new();
        for (key, modified) in entries {
            together = together.when(Compare::Modified(key.clone(), *modified)).then(Op::delete(key.clone()));
        }
        if self.core.store.txn(together).await?.succeeded || entries.len() == 1 {
            return Ok(());
        }
        for (key, modified) in entries {
            self.core.store.txn(Txn::new().when(Compare::Modified(key.clone(), *modified)).then(Op::delete(key.clone()))).await?;
        }
        Ok(())
    }

    fn holds(&self, key: &Bytes) -> bool {
        self.state.lock().holdings.values().any(|held| held.key == *key)
    }
}
