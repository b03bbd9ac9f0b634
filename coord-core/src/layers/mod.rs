//! Wrappers around any [`Store`](coord_api::store::Store), each of them a store again: what is not
//! the business of one backend is done here once for all.
//!
//! They stack. From the outside in: [`Observe`] sees what the recipes ask for, [`Retry`] repeats
//! what may be repeated, [`Namespace`] confines, [`Batched`], for who wants it, sends together what
//! comes at once, and [`Bounded`] stands next to the store: it is part of a backend that does not
//! end calls by itself. A second `Observe` inside of `Retry` shows
//! each attempt by itself.
//!
//! One of your own says only what it changes: [`forward_store`](coord_api::forward_store) writes
//! the rest.

mod batched;
mod bounded;
mod namespace;
mod observe;
mod retry;

pub use batched::Batched;
pub use bounded::Bounded;
pub use namespace::Namespace;
pub use observe::Observe;
pub use retry::{Retry, RetryPolicy};
