//! The one trait that a backend author implements: ordered, revisioned, leased, watchable keys.
//!
//! Everything that users rely on (locks, registries, ids, configuration) is built once, in `coord-recipes`, from the nine methods of [`Store`].
//! The promises S1 to S6 are all that it takes; [the guide](crate::guide) walks through them.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use futures_core::stream::BoxStream;

use crate::error::{Error, Result};
use crate::key::MAX_VALUE_BYTES;
use crate::types::{LeaseId, Revision, Value};

/// Operations that one list of a transaction holds at most (S3).
pub const MAX_TXN_OPS: usize = 128;

/// Bytes of keys and values that a transaction holds at most: 1.25 MiB (S3).
pub const MAX_TXN_BYTES: usize = 1_310_720;

/// The longest lease that can be asked for, in seconds (R7).
pub const MAX_TTL_SECONDS: u64 = 9_000_000_000;

/// Ordered, revisioned, leased, watchable keys: what a backend is (S1 to S6).
///
/// # Contract
///
/// - **S1** One revision counter. A transaction that changes anything gets one new, greater revision and stamps all its changes with it;
///   one that changes nothing leaves it.
/// - **S2** A range is read at one revision, in the order asked for, with limit and continuation at that revision.
/// - **S3** Compares decide atomically between two lists of operations.
/// - **S4** A watch says at which revision it is armed, and delivers every later change once, in order, one batch per revision.
/// - **S5** Deleting or expiring a lease deletes its keys, visibly in watches.
/// - **S6** What a persistent store acknowledged survives `kill -9`.
/// - **R1, R2** Every failure is an [`Error`] with the kind that the rules name, and a write's failure says whether it was applied.
///   A store reports `NotApplied` only where it is proven.
/// - **R4, R6, R7** Requests are checked with [`Txn::validate`], [`Range::validate`] and [`round_ttl`] before any I/O.
///
/// Every call ends by itself: a store bounds each attempt, and says `Timeout` or `Unavailable` then. It repeats nothing by itself that could apply a write twice, and does not resume a watch that broke: the recipes do both, once for
/// every store.
///
/// # Cancel safety
///
/// Every future may be dropped at any await point. A dropped write counts as [`Unknown`](crate::Outcome::Unknown): it may have been applied, or may yet be.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Reads a range at one revision (S2). Linearizable unless [`Range::at`] names a revision.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a request that [`Range::validate`] refuses, `Compacted` when [`Range::at`] is no longer, or not yet, in history;
    /// `Unavailable`, `Timeout`, `Closed`, `Unauthenticated`, `PermissionDenied`.
    async fn range(&self, range: Range) -> Result<RangeReply>;

    /// Runs a transaction (S3). It is linearizable, and so is a read inside it, and so are its compares where it does nothing else.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a request that [`Txn::validate`] refuses, `LeaseLost` when a put of the list that runs names a lease that is gone (the transaction fails whole, S5),
    /// `Exhausted` when the store is out of space; `Unavailable`, `Timeout`, `Closed`, `Unauthenticated`, `PermissionDenied`. A compare that does not hold is no error.
    async fn txn(&self, txn: Txn) -> Result<TxnReply>;

    /// Watches a span (S4): every change after revision `after`, or after the present one where `None`.
    ///
    /// A stream ends after its first error: `Compacted` when history was lost, `Closed`, or whatever broke it. A transient fault ends it too; the caller
    /// watches again from the last revision it saw. A store that must drain its connection may end the stream of a caller who does not read, as `Unavailable`.
    ///
    /// Noticing that a watch has gone deaf is the store's duty: it then ends the stream with `Unavailable`.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a span that [`Span::validate`] refuses; `Compacted` when the history after `after` is gone (also as the stream's first item); `Unavailable`, `Timeout`, `Closed`, `Unauthenticated`,
    /// `PermissionDenied`.
    async fn watch(&self, span: Span, after: Option<Revision>) -> Result<StoreWatch>;

    /// Grants a lease of at least `ttl`, rounded up to whole seconds (R7, S5).
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a TTL that [`round_ttl`] refuses; `Unavailable`, `Timeout`, `Closed`, `Exhausted`, …
    async fn grant_lease(&self, ttl: Duration) -> Result<Lease>;

    /// Renews a lease for its full granted TTL, which it returns (S5).
    ///
    /// `LeaseLost` is final: a store whose replicas can be out of date confirms it before it says so.
    ///
    /// # Errors
    ///
    /// `LeaseLost` when the lease is gone, never silence; `Unavailable`, `Timeout`, `Closed`, …
    async fn keep_alive(&self, id: LeaseId) -> Result<Duration>;

    /// Looks a lease up: the time left and the keys on it, in byte order; `None` when it is gone (S5).
    ///
    /// The answer is not older than the last write that was acknowledged to anyone, and `None` is final: handles are declared lost by it (R32). Where a store's own
    /// lookup can be stale, a linearizable read on the same connection comes first.
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

    /// Ends this client of the store: pending and later calls and streams end with `Closed`. It revokes nothing. Idempotent (R8).
    ///
    /// # Errors
    ///
    /// Whatever kept the client from ending cleanly; it is closed all the same.
    async fn close(&self) -> Result<()>;
}

