//! What stands on a store: the ledger, and a region on its disk.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod ledger;
mod metadata;
mod region;
mod regions;
mod replica;
mod schedules;
mod users;
