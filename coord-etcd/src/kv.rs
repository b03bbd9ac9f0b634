//! Ranges and transactions (S1 to S3): a request of ours into one of etcd's, and its answer back.

use bytes::Bytes;
use coord_api::store::{Compare, Entry, Op, OpReply, Order, Range, RangeReply, Span, Txn, TxnReply};
use coord_api::{ErrorKind, LeaseId, Result, Revision, Value};
use etcd_client::proto::{PbKeyValue, PbRangeResponse, PbResponseHeader, PbTxnOpResponse, PbTxnResponse};
use etcd_client::{CompareOp, DeleteOptions, GetOptions, PutOptions, SortOrder, SortTarget, TxnOp};

use crate::connection::LARGEST_ANSWER;
use crate::error::{Effect, Fault};
use crate::members::Members;

const RANGE: &str = "store.range";

/// The first byte string after all others, and the smallest key.
const ZERO: &[u8] = &[0];

/// Entries that the first page of a list asks for: with the largest values still less than what is taken.
const FIRST_PAGE: usize = 128;

/// Entries that one page asks for at most.
const LARGEST_PAGE: usize = 4_096;

/// Bytes that further pages aim at, by the size of the entries before.
const PAGE_BYTES: usize = 4 << 20;

/// How often a list is begun anew because the history under its pages was compacted.
const SNAPSHOTS: usize = 3;

/// Reads a range at one revision (S2), in pages where it is long.
pub(crate) async fn range(members: &Members, range: &Range) -> Result<RangeReply> {
    let deadline = members.deadline();
    let mut first = page(members, range, range.limit, limit_of_page(range, &[])).await?;
    first.revision = range.at.unwrap_or(first.revision);
    if is_whole(range, &first) {
        return Ok(first);
    }
    // Boxed: it is rare, and every read would be as large as it otherwise.
    let whole = Box::pin(members.home().timeout_at(deadline, whole(members, range, first)));
    whole.await.unwrap_or_else(|_| Err(Fault::silent().into_error(RANGE, Effect::Read)))
}

/// All pages, of the first page's snapshot or of a newer one.
async fn whole(members: &Members, range: &Range, mut first: RangeReply) -> Result<RangeReply> {
    let mut snapshots = 1;
    loop {
        match further_pages(members, range, first).await {
            // A newer snapshot is as good, unless a revision was asked for.
            Err(error) if error.kind() == ErrorKind::Compacted && range.at.is_none() && snapshots < SNAPSHOTS => snapshots += 1,
            reply => return reply,
        }
        first = page(members, range, range.limit, limit_of_page(range, &[])).await?;
    }
}

/// Whether this is all that was asked for.
fn is_whole(range: &Range, reply: &RangeReply) -> bool {
    !reply.more || range.limit.is_some_and(|limit| reply.entries.len() >= limit)
}

async fn further_pages(members: &Members, range: &Range, mut reply: RangeReply) -> Result<RangeReply> {
    while !is_whole(range, &reply) {
        let Some(last) = reply.entries.last() else { break };
        let rest = range.clone().with_after_key(last.key.clone()).with_at(reply.revision);
        let left = range.limit.map(|limit| limit - reply.entries.len());
        let next = page(members, &rest, left, limit_of_page(range, &reply.entries)).await?;
        reply.entries.extend(next.entries);
        reply.more = next.more;
    }
    Ok(reply)
}

/// How many entries a page may have, by those before it; `None` for all, where etcd cannot continue or would read everything for each page.
fn limit_of_page(range: &Range, before: &[Entry]) -> Option<usize> {
    if range.order != Order::Key || range.max_created.is_some() {
        return None;
    }
    if before.is_empty() {
        return Some(FIRST_PAGE);
    }
    let bytes: usize = before.iter().map(|entry| entry.key.len() + entry.value.len()).sum();
    Some((PAGE_BYTES / (bytes / before.len()).max(1)).clamp(1, LARGEST_PAGE))
}

