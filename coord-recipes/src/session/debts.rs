//! Releases that the store has not acknowledged: repeated for as long as their lease is renewed (R9).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
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
///
/// A debt has the number of the holding that left it: one key can be owed several times over, when it was acquired again before its first debt was known to be
/// paid, and what settles the one says nothing about the other.
#[derive(Debug, Default)]
pub(super) struct Debts {
    owed: Mutex<Owed>,
    added: Notify,
}

/// Each step but the look for the oldest costs the same however much is owed: handles are dropped by the thousand, on the thread of whoever drops them.
#[derive(Debug, Default)]
struct Owed {
    by_number: BTreeMap<u64, Debt>,
    /// The numbers of the debts of each key.
    by_key: HashMap<Bytes, Vec<u64>>,
}

/// An entry that must go.
#[derive(Clone, Debug)]
struct Debt {
    /// Whose: the holding's number.
    number: u64,
    key: Bytes,
    /// The entry's mod revision; `None` while it is not known whether it was ever written.
    modified: Option<Revision>,
    since: Instant,
}

impl Owed {
    fn add(&mut self, debt: Debt) {
        let Debt { number, modified, .. } = debt;
        let key = debt.key.clone();
        // A release that failed again is owed since it first failed.
        let mut new = false;
        self.by_number.entry(number).and_modify(|debt| debt.modified = modified).or_insert_with(|| {
            new = true;
            debt
        });
        if new {
            self.by_key.entry(key).or_default().push(number);
        }
    }

    fn remove(&mut self, number: u64) {
        let Some(debt) = self.by_number.remove(&number) else { return };
        if let Some(numbers) = self.by_key.get_mut(&debt.key) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.by_key.remove(&debt.key);
            }
        }
    }

    /// The debts of a key of which it is known that they were written.
    fn written(&self, key: &Bytes) -> Vec<u64> {
        let numbers = self.by_key.get(key).map(Vec::as_slice).unwrap_or_default();
        let written = |number: &u64| self.by_number.get(number).is_some_and(|debt| debt.modified.is_some());
        numbers.iter().copied().filter(written).collect()
    }
}

impl Debts {
    /// Takes over the release of an entry from a holding, at `now`. Never blocks; works outside of a runtime.
    pub(super) fn add(&self, number: u64, key: Bytes, modified: Option<Revision>, now: Instant) {
        self.owed.lock().add(Debt { number, key, modified, since: now });
        self.added.notify_one();
    }

    /// Forgets what a holding owes: it paid by itself.
    pub(super) fn forget(&self, number: u64) {
        self.owed.lock().remove(number);
    }

    /// Forgets the entries that are owed under a key, for a new holding has written over them. What is in doubt is owed still: a write that is on its way yet comes
    /// to life as soon as the new entry is gone.
    pub(super) fn taken_over(&self, key: &Bytes) {
        let mut owed = self.owed.lock();
        for number in owed.written(key) {
            owed.remove(number);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.owed.lock().by_number.is_empty()
    }

    fn oldest(&self) -> Option<Instant> {
        self.owed.lock().by_number.values().map(|debt| debt.since).min()
    }

    fn some(&self) -> Vec<Debt> {
        self.owed.lock().by_number.values().take(BATCH).cloned().collect()
    }

    fn paid(&self, paid: &HashSet<u64>) {
        let mut owed = self.owed.lock();
        paid.iter().for_each(|number| owed.remove(*number));
    }
}

impl Session {
    /// Deletes an entry that was last written at `modified`, and says whether it was there. Earlier writes still under way are fenced off first, so
    /// that it cannot come back (R2, R38).
    pub(super) async fn remove(self: &Arc<Self>, key: &Bytes, modified: Revision) -> Result<bool> {
        self.settle().await?;
        let delete = Txn::new().when(Compare::Modified(key.clone(), modified)).then(Op::delete(key.clone()));
        Ok(self.core.store.txn(delete).await?.succeeded)
    }

