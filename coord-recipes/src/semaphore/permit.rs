//! Permits that are held.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use coord_api::handle::Leased;
use coord_api::{Fence, FencingToken, HandleState, Lost, Result};
use coord_core::session::LeasedEntry;

/// Permits of a semaphore, until they are released, dropped or lost.
///
/// They are lost, for ever, when their local deadline passes unrenewed or the store says so (R32).
#[must_use = "dropping permits releases them"]
pub struct Permit {
    name: Arc<str>,
    weight: u32,
    entry: LeasedEntry,
}

impl Permit {
    pub(super) fn new(name: Arc<str>, weight: u32, entry: LeasedEntry) -> Self {
        Permit { name, weight, entry }
    }

    /// The name of the semaphore.
    pub fn semaphore(&self) -> &str {
        &self.name
    }

    /// How many permits these are.
    pub fn weight(&self) -> u32 {
        self.weight
    }

    /// The number of this grant. Those who came later have greater ones.
    pub fn fencing_token(&self) -> FencingToken {
        self.entry.fencing_token()
    }

    /// Ties a write to the same store to these permits: it is applied only while they are
    /// held, by the word of the store (R55). Give it to
    /// [`WriteOptions::with_fence`](coord_api::WriteOptions::with_fence).
    pub fn fence(&self) -> Fence {
        self.entry.fence()
    }

    /// Whether they are held at this moment, by this machine's clock (R32). Once `false`, `false`
    /// for ever.
    pub fn is_held(&self) -> bool {
        self.entry.state().is_held()
    }

    /// What they stand for at this moment.
    pub fn state(&self) -> HandleState {
        self.entry.state()
    }

    /// The time left to the local deadline, zero when not held. Renewal moves it on.
    pub fn ttl(&self) -> Duration {
        self.entry.ttl()
    }

    /// Resolves once they are not held any more, whatever the reason (R32).
    pub fn lost(&self) -> Lost {
        self.entry.lost()
    }

    /// Gives them back. Idempotent; it never harms a successor.
    ///
    /// # Errors
    ///
    /// `LeaseLost` when they had been lost before. `Unavailable` or `Timeout`, outcome `Unknown`,
    /// when the store did not answer: they are not held any more, and the release is repeated until
    /// it is acknowledged or the lease has expired (R9).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped call leaves the release to the client.
    pub async fn release(&self) -> Result<()> {
        self.entry.release().await
    }
}

crate::handle::leased_by_entry!(Permit);

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("semaphore", &self.name)
            .field("weight", &self.weight)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
