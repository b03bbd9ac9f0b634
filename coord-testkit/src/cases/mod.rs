//! The cases: one module for each rule, one folder for each part of the contract. A folder's
//! `mod.rs` holds the list of its cases and the helpers that they share; a case that is not in the
//! list is dead code, and a listed one that is missing does not compile.
//!
//! A case fails by panicking, so that its assertions read like any test's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a case fails by panicking"
)]

use crate::case::Case;

mod config;
mod elsewhere;
pub mod fenced;
mod general;
pub mod handle;
mod ids;
mod leased;
mod lock;
mod registry;
mod session;
mod slow;
mod stores;
mod watch;

/// Every case of the kit, rule by rule.
pub fn cases() -> impl Iterator<Item = &'static Case> {
    GROUPS.iter().flat_map(|group| group.iter())
}

/// Every list.
const GROUPS: &[&[Case]] = &[
    general::CASES,
    session::CASES,
    config::CASES,
    watch::CASES,
    lock::CASES,
    registry::CASES,
    ids::CASES,
    stores::CASES,
];