fn page(members: &Members, range: &Range, left: Option<usize>, page: Option<usize>) -> impl Future<Output = Result<RangeReply>> {
    let limit = [left, page].into_iter().flatten().min();
    members.call(RANGE, Effect::Read, move |asked| async move {
        let connection = asked.link.requests();
        let answer = connection.ask(Effect::Read, |client| {
            let mut kv = client.kv_client().max_decoding_message_size(LARGEST_ANSWER);
            let (start, options) = get(range, limit);
            async move { Ok(kv.get(start, Some(options)).await?.0) }
        });
        found(answer.await?)
    })
}

/// Runs a transaction (S3).
pub(crate) async fn txn(members: &Members, txn: &Txn) -> Result<TxnReply> {
    let reads = txn.then.iter().chain(&txn.otherwise).all(|op| matches!(op, Op::Range(_)));
    let effect = if reads { Effect::Read } else { Effect::Write };
    members
        .call("store.txn", effect, |asked| async move {
            let connection = asked.link.requests();
            // Where no operation asks to be linearizable, etcd compares with what this member happens to know.
            if txn.then.is_empty() && txn.otherwise.is_empty() {
                Box::pin(barrier(&connection)).await?;
            }
            // What only puts one key is asked for as such: etcd answers it sooner than a transaction.
            if let ([], [Op::Put { key, value, lease }], []) = (&*txn.compares, &*txn.then, &*txn.otherwise) {
                let response = connection.ask(effect, |client| {
                    let mut kv = client.kv_client();
                    async move { Ok(kv.put(key.clone(), value.as_bytes(), Some(put(*lease))).await?.0) }
                });
                let revision = head(response.await?.header.as_ref())?;
                return Ok(TxnReply { succeeded: true, revision, replies: vec![OpReply::Put] });
            }
            let response = connection.ask(effect, |client| {
                let mut kv = client.kv_client().max_decoding_message_size(LARGEST_ANSWER);
                async move { Ok(kv.txn(request(txn)).await?.0) }
            });
            answer(txn, response.await?)
        })
        .await
}

/// Proves that the member that is asked knows everything that was acknowledged to anyone before.
pub(crate) async fn barrier(connection: &crate::connection::Connection) -> Result<(), Fault> {
    let read = connection.ask(Effect::Read, |client| {
        let mut kv = client.kv_client();
        async move { Ok(kv.get(ZERO, Some(GetOptions::new().with_keys_only())).await?.0) }
    });
    match read.await {
        Ok(_) => Ok(()),
        // The member looks at what a user may read after it has caught up.
        Err(fault) if fault.kind == ErrorKind::PermissionDenied => Ok(()),
        Err(fault) => Err(fault),
    }
}

/// The half-open interval of a span, as etcd says it: a key, and the end if there is more than that key.
pub(crate) fn interval(span: &Span) -> (Bytes, Option<Bytes>) {
    let start = if span.start().is_empty() { Bytes::from_static(ZERO) } else { Bytes::copy_from_slice(span.start()) };
    match span {
        Span::Key(_) => (start, None),
        Span::Prefix(_) | Span::Interval(..) => (start, Some(span.end().unwrap_or(Bytes::from_static(ZERO)))),
    }
}

