//! The one trait that a backend author implements: ordered, revisioned, leased, watchable keys.
//!
//! Everything that users rely on (locks, registries, ids, configuration) is built once, in
//! `coord-recipes`, from the nine methods of [`Store`]. The promises S1 to S6 are all that it
//! takes; [the guide](crate::guide) walks through them.

mod forward;
mod lease;
mod range;
mod span;
mod txn;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::Result;
use crate::types::{LeaseId, Revision};
pub use lease::{Lease, LeaseInfo, MAX_TTL_SECONDS, round_ttl};
pub use range::{Entry, Order, Range, RangeReply};
pub use span::Span;
pub use txn::{Compare, Effect, MAX_TXN_BYTES, MAX_TXN_OPS, Op, OpReply, Txn, TxnReply};
pub use watch::{Batch, Change, StoreEvent, StoreWatch};

/// Ordered, revisioned, leased, watchable keys: what a backend is (S1 to S6).
///
/// # Contract
///
/// - **S1** One revision counter. A transaction that changes anything gets one new, greater
///   revision and stamps all its changes with it; one that changes nothing leaves it.
/// - **S2** A range is read at one revision, in the order asked for, with limit and continuation at
///   that revision.
/// - **S3** Compares decide atomically between two lists of operations.
/// - **S4** A watch says at which revision it is armed, and delivers every later change once, in
///   order, one batch per revision.
/// - **S5** Deleting or expiring a lease deletes its keys, visibly in watches.
/// - **S6** What a persistent store acknowledged survives `kill -9`.
/// - **R1, R2** Every failure is an [`Error`](crate::Error) with the kind that the rules name, and
///   a write's failure says whether it was applied. A store reports `NotApplied` only where it is
///   proven.
/// - **R4, R6, R7** Requests are checked with [`Txn::validate`], [`Range::validate`] and
///   [`round_ttl`] before any I/O.
///
/// Every call ends by itself: a store bounds each attempt, and says `Timeout` or `Unavailable`
/// then. It repeats nothing by itself that could apply a write twice, and does not resume a watch
/// that broke: the recipes do both, once for every store.
///
/// # Cancel safety
///
/// Every future may be dropped at any await point. A dropped write counts as
/// [`Unknown`](crate::Outcome::Unknown): it may have been applied, or may yet be.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Reads a range at one revision (S2). Linearizable unless [`Range::at`] names a revision.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a request that [`Range::validate`] refuses, `Compacted` when
    /// [`Range::at`] is no longer, or not yet, in history; `Unavailable`, `Timeout`, `Closed`,
    /// `Unauthenticated`, `PermissionDenied`.
    async fn range(&self, range: Range) -> Result<RangeReply>;

    /// Runs a transaction (S3). It is linearizable, and so is a read inside it, and so are its
    /// compares where it does nothing else.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a request that [`Txn::validate`] refuses, `LeaseLost` when a put of
    /// the list that runs names a lease that is gone (the transaction fails whole, S5), `Exhausted`
    /// when the store is out of space; `Unavailable`, `Timeout`, `Closed`, `Unauthenticated`,
    /// `PermissionDenied`. A compare that does not hold is no error.
    async fn txn(&self, txn: Txn) -> Result<TxnReply>;

    /// Watches a span (S4): every change after revision `after`, or after the present one where
    /// `None`.
    ///
    /// A stream ends after its first error: `Compacted` when history was lost, `Closed`, or
    /// whatever broke it. A transient fault ends it too; the caller watches again from the last
    /// revision it saw. A store that must drain its connection may end the stream of a caller who
    /// does not read, as `Unavailable`.
    ///
    /// Noticing that a watch has gone deaf is the store's duty: it then ends the stream with
    /// `Unavailable`.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a span that [`Span::validate`] refuses; `Compacted` when the history
    /// after `after` is gone (also as the stream's first item); `Unavailable`, `Timeout`, `Closed`,
    /// `Unauthenticated`, `PermissionDenied`.
    async fn watch(&self, span: Span, after: Option<Revision>) -> Result<StoreWatch>;

    /// Grants a lease of at least `ttl`, rounded up to whole seconds (R7, S5).
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a TTL that [`round_ttl`] refuses; `Unavailable`, `Timeout`, `Closed`,
    /// `Exhausted`, …
    async fn grant_lease(&self, ttl: Duration) -> Result<Lease>;

    /// Renews a lease for its full granted TTL, which it returns (S5).
    ///
    /// `LeaseLost` is final: a store whose replicas can be out of date confirms it before it says
    /// so.
    ///
    /// # Errors
    ///
    /// `LeaseLost` when the lease is gone, never silence; `Unavailable`, `Timeout`, `Closed`, …
    async fn keep_alive(&self, id: LeaseId) -> Result<Duration>;

    /// Looks a lease up: the time left and the keys on it, in byte order; `None` when it is gone
    /// (S5).
    ///
    /// The answer is not older than the last write that was acknowledged to anyone, and `None` is
    /// final: handles are declared lost by it (R32). Where a store's own lookup can be stale, a
    /// linearizable read on the same connection comes first.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Timeout`, `Closed`, …
    async fn lease(&self, id: LeaseId) -> Result<Option<LeaseInfo>>;

    /// Ends a lease and deletes its keys in one revision. Revoking one that is gone is Ok (S5).
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Timeout`, `Closed`, …
    async fn revoke_lease(&self, id: LeaseId) -> Result<()>;

    /// Who the store is and how it is.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Timeout`, `Closed`, …
    async fn status(&self) -> Result<StoreStatus>;

    /// Ends this client of the store: pending and later calls and streams end with `Closed`. It
    /// revokes nothing. Idempotent (R8).
    ///
    /// # Errors
    ///
    /// Whatever kept the client from ending cleanly; it is closed all the same.
    async fn close(&self) -> Result<()>;
}

/// Hands every request on to the store that it points to.
macro_rules! forward_pointer {
    ($pointer:ty) => {
        #[deny(clippy::missing_trait_methods)]
        impl<S: Store + ?Sized> Store for $pointer {
            $crate::forward_store! {
                self => **self;
                range, txn, watch, grant_lease, keep_alive, lease, revoke_lease, status, close
            }
        }
    };
}
forward_pointer!(Arc<S>);
forward_pointer!(Box<S>);

/// Who a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreStatus {
    /// The store's identity. A store that was restored from a backup is another one, or has raised
    /// its revisions (S1); where the store cannot tell by itself, that is its operator's duty.
    pub store_id: String,
    /// The kind of the store and its version, for people.
    pub version: String,
}