/// Hands every request on. What `#[async_trait]` makes of an `async fn` is written out, so that the future is the store's own and not another one around it.
macro_rules! forward_store {
    ($pointer:ty) => {
        forward_store! { $pointer:
            range(range: Range) -> RangeReply;
            txn(txn: Txn) -> TxnReply;
            watch(span: Span, after: Option<Revision>) -> StoreWatch;
            grant_lease(ttl: Duration) -> Lease;
            keep_alive(id: LeaseId) -> Duration;
            lease(id: LeaseId) -> Option<LeaseInfo>;
            revoke_lease(id: LeaseId) -> ();
            status() -> StoreStatus;
            close() -> ();
        }
    };
    ($pointer:ty: $($request:ident($($argument:ident: $kind:ty),*) -> $answer:ty;)*) => {
        #[deny(clippy::missing_trait_methods)]
        impl<S: Store + ?Sized> Store for $pointer {
            $(fn $request<'a, 'r>(&'a self, $($argument: $kind),*) -> Pin<Box<dyn Future<Output = Result<$answer>> + Send + 'r>>
            where
                'a: 'r,
                Self: 'r,
            {
                (**self).$request($($argument),*)
            })*
        }
    };
}
forward_store!(Arc<S>);
forward_store!(Box<S>);

/// The keys that a range, a watch or a compare is about. Keys are bytes, compared as bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Span {
    /// One key.
    Key(Bytes),
    /// Every key that starts with these bytes; all keys when empty. A directory's prefix ends in `/`.
    Prefix(Bytes),
    /// From the first key, inclusive, to the second, exclusive.
    Interval(Bytes, Bytes),
}

impl Span {
    /// One key.
    pub fn key(key: impl Into<Bytes>) -> Self {
        Span::Key(key.into())
    }

    /// Every key that starts with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        Span::Prefix(prefix.into())
    }

    /// Checks what every store refuses: an empty key, and an interval in which no key can lie.
    ///
    /// # Errors
    ///
    /// `InvalidArgument`.
    pub fn validate(&self, operation: &'static str) -> Result<()> {
        match self {
            Span::Key(key) if key.is_empty() => Err(Error::invalid_argument(operation, "an empty key")),
            Span::Interval(from, to) if from >= to => {
                Err(Error::invalid_argument(operation, "an interval that ends where it begins, or before"))
            }
            _ => Ok(()),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Span::Key(key) | Span::Prefix(key) => key.len(),
            Span::Interval(from, to) => from.len().saturating_add(to.len()),
        }
    }

    /// Whether `key` lies in the span.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Span::Key(own) => own.as_ref() == key,
            Span::Prefix(prefix) => key.starts_with(prefix),
            Span::Interval(from, to) => key >= from.as_ref() && key < to.as_ref(),
        }
    }

    /// The smallest key that may lie in the span.
    pub fn start(&self) -> &[u8] {
        match self {
            Span::Key(key) | Span::Prefix(key) | Span::Interval(key, _) => key,
        }
    }

    /// The smallest key after the span, or `None` when nothing lies after it: the half-open interval that ordered stores ask for.
    pub fn end(&self) -> Option<Bytes> {
        match self {
            Span::Key(key) => Some([key.as_ref(), &[0]].concat().into()),
            Span::Prefix(prefix) => prefix_end(prefix),
            Span::Interval(_, to) => Some(to.clone()),
        }
    }
}

