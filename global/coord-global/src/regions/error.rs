//! What can go wrong with the registry of the regions.

use crate::model::RegionId;

/// Why a call of [`Regions`](super::Regions) failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegionsError {
    /// The store. A write whose outcome is unknown may be repeated at any time: what arrives late
    /// finds other revisions, and changes nothing.
    #[error(transparent)]
    Store(#[from] coord_api::Error),
    /// Something in the store is not what is written of a region.
    #[error("{key} is not what is written of a region: {why}")]
    Unreadable {
        /// The key.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// No such region is registered, or not any more: its agent registers first.
    #[error("region {region} is not registered")]
    NotFound {
        /// The region.
        region: RegionId,
    },
    /// Somebody else has registered the region. Nothing was written.
    #[error("region {region} is registered by somebody else")]
    NotTheOwner {
        /// The region.
        region: RegionId,
    },
    /// Others wrote in between each time. Nothing was written; try again later.
    #[error("others wrote in between {tries} times; nothing was written")]
    Contended {
        /// How often it was tried.
        tries: u32,
    },
}

/// What a call of [`Regions`](super::Regions) returns.
pub type Result<T> = std::result::Result<T, RegionsError>;
