//! What a transaction does (S3).

use bytes::Bytes;
use coord_api::store::{Op, OpReply, Range, RangeReply, Txn, TxnReply};
use coord_api::{Error, LeaseId, Result, Revision, Value};

/// What a transaction runs on: a state that nobody else reads or writes from its begin to its end,
/// under a lock or in a transaction of a database.
pub trait TxnState {
    /// What its own failures are.
    type Error: From<Error>;

    /// The present revision; once something was written, that of the changes.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from being read.
    fn revision(&mut self) -> Result<Revision, Self::Error>;

    /// Reads a range, as [`Store::range`](coord_api::store::Store::range) does, what was written
    /// already included.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from being read.
    fn read(&mut self, range: &Range) -> Result<RangeReply, Self::Error>;

    /// Whether a lease lives.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from being looked up.
    fn lives(&mut self, lease: LeaseId) -> Result<bool, Self::Error>;

    /// Writes a value and moves its key to the lease, or to none; where there is no value it
    /// deletes the key. Says whether the key existed. Deleting what is absent is no change.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from being written.
    fn write(
        &mut self,
        key: Bytes,
        value: Option<Value>,
        lease: Option<LeaseId>,
    ) -> Result<bool, Self::Error>;
}

/// Runs a transaction (S3, S5): decides by its compares, runs one of its lists in order, and gives
/// each operation its answer.
///
/// Leases are looked up before anything is written, so that a state which cannot undo need not. One
/// that fails while it is being written must be brought back to where it was.
///
/// # Errors
///
/// `LeaseLost` where a put of the list that runs names a lease that is gone; what the state fails
/// with.
///
/// # Examples
///
/// ```
/// use std::collections::BTreeMap;
///
/// use bytes::Bytes;
/// use coord_api::store::{Compare, Entry, Op, Range, RangeReply, Txn};
/// use coord_api::{Error, LeaseId, Result, Revision, Value};
/// use coord_core::backend::{TxnState, run_txn};
///
/// /// Keys without leases.
/// #[derive(Default)]
/// struct Keys {
///     entries: BTreeMap<Bytes, Entry>,
///     revision: Revision,
///     written: bool,
/// }
///
/// impl TxnState for Keys {
///     type Error = Error;
///
///     fn revision(&mut self) -> Result<Revision> {
///         Ok(self.revision)
///     }
///
///     fn read(&mut self, range: &Range) -> Result<RangeReply> {
///         let found = self.entries.values().filter(|entry| range.finds(entry)).cloned().collect();
///         Ok(RangeReply::of(range, self.revision, found))
///     }
///
///     fn lives(&mut self, _lease: LeaseId) -> Result<bool> {
///         Ok(false)
///     }
///
///     fn write(&mut self, key: Bytes, value: Option<Value>, lease: Option<LeaseId>) -> Result<bool> {
///         let old = self.entries.remove(&key);
///         if old.is_none() && value.is_none() {
///             return Ok(false);
///         }
///         if !std::mem::replace(&mut self.written, true) {
///             self.revision = self.revision.next();
///         }
///         if let Some(value) = value {
///             let created = old.as_ref().map_or(self.revision, |old| old.created);
///             let entry = Entry { key: key.clone(), value, created, modified: self.revision, lease };
///             self.entries.insert(key, entry);
///         }
///         Ok(old.is_some())
///     }
/// }
///
/// let mut keys = Keys::default();
/// let create = Txn::new().when(Compare::Absent("a".into())).then(Op::put("a", "1"));
/// assert!(run_txn(&mut keys, create.clone())?.succeeded);
/// assert!(!run_txn(&mut keys, create)?.succeeded);
/// # Ok::<(), Error>(())
/// ```
pub fn run_txn<S: TxnState>(state: &mut S, txn: Txn) -> Result<TxnReply, S::Error> {
    let mut succeeded = true;
    for compare in &txn.compares {
        let found = state.read(&Range::new(compare.span()).with_limit(1).with_keys_only())?;
        succeeded = succeeded && compare.holds(found.entries.first());
    }
    let ops = if succeeded { txn.then } else { txn.otherwise };
    for op in &ops {
        if let Op::Put { lease: Some(lease), .. } = op {
            if !state.lives(*lease)? {
                return Err(Error::lease_lost("store.txn", "a put under a lease that is gone").into());
            }
        }
    }
    let mut replies = Vec::with_capacity(ops.len());
    for op in ops {
        replies.push(match op {
            Op::Put { key, value, lease } => {
                state.write(key, Some(value), lease)?;
                OpReply::Put
            }
            Op::Delete { key } => OpReply::Delete { existed: state.write(key, None, None)? },
            Op::Range(range) => OpReply::Range(state.read(&range)?),
        });
    }
    Ok(TxnReply { succeeded, revision: state.revision()?, replies })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use coord_api::ErrorKind;
    use coord_api::store::{Compare, Entry, Span};

    use super::*;

    const LIVING: LeaseId = LeaseId::new(1);
    const DEAD: LeaseId = LeaseId::new(2);

    #[derive(Clone, Debug, Default, PartialEq)]
    struct Keys {
        entries: BTreeMap<Bytes, Entry>,
        revision: Revision,
        written: bool,
    }

    impl TxnState for Keys {
        type Error = Error;

        fn revision(&mut self) -> Result<Revision> {
            Ok(self.revision)
        }

        fn read(&mut self, range: &Range) -> Result<RangeReply> {
            let found = self.entries.values().filter(|entry| range.finds(entry)).cloned().collect();
            Ok(RangeReply::of(range, self.revision, found))
        }

        fn lives(&mut self, lease: LeaseId) -> Result<bool> {
            Ok(lease == LIVING)
        }

        fn write(&mut self, key: Bytes, value: Option<Value>, lease: Option<LeaseId>) -> Result<bool> {
            let old = self.entries.remove(&key);
            if old.is_none() && value.is_none() {
                return Ok(false);
            }
            if !std::mem::replace(&mut self.written, true) {
                self.revision = self.revision.next();
            }
            if let Some(value) = value {
                let created = old.as_ref().map_or(self.revision, |old| old.created);
                self.entries
                    .insert(key.clone(), Entry { key, value, created, modified: self.revision, lease });
            }
            Ok(old.is_some())
        }
    }

    fn run(keys: &mut Keys, txn: Txn) -> Result<TxnReply> {
        keys.written = false;
        run_txn(keys, txn)
    }

    #[test]
    fn operations_run_in_order_and_each_is_answered() {
        let mut keys = Keys::default();
        let read = || Op::Range(Range::prefix(""));
        let txn =
            Txn::new().then(Op::delete("a")).then(read()).then(Op::put_leased("b", "1", LIVING)).then(read());
        let reply = run(&mut keys, txn).unwrap();
        assert_eq!((reply.succeeded, reply.revision.get(), reply.replies.len()), (true, 1, 4));
        assert_eq!(reply.existed(0), Some(false));
        assert_eq!(reply.range(1).unwrap().entries, []);
        let seen = reply.range(3).unwrap();
        assert_eq!((seen.revision.get(), seen.entries[0].modified.get()), (1, 1));
        assert_eq!(seen.entries[0].lease, Some(LIVING));
        let reply = run(&mut keys, Txn::new().then(Op::delete("b"))).unwrap();
        assert_eq!((reply.existed(0), reply.revision.get()), (Some(true), 2));
        let reply = run(&mut keys, Txn::new().then(Op::delete("b"))).unwrap();
        assert_eq!(reply.revision.get(), 2, "what changes nothing raises nothing");
    }

    #[test]
    fn one_compare_that_does_not_hold_decides() {
        let mut keys = Keys::default();
        run(&mut keys, Txn::new().then(Op::put("a", "1"))).unwrap();
        let (holds, fails) =
            (Compare::Present("a".into()), Compare::RangeAbsent(Span::Interval("0".into(), "b".into())));
        for (compares, succeeded) in [
            (vec![], true),
            (vec![holds.clone()], true),
            (vec![holds.clone(), fails.clone()], false),
            (vec![fails, holds], false),
        ] {
            let mut txn = Txn::new().then(Op::delete("x")).otherwise(Op::Range(Range::key("a")));
            txn.compares = compares;
            let reply = run(&mut keys, txn.clone()).unwrap();
            assert_eq!((reply.succeeded, reply.range(0).is_some()), (succeeded, !succeeded), "{txn:?}");
        }
    }

    #[test]
    fn a_dead_lease_of_the_list_that_runs_fails_it_before_anything_is_written() {
        let mut keys = Keys::default();
        let txn = |then, otherwise| {
            let list = |lease| [Op::put("first", "1"), Op::put_leased("k", "1", lease)];
            Txn { compares: vec![], then: list(then).into(), otherwise: list(otherwise).into() }
        };
        let error = run(&mut keys, txn(DEAD, LIVING)).unwrap_err();
        assert_eq!((error.kind(), &keys), (ErrorKind::LeaseLost, &Keys::default()));
        run(&mut keys, txn(LIVING, DEAD)).unwrap();
        assert_eq!(keys.entries.len(), 2);
    }
}