/// The smallest byte string greater than all that start with `prefix`; `None` when there is no such string.
fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let kept = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let (head, _) = prefix.split_at_checked(kept + 1)?;
    let mut end = head.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    Some(end.into())
}

/// In which order a range comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Order {
    /// By key, in byte order.
    #[default]
    Key,
    /// By create revision, the smallest first; keys of one revision in no particular order.
    OldestFirst,
    /// By create revision, the greatest first; keys of one revision in no particular order.
    NewestFirst,
}

/// A request for a range (S2).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Range {
    /// The keys asked for.
    pub span: Span,
    /// Only keys after this one: the continuation of a limited range. Only in [`Order::Key`].
    pub after_key: Option<Bytes>,
    /// The state at this revision; the present one where `None`. Not inside a transaction.
    pub at: Option<Revision>,
    /// At most so many entries; all where `None`. Never zero.
    pub limit: Option<usize>,
    /// The order of the entries.
    pub order: Order,
    /// Only keys created at or before this revision.
    pub max_created: Option<Revision>,
    /// Leave the values out.
    pub keys_only: bool,
}

impl Range {
    /// All of `span` at the present revision, in byte order.
    pub fn new(span: Span) -> Self {
        Range { span, after_key: None, at: None, limit: None, order: Order::Key, max_created: None, keys_only: false }
    }

    /// One key.
    pub fn key(key: impl Into<Bytes>) -> Self {
        Range::new(Span::key(key))
    }

    /// Every key that starts with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        Range::new(Span::prefix(prefix))
    }

    /// Continues after `key`.
    #[must_use]
    pub fn with_after_key(mut self, key: impl Into<Bytes>) -> Self {
        self.after_key = Some(key.into());
        self
    }

    /// Reads the state at `revision`.
    #[must_use]
    pub fn with_at(mut self, revision: Revision) -> Self {
        self.at = Some(revision);
        self
    }

    /// Returns at most `limit` entries.
    #[must_use]
    pub fn with_limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Sets the order.
    #[must_use]
    pub fn with_order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// Only keys created at or before `revision`.
    #[must_use]
    pub fn with_max_created(mut self, revision: Revision) -> Self {
        self.max_created = Some(revision);
        self
    }

    /// Leaves the values out.
    #[must_use]
    pub fn with_keys_only(mut self) -> Self {
        self.keys_only = true;
        self
    }

    /// Checks what every store refuses: a bad span, limit zero, revision zero (which to some stores means the present), and a continuation in an order other
    /// than by key.
    ///
    /// # Errors
    ///
    /// `InvalidArgument`.
    pub fn validate(&self) -> Result<()> {
        self.span.validate("store.range")?;
        if self.limit == Some(0) {
            return Err(Error::invalid_argument("store.range", "a limit of zero entries"));
        }
        if self.at == Some(Revision::ZERO) || self.max_created == Some(Revision::ZERO) {
            return Err(Error::invalid_argument("store.range", "revision zero"));
        }
        if self.after_key.is_some() && self.order != Order::Key {
            return Err(Error::invalid_argument("store.range", "a continuation needs the order by key"));
        }
        Ok(())
    }
}

/// What a range found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeReply {
    /// The revision of the state that was read: [`Range::at`], or the store's present one.
    pub revision: Revision,
    /// The entries, in the order asked for.
    pub entries: Vec<Entry>,
    /// Whether [`Range::limit`] left entries out.
    pub more: bool,
}

/// A key as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// The value; empty with [`Range::keys_only`].
    pub value: Value,
    /// The revision that created it, anew after a deletion.
    pub created: Revision,
    /// The revision of its last write.
    pub modified: Revision,
    /// The lease that it hangs on.
    pub lease: Option<LeaseId>,
}

/// A precondition of a transaction (S3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key does not exist.
    Absent(Bytes),
    /// The key exists.
    Present(Bytes),
    /// The key exists and its last write is this revision.
    Modified(Bytes, Revision),
    /// The key exists and was created by this revision.
    Created(Bytes, Revision),
    /// The key exists and hangs on this lease.
    Lease(Bytes, LeaseId),
    /// No key of the span exists.
    RangeAbsent(Span),
}

/// An operation of a transaction (S3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes a key and moves it to `lease`, or to none (S5).
    Put {
        /// The key.
        key: Bytes,
        /// The value, at most 1 MiB (R6).
        value: Value,
        /// The lease to hang it on.
        lease: Option<LeaseId>,
    },
    /// Deletes a key; nothing happens when it is absent.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Reads a range, seeing the transaction's earlier writes.
    Range(Range),
}

