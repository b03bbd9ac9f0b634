//! A region that is kept in a local store (G3, G4).
//!
//! [`DurableReplica`] is a [`Replica`] whose every change is written down, all of it or nothing,
//! before anybody acts on it: whatever ends the process, the region goes on from the last change
//! that was written. Any [`Store`] will do; in a region that is one on its own disk, as the
//! embedded one is.
//!
//! A change that has room in one transaction is one transaction. A larger one is written beside
//! first, as a *redo*, and counts from the moment at which that is complete: it is carried out from
//! there, again if need be.
//!
//! | key below `/global/replica/<space>/<region>/` | what |
//! |---|---|
//! | `writer` | JSON: who writes, so that one who was taken over writes no more; how long a redo is |
//! | `redo/<n>` | a part of a change that is being carried out |
//! | [`Part`](crate::model::replica::Part) | what it says |

mod error;
pub(crate) mod local;

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;

use coord_api::store::Store;
use coord_api::{Error, ErrorKind};

use self::local::Local;
use crate::model::{Names, RegionId, Replica, Session, SpaceName};

pub use self::error::{ReplicaError, Result};

/// What the calls of this module are called in errors of the store.
const OPERATION: &str = "global.replica";

/// Where a region is kept: [in a local store](DurableReplica), or in memory alone, as a
/// [`Replica`] by itself is, which ends with the process.
pub trait Keep: Send {
    /// The region, to look at.
    fn replica(&self) -> &Replica;

    /// Changes the region, and writes down what was changed, all of it or nothing: what was
    /// returned may be acted on after that.
    ///
    /// # Errors
    ///
    /// [`ReplicaError`]; what is known of the region then may not have been written, and the next
    /// change begins with what was.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the change is written or not, and the next one begins with what was.
    fn change<R: Send>(
        &mut self,
        change: impl FnOnce(&mut Replica) -> R + Send,
    ) -> impl Future<Output = Result<R>> + Send;
}

impl Keep for Replica {
    fn replica(&self) -> &Replica {
        self
    }

    async fn change<R: Send>(&mut self, change: impl FnOnce(&mut Replica) -> R + Send) -> Result<R> {
        let result = change(self);
        // Nobody writes it down.
        self.written();
        Ok(result)
    }
}

/// A region in a local store: see the [module](self).
pub struct DurableReplica {
    replica: Replica,
    local: Local,
    /// Whether the region is what is written down.
    is_current: bool,
}

impl fmt::Debug for DurableReplica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DurableReplica").field("region", self.replica.region()).finish_non_exhaustive()
    }
}

/// To look at. After a [change](Keep::change) that failed this may not be what is written down;
/// the next change begins with that.
impl Deref for DurableReplica {
    type Target = Replica;

    fn deref(&self) -> &Replica {
        &self.replica
    }
}

impl DurableReplica {
    /// Opens a region in a store, and makes it where there is none. `session` is this run of its
    /// agent. Whoever had it open before writes no more.
    ///
    /// # Errors
    ///
    /// [`ReplicaError::Store`], with `InvalidArgument` for a region whose space has other names;
    /// [`ReplicaError::Unreadable`]; [`Refusal::Format`](crate::model::Refusal::Format) for one
    /// that a newer build has written (G26); [`ReplicaError::TakenOver`] where others open it all
    /// the time.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: whoever had it open may write no more.
    pub async fn open(
        store: Arc<dyn Store>,
        space: SpaceName,
        region: RegionId,
        names: Names,
        session: Session,
    ) -> Result<Self> {
        let mut local = Local::new(store, &space, &region);
        let found = local.claim_and_read().await?;
        let mut opened = match found {
            Some(replica) if replica.base().names() != names => {
                let what = format!(
                    "the region has the names {:?} since it was made, not {names:?}",
                    replica.base().names()
                );
                return Err(Error::new(ErrorKind::InvalidArgument, OPERATION, what).into());
            }
            Some(replica) => Self { replica, local, is_current: true },
            None => {
                let replica = Replica::new(space, region, names, session);
                Self { replica, local, is_current: true }
            }
        };
        opened.change(|replica| replica.restarted(session)).await?;
        Ok(opened)
    }
}

impl Keep for DurableReplica {
    fn replica(&self) -> &Replica {
        &self.replica
    }

    async fn change<R: Send>(&mut self, change: impl FnOnce(&mut Replica) -> R + Send) -> Result<R> {
        if !self.is_current {
            if let Some(replica) = self.local.claim_and_read().await? {
                self.replica = replica;
            }
        }
        let before = self.replica.generations_in_use();
        self.is_current = false;
        let result = change(&mut self.replica);
        let changes = self.replica.changes()?;
        self.local.write(changes).await?;
        self.replica.written();
        self.is_current = true;
        self.local.clear(before, self.replica.generations_in_use()).await;
        Ok(result)
    }
}