fn get(range: &Range, limit: Option<usize>) -> (Bytes, GetOptions) {
    let (mut start, mut end) = interval(&range.span);
    if let Some(after) = &range.after_key {
        let next = Bytes::from([after.as_ref(), ZERO].concat());
        if next > start {
            end = end.or_else(|| range.span.end());
            start = next;
        }
    }
    let mut options = GetOptions::new().with_limit(limit.map_or(0, |limit| i64::try_from(limit).unwrap_or(i64::MAX)));
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

fn request(txn: &Txn) -> etcd_client::Txn {
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
        Compare::Modified(key, revision) => Etcd::mod_revision(key.clone(), CompareOp::Equal, number(*revision)),
        Compare::Created(key, revision) => Etcd::create_revision(key.clone(), CompareOp::Equal, number(*revision)),
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

fn put(lease: Option<LeaseId>) -> PutOptions {
    PutOptions::new().with_lease(lease.map_or(0, lease_number))
}

fn answer(txn: &Txn, response: PbTxnResponse) -> Result<TxnReply, Fault> {
    let ran = if response.succeeded { &txn.then } else { &txn.otherwise };
    let replies = response
        .responses
        .into_iter()
        .zip(ran)
        .map(|(reply, op)| match (op, reply.response) {
            (Op::Put { .. }, Some(PbTxnOpResponse::ResponsePut(_))) => Ok(OpReply::Put),
            (Op::Delete { .. }, Some(PbTxnOpResponse::ResponseDeleteRange(reply))) => Ok(OpReply::Delete { existed: reply.deleted > 0 }),
            (Op::Range(_), Some(PbTxnOpResponse::ResponseRange(reply))) => Ok(OpReply::Range(found(reply)?)),
            _ => Err(Fault::nonsense("etcd answered another operation than was asked for")),
        })
        .collect::<Result<Vec<_>, Fault>>()?;
    if replies.len() != ran.len() {
        return Err(Fault::nonsense("etcd left out the answer of an operation"));
    }
    Ok(TxnReply { succeeded: response.succeeded, revision: head(response.header.as_ref())?, replies })
}

fn found(response: PbRangeResponse) -> Result<RangeReply, Fault> {
    let revision = head(response.header.as_ref())?;
    Ok(RangeReply { revision, entries: response.kvs.into_iter().map(entry).collect(), more: response.more })
}

/// The revision in the header of an answer.
pub(crate) fn head(header: Option<&PbResponseHeader>) -> Result<Revision, Fault> {
    header.map(|header| revision(header.revision)).ok_or_else(|| Fault::nonsense("etcd answered without a header"))
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

pub(crate) fn revision(number: i64) -> Revision {
    Revision::new(number.try_into().unwrap_or(0))
}

/// As etcd counts. What it cannot count to is as far in the future as can be.
pub(crate) fn number(revision: Revision) -> i64 {
    revision.get().try_into().unwrap_or(i64::MAX)
}

/// etcd counts leases with a sign; a number that it never gives names no lease.
pub(crate) fn lease_number(lease: LeaseId) -> i64 {
    i64::from_ne_bytes(lease.get().to_ne_bytes())
}

pub(crate) fn lease_id(number: i64) -> LeaseId {
    LeaseId::new(u64::from_ne_bytes(number.to_ne_bytes()))
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
        assert_eq!(said(Span::prefix(&b"\xff"[..])), (Bytes::from_static(b"\xff"), Some("\0".into())), "to the end");
        assert_eq!(said(Span::Interval("".into(), "b".into())), ("\0".into(), Some("b".into())));
    }

    #[test]
    fn numbers_survive_the_way() {
        for number in [1, u64::MAX, 0x7abc_def0_1234_5678] {
            assert_eq!(lease_id(lease_number(LeaseId::new(number))).get(), number);
        }
        assert_eq!(number(Revision::new(u64::MAX)), i64::MAX);
        assert_eq!(revision(-1), Revision::ZERO, "what no etcd says");
    }

    #[test]
    fn pages_grow_and_shrink_with_the_entries() {
        let entries = |size: usize| {
            let kv = PbKeyValue { value: vec![0; size], ..PbKeyValue::default() };
            vec![entry(kv); 10]
        };
        let range = Range::prefix("");
        assert_eq!(limit_of_page(&range, &[]), Some(FIRST_PAGE));
        assert_eq!(limit_of_page(&range, &entries(1 << 20)), Some(4));
        assert_eq!(limit_of_page(&range, &entries(8 << 20)), Some(1));
        assert_eq!(limit_of_page(&range, &entries(0)), Some(LARGEST_PAGE));
        assert_eq!(limit_of_page(&range.with_order(Order::NewestFirst), &[]), None);
    }
}
