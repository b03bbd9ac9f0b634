//! Repeats pending releases until the store has acknowledged them (R9).

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use coord_api::store::{Compare, Op, Range, Txn};
use coord_api::{Error, ErrorKind, Result, Revision};

use super::pending::Release;
use super::session::Session;
use super::state::Owner;
use crate::backoff::backoff_up_to;

/// Releases that one transaction carries at most.
const BATCH: usize = 100;

/// Sends pending releases for as long as the session lives. Where one is not acknowledged within a
/// TTL, the lease is left to run out.
pub(super) async fn release_pending(session: &Arc<Session>) {
    let home = &session.ground.home;
    let mut backoff = backoff_up_to(session.ttl / 6);
    loop {
        if session.pending.is_empty() {
            session.pending.added().await;
            continue;
        }
        let answer = home.timeout(session.attempt_timeout(), release_some(session)).await;
        if answer.is_ok_and(|released| released.is_ok()) {
            backoff.reset();
            if session.pending.is_empty() {
                session.changed.notify_one();
            }
            continue;
        }
        if session
            .pending
            .oldest()
            .is_some_and(|since| session.now().saturating_duration_since(since) >= session.ttl)
        {
            session.state.lock().let_expire();
        }
        home.sleep(backoff.pause()).await;
    }
}

async fn release_some(session: &Arc<Session>) -> Result<()> {
    session.settle().await?;
    let releases = session.pending.some(BATCH);
    let mut released: HashSet<u64> = releases.iter().map(|release| release.number).collect();
    // By key, for a transaction writes a key once: of two revisions of it, only the later one can
    // still be there.
    let mut entries: BTreeMap<Bytes, Revision> = BTreeMap::new();
    let mut remove = |key: &Bytes, modified: Revision| {
        let newest = entries.entry(key.clone()).or_default();
        *newest = modified.max(*newest);
    };
    let (known, unknown): (Vec<&Release>, Vec<&Release>) =
        releases.iter().partition(|release| release.modified.is_some());
    for release in known {
        remove(&release.key, release.modified.unwrap_or_default());
    }
    if !unknown.is_empty() {
        // Nothing of theirs is on its way any more: what is not there now never comes.
        let mut look = Txn::new();
        look.then = unknown
            .iter()
            .map(|release| Op::Range(Range::key(release.key.clone()).with_keys_only()))
            .collect();
        let found = session.ground.store.txn(look).await?;
        for (index, release) in unknown.iter().enumerate() {
            let Some(ours) =
                found.try_range(index)?.entries.first().filter(|entry| entry.lease == Some(session.lease))
            else {
                continue;
            };
            let owner = session.state.lock().owner_of(&release.key, ours.modified);
            match owner {
                Owner::Nobody => remove(&release.key, ours.modified),
                Owner::Handle => {}
                Owner::Unclear => drop(released.remove(&release.number)),
            }
        }
    }
    let contested = released.len() < releases.len();
    delete_all(session, &entries).await?;
    session.pending.acknowledged(&released);
    // A later entry under the same key is just being written: the release is looked at again.
    if contested { Err(Error::new(ErrorKind::Conflict, "session", "a release must wait")) } else { Ok(()) }
}

/// Deletes what was not written since; together where nothing was, else one by one.
async fn delete_all(session: &Session, entries: &BTreeMap<Bytes, Revision>) -> Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    let delete = |txn: Txn, (key, modified): (&Bytes, &Revision)| {
        txn.when(Compare::Modified(key.clone(), *modified)).then(Op::delete(key.clone()))
    };
    let together = entries.iter().fold(Txn::new(), delete);
    if session.ground.store.txn(together).await?.succeeded || entries.len() == 1 {
        return Ok(());
    }
    for entry in entries {
        session.ground.store.txn(delete(Txn::new(), entry)).await?;
    }
    Ok(())
}
