//! Random calls, and what a server answers.

use etcd_client::proto::*;
use proptest::prelude::*;
use proptest::sample::select;

use super::raw::{self, Answer, Raw};

/// A call. Revisions in it are relative: those above zero count from a little before the one at
/// which the sequence begins.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    Range(PbRangeRequest),
    Put(PbPutRequest),
    Delete(PbDeleteRequest),
    Txn(PbTxnRequest),
    Compact(PbCompactionRequest),
    Grant(PbLeaseGrantRequest),
    Revoke(i64),
    KeepAlive(i64),
    TimeToLive(i64),
    Leases,
}

/// How far before the beginning revisions reach.
const BEFORE: i64 = 3;

fn absolute(relative: i64, base: i64) -> i64 {
    if relative > 0 { base - BEFORE + relative } else { relative }
}

fn range_at(range: &mut PbRangeRequest, base: i64) {
    for revision in [
        &mut range.revision,
        &mut range.min_mod_revision,
        &mut range.max_mod_revision,
        &mut range.min_create_revision,
        &mut range.max_create_revision,
    ] {
        *revision = absolute(*revision, base);
    }
}

fn txn_at(txn: &mut PbTxnRequest, base: i64) {
    for compare in &mut txn.compare {
        let union = &mut compare.target_union;
        if let Some(PbTargetUnion::CreateRevision(revision) | PbTargetUnion::ModRevision(revision)) = union {
            *revision = absolute(*revision, base);
        }
    }
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut op.request {
            Some(PbTxnOpRequest::RequestRange(range)) => range_at(range, base),
            Some(PbTxnOpRequest::RequestTxn(inner)) => txn_at(inner, base),
            _ => {}
        }
    }
}

impl Call {
    /// The call with real revisions, for a sequence that begins at `base`.
    pub(crate) fn at(mut self, base: i64) -> Self {
        match &mut self {
            Call::Range(range) => range_at(range, base),
            Call::Txn(txn) => txn_at(txn, base),
            Call::Compact(compact) => compact.revision = absolute(compact.revision, base),
            _ => {}
        }
        self
    }

    /// What a server answers, as far as it says the same each time.
    pub(crate) async fn ask(&self, server: &Raw) -> String {
        match self {
            Call::Range(range) => {
                said::<PbRangeResponse>(server.call("/etcdserverpb.KV/Range", range.clone()).await)
            }
            Call::Put(put) => said::<PbPutResponse>(server.call("/etcdserverpb.KV/Put", put.clone()).await),
            Call::Delete(delete) => {
                said::<PbDeleteResponse>(server.call("/etcdserverpb.KV/DeleteRange", delete.clone()).await)
            }
            Call::Txn(txn) => said::<PbTxnResponse>(server.call("/etcdserverpb.KV/Txn", txn.clone()).await),
            Call::Compact(compact) => {
                said::<PbCompactionResponse>(server.call("/etcdserverpb.KV/Compact", *compact).await)
            }
            Call::Grant(grant) => {
                said::<PbLeaseGrantResponse>(server.call("/etcdserverpb.Lease/LeaseGrant", *grant).await)
            }
            Call::Revoke(id) => {
                let revoke = PbLeaseRevokeRequest { id: *id };
                said::<PbLeaseRevokeResponse>(server.call("/etcdserverpb.Lease/LeaseRevoke", revoke).await)
            }
            Call::KeepAlive(id) => {
                let first = PbLeaseKeepAliveRequest { id: *id };
                let mut stream = server.open("/etcdserverpb.Lease/LeaseKeepAlive", first).await;
                let answer: PbLeaseKeepAliveResponse = stream.hear().await;
                said(Ok(answer))
            }
            Call::TimeToLive(id) => {
                let look_up = PbLeaseTimeToLiveRequest { id: *id, keys: true };
                let answer = server.call("/etcdserverpb.Lease/LeaseTimeToLive", look_up).await;
                said(answer.map(|mut answer: PbLeaseTimeToLiveResponse| {
                    // Time passes, and they lie in a hash table.
                    answer.ttl = answer.ttl.min(0);
                    answer.keys.sort();
                    answer
                }))
            }
            Call::Leases => said(leases(server).await),
        }
    }
}

