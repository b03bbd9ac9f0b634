//! Ranges and transactions (S1 to S3).

use std::collections::BTreeSet;

use bytes::Bytes;
use coord_api::store::{Effect, Entry, Op, OpReply, Order, Range, RangeReply, Txn, TxnReply};
use coord_api::{Error, ErrorKind, Outcome, Result, Revision};

use crate::cluster::Cluster;
use crate::connection::kv;
use crate::error::Fault;
use crate::members::Asked;
use crate::probe::barrier;
use crate::wire::{answer, found, get, head, put, request};

const RANGE: &str = "store.range";

/// How many entries the first page of a list asks for. With values of the largest size they still
/// fit into one answer.
const FIRST_PAGE: usize = 128;

/// Entries that one page asks for at most.
const LARGEST_PAGE: usize = 4_096;

/// How many bytes each further page should have, estimated by the size of the entries before.
const PAGE_BYTES: usize = 4 << 20;

/// How many snapshots are read at most. A list begins again with a newer one when history is
/// compacted while it is read.
const SNAPSHOTS: usize = 3;

/// Reads a range at one revision (S2), in pages where it is long.
pub(crate) async fn range(cluster: &Cluster, range: &Range) -> Result<RangeReply> {
    let deadline = cluster.deadline();
    let mut first = page(cluster, range, range.limit, limit_of_page(range, &[])).await?;
    first.revision = range.at.unwrap_or(first.revision);
    if is_whole(range, &first) {
        return Ok(first);
    }
    // Boxed, because it is rare: otherwise the future of every read would be as large.
    let whole = Box::pin(cluster.home().timeout_at(deadline, whole(cluster, range, first)));
    whole.await.unwrap_or_else(|_| Err(Fault::silent().into_error(RANGE, Effect::Read)))
}

/// All pages, of the first page's snapshot or of a newer one.
async fn whole(cluster: &Cluster, range: &Range, mut first: RangeReply) -> Result<RangeReply> {
    let mut snapshots = 1;
    loop {
        match further_pages(cluster, range, first).await {
            // Unless a revision was asked for, a newer snapshot is just as correct.
            Err(error)
                if error.kind() == ErrorKind::Compacted && range.at.is_none() && snapshots < SNAPSHOTS =>
            {
                snapshots += 1
            }
            reply => return reply,
        }
        first = page(cluster, range, range.limit, limit_of_page(range, &[])).await?;
    }
}

/// Whether this is all that was asked for.
fn is_whole(range: &Range, reply: &RangeReply) -> bool {
    !reply.more || range.limit.is_some_and(|limit| reply.entries.len() >= limit)
}

async fn further_pages(cluster: &Cluster, range: &Range, mut reply: RangeReply) -> Result<RangeReply> {
    while !is_whole(range, &reply) {
        let Some(last) = reply.entries.last() else { break };
        let rest = range.clone().with_after_key(last.key.clone()).with_at(reply.revision);
        let left = range.limit.map(|limit| limit - reply.entries.len());
        let next = page(cluster, &rest, left, limit_of_page(range, &reply.entries)).await?;
        reply.entries.extend(next.entries);
        reply.more = next.more;
    }
    Ok(reply)
}

/// How many entries the next page asks for, by the size of those before. `None` for all of them: in
/// other orders than by key etcd cannot continue after an entry, and with a bound on revisions it
/// would read everything again for each page.
fn limit_of_page(range: &Range, before: &[Entry]) -> Option<usize> {
    if range.order != Order::Key || range.max_created.is_some() {
        return None;
    }
    if before.is_empty() {
        return Some(FIRST_PAGE);
    }
    let bytes: usize = before.iter().map(Entry::bytes).sum();
    Some((PAGE_BYTES / (bytes / before.len()).max(1)).clamp(1, LARGEST_PAGE))
}

fn page(
    cluster: &Cluster,
    range: &Range,
    left: Option<usize>,
    page: Option<usize>,
) -> impl Future<Output = Result<RangeReply>> {
    let limit = [left, page].into_iter().flatten().min();
    cluster.call(RANGE, Effect::Read, move |asked| async move {
        let connection = asked.link.requests();
        let answer = connection.ask(Effect::Read, kv, |mut kv| {
            let (start, options) = get(range, limit);
            async move { kv.get(start, Some(options)).await }
        });
        found(answer.await?.0)
    })
}

