//! A region and a ledger: Hello, pull, snapshot, push, in the order in which they are needed.

use std::collections::BTreeSet;

use crate::ledger::{Ledger, LedgerError, PAGE_MAX};
use crate::model::replica::Need;
use crate::model::state::Astray;
use crate::model::{Entry, Hash, Refusal, Replica, Session};
use crate::replica::{Keep, ReplicaError};

/// How many events are pushed at once.
const PUSH: usize = 100;

/// How many events are folded, and edits sealed, in one change of the region: what changes with
/// them has room in one transaction.
const STEP: usize = 40;

/// How often a region says Hello again in one call, before it leaves it to the next.
const ROUNDS: usize = 8;

/// What the coordinator knows of the run of an agent that speaks for a region so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// It still shows itself.
    Alive,
    /// It has not shown itself for long enough.
    Gone,
}

/// What a call of [`sync`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    /// How many events were folded.
    pub pulled: usize,
    /// How many edits the ledger took.
    pub pushed: usize,
    /// How many snapshots were taken.
    pub snapshots: usize,
    /// The content that a sealed edit lacks at the coordinator: upload it, and call again.
    pub lacks: BTreeSet<Hash>,
}

/// Why a region and a ledger did not come together.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SyncError {
    /// The ledger: most of all that it cannot be reached. Try again.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The region's own store.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
}

/// What a call of [`sync`] returns.
pub type Result<T> = std::result::Result<T, SyncError>;

/// Brings a region and a ledger together: says Hello where it has to, takes a snapshot or reads the
/// log, seals what has its content at the coordinator, and pushes. What is left over is what could
/// not be done: call it again at any time. A snapshot goes on where the last call left it.
///
/// `peer` says whether the run of an agent that speaks for the region so far still shows itself;
/// `fresh` is an epoch that no store of this space ever had: seconds since 1970 are. `has_content`
/// says whether content is at the coordinator.
///
/// Each step of the region is written down where it is [kept](Keep) before the next one is taken.
///
/// # Errors
///
/// [`SyncError::Ledger`], with [`Refusal::Busy`] while another agent speaks for the region;
/// [`SyncError::Replica`]. What was done until then is done.
///
/// # Cancel safety
///
/// Cancel safe: the region is between two of its steps.
pub async fn sync<K: Keep>(
    ledger: &Ledger,
    region: &mut K,
    peer: impl Fn(Option<Session>) -> Peer + Sync + Send,
    fresh: u32,
    has_content: impl Fn(&Hash) -> bool + Sync + Send,
) -> Result<Synced> {
    let mut synced = Synced::default();
    for _ in 0..ROUNDS {
        match region.replica().need() {
            Need::Hello => greet(ledger, region, &peer, fresh).await?,
            Need::Snapshot => snapshot(ledger, region, &mut synced).await?,
            Need::Pull | Need::Nothing => {
                if pull(ledger, region, &mut synced).await? && region.replica().need() == Need::Nothing {
                    seal(region, &has_content).await?;
                    if !push(ledger, region, &mut synced).await? {
                        break;
                    }
                }
            }
        }
    }
    Ok(synced)
}

/// Seals all that can be, some in each change. What cannot be encoded is set aside, and holds up
/// nothing behind it (G22).
async fn seal<K: Keep>(region: &mut K, has_content: &(impl Fn(&Hash) -> bool + Sync + Send)) -> Result<()> {
    loop {
        let pending = region.replica().outbox().pending_count();
        region.change(|region| region.seal(STEP, has_content)).await?;
        if region.replica().outbox().pending_count() == pending {
            return Ok(());
        }
    }
}

async fn greet<K: Keep>(
    ledger: &Ledger,
    region: &mut K,
    peer: &(impl Fn(Option<Session>) -> Peer + Sync + Send),
    fresh: u32,
) -> Result<()> {
    let (name, hello) = (region.replica().region().clone(), region.replica().hello());
    let own = hello.session;
    let alive =
        |session: Option<Session>| session.is_some() && session != Some(own) && peer(session) == Peer::Alive;
    let (welcome, head) = ledger.hello(&name, &hello, alive, fresh).await?;
    region.change(|region| region.welcome(welcome, head)).await?;
    Ok(())
}

