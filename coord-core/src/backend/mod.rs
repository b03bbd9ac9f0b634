//! What the author of a backend need not write: a whole store over a database with transactions, or
//! its parts: the watches of a store that keeps its history, what a transaction does, when leases
//! end, and how to block.
//!
//! What lies around a store is a [layer](crate::layers): [`Bounded`](crate::layers::Bounded) above
//! all, which checks requests, ends calls in time and closes. The guide in the documentation of
//! [`coord_api`] puts them together.

mod blocking;
mod database;
mod leases;
mod paged;
mod place;
mod txn;

pub use blocking::blocking;
pub use database::{Database, DatabaseStore, DatabaseTxn, LeaseRecord, end_lease};
pub use leases::LeaseClock;
pub use paged::{History, paged_watch};
pub use place::{Page, PageRequest};
pub use txn::{TxnState, run_txn};