    /// Pays debts for as long as the session lives.
    pub(super) async fn pay(self: &Arc<Self>) {
        let mut backoff = Backoff::up_to(self.ttl / 6);
        loop {
            if self.debts.is_empty() {
                // A permit is stored when a debt comes between the look and the wait.
                self.debts.added.notified().await;
                continue;
            }
            let answer = self.core.home.timeout(self.attempt_timeout(), self.pay_some()).await;
            if answer.is_ok_and(|paid| paid.is_ok()) {
                backoff.reset();
                if self.debts.is_empty() {
                    self.changed.notify_one();
                }
                continue;
            }
            if self.debts.oldest().is_some_and(|since| self.now().saturating_duration_since(since) >= self.ttl) {
                self.state.lock().expiring = true;
            }
            self.core.home.sleep(backoff.pause()).await;
        }
    }

    /// How long one request of the session's own may take, so that several fit between a renewal and the deadline.
    pub(super) fn attempt_timeout(&self) -> Duration {
        self.ttl / 5
    }

    async fn pay_some(self: &Arc<Self>) -> Result<()> {
        self.settle().await?;
        let debts = self.debts.some();
        let mut paid: HashSet<u64> = debts.iter().map(|debt| debt.number).collect();
        // By key, for a transaction writes a key once: of two revisions of it, only the later one can still be there.
        let mut entries: BTreeMap<Bytes, Revision> = BTreeMap::new();
        let mut owe = |key: &Bytes, modified: Revision| {
            let newest = entries.entry(key.clone()).or_default();
            *newest = modified.max(*newest);
        };
        let (known, unknown): (Vec<&Debt>, Vec<&Debt>) = debts.iter().partition(|debt| debt.modified.is_some());
        for debt in known {
            owe(&debt.key, debt.modified.unwrap_or_default());
        }
        if !unknown.is_empty() {
            // Nothing of theirs is on its way any more: what is not there now never comes.
            let mut look = Txn::new();
            look.then = unknown.iter().map(|debt| Op::Range(Range::key(debt.key.clone()).with_keys_only())).collect();
            let found = self.core.store.txn(look).await?;
            for (index, debt) in unknown.iter().enumerate() {
                let Some(range) = found.range(index) else {
                    return Err(Error::new(ErrorKind::Internal, "session", "the store left out an answer").with_outcome(Outcome::Unknown));
                };
                let Some(ours) = range.entries.first().filter(|entry| entry.lease == Some(self.lease)) else { continue };
                match self.whose(&debt.key, ours.modified) {
                    Whose::Nobodys => owe(&debt.key, ours.modified),
                    Whose::AHoldings => {}
                    Whose::Unclear => drop(paid.remove(&debt.number)),
                }
            }
        }
        let contested = paid.len() < debts.len();
        self.delete_all(&entries).await?;
        self.debts.paid(&paid);
        // A later holding of the same key is just being written: the debt is looked at again.
        if contested { Err(Error::new(ErrorKind::Conflict, "session", "a debt must wait")) } else { Ok(()) }
    }

    /// Deletes what was not written since; together where nothing was, else one by one.
    async fn delete_all(&self, entries: &BTreeMap<Bytes, Revision>) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let delete = |txn: Txn, (key, modified): (&Bytes, &Revision)| {
            txn.when(Compare::Modified(key.clone(), *modified)).then(Op::delete(key.clone()))
        };
        let together = entries.iter().fold(Txn::new(), delete);
        if self.core.store.txn(together).await?.succeeded || entries.len() == 1 {
            return Ok(());
        }
        for entry in entries {
            self.core.store.txn(delete(Txn::new(), entry)).await?;
        }
        Ok(())
    }

    /// Whose an entry on this lease is.
    fn whose(&self, key: &Bytes, modified: Revision) -> Whose {
        let state = self.state.lock();
        let mut held = state.holdings.values().filter(|held| held.key == *key).peekable();
        if held.peek().is_none() {
            return Whose::Nobodys;
        }
        if held.any(|held| held.modified == Some(modified)) { Whose::AHoldings } else { Whose::Unclear }
    }
}

/// Whose an entry is that may be what a write in doubt has left.
enum Whose {
    /// Nobody holds it.
    Nobodys,
    /// It is what a holding has written.
    AHoldings,
    /// A holding is writing it, or will learn that it has lost it.
    Unclear,
}
