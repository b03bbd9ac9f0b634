//! Conversions between the requests and answers of the store's contract and etcd's messages. Pure.

use bytes::Bytes;
use coord_api::store::{Compare, Entry, Op, OpReply, Order, Range, RangeReply, Span, Txn, TxnReply};
use coord_api::{LeaseId, Revision, Value};
use etcd_client::proto::{PbKeyValue, PbRangeResponse, PbResponseHeader, PbTxnOpResponse, PbTxnResponse};
use etcd_client::{CompareOp, DeleteOptions, GetOptions, PutOptions, SortOrder, SortTarget, TxnOp};

use crate::error::Fault;

/// The first byte string after all others, and the smallest key.
pub(crate) const ZERO: &[u8] = &[0];

/// The half-open interval of a span, as etcd says it: a key, and the end if there is more than that
/// key.
pub(crate) fn interval(span: &Span) -> (Bytes, Option<Bytes>) {
    let start =
        if span.start().is_empty() { Bytes::from_static(ZERO) } else { Bytes::copy_from_slice(span.start()) };
    match span {
        Span::Key(_) => (start, None),
        Span::Prefix(_) | Span::Interval(..) => (start, Some(span.end().unwrap_or(Bytes::from_static(ZERO)))),
    }
}

/// A range, as etcd is asked for it: with at most `limit` entries.
pub(crate) fn get(range: &Range, limit: Option<usize>) -> (Bytes, GetOptions) {
    let (mut start, mut end) = interval(&range.span);
    if let Some(after) = &range.after_key {
        let next = Bytes::from([after.as_ref(), ZERO].concat());
        if next > start {
            end = end.or_else(|| range.span.end());
            start = next;
        }
    }
    let mut options =
        GetOptions::new().with_limit(limit.map_or(0, |limit| i64::try_from(limit).unwrap_or(i64::MAX)));
    if let Some(end) = end {
        options = options.with_range(end);
    }
    if let Some(at) = range.at {
        options = options.with_revision(number(at));
    }
    if let Some(max_created) = range.max_created {
        options = options.with_max_create_revision(number(max_created));
    }
    if range.keys_only {
        options = options.with_keys_only();
    }
    options = match range.order {
        Order::Key => options,
        Order::OldestFirst => options.with_sort(SortTarget::Create, SortOrder::Ascend),
        Order::NewestFirst => options.with_sort(SortTarget::Create, SortOrder::Descend),
    };
    (start, options)
}

/// A transaction, as etcd is asked for it.
pub(crate) fn request(txn: &Txn) -> etcd_client::Txn {
    etcd_client::Txn::new()
        .when(txn.compares.iter().map(compare).collect::<Vec<_>>())
        .and_then(txn.then.iter().map(operation).collect::<Vec<_>>())
        .or_else(txn.otherwise.iter().map(operation).collect::<Vec<_>>())
}

fn compare(compare: &Compare) -> etcd_client::Compare {
    use etcd_client::Compare as Etcd;
    match compare {
        // What is absent counts as created at revision zero.
        Compare::Absent(key) => Etcd::create_revision(key.clone(), CompareOp::Equal, 0),
        Compare::Present(key) => Etcd::create_revision(key.clone(), CompareOp::NotEqual, 0),
        Compare::Modified(key, revision) => {
            Etcd::mod_revision(key.clone(), CompareOp::Equal, number(*revision))
        }
        Compare::Created(key, revision) => {
            Etcd::create_revision(key.clone(), CompareOp::Equal, number(*revision))
        }
        Compare::Lease(key, lease) => Etcd::lease(key.clone(), CompareOp::Equal, lease_number(*lease)),
        // It must hold for every key of the range, and for a missing one where there is none.
        Compare::RangeAbsent(span) => {
            let (start, end) = interval(span);
            let compare = Etcd::create_revision(start, CompareOp::Equal, 0);
            match end {
                Some(end) => compare.with_range(end),
                None => compare,
            }
        }
    }
}

fn operation(op: &Op) -> TxnOp {
    match op {
        Op::Put { key, value, lease } => TxnOp::put(key.clone(), value.as_bytes(), Some(put(*lease))),
        Op::Delete { key } => TxnOp::delete(key.clone(), Some(DeleteOptions::new())),
        Op::Range(range) => {
            let (start, options) = get(range, range.limit);
            TxnOp::get(start, Some(options))
        }
    }
}

