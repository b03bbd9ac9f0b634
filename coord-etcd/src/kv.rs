//! Ranges and transactions (S1 to S3).

use coord_api::store::{Effect, Entry, Op, OpReply, Order, Range, RangeReply, Txn, TxnReply};
use coord_api::{ErrorKind, Result};

use crate::cluster::Cluster;
use crate::connection::kv;
use crate::error::Fault;
use crate::members::Asked;
use crate::probe::barrier;
use crate::wire::{answer, found, get, head, put, request};

const RANGE: &str = "store.range";

/// Entries that the first page of a list asks for: with the largest values still less than what is taken.
const FIRST_PAGE: usize = 128;

/// Entries that one page asks for at most.
const LARGEST_PAGE: usize = 4_096;

/// Bytes that further pages aim at, by the size of the entries before.
const PAGE_BYTES: usize = 4 << 20;

/// How often a list is begun anew because the history under its pages was compacted.
const SNAPSHOTS: usize = 3;

/// Reads a range at one revision (S2), in pages where it is long.
pub(crate) async fn range(cluster: &Cluster, range: &Range) -> Result<RangeReply> {
    let deadline = cluster.deadline();
    let mut first = page(cluster, range, range.limit, limit_of_page(range, &[])).await?;
    first.revision = range.at.unwrap_or(first.revision);
    if is_whole(range, &first) {
        return Ok(first);
    }
    // Boxed: it is rare, and every read would be as large as it otherwise.
    let whole = Box::pin(cluster.home().timeout_at(deadline, whole(cluster, range, first)));
    whole.await.unwrap_or_else(|_| Err(Fault::silent().into_error(RANGE, Effect::Read)))
}

/// All pages, of the first page's snapshot or of a newer one.
async fn whole(cluster: &Cluster, range: &Range, mut first: RangeReply) -> Result<RangeReply> {
    let mut snapshots = 1;
    loop {
        match further_pages(cluster, range, first).await {
            // A newer snapshot is as good, unless a revision was asked for.
            Err(error) if error.kind() == ErrorKind::Compacted && range.at.is_none() && snapshots < SNAPSHOTS => snapshots += 1,
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

/// How many entries a page may have, by those before it; `None` for all, where etcd cannot continue or would read everything for each page.
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

fn page(cluster: &Cluster, range: &Range, left: Option<usize>, page: Option<usize>) -> impl Future<Output = Result<RangeReply>> {
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
        // Where no operation asks to be linearizable, etcd compares with what this member happens to know.
        if txn.then.is_empty() && txn.otherwise.is_empty() {
            Box::pin(barrier(&connection)).await?;
        }
        // What only puts one key is asked for as such: etcd answers it sooner than a transaction.
        if let ([], [Op::Put { key, value, lease }], []) = (&*txn.compares, &*txn.then, &*txn.otherwise) {
            let put = connection.ask(effect, kv, |mut kv| async move { kv.put(key.clone(), value.as_bytes(), Some(put(*lease))).await });
            let revision = head(put.await?.0.header.as_ref())?;
            return Ok(TxnReply { succeeded: true, revision, replies: vec![OpReply::Put] });
        }
        let ran = connection.ask(effect, kv, |mut kv| async move { kv.txn(request(txn)).await });
        answer(txn, ran.await?.0)
    };
    cluster.call("store.txn", effect, run).await
}

#[cfg(test)]
mod tests {
    use etcd_client::proto::PbKeyValue;

    use super::*;
    use crate::wire::entry;

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
