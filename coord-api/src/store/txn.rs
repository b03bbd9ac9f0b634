//! Transactions: compares that decide between two lists of operations.

use bytes::Bytes;

use super::range::{Entry, Range, RangeReply};
use super::span::Span;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::key::MAX_VALUE_BYTES;
use crate::types::{LeaseId, Revision, Value};

/// Operations that one list of a transaction holds at most (S3).
pub const MAX_TXN_OPS: usize = 128;

/// Bytes of keys and values that a transaction holds at most: 1.25 MiB (S3).
pub const MAX_TXN_BYTES: usize = 1_310_720;

/// What sending a request does to the store, and so whether it may be sent again after a failure,
/// and what is known of one that was not answered (R2).
///
/// | request | effect |
/// |---|---|
/// | `range`, `watch`, `lease`, `status` | [`Read`](Effect::Read) |
/// | `txn` | [`Txn::effect`]: [`Read`](Effect::Read) where both lists only read, else [`Write`](Effect::Write) |
/// | `keep_alive`, `revoke_lease` | [`Idempotent`](Effect::Idempotent) |
/// | `grant_lease` | [`Write`](Effect::Write) |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// It changes nothing: it may always be sent again.
    Read,
    /// Sent again, it changes nothing that it has not changed already, as renewing or revoking a
    /// lease does: it may always be sent again.
    Idempotent,
    /// It changes something each time: it may be sent again only where it is proven that it was not
    /// applied.
    Write,
}

impl Effect {
    /// What is known of a request that was sent and not answered: a read changed nothing, of all
    /// others the outcome is unknown.
    pub const fn in_doubt(self) -> Outcome {
        match self {
            Effect::Read => Outcome::NotApplied,
            Effect::Idempotent | Effect::Write => Outcome::Unknown,
        }
    }
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

    /// Whether it changes nothing, whichever list runs.
    pub fn is_read_only(&self) -> bool {
        self.then.iter().chain(&self.otherwise).all(|op| matches!(op, Op::Range(_)))
    }

    /// What sending it does to the store.
    pub fn effect(&self) -> Effect {
        if self.is_read_only() { Effect::Read } else { Effect::Write }
    }