/// Runs a transaction (S3).
pub(crate) async fn txn(cluster: &Cluster, txn: &Txn) -> Result<TxnReply> {
    let effect = txn.effect();
    let run = |asked: Asked| async move {
        let connection = asked.link.requests();
        // Without operations etcd evaluates the compares with what this member happens to know,
        // which may be out of date.
        if txn.then.is_empty() && txn.otherwise.is_empty() {
            Box::pin(barrier(&connection)).await?;
        }
        // A transaction that only puts one key is sent as a put, which etcd answers sooner.
        if let ([], [Op::Put { key, value, lease }], []) = (&*txn.compares, &*txn.then, &*txn.otherwise) {
            let put = connection.ask(effect, kv, |mut kv| async move {
                kv.put(key.clone(), value.as_bytes(), Some(put(*lease))).await
            });
            let revision = head(put.await?.0.header.as_ref())?;
            return Ok(TxnReply { succeeded: true, revision, replies: vec![OpReply::Put] });
        }
        let ran = connection.ask(effect, kv, |mut kv| async move { kv.txn(request(txn)).await });
        answer(txn, ran.await?.0)
    };
    let before = cluster.members().common.identity.revision();
    match cluster.call("store.txn", effect, run).await {
        // Boxed, because it is rare.
        Err(error) if error.kind() == ErrorKind::Exhausted => {
            Err(Box::pin(after_no_space(cluster, txn, before, error)).await)
        }
        reply => reply,
    }
}

/// What became of a write for which there is no space. etcd refuses what does not fit any more, but
/// the write that fills the store it applies, and answers it in the same way. When it answers, that
/// is decided: so where nothing stands under the keys that is newer than what was known before, the
/// write was not applied.
async fn after_no_space(cluster: &Cluster, write: &Txn, before: u64, error: Error) -> Error {
    let Some(keys) = telling_keys(write) else { return error };
    let asked = keys.len();
    let look = |key: &Bytes| Op::Range(Range::key(key.clone()).with_keys_only());
    let look = keys.into_iter().fold(Txn::new(), |txn, key| txn.then(look(key)));
    let Ok(found) = txn(cluster, &look).await else { return error };
    let is_older = |revision: Revision| revision.get() <= before;
    // In a store that was set back, older says nothing.
    let is_unchanged = found.revision.get() >= before
        && (0..asked).all(|n| {
            found.range(n).is_some_and(|found| found.entries.iter().all(|entry| is_older(entry.modified)))
        });
    if is_unchanged { error.with_outcome(Outcome::NotApplied) } else { error }
}

/// The keys that show whether a transaction was applied, by what stands under them: those that it
/// puts. `None` where one of its branches only deletes, which leaves nothing to be seen.
fn telling_keys(txn: &Txn) -> Option<BTreeSet<&Bytes>> {
    let mut keys = BTreeSet::new();
    for branch in [&txn.then, &txn.otherwise] {
        let (mut puts, mut deletes) = (false, false);
        for op in branch {
            match op {
                Op::Put { key, .. } => {
                    keys.insert(key);
                    puts = true;
                }
                Op::Delete { .. } => deletes = true,
                Op::Range(_) => {}
            }
        }
        if deletes && !puts {
            return None;
        }
    }
    Some(keys)
}

#[cfg(test)]
mod tests {
    use etcd_client::proto::PbKeyValue;

    use super::*;
    use crate::wire::entry;

    #[test]
    fn what_a_transaction_puts_tells_whether_it_was_applied() {
        let [a, b] = ["a", "b"].map(Bytes::from);
        let put = |key: &Bytes| Op::put(key.clone(), "v");
        let txn = Txn::new().then(put(&b)).then(put(&a)).then(Op::delete("c")).otherwise(put(&a));
        assert_eq!(telling_keys(&txn), Some([&a, &b].into()));
        let reads = Txn::new().then(put(&a)).otherwise(Op::Range(Range::key("b")));
        assert_eq!(telling_keys(&reads), Some([&a].into()));
        let deletes = Txn::new().then(Op::delete("c")).otherwise(put(&a));
        assert_eq!(telling_keys(&deletes), None, "a deletion leaves nothing to be seen");
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
