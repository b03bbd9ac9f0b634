//! Wrappers around any [`Store`](coord_api::store::Store), each of them a store again: what is not
//! the business of one backend is done here once for all.
//!
//! They stack. From the outside in: [`Observe`] sees what the recipes ask for, [`Retry`] repeats
//! what may be repeated, and [`Namespace`] stands next to the store. A second `Observe` inside of
//! `Retry` shows each attempt by itself.

mod namespace;
mod observe;
mod retry;

pub use namespace::Namespace;
pub use observe::Observe;
pub use retry::{Retry, RetryPolicy};