impl Op {
    /// Writes a key without a lease.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Value>) -> Self {
        Op::Put { key: key.into(), value: value.into(), lease: None }
    }

    /// Writes a key under a lease.
    pub fn put_leased(key: impl Into<Bytes>, value: impl Into<Value>, lease: LeaseId) -> Self {
        Op::Put { key: key.into(), value: value.into(), lease: Some(lease) }
    }

    /// Deletes a key.
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Op::Delete { key: key.into() }
    }
}

/// A transaction: when all of `compares` hold it runs `then`, else `otherwise` (S3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// The preconditions; none always holds.
    pub compares: Vec<Compare>,
    /// What runs, in order, when all compares hold.
    pub then: Vec<Op>,
    /// What runs, in order, when one does not.
    pub otherwise: Vec<Op>,
}

impl Txn {
    /// A transaction without preconditions that does nothing yet.
    pub fn new() -> Self {
        Txn::default()
    }

    /// Adds a precondition.
    #[must_use]
    pub fn when(mut self, compare: Compare) -> Self {
        self.compares.push(compare);
        self
    }

    /// Adds an operation for the case that all compares hold.
    #[must_use]
    pub fn then(mut self, op: Op) -> Self {
        self.then.push(op);
        self
    }

    /// Adds an operation for the case that a compare does not hold.
    #[must_use]
    pub fn otherwise(mut self, op: Op) -> Self {
        self.otherwise.push(op);
        self
    }

    /// Checks what every store refuses: too many operations or bytes, a value over 1 MiB, two writes of one key in one list, an empty key, revision or lease zero
    /// (which to some stores mean "absent" and "none"), a bad range.
    ///
    /// # Errors
    ///
    /// `InvalidArgument`.
    pub fn validate(&self) -> Result<()> {
        if [self.compares.len(), self.then.len(), self.otherwise.len()].iter().any(|length| *length > MAX_TXN_OPS) {
            return refuse("more than 128 operations in a list");
        }
        let mut bytes = 0_usize;
        for compare in &self.compares {
            bytes = bytes.saturating_add(compare.validate()?);
        }
        for list in [&self.then, &self.otherwise] {
            let mut written: Vec<&[u8]> = Vec::new();
            for op in list {
                bytes = bytes.saturating_add(op.validate()?);
                written.extend(op.written_key().map(AsRef::as_ref));
            }
            if written.len() > 1 {
                written.sort_unstable();
                if written.windows(2).any(|pair| matches!(pair, [one, other] if one == other)) {
                    return refuse("two writes of one key");
                }
            }
        }
        if bytes > MAX_TXN_BYTES {
            return refuse("more than 1.25 MiB of keys and values");
        }
        Ok(())
    }
}

fn refuse<T>(message: &'static str) -> Result<T> {
    Err(Error::invalid_argument("store.txn", message))
}

fn check_store_key(key: &Bytes) -> Result<usize> {
    if key.is_empty() { refuse("an empty key") } else { Ok(key.len()) }
}

impl Compare {
    /// Checks one compare; returns its bytes.
    fn validate(&self) -> Result<usize> {
        match self {
            Compare::Modified(_, Revision::ZERO) | Compare::Created(_, Revision::ZERO) => {
                refuse("revision zero in a compare; absence has its own")
            }
            Compare::Lease(_, lease) if lease.get() == 0 => refuse("lease zero in a compare"),
            Compare::Absent(key)
            | Compare::Present(key)
            | Compare::Modified(key, _)
            | Compare::Created(key, _)
            | Compare::Lease(key, _) => check_store_key(key),
            Compare::RangeAbsent(span) => {
                span.validate("store.txn")?;
                Ok(span.bytes())
            }
        }
    }
}

impl Op {
    /// The key that it writes or deletes.
    fn written_key(&self) -> Option<&Bytes> {
        match self {
            Op::Put { key, .. } | Op::Delete { key } => Some(key),
            Op::Range(_) => None,
        }
    }

