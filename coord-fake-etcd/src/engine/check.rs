//! What is wrong with a request whatever the store holds, in the order in which etcd looks.

use bytes::Bytes;

use std::collections::HashSet;

use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::{PutRequest, RangeRequest, RequestOp, TxnRequest};
use crate::refusal::Refusal;

pub(crate) fn check_key(key: &Bytes) -> Result<(), Refusal> {
    if key.is_empty() { Err(Refusal::EmptyKey) } else { Ok(()) }
}

pub(crate) fn check_put(put: &PutRequest) -> Result<(), Refusal> {
    check_key(&put.key)?;
    if put.ignore_value && !put.value.is_empty() {
        return Err(Refusal::ValueProvided);
    }
    if put.ignore_lease && put.lease != 0 {
        return Err(Refusal::LeaseProvided);
    }
    Ok(())
}

/// Checks a transaction with everything in it.
pub(crate) fn check_txn(txn: &TxnRequest, max_ops: usize) -> Result<(), Refusal> {
    check_ops(txn, max_ops)?;
    check_overlaps(&txn.success)?;
    check_overlaps(&txn.failure)?;
    Ok(())
}

fn check_ops(txn: &TxnRequest, max_ops: usize) -> Result<(), Refusal> {
    let most = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
    // One inside of another has what the outer one leaves.
    let left = max_ops.checked_sub(most).ok_or(Refusal::TooManyOps)?;
    txn.compare.iter().try_for_each(|compare| check_key(&compare.key))?;
    txn.success.iter().chain(&txn.failure).try_for_each(|op| match &op.request {
        Some(Request::RequestRange(range)) => check_key(&range.key),
        Some(Request::RequestPut(put)) => check_put(put),
        Some(Request::RequestDeleteRange(delete)) => check_key(&delete.key),
        Some(Request::RequestTxn(inner)) => check_ops(inner, left),
        None => Err(Refusal::KeyNotFound),
    })
}

/// What the writes of a list of operations may touch.
#[derive(Default)]
struct Touched {
    puts: HashSet<Bytes>,
    /// With their ends, as bytes. What is deleted without an end overlaps nothing: so it is in
    /// etcd, where `\0`, which means no end, is compared like any other.
    deletes: Vec<(Bytes, Bytes)>,
}

impl Touched {
    fn deletes(&self, key: &Bytes) -> bool {
        self.deletes.iter().any(|(start, end)| start <= key && key < end)
    }

    fn put(&mut self, key: &Bytes) -> Result<(), Refusal> {
        if self.deletes(key) || !self.puts.insert(key.clone()) {
            return Err(Refusal::DuplicateKey);
        }
        Ok(())
    }
}

/// No key is written twice in a transaction. Of the two branches of one inside of it only one is
/// taken, so that both may write the same key.
fn check_overlaps(ops: &[RequestOp]) -> Result<Touched, Refusal> {
    let mut touched = Touched::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            let mut end = delete.range_end.to_vec();
            if end.is_empty() {
                end = [&delete.key, b"\0".as_slice()].concat();
            }
            touched.deletes.push((delete.key.clone(), end.into()));
        }
    }
    for op in ops {
        let Some(Request::RequestTxn(inner)) = &op.request else { continue };
        let (then, otherwise) = (check_overlaps(&inner.success)?, check_overlaps(&inner.failure)?);
        for key in &then.puts {
            touched.put(key)?;
        }
        for key in &otherwise.puts {
            if then.puts.contains(key) && !touched.deletes(key) {
                continue;
            }
            touched.put(key)?;
        }
        touched.deletes.extend(then.deletes);
        touched.deletes.extend(otherwise.deletes);
    }
    for op in ops {
        if let Some(Request::RequestPut(put)) = &op.request {
            touched.put(&put.key)?;
        }
    }
    Ok(touched)
}

/// Whether a transaction only reads. One with another one in it counts as a write.
pub(crate) fn is_read_only(txn: &TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).all(|op| matches!(op.request, Some(Request::RequestRange(_))))
}

/// Whether a transaction may take space.
pub(crate) fn puts(txn: &TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match &op.request {
        Some(Request::RequestPut(_)) => true,
        Some(Request::RequestTxn(inner)) => puts(inner),
        _ => false,
    })
}

/// Whether everything that was found is wanted, so that a limit can be kept while reading.
pub(crate) fn wants_all(range: &RangeRequest) -> bool {
    range.min_mod_revision == 0
        && range.max_mod_revision == 0
        && range.min_create_revision == 0
        && range.max_create_revision == 0
}