/// All leases.
pub(crate) async fn leases(server: &Raw) -> Result<PbLeaseLeasesResponse, (tonic::Code, String)> {
    let answer = server.call("/etcdserverpb.Lease/LeaseLeases", PbLeaseLeasesRequest {}).await;
    answer.map(|mut answer: PbLeaseLeasesResponse| {
        answer.leases.sort_by_key(|lease| lease.id);
        answer
    })
}

fn said<A: Answer>(answer: Result<A, (tonic::Code, String)>) -> String {
    format!("{answer:?}")
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        1 => Just(Vec::new()),
        1 => Just(vec![0]),
        20 => select(vec!["a", "ab", "b", "c", "d"]).prop_map(|key| key.as_bytes().to_vec()),
    ]
}

fn range_end() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => Just(Vec::new()),
        2 => Just(vec![0]),
        6 => select(vec!["a", "b", "c", "cc", "e"]).prop_map(|key| key.as_bytes().to_vec()),
    ]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    select(vec!["", "1", "2", "3"]).prop_map(|value| value.as_bytes().to_vec())
}

/// None, two that are granted now and then, and one that never is.
fn lease() -> impl Strategy<Value = i64> {
    prop_oneof![6 => Just(0), 4 => select(vec![1_i64, 2]), 1 => select(vec![99_i64, -7])]
}

fn revision() -> impl Strategy<Value = i64> {
    prop_oneof![4 => Just(0), 1 => select(vec![-1_i64, -2]), 4 => 1..20_i64]
}

/// Where mostly none is wanted.
fn bound() -> impl Strategy<Value = i64> {
    prop_oneof![8 => Just(0), 1 => 1..16_i64]
}

fn range() -> impl Strategy<Value = PbRangeRequest> {
    let whole = (key(), range_end(), prop_oneof![4 => Just(0), 4 => 1..4_i64, 1 => Just(-1)], revision());
    let order = (0..3_i32, 0..5_i32, any::<[bool; 2]>(), proptest::bool::weighted(0.2));
    (whole, order, [bound(), bound(), bound(), bound()]).prop_map(
        |(
            (key, range_end, limit, revision),
            (order, target, [serializable, keys_only], count_only),
            bounds,
        )| {
            PbRangeRequest {
                key,
                range_end,
                limit,
                revision,
                sort_order: order,
                sort_target: target,
                serializable,
                keys_only,
                count_only,
                min_mod_revision: bounds[0],
                max_mod_revision: bounds[1],
                min_create_revision: bounds[2],
                max_create_revision: bounds[3],
            }
        },
    )
}

fn put() -> impl Strategy<Value = PbPutRequest> {
    let ignored = proptest::bool::weighted(0.15);
    (key(), value(), lease(), any::<bool>(), ignored, ignored).prop_map(
        |(key, value, lease, prev_kv, ignore_value, ignore_lease)| {
            // Mostly as they go together.
            let value = if ignore_value && value != b"3" { Vec::new() } else { value };
            let lease = if ignore_lease && lease != 2 { 0 } else { lease };
            PbPutRequest { key, value, lease, prev_kv, ignore_value, ignore_lease }
        },
    )
}