    /// Checks what every store refuses: too many operations or bytes, a value over 1 MiB, two
    /// writes of one key in one list, an empty key, revision or lease zero (which to some stores
    /// mean "absent" and "none"), a bad range.
    ///
    /// # Errors
    ///
    /// `InvalidArgument`.
    pub fn validate(&self) -> Result<()> {
        if [self.compares.len(), self.then.len(), self.otherwise.len()]
            .iter()
            .any(|length| *length > MAX_TXN_OPS)
        {
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
    /// The key that it is about; `None` where it is about a range.
    pub fn key(&self) -> Option<&Bytes> {
        match self {
            Compare::Absent(key)
            | Compare::Present(key)
            | Compare::Modified(key, _)
            | Compare::Created(key, _)
            | Compare::Lease(key, _) => Some(key),
            Compare::RangeAbsent(_) => None,
        }
    }

    /// The keys that it is about: of what exists there, any one entry decides.
    pub fn span(&self) -> Span {
        match self {
            Compare::RangeAbsent(span) => span.clone(),
            Compare::Absent(key)
            | Compare::Present(key)
            | Compare::Modified(key, _)
            | Compare::Created(key, _)
            | Compare::Lease(key, _) => Span::Key(key.clone()),
        }
    }

    /// Whether it holds where `entry` is what the store has in its [`span`](Self::span): the entry
    /// of its key, or any one of its range; `None` where nothing is there.
    pub fn holds(&self, entry: Option<&Entry>) -> bool {
        match self {
            Compare::Absent(_) | Compare::RangeAbsent(_) => entry.is_none(),
            Compare::Present(_) => entry.is_some(),
            Compare::Modified(_, revision) => entry.is_some_and(|entry| entry.modified == *revision),
            Compare::Created(_, revision) => entry.is_some_and(|entry| entry.created == *revision),
            Compare::Lease(_, lease) => entry.is_some_and(|entry| entry.lease == Some(*lease)),
        }
    }

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
    /// The bytes of the keys and the value that it carries, of which a transaction holds at most
    /// [`MAX_TXN_BYTES`].
    pub fn bytes(&self) -> usize {
        match self {
            Op::Put { key, value, .. } => key.len().saturating_add(value.len()),
            Op::Delete { key } => key.len(),
            Op::Range(range) => {
                range.span.bytes().saturating_add(range.after_key.as_ref().map_or(0, Bytes::len))
            }
        }
    }

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
            Op::Put { value, .. } if value.len() > MAX_VALUE_BYTES => return refuse("a value over 1 MiB"),
            Op::Put { lease: Some(lease), .. } if lease.get() == 0 => {
                return refuse("a put under lease zero");
            }
            Op::Put { key, .. } | Op::Delete { key } => check_store_key(key).map(drop)?,
            Op::Range(range) => {
                range.validate().map_err(|error| error.in_operation("store.txn"))?;
                if range.at.is_some() {
                    return refuse("a range inside a transaction reads the present revision");
                }
            }
        }
        Ok(self.bytes())
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

    /// Whether the delete at `index` found its key; `None` when another operation, or none, stands
    /// there.
    pub fn existed(&self, index: usize) -> Option<bool> {
        match self.replies.get(index) {
            Some(OpReply::Delete { existed }) => Some(*existed),
            _ => None,
        }
    }

    /// As [`range`](Self::range), for a range that was asked for.
    ///
    /// # Errors
    ///
    /// `Internal`, outcome `Unknown`: the store left out the answer.
    pub fn try_range(&self, index: usize) -> Result<&RangeReply> {
        self.range(index).ok_or_else(left_out)
    }

    /// As [`existed`](Self::existed), for a delete that was asked for.
    ///
    /// # Errors
    ///
    /// As [`try_range`](Self::try_range).
    pub fn try_existed(&self, index: usize) -> Result<bool> {
        self.existed(index).ok_or_else(left_out)
    }
}

/// The transaction was run, and the store does not tell what came of it.
fn left_out() -> Error {
    Error::new(ErrorKind::Internal, "store.txn", "the store left out an answer")
        .with_outcome(Outcome::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_writes_of_one_key_are_refused_in_one_list_but_not_across_lists() {
        let twice = Txn::new().then(Op::put("a", "1")).then(Op::delete("a"));
        assert!(twice.validate().is_err());
        let either = Txn::new().then(Op::put("a", "1")).otherwise(Op::delete("a"));
        assert!(either.validate().is_ok());
    }

    #[test]
    fn what_means_something_else_to_some_store_is_refused() {
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
        let two = Txn::new()
            .then(Op::put("a", vec![0; MAX_VALUE_BYTES]))
            .then(Op::put("b", vec![0; MAX_VALUE_BYTES / 2]));
        assert!(two.validate().is_err());
    }

    #[test]
    fn a_compare_holds_of_the_entry_that_it_is_about() {
        let (five, six, lease) = (Revision::new(5), Revision::new(6), LeaseId::new(7));
        let entry =
            Entry { key: "a".into(), value: "1".into(), created: five, modified: six, lease: Some(lease) };
        let key = || Bytes::from("a");
        let of_key = [
            (Compare::Absent(key()), false, true),
            (Compare::Present(key()), true, false),
            (Compare::Modified(key(), six), true, false),
            (Compare::Modified(key(), five), false, false),
            (Compare::Created(key(), five), true, false),
            (Compare::Created(key(), six), false, false),
            (Compare::Lease(key(), lease), true, false),
            (Compare::Lease(key(), LeaseId::new(8)), false, false),
        ];
        for (compare, there, absent) in of_key {
            assert_eq!((compare.holds(Some(&entry)), compare.holds(None)), (there, absent), "{compare:?}");
            assert_eq!((compare.key(), compare.span()), (Some(&key()), Span::key("a")), "{compare:?}");
        }
        let free = Entry { lease: None, ..entry.clone() };
        assert!(!Compare::Lease(key(), lease).holds(Some(&free)));
        let range = Compare::RangeAbsent(Span::prefix("a"));
        assert_eq!((range.key(), range.span()), (None, Span::prefix("a")));
        assert!(!range.holds(Some(&entry)) && range.holds(None));
    }

    #[test]
    fn only_a_read_that_was_not_answered_is_known_to_have_changed_nothing() {
        assert_eq!(Effect::Read.in_doubt(), Outcome::NotApplied);
        assert_eq!([Effect::Idempotent, Effect::Write].map(Effect::in_doubt), [Outcome::Unknown; 2]);
    }

    #[test]
    fn what_only_reads_is_told_from_what_writes() {
        let read = Txn::new().when(Compare::Absent("a".into())).then(Op::Range(Range::key("a")));
        assert!(Txn::new().is_read_only() && read.is_read_only());
        assert_eq!(read.effect(), Effect::Read);
        for write in [read.clone().then(Op::put("a", "")), read.otherwise(Op::delete("a"))] {
            assert_eq!(write.effect(), Effect::Write);
        }
    }

    #[test]
    fn the_size_of_an_operation_is_what_a_transaction_is_bounded_by() {
        let after = Range::prefix("ab").with_after_key("abc");
        for (op, bytes) in [(Op::put("ab", "cde"), 5), (Op::delete("ab"), 2), (Op::Range(after), 5)] {
            assert_eq!((op.bytes(), op.validate().unwrap()), (bytes, bytes));
        }
    }

    #[test]
    fn an_answer_that_was_left_out_is_an_error() {
        let found = OpReply::Range(RangeReply::default());
        let reply = TxnReply {
            succeeded: true,
            revision: Revision::ZERO,
            replies: vec![OpReply::Put, found, OpReply::Delete { existed: true }],
        };
        assert_eq!(reply.try_range(1).unwrap(), &RangeReply::default());
        assert!(reply.try_existed(2).unwrap());
        for error in [
            reply.try_range(0).unwrap_err(),
            reply.try_range(3).unwrap_err(),
            reply.try_existed(1).unwrap_err(),
        ] {
            assert_eq!((error.kind(), error.outcome()), (ErrorKind::Internal, Outcome::Unknown));
        }
    }
}