/// How a key is put under a lease, or under none.
pub(crate) fn put(lease: Option<LeaseId>) -> PutOptions {
    PutOptions::new().with_lease(lease.map_or(0, lease_number))
}

/// What a transaction came to.
///
/// # Errors
///
/// The answer is not one to this transaction.
pub(crate) fn answer(txn: &Txn, response: PbTxnResponse) -> Result<TxnReply, Fault> {
    let ran = if response.succeeded { &txn.then } else { &txn.otherwise };
    let replies = response
        .responses
        .into_iter()
        .zip(ran)
        .map(|(reply, op)| match (op, reply.response) {
            (Op::Put { .. }, Some(PbTxnOpResponse::ResponsePut(_))) => Ok(OpReply::Put),
            (Op::Delete { .. }, Some(PbTxnOpResponse::ResponseDeleteRange(reply))) => {
                Ok(OpReply::Delete { existed: reply.deleted > 0 })
            }
            (Op::Range(_), Some(PbTxnOpResponse::ResponseRange(reply))) => Ok(OpReply::Range(found(reply)?)),
            _ => Err(Fault::nonsense("etcd answered another operation than was asked for")),
        })
        .collect::<Result<Vec<_>, Fault>>()?;
    if replies.len() != ran.len() {
        return Err(Fault::nonsense("etcd left out the answer of an operation"));
    }
    Ok(TxnReply { succeeded: response.succeeded, revision: head(response.header.as_ref())?, replies })
}

/// What a range held.
pub(crate) fn found(response: PbRangeResponse) -> Result<RangeReply, Fault> {
    let revision = head(response.header.as_ref())?;
    Ok(RangeReply { revision, entries: response.kvs.into_iter().map(entry).collect(), more: response.more })
}

/// The revision in the header of an answer.
pub(crate) fn head(header: Option<&PbResponseHeader>) -> Result<Revision, Fault> {
    header
        .map(|header| revision(header.revision))
        .ok_or_else(|| Fault::nonsense("etcd answered without a header"))
}

/// A key as etcd knows it.
pub(crate) fn entry(found: PbKeyValue) -> Entry {
    Entry {
        key: found.key.into(),
        value: Value::from(found.value),
        created: revision(found.create_revision),
        modified: revision(found.mod_revision),
        lease: (found.lease != 0).then(|| lease_id(found.lease)),
    }
}

/// A revision, from the number that etcd has for it.
pub(crate) fn revision(number: i64) -> Revision {
    Revision::try_from(number).unwrap_or_default()
}

/// The number that etcd has for a revision.
pub(crate) fn number(revision: Revision) -> i64 {
    revision.into()
}

/// The number that etcd has for a lease.
pub(crate) fn lease_number(lease: LeaseId) -> i64 {
    lease.into()
}

/// A lease, from the number that etcd has for it. One below zero, which it never gives, names no
/// lease.
pub(crate) fn lease_id(number: i64) -> LeaseId {
    LeaseId::try_from(number).unwrap_or(LeaseId::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_said_as_etcd_says_it() {
        let said = |span| interval(&span);
        assert_eq!(said(Span::key("a")), ("a".into(), None));
        assert_eq!(said(Span::prefix("a/")), ("a/".into(), Some("a0".into())));
        assert_eq!(said(Span::prefix("")), ("\0".into(), Some("\0".into())), "everything");
        assert_eq!(
            said(Span::prefix(&b"\xff"[..])),
            (Bytes::from_static(b"\xff"), Some("\0".into())),
            "to the end"
        );
        assert_eq!(said(Span::Interval("".into(), "b".into())), ("\0".into(), Some("b".into())));
    }

    #[test]
    fn numbers_survive_the_way() {
        for number in [1, i64::MAX.unsigned_abs(), 0x7abc_def0_1234_5678] {
            assert_eq!(lease_id(lease_number(LeaseId::new(number))).get(), number);
        }
        assert_eq!(lease_id(-1), LeaseId::MAX, "what no etcd says");
        assert_eq!(number(Revision::MAX), i64::MAX);
        assert_eq!(revision(-1), Revision::ZERO, "what no etcd says");
    }
}