fn delete() -> impl Strategy<Value = PbDeleteRequest> {
    (key(), range_end(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| PbDeleteRequest {
        key,
        range_end,
        prev_kv,
    })
}

fn compare() -> impl Strategy<Value = PbCompare> {
    let union = prop_oneof![
        1 => Just(None),
        4 => (0..4_i64).prop_map(|version| Some(PbTargetUnion::Version(version))),
        3 => revision().prop_map(|revision| Some(PbTargetUnion::CreateRevision(revision))),
        3 => revision().prop_map(|revision| Some(PbTargetUnion::ModRevision(revision))),
        4 => value().prop_map(|value| Some(PbTargetUnion::Value(value))),
        2 => lease().prop_map(|lease| Some(PbTargetUnion::Lease(lease))),
    ];
    let end = prop_oneof![3 => Just(Vec::new()), 1 => range_end()];
    (key(), end, 0..4_i32, proptest::option::weighted(0.1, 0..5_i32), union).prop_map(
        |(key, range_end, result, target, target_union)| {
            // Mostly as they go together.
            let own = match &target_union {
                None | Some(PbTargetUnion::Version(_)) => 0,
                Some(PbTargetUnion::CreateRevision(_)) => 1,
                Some(PbTargetUnion::ModRevision(_)) => 2,
                Some(PbTargetUnion::Value(_)) => 3,
                Some(PbTargetUnion::Lease(_)) => 4,
            };
            PbCompare { result, target: target.unwrap_or(own), key, range_end, target_union }
        },
    )
}

fn txn() -> impl Strategy<Value = PbTxnRequest> {
    let simple = prop_oneof![
        1 => Just(None),
        15 => range().prop_map(|range| Some(PbTxnOpRequest::RequestRange(range))),
        25 => put().prop_map(|put| Some(PbTxnOpRequest::RequestPut(put))),
        15 => delete().prop_map(|delete| Some(PbTxnOpRequest::RequestDeleteRange(delete))),
    ]
    .prop_map(|request| PbTxnRequestOp { request });
    let within = |op: BoxedStrategy<PbTxnRequestOp>| {
        let ops = || proptest::collection::vec(op.clone(), 0..4);
        (proptest::collection::vec(compare(), 0..3), ops(), ops())
            .prop_map(|(compare, success, failure)| PbTxnRequest { compare, success, failure })
    };
    let inner = within(simple.clone().boxed())
        .prop_map(|txn| PbTxnRequestOp { request: Some(PbTxnOpRequest::RequestTxn(txn)) });
    within(prop_oneof![5 => simple, 1 => inner].boxed()).prop_map(survivable)
}

/// What etcd survives: a put that keeps what is there, of a key that is deleted by a range without
/// an end in the same transaction, ends it.
fn survivable(mut txn: PbTxnRequest) -> PbTxnRequest {
    fn each(txn: &mut PbTxnRequest, look: &mut impl FnMut(&mut PbTxnOpRequest)) {
        for op in txn.success.iter_mut().chain(&mut txn.failure) {
            match &mut op.request {
                Some(PbTxnOpRequest::RequestTxn(inner)) => each(inner, look),
                Some(request) => look(request),
                None => {}
            }
        }
    }
    let mut endless = false;
    each(&mut txn, &mut |request| {
        endless |= matches!(request, PbTxnOpRequest::RequestDeleteRange(delete) if delete.range_end == [0]);
    });
    if endless {
        each(&mut txn, &mut |request| {
            if let PbTxnOpRequest::RequestPut(put) = request {
                (put.ignore_value, put.ignore_lease) = (false, false);
            }
        });
    }
    txn
}

pub(crate) fn call() -> impl Strategy<Value = Call> {
    let ids = || select(vec![1_i64, 2, 2, 1, 99]);
    let grant = (select(vec![1_i64, 2]), select(vec![60_i64, 600, 9_000_000_001]));
    prop_oneof![
        8 => range().prop_map(Call::Range),
        12 => put().prop_map(Call::Put),
        4 => delete().prop_map(Call::Delete),
        12 => txn().prop_map(Call::Txn),
        1 => revision().prop_map(|revision| Call::Compact(PbCompactionRequest { revision, physical: false })),
        3 => grant.prop_map(|(id, ttl)| Call::Grant(PbLeaseGrantRequest { ttl, id })),
        1 => ids().prop_map(Call::Revoke),
        1 => ids().prop_map(Call::KeepAlive),
        1 => ids().prop_map(Call::TimeToLive),
        1 => Just(Call::Leases),
    ]
}

/// A watch, from a revision that is relative.
pub(crate) fn watch(start: impl Strategy<Value = i64>) -> impl Strategy<Value = PbWatchRequestUnion> {
    let filters = proptest::collection::vec(0..2_i32, 0..2);
    (key(), range_end(), start, any::<[bool; 2]>(), filters).prop_map(
        |(key, range_end, start_revision, [prev_kv, fragment], filters)| {
            raw::watch! {
                key: key,
                range_end: range_end,
                start_revision: start_revision,
                prev_kv: prev_kv,
                fragment: fragment,
                filters: filters,
            }
        },
    )
}

/// The watch with a real revision.
pub(crate) fn watch_at(mut request: PbWatchRequestUnion, base: i64) -> PbWatchRequestUnion {
    if let PbWatchRequestUnion::CreateRequest(watch) = &mut request {
        watch.start_revision = absolute(watch.start_revision, base);
    }
    request
}
