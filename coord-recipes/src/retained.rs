//! Ending an entry by a write of one's own: one that leaves something behind, which is kept for a
//! while (R60), or removes more than the entry.

use std::future::Future;
use std::time::Duration;

use coord_api::handle::Leased as _;
use coord_api::store::Txn;
use coord_api::{ErrorKind, LeaseId, Outcome, Result};
use coord_core::session::{LeasedEntry, Placed};
use coord_core::{Client, backoff};

/// How many leases are tried: each but the last was gone when it was used.
const TRIES: usize = 3;

/// Ends an entry by the transaction that `build` makes for a lease of `retention`, which it puts
/// something on. A lease that is gone, because someone revoked it, is replaced: that is not the
/// loss of the entry, nor of its session.
///
/// # Errors
///
/// As [`LeasedEntry::end_by`].
///
/// # Cancel safety
///
/// As [`LeasedEntry::end_by`].
pub(crate) async fn end_by_retained(
    client: &Client,
    operation: &'static str,
    entry: &LeasedEntry,
    retention: Duration,
    build: &(dyn Fn(LeaseId) -> Txn + Send + Sync),
) -> Result<Placed> {
    let mut tries = 0;
    loop {
        tries += 1;
        let lease = client.retention_lease(operation, retention).await?;
        match entry.end_by(&|| build(lease)).await {
            Err(error) if error.kind() == ErrorKind::LeaseLost && !entry.is_stranded() && tries < TRIES => {
                client.retention_lease_gone(lease);
            }
            answer => return answer,
        }
    }
}

/// Ends an entry by `end`, which is tried again for as long as the store does not answer and the
/// entry is held: what was done while it was would be done again otherwise. An answer says what
/// became of the entry; after a try that was in doubt one that was refused, because the entry is no
/// longer as it was, is `Found`, and tells what stands in its place.
///
/// # Errors
///
/// As [`LeasedEntry::end_by`], `Unknown` where any of the tries may have been applied.
///
/// # Cancel safety
///
/// As [`LeasedEntry::end_by`].
pub(crate) async fn end_while_held<F>(
    client: &Client,
    entry: &LeasedEntry,
    end: impl Fn() -> F,
) -> Result<Placed>
where
    F: Future<Output = Result<Placed>>,
{
    // Whether an earlier try may have been applied.
    let (mut doubt, mut backoff) = (Outcome::NotApplied, backoff());
    loop {
        match end().await {
            Ok(Placed::Refused(_)) if doubt == Outcome::Unknown => {
                let found = client.read(entry.key().clone()).await;
                return Ok(Placed::Found(vec![found.map_err(|error| error.with_outcome(doubt))?]));
            }
            Err(error) => {
                if error.outcome() == Outcome::Unknown {
                    doubt = Outcome::Unknown;
                }
                if !error.is_transient() || !entry.state().is_held() {
                    return Err(error.with_outcome(doubt));
                }
                client.home().sleep(backoff.pause()).await;
            }
            ended => return ended,
        }
    }
}
