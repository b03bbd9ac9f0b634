//! A party of a barrier.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coord_api::handle::Leased as _;
use coord_api::store::{Compare, Op, Order, Range, Span, Txn};
use coord_api::{Error, Fence, FencingToken, HandleState, Lost, Outcome, Result, Revision, WatchStart};
use coord_core::session::{LeasedEntry, Placed};
use coord_core::{Client, keys};

use super::view::BarrierView;

const LEAVE: &str = "barrier.leave";

/// A party that a barrier has let through, until it has left, or is dropped or lost.
///
/// Others who [leave](Self::leave) wait for it for as long as it is there.
#[must_use = "dropping a party leaves the barrier, without waiting for the others"]
pub struct Party {
    client: Client,
    name: Arc<str>,
    directory: Bytes,
    generation: Revision,
    entry: LeasedEntry,
}

impl Party {
    pub(super) fn new(
        client: Client,
        name: Arc<str>,
        directory: Bytes,
        generation: Revision,
        entry: LeasedEntry,
    ) -> Self {
        Party { client, name, directory, generation, entry }
    }

    /// The name of the barrier.
    pub fn barrier(&self) -> &str {
        &self.name
    }

    /// The number of this meeting: all who were let through together have the same one, and those
    /// who come later a greater one.
    pub fn generation(&self) -> FencingToken {
        self.generation.into()
    }

    /// The number of this party: those who came later have greater ones.
    pub fn fencing_token(&self) -> FencingToken {
        self.entry.fencing_token()
    }

    /// Ties a write to the same store to this party: it is applied only while it is there, by the
    /// word of the store (R55). Give it to
    /// [`WriteOptions::with_fence`](coord_api::WriteOptions::with_fence).
    pub fn fence(&self) -> Fence {
        self.entry.fence()
    }

    /// Whether those who leave wait for it at this moment, by this machine's clock (R32). Once
    /// `false`, `false` for ever.
    pub fn is_held(&self) -> bool {
        self.entry.state().is_held()
    }

    /// What it stands for at this moment.
    pub fn state(&self) -> HandleState {
        self.entry.state()
    }

    /// The time left to the local deadline, zero when not held. Renewal moves it on.
    pub fn ttl(&self) -> Duration {
        self.entry.ttl()
    }

    /// Resolves once nobody waits for it any more, whatever the reason (R32).
    pub fn lost(&self) -> Lost {
        self.entry.lost()
    }

    /// Leaves without waiting for the others.
    ///
    /// # Errors
    ///
    /// `LeaseLost` when it had been lost before. `Unavailable` or `Timeout`, outcome `Unknown`,
    /// when the store did not answer: the release is repeated until it is acknowledged or the lease
    /// has expired (R9).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped call leaves the release to the client.
    pub async fn release(&self) -> Result<()> {
        self.entry.release().await
    }

    /// Leaves, and waits until everyone has left who was let through with it or before (R62). The
    /// last one clears up, unless new ones have come.
    ///
    /// # Errors
    ///
    /// `LeaseLost` when it had been lost before; `Unavailable` or `Timeout`, outcome `Unknown`;
    /// `Closed`, `Unauthenticated`, `PermissionDenied`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropped, it has left, or leaves, and does not wait any more.
    pub async fn leave(self) -> Result<()> {
        let leave = Box::pin(self.leave_and_wait());
        self.client.run_on(LEAVE, &self.name, Outcome::Unknown, leave).await
    }

    async fn leave_and_wait(&self) -> Result<()> {
        let Some(own) = self.entry.modified().filter(|_| self.is_held()) else {
            return Err(Error::lease_lost(LEAVE, "the place at the barrier was lost"));
        };
        let parties = keys::barrier_parties(&self.directory);
        let release = keys::barrier_release(&self.directory);
        let key = self.entry.key();
        let delete = || {
            let oldest = Range::prefix(parties.clone()).with_order(Order::OldestFirst).with_limit(1);
            Txn::new()
                .when(Compare::Modified(key.clone(), own))
                .then(Op::delete(key.clone()))
                .then(Op::Range(oldest.with_keys_only()))
                .then(Op::Range(Range::key(release.clone())))
        };
        match self.entry.end_by(&delete).await? {
            Placed::Written(reply) => match reply.try_range(1)?.entries.first() {
                Some(oldest) if oldest.created <= self.generation => {}
                Some(_) => return Ok(()),
                None => {
                    if let Some(record) = reply.try_range(2)?.entries.first() {
                        self.clear_up(&parties, &release, record.modified).await;
                    }
                    return Ok(());
                }
            },
            Placed::Refused(_) => {
                return Err(Error::lease_lost(LEAVE, "the place at the barrier was removed"));
            }
            Placed::Found(_) => {}
        }
        let span = Span::prefix(self.directory.clone());
        let subscription = self.client.subscribe(span, WatchStart::Snapshot).await?;
        let mut watch = subscription.into_watch(LEAVE, Some);
        let mut view = BarrierView::new(self.directory.clone());
        while let Some(delivery) = watch.next().await {
            view.apply(&delivery?);
            if view.has_left(self.generation) {
                return Ok(());
            }
        }
        Err(Error::closed(LEAVE))
    }

    /// Removes the record, unless somebody is there or has written another one. One that stays does
    /// no harm: the next one who is the last to leave removes it.
    async fn clear_up(&self, parties: &Bytes, release: &Bytes, modified: Revision) {
        let delete = Txn::new()
            .when(Compare::RangeAbsent(Span::prefix(parties.clone())))
            .when(Compare::Modified(release.clone(), modified))
            .then(Op::delete(release.clone()));
        let _ = self.client.store().txn(delete).await;
    }
}

crate::handle::leased_by_entry!(Party);

impl fmt::Debug for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Party")
            .field("barrier", &self.name)
            .field("generation", &self.generation)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