    /// Checks one operation; returns its bytes.
    fn validate(&self) -> Result<usize> {
        match self {
            Op::Put { value, .. } if value.len() > MAX_VALUE_BYTES => refuse("a value over 1 MiB"),
            Op::Put { lease: Some(lease), .. } if lease.get() == 0 => refuse("a put under lease zero"),
            Op::Put { key, value, .. } => Ok(check_store_key(key)?.saturating_add(value.len())),
            Op::Delete { key } => check_store_key(key),
            Op::Range(range) => {
                range.validate().map_err(|error| error.in_operation("store.txn"))?;
                if range.at.is_some() {
                    return refuse("a range inside a transaction reads the present revision");
                }
                Ok(range.span.bytes().saturating_add(range.after_key.as_ref().map_or(0, Bytes::len)))
            }
        }
    }
}

/// The answer to one [`Op`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpReply {
    /// The put was done.
    Put,
    /// The delete was done; whether the key had existed.
    Delete {
        /// Whether there was something to delete.
        existed: bool,
    },
    /// What the range found.
    Range(RangeReply),
}

/// What a transaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnReply {
    /// Whether all compares held.
    pub succeeded: bool,
    /// The revision of its changes, or the present one when it changed nothing.
    pub revision: Revision,
    /// One answer for each operation of the list that ran, in order.
    pub replies: Vec<OpReply>,
}

impl TxnReply {
    /// The answer of the range at `index`, or `None` when another operation, or none, stands there.
    pub fn range(&self, index: usize) -> Option<&RangeReply> {
        match self.replies.get(index) {
            Some(OpReply::Range(reply)) => Some(reply),
            _ => None,
        }
    }

    /// Whether the delete at `index` found its key; `None` when another operation, or none, stands there.
    pub fn existed(&self, index: usize) -> Option<bool> {
        match self.replies.get(index) {
            Some(OpReply::Delete { existed }) => Some(*existed),
            _ => None,
        }
    }
}

/// A granted lease (S5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its name.
    pub id: LeaseId,
    /// The granted TTL: whole seconds, never less than was asked for.
    pub ttl: Duration,
}

/// What a store knows of a live lease (S5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// The time left until it expires unless it is renewed, as coarse as whole seconds rounded down. For people; deadlines count from when a renewal was sent.
    pub remaining: Duration,
    /// The keys on it, in byte order.
    pub keys: Vec<Bytes>,
}

/// Who a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreStatus {
    /// The store's identity. A store that was restored from a backup is another one, or has raised its revisions (S1); where the store cannot tell by itself, that is
    /// its operator's duty.
    pub store_id: String,
    /// The kind of the store and its version, for people.
    pub version: String,
}

/// An item of a store's watch (S4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreEvent {
    /// All changes of one revision inside the span.
    Batch(Batch),
    /// Everything up to this revision was delivered. It may be rare, and nothing waits for it.
    Progress(Revision),
}

/// The changes of one revision, in the order in which the transaction made them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The revision.
    pub revision: Revision,
    /// The changes, at least one.
    pub changes: Vec<Change>,
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Written. It was created when `created` equals `modified`.
    Put(Entry),
    /// Deleted, by a client or by the end of its lease.
    Delete {
        /// The key.
        key: Bytes,
    },
}

impl Change {
    /// The key that changed.
    pub fn key(&self) -> &Bytes {
        match self {
            Change::Put(entry) => &entry.key,
            Change::Delete { key } => key,
        }
    }
}

/// A watch of a store (S4): where it is armed, and its stream. It ends after its first error. Dropping it ends the watch, on the server too.
pub struct StoreWatch {
    armed: Revision,
    stream: BoxStream<'static, Result<StoreEvent>>,
}

impl StoreWatch {
    /// A watch that delivers every change after `armed` through `stream`.
    pub fn new(armed: Revision, stream: impl Stream<Item = Result<StoreEvent>> + Send + 'static) -> Self {
        StoreWatch { armed, stream: Box::pin(stream) }
    }

    /// The revision at which it is armed: every later change is delivered. With `after` given, that revision; else one that is at most the store's present one, so
    /// that a replica which lags may deliver once more what its caller knows already.
    ///
    /// A store that is behind a given `after` (it was restored from a backup, or a replica lags) reports its own, smaller one.
    pub fn armed(&self) -> Revision {
        self.armed
    }

    /// The next item, `None` after the end.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: an item that is not returned stays in the stream.
    pub async fn next(&mut self) -> Option<Result<StoreEvent>> {
        poll_fn(|cx| self.stream.as_mut().poll_next(cx)).await
    }
}

