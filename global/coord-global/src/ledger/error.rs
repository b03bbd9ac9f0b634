//! What can go wrong with a ledger.

use crate::model::Refusal;

/// Why a call of a ledger failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The store. A write whose outcome is unknown may be repeated at any time: what was applied is
    /// known by the actor's record, or by the edit's id.
    #[error(transparent)]
    Store(#[from] coord_api::Error),
    /// What was asked for is not taken.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The log behind that position is gone: take a snapshot (G10).
    #[error("the log is there from {floor} on: take a snapshot")]
    Trimmed {
        /// Up to here entries may be gone.
        floor: u64,
    },
    /// Something in the store is not what a ledger writes there.
    #[error("{key} is not what a ledger writes: {why}")]
    Unreadable {
        /// The key.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// So many wait for an append already that no more are taken. Nothing was written; try again
    /// later.
    #[error("{waiting} wait for an append already; nothing was written")]
    Full {
        /// How many wait.
        waiting: usize,
    },
    /// Others wrote in between each time. Nothing was written; try again later.
    #[error("others wrote in between {tries} times; nothing was written")]
    Contended {
        /// How often it was tried.
        tries: u32,
    },
}

/// What a call of a ledger returns.
pub type Result<T> = std::result::Result<T, LedgerError>;
