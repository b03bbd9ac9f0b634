//! Being the leader.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use coord_api::handle::Leased;
use coord_api::{Error, Fence, FencingToken, HandleState, Lost, Outcome, Result, Value, key};
use coord_core::Client;
use coord_core::session::{LeasedEntry, SessionRef};

use crate::rewrite::{Rewritten, rewrite};

const PROCLAIM: &str = "election.proclaim";

/// The leadership of an election, until it is resigned, dropped or lost.
///
/// It is lost, for ever, when its local deadline passes unrenewed or the store says so; nobody else
/// leads before, given equal clock rates (R32). Where that is not enough, hand on the
/// [fencing token](Self::fencing_token).
#[must_use = "dropping a leadership resigns it"]
pub struct Leadership {
    client: Client,
    name: Arc<str>,
    entry: LeasedEntry,
}

impl Leadership {
    pub(super) fn new(client: Client, name: Arc<str>, entry: LeasedEntry) -> Self {
        Leadership { client, name, entry }
    }

    /// The session that it hangs on.
    pub(crate) fn session(&self) -> &SessionRef {
        self.entry.session()
    }

    /// The name of the election.
    pub fn election(&self) -> &str {
        &self.name
    }

    /// The number to hand to whatever only the leader may touch: greater than that of every earlier
    /// leader of the election (R25).
    pub fn fencing_token(&self) -> FencingToken {
        self.entry.fencing_token()
    }

    /// Ties a write to the same store to this leadership: it is applied only while it is
    /// held, by the word of the store (R55). Give it to
    /// [`WriteOptions::with_fence`](coord_api::WriteOptions::with_fence).
    pub fn fence(&self) -> Fence {
        self.entry.fence()
    }

    /// Whether it leads at this moment, by this machine's clock (R32). Once `false`, `false` for
    /// ever.
    pub fn is_held(&self) -> bool {
        self.entry.state().is_held()
    }

    /// What it stands for at this moment.
    pub fn state(&self) -> HandleState {
        self.entry.state()
    }

    /// The time left to the local deadline, zero when it does not lead. Renewal moves it on.
    pub fn ttl(&self) -> Duration {
        self.entry.ttl()
    }

    /// Resolves once it does not lead any more, whatever the reason (R32).
    pub fn lost(&self) -> Lost {
        self.entry.lost()
    }

    /// Says something else as leader: replaces the value in place, iff it still leads (R52). Those
    /// who observe the election see it.
    ///
    /// Of calls at the same time one is applied after the other.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a value that is too large (R6), before any I/O; `LeaseLost` when it
    /// does not lead any more, and then nothing is written; `Unavailable` or `Timeout` when the
    /// store did not answer.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may or may not have been said.
    pub async fn proclaim(&self, value: impl Into<Value>) -> Result<()> {
        let value = value.into();
        key::check_value(PROCLAIM, &value)?;
        if !self.is_held() {
            return Err(lost().about(&self.name));
        }
        let proclaim = async {
            match rewrite(&self.client, &self.entry, &value).await? {
                Rewritten::Done => Ok(()),
                Rewritten::Gone => Err(lost()),
            }
        };
        self.client.run_on(PROCLAIM, &self.name, Outcome::Unknown, proclaim).await
    }

    /// Gives the leadership up. Idempotent; it never harms a successor.
    ///
    /// # Errors
    ///
    /// `LeaseLost` when it had been lost before. `Unavailable` or `Timeout`, outcome `Unknown`,
    /// when the store did not answer: it leads no more, and the resignation is repeated until it is
    /// acknowledged or the lease has expired (R9, R53).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped call leaves the resignation to the client.
    pub async fn resign(&self) -> Result<()> {
        self.entry.release().await
    }
}

fn lost() -> Error {
    Error::lease_lost(PROCLAIM, "it does not lead any more")
}

crate::handle::leased_by_entry!(Leadership);

impl fmt::Debug for Leadership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leadership")
            .field("election", &self.name)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