impl Stream for StoreWatch {
    type Item = Result<StoreEvent>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for StoreWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreWatch").field("armed", &self.armed).finish_non_exhaustive()
    }
}

/// Rounds a TTL up to whole seconds, as every store does (R7).
///
/// # Errors
///
/// `InvalidArgument` for zero and for more than [`MAX_TTL_SECONDS`].
pub fn round_ttl(operation: &'static str, ttl: Duration) -> Result<Duration> {
    if ttl.is_zero() {
        return Err(Error::invalid_argument(operation, "a TTL of zero"));
    }
    let seconds = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0));
    if seconds > MAX_TTL_SECONDS {
        return Err(Error::invalid_argument(operation, "a TTL of more than 9,000,000,000 s"));
    }
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_ends_where_its_last_key_ends() {
        assert_eq!(Span::prefix("a/").end().as_deref(), Some(b"a0".as_slice()));
        assert_eq!(Span::prefix(vec![b'a', 0xff]).end().as_deref(), Some(b"b".as_slice()));
        assert_eq!(Span::prefix(vec![0xff, 0xff]).end(), None);
        assert_eq!(Span::prefix("").end(), None);
        assert_eq!(Span::key("a").end().as_deref(), Some(b"a\0".as_slice()));
    }

    #[test]
    fn a_ttl_is_rounded_up_and_bounded() {
        let round = |ttl| round_ttl("t", ttl).map_err(|error| error.kind());
        assert_eq!(round(Duration::from_nanos(1)), Ok(Duration::from_secs(1)));
        assert_eq!(round(Duration::from_millis(1_001)), Ok(Duration::from_secs(2)));
        assert_eq!(round(Duration::from_secs(9_000_000_000)), Ok(Duration::from_secs(9_000_000_000)));
        assert_eq!(round(Duration::new(9_000_000_000, 1)), Err(crate::ErrorKind::InvalidArgument));
        assert_eq!(round(Duration::MAX), Err(crate::ErrorKind::InvalidArgument));
        assert_eq!(round(Duration::ZERO), Err(crate::ErrorKind::InvalidArgument));
    }

    #[test]
    fn two_writes_of_one_key_are_refused_in_one_list_but_not_across_lists() {
        let twice = Txn::new().then(Op::put("a", "1")).then(Op::delete("a"));
        assert!(twice.validate().is_err());
        let either = Txn::new().then(Op::put("a", "1")).otherwise(Op::delete("a"));
        assert!(either.validate().is_ok());
    }

    #[test]
    fn what_means_something_else_to_some_store_is_refused() {
        let range = |range: Range| range.validate().is_err();
        assert!(range(Range::key("")));
        assert!(range(Range::new(Span::Interval("b".into(), "a".into()))));
        assert!(range(Range::new(Span::Interval("a".into(), "a".into()))));
        assert!(range(Range::key("a").with_at(Revision::ZERO)));
        assert!(range(Range::key("a").with_max_created(Revision::ZERO)));
        let txn = |txn: Txn| txn.validate().is_err();
        assert!(txn(Txn::new().when(Compare::Modified("a".into(), Revision::ZERO))));
        assert!(txn(Txn::new().when(Compare::Created("a".into(), Revision::ZERO))));
        assert!(txn(Txn::new().when(Compare::Lease("a".into(), LeaseId::new(0)))));
        assert!(txn(Txn::new().when(Compare::Absent("".into()))));
        assert!(txn(Txn::new().then(Op::put_leased("a", "", LeaseId::new(0)))));
        assert!(txn(Txn::new().otherwise(Op::delete(""))));
    }

    #[test]
    fn a_transaction_is_bounded_in_operations_and_bytes() {
        let mut txn = Txn::new();
        txn.then = (0..=MAX_TXN_OPS).map(|n| Op::put(n.to_string(), "")).collect();
        assert!(txn.validate().is_err());
        txn.then.pop();
        assert!(txn.validate().is_ok());
        let large = Txn::new().then(Op::put("a", vec![0; MAX_VALUE_BYTES + 1]));
        assert!(large.validate().is_err());
        let two = Txn::new().then(Op::put("a", vec![0; MAX_VALUE_BYTES])).then(Op::put("b", vec![0; MAX_VALUE_BYTES / 2]));
        assert!(two.validate().is_err());
    }
}
