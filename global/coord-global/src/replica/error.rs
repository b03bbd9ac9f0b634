//! What can go wrong with a region that is kept in a local store.

use coord_api::ErrorKind;

use crate::model::{Refusal, RegionId};

/// Why a change of a region was not written down, or a region not opened. Nothing may be done on
/// the strength of such a change.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplicaError {
    /// The local store. Whether the change is written down may be unknown: the next change looks
    /// first.
    #[error(transparent)]
    Store(#[from] coord_api::Error),
    /// The region has another space's names, or something about it cannot be written down.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Another agent has opened the region in this store since: this one has to end.
    #[error("another agent has opened region {region} in this store since: this one has to end")]
    TakenOver {
        /// The region.
        region: RegionId,
    },
    /// Something in the store is not what is written there.
    #[error("{key} is not what is written of a region: {why}")]
    Unreadable {
        /// The key.
        key: String,
        /// What is wrong with it.
        why: String,
    },
}

impl ReplicaError {
    /// Whether the disk is full (G23): nothing was written and nothing dropped, the files stay
    /// untouched, and the same change may be made again when there is room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Store(error) if error.kind() == ErrorKind::Exhausted)
    }
}

/// What a call on a region in a local store returns.
pub type Result<T> = std::result::Result<T, ReplicaError>;
