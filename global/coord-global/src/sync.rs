//! A region and a ledger: Hello, pull, snapshot, push, in the order in which they are needed.

use std::collections::BTreeSet;

use crate::ledger::{Ledger, LedgerError, PAGE_MAX, Result};
use crate::model::replica::Need;
use crate::model::state::Astray;
use crate::model::{Entry, Hash, Replica, Session};

/// How many events are pushed at once.
const PUSH: usize = 100;

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

/// Brings a region and a ledger together: says Hello where it has to, takes a snapshot or reads the
/// log, seals what has its content at the coordinator, and pushes. What is left over is what could
/// not be done: call it again at any time.
///
/// `peer` says whether the run of an agent that speaks for the region so far still shows itself;
/// `fresh` is an epoch that no store of this space ever had: seconds since 1970 are. `has_content`
/// says whether content is at the coordinator.
///
/// The region is a value in memory. Who keeps one on a disk writes it down before it acts on what
/// it says.
///
/// # Errors
///
/// As the calls of [`Ledger`]; [`Refusal::Busy`](crate::model::Refusal::Busy) while another agent
/// speaks for the region. What was done until then is done.
///
/// # Cancel safety
///
/// Cancel safe: the region is between two of its steps.
pub async fn sync(
    ledger: &Ledger,
    region: &mut Replica,
    peer: impl Fn(Option<Session>) -> Peer,
    fresh: u32,
    mut has_content: impl FnMut(&Hash) -> bool,
) -> Result<Synced> {
    let mut synced = Synced::default();
    for _ in 0..ROUNDS {
        match region.need() {
            Need::Hello => greet(ledger, region, &peer, fresh).await?,
            Need::Snapshot => snapshot(ledger, region, &mut synced).await?,
            Need::Pull | Need::Nothing => {
                if pull(ledger, region, &mut synced).await? && region.need() == Need::Nothing {
                    region.seal(usize::MAX, &mut has_content);
                    if !push(ledger, region, &mut synced).await? {
                        break;
                    }
                }
            }
        }
    }
    Ok(synced)
}

async fn greet(
    ledger: &Ledger,
    region: &mut Replica,
    peer: &impl Fn(Option<Session>) -> Peer,
    fresh: u32,
) -> Result<()> {
    let own = region.session();
    let alive =
        |session: Option<Session>| session.is_some() && session != Some(own) && peer(session) == Peer::Alive;
    let (welcome, head) = ledger.hello(&region.region().clone(), &region.hello(), alive, fresh).await?;
    region.welcome(welcome, head);
    Ok(())
}

/// Reads the log to its end. Whether it got there.
async fn pull(ledger: &Ledger, region: &mut Replica, synced: &mut Synced) -> Result<bool> {
    loop {
        let (head, entries) = match ledger.entries(region.base().cursor, PUSH).await {
            Err(LedgerError::Trimmed { .. }) => {
                region.compare(&ledger.head().await?);
                return Ok(false);
            }
            other => other?,
        };
        region.compare(&head);
        if !matches!(region.need(), Need::Pull | Need::Nothing) {
            return Ok(false);
        }
        if entries.is_empty() {
            return Ok(true);
        }
        for entry in &entries {
            match fold(region, entry) {
                Ok(folded) => synced.pulled += folded,
                Err(Astray::Unreadable(refusal)) => return Err(refusal.into()),
                Err(_) => return Ok(false),
            }
        }
        if !matches!(region.need(), Need::Pull | Need::Nothing) {
            return Ok(false);
        }
    }
}

fn fold(region: &mut Replica, entry: &Entry) -> std::result::Result<usize, Astray> {
    region.fold(entry, usize::MAX)
}

async fn snapshot(ledger: &Ledger, region: &mut Replica, synced: &mut Synced) -> Result<()> {
    let Some(actor) = region.actor().cloned() else { return Ok(()) };
    let (head, record) = ledger.begin_snapshot(&actor).await?;
    if region.begin_snapshot(&head, record).is_err() {
        // Another agent speaks for it: it says Hello next, and hears of that.
        return Ok(());
    }
    synced.snapshots += 1;
    loop {
        let after = region.snapshot_after();
        let page = ledger.page(after.as_ref(), region.snapshot_newer_than(), PAGE_MAX).await?;
        if page.is_empty() {
            region.finish_snapshot();
            return Ok(());
        }
        region.page(page);
        if region.need() != Need::Snapshot {
            return Ok(());
        }
    }
}

/// Pushes what is sealed. Whether something is to be done again.
async fn push(ledger: &Ledger, region: &mut Replica, synced: &mut Synced) -> Result<bool> {
    let mut again = false;
    loop {
        let events: Vec<_> = region.to_push().take(PUSH).cloned().collect();
        if events.is_empty() {
            return Ok(again);
        }
        let pushed = ledger.push(region.session(), events).await?;
        synced.pushed += pushed.taken.len();
        again = true;
        let done = pushed.taken.is_empty();
        if let Some((seq, refusal)) = pushed.refused {
            if let crate::model::Refusal::ContentMissing { hash } = &refusal {
                synced.lacks.insert(*hash);
            }
            // What was taken before it is known by the record that comes with the next answer.
            region.answered(pushed.record);
            region.refused(seq, refusal);
            return Ok(synced.lacks.is_empty());
        }
        region.answered(pushed.record);
        if done || region.need() != Need::Nothing {
            return Ok(true);
        }
    }
}
