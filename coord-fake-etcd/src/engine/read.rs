//! Reads: which keys, at which revision, in which order, and how many.

use std::cmp::Ordering;

use super::check::wants_all;
use super::keys::KeyTable;
use super::span::Span;
use crate::proto::etcdserverpb::RangeRequest;
use crate::proto::etcdserverpb::RangeResponse;
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::mvccpb::KeyValue;

use bytes::Bytes;

/// What a request finds at a revision, without a header.
pub(crate) fn read(keys: &KeyTable, request: &RangeRequest, revision: i64) -> RangeResponse {
    let span = Span::new(&request.key, &request.range_end);
    let mut response = RangeResponse::default();
    if request.count_only {
        response.count = to_i64(keys.range(&span, revision).count());
        return response;
    }
    let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0);
    // One more than asked for says that there are more. Where etcd sorts without being told in
    // which order, it sorts those alone.
    let ordered = request.sort_order != i32::from(SortOrder::None);
    let enough = limit.filter(|_| !ordered && wants_all(request));
    let mut found = Vec::new();
    for kv in keys.range(&span, revision) {
        response.count += 1;
        if enough.is_none_or(|limit| found.len() <= limit) && is_wanted(request, kv) {
            found.push(kv);
        }
    }
    if let Some((target, descending)) = sorting(request) {
        found.sort_by(|a, b| if descending { compare(target, b, a) } else { compare(target, a, b) });
    }
    if let Some(limit) = limit.filter(|limit| found.len() > *limit) {
        found.truncate(limit);
        response.more = true;
    }
    response.kvs = found.into_iter().cloned().collect();
    if request.keys_only {
        response.kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
    }
    response
}

/// By what to sort, and whether the largest comes first. Keys are found in their order.
fn sorting(request: &RangeRequest) -> Option<(SortTarget, bool)> {
    let target = SortTarget::try_from(request.sort_target).unwrap_or(SortTarget::Key);
    match SortOrder::try_from(request.sort_order).unwrap_or(SortOrder::None) {
        SortOrder::Descend => Some((target, true)),
        SortOrder::Ascend => Some((target, false)),
        SortOrder::None => (target != SortTarget::Key).then_some((target, false)),
    }
}

fn compare(target: SortTarget, a: &KeyValue, b: &KeyValue) -> Ordering {
    match target {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => a.value.cmp(&b.value),
    }
}

fn is_wanted(request: &RangeRequest, kv: &KeyValue) -> bool {
    let within = |revision, min, max| (min == 0 || revision >= min) && (max == 0 || revision <= max);
    within(kv.mod_revision, request.min_mod_revision, request.max_mod_revision)
        && within(kv.create_revision, request.min_create_revision, request.max_create_revision)
}

fn to_i64(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