/// Whether the log may be read on.
fn reads(region: &Replica) -> bool {
    matches!(region.need(), Need::Pull | Need::Nothing)
}

/// Reads the log to its end. Whether it got there.
async fn pull<K: Keep>(ledger: &Ledger, region: &mut K, synced: &mut Synced) -> Result<bool> {
    loop {
        let (head, entries) = match ledger.entries(region.replica().base().cursor, PUSH).await {
            Err(LedgerError::Trimmed { .. }) => {
                let head = ledger.head().await?;
                region.change(|region| region.compare(&head)).await?;
                return Ok(false);
            }
            other => other?,
        };
        region.change(|region| region.compare(&head)).await?;
        if !reads(region.replica()) {
            return Ok(false);
        }
        let Some(last) = entries.last().map(Entry::last) else { return Ok(true) };
        while region.replica().base().cursor < last {
            match region.change(|region| fold(region, &entries)).await? {
                Ok(folded) => synced.pulled += folded,
                Err(Astray::Unreadable(refusal)) => return Err(LedgerError::from(refusal).into()),
                Err(_) => return Ok(false),
            }
            if !reads(region.replica()) {
                return Ok(false);
            }
        }
    }
}

/// Folds as much of the entries as has room in one change.
fn fold(region: &mut Replica, entries: &[Entry]) -> std::result::Result<usize, Astray> {
    let cursor = region.base().cursor;
    let mut folded = 0;
    for entry in entries.iter().filter(|entry| entry.last() > cursor) {
        match region.fold(entry, STEP - folded) {
            Ok(more) => folded += more,
            // What was folded before it is.
            Err(_) if folded > 0 => break,
            Err(astray) => return Err(astray),
        }
        if folded == STEP || !reads(region) {
            break;
        }
    }
    Ok(folded)
}

async fn snapshot<K: Keep>(ledger: &Ledger, region: &mut K, synced: &mut Synced) -> Result<()> {
    let Some(actor) = region.replica().actor().cloned() else { return Ok(()) };
    if !region.replica().is_filling() {
        let (head, record) = ledger.begin_snapshot(&actor).await?;
        if region.change(|region| region.begin_snapshot(&head, record)).await?.is_err() {
            // Another agent speaks for it: it says Hello next, and hears of that.
            return Ok(());
        }
        synced.snapshots += 1;
    }
    loop {
        let after = region.replica().snapshot_after();
        let newer_than = region.replica().snapshot_newer_than();
        let (epoch, page) = ledger.page(after.as_ref(), newer_than, PAGE_MAX).await?;
        let is_last = page.is_empty();
        let take = |region: &mut Replica| {
            region.page(epoch, page);
            if is_last {
                region.finish_snapshot();
            }
        };
        region.change(take).await?;
        if region.replica().need() != Need::Snapshot {
            return Ok(());
        }
    }
}

/// Pushes what is sealed. Whether something is to be done again.
async fn push<K: Keep>(ledger: &Ledger, region: &mut K, synced: &mut Synced) -> Result<bool> {
    let mut again = false;
    loop {
        let events: Vec<_> = region.replica().to_push().take(PUSH).cloned().collect();
        if events.is_empty() {
            return Ok(again);
        }
        let pushed = ledger.push(region.replica().session(), events).await?;
        synced.pushed += pushed.taken.len();
        again = true;
        let done = pushed.taken.is_empty();
        if let Some((seq, refusal)) = pushed.refused {
            if let Refusal::ContentMissing { hash } = &refusal {
                synced.lacks.insert(*hash);
            }
            // What was taken before it is known by the record.
            let answer = |region: &mut Replica| {
                region.answered(pushed.record);
                region.refused(seq, refusal);
            };
            region.change(answer).await?;
            return Ok(synced.lacks.is_empty());
        }
        region.change(|region| region.answered(pushed.record)).await?;
        if done || region.replica().need() != Need::Nothing {
            return Ok(true);
        }
    }
}
