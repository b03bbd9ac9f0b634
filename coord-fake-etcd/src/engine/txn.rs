//! Transactions: what is compared decides what is done, all of it at once and in one revision.

use std::cmp::Ordering;

use super::span::Span;
use super::{Engine, Write, header};
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::response_op::Response;
use crate::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, ResponseHeader, ResponseOp, TxnRequest,
    TxnResponse,
};
use crate::proto::mvccpb::KeyValue;
use crate::refusal::Refusal;

/// Which operations of a transaction are to be done. Everything is compared before anything is
/// done, also in a transaction inside of another one.
struct Chosen<'a> {
    succeeded: bool,
    steps: Vec<Step<'a>>,
}

enum Step<'a> {
    Range(&'a RangeRequest),
    Put(&'a PutRequest),
    Delete(&'a DeleteRangeRequest),
    Txn(Chosen<'a>),
}

impl Engine {
    /// Runs a transaction that [`check_txn`](super::check::check_txn) found good.
    pub(crate) fn txn(&mut self, request: &TxnRequest) -> Result<TxnResponse, Refusal> {
        let chosen = self.choose(request);
        self.check_puts(&chosen, &mut Vec::new())?;
        self.check_reads(&chosen)?;
        let mut write = self.write();
        let mut response = run(&mut write, &chosen);
        response.header = header(write.finish());
        Ok(response)
    }

    fn choose<'a>(&self, request: &'a TxnRequest) -> Chosen<'a> {
        let succeeded = request.compare.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &request.success } else { &request.failure };
        let steps = ops.iter().filter_map(|op| op.request.as_ref()).map(|request| match request {
            Request::RequestRange(range) => Step::Range(range),
            Request::RequestPut(put) => Step::Put(put),
            Request::RequestDeleteRange(delete) => Step::Delete(delete),
            Request::RequestTxn(inner) => Step::Txn(self.choose(inner)),
        });
        Chosen { succeeded, steps: steps.collect() }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let span = Span::new(&compare.key, &compare.range_end);
        let mut found = self.keys.range(&span, self.revision).peekable();
        if found.peek().is_none() {
            // A key that is not there has no value; all else of it is zero.
            return compare.target() != CompareTarget::Value && compare_with(compare, &KeyValue::default());
        }
        found.all(|kv| compare_with(compare, kv))
    }

    /// Looks for what a put needs. What is deleted before it, in the same transaction, is in
    /// `deleted`: etcd itself does not look at that, and ends when it finds out.
    fn check_puts(&self, chosen: &Chosen<'_>, deleted: &mut Vec<Span>) -> Result<(), Refusal> {
        for step in &chosen.steps {
            match step {
                Step::Range(_) => {}
                Step::Delete(delete) => deleted.push(Span::new(&delete.key, &delete.range_end)),
                Step::Txn(inner) => self.check_puts(inner, deleted)?,
                Step::Put(put) => {
                    let is_there = self.keys.latest(&put.key).is_some()
                        && !deleted.iter().any(|span| span.contains(&put.key));
                    if (put.ignore_value || put.ignore_lease) && !is_there {
                        return Err(Refusal::KeyNotFound);
                    }
                    self.check_lease(put.lease)?;
                }
            }
        }
        Ok(())
    }

    fn check_reads(&self, chosen: &Chosen<'_>) -> Result<(), Refusal> {
        chosen.steps.iter().try_for_each(|step| match step {
            Step::Range(range) if range.revision > self.revision => Err(Refusal::FutureRevision),
            Step::Range(range) if range.revision != 0 && range.revision < self.compacted => {
                Err(Refusal::Compacted)
            }
            Step::Txn(inner) => self.check_reads(inner),
            _ => Ok(()),
        })
    }
}

fn run(write: &mut Write<'_>, chosen: &Chosen<'_>) -> TxnResponse {
    let responses = chosen.steps.iter().map(|step| match step {
        Step::Range(range) => Response::ResponseRange(write.range(range)),
        Step::Put(put) => Response::ResponsePut(write.put(put)),
        Step::Delete(delete) => Response::ResponseDeleteRange(write.delete_range(delete)),
        // etcd leaves the header of an inner one empty.
        Step::Txn(inner) => Response::ResponseTxn(TxnResponse {
            header: Some(ResponseHeader::default()),
            ..run(write, inner)
        }),
    });
    TxnResponse {
        header: None,
        succeeded: chosen.succeeded,
        responses: responses.map(|response| ResponseOp { response: Some(response) }).collect(),
    }
}

fn compare_with(compare: &Compare, kv: &KeyValue) -> bool {
    // What is compared with is zero, or empty, where it is of another kind than the target.
    let union = compare.target_union.as_ref();
    let ordering = match (compare.target(), union) {
        (CompareTarget::Version, Some(TargetUnion::Version(version))) => kv.version.cmp(version),
        (CompareTarget::Version, _) => kv.version.cmp(&0),
        (CompareTarget::Create, Some(TargetUnion::CreateRevision(revision))) => {
            kv.create_revision.cmp(revision)
        }
        (CompareTarget::Create, _) => kv.create_revision.cmp(&0),
        (CompareTarget::Mod, Some(TargetUnion::ModRevision(revision))) => kv.mod_revision.cmp(revision),
        (CompareTarget::Mod, _) => kv.mod_revision.cmp(&0),
        (CompareTarget::Value, Some(TargetUnion::Value(value))) => kv.value.cmp(value),
        (CompareTarget::Value, _) => kv.value.as_ref().cmp(b"".as_slice()),
        (CompareTarget::Lease, Some(TargetUnion::Lease(lease))) => kv.lease.cmp(lease),
        (CompareTarget::Lease, _) => kv.lease.cmp(&0),
    };
    match compare.result() {
        CompareResult::Equal => ordering == Ordering::Equal,
        CompareResult::NotEqual => ordering != Ordering::Equal,
        CompareResult::Greater => ordering == Ordering::Greater,
        CompareResult::Less => ordering == Ordering::Less,
    }
}
